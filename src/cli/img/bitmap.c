/* SPDX-License-Identifier: BSD-2-Clause */
/* Dirty bitmaps that images keep: changed one by one, or taken along by convert. */
#include "cli/img/img.h"

#include "block/dirty.h"

#include <stdio.h>
#include <string.h>

enum { OPT_ADD = OPT_OWN, OPT_REMOVE, OPT_CLEAR, OPT_ENABLE, OPT_DISABLE, OPT_MERGE };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {OPT_ADD, "add", false},
    {OPT_REMOVE, "remove", false},
    {OPT_CLEAR, "clear", false},
    {OPT_ENABLE, "enable", false},
    {OPT_DISABLE, "disable", false},
    {OPT_MERGE, "merge", true},
    {'b', "source-file", true},
    {'F', "source-format", true},
    {'f', "format", true},
    {'g', "granularity", true},
    OPT_SPEC_END,
};

struct action {
    int what;
    const char *source; /* of OPT_MERGE */
};

struct args {
    struct img_common common;
    const char *name, *bitmap, *src_name, *src_fmt;
    int64_t granularity; /* 0: not given */
    GArray *actions;     /* struct action */
    bool adds, merges;
};

const char *img_hint(const struct err *e)
{
    return g_str_has_suffix(err_text(e), "is inconsistent and cannot be used")
               ? "\nTry block-dirty-bitmap-remove to delete this bitmap from disk"
               : "";
}

static int parse_options(struct tool *img, struct opts *o, struct args *a)
{
    static const int64_t range[] = {0, INT64_MAX};
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        struct action x = {key, o->value};
        switch (key) {
        case 'b':
            a->src_name = o->value;
            break;
        case 'F':
            a->src_fmt = o->value;
            break;
        case 'g':
            if (!img_number(img, "granularity", o->value, range, &a->granularity)) {
                return 1;
            }
            break;
        default:
            a->adds |= key == OPT_ADD;
            a->merges |= key == OPT_MERGE;
            g_array_append_val(a->actions, x);
        }
    }
    return key == OPTS_END ? -1 : img_opts_exit(&a->common);
}

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int rc = parse_options(img, o, a);
    if (rc >= 0) {
        return rc;
    }
    if (!a->actions->len) {
        return tool_fail(img, "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
    }
    if (a->granularity && !a->adds) {
        return tool_fail(img, "granularity only supported with --add");
    }
    if (a->src_fmt && !a->src_name) {
        return tool_fail(img, "-F only supported with -b");
    }
    if (a->src_name && !a->merges) {
        return tool_fail(img, "Merge bitmap source file only supported with --merge");
    }
    unsigned n;
    char **words = opts_operands(o, &n);
    if (n != 2) {
        return tool_fail(img, "Expecting filename and bitmap name");
    }
    a->name = words[0];
    a->bitmap = words[1];
    return -1;
}

static int add(const struct args *a, struct node *n, struct err *e)
{
    struct bitmap_spec spec = {.name = a->bitmap,
                               .has_granularity = a->granularity != 0,
                               .granularity = a->granularity <= UINT32_MAX ? (uint32_t)a->granularity : 0,
                               .persistent = true};
    return node_bitmap_add(n, &spec, NULL, e);
}

static int act(const struct args *a, const struct action *x, struct node *n, struct node *from, struct err *e)
{
    if (x->what == OPT_ADD) {
        return add(a, n, e);
    }
    struct dirty_bitmap *b = dirty_bitmap_lookup(n, a->bitmap, e), *src;
    if (!b) {
        return -ENOENT;
    }
    switch (x->what) {
    case OPT_REMOVE:
        return node_bitmap_remove(b, e);
    case OPT_CLEAR:
        return dirty_bitmap_reset(b, e);
    case OPT_ENABLE:
    case OPT_DISABLE:
        return dirty_bitmap_enable(b, x->what == OPT_ENABLE, e);
    default:
        src = dirty_bitmap_lookup(from, x->source, e);
        return src ? dirty_bitmap_merge(b, src, e) : -ENOENT;
    }
}

