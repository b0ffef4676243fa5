/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "block/debug.h"

int qed_file_read(struct edge *file, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    uint64_t size = edge_size(file), in = off < size ? min_u64(len, size - off) : 0;
    if (in < len) {
        iovs_fill(v, voff + in, 0, len - in);
    }
    return in ? edge_read(file, off, in, v, voff, 0) : 0;
}

int qed_file_read_buf(struct edge *file, uint64_t off, uint64_t len, void *buf)
{
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, len);
    return qed_file_read(file, off, len, &v, 0);
}

static int read_run(struct qed *s, const struct qed_run *r, uint64_t off, const struct iovs *v, size_t voff)
{
    struct edge *backing = s->n->backing;
    if (r->type == QED_RUN_DATA) {
        block_debug_event_at(s->file->child, "read_aio");
        return qed_file_read(s->file, r->host, r->len, v, voff);
    }
    if (r->type == QED_RUN_NONE && backing) {
        block_debug_event_at(s->file->child, "read_backing_aio");
        return qed_file_read(backing, off, r->len, v, voff);
    }
    iovs_fill(v, voff, 0, r->len);
    return 0;
}

int qed_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct qed *s = n->priv;
    while (len) {
        struct qed_run r;
        int rc = qed_map(s, off, len, &r);
        rc = rc < 0 ? rc : read_run(s, &r, off, v, voff);
        if (rc < 0) {
            return rc;
        }
        off += r.len;
        voff += r.len;
        len -= r.len;
    }
    return 0;
}

int qed_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    static const unsigned flags[] = {0, EXT_ZERO | EXT_ALLOCATED, EXT_DATA | EXT_ALLOCATED | EXT_OFFSET};
    struct qed *s = n->priv;
    struct qed_run r, next;
    int rc = qed_map_far(s, off, len, &r);
    if (rc < 0) {
        return rc;
    }
    for (unsigned i = 1; i < QED_RUNS_AT_ONCE && r.len < len; i++) {
        if (qed_map_far(s, off + r.len, len - r.len, &next) < 0 || next.type != r.type ||
            (r.type == QED_RUN_DATA && next.host != r.host + r.len)) {
            break;
        }
        r.len += next.len;
    }
    *out = (struct extent){.len = r.len, .flags = flags[r.type]};
    if (r.type == QED_RUN_DATA) {
        out->offset = r.host;
        out->file = s->file->child;
    }
    return 0;
}
