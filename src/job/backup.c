/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/backup.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/debug.h"
#include "block/driver.h"

enum { CHUNK = 1 << 20, WORKERS = 8 };
#define ZERO_RUN (8ull << 30)
#define LOOK_RUN (1ull << 40)
#define RETRY_NS 100000000ull

struct backup_job {
    struct job job;
    enum backup_sync sync;
    enum backup_bitmap_mode bitmap_mode;
    enum job_on_error on_source_error, on_target_error;
    unsigned workers;
    uint64_t max_chunk;
    struct node *source, *target; /* references; NULL after clean */
    struct cbw *c;
    struct edge *hold;                   /* on the filter: tells of drains */
    struct dirty_bitmap *bitmap, *since; /* of the source; since: what was written after the instant */
    bool complete;                       /* all went well */
    bool discard_source;
    /* the work */
    uint64_t cursor, op_bytes, counted, retry_ns;
    unsigned ops;
    struct co_queue ops_idle;
    bool held;
    int rc; /* the error that ends the job */
};

static struct backup_job *backup_of(struct job *j)
{
    return (struct backup_job *)j;
}

/* --- one piece ---------------------------------------------------------------------------------------------------- */

struct op {
    struct backup_job *b;
    uint64_t off, len;
};

static void failed(struct backup_job *b, int rc)
{
    bool is_read = b->c->is_read;
    switch (job_error(&b->job, is_read ? b->on_source_error : b->on_target_error, is_read, rc)) {
    case JOB_ACTION_REPORT:
        b->rc = b->rc ? b->rc : rc;
        break;
    case JOB_ACTION_IGNORE:
        b->retry_ns = loop_now_ns() + RETRY_NS;
        break;
    case JOB_ACTION_STOP:
        break;
    }
}

static void op_entry(void *opaque)
{
    struct op *op = opaque;
    struct backup_job *b = op->b;
    int rc = cbw_copy(b->c, op->off, op->len);
    if (rc < 0 && b->c->broken) {
        b->rc = rc; /* for good */
    } else if (rc < 0) {
        b->cursor = min_u64(b->cursor, op->off);
        failed(b, rc);
    } else {
        if (b->discard_source) {
            snapshot_access_forget(b->c->node->file->child, op->off, op->len); /* at worst it stays */
        }
        job_progress(&b->job, op->len);
    }
    b->op_bytes -= op->len;
    b->ops--; /* nothing waits from here on: the job may end */
    g_free(op);
    co_queue_wake_all(&b->ops_idle);
    job_kick(&b->job);
}

/* Data goes in chunks, so that no write of the guest waits long for one; what reads as zeroes goes in one. */
static uint64_t piece(struct backup_job *b, uint64_t off, uint64_t len)
{
    struct extent x;
    uint64_t chunk = max_u64(b->max_chunk, b->c->granularity);
    int rc = node_status_above(b->source, NULL, off, len, &x, NULL);
    if (rc == 0 && (x.flags & EXT_ZERO)) {
        chunk = max_u64(chunk, round_down(x.len, b->c->granularity));
    }
    return min_u64(len, chunk);
}

