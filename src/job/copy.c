/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/copy.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/options.h"
#include "block/snapshot.h"
#include "job/copy_int.h"

#include <inttypes.h>
#include <string.h>

enum { MIN_GRANULARITY = 512, MAX_GRANULARITY = 64 << 20, DEFAULT_GRANULARITY = 64 << 10 };
/* After so many passes over what the guest keeps writing, guest writes go to both sides until the job has caught up. */
#define PATIENCE 3

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

/*
 * A snapshot inside of an image that is committed reads what it lacks from the images below. Where the guest uses the
 * base afterwards, that would be all of it: the commit waits as long as there is one. Called when one is taken, so
 * before any request that came after the instant. In the middle of a chain they get what is written over: guard.h.
 */
static bool kept(struct copy_job *c)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    struct node *n = c->commit && !c->switches ? node_skip_filters(c->source) : NULL,
                *base = n ? node_skip_filters(c->base) : NULL;
    while (n && n != base && node_check_no_snapshots(n, &why) == 0) {
        struct node *below = node_backing(n);
        n = below ? node_skip_filters(below) : NULL;
    }
    if (!err_is_set(&why)) {
        return false;
    }
    if (!c->kept || c->job.wait_reason != c->kept) { /* else it is being shown */
        g_free(c->kept);
        err_clear(&c->why);
        c->kept = g_strdup(err_text(&why));
    }
    c->converging = c->m->write_blocking = c->m->durable = false;
    return true;
}

/* --- the work --------------------------------------------------------------------------------------------------- */

static bool over(struct copy_job *c)
{
    return c->rc || job_is_cancelled(&c->job);
}

static bool wants_end(struct copy_job *c)
{
    return c->should_complete || job_cancel_requested(&c->job);
}

static void converge(struct copy_job *c)
{
    c->converging = true;
    c->m->write_blocking = c->m->durable = true;
}

/* The first pass, or another one over what was dirtied meanwhile, is through and nothing is under way. */
static void pass_over(struct copy_job *c)
{
    c->cursor = 0;
    if (c->passes++ == 0) {
        copy_set_stage(c, COPY_DIRTY);
    }
    if (c->switches && !c->converging) {
        uint64_t left = copy_remaining(c), rate = c->job.rate;
        bool fits = !left || (rate && (double)left * 1000.0 / (double)rate <= (double)c->downtime_limit_ms);
        if (fits || c->passes > PATIENCE) {
            c->should_complete = true;
        }
    } else if (!c->synced && c->passes > PATIENCE) {
        c->m->write_blocking = true;
    }
}

/* Until something is dirty, or nothing is unseen any more. */
static void idle(struct copy_job *c)
{
    c->idle = true;
    job_sleep(&c->job, UINT64_MAX, NULL);
    c->idle = false;
}

/*
 * Nothing is dirty, nothing under way. True when the work is done. A job is ready when the target holds all that the
 * source does and the guest's writes and flushes go to both: from then on either will do, whenever a crash comes.
 */
static bool in_step(struct copy_job *c)
{
    struct job *j = &c->job;
    bool ends = wants_end(c) && (c->synced || c->switches);

    if (ends || c->kept || (!c->synced && !c->switches)) {
        if (!c->converging) {
            converge(c);
            return false;
        }
        if (c->m->unseen) {
            idle(c);
            return false;
        }
        if (copy_flush_target(c) || mirror_dirty_bytes(c->m)) {
            return false;
        }
        if (kept(c)) {
            return false;
        }
        g_clear_pointer(&c->kept, g_free);
        if (ends) {
            c->pivoting = c->should_complete;
            return true;
        }
        if (!c->synced && !c->switches) {
            c->synced = true;
            job_progress_remaining(j, 0);
            job_ready(j);
        }
        return false;
    }
    idle(c);
    return false;
}

