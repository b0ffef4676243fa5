/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/stream.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/chain.h"
#include "block/debug.h"
#include "block/driver.h"
#include "block/snapshot.h"
#include "block/view.h"
#include "job/fill.h"

#include <inttypes.h>

enum { PIECE = 1 << 20, LIMITED_PIECE = 512 << 10, SMALL_PIECE = 64 << 10, PARALLEL = 4 };
#define LOOK_RUN (1ull << 40)

struct range {
    uint64_t off, len;
};

struct stream_job {
    struct job job;
    struct block_graph *graph;
    struct node *top, *bottom, *filter; /* references; bottom NULL: all of the chain */
    struct edge *reader;                /* on the filter */
    char *backing_file;
    bool mask_protocol;
    uint64_t began; /* chain_now() */
    enum job_on_error on_error;
    bool writable_for_us; /* the node was read-only before */
    bool filling;         /* snapshots inside of top */
    /* the work */
    uint64_t cursor; /* what lies before has been dealt with, or is under way, or in `again` */
    GArray *again;   /* struct range: what failed and is tried again */
    unsigned ops;
    uint64_t op_bytes;
    struct co_queue ops_idle;
    bool held;
    int rc; /* the first error that is not tried again; the backing file stays then */
    bool gives_up;
    /* what the guest does */
    uint64_t idle_ns, busy_at_ns, seen, own;
};

struct op {
    struct stream_job *s;
    struct range r;
};

static struct stream_job *stream_of(struct job *j)
{
    return (struct stream_job *)j;
}

/* --- what there is to do ----------------------------------------------------------------------------------------- */

/* What must be read through the filter: *copy; x->len: bytes from `off` that are alike. */
static int look(struct node *top, struct node *bottom, uint64_t off, struct extent *x, bool *copy)
{
    *copy = false;
    int rc = node_status(top, false, off, min_u64(top->size - off, LOOK_RUN), x);
    struct node *below = node_backing(top);
    if (rc || (x->flags & EXT_ALLOCATED) || !below || top == bottom) {
        return rc;
    }
    return chain_missing(below, bottom ? node_backing(bottom) : NULL, off, x->len, x, copy);
}

/* The whole clusters around a range that is not larger than one. */
static uint64_t piece_end(const struct node *top, uint64_t off, uint64_t len, uint64_t most)
{
    return min_u64(off + min_u64(len, most - off % most), top->size);
}

/* --- one piece ---------------------------------------------------------------------------------------------------- */

static void failed(struct stream_job *s, const struct range *r, int rc)
{
    switch (job_error(&s->job, s->on_error, true, rc)) {
    case JOB_ACTION_STOP:
        g_array_append_val(s->again, *r);
        break;
    case JOB_ACTION_IGNORE:
        s->rc = s->rc ? s->rc : rc;
        job_progress(&s->job, r->len);
        break;
    case JOB_ACTION_REPORT:
        s->rc = s->rc ? s->rc : rc;
        s->gives_up = true;
        break;
    }
}

static void op_entry(void *opaque)
{
    struct op *op = opaque;
    struct stream_job *s = op->s;
    co_set_idle_io(s->idle_ns != 0);
    int rc = edge_read(s->reader, op->r.off, op->r.len, NULL, 0, REQ_PREFETCH);
    s->own++;
    if (rc == 0 && op->r.len >= PIECE) {
        node_start_writeback(s->top, op->r.off, op->r.len); /* all of it must be there in the end */
    }
    if (rc < 0) {
        failed(s, &op->r, rc);
    } else {
        job_progress(&s->job, op->r.len);
    }
    s->op_bytes -= op->r.len;
    s->ops--; /* nothing waits from here on: the job may end */
    g_free(op);
    co_queue_wake_all(&s->ops_idle);
    job_kick(&s->job);
}

