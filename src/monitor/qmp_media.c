/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands about media that can be taken out. */
#include "schema/qmp_media.h"

#include "base/cleanup.h"
#include "block/media.h"

static struct backend *drive_of(struct mon_ctx *c, const char *device, const char *id, struct err *e)
{
    const char *name = device ? device : id;
    if (!device == !id) {
        err_set(e, EINVAL, "Need exactly one of 'device' and 'id'");
        return NULL;
    }
    struct backend *b = backend_find(c->env->graph, name);
    if (!b) {
        err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", name);
    }
    return b;
}

int qmp_blockdev_open_tray(struct mon_ctx *c, const struct qmp_blockdev_open_tray_args *a, struct json_object **ret,
                           struct err *e)
{
    CLEANUP_ERR struct err locked = ERR_INIT;
    struct backend *b = drive_of(c, a->device, a->id, e);
    if (!b) {
        return -ENODEV;
    }
    /* The guest was asked: DEVICE_TRAY_MOVED tells when it has done it. */
    int rc = media_open_tray(b, a->id ? a->id : a->device, a->has_force && a->force, &locked);
    return rc < 0 && rc != -EINPROGRESS ? err_set(e, -rc, "%s", err_text(&locked)) : 0;
}

int qmp_blockdev_close_tray(struct mon_ctx *c, const struct qmp_blockdev_close_tray_args *a, struct json_object **ret,
                            struct err *e)
{
    struct backend *b = drive_of(c, a->device, a->id, e);
    return b ? media_close_tray(b, a->id ? a->id : a->device, e) : -ENODEV;
}

int qmp_blockdev_remove_medium(struct mon_ctx *c, const struct qmp_blockdev_remove_medium_args *a,
                               struct json_object **ret, struct err *e)
{
    graph_change_begin(c->env->graph);
    struct backend *b = drive_of(c, NULL, a->id, e);
    int rc = b ? media_remove(b, a->id, e) : -ENODEV;
    graph_change_end(c->env->graph);
    return rc;
}

static int insert_node(struct mon_ctx *c, const struct qmp_blockdev_insert_medium_args *a, struct err *e)
{
    struct backend *b = drive_of(c, NULL, a->id, e);
    struct node *n = b ? node_find(c->env->graph, a->node_name) : NULL;
    if (!b) {
        return -ENODEV;
    }
    if (!n) {
        return err_set(e, ENOENT, "Node '%s' not found", a->node_name);
    }
    if (backend_with(c->env->graph, n)) {
        return err_set(e, EBUSY, "Node '%s' is already in use", a->node_name);
    }
    return media_insert(b, a->id, n, e);
}

int qmp_blockdev_insert_medium(struct mon_ctx *c, const struct qmp_blockdev_insert_medium_args *a,
                               struct json_object **ret, struct err *e)
{
    graph_change_begin(c->env->graph);
    int rc = insert_node(c, a, e);
    graph_change_end(c->env->graph);
    return rc;
}

int qmp_eject(struct mon_ctx *c, const struct qmp_eject_args *a, struct json_object **ret, struct err *e)
{
    const char *name = a->id ? a->id : a->device;
    graph_change_begin(c->env->graph);
    struct backend *b = drive_of(c, a->device, a->id, e);
    int rc = b ? media_open_tray(b, name, a->has_force && a->force, e) : -ENODEV;
    rc = rc < 0 ? rc : media_remove(b, name, e);
    graph_change_end(c->env->graph);
    return rc;
}

/* --- another image ------------------------------------------------------------------------------------------------ */

/* As it was for the last medium, unless something else is asked for. */
static bool opens_read_only(const struct backend *b, const struct qmp_blockdev_change_medium_args *a)
{
    switch (a->has_read_only_mode ? a->read_only_mode : QMP_BLOCKDEV_CHANGE_READ_ONLY_MODE_RETAIN) {
    case QMP_BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_ONLY:
        return true;
    case QMP_BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_WRITE:
        return false;
    default:
        return b->read_only_medium || b->only_reads;
    }
}

static int open_image(struct mon_ctx *c, const struct qmp_blockdev_change_medium_args *a, bool read_only,
                      struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    if (a->format) {
        json_object_object_add(o, "driver", json_object_new_string(a->format));
    }
    if (read_only) {
        json_object_object_add(o, "read-only", json_object_new_boolean(true));
    }
    return node_open_filename(c->env->graph, a->filename, o, out, e);
}

/* `n` is in the drive then, and the guest is told. */
static int change(struct mon_ctx *c, const struct qmp_blockdev_change_medium_args *a, struct node *n, struct err *e)
{
    const char *name = a->id ? a->id : a->device;
    struct backend *b = drive_of(c, a->device, a->id, e); /* opening took time */
    int rc = b ? media_open_tray(b, name, a->has_force && a->force, e) : -ENODEV;
    rc = rc < 0 ? rc : media_remove(b, name, e);
    rc = rc < 0 ? rc : media_insert(b, name, n, e);
    return rc < 0 ? rc : media_close_tray(b, name, e);
}

int qmp_blockdev_change_medium(struct mon_ctx *c, const struct qmp_blockdev_change_medium_args *a,
                               struct json_object **ret, struct err *e)
{
    struct node *n = NULL;
    const struct backend *b = drive_of(c, a->device, a->id, e);
    int rc = b ? open_image(c, a, opens_read_only(b, a), &n, e) : -ENODEV;
    if (rc < 0) {
        return rc;
    }
    graph_change_begin(c->env->graph);
    rc = change(c, a, n, e);
    graph_change_end(c->env->graph);
    node_unref(n);
    return rc;
}
