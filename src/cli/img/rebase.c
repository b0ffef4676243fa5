/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include <stdlib.h>
#include <string.h>

#define BUF_SIZE (2u << 20)

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {'f', "format", true},
    {'F', "backing-format", true},
    {'b', "backing", true},
    {'u', "backing-unsafe", false},
    {'c', "compress", false},
    {'p', "progress", false},
    {'t', "cache", true},
    {'T', "backing-cache", true},
    {'q', "quiet", false},
    {'U', "force-share", false},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *name, *backing, *backing_fmt, *cache, *src_cache;
    bool unsafe, compress, progress;
};

struct rebase {
    struct tool *img;
    const struct args *args;
    struct img_disk *top;
    struct img_disk below[2]; /* the old and the new backing; not open: none */
    uint32_t cluster;
    char *buf[2];
    struct img_progress *progress;
};

/* Whether a backing reads as zeroes at off; *len is cut to how far that holds. */
static int reads_zero(struct img_disk *d, uint64_t off, uint64_t *len, bool *zero)
{
    struct extent x;
    int depth;
    *zero = true;
    if (!d->node) {
        return 0;
    }
    int rc = img_disk_status(d, off, *len, &x, &depth);
    if (rc == 0) {
        *len = min_u64(*len, x.len);
        *zero = x.flags & EXT_ZERO;
    }
    return rc;
}

static int read_below(struct rebase *r, int which, uint64_t off, uint64_t len)
{
    struct img_disk *d = &r->below[which];
    if (!d->node) {
        memset(r->buf[which], 0, len);
        return 0;
    }
    int rc = img_disk_read(d, off, len, r->buf[which]);
    if (rc) {
        tool_fail(r->img, "error while reading from %s backing file: %s", which ? "new" : "old", g_strerror(-rc));
    }
    return rc;
}

/* Compressed if that was asked for and it is a whole cluster, or what there is of the last one. */
static int write_top(struct rebase *r, uint64_t off, uint64_t len, const char *buf)
{
    bool whole = off % r->cluster == 0 && (len == r->cluster || off + len == r->top->node->size);
    return img_disk_write(r->top, off, len, buf, r->args->compress && whole ? REQ_COMPRESSED : 0);
}

/* Where the two backings differ the top layer gets what it read until now, in whole clusters. */
static int keep_contents(struct rebase *r, uint64_t off, uint64_t len)
{
    if (read_below(r, 0, off, len) || read_below(r, 1, off, len)) {
        return 1;
    }
    for (uint64_t pos = 0, n; pos < len; pos += n) {
        n = min_u64(len - pos, r->cluster - (off + pos) % r->cluster);
        const char *old = r->buf[0] + pos;
        if (memcmp(old, r->buf[1] + pos, n) == 0) {
            continue;
        }
        bool beyond = !r->below[0].node || off + pos >= r->below[0].node->size;
        int rc = beyond ? img_disk_zero(r->top, off + pos, n, 0) : write_top(r, off + pos, n, old);
        if (rc) {
            return tool_fail(r->img, "Error while writing to COW image: %s", g_strerror(-rc));
        }
    }
    return 0;
}

static int fill_gaps(struct rebase *r)
{
    struct node *top = r->top->node;
    for (uint64_t off = 0, len; off < top->size; off += len) {
        struct extent x = {0};
        int rc = node_status(top, false, off, top->size - off, &x);
        len = x.len;
        img_progress_set(r->progress, (double)off * 100 / (double)top->size);
        if (rc == 0 && (x.flags & EXT_ALLOCATED)) {
            continue;
        }
        bool zero[2] = {false, false};
        for (int i = 0; i < 2 && rc == 0; i++) {
            rc = reads_zero(&r->below[i], off, &len, &zero[i]);
        }
        if (rc) {
            return tool_fail(r->img, "error while reading image metadata: %s", g_strerror(-rc));
        }
        if (zero[0] && zero[1]) {
            continue;
        }
        len = min_u64(len, BUF_SIZE - off % r->cluster);
        if (keep_contents(r, off, len)) {
            return 1;
        }
    }
    int rc = edge_flush(r->top->edge); /* before the header names another backing */
    return rc ? tool_fail(r->img, "Error while writing to COW image: %s", g_strerror(-rc)) : 0;
}

