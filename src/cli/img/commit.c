/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/snapshot.h"
#include "cli/img/copy.h"
#include "job/fill.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,       OPT_SPEC_OBJECT,     OPT_SPEC_IMAGE_OPTS,  {'f', "format", true},    {'t', "cache", true},
    {'b', "base", true}, {'r', "rate", true}, {'d', "drop", false}, {'p', "progress", false}, {'q', "quiet", false},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *name, *base, *cache;
    int64_t rate;
    bool keep, progress;
};

/* An image of the chain, topmost first. */
struct layer {
    char *filename, *fmt;
};

static void free_layer(gpointer p)
{
    struct layer *l = p;
    g_free(l->filename);
    g_free(l->fmt);
    g_free(l);
}

static GPtrArray *read_chain(struct node *top)
{
    GPtrArray *chain = g_ptr_array_new_with_free_func(free_layer);
    for (struct node *n = top; n; n = node_backing(n)) {
        struct node *image = node_skip_filters(n);
        struct layer *l = g_new(struct layer, 1);
        *l = (struct layer){g_strdup(image->filename), g_strdup(image->drv->name)};
        g_ptr_array_add(chain, l);
    }
    return chain;
}

/* Which layer is meant by -b; -1: none. */
static int find_base(const GPtrArray *chain, const char *top, const char *name)
{
    CLEANUP_FREE char *full = path_combine(top, name);
    char *real = realpath(full, NULL);
    CLEANUP_FREE char *wanted = g_strdup(real ? real : full);
    free(real);
    for (guint i = 1; i < chain->len; i++) {
        const struct layer *l = chain->pdata[i];
        char *is = realpath(l->filename, NULL);
        bool same = !strcmp(is ? is : l->filename, wanted) || !strcmp(l->filename, full);
        free(is);
        if (same) {
            return (int)i;
        }
    }
    return -1;
}

/*
 * The chain again, from the base up, each layer with the node below as its backing: so the base is opened for writing
 * from the start and only once. The layers between hold each other; *top and *base are the caller's.
 */
static bool open_chain(struct tool *img, const struct args *a, const GPtrArray *chain, unsigned base_at,
                       struct img_disk out[2])
{
    struct img_disk *top = &out[0], *base = &out[1], between = IMG_DISK_NONE;
    struct img_open how = {.writable = true, .resize = true, .unmap = true};
    tool_parse_cache(a->cache, &how.cache);
    for (int i = (int)base_at; i >= 0; i--) {
        const struct layer *l = chain->pdata[i];
        struct img_disk *d = i == 0 ? top : i == (int)base_at ? base : &between;
        struct img_disk below = i == (int)base_at ? IMG_DISK_NONE : i + 1 == (int)base_at ? *base : between;
        how.backing_node = below.node ? below.node->name : NULL;
        how.writable = how.resize = d != &between;
        how.fmt = l->fmt;
        struct img_disk opened;
        bool ok = img_disk_open(img, i == 0 ? a->name : l->filename, &how, &opened);
        if (below.node && below.node != base->node) {
            img_disk_drop(&between); /* the layer above holds it now */
        }
        if (!ok) {
            return false;
        }
        *d = opened;
    }
    return true;
}

/* Snapshots inside of what is committed stay what they are: they get what is written over. */
static int keep_snapshots(struct tool *img, struct img_disk *top, struct node *base)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    for (struct node *n = node_backing(top->node); n && n != base; n = node_backing(n)) {
        if (node_check_no_snapshots(n, NULL)) {
            return tool_fail(img,
                             "'%s' has snapshots inside, which need what would be written over: commit it by itself, "
                             "or delete them, first",
                             n->filename);
        }
    }
    return fill_for_commit(node_skip_filters(top->node), base, &e) ? tool_fail(img, "%s", err_text(&e)) : 0;
}

