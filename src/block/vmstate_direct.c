/* SPDX-License-Identifier: BSD-2-Clause */
/* Reading a snapshot's state past the loop: where it is in the host's file is looked up once, as it does not move. */
#include "block/snapshot.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct vmstate_direct {
    int fd;
    GArray *ranges; /* struct vmstate_range, sorted, without gaps */
};

/* One of its own, whatever becomes of the node's; through the page cache, as buffers may lie anywhere. */
static int open_again(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return fd < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
}

struct vmstate_direct *vmstate_direct_open(struct vmstate *v, uint64_t size)
{
    g_autoptr(GArray) ranges = g_array_new(FALSE, FALSE, sizeof(struct vmstate_range));
    int fd = -1, rc = vmstate_map(v, size, ranges, &fd);
    fd = rc < 0 ? -1 : open_again(fd);
    if (fd < 0) {
        return NULL;
    }
    struct vmstate_direct *d = g_new(struct vmstate_direct, 1);
    *d = (struct vmstate_direct){fd, g_array_ref(ranges)};
    return d;
}

void vmstate_direct_close(struct vmstate_direct *d)
{
    if (d) {
        close(d->fd);
        g_array_unref(d->ranges);
        g_free(d);
    }
}

static const struct vmstate_range *range_of(const struct vmstate_direct *d, uint64_t off)
{
    guint low = 0, high = d->ranges->len;
    while (low < high) {
        guint mid = low + (high - low) / 2;
        const struct vmstate_range *r = &g_array_index(d->ranges, struct vmstate_range, mid);
        if (off < r->off) {
            high = mid;
        } else if (off - r->off >= r->len) {
            low = mid + 1;
        } else {
            return r;
        }
    }
    return NULL;
}

static int read_all(int fd, uint64_t at, uint8_t *buf, uint64_t len)
{
    while (len) {
        ssize_t n = pread(fd, buf, len, (off_t)at);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n == 0) { /* a hole at the file's end */
            memset(buf, 0, len);
            return 0;
        }
        n = n < 0 ? 0 : n;
        buf += n;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

int vmstate_direct_read(const struct vmstate_direct *d, uint64_t off, uint64_t len, void *buf)
{
    for (uint8_t *b = buf; len;) {
        const struct vmstate_range *r = range_of(d, off);
        if (!r) {
            return -EIO;
        }
        uint64_t in = off - r->off, n = min_u64(len, r->len - in);
        int rc = 0;
        if (r->host == VMSTATE_ZERO) {
            memset(b, 0, n);
        } else {
            rc = read_all(d->fd, r->host + in, b, n);
        }
        if (rc < 0) {
            return rc;
        }
        off += n;
        b += n;
        len -= n;
    }
    return 0;
}
