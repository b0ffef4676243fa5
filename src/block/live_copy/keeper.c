/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keeper: one coroutine per node that is open for writing. It starts the copies of what is stale, clears what is
 * alike on both sides, opens a side again that was away, and sleeps when there is nothing of that to do.
 */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/internal.h"
#include "block/transfer.h"
#include "block/view.h"

#include <sys/mman.h>

#define WRITEBACK_WORTH (UINT64_C(1) << 20)
#define LOOK_RUN        (UINT64_C(1) << 30)   /* looked at in one go for zeroes */
#define ZERO_RUN        (UINT64_C(256) << 20) /* of these, made zero while holding one turn */

/* --- one copy ----------------------------------------------------------------------------------------------------- */

struct task {
    struct lc_copy copy;
    uint64_t chunk; /* bytes per turn */
    unsigned buf;
    int rc;
    bool is_read;
    uint64_t at; /* where it failed */
};

static bool must_stop(const struct lc *s)
{
    return s->stopping || s->n->closing || s->n->quiesced || s->detached;
}

static int copy_chunk(struct lc *s, struct task *t, uint64_t off, uint64_t len)
{
    int live = s->live;
    struct edge *from = lc_side_get(s, live), *to = lc_side_get(s, !live);
    struct transfer x = {
        .from = from, .to = to, .unmap = true, .buf = s->arena + (size_t)t->buf * LC_CHUNK, .buf_size = LC_CHUNK};
    int rc = from && to ? transfer_range(&x, off, len) : -EIO;
    if (rc == 0 && len >= WRITEBACK_WORTH && t->chunk == s->opt.piece) {
        node_start_writeback(to->child, off, len);
    }
    t->is_read = x.is_read;
    t->at = off;
    if (from) {
        lc_side_put(s, live);
    }
    if (to) {
        lc_side_put(s, !live);
    }
    return rc;
}

static void copy_regions(struct lc *s, struct task *t)
{
    uint64_t off = t->copy.first << s->head.bits;
    uint64_t end = min_u64((t->copy.first + t->copy.count) << s->head.bits, s->head.size);
    for (uint64_t n; off < end && t->rc == 0; off += n) {
        struct turn turn;
        n = min_u64(end - off, t->chunk);
        if (must_stop(s)) {
            t->copy.spoiled = true;
        }
        turn_begin(&s->turns, &turn, off, n);
        if (t->copy.spoiled) {
            turn_end(&s->turns, &turn);
            return;
        }
        t->rc = copy_chunk(s, t, off, n);
        turn_end(&s->turns, &turn);
    }
}

static void copy_failed(struct lc *s, const struct task *t)
{
    if (!t->is_read && t->rc != -ENOMEM && lc_present(s, lc_other(s)) && !t->copy.spoiled) {
        lc_side_failed(s, lc_other(s), t->rc);
    }
    s->pass_errors++;
    s->last.rc = t->rc;
    s->last.error_is_read = t->is_read;
    s->last.error_off = t->at;
}

static void copy_entry(void *arg)
{
    struct task *t = arg;
    struct lc *s = t->copy.s;
    copy_regions(s, t);
    if (t->rc < 0) {
        copy_failed(s, t);
    } else if (!t->copy.spoiled) {
        bitmap_clear(s->stale, t->copy.first, t->copy.count);
        lc_touch(s, t->copy.first, t->copy.count);
    }
    s->free_bufs[s->free_count++] = (uint8_t)t->buf;
    g_queue_unlink(&s->copies, &t->copy.link);
    struct node *n = s->n;
    g_free(t);
    lc_keeper_wake(s);
    node_in_flight_dec(n);
}

/* --- what to copy next -------------------------------------------------------------------------------------------- */

