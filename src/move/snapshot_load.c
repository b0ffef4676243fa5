/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/snapshot.h"

#include "base/cleanup.h"
#include "block/snapshot.h"
#include "move/move.h"
#include "move/snapshot_nodes.h"
#include "move/snapshot_state.h"

struct load_job {
    struct job j;
    struct snapshot_nodes on;
    bool lazy, map, committed, over, stuck;
    struct co_queue waiters; /* for either */
    struct move_source from; /* close NULL: not open, or of `file` */
    struct move_file *file;
    struct vm_load *load;
    char **state_allow, **force_drop;
    struct json_object *dropped; /* what the machine lacks now; NULL: nothing, or not committed yet */
    GPtrArray *undo;             /* struct vmstate *: the first of on.nodes, as they are now */
    uint64_t pause_ns;
};

static struct load_job *of(struct job *j)
{
    return (struct load_job *)j;
}

/* --- beforehand --------------------------------------------------------------------------------------------------- */

/* [graph change] */
static int find_state(struct load_job *l, struct err *e)
{
    struct snapshot_nodes *on = &l->on;
    int rc = snapshot_nodes_find(on, true, true, e);
    rc = rc ? rc : snapshot_nodes_check_present(on, e);
    rc = rc ? rc : snapshot_nodes_check_idle(on, e);
    if (rc == 0 && on->file) {
        rc = move_file_open(on->file, &l->file, e);
        if (rc == 0) {
            move_file_source(l->file, &l->from);
        }
        return rc;
    }
    return rc ? rc : snapshot_state_open(on->vmstate, on->tag, l->lazy, &l->from, e);
}

/* One disk alone becomes what it was or stays as it is by itself. */
static int prepare_undo(struct load_job *l, struct err *e)
{
    const struct snapshot x = {.id = (char *)"", .name = (char *)"", .icount = UINT64_MAX};
    int rc = 0;
    for (guint i = 0; rc == 0 && i + 1 < l->on.nodes->len; i++) {
        struct vmstate *v;
        rc = vmstate_create(g_ptr_array_index(l->on.nodes, i), &x, &v, e);
        if (rc == 0) {
            g_ptr_array_add(l->undo, v);
        }
    }
    return rc;
}

/* --- the instant -------------------------------------------------------------------------------------------------- */

static void undo_disks(struct load_job *l, guint count)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    for (guint i = 0; i < count; i++) {
        struct node *n = g_ptr_array_index(l->on.nodes, i);
        if (vmstate_revert(g_ptr_array_index(l->undo, i), n, &e)) {
            log_error(graph_log(n->graph), "node '%s', of a load that failed, stays as it was in snapshot '%s': %s",
                      n->name, l->on.tag, err_text(&e));
            err_clear(&e);
        }
    }
}

static int apply_disks(struct load_job *l, struct err *e)
{
    struct snapshot_nodes *on = &l->on;
    int rc = 0;
    for (guint i = 0; i < on->nodes->len; i++) {
        struct node *n = g_ptr_array_index(on->nodes, i);
        struct snapshot *x = node_snapshot_find(n, NULL, on->tag);
        rc = i < l->undo->len ? vmstate_begin(g_ptr_array_index(l->undo, i), 0, e) : 0;
        rc = rc ? rc : node_snapshot_apply(n, x->id, e);
        snapshot_free(x);
        if (rc) {
            err_wrap(e, "Could not load snapshot '%s' on '%s'", on->tag, snapshot_name_of(n));
            undo_disks(l, i);
            return rc;
        }
    }
    return rc;
}

/* What ended the guest of now is nothing to the one of then. */
static void forget_end(struct vm *vm)
{
    if (vm->state != RUN_RUNNING && vm->state != RUN_PRELAUNCH) {
        vm->state = RUN_PAUSED;
    }
}

/* [graph change] */
static int change_over(struct load_job *l, struct err *e)
{
    struct vm *vm = l->on.vm;
    int rc = snapshot_nodes_check_present(&l->on, e);
    rc = rc ? rc : snapshot_nodes_check_idle(&l->on, e);
    rc = rc ? rc : prepare_undo(l, e);
    if (rc) {
        return rc;
    }
    vm_quiesce(vm);
    snapshot_nodes_drain(&l->on);
    rc = vm_load_prepare(l->load, e);
    rc = rc ? rc : apply_disks(l, e);
    if (rc == 0) {
        vm_load_commit(l->load);
        l->committed = true;
        l->dropped = snapshot_dropped(vm_load_dropped(l->load));
        co_queue_wake_all(&l->waiters);
        forget_end(vm);
    }
    snapshot_nodes_undrain(&l->on);
    l->pause_ns = vm_unquiesce(vm);
    for (guint i = 0; i < l->undo->len; i++) {
        vmstate_destroy(g_ptr_array_index(l->undo, i));
    }
    g_ptr_array_set_size(l->undo, 0);
    return rc;
}

