/* SPDX-License-Identifier: BSD-2-Clause */
/* The driver's table, opening and closing, and what tools and the monitor may ask for. */
#include "block/live_copy/live_copy.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/live_copy/lc.h"
#include "block/options.h"

#include <inttypes.h>

enum { MAX_TRANSFER = 4 << 20 };

static int lc_probe(const uint8_t *buf, size_t len, const char *filename, struct err *e)
{
    return len >= 8 && memcmp(buf, LC_MAGIC, 8) == 0 ? PROBE_YES : PROBE_NO;
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

static const char *const option_names[] = {"source",     "destination", "copying",  "speed", "parallel",
                                           "piece-size", "record-ms",   "retry-ms", NULL};

static const char *const strong_options[] = {"source", "destination", NULL};

static int read_options(struct lc *s, struct json_object *options, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    s->opt.copying = jread_bool_or(&r, "copying", true);
    s->opt.speed = jread_size_or(&r, "speed", 0);
    int64_t parallel = jread_int_or(&r, "parallel", 4);
    s->opt.piece = jread_size_or(&r, "piece-size", LC_CHUNK);
    int64_t record = jread_int_or(&r, "record-ms", 5000), retry = jread_int_or(&r, "retry-ms", 10000);
    int rc = jread_end_lax(&r);
    if (rc) {
        return rc;
    }
    if (parallel < 1 || parallel > LC_MAX_PARALLEL) {
        return err_set(e, EINVAL, "Parameter 'parallel' expects a number from 1 to %d", LC_MAX_PARALLEL);
    }
    if (!is_pow2(s->opt.piece) || s->opt.piece < 4096 || s->opt.piece > LC_CHUNK) {
        return err_set(e, EINVAL, "Parameter 'piece-size' expects a power of two between 4k and 1M");
    }
    if (record < 1 || record > UINT32_MAX || retry < 0 || retry > UINT32_MAX) {
        return err_set(e, EINVAL, "Parameter '%s' expects milliseconds, at most %u",
                       retry < 0 || retry > UINT32_MAX ? "retry-ms" : "record-ms", UINT32_MAX);
    }
    s->opt.parallel = (unsigned)parallel;
    s->opt.record_ms = (uint64_t)record;
    s->opt.retry_ms = (uint64_t)retry;
    return 0;
}

static int read_image(struct lc *s, struct err *e)
{
    int rc = lc_format_read(s, e);
    rc = rc ? rc : lc_marks_open(s, e);
    if (rc) {
        return rc;
    }
    s->told = lc_state_now(s);
    node_set_size(s->n, s->head.size);
    return s->bare ? 0 : lc_sides_open(s, e);
}

static int open_inner(struct lc *s, struct json_object *options, struct err *e)
{
    struct node *n = s->n;
    struct json_object *backing;
    unsigned perm = PERM_READ | (n->read_only ? 0 : PERM_WRITE);
    int rc = node_open_child(n, options, &(struct edge_spec){"file", perm, PERM_READ | PERM_WRITE_SAME}, &s->file, e);
    rc = rc ? rc : read_options(s, options, e);
    n->limits.max_transfer = MAX_TRANSFER;
    n->limits.max_zero = n->limits.max_discard = UINT64_C(256) << 20;
    s->bare = json_has(options, "backing", &backing) && !backing; /* as image tools say it: no other files */
    return rc ? rc : read_image(s, e);
}

static void release(struct lc *s)
{
    lc_sides_close(s);
    lc_marks_close(s);
    lc_head_finish(&s->head);
}

/* Whether there is anything to be done of its own accord. */
static bool is_kept(const struct lc *s)
{
    return !s->n->read_only && !s->n->inactive && !s->bare && !s->detached;
}

static int lc_open(struct node *n, struct json_object *options, struct err *e)
{
    struct lc *s = lc_of(n);
    s->n = n;
    int rc = open_inner(s, options, e);
    if (rc) {
        release(s);
        return rc;
    }
    if (is_kept(s)) {
        lc_keeper_start(s);
    }
    return 0;
}

static void lc_close(struct node *n)
{
    struct lc *s = lc_of(n);
    lc_keeper_stop(s);
    if (is_kept(s)) {
        lc_sweep_all(s);
    }
    release(s);
}

/* --- other programs' turn to use it ------------------------------------------------------------------------------- */

static int lc_inactivate(struct node *n, struct err *e)
{
    struct lc *s = lc_of(n);
    if (is_kept(s)) {
        lc_keeper_stop(s);
        lc_sweep_all(s);
    }
    return 0;
}

/* The sides too: another one may be live by now, or be a file that was not there. */
static int lc_read_again(struct node *n, struct err *e)
{
    struct lc *s = lc_of(n);
    lc_side_drop(s, SRC);
    lc_side_drop(s, DST);
    CLEANUP_FREE struct lc *old = g_memdup2(s, sizeof(*s));
    *s = (struct lc){.n = n, .file = old->file, .opt = old->opt, .bare = old->bare, .changed = old->changed};
    int rc = read_image(s, e);
    old->changed = s->changed; /* whoever waits does so whatever is known */
    if (rc) {
        lc_side_drop(s, SRC);
        lc_side_drop(s, DST);
        release(s);
        *s = *old; /* without sides: nothing can be read */
    } else {
        s->last = old->last;
        release(old);
    }
    return rc;
}

static int lc_activate(struct node *n, struct err *e)
{
    struct lc *s = lc_of(n);
    int rc = is_kept(s) ? lc_sides_settle(s, e) : 0;
    if (rc == 0 && is_kept(s) && !s->keeper_running) {
        lc_keeper_start(s);
    }
    return rc;
}

static int lc_set_perm(struct node *n, unsigned perm, unsigned shared, struct err *e)
{
    struct lc *s = lc_of(n);
    const struct edge *live = s->n ? s->side[s->live].edge : NULL;
    if (live && !n->read_only && live->child->read_only && (perm & PERM_WRITE)) {
        return err_set(e, EACCES, "Node '%s' cannot be written to: its %s '%s' is read-only", n->name,
                       lc_side_names[s->live], live->child->filename);
    }
    return 0;
}

static void lc_drain_end(struct node *n)
{
    lc_keeper_wake(lc_of(n));
}

static int lc_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    return err_set(e, ENOTSUP, "A live copy cannot change its size; resize source and destination and make a new one");
}