/* Buffers are there while something is being copied; untouched ones cost nothing. */
static bool have_buffers(struct lc *s)
{
    if (!s->arena) {
        void *p =
            mmap(NULL, (size_t)LC_MAX_PARALLEL * LC_CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) {
            return false;
        }
        s->arena = p;
        for (s->free_count = 0; s->free_count < LC_MAX_PARALLEL; s->free_count++) {
            s->free_bufs[s->free_count] = (uint8_t)(LC_MAX_PARALLEL - 1 - s->free_count);
        }
    }
    return true;
}

static void drop_buffers(struct lc *s)
{
    if (s->arena && !s->copies.length) {
        munmap(take(s->arena), (size_t)LC_MAX_PARALLEL * LC_CHUNK);
    }
}

/* Shortens [first, *end) to before the first copy that is under way there; or it begins in one, whose end this is. */
static uint64_t avoid_copies(const struct lc *s, uint64_t first, uint64_t *end)
{
    for (GList *l = s->copies.head; l; l = l->next) {
        const struct lc_copy *c = l->data;
        if (c->first <= first && first < c->first + c->count) {
            return c->first + c->count;
        }
        if (first < c->first && c->first < *end) {
            *end = c->first;
        }
    }
    return first;
}

/* The next stale regions at or after the cursor that nobody copies yet. */
static bool next_run(struct lc *s, uint64_t *first, uint64_t *count)
{
    uint64_t most = max_u64(1, LOOK_RUN >> s->head.bits);
    for (uint64_t r = s->cursor; (r = bitmap_next_set(s->stale, r, s->regions)) < s->regions;) {
        uint64_t end = bitmap_next_clear(s->stale, r, min_u64(s->regions, r + most));
        uint64_t from = avoid_copies(s, r, &end);
        if (from == r) {
            *first = r;
            *count = end - r;
            return true;
        }
        r = from;
    }
    return false;
}

/* The part of a run to give to one copy. */
static void cut_run(struct lc *s, struct task *t, uint64_t first, uint64_t count)
{
    uint64_t off = first << s->head.bits, len = min_u64((first + count) << s->head.bits, s->head.size) - off,
             alike = len;
    struct edge *from = lc_side_get(s, s->live), *to = lc_side_get(s, lc_other(s));
    int live = s->live;
    struct transfer x = {.from = from, .to = to};
    int what = from && to && len ? transfer_kind(&x, off, &alike) : TRANSFER_DATA;
    if (from) {
        lc_side_put(s, live);
    }
    if (to) {
        lc_side_put(s, !live);
    }
    t->copy.first = first;
    t->chunk = s->opt.piece;
    t->copy.count = min_u64(count, max_u64(1, s->opt.piece >> s->head.bits));
    uint64_t whole = alike >= len ? count : alike >> s->head.bits;
    if ((what == TRANSFER_ZERO || what == TRANSFER_NOTHING) && whole) {
        t->copy.count = whole;
        t->chunk = ZERO_RUN;
    }
}

static bool wants_copies(const struct lc *s)
{
    return s->opt.copying && lc_present(s, lc_other(s)) && bitmap_count(s->stale);
}