static void start_op(struct stream_job *s, struct range r)
{
    struct op *op = g_new(struct op, 1);
    *op = (struct op){s, r};
    s->ops++;
    s->op_bytes += r.len;
    job_speed_account(&s->job, r.len);
    co_start(jobs_loop(s->job.jobs), op_entry, op);
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

static uint64_t requests(const struct node *n)
{
    const struct node_stats *st = &n->stats;
    return st->rd_ops + st->wr_ops + st->flush_ops + st->discard_ops + st->zero_ops;
}

/* How long until the guest has been quiet for long enough; 0: it has. */
static uint64_t idle_delay(struct stream_job *s)
{
    if (!s->idle_ns) {
        return 0;
    }
    uint64_t now = loop_now_ns(), seen = requests(s->filter) - s->own;
    if (seen != s->seen || s->filter->in_flight > s->ops) {
        s->seen = seen;
        s->busy_at_ns = now;
    }
    return now - s->busy_at_ns >= s->idle_ns ? 0 : s->idle_ns - (now - s->busy_at_ns);
}

/* What holds the job back, if anything does: it has waited. */
static bool waited(struct stream_job *s)
{
    struct job *j = &s->job;
    uint64_t delay;
    if (s->held) {
        job_sleep(j, UINT64_MAX, "held back by a drain");
    } else if ((delay = job_speed_delay(j))) {
        job_sleep(j, delay, "limited by its speed");
    } else if (s->ops >= (s->idle_ns ? 1 : PARALLEL)) {
        job_sleep(j, UINT64_MAX, NULL);
    } else if ((delay = idle_delay(s))) {
        job_sleep(j, delay, "waits for the guest to be idle");
    } else {
        return false;
    }
    return true;
}

static bool over(const struct stream_job *s)
{
    return s->gives_up || job_is_cancelled(&s->job);
}

/* The next piece waits until this one has been paid for: with a limit it is no larger than QEMU's. */
static uint64_t piece(const struct stream_job *s)
{
    return s->idle_ns ? SMALL_PIECE : s->job.speed ? LIMITED_PIECE : PIECE;
}

static void next(struct stream_job *s)
{
    struct extent x = {0};
    bool copy = false;
    uint64_t off = s->cursor;
    int rc = look(s->top, s->bottom, off, &x, &copy);
    if (rc < 0) { /* reading it will meet the error, too */
        copy = true;
        x.len = min_u64(s->top->size - off, SMALL_PIECE);
    }
    struct range r = {off, x.len};
    if (copy) {
        r.len = piece_end(s->top, off, x.len, piece(s)) - off;
    }
    s->cursor = off + r.len;
    if (copy) {
        start_op(s, r);
    } else {
        job_progress(&s->job, r.len);
    }
}

static bool work_left(const struct stream_job *s)
{
    return s->again->len || s->cursor < s->top->size;
}

static void turn(struct stream_job *s)
{
    uint64_t again = 0;
    for (guint i = 0; i < s->again->len; i++) {
        again += g_array_index(s->again, struct range, i).len;
    }
    job_progress_remaining(&s->job, s->top->size - s->cursor + s->op_bytes + again);
    if (!work_left(s)) {
        job_sleep(&s->job, UINT64_MAX, NULL); /* for the last ones */
    } else if (waited(s)) {
        return;
    } else if (s->again->len) {
        struct range r = g_array_index(s->again, struct range, s->again->len - 1);
        g_array_set_size(s->again, s->again->len - 1);
        start_op(s, r);
    } else {
        next(s);
    }
}

static void wait_ops(struct stream_job *s)
{
    while (s->ops) {
        co_queue_wait(&s->ops_idle);
    }
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

/* What the top leads to in the end; NULL: nothing. */
static int find_base(struct stream_job *s, struct node **base, struct err *e)
{
    *base = NULL;
    if (!s->bottom) {
        return 0;
    }
    struct node *n = node_backing(s->bottom);
    while (n && !chain_contains(s->top, n)) { /* what was merged into a layer below kept its place above that */
        n = node_backing(n);
    }
    struct node *filled = chain_absorbed_since(s->top, n, s->began);
    if (filled) { /* behind our back, with what is below our base: it stays */
        g_clear_pointer(&s->backing_file, g_free);
        n = filled;
    }
    *base = n;
    return n || chain_contains(s->top, s->bottom)
               ? 0
               : err_set(e, EINVAL, "Node '%s' is not in a chain starting from '%s' any more", s->bottom->name,
                         s->top->name);
}

/* Whether the link is going to move. */
static bool moves_link(const struct stream_job *s)
{
    return s->top->backing && s->bottom != s->top;
}

/*
 * What is streamed is the active image's: snapshots inside of it go on reading from below, and what they read there is
 * copied for them, too. Those that are taken from now on need nothing.
 */
static int see_to_snapshots(struct stream_job *s, struct err *e)
{
    while (!over(s) && moves_link(s) && node_check_no_snapshots(s->top, NULL)) {
        struct node *base;
        if (!s->top->snapshots_making) {
            int rc = find_base(s, &base, e);
            s->filling = true;
            rc = rc ? rc : job_fill_snapshots(&s->job, s->top, base, e);
            s->filling = false;
            return rc;
        }
        job_sleep(&s->job, UINT64_MAX, "waits for a snapshot of the image that is being made");
    }
    return 0;
}

static int run(struct job *j, struct err *e)
{
    struct stream_job *s = stream_of(j);
    uint64_t slice = loop_now_ns();
    co_set_idle_io(s->idle_ns != 0);
    while (!over(s) && (work_left(s) || s->ops)) {
        turn(s);
        job_pause_point(j);
        if (loop_now_ns() - slice > 1000000) { /* extents are looked up without waiting */
            co_yield ();
            slice = loop_now_ns();
        }
    }
    wait_ops(s);
    co_set_idle_io(false);
    return s->rc ? s->rc : see_to_snapshots(s, e);
}

static void pause_ops(struct job *j)
{
    wait_ops(stream_of(j));
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

/* The node is drained. */
static int move_link(struct stream_job *s, struct node *base, struct err *e)
{
    struct node *top = s->top;
    CLEANUP_FREE char *old_file = g_strdup(top->backing_filename);
    CLEANUP_FREE char *old_format = g_strdup(top->backing_format);
    block_debug_event(top, "stream_link");
    int rc = chain_set_link(top, chain_link_to(base, s->backing_file, s->mask_protocol), e);
    if (rc == 0 && base) {
        rc = edge_shorten(top->backing, base, e);
        if (rc) {
            chain_set_link(top, (struct chain_link){old_file, old_format}, NULL);
        }
    } else if (rc == 0) {
        node_detach_child(top, top->backing);
    }
    if (rc == 0) {
        chain_absorbed(top);
    }
    return rc;
}

static int prepare(struct job *j, struct err *e)
{
    struct stream_job *s = stream_of(j);
    struct node *top = s->top, *base;
    if (!moves_link(s)) {
        return 0;
    }
    int rc = find_base(s, &base, e);
    if (rc || base == top->backing->child) {
        return rc;
    }
    if (base) {
        node_ref(base);
    }
    node_drain_begin(top);
    rc = move_link(s, base, e);
    node_drain_end(top);
    node_unref(base);
    return rc;
}

static void remove_filter(struct stream_job *s)
{
    struct node *n = s->filter;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (n->parents->len > (s->reader ? 1 : 0) && edge_bypass(n->file, &e)) {
        log_error(jobs_log(s->job.jobs), "job '%s': its filter stays: %s", s->job.id, err_text(&e));
    }
    edge_close(take(s->reader));
    node_unref(take(s->filter));
}

static void clean(struct job *j)
{
    struct stream_job *s = stream_of(j);
    CLEANUP_ERR struct err e = ERR_INIT;
    if (s->filter) {
        remove_filter(s);
    }
    if (s->writable_for_us && node_set_read_only(s->top, true, &e)) {
        log_warn(jobs_log(j->jobs), "job '%s': node '%s' stays writable: %s", j->id, s->top->name, err_text(&e));
    }
    node_unref(take(s->bottom));
    node_unref(take(s->top));
}

static void free_job(struct job *j)
{
    struct stream_job *s = stream_of(j);
    g_free(s->backing_file);
    g_array_unref(s->again);
}

/* What has been brought over is in the image, and is not asked for again. */
static const char *stays(const struct job *j)
{
    const struct stream_job *s = (const struct stream_job *)j;
    return s->rc        ? "it has failed in part"
           : s->filling ? "it copies what snapshots inside of the image need of those below"
                        : NULL;
}

static const struct job_driver stream_driver = {
    .type = "stream",
    .size = sizeof(struct stream_job),
    .block = true,
    .run = run,
    .prepare = prepare,
    .clean = clean,
    .free = free_job,
    .pause = pause_ops,
    .stays = stays,
};

/* --- the beginning ------------------------------------------------------------------------------------------------ */

static void drained_begin(void *user)
{
    struct stream_job *s = user;
    s->held = true;
}

static void drained_end(void *user)
{
    struct stream_job *s = user;
    s->held = false;
    job_kick(&s->job);
}

static void snapshots_changed(void *user)
{
    struct stream_job *s = user;
    job_kick(&s->job);
}

static char *describe(void *user)
{
    struct stream_job *s = user;
    return s->job.id ? g_strdup_printf("stream job '%s'", s->job.id) : g_strdup("the machine's migration");
}

static const struct edge_user_ops reader_ops = {
    .drained_begin = drained_begin,
    .drained_end = drained_end,
    .snapshots_changed = snapshots_changed,
    .describe = describe,
};

static int open_filter(struct node *top, struct node *bottom, const char *name, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("copy-on-read"));
    json_object_object_add(o, "file", json_object_new_string(top->name));
    json_object_object_add(o, "read-only", json_object_new_boolean(false));
    json_object_object_add(o, "active", json_object_new_boolean(!top->inactive));
    if (bottom) {
        json_object_object_add(o, "bottom", json_object_new_string(bottom->name));
    }
    if (name) {
        json_object_object_add(o, "node-name", json_object_new_string(name));
    }
    return node_open(top->graph, o, out, e);
}

/* Opened above `top`, whose users all go through it from now on. Takes `owner`. */
static int insert_filter(struct node *top, struct node *bottom, const char *name, char *owner, struct node **out,
                         struct err *e)
{
    struct node *n = NULL;
    int rc = open_filter(top, bottom, name, &n, e);
    if (rc) {
        g_free(owner);
        return rc;
    }
    n->owner = owner;
    n->file->pinned = true; /* it is this node that is filled */
    rc = node_replace(top, n, NULL, e);
    if (rc) {
        node_unref(n);
        return rc;
    }
    *out = n;
    return 0;
}

static int build(struct stream_job *s, const struct stream_options *o, struct err *e)
{
    int rc = 0;
    if (s->top->read_only) {
        rc = node_set_read_only(s->top, false, e);
        s->writable_for_us = rc == 0;
    }
    if (rc == 0) {
        rc = insert_filter(s->top, s->bottom, o->filter_node_name, describe(s), &s->filter, e);
    }
    if (rc == 0) {
        rc = edge_open(s->filter, &(struct edge_spec){"stream", PERM_READ, PERM_ALL, &reader_ops, s, .pinned = true},
                       &s->reader, e);
    }
    return rc;
}

static int find_bottom(struct node *top, const struct stream_options *o, struct node **out, struct err *e)
{
    *out = o->bottom;
    if (o->bottom && o->bottom->drv->is_filter) {
        return err_set(e, EINVAL, "Node '%s' is a filter, use a non-filter node as 'bottom'", o->bottom->name);
    }
    if (o->bottom && !chain_contains(top, o->bottom)) {
        return err_set(e, EINVAL, "Node '%s' is not in a chain starting from '%s'", o->bottom->name, o->top->name);
    }
    if (o->base) {
        *out = chain_layer_above(top, o->base);
        if (!*out) {
            return err_set(e, EINVAL, "Node '%s' is not a backing image of '%s'", o->base->name, o->top->name);
        }
    }
    struct node *other = chain_pinned_filter(top);
    if (other) {
        CLEANUP_FREE char *who = edge_describe(node_filter_edge(other));
        return err_set(e, EBUSY, "Node '%s' is in use by %s, which changes what is in it and below it", top->name, who);
    }
    if (*out && !(*out)->backing) {
        *out = NULL; /* the whole chain after all */
    }
    if (!*out && o->backing_file) {
        return err_set(e, EINVAL, "backing file specified, but streaming the entire chain");
    }
    return 0;
}

int stream_create(struct jobs *js, const struct stream_options *o, struct job **out, struct err *e)
{
    struct node *top = node_skip_filters(o->top), *bottom = NULL;
    struct job *j;
    int rc = find_bottom(top, o, &bottom, e);
    if (rc == 0) {
        rc = job_create(js, &(struct job_spec){o->job_id, &stream_driver, o->txn, o->flags}, &j, e);
    }
    if (rc) {
        return rc;
    }
    struct stream_job *s = stream_of(j);
    s->graph = top->graph;
    s->began = chain_now(top->graph);
    s->top = node_ref(top);
    s->bottom = bottom ? node_ref(bottom) : NULL;
    s->backing_file = g_strdup(o->backing_file);
    s->mask_protocol = o->mask_protocol;
    s->on_error = o->on_error;
    s->idle_ns = o->idle_ms * 1000000;
    s->again = g_array_new(false, false, sizeof(struct range));
    s->job.speed = o->speed;
    s->job.together = o->together;
    rc = build(s, o, e);
    if (rc) {
        job_discard(j);
        return rc;
    }
    s->busy_at_ns = loop_now_ns();
    s->seen = requests(s->filter);
    *out = j;
    return 0;
}

/* --- one step ----------------------------------------------------------------------------------------------------- */

static int step_with(struct node *filter, struct node *top, uint64_t off, uint64_t *end, struct err *e)
{
    struct edge *ed;
    int rc = edge_open(filter, &(struct edge_spec){"stream", PERM_READ, PERM_ALL, NULL, NULL}, &ed, e);
    if (rc) {
        return rc;
    }
    bool copy = false;
    struct extent x = {0};
    for (; off < top->size && !copy && rc == 0; off += copy ? 0 : x.len) {
        rc = look(top, NULL, off, &x, &copy);
    }
    if (copy && rc == 0) {
        uint64_t stop = piece_end(top, off, x.len, SMALL_PIECE);
        rc = edge_read(ed, off, stop - off, NULL, 0, REQ_PREFETCH);
        off = stop;
    }
    *end = off;
    edge_close(ed);
    return rc < 0 ? err_set_errno(e, -rc, "Node '%s' at byte %" PRIu64, top->name, off) : 0;
}

int stream_step(struct node *from, uint64_t off, uint64_t *end, struct err *e)
{
    struct node *top = node_skip_filters(from), *filter;
    if (off > top->size) {
        return err_set(e, EINVAL, "Offset %" PRIu64 " is past the end of node '%s', which has %" PRIu64 " bytes", off,
                       top->name, top->size);
    }
    int rc = insert_filter(top, NULL, NULL, g_strdup("block-stream-step"), &filter, e);
    if (rc) {
        return rc;
    }
    node_ref(top);
    rc = step_with(filter, top, off, end, e);
    CLEANUP_ERR struct err e2 = ERR_INIT;
    if (edge_bypass(filter->file, &e2) && rc == 0) {
        rc = err_set(e, EBUSY, "%s", err_text(&e2));
    }
    node_unref(filter);
    node_unref(top);
    return rc;
}
