/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/drive.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "block/overlay.h"

#include <string.h>

enum drive_if { IF_VIRTIO, IF_NONE };
static const char *const if_names[] = {"virtio", "none", NULL};
static const char *const media_names[] = {"disk", "cdrom", NULL};
static const char *const onoff_names[] = {"off", "on", NULL};

/* A cache mode is three switches. */
struct cache_mode {
    const char *name;
    bool direct, no_flush, write_cache;
};
static const struct cache_mode cache_modes[] = {
    {"none", true, false, true},           {"off", true, false, true},
    {"writeback", false, false, true},     {"unsafe", false, true, true},
    {"writethrough", false, false, false}, {"directsync", true, false, false},
    {NULL, false, false, false},
};

/* The option's parts, taken out of the rest, which goes to the block driver. */
struct drive {
    const char *file, *format, *id, *serial, *rerror, *werror, *aio;
    enum drive_if interface;
    int media, index;
    bool snapshot, read_only, copy_on_read;
    const struct cache_mode *cache;
    char *made_id;
};

static int parse_cache(const char *text, const struct cache_mode **out, struct err *e)
{
    for (const struct cache_mode *m = cache_modes; m->name; m++) {
        if (!strcmp(m->name, text)) {
            *out = m;
            return 0;
        }
    }
    return err_set(e, EINVAL, "invalid cache option '%s': try none, writeback, unsafe, writethrough or directsync",
                   text);
}

/* Reads the drive's own keys and removes them from `o`. Strings point into `keep`, which owns them. */
static int parse_keys(struct json_object *o, struct json_object *keep, struct drive *d, struct err *e)
{
    static const char *const keys[] = {"file",         "if",       "format", "id",     "media",  "index",
                                       "snapshot",     "readonly", "cache",  "serial", "rerror", "werror",
                                       "copy-on-read", "aio",      "bus",    "unit",   NULL};
    for (const char *const *k = keys; *k; k++) {
        struct json_object *v = json_object_object_get(o, *k);
        if (v && json_object_is_type(v, json_type_string)) {
            json_object_object_add(keep, *k, json_object_get(v));
            json_object_object_del(o, *k);
        }
    }
    struct jread r = jread_init(keep, "drive", e);
    *d = (struct drive){
        .file = jread_str_or(&r, "file", NULL),
        .format = jread_str_or(&r, "format", NULL),
        .id = jread_str_or(&r, "id", NULL),
        .serial = jread_str_or(&r, "serial", NULL),
        .rerror = jread_str_or(&r, "rerror", NULL),
        .werror = jread_str_or(&r, "werror", NULL),
        .aio = jread_str_or(&r, "aio", NULL),
        .interface = jread_enum_or(&r, "if", if_names, IF_VIRTIO),
        .media = jread_enum_or(&r, "media", media_names, 0),
        .index = jread_int_or(&r, "index", -1),
        .snapshot = jread_bool_or(&r, "snapshot", false),
        .read_only = jread_bool_or(&r, "readonly", false),
        .copy_on_read = jread_enum_or(&r, "copy-on-read", onoff_names, 0),
        .cache = &cache_modes[2],
    };
    const char *cache = jread_str_or(&r, "cache", NULL);
    int rc = jread_end(&r); /* "bus" and "unit" have no meaning on this board: named as unexpected */
    return rc < 0 ? rc : cache ? parse_cache(cache, &d->cache, e) : 0;
}

/* The block options: what was left over, and what the drive's own keys say about the node. */
static void node_options(struct json_object *o, const struct drive *d)
{
    struct json_object *cache = json_object_new_object();
    json_object_object_add(cache, "direct", json_object_new_boolean(d->cache->direct));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(d->cache->no_flush));
    json_object_object_add(o, "cache", cache);
    if (d->format) {
        json_object_object_add(o, "driver", json_object_new_string(d->format));
    }
    if (d->read_only || d->media == 1) {
        json_object_object_add(o, "read-only", json_object_new_boolean(true));
    }
    if (d->aio) {
        struct json_object *file = json_object_object_get(o, "file");
        if (!file) {
            file = json_object_new_object();
            json_object_object_add(o, "file", file);
        }
        json_object_object_add(file, "aio", json_object_new_string(d->aio));
    }
}

