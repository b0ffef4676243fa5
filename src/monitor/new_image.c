/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/new_image.h"

#include "base/cleanup.h"
#include "block/driver.h"
#include "block/formatting.h"
#include "block/options.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put_str(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

/* What the name says: {"driver": "file", "filename": …}, or an export's address. */
static const struct block_driver *protocol_of(const char *name, struct json_object *file, struct err *e)
{
    const struct block_driver *drv =
        options_from_filename(file, name, e) < 0 ? NULL : driver_find(json_get_str(file, "driver"));
    if (drv && !drv->can_be_created) {
        err_set(e, ENOTSUP, "Protocol driver '%s' does not support image creation", drv->name);
        return NULL;
    }
    return drv;
}

static int check_format(const struct new_image *i, const char *format, const struct block_driver **out, struct err *e)
{
    const struct block_driver *drv = *out = driver_find(format);
    if (!drv) {
        return err_set(e, EINVAL, "Unknown file format '%s'", format);
    }
    if (i->backing && !drv->takes_backing) {
        return err_set(e, EINVAL, "Backing file not supported for file format '%s'", format);
    }
    if (!drv->can_be_created) {
        return err_set(e, EINVAL, "Format driver '%s' does not support image creation", format);
    }
    return 0;
}

static int create_format(struct block_graph *g, const struct new_image *i, const struct block_driver *drv,
                         struct json_object *file, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "file", json_object_get(file));
    json_object_object_add(o, "size", json_object_new_uint64(i->like->size));
    if (i->backing) {
        struct node *n = node_skip_filters(i->backing);
        put_str(o, "backing-file", n->filename);
        put_str(o, "backing-fmt", n->drv->name);
    }
    return drv->create(g, o, e);
}

/* Scripts that call us by QEMU's name read it. */
static void announce(const struct new_image *i, const char *format, const struct block_driver *proto)
{
    CLEANUP_JSON struct json_object *shown = json_object_new_object();
    json_object_object_add(shown, "size", json_object_new_uint64(i->like->size));
    if (i->backing) {
        struct node *n = node_skip_filters(i->backing);
        put_str(shown, "backing_file", n->filename);
        put_str(shown, "backing_fmt", n->drv->name);
    }
    formatting_print(i->file, format, proto, shown);
}

static int create(const struct mon_env *env, const struct new_image *i, const char *format, struct err *e)
{
    CLEANUP_JSON struct json_object *file = json_object_new_object(), *o = json_object_new_object();
    const struct block_driver *drv, *proto = NULL;
    int rc = check_format(i, format, &drv, e);
    proto = rc ? NULL : protocol_of(i->file, file, e);
    if (!proto) {
        return rc ? rc : -EINVAL;
    }
    bool raw = !strcmp(format, "raw") || drv == proto; /* creating it is creating its file */
    if (drv->is_protocol && !raw) {
        return err_set(e, EINVAL, "Format driver '%s' does not create '%s', which '%s' opens", format, i->file,
                       proto->name);
    }
    if (mon_as_qemu(env)) {
        announce(i, format, proto);
    }
    put_str(o, "filename", i->file);
    json_object_object_add(o, "size", json_object_new_uint64(raw ? i->like->size : 0));
    rc = proto->create(env->graph, o, e);
    return rc || raw ? rc : create_format(env->graph, i, drv, file, e);
}

/* Cached as the disk is, and as ready to give space back. */
static void put_options_of(const struct node *n, struct json_object *o)
{
    struct json_object *cache = json_object_new_object();
    json_object_object_add(cache, "direct", json_object_new_boolean(n->direct));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(n->no_flush));
    json_object_object_add(o, "cache", cache);
    put_str(o, "discard", n->discard_unmap ? "unmap" : "ignore");
}

static int open_image(struct block_graph *g, const struct new_image *i, const char *format, struct node **out,
                      struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    if (format) {
        put_str(o, "driver", format);
    }
    if (i->node_name) {
        put_str(o, "node-name", i->node_name);
    }
    if (i->alone) {
        json_object_object_add(o, "backing", NULL);
    }
    put_options_of(node_skip_filters(i->like), o);
    json_object_object_add(o, "read-only", json_object_new_boolean(false));
    return node_open_filename(g, i->file, o, out, e);
}

static const char *path_of(const char *name)
{
    return g_str_has_prefix(name, "file:") ? name + strlen("file:") : name;
}

int new_image_open(const struct mon_env *env, const struct new_image *i, struct node **out, char **made, struct err *e)
{
    struct stat st;
    const char *format = i->format || i->exists ? i->format : node_skip_filters(i->like)->drv->name;
    CLEANUP_FREE char *fresh = !i->exists && stat(path_of(i->file), &st) < 0 ? g_strdup(path_of(i->file)) : NULL;
    int rc = 0;
    if (i->exists && format && !driver_find(format)) {
        rc = err_set(e, EINVAL, "Unknown file format '%s'", format);
    } else if (!i->exists) {
        rc = create(env, i, format, e);
    }
    rc = rc ? rc : open_image(env->graph, i, format, out, e);
    if (rc && fresh) {
        unlink(fresh);
    }
    if (made) {
        *made = rc ? NULL : take(fresh);
    }
    return rc;
}
