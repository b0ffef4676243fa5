/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands open, close and reopen, and how an image is opened. */
#include "cli/io/io.h"

#include "base/json.h"
#include "block/options.h"
#include "block/overlay.h"
#include "block/reopen.h"

#include <stdio.h>
#include <string.h>

bool io_open_option(struct tool *t, struct io_open *how, int key, const char *value)
{
    static const char *const discards[] = {"ignore", "off", "unmap", "on", NULL};
    static const char *const aios[] = {"threads", "native", "io_uring", NULL};
    switch (key) {
    case 'r':
        return how->read_only = true;
    case 's':
        return how->snapshot = true;
    case 'C':
        return how->copy_on_read = true;
    case 'U':
        return how->force_share = true;
    case 'k':
        how->aio = "native";
        return true;
    case 'n':
        value = "none";
        break;
    case 'i':
        how->aio = value;
        return g_strv_contains(aios, value) || (tool_fail(t, "Invalid aio option: %s", value), false);
    case 'd':
        how->discard = value;
        return g_strv_contains(discards, value) || (tool_fail(t, "Invalid discard option: %s", value), false);
    default:
        break;
    }
    return tool_parse_cache(value, &how->cache) || (tool_fail(t, "Invalid cache option: %s", value), false);
}

static void put_default(struct json_object *o, const char *key, struct json_object *v)
{
    if (json_has(o, key, NULL)) {
        json_object_put(v);
    } else {
        json_object_object_add(o, key, v);
    }
}

/* What `how` says, laid under what stands in o. */
static void put_common(struct json_object *o, const char *name, const struct io_open *how)
{
    struct json_object *cache;
    if (how->fmt) {
        put_default(o, "driver", json_object_new_string(how->fmt));
    }
    put_default(o, "read-only", json_object_new_boolean(how->read_only || how->snapshot));
    if (how->force_share) {
        put_default(o, "force-share", json_object_new_boolean(true));
    }
    put_default(o, "discard", json_object_new_string(how->discard));
    if (!json_has(o, "cache", &cache)) {
        cache = json_object_new_object();
        json_object_object_add(o, "cache", cache);
    }
    if (json_object_is_type(cache, json_type_object)) {
        put_default(cache, "direct", json_object_new_boolean(how->cache.direct));
        put_default(cache, "no-flush", json_object_new_boolean(how->cache.no_flush));
    }
    if (how->aio) {
        options_put_aio(o, name, how->aio);
    }
}

/* A filter of `driver` above *n takes its place. */
static int put_above(struct node **n, const char *driver, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(driver));
    json_object_object_add(o, "file", json_object_new_string((*n)->name));
    struct node *top = NULL;
    int rc = node_open((*n)->graph, o, &top, e);
    node_unref(*n);
    *n = top;
    return rc;
}

static int open_nodes(struct io *io, const char *name, const struct io_open *how, struct json_object *o,
                      struct node **n, struct err *e)
{
    CLEANUP_JSON struct json_object *all = options_expand(o, e);
    if (!all) {
        return -EINVAL;
    }
    put_common(all, name, how);
    int rc = name ? tool_open(io->tool, name, false, all, n, e) : tool_open_options(io->tool, all, n, e);
    if (rc == 0 && how->snapshot) {
        struct node *top = NULL;
        rc = node_open_temp_overlay(*n, NULL, &top, e);
        node_unref(*n);
        *n = top;
    }
    if (rc == 0 && how->copy_on_read) {
        if ((*n)->read_only) {
            node_unref(take(*n));
            return err_set(e, EINVAL, "Can't use copy-on-read on read-only device");
        }
        rc = put_above(n, "copy-on-read", e);
    }
    return rc;
}

int io_open(struct io *io, const char *name, const struct io_open *how, struct json_object *options)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *empty = json_object_new_object();
    if (io->node) {
        io_fail(io, "file open already, try 'help close'");
        return -EBUSY;
    }
    int rc = open_nodes(io, name, how, options ? options : empty, &io->node, &e);
    if (rc == 0) {
        io->image = how->copy_on_read ? io->node->file->child : io->node;
        unsigned perm = PERM_READ | (how->read_only ? 0 : PERM_WRITE);
        rc = edge_open(io->node, &(struct edge_spec){"root", perm, PERM_ALL}, &io->edge, &e);
    }
    if (rc) {
        node_unref(take(io->node));
        io_fail(io, "can't open%s%s: %s", name ? " device " : "", name ? name : "", err_text(&e));
        return rc;
    }
    io->writethrough = how->cache.writethrough;
    return 0;
}

void io_close(struct io *io)
{
    io_wait_settled(io);
    if (io->edge && (io->edge->perm & PERM_WRITE)) {
        edge_flush(io->edge);
    }
    edge_close(take(io->edge));
    node_unref(take(io->node));
}