/* One turn of the loop below: starts a request, or waits for whatever holds it back. True when the work is done. */
static bool turn(struct copy_job *c)
{
    struct job *j = &c->job;
    uint64_t off = c->cursor, len, now = loop_now_ns(), delay;

    job_progress_remaining(j, copy_remaining(c) + c->empty);
    if (c->held) {
        job_sleep(j, UINT64_MAX, "held back by a drain");
        return false;
    }
    if (kept(c)) {
        job_sleep(j, UINT64_MAX, c->kept);
        return false;
    }
    bool guarded = copy_look(c);
    if (guarded && c->guard.making) {
        job_sleep(j, UINT64_MAX, "waits for a snapshot of the image that is being made");
        return false;
    }
    if (c->retry_ns > now) {
        job_sleep(j, c->retry_ns - now, "tries again after an error");
        return false;
    }
    if (wants_end(c) && !c->converging && (c->synced || c->switches)) {
        converge(c);
    }
    if (!copy_next(c, &off, &len, UINT32_MAX)) {
        if (c->ops) {
            if (c->stage == COPY_BULK) {
                copy_set_stage(c, COPY_BULK_FINISHED);
            } else {
                job_sleep(j, UINT64_MAX, NULL);
            }
            return false;
        }
        if (guarded && mirror_dirty_bytes(c->m)) {
            copy_make_safe(c);
            c->cursor = 0;
            return false;
        }
        if (c->stage == COPY_BULK) {
            copy_set_stage(c, COPY_BULK_FINISHED);
            return false;
        }
        pass_over(c);
        return !mirror_dirty_bytes(c->m) && !c->held && in_step(c);
    }
    if ((delay = job_speed_delay(j))) {
        job_sleep(j, delay, "limited by its speed");
        return false;
    }
    if (!copy_may_dispatch(c)) {
        job_sleep(j, UINT64_MAX, NULL);
        return false;
    }
    copy_dispatch(c);
    return false;
}

static int run(struct job *j, struct err *e)
{
    struct copy_job *c = copy_of(j);

    if (!c->scanned && (c->sync == COPY_FULL || c->sync == COPY_TOP)) {
        copy_scan(c);
        if (c->commit && c->switches) { /* goes from the image's beginning to its end, as people know a commit */
            c->empty = c->source->size - min_u64(c->source->size, mirror_dirty_bytes(c->m));
        }
    }
    if (!over(c)) {
        c->scanned = true;
        copy_set_stage(c, COPY_BULK);
    }
    while (!over(c) && !turn(c)) {
        job_pause_point(j);
    }
    if (c->commit) {
        chain_set_ending(c->m->node);
    }
    copy_wait_ops(c);
    if (!over(c)) {
        job_progress(j, c->empty);
        c->empty = 0;
    }
    job_progress_remaining(j, copy_remaining(c) + c->empty);
    return copy_error(c, e);
}

/* --- verbs ------------------------------------------------------------------------------------------------------ */

static int complete(struct job *j, struct err *e)
{
    struct copy_job *c = copy_of(j);

    if (!c->synced) {
        return err_set(e, EBUSY, "The active block job '%s' cannot be completed", j->id);
    }
    c->should_complete = true;
    job_kick(j);
    return 0;
}

/* A mirror that is ready ends well without a switch when it is asked softly. */
static bool cancel(struct job *j, bool force)
{
    force |= !job_is_ready(j);
    if (force && !copy_of(j)->impatient) {
        copy_of(j)->impatient = true;
        node_set_patience(copy_of(j)->target, false);
    }
    return force;
}

static void pause_ops(struct job *j)
{
    copy_wait_ops(copy_of(j));
}

static int change(struct job *j, struct json_object *options, struct err *e)
{
    static const char *const modes[] = {"background", "write-blocking", NULL};
    struct copy_job *c = copy_of(j);
    struct jread r = jread_init(options, NULL, e);
    int mode = jread_enum_or(&r, "copy-mode", modes, -1);
    int rc = jread_end_lax(&r);

    if (rc) {
        return rc;
    }
    if (mode < 0) {
        return err_set(e, EINVAL, "Parameter 'copy-mode' is missing");
    }
    if (!c->converging && !c->kept && c->m) {
        c->m->write_blocking = mode;
    }
    return 0;
}

static void add_int(struct json_object *o, const char *key, uint64_t v)
{
    json_object_object_add(o, key, json_object_new_int64((int64_t)v));
}

static void query(struct job *j, struct json_object *info, bool block_info)
{
    struct copy_job *c = copy_of(j);

    if (block_info) {
        bool synced = c->synced && c->m && c->m->write_blocking && !mirror_dirty_bytes(c->m) && !c->ops;
        json_object_object_add(info, "actively-synced", json_object_new_boolean(synced));
    }
    if (c->switched && c->pause_ns) {
        add_int(info, "pause-ns", c->pause_ns);
    }
}

static void outcome(struct job *j, struct json_object *out)
{
    struct copy_job *c = copy_of(j);

    /* Under way (waiting, pending): what it will be. */
    struct node *n = c->pivoting ? c->target : c->source;
    json_object_object_add(out, "live", json_object_new_string(c->live[0] ? c->live : n ? n->name : ""));
    const char *file = c->live_filename ? c->live_filename : n ? n->filename : "";
    json_object_object_add(out, "filename", json_object_new_string(file));
    if (c->pause_ns) {
        add_int(out, "pause-ns", c->pause_ns);
    }
}

