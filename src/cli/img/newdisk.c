/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/checked.h"
#include "base/json.h"
#include "block/formatting.h"
#include "block/options.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* --- drivers and their options ---------------------------------------------------------------------------------- */

/* How a file name is opened: {"driver": …, …}; NULL after an error. */
static struct json_object *file_ref(const char *filename, struct err *e)
{
    struct json_object *o = json_object_new_object();
    if (options_from_filename(o, filename, e) < 0) {
        json_object_put(o);
        return NULL;
    }
    return o;
}

static const struct block_driver *protocol_of(const char *filename, struct err *e)
{
    CLEANUP_JSON struct json_object *o = file_ref(filename, e);
    return o ? driver_find(json_get_str(o, "driver")) : NULL;
}

/* "file:" says that what follows is a path, whatever colons it has. */
static const char *path_of(const char *filename)
{
    return g_str_has_prefix(filename, "file:") ? filename + strlen("file:") : filename;
}

int img_new_init(struct img_new *nd, const char *fmt, const char *filename, struct err *e)
{
    *nd = (struct img_new){.filename = filename, .fmt = fmt, .opts = json_object_new_object()};
    nd->drv = driver_find(fmt);
    if (!nd->drv) {
        return err_set(e, EINVAL, "Unknown file format '%s'", fmt);
    }
    if (filename) {
        nd->proto = protocol_of(filename, e);
        if (!nd->proto) {
            return -EINVAL;
        }
    }
    bool other = nd->drv->is_protocol && nd->proto && nd->proto != nd->drv;
    if (other || !nd->drv->can_be_created) {
        return err_set(e, EINVAL, "Format driver '%s' does not support image creation", fmt);
    }
    if (nd->proto && !nd->proto->can_be_created) {
        return err_set(e, EINVAL, "Protocol driver '%s' does not support image creation", nd->proto->name);
    }
    return 0;
}

void img_new_finish(struct img_new *nd)
{
    json_object_put(nd->opts);
    nd->opts = NULL;
}

/* Has no metadata: creating it is creating its file. */
static bool is_raw(const struct img_new *nd)
{
    return strcmp(nd->fmt, "raw") == 0 || nd->drv->is_protocol;
}

/* Those of the format, then the protocol's others, sorted by name. */
static GPtrArray *all_options(const struct img_new *nd)
{
    static const struct create_option size[] = {{"size", "size", "Virtual disk size"}, {NULL, NULL, NULL}};
    GPtrArray *all = g_ptr_array_new();
    bool only_proto = is_raw(nd) && nd->proto;
    img_options_add(all, only_proto ? NULL : nd->drv->create_options);
    img_options_add(all, nd->proto ? nd->proto->create_options : NULL);
    img_options_add(all, size);
    return all;
}

void img_new_print_help(const struct tool *img, const struct img_new *nd)
{
    g_autoptr(GPtrArray) all = all_options(nd);
    if (nd->filename) {
        puts("Supported options:");
    } else {
        printf("Supported %s options:\n", nd->fmt);
    }
    img_options_print(img, all);
    if (!nd->filename) {
        puts("\nThe protocol level may support further options.\n"
             "Specify the target filename to include those options.");
    }
}

/* --- values ----------------------------------------------------------------------------------------------------- */

int img_new_set(struct img_new *nd, const char *name, const char *value, struct err *e)
{
    g_autoptr(GPtrArray) all = all_options(nd);
    return img_options_set(all, name, value, nd->opts, e);
}

int img_new_parse(struct img_new *nd, const char *text, struct err *e)
{
    g_autoptr(GPtrArray) all = all_options(nd);
    return img_options_parse(all, text, nd->opts, e);
}

const char *img_new_get(const struct img_new *nd, const char *name)
{
    struct json_object *v;
    return json_object_object_get_ex(nd->opts, name, &v) ? json_object_get_string(v) : NULL;
}

void img_new_print(const struct img_new *nd)
{
    formatting_print(nd->filename, nd->fmt, nd->proto, nd->opts);
}

/* --- creating --------------------------------------------------------------------------------------------------- */

int img_new_check_backing(struct tool *img, struct img_new *nd, bool unsafe, struct err *e)
{
    const char *file = img_new_get(nd, "backing_file"), *fmt = img_new_get(nd, "backing_fmt");
    if (!file) {
        return 0;
    }
    if (!*file) {
        return err_set(e, EINVAL, "Expected backing file name, got empty string");
    }
    if (strcmp(file, nd->filename) == 0) {
        return err_set(e, EINVAL, "Error: Trying to create an image with the same filename as the backing file");
    }
    if (unsafe && fmt) {
        return driver_find(fmt) ? 0 : err_set(e, EINVAL, "Unknown backing file format '%s'", fmt);
    }
    if (unsafe) {
        return err_set(e, EINVAL, "Backing file specified without backing format");
    }
    CLEANUP_FREE char *path = path_combine(nd->filename, file);
    struct img_open how = {.fmt = fmt, .force_share = true}; /* it may be in use, as a base often is */
    struct img_disk d;
    graph_set_metadata_only(img->graph, true); /* its size is wanted, not its key */
    int rc = img_disk_try_open(img, path, &how, &d, e);
    graph_set_metadata_only(img->graph, false);
    if (rc) {
        CLEANUP_FREE char *text = g_strdup(err_text(e));
        return err_set(e, -rc, "%s\nCould not open backing image.", text);
    }
    if (!fmt) {
        err_set(e, EINVAL, "Backing file specified without backing format\nDetected format of %s.", d.node->drv->name);
        img_disk_drop(&d);
        return -EINVAL;
    }
    if (!img_new_get(nd, "size")) {
        CLEANUP_FREE char *size = g_strdup_printf("%" PRIu64, img_disk_size(&d));
        json_object_object_add(nd->opts, "size", json_object_new_string(size));
    }
    img_disk_drop(&d);
    return 0;
}