static int act_all(struct tool *img, const struct args *a, struct node *n, struct node *from)
{
    static const char *const names[] = {"add", "remove", "clear", "enable", "disable", "merge"};
    for (guint i = 0; i < a->actions->len; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        const struct action *x = &g_array_index(a->actions, struct action, i);
        if (act(a, x, n, from, &e) < 0) {
            return tool_fail(img, "Operation %s on bitmap %s failed: %s%s", names[x->what - OPT_ADD], a->bitmap,
                             err_text(&e), img_hint(&e));
        }
    }
    return 0;
}

static int run(struct tool *img, const struct args *a)
{
    struct img_open how = {
        .fmt = a->common.fmt, .image_opts = a->common.image_opts, .writable = true, .no_backing = true};
    struct img_open src_how = {.fmt = a->src_fmt, .no_backing = true};
    struct img_disk d;
    CLEANUP_DISK struct img_disk src = IMG_DISK_NONE;
    if (!img_disk_open(img, a->name, &how, &d)) {
        return 1;
    }
    int rc = a->src_name && !img_disk_open(img, a->src_name, &src_how, &src) ? 1 : 0;
    rc = rc ? rc : act_all(img, a, d.node, src.node ? src.node : d.node);
    int closed = img_disk_close(&d);
    if (closed && rc == 0) {
        return tool_fail(img, "Could not flush '%s': %s", a->name, g_strerror(-closed));
    }
    return rc;
}

int img_bitmap(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.actions = g_array_new(FALSE, FALSE, sizeof(struct action))};
    int rc = parse(img, &o, &a);
    if (rc < 0) {
        rc = run(img, &a);
    }
    g_array_unref(a.actions);
    return rc;
}

/* --- taken along -------------------------------------------------------------------------------------------------- */

int img_bitmaps_check(struct tool *img, struct node *src, bool skip_broken)
{
    if (!node_keeps_bitmaps(src)) {
        return tool_fail(img, "Source lacks bitmap support");
    }
    for (guint i = src->bitmaps->len; !skip_broken && i-- > 0;) { /* the newest first, as others name them */
        const struct dirty_bitmap *b = g_ptr_array_index(src->bitmaps, i);
        if (b->persistent && b->inconsistent) {
            return tool_fail(img,
                             "Cannot copy inconsistent bitmap '%s'\n"
                             "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
                             b->name);
        }
    }
    return 0;
}

static int copy_one(struct tool *img, struct dirty_bitmap *b, struct node *dst)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct bitmap_spec spec = {b->name, true, true, !b->enabled, b->granularity};
    struct dirty_bitmap *copy;
    if (node_bitmap_add(dst, &spec, &copy, &e) < 0) {
        return tool_fail(img, "Failed to create bitmap %s: %s", b->name, err_text(&e));
    }
    if (dirty_bitmap_merge(copy, b, &e) < 0) {
        tool_fail(img, "Failed to populate bitmap %s: %s", b->name, err_text(&e));
        (void)node_bitmap_remove(copy, NULL);
        return 1;
    }
    return 0;
}

int img_bitmaps_copy(struct tool *img, struct node *src, struct node *dst)
{
    int rc = 0;
    for (guint i = src->bitmaps->len; i-- > 0;) {
        const struct dirty_bitmap *b = g_ptr_array_index(src->bitmaps, i);
        if (b->persistent && b->inconsistent) {
            tool_warn(img, "Skipping inconsistent bitmap '%s'", b->name);
        }
    }
    for (guint i = 0; rc == 0 && i < src->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(src->bitmaps, i);
        rc = b->persistent && !b->inconsistent ? copy_one(img, b, dst) : 0;
    }
    return rc;
}
