/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The crash simulator: requests run while everything that reaches the three disks is kept in one log, whose crashes are
 * replayed (../../crash/replay.h). Whatever is left must open, hold all that a flush had acknowledged, and in the end
 * be the same on both sides. One crash of each session is the beginning of the next.
 *
 * STERNA_CRASH_MOST: crashes per flush interval (0: all); STERNA_TEST_SEED.
 */
#include "lcsupport.h"

#include "base/cleanup.h"
#include "replay.h"

enum { SIZE = 96 * 1024, WORKERS = 4, BATCHES = 9, GENERATIONS = 3, LANES = 12, ALONE_AT = 5000, ALONE_BYTES = 100 };

/* What must be there after a crash at `at`, unless a later request touched it. */
struct mark {
    unsigned at; /* entries of the log */
    uint8_t *want;
};
struct touched {
    unsigned from; /* the log's length when the request began */
    uint64_t off, len;
};

struct run;

/* Where one crash is judged while others are: they wait for their clocks most of the time. */
struct lane {
    struct run *r;
    struct bench b; /* with a graph of its own */
    struct world c;
    unsigned at;
    bool wrote; /* while it was alone: ALONE_BYTES at ALONE_AT */
    bool busy;
};

struct run {
    struct world w;
    struct memdisk start[DISKS], next[DISKS]; /* the disks when the log began; one of the crashes */
    GArray *marks, *touched;
    struct lane lanes[LANES];
    int busy;                          /* lanes */
    unsigned long points, seen, alone; /* crashes; of this session; opened with one side away */
};
struct worker {
    struct run *r;
    uint64_t first, len; /* its part of the disk */
};

/* --- the session -------------------------------------------------------------------------------------------------- */

static void touch(struct run *r, uint64_t off, uint64_t len)
{
    struct touched t = {r->w.disk[0].log->len, off, len};
    g_array_append_val(r->touched, t);
}

static void one_request(struct worker *p)
{
    struct run *r = p->r;
    struct world *w = &r->w;
    uint64_t off = p->first + rnd(&w->seed) % p->len, len = 1 + rnd(&w->seed) % (rnd(&w->seed) % 2 ? 700 : 9000);
    len = MIN(len, p->first + p->len - off);
    unsigned what = rnd(&w->seed) % 10;
    touch(r, off, len);
    if (what < 7) {
        fill(w, w->want + off, len);
        assert_int_equal(edge_write_buf(w->ed, off, len, w->want + off, what == 6 ? REQ_FUA : 0), 0);
    } else if (what < 9) {
        memset(w->want + off, 0, len);
        assert_int_equal(edge_zero(w->ed, off, len, what & 1 ? REQ_MAY_UNMAP : 0), 0);
    } else {
        assert_int_equal(edge_discard(w->ed, off, len), 0);
        assert_int_equal(edge_read_buf(w->ed, off, len, w->want + off), 0);
    }
}

static void work(void *arg)
{
    struct worker *p = arg;
    for (int i = 0; i < 3; i++) {
        one_request(p);
    }
}

static void flush_meanwhile(void *arg)
{
    struct run *r = arg;
    co_yield ();
    assert_int_equal(edge_flush(r->w.ed), 0);
}

static void flush_and_mark(struct run *r)
{
    assert_int_equal(edge_flush(r->w.ed), 0);
    struct mark m = {r->w.disk[0].log->len, g_memdup2(r->w.want, r->w.size)};
    g_array_append_val(r->marks, m);
}

/* One side fails from now on, or one request of it, when the other one has everything. */
static void maybe_fail(struct world *w)
{
    struct live_copy_status st = world_status(w);
    int side = rnd(&w->seed) % 2;
    if (st.current[!side] && !st.missing[!side] && !w->disk[!side].fail_in && (st.current[side] || side == DST)) {
        w->disk[side].fail_in = 1 + rnd(&w->seed) % 6;
        w->disk[side].fail_on = rnd(&w->seed) % 2;
    }
}

static void heal(struct world *w)
{
    w->disk[SRC].fail_in = w->disk[DST].fail_in = 0;
    live_copy_retry(w->n);
}

static void something_else(struct run *r)
{
    struct world *w = &r->w;
    switch (rnd(&w->seed) % 7) {
    case 0:
        maybe_fail(w);
        break;
    case 1:
        heal(w);
        break;
    case 2:
        heal(w);
        world_sync(w);
        break;
    case 3:
        world_close(w);
        w->disk[SRC].fail_in = w->disk[DST].fail_in = 0;
        world_open(w, "");
        break;
    case 4:
        if (rnd(&w->seed) % 3 == 0) {
            live_copy_switch(w->n, NULL); /* refused while the destination is not complete */
        }
        break;
    case 5:
        co_sleep(2000000); /* time to clear marks */
        break;
    default:
        break;
    }
}

