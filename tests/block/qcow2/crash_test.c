/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The crash simulator: requests run while everything that reaches the file is logged; then crashes at random places are
 * replayed. An image must open, have no corruption, and hold all that a flush had acknowledged.
 */
#include "qsupport.h"

#include "base/cleanup.h"
#include "memdisk.h"

enum { SIZE = 1024 * 1024, WORKERS = 4, BATCHES = 12, CRASHES = 150 };

/* What must be there after a crash behind log entry `at`, unless a later request touched it. */
struct mark {
    unsigned at;
    uint8_t *want;
};
struct touched {
    unsigned from; /* log length when the request began */
    uint64_t off, len;
};

struct run {
    struct bench *b;
    const struct geometry *g;
    struct memdisk disk, start;
    struct node *n;
    struct edge *ed;
    uint8_t *want;
    uint64_t seed;
    GArray *marks, *touched;
    int running;
};
struct worker {
    struct run *r;
    uint64_t first, len; /* its part of the disk */
};

static struct node *open_on(struct bench *b, const char *node, const char *more)
{
    return must_open(b, jsonf("{'driver': 'qcow2', 'file': '%s', 'discard': 'unmap', 'backing': null%s}", node, more));
}

static void touch(struct run *r, uint64_t off, uint64_t len)
{
    struct touched t = {r->disk.log->len, off, len};
    g_array_append_val(r->touched, t);
}

static void one_request(struct worker *w)
{
    struct run *r = w->r;
    uint64_t off = w->first + rnd(&r->seed) % w->len, len = 1 + rnd(&r->seed) % (rnd(&r->seed) % 2 ? 3000 : 40000);
    len = MIN(len, w->first + w->len - off);
    unsigned what = rnd(&r->seed) % 10;
    touch(r, off, len);
    if (what < 6) {
        CLEANUP_FREE uint8_t *buf = g_malloc(len);
        uint64_t x = rnd(&r->seed);
        for (uint64_t i = 0; i < len; i++) {
            buf[i] = 1 + (x + i / 16) % 255;
        }
        memcpy(r->want + off, buf, len);
        assert_int_equal(edge_write_buf(r->ed, off, len, buf, 0), 0);
    } else if (what < 8) {
        memset(r->want + off, 0, len);
        assert_int_equal(edge_zero(r->ed, off, len, what & 1 ? REQ_MAY_UNMAP : 0), 0);
    } else {
        assert_int_equal(edge_discard(r->ed, off, len), 0);
        assert_int_equal(edge_read_buf(r->ed, off, len, r->want + off), 0);
    }
}

static void work(void *arg)
{
    struct worker *w = arg;
    for (int i = 0; i < 4; i++) {
        one_request(w);
    }
}

static void flush_meanwhile(void *arg)
{
    struct run *r = arg;
    co_yield ();
    assert_int_equal(edge_flush(r->ed), 0);
}

static void batch(struct run *r)
{
    struct worker w[WORKERS];
    for (uint64_t i = 0; i < WORKERS; i++) { /* the parts meet in the middle of clusters */
        uint64_t first = i ? i * SIZE / WORKERS + 777 : 0,
                 end = i + 1 < WORKERS ? (i + 1) * SIZE / WORKERS + 777 : SIZE;
        w[i] = (struct worker){r, first, end - first};
        spawn(r->b, work, &w[i], &r->running);
    }
    if (rnd(&r->seed) % 3 == 0) {
        spawn(r->b, flush_meanwhile, r, &r->running);
    }
    wait_for(&r->running);
    invariants_hold(r->n);
    if (rnd(&r->seed) % 2) {
        assert_int_equal(edge_flush(r->ed), 0);
        struct mark m = {r->disk.log->len, g_memdup2(r->want, SIZE)};
        g_array_append_val(r->marks, m);
    }
}

static void verify_crash(struct run *r, unsigned at)
{
    struct memdisk d = {0};
    memdisk_crash(&d, &r->start, r->disk.log, at, &r->seed);
    struct node *file = memdisk_open(r->b->graph, &d, "crashed");
    struct node *n = open_on(r->b, "crashed", "");
    struct edge *ed = rw_edge(n);
    CLEANUP_FREE uint8_t *got = g_malloc(SIZE), *doubt = g_malloc0(SIZE);
    const struct mark *m = NULL;
    for (unsigned i = 0; i < r->marks->len && g_array_index(r->marks, struct mark, i).at <= at; i++) {
        m = &g_array_index(r->marks, struct mark, i);
    }
    for (unsigned i = 0; i < r->touched->len; i++) {
        const struct touched *t = &g_array_index(r->touched, struct touched, i);
        if (m && t->from >= m->at && t->from <= at) {
            memset(doubt + t->off, 1, t->len);
        }
    }
    check_clean(n, true);
    assert_int_equal(edge_read_buf(ed, 0, SIZE, got), 0);
    for (unsigned i = 0; m && i < SIZE; i++) {
        if (!doubt[i] && got[i] != m->want[i]) {
            fail_msg("%s: crash behind %u of %u: byte %#x is %02x, flushed was %02x", r->g->name, at, r->disk.log->len,
                     i, got[i], m->want[i]);
        }
    }
    assert_int_equal(edge_write_buf(ed, SIZE / 3, 5000, got, 0), 0); /* and it works on */
    assert_int_equal(edge_flush(ed), 0);
    check_clean(n, true);
    edge_close(ed);
    node_unref(n);
    node_unref(file);
    memdisk_finish(&d);
}

