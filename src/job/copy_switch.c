/* SPDX-License-Identifier: BSD-2-Clause */
/* The end of a copy: the steps of the switch (copy.h), and the way back from each of them. */
#include "job/copy_int.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/debug.h"
#include "block/driver.h"
#include "job/commit_file.h"

#include <string.h>

enum { QUIET_NS = 100000000 };

const char *const copy_stage_names[] = {"bulk", "bulk-finished", "dirty", "switched"};

static void emit(struct copy_job *c, const char *name, struct json_object *data)
{
    if (jobs_bus(c->job.jobs) && c->job.id) {
        event_emit(jobs_bus(c->job.jobs), name, data);
    } else {
        json_object_put(data);
    }
}

static void debug_events(struct copy_job *c, const char *event)
{
    block_debug_event(c->source, event);
    block_debug_event(c->target, event);
}

void copy_set_stage(struct copy_job *c, enum copy_stage stage)
{
    static const char *const events[] = {"copy_bulk", "copy_bulk_finished", "copy_dirty", "copy_switched"};

    c->stage = stage;
    if (c->switches && c->device) {
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "device", json_object_new_string(c->device));
        json_object_object_add(d, "stage", json_object_new_string(copy_stage_names[stage]));
        emit(c, "BLOCK_COPY_STAGE", d);
    }
    debug_events(c, events[stage]);
}

/* --- the commit file -------------------------------------------------------------------------------------------- */

static int write_commit_file(struct copy_job *c, struct err *e)
{
    struct commit_file f = {c->commit_filename, c->device, c->image};
    int rc = co_work(commit_file_write, &f);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Commit file '%s'", c->commit_filename);
    }
    c->commit_written = true;
    return 0;
}

static void remove_commit_file(struct copy_job *c)
{
    if (!c->commit_written) {
        return;
    }
    c->commit_written = false;
    struct commit_file f = {c->commit_filename, c->device, c->image};
    int rc = co_work(commit_file_remove, &f);
    if (rc < 0) {
        log_error(jobs_log(c->job.jobs), "commit file '%s' could not be removed although '%s' stays on its image: %s",
                  c->commit_filename, c->device, g_strerror(-rc));
    }
}

/* Whoever restarts the machine uses the target from now on: both sides have the same, and get every write. */
static int tell_switching(struct copy_job *c, struct node *from, struct err *e)
{
    const struct jobs_hooks *h = jobs_hooks(c->job.jobs);
    int rc = h->switching ? h->switching(h->opaque, &c->job, from, c->target, e) : 0;
    c->told = rc == 0;
    return rc;
}

/* It does not, after all. */
static void take_back(struct copy_job *c)
{
    const struct jobs_hooks *h = jobs_hooks(c->job.jobs);
    CLEANUP_ERR struct err e = ERR_INIT;
    remove_commit_file(c);
    if (c->told && h->switching && h->switching(h->opaque, &c->job, NULL, NULL, &e)) {
        log_error(jobs_log(c->job.jobs), "job '%s' does not switch, but could not take that back: %s", c->job.id,
                  err_text(&e));
    }
    c->told = false;
}

void copy_target_failed(void *opaque, int rc)
{
    struct copy_job *c = opaque;

    copy_failed(c, false, rc);
    if (c->rc) {
        take_back(c);
    }
}

/* --- overlays of what is committed ------------------------------------------------------------------------------ */

struct old_link {
    struct node *overlay;
    char *file, *format;
};

static void old_link_free(void *opaque)
{
    struct old_link *l = opaque;
    node_unref(l->overlay);
    g_free(l->file);
    g_free(l->format);
    g_free(l);
}

static void relink_back(struct copy_job *c)
{
    for (guint i = 0; c->relinked && i < c->relinked->len; i++) {
        struct old_link *l = g_ptr_array_index(c->relinked, i);
        CLEANUP_ERR struct err e = ERR_INIT;
        if (chain_set_link(l->overlay, (struct chain_link){l->file, l->format}, &e)) {
            log_error(jobs_log(c->job.jobs), "job '%s': %s", c->job.id, err_text(&e));
        }
    }
}

static int relink(struct copy_job *c, struct node *overlay, struct err *e)
{
    struct old_link *l = g_new(struct old_link, 1);
    *l = (struct old_link){node_ref(overlay), g_strdup(overlay->backing_filename), g_strdup(overlay->backing_format)};
    g_ptr_array_add(c->relinked, l);
    return chain_set_link(overlay, chain_link_to(c->target, c->backing_file, c->mask_protocol), e);
}