static const char *stays(const struct job *j)
{
    const struct copy_job *c = (const struct copy_job *)j;
    if (c->kept) {
        return "it waits for a snapshot's end";
    }
    if (c->guard.on) {
        return "snapshots inside of its image need what it writes over";
    }
    return (c->should_complete || c->pivoting) && !j->deferred ? "it is about to switch" : NULL;
}

static void left(struct job *j, struct job_left *out)
{
    const struct copy_job *c = copy_of(j);
    if (c->scanned && c->m) {
        *out = (struct job_left){c->m->granularity, c->m->dirty};
        if (j->deferred) { /* it waits for others */
            out->told = c->pivoting ? JOB_TOLD_TO_COMPLETE : JOB_TOLD_TO_CANCEL;
        }
    }
}

/* The target holds the rest, flushed. */
static int go_on(struct job *j, const struct job_left *l, struct err *e)
{
    struct copy_job *c = copy_of(j);
    if (bitmap_bits(l->bits) != div_round_up(c->size, l->granularity)) {
        return err_set(e, EINVAL, "what is left of it is of a disk of another size");
    }
    const struct dirty_bitmap from = {.granularity = l->granularity, .bits = (struct bitmap *)(uintptr_t)l->bits};
    bitmap_clear(c->m->dirty, 0, bitmap_bits(c->m->dirty));
    copy_mark_bitmap(c, &from);
    c->scanned = true;
    c->should_complete = l->told == JOB_TOLD_TO_COMPLETE;
    j->cancelled = l->told == JOB_TOLD_TO_CANCEL;
    return 0;
}

static void free_job(struct job *j)
{
    struct copy_job *c = copy_of(j);
    g_free(c->backing_file);
    g_free(c->kept);
    g_free(c->commit_filename);
    g_free(c->device);
    g_free(c->image);
    g_free(c->replaces);
    g_free(c->live_filename);
}

#define COPY_CALLBACKS                                                                                                 \
    .size = sizeof(struct copy_job), .block = true, .run = run, .prepare = copy_prepare, .commit = copy_commit,        \
    .abort = copy_abort, .clean = copy_clean, .free = free_job, .complete = complete, .cancel = cancel,                \
    .pause = pause_ops, .change = change, .query = query, .outcome = outcome, .stays = stays, .left = left,            \
    .go_on = go_on

static const struct job_driver copy_driver = {.type = "mirror", COPY_CALLBACKS};
static const struct job_driver commit_driver = {.type = "commit", COPY_CALLBACKS};

/* --- the beginning ----------------------------------------------------------------------------------------------- */

static void dirtied(void *opaque)
{
    struct copy_job *c = opaque;
    if (c->idle) {
        job_kick(&c->job);
    }
}

static void drained_begin(void *user)
{
    struct copy_job *c = user;
    c->held = true;
}

static void drained_end(void *user)
{
    struct copy_job *c = user;
    c->held = false;
    job_kick(&c->job);
}

static void snapshots_changed(void *user)
{
    struct copy_job *c = user;
    if (c->m && !c->job.deferred) {
        kept(c);
    }
    job_kick(&c->job);
}

static char *describe(void *user)
{
    struct copy_job *c = user;
    return c->job.id ? g_strdup_printf("%s job '%s'", c->job.drv->type, c->job.id)
                     : g_strdup("the machine's migration");
}

static const struct edge_user_ops hold_ops = {
    .drained_begin = drained_begin,
    .drained_end = drained_end,
    .snapshots_changed = snapshots_changed,
    .describe = describe,
};

/* What shows the same as n: what a filter is above, and a quorum's child that nobody else uses. */
static bool shows_the_same(struct node *n, const struct node *want)
{
    struct edge *below = node_filter_edge(n);
    bool found = n == want || (below && shows_the_same(below->child, want));
    for (guint i = 0; n->drv->children_alike && !found && i < n->children->len; i++) {
        struct node *child = ((struct edge *)g_ptr_array_index(n->children, i))->child;
        found = child->parents->len == 1 && shows_the_same(child, want);
    }
    return found;
}

int copy_check_replaces(struct node *source, struct node *target, const char *name, struct err *e)
{
    struct node *want = node_lookup(source->graph, name, e);
    if (!want) {
        return -ENOENT;
    }
    if (want->size != target->size) {
        return err_set(e, EINVAL, "cannot replace image with a mirror image of different size");
    }
    return shows_the_same(source, want)
               ? 0
               : err_set(e, EPERM,
                         "Cannot replace '%s' by a node mirrored from '%s', because it cannot be guaranteed that doing "
                         "so would not lead to an abrupt change of visible data",
                         name, source->name);
}

