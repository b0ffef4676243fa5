/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's state lies behind the disk, from the first L1 entry on that the disk does not need. */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "block/debug.h"

#include <stdlib.h>

static unsigned l1_shift(const struct qcow2 *s)
{
    return s->cluster_bits + s->l2_bits;
}

uint64_t vmstate_offset(const struct qcow2 *s)
{
    return l1_entries(s, s->h.size) << l1_shift(s);
}

/* Places in the image; false: there cannot be any so far behind. */
static bool place(const struct qcow2 *s, uint64_t off, uint64_t len, uint64_t *at)
{
    return add_ok(vmstate_offset(s), off, at) && range_ok(*at, len, INT64_MAX);
}

static int read_at(struct qcow2 *s, uint64_t at, uint64_t len, const struct iovs *v, size_t voff)
{
    int rc = 0;
    while (len && rc == 0) {
        struct q_run r;
        rc = qcow2_map(s, at, len, &r);
        if (rc == 0 && (r.type == Q_UNALLOC || r.type == Q_UNALLOC_HOST)) {
            iovs_fill(v, voff, 0, r.len); /* not what the backing file has there */
        } else if (rc == 0) {
            rc = qcow2_read(s->n, at, r.len, v, voff, 0);
        }
        at += r.len;
        voff += r.len;
        len -= r.len;
    }
    return rc;
}

int qcow2_vmstate_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    struct qcow2 *s = n->priv;
    uint64_t at;
    block_debug_event_at(s->file->child, "vmstate_load");
    if (!place(s, off, len, &at)) {
        return -EFBIG;
    }
    return read_at(s, at, len, v, voff);
}

/* Bytes [at, at + len) of a buffer that is written, as they are now. */
static int keep(struct qcow2 *s, uint64_t at, uint64_t len, uint8_t *buf)
{
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, len);
    return len ? read_at(s, at, len, &v, 0) : 0;
}

/* Whole clusters: what is around a part of one is not looked for beyond the disk's end. */
static int write_clusters(struct qcow2 *s, uint64_t at, uint64_t len, const struct iovs *v, size_t voff)
{
    uint64_t first = round_down(at, s->cluster_size), end = round_up(at + len, s->cluster_size);
    uint8_t *buf = block_buf_alloc(s->data->child, end - first);
    if (!buf) {
        return -ENOMEM;
    }
    int rc = keep(s, first, at - first, buf);
    rc = rc < 0 ? rc : keep(s, at + len, end - at - len, buf + (at + len - first));
    if (rc == 0) {
        struct iovec iov;
        struct iovs all = IOVS_BUF(&iov, buf, end - first);
        iovs_to_buf(v, voff, buf + (at - first), len);
        rc = qcow2_write(s->n, first, end - first, &all, 0, 0);
    }
    free(buf);
    return rc;
}

int qcow2_vmstate_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    enum { PART = 4 << 20 };
    struct qcow2 *s = n->priv;
    uint64_t at;
    block_debug_event_at(s->file->child, "vmstate_save");
    if (s->has_data_file) {
        return -ENOTSUP;
    }
    if (!place(s, off, len, &at) || l1_entries(s, at + len) > QCOW2_MAX_L1 / 8) {
        return -EFBIG;
    }
    co_lock(&s->vm_lock); /* two parts may share a cluster */
    co_lock(&s->lock);
    int rc = l1_reserve(s, l1_entries(s, at + len));
    co_unlock(&s->lock);
    while (len && rc == 0) {
        uint64_t part = min_u64(len, PART - (at & (PART - 1)));
        rc = write_clusters(s, at, part, v, voff);
        at += part;
        voff += part;
        len -= part;
    }
    co_unlock(&s->vm_lock);
    n->write_gen++;
    return rc;
}

int vmstate_drop(struct qcow2 *s)
{
    uint64_t first = l1_entries(s, s->h.size);
    for (uint64_t i = first; i < s->h.l1_size; i++) {
        if (s->l1[i] & L1E_OFFSET) {
            uint64_t at = i << l1_shift(s);
            return qcow2_cut(s, at, ((uint64_t)s->h.l1_size << l1_shift(s)) - at);
        }
    }
    return 0;
}
