/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "copy-on-read": what a read finds only in a backing image is written into the top layer as it passes. The copy
 * holds a lock on its range of the filter, which guest writes (they all come through the filter) wait for and which
 * waits for them, and looks again whether the range is still unallocated once it has the lock: a guest's write always
 * wins.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/debug.h"
#include "block/drivers.h"
#include "block/transfer.h"

#include <stdlib.h>
#include <string.h>

enum { COPY_MAX = 1 << 20, VIEW_WORTH = 256 << 10, HEAD = 512 };

struct cor_state {
    struct node *bottom; /* the lowest layer from which to copy; NULL: all; referenced */
    uint32_t cluster;
};

/* --- open and close --------------------------------------------------------------------------------------------- */

/* What m passes requests to as they are. */
static struct edge *through(struct node *m)
{
    bool plain = m->drv == &raw_driver && m->file && m->file->child->size == m->size; /* no window */
    return plain ? m->file : node_filter_edge(m);
}

/* The image that is copied into: the one that may have a backing image, and tells what it has itself. */
static struct node *image_of(struct node *n)
{
    for (struct edge *ed; (ed = through(n));) {
        n = ed->child;
    }
    return n;
}

static int find_bottom(struct node *n, const char *name, struct err *e)
{
    struct cor_state *s = n->priv;
    struct node *b = node_lookup(n->graph, name, e);
    if (!b) {
        return err_set(e, ENOENT, "Bottom node '%s' not found", name);
    }
    if (b->drv->is_filter) {
        return err_set(e, EINVAL, "Bottom node '%s' is a filter", name);
    }
    struct node *m = n->file->child;
    while (m && m != b) {
        struct edge *ed = through(m);
        m = ed ? ed->child : node_backing(m);
    }
    if (!m) {
        return err_set(e, EINVAL, "Bottom node '%s' is not below '%s'", name, n->file->child->name);
    }
    s->bottom = node_ref(b);
    return 0;
}

static int cor_open(struct node *n, struct json_object *options, struct err *e)
{
    struct cor_state *s = n->priv;
    struct edge *ed;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", PERM_WRITE_SAME, PERM_ALL}, &ed, e);
    if (rc < 0) {
        return rc;
    }
    if (ed->child->read_only) { /* nothing could ever be copied */
        return err_set(e, EACCES, "Block node is read-only");
    }
    struct jread r = jread_init(options, NULL, e);
    const char *bottom = jread_str_or(&r, "bottom", NULL);
    rc = jread_end_lax(&r);
    if (!rc && bottom) {
        rc = find_bottom(n, bottom, e);
    }
    if (rc < 0) {
        return rc;
    }
    struct driver_info info = {0};
    struct node *top = image_of(ed->child);
    if (top->drv->get_info) {
        top->drv->get_info(top, &info);
    }
    s->cluster = is_pow2(info.cluster_size) ? MIN(info.cluster_size, COPY_MAX) : 65536;
    n->size = edge_size(ed);
    return 0;
}