static void put_string(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

/* compat=0.10 in the words of BlockdevCreateOptionsQcow2. */
static int put_version(struct json_object *o, const char *compat, struct err *e)
{
    bool v2 = strcmp(compat, "0.10") == 0 || strcmp(compat, "v2") == 0;
    if (!v2 && strcmp(compat, "1.1") != 0 && strcmp(compat, "v3") != 0) {
        return err_set(e, EINVAL, "Parameter 'version' does not accept value '%s'", compat);
    }
    put_string(o, "version", v2 ? "v2" : "v3");
    return 0;
}

/* nd->opts → the format's options (fmt) and the protocol's (proto). */
static int split_options(struct img_new *nd, struct json_object *fmt, struct json_object *proto, struct err *e)
{
    json_object_object_foreach(nd->opts, key, v)
    {
        const char *value = json_object_get_string(v);
        const struct create_option *o = is_raw(nd) ? NULL : create_option_find(nd->drv->create_options, key);
        bool to_fmt = o != NULL;
        o = o ? o : create_option_find(nd->proto->create_options, key);
        if (strcmp(key, "preallocation") == 0 &&
            strcmp(nd->fmt, "luks") == 0) { /* the file's, but luks gives it its size */
            to_fmt = true;
        }
        if (!o) {
            return err_set(e, EINVAL, "Invalid parameter '%s'", key);
        }
        if (to_fmt && strcmp(key, "compat") == 0) {
            int rc = put_version(fmt, value, e);
            if (rc) {
                return rc;
            }
            continue;
        }
        CLEANUP_FREE char *name = g_strdelimit(g_strdup(key), "_", '-');
        json_object_object_add(to_fmt ? fmt : proto, name, img_option_typed(o, value));
    }
    put_string(proto, "filename", path_of(nd->filename));
    struct json_object *size;
    if (is_raw(nd) && json_object_object_get_ex(proto, "size", &size)) { /* whole sectors, as everybody makes them */
        uint64_t bytes = min_u64(json_object_get_uint64(size), INT64_MAX - 511);
        json_object_object_add(proto, "size", json_object_new_uint64(round_up(bytes, 512)));
    }
    if (!is_raw(nd)) {
        json_object_object_add(proto, "size", json_object_new_uint64(0));
    }
    return 0;
}

static int create_data_file(struct tool *img, struct img_new *nd, struct json_object *fmt, struct err *e)
{
    const char *name = img_new_get(nd, "data_file");
    if (!name) {
        return 0;
    }
    const struct block_driver *proto = protocol_of(name, e);
    if (!proto) {
        return -EINVAL;
    }
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    put_string(o, "filename", path_of(name));
    json_object_object_add(o, "size", json_object_new_uint64(0));
    int rc = proto->create(img->graph, o, e);
    if (rc == 0) {
        json_object_object_add(fmt, "data-file", file_ref(name, NULL));
    }
    return rc;
}

int img_new_create(struct tool *img, struct img_new *nd, struct err *e)
{
    CLEANUP_JSON struct json_object *fmt = json_object_new_object();
    CLEANUP_JSON struct json_object *proto = json_object_new_object();
    int rc = split_options(nd, fmt, proto, e);
    if (rc) {
        return rc;
    }
    struct stat st;
    bool is_new = stat(path_of(nd->filename), &st) < 0;
    rc = nd->proto->create(img->graph, proto, e);
    if (rc == -EFBIG && is_raw(nd)) {
        return err_set(e, EFBIG, "The image size is too large for file format '%s'", nd->fmt);
    }
    if (rc || is_raw(nd)) {
        return rc;
    }
    json_object_object_add(fmt, "file", file_ref(nd->filename, NULL));
    rc = create_data_file(img, nd, fmt, e);
    rc = rc ? rc : nd->drv->create(img->graph, fmt, e);
    if (rc == -EFBIG) {
        err_set(e, EFBIG, "The image size is too large for file format '%s'%s", nd->fmt,
                create_option_find(nd->drv->create_options, "cluster_size") ? " (try using a larger cluster size)"
                                                                            : "");
    }
    bool empty = strcmp(nd->fmt, "qcow2") == 0 || strcmp(nd->fmt, "luks") == 0; /* these leave nothing behind */
    if (rc && (is_new || empty) && strcmp(nd->proto->name, "file") == 0) {
        unlink(path_of(nd->filename));
    }
    return rc;
}