static int open_backings(struct rebase *r, const struct tool_cache *cache)
{
    const struct args *a = r->args;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *old = node_backing(r->top->node);
    if (old) {
        r->below[0] = (struct img_disk){.name = old->filename, .node = node_ref(old)};
        const struct edge_spec spec = {"rebase", PERM_READ, PERM_ALL, NULL, NULL};
        if (edge_open(old, &spec, &r->below[0].edge, &e)) {
            return tool_fail(r->img, "Could not open old backing file '%s': %s", old->filename, err_text(&e));
        }
    }
    if (!*a->backing) {
        return 0;
    }
    CLEANUP_FREE char *path = node_path_combine(r->top->node, a->backing);
    if (!path) {
        return tool_fail(r->img, "Could not open new backing file '%s': relative to '%s'", a->backing, r->top->name);
    }
    struct img_open how = {.fmt = a->backing_fmt, .force_share = a->common.force_share, .cache = *cache};
    if (img_disk_try_open(r->img, path, &how, &r->below[1], &e)) {
        return tool_fail(r->img, "Could not open new backing file '%s': %s", a->backing, err_text(&e));
    }
    return 0;
}

static int rebase_contents(struct rebase *r, const struct tool_cache *cache)
{
    struct node *top = r->top->node;
    struct driver_info info = {0};
    r->cluster = 65536;
    if (top->drv->get_info && top->drv->get_info(top, &info) == 0 && info.cluster_size &&
        info.cluster_size <= BUF_SIZE) {
        r->cluster = info.cluster_size;
    }
    int rc = open_backings(r, cache);
    r->buf[0] = block_buf_alloc(top, BUF_SIZE);
    r->buf[1] = block_buf_alloc(top, BUF_SIZE);
    if (rc == 0 && (!r->buf[0] || !r->buf[1])) {
        rc = tool_fail(r->img, "out of memory");
    }
    rc = rc ? rc : fill_gaps(r);
    free(r->buf[0]);
    free(r->buf[1]);
    img_disk_drop(&r->below[0]);
    img_disk_drop(&r->below[1]);
    return rc;
}

static int change_link(struct tool *img, const struct args *a, struct img_disk *top)
{
    const char *name = a->backing && *a->backing ? a->backing : NULL;
    if (name && !a->backing_fmt) {
        return tool_fail(img, "Could not change the backing file to '%s': backing format must be specified", name);
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!top->node->drv->change_backing) {
        err_set_errno(&e, ENOTSUP, "Could not change the backing file to '%s'", name ? name : "");
    } else if (top->node->drv->change_backing(top->node, name, name ? a->backing_fmt : NULL, &e) == 0) {
        return 0;
    }
    return tool_fail(img, "%s", err_text(&e));
}

static int rebase(struct tool *img, const struct args *a, struct img_progress *progress)
{
    struct img_open how = {
        .fmt = a->common.fmt, .image_opts = a->common.image_opts, .writable = true, .no_backing = a->unsafe};
    struct tool_cache src_cache;
    if (!tool_parse_cache(a->cache, &how.cache)) {
        return tool_fail(img, "Invalid cache option: %s", a->cache);
    }
    if (!tool_parse_cache(a->src_cache, &src_cache)) {
        return tool_fail(img, "Invalid source cache option: %s", a->src_cache);
    }
    struct img_disk top;
    if (!img_disk_open(img, a->name, &how, &top)) {
        return 1;
    }
    int rc = 0;
    if (a->backing_fmt && !driver_find(a->backing_fmt)) {
        rc = tool_fail(img, "Invalid format name: '%s'", a->backing_fmt);
    } else if (a->compress && !top.node->drv->write_compressed) {
        rc = tool_fail(img, "Compression not supported for this file format");
    } else if (!a->unsafe) {
        rc = rebase_contents(&(struct rebase){.img = img, .args = a, .top = &top, .progress = progress}, &src_cache);
    }
    rc = rc ? rc : change_link(img, a, &top);
    if (rc == 0) {
        img_progress_set(progress, 100);
    }
    int closed = img_disk_close(&top);
    return closed && rc == 0 ? tool_fail(img, "Could not flush '%s': %s", a->name, g_strerror(-closed)) : rc;
}

int img_rebase(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.cache = "writeback", .src_cache = "writeback"};
    int key;
    while ((key = img_next(img, &o, &a.common)) > OPTS_END) {
        switch (key) {
        case 'F':
            a.backing_fmt = o.value;
            break;
        case 'b':
            a.backing = o.value;
            break;
        case 't':
            a.cache = o.value;
            break;
        case 'T':
            a.src_cache = o.value;
            break;
        case 'u':
            a.unsafe = true;
            break;
        case 'c':
            a.compress = true;
            break;
        default:
            a.progress = true;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a.common);
    }
    a.name = img_one_operand(img, &o);
    if (!a.name) {
        return 1;
    }
    if (!a.unsafe && !a.backing) {
        return img_fail_usage(img, "Must specify backing file (-b) or use unsafe mode (-u)");
    }
    struct img_progress progress;
    img_progress_start(&progress, a.progress && !a.common.quiet);
    int rc = rebase(img, &a, &progress);
    img_progress_end(&progress);
    return rc;
}
