/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/disk.h"

#include "base/nearest.h"

#include <string.h>

enum { MAX_NAME_IN_NAME = 15, MAX_LOOKS = 10 };

void disk_finish(struct disk *d)
{
    g_free(d->device);
    json_object_put(d->info);
    json_object_put(d->nodes);
    *d = (struct disk){0};
}

static void disk_free(gpointer d)
{
    disk_finish(d);
    g_free(d);
}

/* "/machine/peripheral/disk0/virtio-backend" -> "disk0"; NULL for a device without an id. */
static char *device_id(const char *qdev)
{
    static const char within[] = "/machine/peripheral/";
    if (qdev[0] && qdev[0] != '/') {
        return g_strdup(qdev);
    }
    if (!g_str_has_prefix(qdev, within)) {
        return NULL;
    }
    qdev += strlen(within);
    return g_strndup(qdev, strcspn(qdev, "/"));
}

struct json_object *disk_node(struct json_object *nodes, const char *name)
{
    for (size_t i = 0; nodes && i < json_object_array_length(nodes); i++) {
        struct json_object *n = json_object_array_get_idx(nodes, i);
        if (!strcmp(ctl_str(n, "node-name"), name)) {
            return n;
        }
    }
    return NULL;
}

struct json_object *disk_child(struct json_object *nodes, struct json_object *node, const char *child)
{
    struct json_object *list = ctl_get(node, "children");
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *edge = json_object_array_get_idx(list, i);
        if (!strcmp(ctl_str(edge, "child"), child)) {
            return disk_node(nodes, ctl_str(edge, "node-name"));
        }
    }
    return NULL;
}

static struct json_object *skip_filters(struct json_object *nodes, struct json_object *node)
{
    static const char *const filters[] = {"copy-on-read", "throttle", "mirror_top",        "commit_top", "compress",
                                          "preallocate",  "blkdebug", "copy-before-write", NULL};
    while (node && g_strv_contains(filters, ctl_str(node, "drv"))) {
        struct json_object *below = disk_child(nodes, node, "file");
        below = below ? below : disk_child(nodes, node, "backing");
        if (!below) {
            break;
        }
        node = below;
    }
    return node;
}

static struct disk *disk_create(struct json_object *info, struct json_object *nodes, const char *top)
{
    struct disk *d = g_new0(struct disk, 1);
    d->info = json_object_get(info);
    d->nodes = json_object_get(nodes);
    d->image = skip_filters(nodes, disk_node(nodes, top));
    d->node = ctl_str(d->image, "node-name");
    d->device = device_id(ctl_str(info, "qdev"));
    d->name = d->device ? d->device : ctl_str(info, "device")[0] ? ctl_str(info, "device") : d->node;
    return d;
}

static const char *top_of(struct json_object *info)
{
    return ctl_str(ctl_get(info, "inserted"), "node-name");
}

/* Else a disk has been switched over between the two answers, and its image was let go of. */
static bool fit_together(struct json_object *all, struct json_object *nodes)
{
    bool fit = true;
    for (size_t i = 0; fit && i < json_object_array_length(all); i++) {
        const char *top = top_of(json_object_array_get_idx(all, i));
        fit = !top[0] || disk_node(nodes, top);
    }
    return fit;
}

GPtrArray *disk_list(struct ctl *c, struct err *e)
{
    CLEANUP_JSON struct json_object *all = NULL, *nodes = NULL;
    for (unsigned i = 0; i < MAX_LOOKS && !(nodes && fit_together(all, nodes)); i++) {
        json_object_put(take(all));
        json_object_put(take(nodes));
        if (ctl_call(c, "query-block", &all, e, NULL) || ctl_call(c, "query-named-block-nodes", &nodes, e, NULL)) {
            return NULL;
        }
    }
    GPtrArray *list = g_ptr_array_new_with_free_func(disk_free);
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        struct json_object *info = json_object_array_get_idx(all, i);
        g_ptr_array_add(list, disk_create(info, nodes, top_of(info)));
    }
    return list;
}

