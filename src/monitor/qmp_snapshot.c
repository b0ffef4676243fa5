/* SPDX-License-Identifier: BSD-2-Clause */
/* External snapshots: a layer is put above a disk. */
#include "schema/qmp_snapshot.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/inactive.h"
#include "block/io.h"
#include "monitor/action.h"
#include "monitor/device_arg.h"
#include "monitor/new_image.h"

#include <string.h>
#include <unistd.h>

struct snapshot_action {
    struct mon_action action;
    struct node *overlay; /* a reference; NULL: not there yet */
    struct node *below;   /* a reference, drained until clean; NULL: not prepared */
    bool named;           /* the overlay's header was written here, for what was below it then */
    char *made;           /* the file that goes if it is all for nothing; NULL: none */
    bool committed;
};

static struct snapshot_action *of(struct mon_action *a)
{
    return (struct snapshot_action *)a;
}

/* --- putting it there --------------------------------------------------------------------------------------------- */

static int check_below(struct node *below, struct err *e)
{
    for (guint i = 0; i < below->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(below->parents, i);
        if (ed->parent && ed->parent->backing == ed) {
            return err_set(e, EBUSY, "Node '%s' is busy: node is used as backing hd of '%s'", below->name,
                           ed->parent->name);
        }
    }
    return 0;
}

/* Not only by images above it that nobody uses. */
static bool is_read(const struct node *n)
{
    bool yes = false;
    for (guint i = 0; !yes && i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        yes = (ed->perm & PERM_READ) && (!ed->parent || is_read(ed->parent));
    }
    return yes;
}

static int check_overlay(struct node *overlay, struct node *below, struct err *e)
{
    bool cycle = node_reaches(below, overlay) && !is_read(overlay);
    /* Others only write to it, as a copy's target, and may get what is below later. */
    if ((overlay->perm & PERM_READ) && !cycle) {
        return err_set(e, EBUSY, "The overlay is already in use");
    }
    if (overlay->backing) {
        return err_set(e, EBUSY, "The overlay already has a backing image");
    }
    if (!overlay->drv->takes_backing) {
        return err_set(e, ENOTSUP, "The overlay does not support backing images");
    }
    return !cycle ? 0
                  : err_set(e, ELOOP, "Making '%s' a backing child of '%s' would create a cycle", below->name,
                            overlay->name);
}

/* Another layer may be on top by now than when the header was written. */
static int name_below(struct snapshot_action *x, struct err *e)
{
    struct chain_link l = chain_link_to(x->below, NULL, false);
    const char *now = x->overlay->backing_filename;
    return !x->named || (now && !strcmp(now, l.file)) ? 0 : chain_set_link(x->overlay, l, e);
}

static void let_go(struct snapshot_action *x)
{
    node_drain_end(x->below);
    node_unref(take(x->below));
}

/* Where the layer goes, standing still: a job whose filter is there may end while that is waited for. */
static int hold_still(struct snapshot_action *x, const char *device, const char *node, struct err *e)
{
    for (;;) {
        struct node *disk = device_arg_node(x->action.c, device, node, e);
        if (!disk) {
            return -ENODEV;
        }
        x->below = node_ref(chain_place(disk));
        node_drain_begin(x->below);
        disk = device_arg_node(x->action.c, device, node, NULL);
        if (disk && chain_place(disk) == x->below) {
            return 0;
        }
        let_go(x);
    }
}

static int put_above(struct snapshot_action *x, const char *device, const char *node, struct err *e)
{
    int rc = hold_still(x, device, node, e);
    if (rc) {
        return rc;
    }
    rc = check_below(x->below, e);
    rc = rc ? rc : check_overlay(x->overlay, x->below, e);
    rc = rc ? rc : name_below(x, e);
    if (rc == 0 && x->below->inactive) { /* both become active when the machine goes on */
        rc = node_inactivate(x->overlay, e);
    }
    rc = rc ? rc : chain_put_above(x->below, x->overlay, e);
    if (rc) {
        let_go(x);
    }
    return rc;
}

static void commit(struct mon_action *a)
{
    of(a)->committed = true;
}

static void abort_action(struct mon_action *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (chain_take_away(of(a)->overlay, &e)) {
        log_error(a->c->env->log, "node '%s', of a transaction that failed, stays above '%s': %s", of(a)->overlay->name,
                  of(a)->below->name, err_text(&e));
    }
}

/* What nobody writes to any more can do without the permission, and keeps other programs' readers away no longer. */
static void make_read_only(struct node *disk)
{
    struct node *n = node_skip_filters(disk);
    if (!n->read_only && !(n->perm & (PERM_WRITE | PERM_WRITE_SAME | PERM_RESIZE))) {
        node_set_read_only(n, true, NULL);
    }
}