/*
 * Those who came to the source by its name while the job ran, past the filter, see what it shows, too: they go where
 * its users go. Other edges that lead there are between the two, or the target's.
 */
static GPtrArray *past_filter(struct copy_job *c, struct node *from)
{
    GPtrArray *edges = g_ptr_array_new();
    struct node *filter = c->m->node, *target = c->m->target->child;
    bool alike =
        from == filter && node_skip_filters(filter) == node_skip_filters(c->source); /* no layer came between */
    for (guint i = 0; alike && i < c->source->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(c->source->parents, i);
        struct node *n = ed->parent;
        if (!ed->pinned && !(n && (node_reaches(filter, n) || node_reaches(target, n)))) {
            g_ptr_array_add(edges, ed);
        }
    }
    return edges;
}

static int relink_overlays(struct copy_job *c, GPtrArray *edges, struct err *e)
{
    int rc = 0;
    for (guint i = 0; rc == 0 && i < edges->len; i++) {
        struct edge *ed = g_ptr_array_index(edges, i);
        struct node *n = ed->parent;
        if (n && node_filter_edge(n) == ed) {
            rc = relink_overlays(c, n->parents, e);
        } else if (n && n->backing == ed && (c->commit || n->backing_filename)) {
            rc = relink(c, n, e);
        }
    }
    return rc;
}

/* The target holds, durably, what `from` and the layers below it hold: the headers of the images above, also those that
 * were put there meanwhile, may name it. Both chains read alike until the edges have moved, whenever a crash comes. */
static int relink_all(struct copy_job *c, struct node *from, struct err *e)
{
    g_autoptr(GPtrArray) edges = past_filter(c, from);
    int rc = relink_overlays(c, from->parents, e);
    return rc ? rc : relink_overlays(c, edges, e);
}

/* --- the switch -------------------------------------------------------------------------------------------------- */

static void begin_drain(struct copy_job *c)
{
    c->drain_ns = loop_now_ns();
    c->drained = true;
    node_drain_begin(c->m->node);
    node_drain_begin(c->target);
}

static void end_drain(struct copy_job *c)
{
    if (!c->drained) {
        return;
    }
    c->drained = false;
    node_drain_end(c->target);
    node_drain_end(c->m->node);
    c->pause_ns = loop_now_ns() - c->drain_ns;
}

/* What shall lead to the target afterwards: what led to the filter, or to the node that `replaces` names. */
static struct node *replaced_node(struct copy_job *c, struct err *e)
{
    if (!c->replaces) {
        return c->m->node;
    }
    struct node *n = node_find(c->graph, c->replaces);
    if (!n) {
        err_set(e, ENOENT, "Cannot find device='' nor node-name='%s'", c->replaces);
        return NULL;
    }
    /* The filter stands above the source: replacing the source means what stands above the filter. */
    return n == c->source ? c->m->node : n;
}

struct moved {
    struct edge *ed;
    struct node *from; /* referenced */
};

static void moved_clear(void *opaque)
{
    node_unref(((struct moved *)opaque)->from);
}

static void add_moved(struct copy_job *c, struct edge *ed)
{
    const struct moved x = {ed, node_ref(ed->child)};
    g_array_append_val(c->moved, x);
}

static void remember_parents(struct copy_job *c, struct node *from)
{
    for (guint i = 0; i < from->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(from->parents, i);
        if (!ed->pinned) {
            add_moved(c, ed);
        }
    }
}

static int move_the_others(struct copy_job *c, struct node *from, struct err *e)
{
    int rc = 0;
    g_autoptr(GPtrArray) edges = past_filter(c, from);
    for (guint i = 0; i < edges->len && rc == 0; i++) {
        struct edge *ed = g_ptr_array_index(edges, i);
        if (g_ptr_array_find(c->source->parents, ed, NULL)) { /* moving the one before has waited */
            add_moved(c, ed);
            rc = edge_retarget(ed, c->m->target->child, e);
            g_array_set_size(c->moved, c->moved->len - (rc != 0));
        }
    }
    return rc;
}

static void move_back(struct copy_job *c)
{
    for (guint i = 0; c->moved && i < c->moved->len; i++) {
        const struct moved *x = &g_array_index(c->moved, struct moved, i);
        CLEANUP_ERR struct err e = ERR_INIT;
        if (edge_retarget(x->ed, x->from, &e)) {
            log_error(jobs_log(c->job.jobs), "job '%s': going back to node '%s': %s", c->job.id, x->from->name,
                      err_text(&e));
        }
    }
    g_array_set_size(c->moved, 0);
}