static bool is_named(const struct disk *d, const char *name)
{
    return !g_strcmp0(d->device, name) || !strcmp(d->name, name) || !strcmp(d->node, name) ||
           !strcmp(ctl_str(d->info, "qdev"), name);
}

static int not_found(GPtrArray *disks, const char *name, struct err *e)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (guint i = 0; i < disks->len; i++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)((struct disk *)disks->pdata[i])->name);
    }
    g_ptr_array_add(names, NULL);
    if (!disks->len) {
        return err_set(e, ENODEV, "there is no disk '%s': the machine has none", name);
    }
    CLEANUP_FREE char *all = g_strjoinv(", ", (char **)names->pdata);
    err_set(e, ENODEV, "there is no disk '%s', nor a node of that name; disks: %s", name, all);
    return err_suggest(e, name, (const char *const *)names->pdata);
}

/* A node that no device has, or that lies below one's. */
static struct disk *only_a_node(struct json_object *nodes, const char *name)
{
    CLEANUP_JSON struct json_object *info = json_object_new_object();
    return disk_node(nodes, name) ? disk_create(info, nodes, name) : NULL;
}

int disk_find(struct ctl *c, const char *name, struct disk *out, struct err *e)
{
    *out = (struct disk){0};
    CLEANUP_JSON struct json_object *nodes = NULL;
    g_autoptr(GPtrArray) disks = disk_list(c, e);
    if (!disks || ctl_call(c, "query-named-block-nodes", &nodes, e, NULL)) {
        return -e->code;
    }
    struct disk *found = NULL;
    for (guint i = 0; i < disks->len && !found; i++) {
        found = is_named(disks->pdata[i], name) ? disks->pdata[i] : NULL;
    }
    struct disk *node = found ? NULL : only_a_node(nodes, name);
    if (!found && !node) {
        return not_found(disks, name, e);
    }
    struct disk *which = found ? found : node;
    *out = *which;
    *which = (struct disk){0};
    g_free(node);
    return out->image ? 0 : err_set(e, ENOMEDIUM, "disk '%s' has no medium", name);
}

static bool is_taken(struct json_object *taken, const char *key, const char *name)
{
    for (size_t i = 0; taken && i < json_object_array_length(taken); i++) {
        if (!strcmp(ctl_str(json_object_array_get_idx(taken, i), key), name)) {
            return true;
        }
    }
    return false;
}

/* What identifiers may not have is left out, and so much that names of nodes, at most 31 bytes, have room for more. */
static char *name_in_names(const struct disk *d)
{
    GString *s = g_string_new(NULL);
    for (const char *p = d->name; *p && s->len < MAX_NAME_IN_NAME; p++) {
        if (g_ascii_isalnum(*p) || strchr("-._", *p)) {
            g_string_append_c(s, *p);
        }
    }
    return g_string_free(s, FALSE);
}

char *disk_free_name(const struct disk *d, const char *stem, struct json_object *jobs)
{
    CLEANUP_FREE char *base = name_in_names(d);
    char *name = g_strdup_printf("%s-%s", stem, base);
    for (unsigned i = 2; is_taken(jobs, "id", name) || is_taken(d->nodes, "node-name", name); i++) {
        g_free(name);
        name = g_strdup_printf("%s-%s-%u", stem, base, i);
    }
    return name;
}

bool disk_has_job(const struct disk *d, const char *job)
{
    if (is_named(d, job)) {
        return true;
    }
    static const char *const stems[] = {"copy", "stream", "commit", "backup"};
    CLEANUP_FREE char *base = name_in_names(d);
    for (unsigned i = 0; i < G_N_ELEMENTS(stems); i++) {
        CLEANUP_FREE char *name = g_strdup_printf("%s-%s", stems[i], base);
        size_t n = strlen(name);
        if (!strncmp(job, name, n) &&
            (!job[n] || (job[n] == '-' && strspn(job + n + 1, "0123456789") == strlen(job + n + 1)))) {
            return true;
        }
    }
    return false;
}

const char *disk_layer_key(const struct disk *d, const char *name, const char *node_key, const char *file_key)
{
    return disk_node(d->nodes, name) ? node_key : file_key;
}