static void clean(struct mon_action *a)
{
    struct snapshot_action *x = of(a);
    struct node *below = x->below ? node_ref(x->below) : NULL;
    if (x->below) {
        let_go(x);
    }
    if (x->committed) {
        make_read_only(below);
    } else if (x->made) {
        unlink(x->made);
    }
    node_unref(below);
    node_unref(x->overlay);
    g_free(x->made);
}

/* --- blockdev-snapshot -------------------------------------------------------------------------------------------- */

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_blockdev_snapshot_args *s = args;
    struct node *disk = device_arg_node(a->c, s->node, s->node, e);
    struct node *overlay = disk ? device_arg_node(a->c, s->overlay, s->overlay, e) : NULL;
    if (!overlay) {
        return -ENODEV;
    }
    of(a)->overlay = node_ref(overlay);
    int rc = put_above(of(a), s->node, s->node, e);
    if (rc) {
        node_unref(take(of(a)->overlay));
    }
    return rc;
}

const struct mon_action_kind action_snapshot = {
    .name = "blockdev-snapshot",
    .size = sizeof(struct snapshot_action),
    .args_size = sizeof(struct qmp_blockdev_snapshot_args),
    .decode = qmp_blockdev_snapshot_decode,
    .prepare = prepare,
    .commit = commit,
    .abort = abort_action,
    .clean = clean,
};

int qmp_blockdev_snapshot(struct mon_ctx *c, const struct qmp_blockdev_snapshot_args *a, struct json_object **ret,
                          struct err *e)
{
    return mon_action_run(c, &action_snapshot, a, e);
}

/* --- blockdev-snapshot-sync --------------------------------------------------------------------------------------- */

static int check_names(struct mon_ctx *c, const struct qmp_blockdev_snapshot_sync_args *s, struct err *e)
{
    if (s->node_name && !s->snapshot_node_name) {
        return err_set(e, EINVAL, "New overlay node-name missing");
    }
    bool taken = s->snapshot_node_name && (node_find(c->env->graph, s->snapshot_node_name) ||
                                           backend_find(c->env->graph, s->snapshot_node_name));
    return taken ? err_set(e, EEXIST, "New overlay node-name already in use") : 0;
}

static int open_overlay(struct snapshot_action *x, struct node *disk, const struct qmp_blockdev_snapshot_sync_args *s,
                        struct err *e)
{
    struct node *below = chain_place(disk);
    int rc = check_names(x->action.c, s, e);
    rc = rc ? rc : check_below(below, e);
    if (rc) {
        return rc;
    }
    struct new_image i = {
        .file = s->snapshot_file,
        .format = s->format ? s->format : "qcow2",
        .exists = s->has_mode && s->mode == QMP_NEW_IMAGE_MODE_EXISTING,
        .like = disk,
        .backing = below,
        .node_name = s->snapshot_node_name,
        .alone = true,
    };
    x->named = !i.exists;
    node_ref(disk);
    node_ref(below);
    rc = new_image_open(x->action.c->env, &i, &x->overlay, &x->made, e);
    if (rc == 0 && !below->read_only) {
        node_flush(below); /* a flush that finds nothing left to do is short, when the disk stands still */
    }
    node_unref(below);
    node_unref(disk);
    return rc;
}

/* Before anything stands still, unless it is about something that the actions before it will have made. */
static int open_sync(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_blockdev_snapshot_sync_args *s = args;
    struct node *disk = device_arg_node(a->c, s->device, s->node_name, NULL);
    return disk ? open_overlay(of(a), disk, s, e) : 0;
}

static int prepare_sync(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_blockdev_snapshot_sync_args *s = args;
    struct node *disk = device_arg_node(a->c, s->device, s->node_name, e);
    int rc = disk ? 0 : -ENODEV;
    if (rc == 0 && !of(a)->overlay) {
        rc = open_overlay(of(a), disk, s, e);
    }
    return rc ? rc : put_above(of(a), s->device, s->node_name, e);
}

/* A node that nobody uses stays until blockdev-del. */
static void commit_sync(struct mon_action *a)
{
    struct node *n = of(a)->overlay;
    if (!n->parents->len) {
        n->monitor_owned = true;
        node_ref(n);
    }
    commit(a);
}

const struct mon_action_kind action_snapshot_sync = {
    .name = "blockdev-snapshot-sync",
    .size = sizeof(struct snapshot_action),
    .args_size = sizeof(struct qmp_blockdev_snapshot_sync_args),
    .decode = qmp_blockdev_snapshot_sync_decode,
    .open = open_sync,
    .prepare = prepare_sync,
    .commit = commit_sync,
    .abort = abort_action,
    .clean = clean,
};

int qmp_blockdev_snapshot_sync(struct mon_ctx *c, const struct qmp_blockdev_snapshot_sync_args *a,
                               struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_snapshot_sync, a, e);
}