static int check(const struct copy_options *o, struct err *e)
{
    uint64_t g = o->granularity;

    if (g && (g < MIN_GRANULARITY || g > MAX_GRANULARITY)) {
        return err_set(e, EINVAL, "Parameter 'granularity' expects a value in range [512B, 64MB]");
    }
    if (g && !is_pow2(g)) {
        return err_set(e, EINVAL, "Parameter 'granularity' expects a power of 2");
    }
    if (o->commit) {
        return 0; /* its maker has seen to it that the target is below the source */
    }
    if (node_skip_filters(o->source) == node_skip_filters(o->target)) {
        return err_set(e, EINVAL, "Can't mirror node into itself");
    }
    if (node_reaches(o->source, o->target)) {
        return err_set(e, EINVAL, "Node '%s' cannot be the target: '%s' itself reads from it", o->target->name,
                       o->source->name);
    }
    if (o->source->size != o->target->size) {
        return err_set(e, EINVAL,
                       "Source and target image have different sizes: '%s' has %" PRIu64 " bytes, '%s' has %" PRIu64,
                       o->source->name, o->source->size, o->target->name, o->target->size);
    }
    if (o->target->read_only) {
        return err_set(e, EACCES, "Block node '%s' is read-only", o->target->name);
    }
    return o->replaces ? copy_check_replaces(o->source, o->target, o->replaces, e) : 0;
}

/* It gets the images below it when it is complete: what it does not hold must come from these. */
static bool is_alone(const struct copy_options *o)
{
    const struct node *n = node_skip_filters(o->target);
    return o->sync != COPY_FULL && !o->commit && !o->over_source && n->drv->takes_backing && !n->backing;
}

static uint32_t choose_granularity(const struct copy_options *o)
{
    struct driver_info info = {0};
    struct node *n = node_skip_filters(o->target);
    bool clusters = n->drv->get_info && n->drv->get_info(n, &info) == 0 && info.cluster_size;
    uint32_t least = clusters && is_alone(o) ? info.cluster_size : 0;

    if (o->granularity) {
        return MAX(o->granularity, least);
    }
    if (o->bitmap) {
        return MAX(o->bitmap->granularity, least);
    }
    uint64_t fits = clusters ? min_u64(max_u64(info.cluster_size, 4096), DEFAULT_GRANULARITY) : DEFAULT_GRANULARITY;
    return MAX((uint32_t)fits, least);
}

static void configure(struct copy_job *c, const struct copy_options *o)
{
    c->sync = o->sync;
    c->on_source_error = o->on_source_error;
    c->on_target_error = o->on_target_error;
    c->unmap = o->unmap;
    c->target_is_zero = o->target_is_zero;
    c->switches = o->switches;
    c->stops = o->stops;
    c->commit = o->commit;
    c->target_read_only = o->target_read_only;
    c->backing_file = g_strdup(o->backing_file);
    c->mask_protocol = o->mask_protocol;
    c->downtime_limit_ms = o->downtime_limit_ms;
    c->commit_filename = g_strdup(o->commit_filename);
    c->device = g_strdup(o->device);
    c->image = g_strdup(o->image);
    c->replaces = g_strdup(o->replaces);
    c->graph = o->source->graph;
    c->source = node_ref(o->source);
    c->target = node_ref(o->target);
    struct node *base = o->commit ? o->target : o->sync == COPY_TOP ? node_backing(o->source) : NULL;
    c->base = base ? node_ref(base) : NULL;
    c->size = o->source->size;
    c->backend = o->backend;
    c->job.speed = o->speed;
    c->job.together = o->together;
    if (o->backend) {
        memcpy(c->writes_before, o->backend->stats.wr_us_log2, sizeof(c->writes_before));
    }
}

/* A layer that others have outgrown. */
static int grow_target(struct copy_job *c, struct err *e)
{
    struct edge *ed = c->m->target;
    int rc = edge_set_perm(ed, PERM_WRITE | PERM_RESIZE, c->m->target_shared, e);
    if (rc == 0) {
        rc = edge_truncate(ed, c->size, false, PREALLOC_OFF, e);
        edge_set_perm(ed, PERM_WRITE, c->m->target_shared, NULL);
    }
    return rc;
}

/* The guest's writes to what is below the target come to the target as well. */
static int put_target_over_source(struct copy_job *c, struct err *e)
{
    struct edge_spec spec = backing_edge_spec;
    struct edge *ed;
    spec.lets = c->m->node;
    return node_attach_child(c->target, mirror_source(c->m), &spec, &ed, e);
}

