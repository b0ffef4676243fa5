/* SPDX-License-Identifier: BSD-2-Clause */
/* Growing, and forgetting everything. */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <stdlib.h>

/* [old, end) must read as zeroes although the backing image, which is longer than the image was, has data there. */
static int zero_gained(struct qed *s, uint64_t old, uint64_t end)
{
    struct node *n = s->n;
    uint64_t whole = min_u64(round_up(old, s->cluster_size), end), part = whole - old;
    int rc = 0;
    if (part) { /* of the cluster in which the image ended; there may be data in it that a discard left over */
        struct iovec iov;
        uint8_t *buf = block_buf_alloc(s->file->child, part);
        if (!buf) {
            return -ENOMEM;
        }
        memset(buf, 0, part);
        struct iovs v = IOVS_BUF(&iov, buf, part);
        rc = qed_write(n, old, part, &v, 0, 0);
        free(buf);
    }
    return rc == 0 && whole < end ? qed_zero(n, whole, round_up(end, s->cluster_size) - whole, 0) : rc;
}

int qed_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct qed *s = n->priv;
    uint64_t old = s->h.image_size;
    if (prealloc != PREALLOC_OFF) {
        return err_set(e, ENOTSUP, "Unsupported preallocation mode '%s'", prealloc_names[prealloc]);
    }
    if (!qed_size_ok(size, s->cluster_size, s->h.table_size)) {
        return err_set(e, EINVAL, "Invalid image size specified");
    }
    if (size < old) {
        return err_set(e, ENOTSUP, "Shrinking images is currently not supported");
    }
    uint64_t below = n->backing ? edge_size(n->backing) : 0;
    int rc = qed_load_l1(s, qed_l1_entries(s, size));
    if (rc == 0 && below > old) {
        rc = zero_gained(s, old, min_u64(size, below));
        rc = rc < 0 ? rc : qed_writeback(s, true);
    }
    co_lock(&s->lock);
    if (rc == 0) {
        struct qed_header h = s->h;
        h.image_size = size;
        rc = qed_header_write(s, &h);
    }
    if (rc == 0) { /* whatever becomes of the flush: the header says so now */
        s->h.image_size = size;
        node_set_size(n, size);
        rc = edge_flush(s->file);
    }
    co_unlock(&s->lock);
    return rc < 0 ? err_set_errno(e, -rc, "Failed to resize image '%s'", n->filename) : 0;
}

/* Nothing else is in flight. The clusters are leaked until the file is cut. */
int qed_make_empty(struct node *n)
{
    struct qed *s = n->priv;
    uint64_t head = max_u64(s->h.header_size, 1) << s->cluster_bits, end = s->h.l1_offset + s->table_bytes;
    co_lock(&s->lock);
    int rc = qed_writeback(s, true);
    rc = rc < 0 ? rc : edge_zero(s->file, s->h.l1_offset, s->table_bytes, 0);
    qed_cache_drop_all(&s->cache);
    int rc2 = qed_reload_l1(s);
    rc = rc < 0 ? rc : rc2;
    n->write_gen++;
    rc = rc < 0 ? rc : edge_flush(s->file);
    if (rc == 0) {
        g_array_set_size(s->lost, 0);
        s->end = max_u64(head, end);
        rc = qed_trim(s);
        s->end = rc < 0 ? round_up(edge_size(s->file), s->cluster_size) : s->end;
    }
    co_unlock(&s->lock);
    return rc;
}