int io_cmd_open(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'s'},
                                            {'C'},
                                            {'U'},
                                            {'r'},
                                            {'n'},
                                            {'k'},
                                            {'i', NULL, true},
                                            {'t', NULL, true},
                                            {'d', NULL, true},
                                            {'o', NULL, true},
                                            {0}};
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    CLEANUP_JSON struct json_object *options = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct io_open how = IO_OPEN_INIT;
    int key;
    while ((key = opts_next(&o)) >= 0) {
        if (key != 'o') {
            if (!io_open_option(io->tool, &how, key, o.value)) {
                return -EINVAL;
            }
            continue;
        }
        options = options ? options : json_object_new_object();
        if (io_parse_options(io->tool, o.value, options, &e)) {
            io_fail(io, "%s", err_text(&e));
            return -EINVAL;
        }
    }
    if (key != OPTS_END) {
        opts_print_error(&o, argv[0], key);
        return io_usage(io, argv[0]);
    }
    unsigned n;
    char **operands = opts_operands(&o, &n);
    if (n > 1 || (n == 0 && !options)) {
        return io_usage(io, argv[0]);
    }
    if (io->image_opts && n == 1) {
        options = options ? options : json_object_new_object();
        if (io_parse_options(io->tool, operands[0], options, &e)) {
            io_fail(io, "%s", err_text(&e));
            return -EINVAL;
        }
    }
    return io_open(io, io->image_opts ? NULL : operands[0], &how, options);
}

int io_cmd_close(struct io *io, int argc, char **argv)
{
    io_close(io);
    return 0;
}

/* --- reopen ----------------------------------------------------------------------------------------------------- */

struct reopen_args {
    bool read_only_given, read_only, cache_given;
    struct tool_cache cache;
    struct json_object *options; /* nested */
};

static int parse_reopen(struct io *io, int argc, char **argv, struct reopen_args *a, struct err *e)
{
    static const struct opt_spec specs[] = {{'c', NULL, true}, {'o', NULL, true}, {'r'}, {'w'}, {0}};
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    CLEANUP_JSON struct json_object *flat = json_object_new_object();
    int key, rc;
    while ((key = opts_next(&o)) >= 0) {
        switch (key) {
        case 'c':
            a->cache_given = true;
            if (!tool_parse_cache(o.value, &a->cache)) {
                return err_set(e, EINVAL, "Invalid cache option: %s", o.value);
            }
            break;
        case 'o':
            if ((rc = io_parse_options(io->tool, o.value, flat, e))) {
                return rc;
            }
            break;
        default:
            if (!io->tool) {
                return err_set(e, EINVAL, "-r and -w: of a disk in use blockdev-reopen changes read-only");
            }
            if (a->read_only_given) {
                return err_set(e, EINVAL, "Only one -r/-w option may be given");
            }
            a->read_only_given = true;
            a->read_only = key == 'r';
        }
    }
    if (key != OPTS_END) {
        opts_print_error(&o, argv[0], key);
        return io_usage(io, argv[0]);
    }
    unsigned n;
    opts_operands(&o, &n);
    if (n) {
        return io_usage(io, argv[0]);
    }
    a->options = options_expand(flat, e);
    return a->options ? 0 : -EINVAL;
}

/* Lays what -c, -r and -w say into the options; they must not say it themselves. */
static int merge_reopen(struct reopen_args *a, struct err *e)
{
    struct json_object *cache = NULL;
    if (a->read_only_given) {
        if (json_has(a->options, "read-only", NULL)) {
            return err_set(e, EINVAL, "Cannot set both -r/-w and 'read-only'");
        }
        json_object_object_add(a->options, "read-only", json_object_new_boolean(a->read_only));
    }
    if (a->cache_given) {
        if (json_has(a->options, "cache", &cache) &&
            (json_has(cache, "direct", NULL) || json_has(cache, "no-flush", NULL))) {
            return err_set(e, EINVAL, "Cannot set both -c and the cache options");
        }
        if (!cache) {
            cache = json_object_new_object();
            json_object_object_add(a->options, "cache", cache);
        }
        json_object_object_add(cache, "direct", json_object_new_boolean(a->cache.direct));
        json_object_object_add(cache, "no-flush", json_object_new_boolean(a->cache.no_flush));
    }
    return 0;
}

static int reopen(struct io *io, const struct reopen_args *a, struct err *e)
{
    struct edge *ed = io->edge;
    unsigned perm = ed->own_perm;
    int rc = 0;
    if (a->read_only_given && a->read_only) { /* who does not want to write any more must not stand in the way */
        rc = edge_set_perm(ed, perm & ~(unsigned)(PERM_WRITE | PERM_WRITE_SAME | PERM_RESIZE), ed->own_shared, e);
    }
    if (!rc) {
        rc = node_reopen(&(struct reopen_request){io->image, a->options, true}, 1, e);
        if (rc < 0) {
            edge_set_perm(ed, perm, ed->own_shared, NULL);
        }
    }
    if (!rc && a->cache_given) {
        io->writethrough = a->cache.writethrough;
    }
    return rc;
}

int io_cmd_reopen(struct io *io, int argc, char **argv)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct reopen_args a = {0};
    int rc = parse_reopen(io, argc, argv, &a, &e);
    rc = rc ? rc : merge_reopen(&a, &e);
    rc = rc ? rc : reopen(io, &a, &e);
    json_object_put(a.options);
    if (rc && err_is_set(&e)) {
        io_fail(io, "%s", err_text(&e));
    }
    return rc;
}
