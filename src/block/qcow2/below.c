/* SPDX-License-Identifier: BSD-2-Clause */
/* The file below: reads past its end are zeroes, writes past its end make it longer. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"

int file_read(struct edge *file, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    uint64_t size = edge_size(file), in = off < size ? min_u64(len, size - off) : 0;
    if (in < len) {
        iovs_fill(v, voff + in, 0, len - in);
    }
    return in ? edge_read(file, off, in, v, voff, 0) : 0;
}

int file_read_buf(struct edge *file, uint64_t off, uint64_t len, void *buf)
{
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, len);
    return file_read(file, off, len, &v, 0);
}

/* By more than is needed, so that a growing image does not change the file's size with each cluster. */
static int grow(struct qcow2 *s, struct edge *file, uint64_t end)
{
    int rc = 0;
    co_lock(&s->grow_lock);
    uint64_t size = edge_size(file);
    if (end > size) {
        uint64_t ahead = min_u64(max_u64(size / 8, 1 << 20), 64 << 20);
        uint64_t to = file == s->file && !s->no_ahead ? round_up(end + ahead, s->cluster_size) : end;
        rc = edge_truncate(file, to, false, PREALLOC_OFF, NULL);
        if (rc < 0 && to > end) {
            rc = edge_truncate(file, end, false, PREALLOC_OFF, NULL);
        }
        rc = rc == -ENOTSUP || rc == -EINVAL ? -ENOSPC : rc; /* a device is as long as it is */
        s->grown |= file == s->file;
    }
    co_unlock(&s->grow_lock);
    return rc;
}

static int make_room(struct qcow2 *s, struct edge *file, uint64_t off, uint64_t len)
{
    if (!range_ok(off, len, INT64_MAX / 2)) {
        return -EFBIG;
    }
    return off + len > edge_size(file) ? grow(s, file, off + len) : 0;
}

int file_write(struct qcow2 *s, struct edge *file, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    int rc = make_room(s, file, off, len);
    return rc < 0 ? rc : edge_write(file, off, len, v, voff, 0);
}

int file_copy(struct qcow2 *s, uint64_t off, uint64_t len, struct node *src, uint64_t soff)
{
    int rc = make_room(s, s->data, off, len);
    return rc < 0 ? rc : edge_copy_file(s->data, off, len, src, soff);
}

int file_write_buf(struct qcow2 *s, uint64_t off, uint64_t len, const void *buf)
{
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, (void *)(uintptr_t)buf, len);
    return file_write(s, s->file, off, len, &v, 0);
}

int file_write_zeroes(struct qcow2 *s, uint64_t off, uint64_t len)
{
    int rc = make_room(s, s->file, off, len);
    return rc < 0 ? rc : edge_zero(s->file, off, len, 0);
}

int file_trim(struct qcow2 *s)
{
    if (!s->grown || s->file_high >= edge_size(s->file)) {
        return 0;
    }
    s->grown = false;
    return edge_truncate(s->file, s->file_high, false, PREALLOC_OFF, NULL);
}