static void start_op(struct backup_job *b, uint64_t off, uint64_t len)
{
    struct op *op = g_new(struct op, 1);
    *op = (struct op){b, off, len};
    b->ops++;
    b->op_bytes += len;
    b->cursor = off + len;
    job_speed_account(&b->job, len);
    co_start(jobs_loop(b->job.jobs), op_entry, op);
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

/* sync=top: what the top layer does not hold is left out. Granules that it holds a part of are copied whole. */
static int skip_what_is_below(struct backup_job *b)
{
    struct node *top = node_skip_filters(b->source);
    uint64_t size = b->source->size, g = b->c->granularity;
    for (uint64_t off = 0; off < size && !job_is_cancelled(&b->job);) {
        struct extent x;
        int rc = node_status(top, false, off, min_u64(size - off, LOOK_RUN), &x);
        if (rc) {
            return rc;
        }
        uint64_t end = off + x.len, lo = round_up(off, g), hi = end == size ? end : round_down(end, g);
        if (!(x.flags & EXT_ALLOCATED) && lo < hi) {
            cbw_skip(b->c, lo, hi - lo);
        }
        off = end;
        job_pause_point(&b->job);
    }
    return 0;
}

static bool waited(struct backup_job *b)
{
    struct job *j = &b->job;
    uint64_t now = loop_now_ns(), delay;
    if (b->held) {
        job_sleep(j, UINT64_MAX, "held back by a drain");
    } else if (b->retry_ns > now) {
        job_sleep(j, b->retry_ns - now, "tries again after an error");
    } else if ((delay = job_speed_delay(j))) {
        job_sleep(j, delay, "limited by its speed");
    } else if (b->ops >= b->workers) {
        job_sleep(j, UINT64_MAX, NULL);
    } else {
        return false;
    }
    return true;
}

static void tell_progress(struct backup_job *b)
{
    job_progress(&b->job, b->c->copied - b->counted);
    b->counted = b->c->copied;
    job_progress_remaining(&b->job, cbw_left(b->c));
}

static bool over(const struct backup_job *b)
{
    return b->rc || b->c->broken || job_is_cancelled(&b->job);
}

/* True when nothing is left. */
static bool turn(struct backup_job *b)
{
    uint64_t off = b->cursor, len;
    tell_progress(b);
    if (!cbw_next(b->c, &off, &len, ZERO_RUN)) {
        if (b->ops) {
            job_sleep(&b->job, UINT64_MAX, NULL);
            return false;
        }
        b->cursor = 0;
        return !cbw_left(b->c);
    }
    if (!waited(b)) {
        start_op(b, off, piece(b, off, len));
    }
    return false;
}

static void wait_ops(struct backup_job *b)
{
    while (b->ops) {
        co_queue_wait(&b->ops_idle);
    }
}

static int run(struct job *j, struct err *e)
{
    struct backup_job *b = backup_of(j);
    if (b->sync == BACKUP_TOP) {
        b->rc = skip_what_is_below(b);
    }
    block_debug_event(b->source, "backup_start");
    while (b->sync == BACKUP_NONE && !over(b)) { /* somebody else reads what was; until told to end */
        tell_progress(b);
        job_sleep(j, 100000000, NULL);
    }
    while (!over(b) && !turn(b)) {
        job_pause_point(j);
    }
    wait_ops(b);
    tell_progress(b);
    int rc = b->rc ? b->rc : b->c->broken;
    while (!rc && !job_is_cancelled(j) && (rc = edge_flush(b->c->target)) < 0) {
        b->c->is_read = false;
        failed(b, rc);
        rc = b->rc;
        job_sleep(j, RETRY_NS, "tries again after an error");
    }
    return rc;
}

static void pause_ops(struct job *j)
{
    wait_ops(backup_of(j));
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static int set_back(struct backup_job *b, struct err *e)
{
    struct bitmap_saved saved;
    uint64_t off = 0, len;
    int rc = dirty_bitmap_hold(b->bitmap, &saved, e);
    if (rc) {
        return rc;
    }
    rc = dirty_bitmap_reset(b->bitmap, e);
    rc = rc ? rc : dirty_bitmap_merge(b->bitmap, b->since, e);
    for (; rc == 0 && !b->complete && cbw_next(b->c, &off, &len, UINT64_MAX); off += len) {
        dirty_bitmap_set(b->bitmap, off, len);
    }
    (rc ? dirty_bitmap_put_back : dirty_bitmap_keep)(b->bitmap, &saved);
    return rc;
}

static void settle_bitmap(struct backup_job *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!b->bitmap) {
        return;
    }
    b->bitmap->busy = false;
    bool back = b->complete ? b->bitmap_mode != BACKUP_NEVER : b->bitmap_mode == BACKUP_ALWAYS;
    if (back && b->c && b->job.started) {
        node_drain_begin(b->source);
        if (set_back(b, &e)) {
            log_warn(jobs_log(b->job.jobs), "job '%s': bitmap '%s' claims more than is dirty: %s", b->job.id,
                     b->bitmap->name, err_text(&e));
        }
        node_drain_end(b->source);
    }
    dirty_bitmap_destroy(take(b->since));
    b->bitmap = NULL;
}

static void commit(struct job *j)
{
    backup_of(j)->complete = true;
}

static void remove_filter(struct backup_job *b)
{
    struct node *n = b->c->node;
    CLEANUP_ERR struct err e = ERR_INIT;
    node_drain_begin(n);
    cbw_detach(b->c);
    node_drain_end(n);
    if (n->parents->len > (b->hold ? 1 : 0) && edge_bypass(n->file, &e)) {
        log_error(jobs_log(b->job.jobs), "job '%s': its filter stays: %s", b->job.id, err_text(&e));
    }
    edge_close(take(b->hold));
    b->c = NULL;
    node_unref(n);
}

static void clean(struct job *j)
{
    struct backup_job *b = backup_of(j);
    settle_bitmap(b);
    if (b->c) {
        remove_filter(b);
    }
    node_unref(take(b->source));
    node_unref(take(b->target));
}

static const char *stays(const struct job *j)
{
    const struct backup_job *b = (const struct backup_job *)j;
    return b->c && b->c->broken ? "it is broken" : NULL;
}

static void left(struct job *j, struct job_left *out)
{
    const struct backup_job *b = backup_of(j);
    if (b->c) {
        *out = (struct job_left){b->c->granularity, b->c->todo, b->since ? b->since->granularity : 0,
                                 b->since ? b->since->bits : NULL};
    }
}

/* The target holds the rest as it was at the instant, and the disk has not been written to since the other one stood
 * still. */
static int go_on(struct job *j, const struct job_left *l, struct err *e)
{
    struct backup_job *b = backup_of(j);
    uint64_t bits = bitmap_bits(l->bits), g = l->granularity;
    if (g != b->c->granularity || bits != bitmap_bits(b->c->todo)) {
        return err_set(e, EINVAL, "its target is of another kind here, and cannot take the rest");
    }
    if (b->since) {
        if (!l->since || l->since_granularity != b->since->granularity ||
            bitmap_bits(l->since) != bitmap_bits(b->since->bits)) {
            return err_set(e, EINVAL, "its bitmap '%s' is another one here", b->bitmap->name);
        }
        bitmap_or(b->since->bits, l->since);
    }
    for (uint64_t bit = 0; (bit = bitmap_next_clear(l->bits, bit, bits)) < bits;) {
        uint64_t end = bitmap_next_set(l->bits, bit, bits);
        cbw_skip(b->c, bit * g, min_u64(end * g, b->source->size) - bit * g);
        bit = end;
    }
    return 0;
}

static bool cancel(struct job *j, bool force)
{
    cbw_give_up(backup_of(j)->c);
    return true;
}

static const struct job_driver backup_driver = {
    .type = "backup",
    .size = sizeof(struct backup_job),
    .block = true,
    .run = run,
    .commit = commit,
    .clean = clean,
    .pause = pause_ops,
    .cancel = cancel,
    .stays = stays,
    .left = left,
    .go_on = go_on,
};

/* --- the beginning ------------------------------------------------------------------------------------------------ */

static void drained_begin(void *user)
{
    struct backup_job *b = user;
    b->held = true;
}

static void drained_end(void *user)
{
    struct backup_job *b = user;
    b->held = false;
    job_kick(&b->job);
}

static char *describe(void *user)
{
    struct backup_job *b = user;
    return g_strdup_printf("backup job '%s'", b->job.id);
}

static const struct edge_user_ops hold_ops = {
    .drained_begin = drained_begin, .drained_end = drained_end, .describe = describe};

static int check(const struct backup_options *o, struct err *e)
{
    if (node_skip_filters(o->source) == node_skip_filters(o->target)) {
        return err_set(e, EINVAL, "Source and target cannot be the same");
    }
    if (o->discard_source && !node_is_snapshot_access(o->source)) {
        return err_set(
            e, EINVAL,
            "Parameter 'discard-source' needs a snapshot-access node as the source: of '%s' others would lose "
            "their data",
            o->source->name);
    }
    if (o->target->read_only) {
        return err_set(e, EACCES, "Block node '%s' is read-only", o->target->name);
    }
    if (node_reaches(o->source, o->target)) {
        return err_set(e, EINVAL, "Node '%s' cannot be the target: '%s' itself reads from it", o->target->name,
                       o->source->name);
    }
    if (o->source->size != o->target->size) {
        return err_set(e, EINVAL, "Source and target image have different sizes");
    }
    return o->bitmap
               ? dirty_bitmap_check(o->bitmap, BITMAP_CHANGE & (o->bitmap_mode == BACKUP_NEVER ? BITMAP_READ : ~0u), e)
               : 0;
}

static void copy_only_dirty(struct backup_job *b)
{
    uint64_t off = 0, len, clean_from = 0;
    for (; dirty_bitmap_next(b->bitmap, &off, &len, b->source->size, UINT64_MAX); off += len) {
        uint64_t g = b->c->granularity, lo = round_up(clean_from, g), hi = round_down(off, g);
        if (lo < hi) {
            cbw_skip(b->c, lo, hi - lo);
        }
        clean_from = off + len;
    }
    uint64_t lo = round_up(clean_from, b->c->granularity);
    if (lo < b->source->size) {
        cbw_skip(b->c, lo, b->source->size - lo);
    }
}

/* The source is drained. */
static int take_bitmap(struct backup_job *b, const struct backup_options *o, struct err *e)
{
    int rc = dirty_bitmap_create(o->bitmap->node, NULL, o->bitmap->granularity, &b->since, e);
    if (rc) {
        return rc;
    }
    b->since->enabled = o->bitmap->enabled;
    b->bitmap = o->bitmap;
    b->bitmap->busy = true;
    if (o->sync == BACKUP_INCREMENTAL || o->sync == BACKUP_BITMAP) {
        copy_only_dirty(b);
    }
    return 0;
}

/* What the target is not given comes from an image that is put below it later. */
static bool target_is_alone(const struct backup_options *o)
{
    const struct node *n = node_skip_filters(o->target);
    return o->sync != BACKUP_FULL && o->sync != BACKUP_NONE && n->drv->takes_backing && !n->backing;
}

static int build(struct backup_job *b, const struct backup_options *o, struct err *e)
{
    CLEANUP_FREE char *owner = describe(b);
    struct cbw_options co = {o->filter_node_name,         owner,
                             .on_error = o->on_cbw_error, .compress = o->compress,
                             .by_host = o->by_host,       .alone = target_is_alone(o)};
    int rc = cbw_insert(b->source, b->target, &co, &b->c, e);
    if (rc == 0) {
        rc = edge_open(b->c->node, &(struct edge_spec){"backup", 0, PERM_ALL, &hold_ops, b, .pinned = true}, &b->hold,
                       e);
    }
    if (rc == 0 && o->bitmap) {
        rc = take_bitmap(b, o, e);
    }
    return rc;
}

int backup_create(struct jobs *js, const struct backup_options *o, struct job **out, struct err *e)
{
    struct job *j;
    struct job_spec spec = {.id = o->job_id, .drv = &backup_driver, .txn = o->txn, .flags = o->flags};
    int rc = check(o, e);
    rc = rc ? rc : job_create(js, &spec, &j, e);
    if (rc) {
        return rc;
    }
    struct backup_job *b = backup_of(j);
    b->sync = o->sync;
    b->bitmap_mode = o->bitmap_mode;
    b->discard_source = o->discard_source;
    b->on_source_error = o->on_source_error;
    b->on_target_error = o->on_target_error;
    b->workers = o->workers ? o->workers : WORKERS;
    b->max_chunk = o->max_chunk ? o->max_chunk : CHUNK;
    b->job.speed = o->speed;
    b->source = node_ref(o->source);
    b->target = node_ref(o->target);
    struct node *still = o->source;
    node_drain_begin(still);
    rc = build(b, o, e);
    node_drain_end(still);
    if (rc) {
        job_discard(j);
        return rc;
    }
    job_progress_remaining(j, cbw_left(b->c));
    *out = j;
    return 0;
}
