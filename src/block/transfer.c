/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/transfer.h"

#include "base/checked.h"
#include "block/io.h"
#include "block/view.h"

#define VIEW_WORTH (256ull << 10)
#define ZERO_RUN   (256ull << 20)

int transfer_kind(struct transfer *t, uint64_t off, uint64_t *len)
{
    struct extent ext, there;

    t->is_read = true;
    int rc = node_status_above(t->from->child, t->base, off, *len, &ext, NULL);
    if (rc < 0) {
        return rc;
    }
    *len = min_u64(*len, ext.len);
    if (t->base && !(ext.flags & EXT_ALLOCATED)) {
        return TRANSFER_NOTHING;
    }
    if (!(ext.flags & EXT_ZERO)) {
        return TRANSFER_DATA;
    }
    t->is_read = false;
    if (t->overlay) {
        return TRANSFER_ZERO;
    }
    rc = node_status_above(t->to->child, NULL, off, *len, &there, NULL);
    if (rc < 0) {
        return rc;
    }
    *len = min_u64(*len, there.len);
    bool zero = (there.flags & EXT_ZERO) && (!t->alone || (there.flags & EXT_ALLOCATED));
    return zero ? TRANSFER_NOTHING : TRANSFER_ZERO;
}

int64_t transfer_views(struct node *from, struct edge *to, uint64_t off, uint64_t len, unsigned flags)
{
    struct node_view v;
    uint64_t done = 0;
    bool passes = node_passes_views(to->child);
    for (; passes && done < len && node_view_open(from, off + done, len - done, &v); done += v.len) {
        if (v.len < min_u64(len - done, VIEW_WORTH)) { /* in crumbs: one read gathers them better */
            node_view_close(&v);
            break;
        }
        struct iovec iov;
        struct iovs out = IOVS_BUF(&iov, v.data, v.len);
        int rc = edge_write(to, off + done, v.len, &out, 0, flags);
        node_view_close(&v);
        if (rc < 0) {
            return rc == -EFAULT ? (int64_t)done : rc; /* a file cut short: reading it says what is wrong */
        }
    }
    return (int64_t)done;
}

/* Whatever went wrong, reading and writing will meet it again or not. */
static bool copied_by_host(struct transfer *t, uint64_t off, uint64_t len)
{
    if (!t->by_host || !*t->by_host || t->compress || t->overlay) {
        return false;
    }
    *t->by_host = edge_copy_range(t->to, off, len, t->from->child, off) == 0;
    return *t->by_host;
}

static int transfer_data(struct transfer *t, uint64_t off, uint64_t len)
{
    if (copied_by_host(t, off, len)) {
        return 0;
    }
    unsigned flags = (t->compress ? REQ_COMPRESSED : 0) | (t->overlay ? REQ_SERIALISING : 0);
    t->is_read = false;
    int64_t seen = t->compress ? 0 : transfer_views(t->from->child, t->to, off, len, flags);
    if (seen < 0 || (uint64_t)seen == len) {
        return seen < 0 ? (int)seen : 0;
    }
    off += (uint64_t)seen;
    len -= (uint64_t)seen;

    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, t->buf, len);
    t->is_read = true;
    int rc = edge_read(t->from, off, len, &v, 0, 0);
    if (rc < 0) {
        return rc;
    }
    t->is_read = false;
    return edge_write(t->to, off, len, &v, 0, flags);
}

int transfer_range(struct transfer *t, uint64_t off, uint64_t len)
{
    int rc = 0;
    for (uint64_t n; len && rc == 0; off += n, len -= n) {
        n = len;
        int what = transfer_kind(t, off, &n);
        if (what < 0) {
            return what;
        }
        if (what == TRANSFER_DATA) {
            n = min_u64(n, t->buf_size);
            rc = transfer_data(t, off, n);
        } else if (what == TRANSFER_ZERO) {
            n = min_u64(n, ZERO_RUN);
            t->is_read = false;
            rc = edge_zero(t->to, off, n, (t->unmap ? REQ_MAY_UNMAP : 0) | (t->overlay ? REQ_SERIALISING : 0));
        }
    }
    return rc;
}