static int flip(struct copy_job *c, struct err *e)
{
    struct node *from = replaced_node(c, e);
    if (!from) {
        return -ENOENT;
    }
    int rc = edge_set_perm(c->m->target, 0, PERM_ALL, e);
    if (rc) {
        return rc;
    }
    /* Both sides have what was not flushed yet, and the target's next flush carries it: no flush of the source now. */
    c->m->node->flushed_gen = c->m->node->write_gen;
    c->moved = g_array_new(false, false, sizeof(struct moved));
    g_array_set_clear_func(c->moved, moved_clear);
    remember_parents(c, from);
    rc = node_replace(from, c->m->target->child, NULL, e);
    if (rc) {
        g_array_set_size(c->moved, 0); /* they have not */
    } else {
        rc = move_the_others(c, from, e);
    }
    if (rc) {
        move_back(c);
        edge_set_perm(c->m->target, PERM_WRITE, c->m->target_shared, NULL);
    }
    return rc;
}

/* Steps 1 and 2 again: time may have passed since run() ended. */
static int settle(struct copy_job *c)
{
    for (int i = 0; i < 10 && !c->rc; i++) {
        copy_rest(c);
        if (!c->rc && copy_flush_target(c) == 0 && !mirror_dirty_bytes(c->m) && !c->m->unseen) {
            break;
        }
    }
    return c->rc;
}

/* A drain waits for what is in flight: better not for a flush, which may take as long as it likes. */
static void await_quiet(struct copy_job *c)
{
    uint64_t end = loop_now_ns() + QUIET_NS;
    while (c->m->flushing && co_queue_wait_until(&c->m->quiet, end)) {
    }
}

/* Somebody else may use it by now. */
static int still_replaces(struct copy_job *c, struct err *e)
{
    int rc = copy_check_replaces(c->source, c->target, c->replaces, e);
    if (rc == -EPERM) {
        err_clear(e);
        err_set(e, EPERM,
                "Can no longer replace '%s' by '%s', because it can no longer be guaranteed that doing so would not "
                "lead to an abrupt change of visible data",
                c->replaces, c->target->name);
    }
    return rc;
}

int copy_prepare(struct job *j, struct err *e)
{
    struct copy_job *c = copy_of(j);

    if (settle(c)) {
        return copy_error(c, e);
    }
    int rc = c->pivoting && c->replaces ? still_replaces(c, e) : 0;
    rc = rc || !c->pivoting || !c->commit_filename ? rc : write_commit_file(c, e);
    if (rc) {
        return rc;
    }
    struct node *from = c->pivoting ? replaced_node(c, e) : NULL;
    c->relinked = g_ptr_array_new_with_free_func(old_link_free);
    if (c->pivoting && (rc = from ? relink_all(c, from, e) : -ENOENT)) {
        return rc;
    }
    if (c->pivoting && (rc = tell_switching(c, from, e))) {
        return rc;
    }
    debug_events(c, "copy_switch");
    if (c->pivoting && c->stops && jobs_hooks(j->jobs)->vm_stop) {
        jobs_hooks(j->jobs)->vm_stop(jobs_hooks(j->jobs)->opaque, "paused");
    }
    await_quiet(c);
    begin_drain(c);
    /* Normally nothing: a discard or a write that failed in the last instants. */
    if (mirror_dirty_bytes(c->m) && copy_rest(c) == 0) {
        copy_flush_target(c);
    }
    if (c->rc || !c->pivoting) {
        return c->rc;
    }
    rc = flip(c, e);
    c->switched = rc == 0;
    if (rc == 0 && !c->commit) {
        chain_absorbed(node_skip_filters(c->target));
    }
    return rc;
}

static void set_live(struct copy_job *c, struct node *n)
{
    g_strlcpy(c->live, n->name, sizeof(c->live));
    c->live_filename = g_strdup(n->filename);
}

static void report_switch(struct copy_job *c)
{
    struct json_object *d = json_object_new_object();
    json_object_object_add(d, "device", json_object_new_string(c->device ? c->device : c->job.id));
    json_object_object_add(d, "id", json_object_new_string(c->job.id ? c->job.id : ""));
    json_object_object_add(d, "node-name", json_object_new_string(c->live));
    json_object_object_add(d, "filename", json_object_new_string(c->live_filename));
    json_object_object_add(d, "pause-ns", json_object_new_int64((int64_t)(c->pause_ns)));
    json_object_object_add(d, "stopped", json_object_new_boolean(c->stops));
    emit(c, "BLOCK_JOB_SWITCHED", d);
}

