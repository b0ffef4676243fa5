/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots inside of images. */
#include "schema/qmp_internal_snapshot.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/snapshot.h"
#include "machine/vm.h"
#include "monitor/action.h"
#include "monitor/device_arg.h"
#include "move/children.h"

/* A disk's image, not one below it, which nobody may change. */
static struct node *find_root(struct mon_ctx *c, const char *device, struct err *e)
{
    struct node *n = device_arg_node(c, device, device, e);
    for (guint i = 0; n && i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        if (ed->parent && ed->parent->backing == ed) {
            err_set(e, EINVAL, "Need a root block node");
            return NULL;
        }
    }
    return n;
}

/* --- making ------------------------------------------------------------------------------------------------------- */

struct internal_action {
    struct mon_action action;
    struct node *n; /* a reference; in company drained until clean */
    char *id;       /* of the snapshot; g_malloc'd */
};

static struct internal_action *of(struct mon_action *a)
{
    return (struct internal_action *)a;
}

static int check(struct node *n, const struct qmp_blockdev_snapshot_internal_sync_args *s, struct err *e)
{
    int rc = node_check_snapshot_jobs(n, e);
    if (rc) {
        return rc;
    }
    if (node_skip_filters(n)->read_only) {
        return err_set(e, EACCES, "Device '%s' is read only", s->device);
    }
    if (!node_has_snapshots(n)) {
        return err_set(e, ENOTSUP, "Block format '%s' used by device '%s' does not support internal snapshots",
                       node_skip_filters(n)->drv->name, s->device);
    }
    if (!*s->name) {
        return err_set(e, EINVAL, "Name is empty");
    }
    struct snapshot *other = node_snapshot_find(n, NULL, s->name);
    snapshot_free(other);
    return other ? err_set(e, EEXIST, "Snapshot with name '%s' already exists on device '%s'", s->name, s->device) : 0;
}

static int create(struct internal_action *x, const char *name, struct err *e)
{
    const struct vm *vm = x->action.c->env->vm;
    int64_t now = g_get_real_time();
    struct snapshot *s = g_new(struct snapshot, 1);
    *s = (struct snapshot){
        .id = g_strdup(""),
        .name = g_strdup(name),
        .date_sec = (uint32_t)(now / 1000000),
        .date_nsec = (uint32_t)(now % 1000000 * 1000),
        .vm_clock_nsec = vm ? guest_clock_ns(&vm->clock) : 0,
        .icount = UINT64_MAX,
    };
    int rc = node_snapshot_create(x->n, s, e);
    if (rc == 0) {
        x->id = g_strdup(s->id);
    }
    snapshot_free(s);
    return rc;
}

static void clean(struct mon_action *a)
{
    struct internal_action *x = of(a);
    if (a->in_company) {
        node_drain_end(x->n);
    }
    node_unref(x->n);
    g_free(x->id);
}

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_blockdev_snapshot_internal_sync_args *s = args;
    struct node *n = find_root(a->c, s->device, e);
    if (!n) {
        return -ENODEV;
    }
    of(a)->n = node_ref(n);
    if (a->in_company) {
        node_drain_begin(n);
    }
    int rc = check(n, s, e);
    rc = rc ? rc : create(of(a), s->name, e);
    if (rc) {
        clean(a);
    }
    return rc;
}

static void abort_action(struct mon_action *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (node_snapshot_delete(of(a)->n, of(a)->id, &e)) {
        log_error(a->c->env->log, "snapshot %s in node '%s', of a transaction that failed, stays: %s", of(a)->id,
                  of(a)->n->name, err_text(&e));
    }
}

const struct mon_action_kind action_internal_snapshot = {
    .name = "blockdev-snapshot-internal-sync",
    .size = sizeof(struct internal_action),
    .args_size = sizeof(struct qmp_blockdev_snapshot_internal_sync_args),
    .decode = qmp_blockdev_snapshot_internal_sync_decode,
    .prepare = prepare,
    .abort = abort_action,
    .clean = clean,
};

int qmp_blockdev_snapshot_internal_sync(struct mon_ctx *c, const struct qmp_blockdev_snapshot_internal_sync_args *a,
                                        struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_internal_snapshot, a, e);
}

/* --- deleting ----------------------------------------------------------------------------------------------------- */

static int delete_one(struct node *n, const struct qmp_blockdev_snapshot_delete_internal_sync_args *a,
                      struct json_object **ret, struct err *e)
{
    if (!node_has_snapshots(n)) {
        return err_set(e, ENOTSUP, "Failed to get a snapshot list: Operation not supported");
    }
    struct snapshot *s = node_snapshot_find(n, a->id, a->name);
    if (!s) {
        return err_set(e, ENOENT, "Snapshot with id '%s' and name '%s' does not exist on device '%s'",
                       a->id ? a->id : "null", a->name ? a->name : "null", a->device);
    }
    int rc = snapshot_check_no_child(n, s->name, e);
    rc = rc ? rc : node_snapshot_delete(n, s->id, e);
    if (rc == 0) {
        *ret = snapshot_info(s);
    }
    snapshot_free(s);
    return rc;
}

int qmp_blockdev_snapshot_delete_internal_sync(struct mon_ctx *c,
                                               const struct qmp_blockdev_snapshot_delete_internal_sync_args *a,
                                               struct json_object **ret, struct err *e)
{
    struct node *n = find_root(c, a->device, e);
    if (!n) {
        return -ENODEV;
    }
    if (!a->id && !a->name) {
        return err_set(e, EINVAL, "Name or id must be provided");
    }
    node_ref(n);
    graph_change_begin(c->env->graph);
    int rc = delete_one(n, a, ret, e);
    graph_change_end(c->env->graph);
    node_unref(n);
    return rc;
}
