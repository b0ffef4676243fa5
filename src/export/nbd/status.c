/* SPDX-License-Identifier: BSD-2-Clause */
/* BLOCK_STATUS: base:allocation, qemu:allocation-depth, qemu:dirty-bitmap:NAME. */
#include "export/nbd/int.h"

#include "base/checked.h"
#include "base/endian.h"
#include "block/dirty.h"

#include <errno.h>

enum { MAX_EXTENTS = 1 << 17, YIELD_EVERY = 256 };

struct status_extent {
    uint64_t len;
    uint32_t flags;
};

struct status_list {
    GArray *extents; /* struct status_extent */
    unsigned max;
};

/* False: the list is full. */
static bool list_add(struct status_list *l, uint64_t len, uint32_t flags)
{
    struct status_extent *last =
        l->extents->len ? &g_array_index(l->extents, struct status_extent, l->extents->len - 1) : NULL;
    if (last && last->flags == flags) {
        last->len += len;
        return true;
    }
    if (l->extents->len == l->max) {
        return false;
    }
    struct status_extent x = {len, flags};
    g_array_append_val(l->extents, x);
    return true;
}

static uint32_t allocation_flags(const struct extent *x)
{
    return (x->flags & EXT_DATA ? 0 : NBD_STATE_HOLE) | (x->flags & EXT_ZERO ? NBD_STATE_ZERO : 0);
}

/* What lies at `off`; what the export has beyond the node's end is zeroes that lie nowhere. */
static int look(const struct nbd_export *exp, uint64_t off, uint64_t end, struct extent *x, int *depth)
{
    *x = (struct extent){.len = end - off, .flags = EXT_ZERO};
    *depth = 0;
    return off < edge_size(exp->edge) ? edge_status(exp->edge, off, end - off, x, depth) : 0;
}

/* Extents are made of whole blocks; one that is partly this and partly that is data. */
static void align_extent(struct extent *x, uint32_t block, uint64_t off, uint64_t end)
{
    uint64_t past = off + x->len;
    if (past >= end || !(past & (block - 1))) {
        return;
    }
    if (round_down(past, block) > off) {
        x->len = round_down(past, block) - off;
        return;
    }
    x->len = min_u64(round_up(past, block), end) - off;
    x->flags = EXT_DATA | EXT_ALLOCATED;
}

static int list_chain(struct nbs_request *r, uint32_t context, uint64_t len, struct status_list *l)
{
    uint32_t block = nbs_export_min_block(r->client->exp);
    uint64_t off = r->off, end = r->off + len;
    for (unsigned n = 1; off < end; n++) {
        struct extent x;
        int depth;
        int rc = look(r->client->exp, off, end, &x, &depth);
        if (rc < 0) {
            return rc;
        }
        align_extent(&x, block, off, end);
        uint32_t layers = x.flags & EXT_ALLOCATED ? (uint32_t)depth + 1 : 0;
        if (!list_add(l, x.len, context == NBS_CONTEXT_DEPTH ? layers : allocation_flags(&x))) {
            return 0;
        }
        off += x.len;
        if (n % YIELD_EVERY == 0) {
            co_yield ();
        }
    }
    return 0;
}

static int list_bitmap(struct nbs_request *r, struct dirty_bitmap *b, uint64_t len, struct status_list *l)
{
    uint64_t off = r->off, end = r->off + len;
    for (unsigned i = 1; off < end; i++) {
        uint64_t dirty = off, n = 0;
        if (!dirty_bitmap_next(b, &dirty, &n, end, 0)) {
            dirty = end;
        }
        if (dirty > off && !list_add(l, dirty - off, 0)) {
            return 0;
        }
        if (n && !list_add(l, n, NBD_STATE_DIRTY)) {
            return 0;
        }
        off = dirty + n;
        if (i % YIELD_EVERY == 0) {
            co_yield ();
        }
    }
    return 0;
}

static void *encode(const struct status_list *l, uint32_t context, bool wide, size_t *size)
{
    guint n = l->extents->len;
    *size = wide ? 8 + 16 * (size_t)n : 4 + 8 * (size_t)n;
    uint8_t *buf = g_malloc(*size), *p = buf;
    store_be32(p, context);
    p += 4;
    if (wide) {
        store_be32(p, n);
        p += 4;
    }
    for (guint i = 0; i < n; i++) {
        const struct status_extent *x = &g_array_index(l->extents, struct status_extent, i);
        if (wide) {
            store_be64(p, x->len);
            store_be64(p + 8, x->flags);
            p += 16;
        } else {
            store_be32(p, (uint32_t)x->len);
            store_be32(p + 4, x->flags);
            p += 8;
        }
    }
    return buf;
}

static int one_context(struct nbs_request *r, uint32_t context, uint64_t len, bool done)
{
    bool wide = r->client->mode == NBS_EXTENDED;
    struct status_list l = {g_array_new(false, false, sizeof(struct status_extent)),
                            r->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS};
    int rc = context >= NBS_CONTEXT_BITMAP
                 ? list_bitmap(r, g_ptr_array_index(r->client->exp->bitmaps, context - NBS_CONTEXT_BITMAP), len, &l)
                 : list_chain(r, context, len, &l);
    if (rc == 0) {
        size_t size;
        void *payload = encode(&l, context, wide, &size);
        nbs_reply_status(r, wide, payload, size, done);
    }
    g_array_free(l.extents, true);
    return rc;
}

static bool selected(const GArray *a, uint32_t id)
{
    for (guint i = 0; i < a->len; i++) {
        if (g_array_index(a, uint32_t, i) == id) {
            return true;
        }
    }
    return false;
}

/* The effect length and the contexts that a payload names; NULL: it is wrong. */
static GArray *read_payload(const struct nbs_request *r, uint64_t *len)
{
    const struct nbs_client *c = r->client;
    if (r->payload_len < 12 || r->payload_len % 4) {
        return NULL;
    }
    GArray *ids = g_array_new(false, false, sizeof(uint32_t));
    *len = load_be64(r->payload);
    for (uint32_t at = 8; at < r->payload_len; at += 4) {
        uint32_t id = load_be32(r->payload + at);
        if (selected(ids, id) || !selected(c->contexts, id)) {
            g_array_free(ids, true);
            return NULL;
        }
        g_array_append_val(ids, id);
    }
    return ids;
}

static void reply_contexts(struct nbs_request *r, const GArray *ids, uint64_t len)
{
    for (guint i = 0; i < ids->len; i++) {
        int rc = one_context(r, g_array_index(ids, uint32_t, i), len, i + 1 == ids->len);
        if (rc < 0) {
            nbs_reply_error(r, nbs_error(rc, false), "can't get block status");
            return;
        }
    }
}

void nbs_block_status(struct nbs_request *r)
{
    const struct nbs_client *c = r->client;
    if (!(r->flags & NBD_CMD_FLAG_PAYLOAD_LEN)) {
        reply_contexts(r, c->contexts, r->len);
        return;
    }
    uint64_t len = 0;
    GArray *ids = read_payload(r, &len);
    if (!ids) {
        nbs_reply_error(r, NBD_EINVAL, "CMD_BLOCK_STATUS payload not valid");
        return;
    }
    if (!len || !range_ok(r->off, len, c->exp->size)) {
        nbs_reply_error(r, NBD_EINVAL, len ? "operation past EOF" : "need non-zero length");
    } else {
        reply_contexts(r, ids, len);
    }
    g_array_free(ids, true);
}