static void batch(struct run *r)
{
    struct worker p[WORKERS];
    struct world *w = &r->w;
    for (uint64_t i = 0; i < WORKERS; i++) { /* the parts meet in the middle of regions */
        uint64_t first = i ? i * SIZE / WORKERS + 777 : 0,
                 end = i + 1 < WORKERS ? (i + 1) * SIZE / WORKERS + 777 : SIZE;
        p[i] = (struct worker){r, first, end - first};
        spawn(w->b, work, &p[i], &w->running);
    }
    if (rnd(&w->seed) % 3 == 0) {
        spawn(w->b, flush_meanwhile, r, &w->running);
    }
    wait_for(&w->running);
    if (rnd(&w->seed) % 2) {
        flush_and_mark(r);
    }
}

static void start_logs(struct run *r)
{
    memdisk_log_start(&r->w.disk[0]);
    for (unsigned i = 0; i < DISKS; i++) {
        struct memdisk *d = &r->w.disk[i];
        memdisk_copy(&r->start[i], d);
        d->delay = 2 + rnd(&r->w.seed) % 3;
        d->slow_flush = rnd(&r->w.seed) % 2 * 20;
        if (i > 0) {
            memdisk_log_share(d, &r->w.disk[0], i);
        }
    }
    for (unsigned i = 0; i < r->marks->len; i++) {
        g_free(g_array_index(r->marks, struct mark, i).want);
    }
    g_array_set_size(r->marks, 0);
    g_array_set_size(r->touched, 0);
    struct mark first = {0, g_memdup2(r->w.want, r->w.size)};
    g_array_append_val(r->marks, first);
}

static void session(struct run *r)
{
    world_open(&r->w, "");
    for (int i = 0; i < BATCHES; i++) {
        something_else(r);
        batch(r);
    }
    heal(&r->w);
    world_close(&r->w);
}

/* --- crashes ------------------------------------------------------------------------------------------------------ */

static const struct mark *last_mark(const struct run *r, unsigned at)
{
    const struct mark *m = NULL;
    for (unsigned i = 0; i < r->marks->len && g_array_index(r->marks, struct mark, i).at <= at; i++) {
        m = &g_array_index(r->marks, struct mark, i);
    }
    return m;
}

static uint64_t epoch(void *opaque, unsigned at)
{
    return last_mark(opaque, at)->at;
}

static void holds_what_was_flushed(const struct lane *l, const uint8_t *got, const char *when)
{
    struct run *r = l->r;
    CLEANUP_FREE uint8_t *doubt = g_malloc0(r->w.size);
    const struct mark *m = last_mark(r, l->at);
    for (unsigned i = 0; i < r->touched->len; i++) {
        const struct touched *t = &g_array_index(r->touched, struct touched, i);
        if (t->from >= m->at && t->from <= l->at) {
            memset(doubt + t->off, 1, t->len);
        }
    }
    if (l->wrote) {
        memset(doubt + ALONE_AT, 1, ALONE_BYTES);
    }
    for (unsigned i = 0; i < r->w.size; i++) {
        if (!doubt[i] && got[i] != m->want[i]) {
            fail_msg("%s: %s, crash at %u of %u: byte %#x is %02x, flushed was %02x", r->w.g->name, when, l->at,
                     r->w.disk[0].log->len, i, got[i], m->want[i]);
        }
    }
}

static uint8_t *read_all(struct world *c)
{
    uint8_t *got = g_malloc(c->size + 1);
    assert_int_equal(edge_read_buf(c->ed, 0, c->size, got), 0);
    return got;
}

/* Without one side it opens with the other if that one has everything. */
static void open_alone(struct lane *l, int away)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world *c = &l->c;
    world_unplug(c, away);
    if (world_try_open(c, "", &e)) {
        CLEANUP_FREE uint8_t *got = read_all(c);
        holds_what_was_flushed(l, got, away == SRC ? "without its source" : "without its destination");
        fill(c, got, ALONE_BYTES);
        assert_int_equal(edge_write_buf(c->ed, ALONE_AT, ALONE_BYTES, got, 0), 0); /* works on */
        assert_int_equal(edge_flush(c->ed), 0);
        l->wrote = true;
        world_close(c);
        l->r->alone++;
    } else if (!strstr(err_text(&e), "is up to date")) {
        fail_msg("%s", err_text(&e));
    }
    world_plug(c, away);
}

