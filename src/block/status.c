/* SPDX-License-Identifier: BSD-2-Clause */
/* What ranges of a node are: data, zeroes, or left to the layer below. */
#include "block/io.h"

#include "base/checked.h"
#include "block/internal.h"

/* The end of the chain of filters that leave the question to their child. */
static struct node *answering_node(struct node *n)
{
    struct edge *ed;
    while (!n->drv->status && (ed = node_filter_edge(n))) {
        n = ed->child;
    }
    return n;
}

int node_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    *out = (struct extent){0};
    if (n->no_medium) {
        return -ENOMEDIUM;
    }
    if (off >= n->size) {
        out->flags = EXT_EOF;
        return 0;
    }
    len = min_u64(len, n->size - off);
    node_in_flight_inc(n);
    struct node *m = answering_node(n);
    int rc = 0;
    if (m->drv->status && len) {
        rc = m->drv->status(m, want_zero, off, len, out);
    } else {
        *out = (struct extent){.len = len, .flags = EXT_DATA | EXT_ALLOCATED};
    }
    node_in_flight_dec(n);
    if (rc < 0) {
        return rc;
    }
    if (out->len > len) {
        out->len = len;
    }
    if (!out->len && len) {
        return -EIO; /* callers advance by it */
    }
    if (off + out->len >= n->size) {
        out->flags |= EXT_EOF;
    } else {
        out->flags &= ~(unsigned)EXT_EOF;
    }
    return 0;
}

int node_status_above(struct node *n, struct node *base, uint64_t off, uint64_t len, struct extent *out, int *depth)
{
    uint64_t top_size = n->size;
    int layer = 0;
    bool beyond = false; /* a layer that ends before `off` reads as zeroes and hides what is below */
    if (off >= top_size) {
        *out = (struct extent){.flags = EXT_EOF};
        return 0;
    }
    len = min_u64(len, top_size - off);
    struct node *m = node_skip_filters(n), *stop = base ? node_skip_filters(base) : NULL, *last = NULL;
    *out = (struct extent){.len = len};
    for (; m && m != stop; m = node_skip_filters(node_backing(m)), layer++) {
        if (off >= m->size) {
            beyond = true;
            break;
        }
        struct extent x;
        int rc = node_status(m, true, off, len, &x);
        if (rc < 0) {
            return rc;
        }
        len = x.len;
        last = m;
        if (x.flags & EXT_ALLOCATED) {
            *out = x;
            break;
        }
    }
    out->len = len;
    if (!(out->flags & EXT_ALLOCATED) && !m && last && !last->drv->takes_backing) {
        out->flags = EXT_DATA | EXT_ALLOCATED; /* there is nothing below, yet it does not say that it reads as zeroes */
    } else if (!(out->flags & EXT_ALLOCATED) && (!m || beyond)) {
        out->flags = EXT_ZERO | (beyond ? EXT_ALLOCATED : 0);
    }
    out->flags = off + out->len >= top_size ? out->flags | EXT_EOF : out->flags & ~(unsigned)EXT_EOF;
    if (depth) {
        *depth = layer;
    }
    return 0;
}

int edge_status(struct edge *ed, uint64_t off, uint64_t len, struct extent *out, int *depth)
{
    ed->in_flight++;
    while (ed->gate && !ed->ungated) {
        co_queue_wait(&ed->gate_waiters);
    }
    int rc = node_status_above(ed->child, NULL, off, len, out, depth);
    if (--ed->in_flight == 0) {
        co_queue_wake_all(&ed->idle_waiters);
    }
    return rc;
}

static bool is_hollow(struct node *n, int depth, struct hollow_layers *layers)
{
    uint64_t bit = UINT64_C(1) << MIN(depth, 63);
    if (!(layers->known & bit)) {
        struct driver_info info = {0};
        struct node *file = n->file ? n->file->child : n;
        int64_t used = node_allocated_size(file);
        layers->known |= bit;
        if (used >= 0 && n->drv->get_info && n->drv->get_info(n, &info) == 0 &&
            (uint64_t)used + max_u64((uint64_t)used / 9, 2 * (uint64_t)info.cluster_size) < file->size) {
            layers->found |= bit;
        }
    }
    return layers->found & bit;
}

int node_status_holes(struct node *n, int depth, struct hollow_layers *layers, struct extent *x)
{
    const unsigned wanted = EXT_DATA | EXT_OFFSET;
    bool plain = (x->flags & (wanted | EXT_ZERO)) == wanted && x->file && x->file != n && x->offset < x->file->size;
    if (!plain || n->drv->passes_perms || !is_hollow(n, depth, layers)) {
        return 0;
    }
    struct extent below = {0};
    int rc = node_status(x->file, true, x->offset, min_u64(x->len, x->file->size - x->offset), &below);
    if (rc == 0 && below.len) {
        x->len = min_u64(x->len, below.len);
        x->flags |= below.flags & EXT_ZERO;
    }
    return rc;
}