static int copy_down(struct tool *img, const struct args *a, struct img_disk d[2], int depth,
                     struct img_progress *progress)
{
    struct img_disk *top = &d[0], *base = &d[1];
    uint64_t size = img_disk_size(top);
    CLEANUP_ERR struct err e = ERR_INIT;
    if (img_disk_size(base) < size && edge_truncate(base->edge, size, false, PREALLOC_OFF, &e)) {
        return tool_fail(img, "Could not grow '%s': %s", base->name, err_text(&e));
    }
    struct copy c = {
        .img = img,
        .src = top,
        .nsrc = 1,
        .dst = base,
        .sparse = 4096,
        .rate = (uint64_t)a->rate,
        .workers = 8,
        .is_commit = true,
        .backing_depth = depth,
        .backing_size = UINT64_MAX,
        .progress = progress,
    };
    int rc = copy_run(&c);
    rc = rc ? 1 : 0;
    int flushed = edge_flush(base->edge);
    if (flushed && !rc) {
        rc = tool_fail(img, "error while flushing '%s': %s", base->name, g_strerror(-flushed));
    }
    return rc;
}

/* What was committed is stable in the base before the layer above forgets it. */
static int make_empty(struct tool *img, struct img_disk *top)
{
    const struct block_driver *drv = top->node->drv;
    if (!drv->make_empty) {
        return 0;
    }
    int rc = drv->make_empty(top->node);
    rc = rc ? rc : edge_flush(top->edge);
    return rc && rc != -ENOTSUP ? tool_fail(img, "Failed to empty %s: %s", top->name, g_strerror(-rc)) : 0;
}

static int commit(struct tool *img, const struct args *a, const GPtrArray *chain, struct img_progress *progress)
{
    int base_at = 1;
    if (chain->len < 2) {
        return tool_fail(img, "Image does not have a backing file");
    }
    if (a->base) {
        base_at = find_base(chain, a->name, a->base);
        if (base_at < 0) {
            return tool_fail(img, "Did not find '%s' in the backing chain of '%s'", a->base, a->name);
        }
    }
    struct img_disk d[2] = {IMG_DISK_NONE, IMG_DISK_NONE};
    int rc = open_chain(img, a, chain, (unsigned)base_at, d) ? 0 : 1;
    rc = rc ? rc : keep_snapshots(img, &d[0], d[1].node);
    rc = rc ? rc : copy_down(img, a, d, base_at, progress);
    if (rc == 0 && !a->keep && !a->base) {
        rc = make_empty(img, &d[0]);
    }
    img_disk_drop(&d[0]);
    int closed = img_disk_close(&d[1]);
    if (closed && rc == 0) {
        rc = tool_fail(img, "error while closing the backing file: %s", g_strerror(-closed));
    }
    return rc;
}

int img_commit(struct tool *img, int argc, char **argv)
{
    static const int64_t rates[] = {0, INT64_MAX};
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.cache = "writeback"};
    struct tool_cache cache;
    int key;
    while ((key = img_next(img, &o, &a.common)) > OPTS_END) {
        if (key == 't') {
            a.cache = o.value;
        } else if (key == 'b') {
            a.base = o.value;
        } else if (key == 'r' && !img_number(img, "rate limit", o.value, rates, &a.rate)) {
            return 1;
        }
        a.keep |= key == 'd';
        a.progress |= key == 'p';
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a.common);
    }
    a.name = img_one_operand(img, &o);
    if (!a.name) {
        return 1;
    }
    if (!tool_parse_cache(a.cache, &cache)) {
        return tool_fail(img, "Invalid cache option: %s", a.cache);
    }
    /* For writing already: what then is in the way is to be told first. */
    struct img_open how = {.fmt = a.common.fmt, .image_opts = a.common.image_opts, .writable = true};
    struct img_disk d;
    if (!img_disk_open(img, a.name, &how, &d)) {
        return 1;
    }
    g_autoptr(GPtrArray) chain = read_chain(d.node);
    CLEANUP_FREE char *path = g_strdup(d.node->filename);
    img_disk_drop(&d);
    if (a.common.image_opts) {
        a.name = path; /* the options have been understood; what they name is opened again */
    }
    struct img_progress progress;
    img_progress_start(&progress, a.progress && !a.common.quiet);
    int rc = commit(img, &a, chain, &progress);
    img_progress_end(&progress);
    if (rc == 0 && !a.common.quiet) {
        puts("Image committed.");
    }
    return rc;
}
