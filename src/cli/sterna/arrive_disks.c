/* SPDX-License-Identifier: BSD-2-Clause */
/* Disks that the source copies, and that are made here for it. */
#include "cli/sterna/arrive.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "block/options.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void arriving_disk_free(void *disk)
{
    struct arriving_disk *d = disk;
    g_free(d->name);
    g_free(d->path);
    g_free(d);
}

const struct config_section *arrive_find(const GPtrArray *sections, const char *kind, const char *name)
{
    for (guint i = 0; i < sections->len; i++) {
        const struct config_section *s = g_ptr_array_index(sections, i);
        if (!strcmp(s->kind, kind) && !g_strcmp0(s->name, name)) {
            return s;
        }
    }
    return NULL;
}

bool arrive_names(struct json_object *values, const char *name)
{
    if (json_object_is_type(values, json_type_object)) {
        json_object_object_foreach(values, key, v)
        {
            if (strcmp(key, "driver") != 0 && strcmp(key, "node-name") != 0 && arrive_names(v, name)) {
                return true;
            }
        }
    }
    for (size_t i = 0; json_object_is_type(values, json_type_array) && i < json_object_array_length(values); i++) {
        if (arrive_names(json_object_array_get_idx(values, i), name)) {
            return true;
        }
    }
    return json_object_is_type(values, json_type_string) && !strcmp(json_object_get_string(values), name);
}

/* --- which ---------------------------------------------------------------------------------------------------------
 */

/* What the device of this name has for a disk: the name of a drive or a node. NULL: nothing. */
static const char *disk_of(const GPtrArray *sections, const char *device)
{
    for (guint i = 0; i < sections->len; i++) {
        const struct config_section *s = g_ptr_array_index(sections, i);
        CLEANUP_FREE char *path = s->name && s->name[0] == '#' ? g_strdup_printf("/%s", s->name + 1) : NULL;
        if (!strcmp(s->kind, "device") && (!strcmp(s->name, device) || (path && g_str_has_suffix(device, path)))) {
            return json_get_str(s->values, "drive");
        }
    }
    if (g_str_has_prefix(device, "/machine/virt.flash")) {
        const struct config_section *m = arrive_find(sections, "machine", NULL);
        CLEANUP_FREE char *key = g_strdup_printf("pflash%s", device + strlen("/machine/virt.flash"));
        struct json_object *options = m ? json_object_object_get(m->values, "options") : NULL;
        return options ? json_get_str(options, key) : NULL;
    }
    return device;
}

static const char *node_of(const GPtrArray *sections, const char *device)
{
    const char *disk = disk_of(sections, device);
    const struct config_section *drive = disk ? arrive_find(sections, "drive", disk) : NULL;
    return drive ? json_get_str(drive->values, "node") : disk;
}

/* --- what it will be ------------------------------------------------------------------------------------------------
 */

/* Where the name of the file stands; NULL: it is no image in a file that could be made. */
static struct json_object *file_layer(const GPtrArray *sections, struct json_object *values)
{
    struct json_object *file = json_object_object_get(values, "file");
    if (!strcmp(json_get_str(values, "driver"), "file")) {
        return values;
    }
    if (json_object_is_type(file, json_type_string)) {
        const struct config_section *s = arrive_find(sections, "blockdev", json_object_get_string(file));
        file = s ? s->values : NULL;
    }
    return file && !g_strcmp0(json_get_str(file, "driver"), "file") && json_get_str(file, "filename") ? file : NULL;
}