static bool lc_supports_fua(struct node *n)
{
    return true; /* the edges of the sides see to it, and marks are stable anyway */
}

const struct block_driver live_copy_driver = {
    .name = "live-copy",
    .priv_size = sizeof(struct lc),
    .can_be_created = true,
    .option_names = option_names,
    .strong_options = strong_options,
    .probe = lc_probe,
    .open = lc_open,
    .close = lc_close,
    .inactivate = lc_inactivate,
    .read_again = lc_read_again,
    .activate = lc_activate,
    .create = lc_create,
    .create_options = lc_create_options,
    .read = lc_read,
    .write = lc_write,
    .zero = lc_zero,
    .discard = lc_discard,
    .flush = lc_flush,
    .status = lc_status,
    .truncate = lc_truncate,
    .specific_info = lc_specific_info,
    .check = lc_check,
    .drain_end = lc_drain_end,
    .supports_fua = lc_supports_fua,
    .set_perm = lc_set_perm,
};

/* --- for tools and the monitor ------------------------------------------------------------------------------------ */

bool live_copy_of_node(const struct node *n)
{
    return n->drv == &live_copy_driver && !((const struct lc *)n->priv)->bare;
}

void live_copy_get_names(const struct node *n, const char *names[2])
{
    const struct lc *s = n->priv;
    names[SRC] = s->head.name[SRC];
    names[DST] = s->head.name[DST];
}

void live_copy_get_status(struct node *n, struct live_copy_status *out)
{
    struct lc *s = lc_of(n);
    uint64_t behind = bitmap_count(s->bare ? s->marked : s->stale), bytes = behind << s->head.bits;
    *out = s->last;
    out->state = lc_state_now(s);
    out->live = s->live;
    out->switched = s->state.flags & LC_SWITCHED;
    out->total = s->head.size;
    for (int i = SRC; i <= DST; i++) {
        out->current[i] = s->detached ? i == DST : lc_state_current(&s->state, i);
        out->trouble[i] = s->side[i].trouble;
        out->missing[i] = s->side[i].trouble != NULL;
    }
    out->remaining = out->state == LIVE_COPY_DETACHED ? 0 : min_u64(bytes, s->head.size);
}

void live_copy_get_options(struct node *n, struct live_copy_options *out)
{
    *out = lc_of(n)->opt;
}

void live_copy_set_options(struct node *n, const struct live_copy_options *o)
{
    struct lc *s = lc_of(n);
    s->opt = *o;
    s->pace_at = 0;
    lc_keeper_wake(s);
}

void live_copy_wait(struct node *n, uint64_t timeout_ns)
{
    co_queue_wait_until(&lc_of(n)->changed, loop_now_ns() + timeout_ns);
}

void live_copy_retry(struct node *n)
{
    struct lc *s = lc_of(n);
    s->again_at = s->again_at ? 1 : 0;
    s->retry_at = !s->detached && !lc_present(s, lc_other(s)) ? 1 : 0;
    lc_keeper_wake(s);
}

static int set_flag(struct lc *s, uint32_t flag, struct err *e)
{
    int rc = 0;
    if (s->n->read_only || s->n->inactive) {
        return err_set(e, EACCES, "Live copy '%s' is %s", s->n->filename, s->n->inactive ? "inactive" : "read-only");
    }
    co_lock(&s->meta_lock);
    struct lc_state was = s->state, want = was;
    want.flags |= flag;
    if (!s->detached && (!lc_state_current(&s->state, DST) || !s->state_known || !lc_present(s, DST))) {
        rc = err_set(e, EBUSY, "The destination of live copy '%s' is not complete", s->n->filename);
    } else if (want.flags != was.flags) {
        rc = lc_state_write(s, want);
        if (rc == 0 && !lc_present(s, DST)) { /* it failed meanwhile: the source goes on */
            rc = lc_state_write(s, was);
            rc = rc < 0 ? rc : -EIO;
        }
        if (rc < 0) {
            err_set_errno(e, -rc, "Could not switch live copy '%s'", s->n->filename);
        }
    }
    co_unlock(&s->meta_lock);
    return rc;
}

int live_copy_switch(struct node *n, struct err *e)
{
    struct lc *s = lc_of(n);
    int rc = set_flag(s, LC_SWITCHED, e);
    if (rc == 0) {
        s->live = DST;
        lc_changed(s);
    }
    return rc;
}

int live_copy_detach(struct node *n, struct err *e)
{
    struct lc *s = lc_of(n);
    if (!(s->state.flags & LC_SWITCHED)) {
        return err_set(e, EBUSY, "Live copy '%s' has not switched to its destination yet", n->filename);
    }
    int rc = set_flag(s, LC_DETACHED, e);
    if (rc || s->detached) {
        return rc;
    }
    s->detached = true;
    bitmap_clear(s->stale, 0, s->regions);
    lc_keeper_wake(s);
    lc_side_drop(s, SRC);
    g_clear_pointer(&s->side[SRC].trouble, g_free);
    lc_changed(s);
    return 0;
}
