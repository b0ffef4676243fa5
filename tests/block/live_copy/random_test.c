/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Random requests while the copy goes on, with sides that fail, go away and come back, and the image closed and opened
 * again at any moment. Reads are always right; in the end both sides hold the same.
 */
#include "lcsupport.h"

#include "base/cleanup.h"

enum { SIZE = 1024 * 1024 + 300, WORKERS = 5, ROUNDS = 60 };

struct worker {
    struct world *w;
    uint64_t first, len; /* its part of the disk */
};

static void check_read(struct world *w, uint64_t off, uint64_t len)
{
    CLEANUP_FREE uint8_t *got = g_malloc(len);
    int rc = edge_read_buf(w->ed, off, len, got);
    assert_int_equal(rc, 0);
    for (uint64_t i = 0; i < len; i++) {
        if (got[i] != w->want[off + i]) {
            fail_msg("%s: read %02x at %#" PRIx64 ", not %02x", w->g->name, got[i], off + i, w->want[off + i]);
        }
    }
}

static void one_request(struct worker *p)
{
    struct world *w = p->w;
    uint64_t off = p->first + rnd(&w->seed) % p->len, len = 1 + rnd(&w->seed) % (rnd(&w->seed) % 2 ? 2000 : 50000);
    len = MIN(len, p->first + p->len - off);
    unsigned what = rnd(&w->seed) % 12;
    if (what < 5) {
        fill(w, w->want + off, len);
        assert_int_equal(edge_write_buf(w->ed, off, len, w->want + off, what == 0 ? REQ_FUA : 0), 0);
    } else if (what < 7) {
        memset(w->want + off, 0, len);
        assert_int_equal(edge_zero(w->ed, off, len, what & 1 ? REQ_MAY_UNMAP : 0), 0);
    } else if (what < 8) {
        assert_int_equal(edge_discard(w->ed, off, len), 0);
        assert_int_equal(edge_read_buf(w->ed, off, len, w->want + off), 0);
    } else if (what < 11) {
        check_read(w, off, len);
    } else {
        assert_int_equal(edge_flush(w->ed), 0);
    }
}

static void work(void *arg)
{
    struct worker *p = arg;
    for (int i = 0; i < 6; i++) {
        one_request(p);
    }
}

static void batch(struct world *w)
{
    struct worker p[WORKERS];
    for (uint64_t i = 0; i < WORKERS; i++) { /* the parts meet in the middle of regions */
        uint64_t first = i ? i * SIZE / WORKERS + 777 : 0,
                 end = i + 1 < WORKERS ? (i + 1) * SIZE / WORKERS + 777 : SIZE;
        p[i] = (struct worker){w, first, end - first};
        spawn(w->b, work, &p[i], &w->running);
    }
    wait_for(&w->running);
}

/* Some request of one side fails soon, or all do from then on, as long as the other one holds everything. */
static void maybe_fail(struct world *w)
{
    struct live_copy_status st = world_status(w);
    int side = rnd(&w->seed) % 2;
    bool other_works = st.current[!side] && !st.missing[!side] && !w->disk[!side].fail_in && w->file[!side];
    if (!other_works || (!st.current[side] && side == SRC)) {
        return;
    }
    w->disk[side].fail_in = 1 + rnd(&w->seed) % 12;
    w->disk[side].fail_on = rnd(&w->seed) % 2;
    w->disk[side].fail_kinds = (unsigned[]){FAIL_READ, FAIL_WRITE, FAIL_FLUSH, 7}[rnd(&w->seed) % 4];
}

static void heal(struct world *w)
{
    for (int i = SRC; i <= DST; i++) {
        w->disk[i].fail_in = 0;
        if (!w->file[i]) {
            world_plug(w, i);
        }
    }
    if (w->n) {
        live_copy_retry(w->n);
    }
}

static void reopen(struct world *w)
{
    struct live_copy_status st = world_status(w);
    int away = rnd(&w->seed) % 4;
    world_close(w);
    for (int i = SRC; i <= DST; i++) {
        w->disk[i].fail_in = 0;
    }
    if (away <= DST && st.current[!away] && w->file[!away] && w->file[away]) {
        world_unplug(w, away);
    }
    const char *more = rnd(&w->seed) % 5 ? "" : ", 'copying': false";
    if (!world_try_open(w, more, NULL)) { /* the other one failed when all was flushed, before the end */
        world_plug(w, away);
        world_open(w, more);
    }
}

static void some_round(struct world *w)
{
    static const struct live_copy_options fast = {
        .copying = true, .parallel = 3, .piece = 8192, .record_ms = 1, .retry_ms = 1};
    switch (rnd(&w->seed) % 8) {
    case 0:
        reopen(w);
        break;
    case 1:
        heal(w);
        break;
    case 2:
    case 3:
        maybe_fail(w);
        break;
    case 4:
        heal(w);
        live_copy_set_options(w->n, &fast);
        world_sync(w);
        break;
    case 5:
        node_drain_begin(w->n);
        node_drain_end(w->n);
        break;
    default:
        break;
    }
    batch(w);
}

/* How often a side failed. */
static uint64_t one_session(struct bench *b, const struct geometry *g, uint64_t seed)
{
    struct world w = {.seed = seed};
    for (int i = 0; i < DISKS; i++) {
        w.disk[i].delay = 2 + i;
    }
    world_create(&w, b, g, SIZE);
    world_open(&w, "");
    uint64_t outages = 0;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t before = world_status(&w).outages;
        some_round(&w);
        uint64_t now = world_status(&w).outages;
        outages += now > before ? now - before : 0; /* counted anew when it is opened */
        if (i == ROUNDS / 2 && world_status(&w).current[DST]) {
            heal(&w);
            CLEANUP_ERR struct err e = ERR_INIT;
            live_copy_switch(w.n, &e); /* may fail when a side has just gone */
        }
    }
    heal(&w);
    world_close(&w);
    heal(&w);
    world_open(&w, "");
    check_read(&w, 0, w.size);
    world_sync(&w);
    check_read(&w, 0, w.size);
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
    return outages;
}

static void all_sessions(struct bench *b)
{
    const char *from = getenv("STERNA_TEST_SEED");
    uint64_t seed = from ? strtoull(from, NULL, 0) : 11, count = getenv("STERNA_LONG") ? 200 : 3;
    uint64_t outages = 0;
    for (uint64_t i = 0; i < count; i++) {
        for (const struct geometry *g = geometries; g->name; g++) {
            print_message("%s, seed %" PRIu64 "\n", g->name, seed + i);
            outages += one_session(b, g, seed + i);
        }
    }
    print_message("%" PRIu64 " outages\n", outages);
    assert_true(outages > 0);
}

static void test_random(void **state)
{
    bench_run(all_sessions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