/* One of those that can be made by their format alone. NULL: none of them. */
static const char *format_of(struct json_object *values)
{
    static const char *const formats[] = {"qcow2", "qed", "raw"};
    static const char *const special[] = {"encrypt", "data-file", "offset", "size"};
    const char *driver = json_get_str(values, "driver");
    for (size_t i = 0; i < G_N_ELEMENTS(special); i++) {
        if (json_object_object_get_ex(values, special[i], NULL)) {
            return NULL;
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (!strcmp(driver, formats[i])) {
            return formats[i];
        }
    }
    return !strcmp(driver, "file") ? "raw" : NULL;
}

bool arrive_any_names(const GPtrArray *sections, const char *name)
{
    for (guint i = 0; i < sections->len; i++) {
        const struct config_section *s = g_ptr_array_index(sections, i);
        if (arrive_names(s->values, name)) {
            return true;
        }
    }
    return false;
}

/* Nodes that stood below what `values` no longer has, and below nothing else. */
static void drop_unnamed(GPtrArray *sections, struct json_object *gone)
{
    for (guint i = sections->len; i-- > 0;) {
        const struct config_section *s = g_ptr_array_index(sections, i);
        if (!strcmp(s->kind, "blockdev") && arrive_names(gone, s->name) && !arrive_any_names(sections, s->name)) {
            CLEANUP_JSON struct json_object *below = json_object_get(s->values);
            g_ptr_array_remove_index(sections, i);
            drop_unnamed(sections, below);
            i = sections->len; /* from the end again */
        }
    }
}

static char *path_here(struct json_object *file, const char *folder)
{
    const char *there = json_get_str(file, "filename");
    CLEANUP_FREE char *base = g_path_get_basename(there);
    char *path = folder ? g_build_filename(folder, base, NULL) : g_strdup(there);
    json_object_object_add(file, "filename", json_object_new_string(path));
    return path;
}

/* What its manager can do: a name that begins with '#' is the program's own, and nobody can give it to a node. */
static char *make_it(const char *node)
{
    return node[0] == '#'
               ? g_strdup("name its node at the source (-blockdev, node-name=NAME) and make that here before")
               : g_strdup_printf("make its node here before ('blockdev-add' or -blockdev, node-name=%s)", node);
}

static int check_node(const struct arriving_disk *d, const char *node, bool follows, struct err *e)
{
    CLEANUP_FREE char *make = make_it(node);
    if (follows && !strcmp(d->format, "raw")) {
        return err_set(e, ENOTSUP,
                       "Disk '%s' is 'raw', and one that follows its machine needs a format with backing images "
                       "here: %s, or move it with mode 'pre-copy'",
                       d->name, make);
    }
    return access(d->path, F_OK) < 0
               ? 0
               : err_set(e, EEXIST,
                         "Disk '%s' cannot be made here: '%s' is there already: remove it, name another folder "
                         "('disk-folder' of 'migrate-incoming'), or %s",
                         d->name, d->path, make);
}

static int plan(GPtrArray *sections, const struct config_section *s, const char *folder, struct arriving_disk *d,
                struct err *e)
{
    const char *driver = json_get_str(s->values, "driver");
    d->format = driver ? format_of(s->values) : NULL;
    struct json_object *file = d->format ? file_layer(sections, s->values) : NULL;
    if (!file) {
        CLEANUP_FREE char *make = make_it(s->name);
        return err_set(e, ENOTSUP,
                       "Disk '%s' (node '%s', driver '%s') is not simply an image of qcow2, qed or raw in a file, and "
                       "cannot be made here: %s",
                       d->name, s->name, driver ? driver : "", make);
    }
    d->path = path_here(file, folder);
    CLEANUP_JSON struct json_object *backing = json_object_get(json_object_object_get(s->values, "backing"));
    json_object_object_del(s->values, "backing");
    drop_unnamed(sections, backing);
    return 0;
}

int arrive_plan_disk(struct program *p, GPtrArray *sections, struct json_object *want, const char *folder,
                     struct arriving_disk **out, struct err *e)
{
    const char *device = json_get_str(want, "device"), *mode = json_get_str(want, "mode");
    const char *node = device ? node_of(sections, device) : NULL;
    struct json_object *size = json_object_object_get(want, "size");
    *out = NULL;
    if (node && node_find(p->env.graph, node)) {
        return 0;
    }
    const struct config_section *s = node ? arrive_find(sections, "blockdev", node) : NULL;
    if (!s || !json_object_is_type(size, json_type_int)) {
        return err_set(e, ENOENT, "The source copies disk '%s', which is not in what it says of its machine",
                       device ? device : "");
    }
    struct arriving_disk *d = g_new0(struct arriving_disk, 1);
    d->name = g_strdup(device);
    d->size = json_object_get_uint64(size);
    int rc = plan(sections, s, folder, d, e);
    rc = rc < 0 ? rc : check_node(d, node, !g_strcmp0(mode, "post-copy"), e);
    if (rc < 0) {
        arriving_disk_free(d);
        return rc;
    }
    *out = d;
    return 0;
}

/* --- making it ------------------------------------------------------------------------------------------------------
 */

static int make(struct program *p, const struct arriving_disk *d, struct err *e)
{
    bool raw = !strcmp(d->format, "raw");
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, raw ? "filename" : "file", json_object_new_string(d->path));
    json_object_object_add(o, "size", json_object_new_uint64(d->size));
    return driver_find(raw ? "file" : d->format)->create(p->env.graph, o, e);
}

int arrive_make_disk(struct program *p, const struct arriving_disk *d, struct err *e)
{
    int fd = open(d->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644); /* nobody else's */
    if (fd < 0) {
        return err_set_errno(e, errno, "Disk '%s' cannot be made here as '%s'", d->name, d->path);
    }
    close(fd);
    int rc = make(p, d, e);
    if (rc < 0) {
        unlink(d->path);
        return err_wrap(e, "Disk '%s' cannot be made here", d->name);
    }
    return 0;
}