static void on_stuck(void *opaque, bool yes)
{
    struct job *j = opaque;
    of(j)->stuck = yes;
    j->wait_reason = yes ? "RAM could not be read: 'cont' tries again, cancelling gives the machine up" : NULL;
    j->io_status = yes ? "failed" : "ok";
}

static int load(struct job *j, struct err *e)
{
    struct load_job *l = of(j);
    struct block_graph *g = l->on.vm->graph;
    struct vm_load_opts o = {.map = l->map,
                             .lazy = l->lazy,
                             .state_allow = (const char *const *)l->state_allow,
                             .force_drop = (const char *const *)l->force_drop,
                             .progress = snapshot_progressed,
                             .stuck = on_stuck,
                             .opaque = j};
    job_progress_remaining(j, 1);
    graph_change_begin(g);
    int rc = find_state(l, e);
    graph_change_end(g);
    if (rc) {
        return rc;
    }
    rc = vm_load_create(l->on.vm, &o, &l->from, &l->load, e);
    if (rc || job_is_cancelled(j)) {
        return rc;
    }
    graph_change_begin(g);
    rc = change_over(l, e);
    graph_change_end(g);
    return rc ? rc : vm_load_finish(l->load, e);
}

static int load_run(struct job *j, struct err *e)
{
    struct load_job *l = of(j);
    int rc = load(j, e);
    if (rc && l->committed && !j->id) { /* nobody asks for it */
        log_error(jobs_log(j->jobs), "%s", err_text(e));
    }
    l->over = true;
    co_queue_wake_all(&l->waiters);
    return rc;
}

static void load_clean(struct job *j)
{
    struct load_job *l = of(j);
    vm_load_destroy(take(l->load));
    if (l->from.close) {
        l->from.close(l->from.opaque);
        l->from.close = NULL;
    }
    move_file_close(take(l->file));
    for (guint i = 0; i < l->undo->len; i++) {
        vmstate_destroy(g_ptr_array_index(l->undo, i));
    }
    g_ptr_array_set_size(l->undo, 0);
    snapshot_nodes_finish(&l->on);
}

/* Once the machine is the other one there is no way back, but for one that ends. */
static bool load_cancel(struct job *j, bool force)
{
    struct load_job *l = of(j);
    bool ends = !l->committed || l->stuck || l->on.vm->quit_requested;
    if (ends && l->load) {
        vm_load_cancel(l->load);
    }
    return ends;
}

static void load_free(struct job *j)
{
    g_ptr_array_unref(of(j)->undo);
    g_strfreev(of(j)->state_allow);
    g_strfreev(of(j)->force_drop);
    json_object_put(of(j)->dropped);
}

static void load_query(struct job *j, struct json_object *info, bool block_info)
{
    if (of(j)->pause_ns) {
        json_object_object_add(info, "pause-ns", json_object_new_int64((int64_t)of(j)->pause_ns));
    }
    if (of(j)->dropped) {
        json_object_object_add(info, "dropped", json_object_get(of(j)->dropped));
    }
}

static void load_outcome(struct job *j, struct json_object *out)
{
    load_query(j, out, false);
}

static const struct job_driver load_driver = {
    .type = "snapshot-load",
    .size = sizeof(struct load_job),
    .run = load_run,
    .clean = load_clean,
    .free = load_free,
    .cancel = load_cancel,
    .query = load_query,
    .outcome = load_outcome,
};

int snapshot_load_start(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e)
{
    struct job *j;
    struct job_spec spec = {
        .id = o->job_id, .drv = &load_driver, .flags = o->flags | (o->job_id ? 0u : (unsigned)JOB_INTERNAL)};
    int rc = job_create(vm->jobs, &spec, &j, e);
    if (rc == 0) {
        of(j)->undo = g_ptr_array_new();
        of(j)->lazy = o->lazy;
        of(j)->map = o->map;
        of(j)->state_allow = g_strdupv((char **)(uintptr_t)o->state_allow);
        of(j)->force_drop = g_strdupv((char **)(uintptr_t)o->force_drop);
        snapshot_nodes_init(&of(j)->on, j, vm, o);
        if (out) {
            *out = job_ref(j);
        }
        job_start(j);
    }
    return rc;
}

int snapshot_load_begin(struct vm *vm, const struct snapshot_options *o, struct err *e)
{
    struct job *j = NULL;
    int rc = snapshot_load_start(vm, o, &j, e);
    if (rc) {
        return rc;
    }
    while (!of(j)->committed && !of(j)->over) {
        co_queue_wait(&of(j)->waiters);
    }
    rc = of(j)->committed ? 0 : job_wait(j);
    if (rc) {
        err_set(e, -rc, "%s", err_text(&j->err));
    }
    job_unref(j);
    return rc;
}