static int open_medium(struct vm *vm, struct json_object *o, const struct drive *d, bool overlay, struct node **out,
                       struct err *e)
{
    struct node *n = NULL;
    int rc = d->file ? node_open_filename(vm->graph, d->file, o, &n, e) : node_open(vm->graph, o, &n, e);
    if (rc < 0) {
        return rc;
    }
    if (n->probed && !strcmp(n->drv->name, "raw") && !n->read_only) {
        log_warn(vm->log,
                 "Image format was not specified for '%s' and probing guessed raw. Automatically detecting the format "
                 "is dangerous for raw images, write operations on block 0 will be restricted. Specify the 'raw' "
                 "format explicitly to remove the restrictions.",
                 n->filename);
    }
    if (overlay) {
        struct node *top = NULL;
        rc = node_open_temp_overlay(n, NULL, &top, e);
        node_unref(n);
        n = top;
    }
    if (rc == 0 && d->copy_on_read) {
        CLEANUP_JSON struct json_object *f = json_object_new_object();
        json_object_object_add(f, "driver", json_object_new_string("copy-on-read"));
        json_object_object_add(f, "file", json_object_new_string(n->name));
        struct node *top = NULL;
        rc = node_open(vm->graph, f, &top, e);
        node_unref(n);
        n = top;
    }
    *out = n;
    return rc;
}

static struct json_object *device_options(const struct drive *d)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("virtio-blk-pci"));
    json_object_object_add(o, "drive", json_object_new_string(d->id));
    const struct {
        const char *key, *value;
    } more[] = {{"serial", d->serial}, {"rerror", d->rerror}, {"werror", d->werror}};
    for (size_t i = 0; i < G_N_ELEMENTS(more); i++) {
        if (more[i].value) {
            json_object_object_add(o, more[i].key, json_object_new_string(more[i].value));
        }
    }
    if (!d->cache->write_cache) {
        json_object_object_add(o, "write-cache", json_object_new_string("off"));
    }
    return o;
}

static void backend_fill(struct backend *b, const struct drive *d)
{
    static const char *const policies[] = {"report", "ignore", "enospc", "stop", NULL};
    for (int i = 0; policies[i]; i++) {
        b->rerror = d->rerror && !strcmp(d->rerror, policies[i]) ? (enum io_error_action)i : b->rerror;
        b->werror = d->werror && !strcmp(d->werror, policies[i]) ? (enum io_error_action)i : b->werror;
    }
    b->write_cache = d->cache->write_cache;
}

int drive_add(struct vm *vm, struct drive_counters *c, const char *text, bool overlay, struct json_object **device,
              struct err *e)
{
    *device = NULL;
    CLEANUP_JSON struct json_object *o = keyval_parse(text, "file", e);
    CLEANUP_JSON struct json_object *keep = json_object_new_object();
    if (!o) {
        return err_wrap(e, "-drive %s", text);
    }
    struct drive d;
    int rc = parse_keys(o, keep, &d, e);
    if (rc < 0) {
        return err_wrap(e, "-drive %s", text);
    }
    unsigned index = d.index >= 0 ? (unsigned)d.index : c->next_index[d.interface]++;
    CLEANUP_FREE char *made = d.id ? NULL : g_strdup_printf("%s%u", if_names[d.interface], index);
    d.id = d.id ? d.id : made;
    node_options(o, &d);

    struct backend *b = NULL;
    rc = backend_create(vm->graph, d.id, &b, e);
    if (rc < 0) {
        return err_wrap(e, "-drive %s", text);
    }
    backend_fill(b, &d);
    if (d.file || json_object_object_get(o, "driver") || json_object_object_get(o, "file")) {
        struct node *n = NULL;
        rc = open_medium(vm, o, &d, overlay || d.snapshot, &n, e);
        rc = rc < 0 ? rc : backend_insert(b, n, !n->read_only, false, e);
        node_unref(n);
    }
    if (rc < 0) {
        backend_destroy(b);
        return err_wrap(e, "-drive %s", text);
    }
    *device = d.interface == IF_VIRTIO ? device_options(&d) : NULL;
    return 0;
}
