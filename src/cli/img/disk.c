/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

#define SECTOR 512

static void put_bool(struct json_object *o, const char *key, bool on)
{
    if (on && !json_object_object_get_ex(o, key, NULL)) {
        json_object_object_add(o, key, json_object_new_boolean(true));
    }
}

/* The options every way of opening has in common, laid under what the name itself says. */
static void put_common_options(struct json_object *o, const struct img_open *how)
{
    if (how->fmt) {
        json_object_object_add(o, "driver", json_object_new_string(how->fmt));
    }
    put_bool(o, "read-only", !how->writable);
    put_bool(o, "force-share", how->force_share);
    put_bool(o, "for-check", how->for_check);
    if (how->cache.direct || how->cache.no_flush) {
        struct json_object *c = json_object_new_object();
        json_object_object_add(c, "direct", json_object_new_boolean(how->cache.direct));
        json_object_object_add(c, "no-flush", json_object_new_boolean(how->cache.no_flush));
        json_object_object_add(o, "cache", c);
    }
    if (how->unmap) {
        json_object_object_add(o, "discard", json_object_new_string("unmap"));
    }
    if (how->backing_node) {
        json_object_object_add(o, "backing", json_object_new_string(how->backing_node));
    }
    if (how->no_backing) {
        json_object_object_add(o, "backing", NULL);
    }
    if (how->more) {
        json_object_object_foreach(how->more, key, v)
        {
            json_object_object_add(o, key, json_object_get(v));
        }
    }
}

int img_disk_try_open(struct tool *img, const char *name, const struct img_open *how, struct img_disk *out,
                      struct err *e)
{
    *out = (struct img_disk){.name = name, .writethrough = how->cache.writethrough && how->writable};
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    put_common_options(o, how);
    int rc = tool_open(img, name, how->image_opts, o, &out->node, e);
    if (rc) {
        return rc;
    }
    unsigned perm = PERM_READ | (how->writable ? PERM_WRITE : 0) | (how->resize ? PERM_RESIZE : 0);
    bool alone = how->no_writers && !how->force_share;
    unsigned shared = alone ? PERM_READ | PERM_WRITE_SAME : PERM_ALL;
    rc = edge_open(out->node, &(struct edge_spec){"root", perm, shared}, &out->edge, e);
    if (rc) {
        img_disk_drop(out);
    }
    return rc;
}

bool img_disk_open(struct tool *img, const char *name, const struct img_open *how, struct img_disk *out)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (img_disk_try_open(img, name, how, out, &e)) {
        if (how->image_opts && g_str_has_prefix(err_text(&e), "--force-share")) {
            tool_fail(img, "%s", err_text(&e));
        } else {
            tool_fail(img, "Could not open '%s': %s", name, err_text(&e));
        }
        return false;
    }
    return true;
}

int img_disk_close(struct img_disk *d)
{
    int rc = 0;
    if (d->edge && (d->edge->perm & PERM_WRITE)) {
        rc = edge_flush(d->edge);
    }
    edge_close(d->edge);
    node_unref(d->node);
    *d = IMG_DISK_NONE;
    return rc;
}

void img_disk_drop(struct img_disk *d)
{
    edge_close(d->edge);
    node_unref(d->node);
    *d = IMG_DISK_NONE;
}

uint64_t img_disk_size(const struct img_disk *d)
{
    return round_up(d->node->size, SECTOR);
}

int img_disk_read(struct img_disk *d, uint64_t off, uint64_t len, void *buf)
{
    uint64_t size = d->node->size;
    uint64_t have = off >= size ? 0 : min_u64(len, size - off);
    if (have < len) {
        memset((char *)buf + have, 0, len - have);
    }
    return have ? edge_read_buf(d->edge, off, have, buf) : 0;
}

int img_disk_write(struct img_disk *d, uint64_t off, uint64_t len, const void *buf, unsigned flags)
{
    uint64_t size = d->node->size;
    if (off < size && len > size - off && off + len - size < SECTOR) {
        len = size - off;
    }
    return edge_write_buf(d->edge, off, len, buf, flags | (d->writethrough ? REQ_FUA : 0));
}

int img_disk_zero(struct img_disk *d, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t size = d->node->size;
    if (off < size && len > size - off && off + len - size < SECTOR) {
        len = size - off;
    }
    return edge_zero(d->edge, off, len, flags | (d->writethrough ? REQ_FUA : 0));
}

int img_disk_status(struct img_disk *d, uint64_t off, uint64_t len, struct extent *out, int *depth)
{
    int level = 0;
    for (struct node *n = d->node; n; level++) {
        *depth = level;
        if (off >= n->size) {
            *out = (struct extent){.len = len, .flags = EXT_ZERO};
            if (strcmp(n->drv->name, "raw") == 0 && n->file) { /* the rest of the last sector is as good as there */
                out->flags |= EXT_ALLOCATED | EXT_OFFSET | EXT_EOF;
                out->offset = off;
                out->file = n->file->child;
            }
            return 0;
        }
        len = min_u64(len, n->size - off);
        *out = (struct extent){0};
        int rc = node_status(n, true, off, len, out);
        if (rc) {
            return rc;
        }
        if (!out->len) {
            return -EIO;
        }
        len = min_u64(len, out->len);
        out->len = len;
        if (out->flags & (EXT_ALLOCATED | EXT_ZERO | EXT_DATA)) {
            return node_status_holes(n, level, &d->hollow, out);
        }
        struct node *below = node_backing(n);
        if (!below || off >= below->size) {
            out->flags = n->drv->takes_backing ? out->flags | EXT_ZERO : 0; /* an export may not know what it has */
            return 0;
        }
        n = below;
    }
    return 0;
}
