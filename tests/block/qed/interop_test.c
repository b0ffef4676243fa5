/* SPDX-License-Identifier: BSD-2-Clause */
/* Images that QEMU's tools make are read and written here, and the other way round. */
#include "qed_support.h"

#include "base/cleanup.h"

enum { MIB = 1 << 20 };

static struct node *open_path(struct bench *b, const char *path)
{
    return must_open(b, jsonf("{'driver': 'qed', 'file': {'driver': 'file', 'filename': '%s'}}", path));
}

static void expect(struct edge *ed, uint64_t off, uint64_t len, int byte)
{
    CLEANUP_FREE uint8_t *got = g_malloc(len);
    assert_int_equal(edge_read_buf(ed, off, len, got), 0);
    for (uint64_t i = 0; i < len; i++) {
        assert_int_equal(got[i], byte);
    }
}

static void fill(struct edge *ed, uint64_t off, uint64_t len, int byte)
{
    CLEANUP_FREE uint8_t *buf = g_malloc(len);
    memset(buf, byte, len);
    assert_int_equal(edge_write_buf(ed, off, len, buf, 0), 0);
}

static void theirs(struct bench *b, const char *cluster, unsigned table)
{
    const char *path = bench_path(b, "theirs.qed"), *base = bench_file(b, "base.raw", 3 * MIB, 0x77);
    assert_int_equal(shell("qemu-img create -q -f qed -b '%s' -F raw -o cluster_size=%s,table_size=%u '%s' 8M", base,
                           cluster, table, path),
                     0);
    assert_int_equal(shell("qemu-io -f qed -c 'write -P 0x11 100k 300k' -c 'write -z 1M 1M' -c 'write -P 0x22 7M 1M' "
                           "'%s' >/dev/null",
                           path),
                     0);
    struct node *n = open_path(b, path);
    struct edge *ed = rw_edge(n);
    expect(ed, 0, 100 << 10, 0x77);
    expect(ed, 100 << 10, 300 << 10, 0x11);
    expect(ed, MIB, MIB, 0);
    expect(ed, 2 * MIB, MIB, 0x77);
    expect(ed, 3 * MIB, 4 * MIB, 0);
    expect(ed, 7 * MIB, MIB, 0x22);
    fill(ed, 120 << 10, 3 << 10, 0x33);
    fill(ed, 2 * MIB + 5000, 100000, 0x44);
    assert_int_equal(edge_zero(ed, 7 * MIB, MIB / 2, 0), 0);
    edge_close(ed);
    node_unref(n);
    assert_int_equal(shell("qemu-img check -q -f qed '%s'", path), 0);
    assert_int_equal(
        shell("qemu-io -f qed -c 'read -P 0x33 120k 3k' -c 'read -P 0x77 2M 5000' -c 'read -P 0x44 2102152 "
              "100000' -c 'read -P 0x77 2202152 900000' -c 'read -P 0 7M 512k' -c 'read -P 0x22 7680k 512k' "
              "'%s' >/dev/null",
              path),
        0);
}

static void ours(struct bench *b, const struct shape *shape)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const char *path = bench_path(b, "ours.qed"), *base = bench_file(b, "base.raw", 3 * MIB, 0x77);
    CLEANUP_JSON struct json_object *o = jsonf(
        "{'file': '%s', 'size': %d, 'backing-file': '%s', 'backing-fmt': 'raw'%s}", path, 8 * MIB, base, shape->opts);
    assert_int_equal(driver_find("qed")->create(b->graph, o, &e), 0);
    struct node *n = open_path(b, path);
    struct edge *ed = rw_edge(n);
    fill(ed, 1000, 200000, 0x55);
    fill(ed, 7 * MIB, MIB, 0x66);
    assert_int_equal(edge_zero(ed, 2 * MIB, MIB / 2, 0), 0);
    edge_close(ed);
    node_unref(n);
    assert_int_equal(shell("qemu-img check -q -f qed '%s'", path), 0);
    assert_int_equal(
        shell("qemu-io -f qed -c 'read -P 0x77 0 1000' -c 'read -P 0x55 1000 200000' -c 'read -P 0x77 201000 "
              "1000000' -c 'read -P 0 2M 512k' -c 'read -P 0x77 2560k 512k' -c 'read -P 0 3M 4M' -c 'read -P "
              "0x66 7M 1M' -c 'write -P 0x99 3M 100k' '%s' >/dev/null",
              path),
        0);
    n = open_path(b, path);
    ed = rw_edge(n);
    expect(ed, 3 * MIB, 100 << 10, 0x99);
    edge_close(ed);
    node_unref(n);
}

static void both_ways(struct bench *b)
{
    theirs(b, "64k", 4);
    theirs(b, "4k", 16);
    theirs(b, "1M", 2);
    for (const struct shape *shape = shapes; shape->name; shape++) {
        if (!shape->peer_refuses) {
            ours(b, shape);
        }
    }
}

static void test_interop(void **state)
{
    if (!have_qemu()) {
        skip();
    }
    bench_run(both_ways);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_interop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