static int build(struct copy_job *c, const struct copy_options *o, struct err *e)
{
    CLEANUP_FREE char *owner = describe(c);
    struct mirror_options mo = {
        .node_name = o->filter_node_name,
        .owner = owner,
        .granularity = choose_granularity(o),
        .write_blocking = o->write_blocking,
        .unmap = o->unmap,
        .into_backing = o->commit,
        .alone = is_alone(o),
        .hooks = {.dirtied = dirtied, .target_failed = copy_target_failed, .opaque = c},
    };
    int rc = 0;
    if (o->commit && o->switches) {
        c->guard = (struct guard){.top = c->source, .base = c->target, .size = c->size, .granularity = mo.granularity};
        rc = guard_init(&c->guard, e);
    }
    rc = rc ? rc : mirror_insert(c->source, c->target, &mo, &c->m, e);
    if (rc) {
        return rc;
    }
    rc = edge_open(c->m->node, &(struct edge_spec){"mirror", 0, PERM_ALL, &hold_ops, c, .pinned = true}, &c->hold, e);
    if (rc == 0 && o->over_source) {
        rc = put_target_over_source(c, e);
    }
    if (rc == 0 && c->target->size < c->size) {
        rc = grow_target(c, e);
    }
    if (rc == 0) {
        rc = copy_bufs_create(c, o->buf_size, e);
    }
    if (rc == 0 && o->sync == COPY_INCREMENTAL) {
        unsigned against = o->bitmap_mode == COPY_BITMAP_NEVER ? BITMAP_READ : BITMAP_CHANGE;
        rc = dirty_bitmap_check(o->bitmap, against, e);
    }
    if (rc == 0 && o->sync == COPY_INCREMENTAL) {
        copy_mark_bitmap(c, o->bitmap);
        c->bitmap = o->bitmap;
        c->bitmap_mode = o->bitmap_mode;
        c->bitmap->busy = true;
    }
    return rc;
}

int copy_create(struct jobs *js, const struct copy_options *o, struct job **out, struct err *e)
{
    struct job *j;
    int rc = check(o, e);

    if (rc == 0) {
        const struct job_driver *drv = o->commit ? &commit_driver : &copy_driver;
        rc = job_create(js, &(struct job_spec){o->job_id, drv, o->txn, o->flags}, &j, e);
    }
    if (rc) {
        return rc;
    }
    struct copy_job *c = copy_of(j);
    configure(c, o);
    rc = build(c, o, e);
    if (rc) {
        job_discard(j);
        return rc;
    }
    *out = j;
    return 0;
}

/* --- what others see ---------------------------------------------------------------------------------------------- */

bool copy_has_switched(const struct job *j)
{
    return ((const struct copy_job *)j)->switched;
}

static uint64_t quantile_us(const uint32_t *n, uint64_t total, double q)
{
    uint64_t below = 0;
    for (int i = 0; i < 32; i++) {
        below += n[i];
        if ((double)below >= q * (double)total) {
            return 2ull << i;
        }
    }
    return 0;
}

static void guest_stats(const struct copy_job *c, struct copy_progress *out)
{
    uint32_t n[32];

    /* The device may have been unplugged since. */
    if (!c->backend || !c->graph || !g_ptr_array_find(graph_backends(c->graph), c->backend, NULL)) {
        return;
    }
    for (int i = 0; i < 32; i++) {
        n[i] = c->backend->stats.wr_us_log2[i] - c->writes_before[i];
        out->guest_writes += n[i];
    }
    if (out->guest_writes) {
        out->guest_p50_us = quantile_us(n, out->guest_writes, 0.5);
        out->guest_p99_us = quantile_us(n, out->guest_writes, 0.99);
    }
}

void copy_get_progress(struct job *j, struct copy_progress *out)
{
    struct copy_job *c = copy_of(j);
    uint64_t left = c->m ? copy_remaining(c) : j->progress_total - j->progress_done;

    *out = (struct copy_progress){
        .stage = c->stage,
        .transferred = j->progress_done,
        .remaining = left,
        .total = j->progress_done + left,
        .rate = j->rate,
        .pause_ns = c->pause_ns,
    };
    out->eta_ms = !left ? 0 : j->rate ? (uint64_t)((double)left * 1000.0 / (double)j->rate) : UINT64_MAX;
    out->downtime_ms = out->eta_ms;
    if (j->status < JOB_CONCLUDED) {
        guest_stats(c, out);
    }
}