/* --- the bitmap --------------------------------------------------------------------------------------------------- */

static int set_bitmap_back(struct copy_job *c, bool well, struct err *e)
{
    struct bitmap_saved saved;
    uint64_t off = 0, len;
    int rc = dirty_bitmap_hold(c->bitmap, &saved, e);
    if (rc) {
        return rc;
    }
    rc = dirty_bitmap_reset(c->bitmap, e);
    for (; rc == 0 && !well && mirror_next(c->m, &off, &len, UINT64_MAX); off += len) {
        dirty_bitmap_set(c->bitmap, off, len);
    }
    (rc ? dirty_bitmap_put_back : dirty_bitmap_keep)(c->bitmap, &saved);
    return rc;
}

/* Both sides stand still: they are alike but for what the filter has marked. */
static void settle_bitmap(struct copy_job *c, bool well)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!c->bitmap) {
        return;
    }
    c->bitmap->busy = false;
    bool back = well ? c->bitmap_mode != COPY_BITMAP_NEVER : c->bitmap_mode == COPY_BITMAP_ALWAYS && c->job.started;
    struct node *n = node_ref(c->bitmap->node);
    node_drain_begin(n);
    if (back && c->m && (well || edge_flush(c->m->target) == 0) && set_bitmap_back(c, well, &e)) {
        log_warn(jobs_log(c->job.jobs), "job '%s': bitmap '%s' claims more than is dirty: %s", c->job.id,
                 c->bitmap->name, err_text(&e));
    }
    node_drain_end(n);
    node_unref(n);
    c->bitmap = NULL;
}

void copy_commit(struct job *j)
{
    struct copy_job *c = copy_of(j);

    set_live(c, c->switched ? c->target : c->source);
    settle_bitmap(c, true);
    mirror_detach(c->m);
    end_drain(c);
    if (c->switched) {
        c->commit_written = false; /* it tells the truth now */
        report_switch(c);
        copy_set_stage(c, COPY_SWITCHED);
    }
}

void copy_abort(struct job *j)
{
    struct copy_job *c = copy_of(j);

    if (c->switched) {
        move_back(c);
        c->switched = false;
    }
    relink_back(c);
    take_back(c);
    if (c->m) {
        if (!c->drained) {
            begin_drain(c);
        }
        settle_bitmap(c, false);
        mirror_detach(c->m);
        end_drain(c);
        c->pause_ns = 0;
    }
}

/* The filter goes; whoever is still above it (none after a switch without `replaces`) goes on at the source. */
static void remove_filter(struct copy_job *c)
{
    struct node *n = c->m->node;
    CLEANUP_ERR struct err e = ERR_INIT;

    if (n->parents->len > (c->hold ? 1 : 0) && edge_bypass(n->file, &e)) {
        log_error(jobs_log(c->job.jobs), "job '%s': its filter stays: %s", c->job.id, err_text(&e));
    }
    edge_close(take(c->hold));
    c->m = NULL;
    node_unref(n);
}

void copy_clean(struct job *j)
{
    struct copy_job *c = copy_of(j);

    if (c->m) {
        remove_filter(c);
    }
    if (c->impatient) {
        node_set_patience(c->target, true);
        c->impatient = false;
    }
    copy_bufs_destroy(c);
    if (c->relinked) {
        g_ptr_array_free(take(c->relinked), true);
    }
    guard_finish(&c->guard);
    CLEANUP_ERR struct err e = ERR_INIT;
    bool stays = c->switched && !c->switches && !c->source->read_only;               /* it is what the source was */
    bool written_to = c->target && c->target->perm & (PERM_WRITE | PERM_WRITE_SAME); /* by the guest, from now on */
    if (c->target_read_only && !stays && !written_to && node_set_read_only(c->target, true, &e)) {
        log_warn(jobs_log(j->jobs), "job '%s': node '%s' stays writable: %s", j->id, c->target->name, err_text(&e));
    }
    node_unref(take(c->base));
    node_unref(take(c->source));
    node_unref(take(c->target));
    if (c->moved) {
        g_array_free(take(c->moved), true);
    }
}
