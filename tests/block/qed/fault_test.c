/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What changes an image as a whole (repairs, emptying, another backing link, a hint, another size), with the n-th
 * request of the file below failing, for every n, alone or with all that follow. Whatever failed has said so; what the
 * image held is there or cannot be read; and what is written and flushed afterwards is there when it is opened again.
 */
#include "base/cleanup.h"
#include "qed_support.h"

#include <errno.h>

enum { CLUSTER = 4096, MIB = 1 << 20, SIZE = 16 * MIB, AT = 13 * MIB, LEN = 3000 };

struct operation {
    const char *name;
    int (*run)(struct sample *s, struct err *e);
    bool empties, wrong; /* wrong: an entry names nothing, an other one nothing that is there */
};

/* Each changes the image; 0, or an error. */
static int repair(struct sample *s, struct err *e)
{
    struct check_result r = {0};
    int rc = s->n->drv->check(s->n, &r, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS, e);
    return rc < 0 ? rc : r.check_errors ? -EIO : 0;
}

static int empty(struct sample *s, struct err *e)
{
    return s->n->drv->make_empty(s->n);
}

static int relink(struct sample *s, struct err *e)
{
    return s->n->drv->change_backing(s->n, "another", "raw", e);
}

static int hint(struct sample *s, struct err *e)
{
    CLEANUP_JSON struct json_object *o = jsonf("{'copy-on-read': true}");
    return s->n->drv->amend(s->n, o, false, NULL, e);
}

static int grow(struct sample *s, struct err *e)
{
    return edge_truncate(s->ed, SIZE + MIB, true, PREALLOC_OFF, e);
}

static const struct operation operations[] = {
    {"leaks", repair},
    {"wrong entries", repair, .wrong = true},
    {"empty", empty, .empties = true},
    {"relink", relink},
    {"hint", hint},
    {"grow", grow},
};

/* Tables and data by turns, with holes. */
static void prepare(struct sample *s, const struct operation *op)
{
    sample_create(s, ", 'cluster-size': 4096, 'table-size': 2", SIZE, 0);
    sample_open(s, false);
    for (unsigned i = 0; i < 3; i++) {
        sample_write(s, i * 4 * MIB + i * 12345, 20000);
    }
    sample_close(s);
    uint64_t l2 = disk_le64(&s->disk, CLUSTER);
    disk_put_le64(&s->disk, l2 + 8, 0);
    memset(s->want + CLUSTER, 0, CLUSTER);
    if (op->wrong) {
        disk_put_le64(&s->disk, l2 + 8 * 20, UINT64_C(1) << 40);
        disk_put_le64(&s->disk, CLUSTER + 8 * 3, (UINT64_C(1) << 40) + CLUSTER);
    }
}

/* Reads all; false: it cannot be read. `maybe`: bytes may have become zeroes. */
static bool look(struct sample *s, const char *what, bool maybe)
{
    CLEANUP_FREE uint8_t *got = g_malloc(SIZE);
    for (uint64_t off = 0; off < SIZE; off += 64 << 10) {
        if (edge_read_buf(s->ed, off, 64 << 10, got + off) < 0) {
            return false;
        }
    }
    bool differs = memcmp(got, s->want, SIZE) != 0;
    for (uint64_t i = 0; differs && i < SIZE; i++) {
        if (got[i] != s->want[i] && !(maybe && !got[i])) {
            fail_msg("%s: byte %#" G_GINT64_MODIFIER "x is %02x, should be %02x", what, i, got[i], s->want[i]);
        }
    }
    memcpy(s->want, got, SIZE);
    return true;
}

/* Whatever became of it: what is written now and flushed stays. */
static void live_on(struct sample *s, const struct operation *op, bool failed)
{
    bool wrong = op->wrong && failed;
    bool readable = look(s, op->name, op->empties);
    assert_true(readable || failed);
    CLEANUP_FREE uint8_t *buf = g_malloc(LEN);
    memset(buf, 'n', LEN);
    int rc = edge_write_buf(s->ed, AT, LEN, buf, 0);
    rc = rc < 0 ? rc : edge_flush(s->ed);
    assert_true(rc == 0 || failed);
    memcpy(s->want + AT, buf, LEN);
    s->size = s->n->size;
    sample_close(s);
    s->open = ", 'for-check': true";
    sample_open(s, false);
    struct check_result r = sample_check(s, wrong ? CHECK_FIX_ERRORS : 0);
    assert_int_equal(r.corruptions + r.check_errors, 0);
    if (rc < 0) { /* any of it */
        assert_int_equal(edge_read_buf(s->ed, AT, LEN, s->want + AT), 0);
    }
    assert_true(look(s, "opened again", op->empties));
    sample_close(s);
}

/* False: there were fewer than n requests of that kind. */
static bool one(struct bench *b, const struct operation *op, unsigned kind, unsigned n, bool lasting)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct sample s = {.b = b, .seed = 3};
    prepare(&s, op);
    sample_open(&s, false);
    s.disk.fail_kinds = kind;
    s.disk.fail_on = lasting;
    s.disk.fail_in = n;
    int rc = op->run(&s, &e);
    bool failed = s.disk.failed != 0;
    s.disk.fail_in = 0;
    if (failed ? rc == 0 && lasting : rc < 0) {
        fail_msg("%s, request %u: %d", op->name, n, rc);
    }
    live_on(&s, op, failed);
    sample_finish(&s);
    return failed;
}

static void all(struct bench *b)
{
    static const unsigned kinds[] = {FAIL_READ, FAIL_WRITE, FAIL_FLUSH};
    unsigned faults = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(operations) * G_N_ELEMENTS(kinds) * 2; i++) {
        const struct operation *op = &operations[i / 6];
        unsigned n = 1;
        while (one(b, op, kinds[i / 2 % 3], n, i % 2)) {
            n++;
        }
        faults += n - 1;
    }
    print_message("%u faults\n", faults);
    assert_true(faults > 90);
}

static void test_all(void **state)
{
    bench_run(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
