/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes of an image above a backing image. tests/crash has the simulator and images without one; here it is about
 * what shows through, and about the laws (qed.h) as they can be read from the crashed file itself.
 */
#include "qed_support.h"

#include "base/checked.h"
#include "base/cleanup.h"

enum { SIZE = 512 << 10, ROUNDS = 30, CRASHES = 400 };

struct mark {
    unsigned at; /* length of the log when the flush had ended */
    uint8_t *want;
};
struct session {
    struct sample s;
    struct memdisk start;
    GArray *marks;
};

static void mark(struct session *x)
{
    struct mark m = {x->s.disk.log->len, g_memdup2(x->s.want, SIZE)};
    g_array_append_val(x->marks, m);
}

struct writer {
    struct session *x;
    uint64_t off, len;
};

static void write_co(void *arg)
{
    struct writer *w = arg;
    sample_write(&w->x->s, w->off, w->len);
}

/* Bytes are written once between two flushes, so that each is old or new. */
static void one_round(struct session *x, struct bench *b)
{
    struct writer w[4];
    int running = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(w); i++) {
        uint64_t part = SIZE / G_N_ELEMENTS(w), len = 1 + rnd(&x->s.seed) % 20000;
        w[i] = (struct writer){x, i * part + rnd(&x->s.seed) % (part - 20000), len};
        spawn(b, write_co, &w[i], &running);
    }
    wait_for(&running);
    assert_int_equal(edge_flush(x->s.ed), 0);
    mark(x);
}

/* Law 1, and 2 as far as it says that a clear bit means no leaks. */
static void laws_hold(struct session *x, const struct memdisk *d)
{
    uint64_t table_bytes = 8192, clusters = d->size / 4096, named = 3;
    CLEANUP_FREE uint8_t *seen = g_malloc0(clusters + 1);
    for (uint64_t i = 0; i < 1; i++) {
        uint64_t l2 = disk_le64(d, 4096 + 8 * i);
        if (!l2) {
            continue;
        }
        assert_true(l2 % 4096 == 0 && range_ok(l2, table_bytes, d->size));
        named += 2;
        for (uint64_t k = 0; k < table_bytes / 8; k++) {
            uint64_t e = disk_le64(d, l2 + 8 * k);
            if (e > 1) {
                assert_true(e % 4096 == 0 && range_ok(e, 4096, d->size));
                assert_int_equal(seen[e / 4096]++, 0);
                named++;
            }
        }
    }
    if (!(disk_features(d) & QED_NEED_CHECK)) {
        assert_int_equal(named, clusters);
    }
}

static void judge(struct session *x, struct memdisk *crashed, unsigned at)
{
    const struct mark *before = NULL, *after = NULL;
    for (guint i = 0; i < x->marks->len; i++) {
        const struct mark *m = &g_array_index(x->marks, struct mark, i);
        before = m->at <= at ? m : before;
        after = m->at > at && !after ? m : after;
    }
    struct sample s = x->s;
    CLEANUP_FREE uint8_t *got = g_malloc(SIZE);
    laws_hold(x, crashed);
    s.file = memdisk_open(s.b->graph, crashed, "crashed");
    s.n = must_open(s.b, jsonf("{'driver': 'qed', 'file': 'crashed', 'backing': 'below'}"));
    s.ed = rw_edge(s.n);
    assert_int_equal(disk_features(crashed) & QED_NEED_CHECK, 0);
    assert_int_equal(edge_read_buf(s.ed, 0, SIZE, got), 0);
    for (uint64_t i = 0; i < SIZE; i++) {
        if (got[i] != before->want[i] && (!after || got[i] != after->want[i])) {
            fail_msg("crash behind entry %u: byte %#" G_GINT64_MODIFIER "x is %02x, was %02x, then %02x", at, i, got[i],
                     before->want[i], after ? after->want[i] : 0);
        }
    }
    struct check_result r = sample_check(&s, 0);
    assert_int_equal(r.corruptions + r.check_errors, 0);
    if (r.leaks) {
        assert_int_equal(sample_check(&s, CHECK_FIX_LEAKS).leaks, 0);
        sample_check_clean(&s);
    }
    sample_close(&s);
    node_unref(s.file);
}

static void crashes(struct bench *b)
{
    struct session x = {.s = {.b = b, .seed = 5, .disk = {.delay = 3}}};
    sample_create(&x.s, ", 'cluster-size': 4096, 'table-size': 2", SIZE, SIZE - 10000);
    x.start = (struct memdisk){.data = g_memdup2(x.s.disk.data, x.s.disk.size + 1), .size = x.s.disk.size};
    x.marks = g_array_new(FALSE, FALSE, sizeof(struct mark));
    memdisk_log_start(&x.s.disk);
    mark(&x);
    sample_open(&x.s, false);
    for (int i = 0; i < ROUNDS; i++) {
        one_round(&x, b);
        if (i % 7 == 6) {
            sample_close(&x.s);
            sample_open(&x.s, false);
        }
    }
    sample_close(&x.s);
    mark(&x);
    for (int i = 0; i < CRASHES; i++) {
        struct memdisk to = {0};
        unsigned at = rnd(&x.s.seed) % (x.s.disk.log->len + 1);
        memdisk_crash(&to, &x.start, x.s.disk.log, at, &x.s.seed);
        judge(&x, &to, at);
        memdisk_finish(&to);
    }
    for (guint i = 0; i < x.marks->len; i++) {
        g_free(g_array_index(x.marks, struct mark, i).want);
    }
    g_array_free(x.marks, TRUE);
    memdisk_finish(&x.start);
    sample_finish(&x.s);
}

static void test_crashes(void **state)
{
    bench_run(crashes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crashes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