/* Starts one; false: nothing more can be started now. */
static bool start_copy(struct lc *s)
{
    uint64_t first, count, now = loop_now_ns();
    if (!wants_copies(s) || s->copies.length >= s->opt.parallel || now < s->pace_at || !have_buffers(s)) {
        return false;
    }
    if (!next_run(s, &first, &count)) {
        if (s->copies.length || s->again_at) {
            return false; /* wait for these; or for the time of another pass */
        }
        if (s->pass_errors) {
            s->last.passes++;
            s->again_at = now + MAX(s->opt.retry_ms, 1) * 1000000;
            lc_changed(s);
        }
        s->pass_errors = 0;
        s->cursor = 0;
        return !s->again_at;
    }
    struct task *t = g_new0(struct task, 1);
    t->copy = (struct lc_copy){.s = s, .link = {.data = &t->copy}};
    node_in_flight_inc(s->n);
    cut_run(s, t, first, count);
    g_queue_push_tail_link(&s->copies, &t->copy.link);
    t->buf = s->free_bufs[--s->free_count];
    s->cursor = first + t->copy.count;
    if (s->opt.speed && t->chunk == s->opt.piece) {
        uint64_t bytes = t->copy.count << s->head.bits;
        s->pace_at = max_u64(s->pace_at, now) + (uint64_t)((double)bytes * 1e9 / (double)s->opt.speed);
    }
    co_start(graph_loop(s->n->graph), copy_entry, t);
    return true;
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static bool may_join(const struct lc *s)
{
    bool joined = s->joined && s->state_known && lc_state_both(&s->state);
    return !joined && lc_present(s, lc_other(s)) && !bitmap_count(s->stale) && !s->copies.length;
}

/* By itself, as copies need not wait for the flushes. */
static void sweep_entry(void *arg)
{
    struct lc *s = arg;
    struct node *n = s->n;
    lc_sweep(s);
    s->sweeping = false;
    lc_keeper_wake(s);
    node_in_flight_dec(n);
}

/* True when it did something, so that all is looked at again. */
static bool one_round(struct lc *s, uint64_t now)
{
    if (s->again_at && now >= s->again_at) {
        s->again_at = 0;
        s->cursor = 0;
    }
    if (s->sweep_at && now >= s->sweep_at && !s->sweeping) {
        node_in_flight_inc(s->n);
        s->sweeping = true;
        co_start(graph_loop(s->n->graph), sweep_entry, s);
        return true;
    }
    if (s->retry_at && now >= s->retry_at) {
        s->retry_at = 0;
        if (!lc_present(s, lc_other(s))) {
            lc_side_return(s);
        }
        return true;
    }
    if (may_join(s) && !s->again_at) {
        drop_buffers(s);
        node_in_flight_inc(s->n);
        lc_join(s);
        node_in_flight_dec(s->n);
        return true;
    }
    return start_copy(s);
}

static void keeper_main(void *arg)
{
    struct lc *s = arg;
    s->keeper = co_self();
    while (!s->stopping) {
        uint64_t now = loop_now_ns();
        bool held = s->n->quiesced || s->n->closing || s->detached;
        if (!held && one_round(s, now)) {
            continue;
        }
        uint64_t times[] = {s->sweeping ? 0 : s->sweep_at, s->retry_at, s->again_at, wants_copies(s) ? s->pace_at : 0};
        timer_cancel(&s->timer);
        for (size_t i = 0; i < G_N_ELEMENTS(times) && !held; i++) {
            if (times[i] > now) {
                lc_keeper_alarm(s, times[i]);
            }
        }
        co_wait();
    }
    while (s->copies.length || s->sweeping) {
        co_wait();
    }
    drop_buffers(s);
    timer_cancel(&s->timer);
    s->keeper = NULL;
    s->keeper_running = false;
    co_queue_wake_all(&s->stopped);
}

void lc_keeper_wake(struct lc *s)
{
    if (s->keeper) {
        co_wake(s->keeper);
    }
}

static void on_timer(void *opaque)
{
    lc_keeper_wake(opaque);
}

void lc_keeper_alarm(struct lc *s, uint64_t at_ns)
{
    if (s->keeper_running && (!timer_armed(&s->timer) || at_ns < s->timer.at_ns)) {
        timer_arm(&s->timer, at_ns);
    }
}

void lc_keeper_start(struct lc *s)
{
    timer_init(&s->timer, graph_loop(s->n->graph), on_timer, s);
    s->keeper_running = true;
    s->stopping = false;
    co_start_later(graph_loop(s->n->graph), keeper_main, s);
}

void lc_keeper_stop(struct lc *s)
{
    s->stopping = true;
    lc_keeper_wake(s);
    while (s->keeper_running) {
        co_queue_wait(&s->stopped);
    }
}
