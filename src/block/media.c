/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/media.h"

#include <json-c/json.h>

bool media_removable(const struct backend *b)
{
    return !b->dev || b->removable;
}

bool media_has_tray(const struct backend *b)
{
    return b->dev && b->removable;
}

void backend_move_tray(struct backend *b, bool open)
{
    struct json_object *o = json_object_new_object();
    b->tray_open = open;
    json_object_object_add(o, "device", json_object_new_string(b->name));
    json_object_object_add(o, "id", json_object_new_string(b->qdev ? b->qdev : ""));
    json_object_object_add(o, "tray-open", json_object_new_boolean(open));
    event_emit(graph_bus(b->graph), "DEVICE_TRAY_MOVED", o);
}

static int check_removable(const struct backend *b, const char *name, struct err *e)
{
    return media_removable(b) ? 0 : err_set(e, ENOTSUP, "Device '%s' is not removable", name);
}

/* Whoever moves it from outside tells the device; a guest that does knows it. */
static void move(struct backend *b, bool open)
{
    backend_move_tray(b, open);
    b->dev_ops->medium(b->dev, !open);
}

int media_open_tray(struct backend *b, const char *name, bool force, struct err *e)
{
    int rc = check_removable(b, name, e);
    if (rc < 0 || !media_has_tray(b) || b->tray_open) {
        return rc;
    }
    bool locked = b->locked;
    if (locked) {
        b->dev_ops->eject_request(b->dev, force);
    }
    if (locked && !force) {
        return err_set(e, EINPROGRESS,
                       "Device '%s' is locked and force was not specified, wait for tray to open and try again", name);
    }
    move(b, true);
    return 0;
}

int media_close_tray(struct backend *b, const char *name, struct err *e)
{
    int rc = check_removable(b, name, e);
    if (rc == 0 && media_has_tray(b) && b->tray_open) {
        move(b, false);
    }
    return rc;
}

static int check_open(const struct backend *b, const char *name, struct err *e)
{
    int rc = check_removable(b, name, e);
    return rc == 0 && media_has_tray(b) && !b->tray_open ? err_set(e, EINVAL, "Tray of device '%s' is not open", name)
                                                         : rc;
}

int media_remove(struct backend *b, const char *name, struct err *e)
{
    int rc = check_open(b, name, e);
    if (rc == 0 && b->root) {
        backend_eject(b);
    }
    return rc;
}

int media_insert(struct backend *b, const char *name, struct node *n, struct err *e)
{
    int rc = check_open(b, name, e);
    if (rc == 0 && b->root) {
        return err_set(e, EBUSY, "There already is a medium in the device '%s'", name);
    }
    rc = rc < 0 ? rc : backend_insert(b, n, b->dev && !n->read_only && !b->only_reads, !b->dev || b->share_rw, e);
    if (rc == 0 && !b->dev) {
        backend_share(b);
    }
    return rc;
}