static void cor_close(struct node *n)
{
    struct cor_state *s = n->priv;
    node_unref(s->bottom);
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

struct cor_read {
    struct node *n, *top;
    const struct iovs *v; /* NULL: prefetch only */
    size_t voff;
    uint64_t off, len; /* what the reader wants; voff belongs to off */
    unsigned flags;
};

/* Does a layer from the backing of top down to bottom have it? And is it zero? */
static int look_below(struct cor_read *c, uint64_t off, uint64_t len, struct extent *x, bool *copy)
{
    struct cor_state *s = c->n->priv;
    struct node *bottom = s->bottom ? image_of(s->bottom) : NULL;
    struct node *base = bottom ? node_backing(bottom) : NULL;
    struct node *below = node_backing(c->top);
    if (!below || c->top == bottom) { /* nothing is to be copied; what is below the bottom is still to be read */
        *x = (struct extent){.len = len, .flags = below ? 0 : EXT_ZERO};
        *copy = false;
        return 0;
    }
    int rc = node_status_above(below, base, off, len, x, NULL);
    if (!rc && !x->len) { /* past the end of a shorter backing image, which hides what a longer one below it has */
        *x = (struct extent){.len = len, .flags = EXT_ZERO | EXT_ALLOCATED};
    }
    *copy = !s->bottom || (x->flags & EXT_ALLOCATED);
    return rc;
}

static void give(struct cor_read *c, uint64_t off, const uint8_t *buf, uint64_t len)
{
    uint64_t lo = max_u64(off, c->off), hi = min_u64(off + len, c->off + c->len);
    if (!c->v || lo >= hi) {
        return;
    }
    if (buf) {
        iovs_from_buf(c->v, c->voff + (lo - c->off), buf + (lo - off), hi - lo);
    } else {
        iovs_fill(c->v, c->voff + (lo - c->off), 0, hi - lo);
    }
}

/* Zeroes become zero clusters; only a deliberate copy stores them as data where the format has none. */
static int store_zero(struct cor_read *c, uint64_t off, uint64_t len)
{
    unsigned flags = REQ_WRITE_UNCHANGED | (c->flags & REQ_PREFETCH ? 0 : REQ_NO_FALLBACK);
    return edge_zero(c->n->file, off, len, flags);
}

/* A reader has its data even if it cannot be stored; who asked for the copy must hear of it. */
static int store_result(struct cor_read *c, int rc)
{
    return c->flags & REQ_PREFETCH ? rc : 0;
}

/* Nobody wants the data: what is cached need not be read, unless it may be zeroes, of which its beginning tells. */
static int64_t copy_unread(struct cor_read *c, uint64_t off, uint64_t len)
{
    uint8_t head[HEAD];
    struct edge *file = c->n->file;
    if (c->v || len < VIEW_WORTH) {
        return 0;
    }
    int rc = edge_read_buf(file, off, HEAD, head);
    if (rc < 0 || buf_is_zero(head, HEAD)) {
        return rc;
    }
    block_debug_event(file->child, "cor_write");
    return transfer_views(file->child, file, off, len, REQ_WRITE_UNCHANGED);
}

/* [off, off + len) is locked, unallocated in top, at most COPY_MAX. */
static int copy_data(struct cor_read *c, uint64_t off, uint64_t len)
{
    int64_t done = copy_unread(c, off, len);
    if (done < 0 || (uint64_t)done == len) {
        return done < 0 ? (int)done : 0;
    }
    off += (uint64_t)done;
    len -= (uint64_t)done;

    struct edge *file = c->n->file;
    uint8_t *buf = block_buf_alloc(file->child, len);
    if (!buf) {
        return -ENOMEM;
    }
    int rc = edge_read_buf(file, off, len, buf);
    if (!rc) {
        give(c, off, buf, len);
        block_debug_event(file->child, "cor_write");
        rc = buf_is_zero(buf, len) ? store_zero(c, off, len) : edge_write_buf(file, off, len, buf, REQ_WRITE_UNCHANGED);
        rc = store_result(c, rc);
    }
    free(buf);
    return rc;
}

/* One piece of an unallocated stretch, widened to clusters. *done: bytes from `off` that are dealt with. */
static int copy_piece(struct cor_read *c, uint64_t off, uint64_t len, uint64_t *done)
{
    struct cor_state *s = c->n->priv;
    uint64_t start = round_down(off, s->cluster);
    uint64_t end = min_u64(round_up(off + len, s->cluster), edge_size(c->n->file));
    end = min_u64(end, start + COPY_MAX);
    struct range_lock *lock = node_lock_range(c->n, start, end - start);
    if (!lock) {
        return -ENOMEM;
    }
    struct extent x;
    bool copy = false;
    int rc;
    for (;;) { /* the widening may have reached into a stretch of another kind */
        rc = node_status(c->top, false, start, end - start, &x);
        if (rc < 0 || start + x.len > off) {
            break;
        }
        start += x.len;
    }
    *done = 0;
    if (!rc && (x.flags & EXT_ALLOCATED)) { /* somebody was faster */
        end = start + x.len;
        *done = min_u64(end - off, len);
        rc = c->v ? edge_read(c->n->file, off, *done, c->v, c->voff + (off - c->off), 0) : 0;
        node_unlock_range(lock);
        return rc;
    }
    if (!rc) {
        end = start + x.len;
        rc = look_below(c, start, end - start, &x, &copy);
    }
    if (!rc) {
        /* Whole clusters: a copy of a part would have to be completed from below anyway. */
        bool all = start + x.len >= end;
        if (all && (x.flags & EXT_ZERO)) {
            give(c, start, NULL, end - start);
            rc = copy ? store_result(c, store_zero(c, start, end - start)) : 0;
        } else if (copy || !all) {
            if (!all) {
                end = min_u64(end, max_u64(start + s->cluster, round_down(start + x.len, s->cluster)));
            }
            rc = copy_data(c, start, end - start);
        } else if (c->v) {
            uint64_t part = min_u64(end - off, len);
            rc = edge_read(c->n->file, off, part, c->v, c->voff + (off - c->off), 0);
        }
        *done = min_u64(end - off, len);
    }
    node_unlock_range(lock);
    return rc;
}

static int cor_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct cor_read c = {n, image_of(n->file->child), v, voff, off, len, flags};
    bool may_copy = !n->read_only && !n->inactive && c.top->backing && (n->file->perm & (PERM_WRITE_SAME | PERM_WRITE));
    if (!may_copy) {
        return v ? edge_read(n->file, off, len, v, voff, 0) : 0;
    }
    while (len) {
        struct extent x;
        int rc = node_status(c.top, false, off, len, &x);
        if (rc < 0) {
            return rc;
        }
        uint64_t done = x.len;
        if (!(x.flags & EXT_ALLOCATED)) {
            rc = copy_piece(&c, off, x.len, &done);
        } else if (v) {
            rc = edge_read(n->file, off, done, v, voff + (off - c.off), 0);
        }
        if (rc < 0) {
            return rc;
        }
        off += done;
        len -= done;
    }
    return 0;
}

static const char *const cor_options[] = {"bottom", NULL};

const struct block_driver copy_on_read_driver = {
    .name = "copy-on-read",
    .priv_size = sizeof(struct cor_state),
    .is_filter = true,
    .prefetches = true,
    .option_names = cor_options,
    .open = cor_open,
    .close = cor_close,
    .read = cor_read,
};
