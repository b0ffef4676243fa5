/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Damaged images of which every L1 entry names one L2 table, full of zero clusters: a small file seems to be an
 * enormous disk, all alike. Whoever walks over it lets others have their turn.
 */
#include "support.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "memdisk.h"

enum { CLUSTER = 65536, TABLES = 4096 };

struct image {
    struct memdisk disk;
    struct node *file, *n;
    struct edge *ed;
    int running;
};

static void image_open(struct bench *b, struct image *m, const char *fmt, const char *opts, uint64_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    m->file = memdisk_open(b->graph, &m->disk, "disk");
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': %" G_GUINT64_FORMAT "%s}", size, opts);
    if (driver_find(fmt)->create(b->graph, o, &e) < 0) {
        fail_msg("create: %s", err_text(&e));
    }
    m->n = must_open(b, jsonf("{'driver': '%s', 'file': 'disk', 'discard': 'unmap'}", fmt));
    m->ed = rw_edge(m->n);
    assert_int_equal(edge_write_buf(m->ed, 0, 512, (uint8_t[512]){1}, 0), 0); /* makes the table */
    edge_close(m->ed);
    node_unref(m->n);
}

static void image_again(struct bench *b, struct image *m, const char *fmt)
{
    m->n = must_open(b, jsonf("{'driver': '%s', 'file': 'disk', 'discard': 'unmap'}", fmt));
    m->ed = rw_edge(m->n);
}

static void image_close(struct image *m)
{
    edge_close(m->ed);
    node_unref(m->n);
    node_unref(m->file);
    memdisk_finish(&m->disk);
}

static void discard_all(void *arg)
{
    struct image *m = arg;
    assert_int_equal(edge_discard(m->ed, 0, m->n->size), 0);
}

static void walk(struct bench *b, struct image *m)
{
    struct extent x;
    assert_int_equal(node_status(m->n, true, 0, m->n->size, &x), 0);
    assert_true((x.flags & EXT_ZERO) && x.len > 0 && x.len < m->n->size / 2);
    unsigned turns = 0;
    for (spawn(b, discard_all, m, &m->running); m->running; turns++) {
        co_yield ();
    }
    assert_true(turns >= 8);
}

static void qed(struct bench *b)
{
    struct image m = {{0}};
    uint64_t table = 16 * CLUSTER, span = table / 8 * CLUSTER;
    image_open(b, &m, "qed", ", 'table-size': 16", TABLES * span);
    uint64_t l1 = load_le64(m.disk.data + 40), l2 = load_le64(m.disk.data + l1);
    for (uint64_t i = 0; i < table / 8; i++) {
        store_le64(m.disk.data + l2 + 8 * i, 1);
        store_le64(m.disk.data + l1 + 8 * i, l2);
    }
    image_again(b, &m, "qed");
    walk(b, &m);
    image_close(&m);
}

static void qcow2(struct bench *b)
{
    struct image m = {{0}};
    uint64_t span = UINT64_C(1) * CLUSTER / 8 * CLUSTER;
    image_open(b, &m, "qcow2", "", TABLES * span);
    uint64_t l1 = load_be64(m.disk.data + 40), l2 = load_be64(m.disk.data + l1);
    for (uint64_t i = 0; i < CLUSTER / 8; i++) {
        store_be64(m.disk.data + (l2 & ~(UINT64_C(1) << 63)) + 8 * i, 1);
    }
    for (uint64_t i = 0; i < TABLES; i++) {
        store_be64(m.disk.data + l1 + 8 * i, l2);
    }
    image_again(b, &m, "qcow2");
    walk(b, &m);
    image_close(&m);
}

static void test_qed(void **state)
{
    bench_run(qed);
}

static void test_qcow2(void **state)
{
    bench_run(qcow2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_qed), cmocka_unit_test(test_qcow2)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