static void run_start(struct run *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *file = memdisk_open(r->b->graph, &r->disk, "disk");
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': %d, %s}", SIZE, r->g->opts);
    if (driver_find("qcow2")->create(r->b->graph, o, &e) < 0) {
        fail_msg("create: %s", err_text(&e));
    }
    r->start = (struct memdisk){.data = g_memdup2(r->disk.data, r->disk.size + 1), .size = r->disk.size};
    memdisk_log_start(&r->disk);
    r->n = open_on(r->b, "disk", ", 'pass-discard-other': true, 'l2-cache-entry-size': 512, 'l2-cache-size': 8192");
    r->ed = rw_edge(r->n);
    node_unref(file);
}

static void run_geometry(struct bench *b, const struct geometry *g, uint64_t seed)
{
    struct run r = {.b = b, .g = g, .seed = seed, .disk = {.delay = 3}};
    r.marks = g_array_new(FALSE, FALSE, sizeof(struct mark));
    r.touched = g_array_new(FALSE, FALSE, sizeof(struct touched));
    r.want = g_malloc0(SIZE);
    run_start(&r);
    struct mark first = {0, g_malloc0(SIZE)};
    g_array_append_val(r.marks, first);
    for (int i = 0; i < BATCHES; i++) {
        batch(&r);
    }
    edge_close(r.ed);
    node_unref(r.n);
    for (int i = 0; i < CRASHES; i++) {
        verify_crash(&r, rnd(&r.seed) % (r.disk.log->len + 1));
    }
    for (unsigned i = 0; i < r.marks->len; i++) {
        g_free(g_array_index(r.marks, struct mark, i).want);
    }
    g_array_free(r.marks, TRUE);
    g_array_free(r.touched, TRUE);
    g_free(r.want);
    memdisk_finish(&r.disk);
    memdisk_finish(&r.start);
}

static void all_geometries(struct bench *b)
{
    const char *seed = getenv("STERNA_TEST_SEED");
    for (const struct geometry *g = geometries; g->name; g++) {
        if (!g->backed && !strstr(g->opts, "2097152")) {
            print_message("%s\n", g->name);
            run_geometry(b, g, seed ? strtoull(seed, NULL, 0) : 7 + (uint64_t)(g - geometries));
        }
    }
}

/* One write or flush of the file fails; whatever that was, the image stays whole and works on. */
static void one_fault(struct bench *b, const struct geometry *g, unsigned at)
{
    struct run r = {.b = b, .g = g, .seed = at, .disk = {.delay = 2}, .want = g_malloc0(SIZE)};
    run_start(&r);
    CLEANUP_FREE uint8_t *buf = g_malloc(40000);
    memset(buf, 0x5a, 40000);
    r.disk.fail_in = at;
    for (int i = 0; i < 25; i++) { /* what fails may hold anything; what succeeds must be there */
        uint64_t off = rnd(&r.seed) % (SIZE - 40000), len = 1 + rnd(&r.seed) % 40000;
        int rc = i % 5 == 4   ? edge_flush(r.ed)
                 : i % 5 == 3 ? edge_discard(r.ed, off, len)
                              : edge_write_buf(r.ed, off, len, buf, 0);
        uint8_t last;
        if (rc == 0 && i % 5 < 3 && edge_read_buf(r.ed, off + len - 1, 1, &last) == 0) {
            assert_int_equal(last, 0x5a);
        }
        invariants_hold(r.n);
    }
    r.disk.fail_in = 0;
    assert_int_equal(edge_flush(r.ed), 0);
    assert_int_equal(edge_write_buf(r.ed, 1000, 30000, buf, 0), 0);
    check_clean(r.n, true);
    edge_close(r.ed);
    node_unref(r.n);
    g_free(r.want);
    memdisk_finish(&r.disk);
    memdisk_finish(&r.start);
}

static void all_faults(struct bench *b)
{
    for (const struct geometry *g = geometries; g->name; g++) {
        for (unsigned at = 1; !g->backed && at < 60; at++) {
            one_fault(b, g, at);
        }
    }
}

static void test_faults(void **state)
{
    bench_run(all_faults);
}

static void test_crash(void **state)
{
    bench_run(all_geometries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crash), cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