static void verify(void *arg)
{
    struct lane *l = arg;
    struct world *c = &l->c;
    for (int i = 0; i < DISKS; i++) {
        world_plug(c, i);
    }
    int away = rnd(&c->seed) % 6;
    if (away <= DST) {
        open_alone(l, away);
    }
    world_open(c, rnd(&c->seed) % 4 ? "" : ", 'copying': false");
    c->want = read_all(c);
    holds_what_was_flushed(l, c->want, "opened");
    struct live_copy_options o;
    live_copy_get_options(c->n, &o);
    o.copying = true;
    live_copy_set_options(c->n, &o);
    world_sync(c);
    world_close(c);
    both_are(c, c->want);
    world_finish(c);
    l->busy = false;
}

static struct lane *free_lane(struct run *r)
{
    for (;;) {
        for (int i = 0; i < LANES; i++) {
            if (!r->lanes[i].busy) {
                return &r->lanes[i];
            }
        }
        co_sleep(100000);
    }
}

static void judge(void *opaque, struct memdisk *images, unsigned at, const char *what)
{
    struct run *r = opaque;
    struct lane *l = free_lane(r);
    l->at = at;
    l->busy = true;
    l->wrote = false;
    l->c = (struct world){.b = &l->b, .g = r->w.g, .size = r->w.size, .seed = rnd(&r->w.seed)};
    bool keep = rnd(&r->w.seed) % ++r->seen == 0; /* each with the same chance */
    for (int i = 0; i < DISKS; i++) {
        memdisk_copy(&l->c.disk[i], &images[i]);
        if (keep) {
            memdisk_copy(&r->next[i], &images[i]);
        }
    }
    spawn(&l->b, verify, l, &r->busy);
}

static void crashes(struct run *r, unsigned most)
{
    struct replay p = {.start = r->start,
                       .disks = DISKS,
                       .log = r->w.disk[0].log,
                       .seed = rnd(&r->w.seed),
                       .most = most,
                       .epoch = epoch};
    r->seen = 0;
    replay_run(&p, judge, r);
    wait_for(&r->busy);
    r->points += p.points;
}

/* The next session begins where a crash left this one. */
static void go_on_after_crash(struct run *r)
{
    for (int i = 0; i < DISKS; i++) {
        world_unplug(&r->w, i);
        memdisk_finish(&r->w.disk[i]);
        memdisk_copy(&r->w.disk[i], &r->next[i]);
        world_plug(&r->w, i);
    }
    world_open(&r->w, ", 'copying': false"); /* what has been read is promised from then on */
    g_free(r->w.want);
    r->w.want = read_all(&r->w);
    world_close(&r->w);
}

static void run_geometry(struct bench *b, const struct geometry *g, uint64_t seed, struct run *r)
{
    const char *most = getenv("STERNA_CRASH_MOST");
    r->w = (struct world){.seed = seed};
    world_create(&r->w, b, g, SIZE);
    for (int i = 0; i < GENERATIONS; i++) {
        start_logs(r);
        session(r);
        crashes(r, most ? strtoul(most, NULL, 0) : 20);
        go_on_after_crash(r);
    }
    world_finish(&r->w);
}

static void all_geometries(struct bench *b)
{
    const char *from = getenv("STERNA_TEST_SEED");
    uint64_t seed = from ? strtoull(from, NULL, 0) : 5;
    struct run r = {.marks = g_array_new(FALSE, FALSE, sizeof(struct mark)),
                    .touched = g_array_new(FALSE, FALSE, sizeof(struct touched))};
    for (int i = 0; i < LANES; i++) {
        r.lanes[i] = (struct lane){.r = &r, .b = *b};
        r.lanes[i].b.graph = graph_create(b->loop, NULL, NULL);
    }
    for (const struct geometry *g = geometries; g->name; g++) {
        print_message("%s, seed %" PRIu64 "\n", g->name, seed);
        run_geometry(b, g, seed, &r);
    }
    print_message("%lu crashes, %lu opened with one side away\n", r.points, r.alone);
    assert_true(r.points > 10000 && r.alone > r.points / 20);
    for (int i = 0; i < LANES; i++) {
        graph_destroy(r.lanes[i].b.graph);
    }
    for (unsigned i = 0; i < r.marks->len; i++) {
        g_free(g_array_index(r.marks, struct mark, i).want);
    }
    g_array_free(r.marks, TRUE);
    g_array_free(r.touched, TRUE);
    for (int i = 0; i < DISKS; i++) {
        memdisk_finish(&r.start[i]);
        memdisk_finish(&r.next[i]);
    }
}

static void test_crash(void **state)
{
    bench_run(all_geometries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crash)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
