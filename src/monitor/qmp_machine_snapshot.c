/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots of a machine and its disks. */
#include "schema/qmp_machine_snapshot.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/backend.h"
#include "machine/vm.h"
#include "monitor/action.h"
#include "move/snapshot.h"

int qmp_snapshot_save(struct mon_ctx *c, const struct qmp_snapshot_save_args *a, struct json_object **ret,
                      struct err *e)
{
    CLEANUP_FREE const char **devices = json_strings(a->devices), **drop = json_strings(a->force_drop);
    const struct snapshot_options o = {.job_id = a->job_id,
                                       .tag = a->tag,
                                       .vmstate = a->vmstate,
                                       .devices = devices,
                                       .parent = a->parent,
                                       .compress = a->has_compress && a->compress,
                                       .compat = a->compat,
                                       .force_drop = drop,
                                       .flags = JOB_MANUAL_DISMISS};
    return snapshot_save_start(c->env->vm, &o, NULL, e);
}

int qmp_snapshot_load(struct mon_ctx *c, const struct qmp_snapshot_load_args *a, struct json_object **ret,
                      struct err *e)
{
    CLEANUP_FREE const char **devices = json_strings(a->devices), **drop = json_strings(a->force_drop),
                            **allow = json_strings(a->state_allow);
    const struct snapshot_options o = {.job_id = a->job_id,
                                       .tag = a->tag,
                                       .vmstate = a->vmstate,
                                       .devices = devices,
                                       .force_drop = drop,
                                       .state_allow = allow,
                                       .lazy = !a->has_lazy || a->lazy,
                                       .flags = JOB_MANUAL_DISMISS};
    return snapshot_load_start(c->env->vm, &o, NULL, e);
}

int qmp_snapshot_delete(struct mon_ctx *c, const struct qmp_snapshot_delete_args *a, struct json_object **ret,
                        struct err *e)
{
    CLEANUP_FREE const char **devices = json_strings(a->devices);
    const struct snapshot_options o = {
        .job_id = a->job_id, .tag = a->tag, .devices = devices, .flags = JOB_MANUAL_DISMISS};
    return snapshot_delete_start(c->env->vm, &o, NULL, e);
}

/* --- machine-snapshot --------------------------------------------------------------------------------------------- */

struct machine_action {
    struct mon_action action;
    struct job *job;  /* a reference; NULL: not there yet */
    GPtrArray *still; /* nodes that are drained since the instant; references */
    bool committed;
};

static struct machine_action *of(struct mon_action *a)
{
    return (struct machine_action *)a;
}

static int check(const struct mon_action *a, const struct qmp_machine_snapshot_args *s, struct err *e)
{
    if (!a->c->env->vm) {
        return err_set(e, ENOTSUP, "There is no machine");
    }
    bool inside = s->tag && s->vmstate, either = s->tag || s->vmstate;
    return inside != (s->file != NULL) && (inside || !either)
               ? 0
               : err_set(e, EINVAL, "Either 'tag' and 'vmstate' or 'file' must be given, not both");
}

static int open_machine(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_machine_snapshot_args *s = args;
    const char *devices[] = {s->vmstate, NULL};
    CLEANUP_FREE const char **drop = json_strings(s->force_drop);
    const struct snapshot_options o = {
        .job_id = s->job_id ? s->job_id
                  : s->tag  ? s->tag
                            : "machine-snapshot",
        .tag = s->tag,
        .vmstate = s->vmstate,
        .devices = devices,
        .file = s->file,
        .parent = s->parent,
        .compress = s->has_compress && s->compress,
        .compat = s->compat,
        .force_drop = drop,
        .flags = JOB_MANUAL_DISMISS,
    };
    struct job *j;
    int rc = check(a, s, e);
    rc = rc ? rc : snapshot_save_create(a->c->env->vm, &o, &j, e);
    if (rc == 0) {
        of(a)->job = job_ref(j);
        of(a)->still = g_ptr_array_new();
    }
    return rc;
}

/* While others are made ready or prepared somebody may cancel it: then it is gone already. */
static bool waits(const struct machine_action *x)
{
    return x->job->status == JOB_CREATED;
}

static int check_waits(const struct machine_action *x, struct err *e)
{
    return waits(x) ? 0 : err_set(e, ECANCELED, "Job '%s' was cancelled", x->job->id);
}

static void hold_still(struct machine_action *x, struct node *n)
{
    if (!g_ptr_array_find(x->still, n, NULL)) {
        g_ptr_array_add(x->still, node_ref(n));
        node_drain_begin(n);
    }
}

/* Whatever another action is about to keep of a disk that the guest uses is of this instant, too. */
static void hold_disks(struct machine_action *x)
{
    GPtrArray *disks = graph_backends(x->action.c->env->graph);
    g_autoptr(GPtrArray) nodes = snapshot_save_nodes(x->job);
    for (guint i = 0; i < disks->len; i++) {
        const struct backend *b = g_ptr_array_index(disks, i);
        if (b->root) {
            hold_still(x, b->root->child);
        }
    }
    for (guint i = 0; i < nodes->len; i++) {
        hold_still(x, g_ptr_array_index(nodes, i));
    }
}

/*
 * The guest goes on at once: what others prepare, however long that takes, only its requests to the disks wait for.
 * Nobody may hold a disk still before: the devices' requests must have ended.
 */
static int instant(struct mon_action *a, struct err *e)
{
    struct machine_action *x = of(a);
    int rc = check_waits(x, e);
    if (rc == 0) {
        vm_await_quiet(a->c->env->vm);
        vm_quiesce(a->c->env->vm);
        hold_disks(x);
        rc = snapshot_save_instant(x->job, e);
        snapshot_save_paused(x->job, vm_unquiesce(a->c->env->vm));
    }
    return rc;
}

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    int rc = check_waits(of(a), e);
    return rc ? rc : snapshot_save_disks(of(a)->job, e);
}

static void commit(struct mon_action *a)
{
    of(a)->committed = true;
    if (waits(of(a))) {
        job_start(of(a)->job);
    }
}

static void clean(struct mon_action *a)
{
    struct machine_action *x = of(a);
    for (guint i = 0; i < x->still->len; i++) {
        struct node *n = g_ptr_array_index(x->still, i);
        node_drain_end(n);
        node_unref(n);
    }
    g_ptr_array_unref(x->still);
    if (!x->committed && waits(x)) {
        job_discard(x->job);
    }
    job_unref(x->job);
}

const struct mon_action_kind action_machine_snapshot = {
    .name = "machine-snapshot",
    .makes_job = true,
    .size = sizeof(struct machine_action),
    .args_size = sizeof(struct qmp_machine_snapshot_args),
    .decode = qmp_machine_snapshot_decode,
    .open = open_machine,
    .instant = instant,
    .prepare = prepare,
    .commit = commit,
    .clean = clean,
};

int qmp_machine_snapshot(struct mon_ctx *c, const struct qmp_machine_snapshot_args *a, struct json_object **ret,
                         struct err *e)
{
    return mon_action_run(c, &action_machine_snapshot, a, e);
}
