/* SPDX-License-Identifier: BSD-2-Clause */
/* One request: its buffer, and what it does to the image. */
#include "cli/io/rw.h"

#include "block/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MISALIGN 16

/* --- one request ------------------------------------------------------------------------------------------------ */

bool io_request_init(struct io_request *r, struct io *io, char **lengths, int n, int fill)
{
    CLEANUP_FREE struct iovec *iov = g_new0(struct iovec, n);
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        uint64_t len;
        if (!io_parse_size(io, lengths[i], &len)) {
            return false;
        }
        if (len > IO_MAX_SIZE) {
            io_print(io, "Argument '%s' exceeds maximum size %" PRIu64 "\n", lengths[i], IO_MAX_SIZE);
            return false;
        }
        sum += len;
        if (sum > IO_MAX_SIZE) {
            io_print(io, "The total number of bytes exceed the maximum size %" PRIu64 "\n", IO_MAX_SIZE);
            return false;
        }
        iov[i].iov_len = len;
    }
    size_t shift = io->misalign ? MISALIGN : 0;
    r->memory = block_buf_alloc(io->node, sum + shift);
    if (!r->memory) {
        io_print(io, "cannot allocate %" PRIu64 " bytes\n", sum);
        return false;
    }
    uint8_t *at = r->memory + shift;
    memset(at, fill, sum);
    for (int i = 0; i < n; i++) {
        iov[i].iov_base = at;
        at += iov[i].iov_len;
    }
    r->io = io;
    r->bytes = sum;
    r->iov = (struct iovs){.iov = take(iov), .n = n, .size = sum};
    return true;
}

void io_request_finish(struct io_request *r)
{
    iovs_finish(&r->iov);
    free(r->memory);
    r->memory = NULL;
}

/* The last sector of an image whose size is not a whole number of them is there as far as users can tell. */
static bool in_last_sector(struct io *io, uint64_t off, uint64_t len)
{
    uint64_t size = io->node->size, end = io_size(io);
    return !io->node->no_medium && off <= end && len <= end - off && off + len > size;
}

/* Before a write that ends in that part: makes the image as long as it must be. */
static int fill_last_sector(struct io_request *r)
{
    struct io *io = r->io;
    if (!in_last_sector(io, r->offset, r->bytes)) {
        return 0;
    }
    unsigned perm = io->edge->own_perm, shared = io->edge->own_shared;
    if (edge_set_perm(io->edge, perm | PERM_RESIZE, shared, NULL)) {
        return -EIO;
    }
    int rc = edge_truncate(io->edge, r->offset + r->bytes, false, PREALLOC_OFF, NULL);
    edge_set_perm(io->edge, perm, shared, NULL);
    return rc < 0 ? -EIO : 0;
}

static int measured(struct io_request *r, int rc)
{
    r->report.offset = r->offset;
    r->report.bytes = r->bytes;
    r->report.ended_ns = loop_now_ns();
    return rc;
}

int io_request_read(struct io_request *r)
{
    struct io *io = r->io;
    r->report.began_ns = loop_now_ns();
    if (r->vmstate) {
        return measured(r, node_vmstate_read(io->image, r->offset, r->bytes, r->iov.iov->iov_base));
    }
    uint64_t len = r->bytes;
    if (in_last_sector(io, r->offset, len)) {
        len = r->offset < io->node->size ? io->node->size - r->offset : 0;
        iovs_fill(&r->iov, len, 0, r->bytes - len);
    }
    return measured(r, len || !r->bytes ? edge_read(io->edge, r->offset, len, &r->iov, 0, 0) : 0);
}

static unsigned write_flags(const struct io_request *r)
{
    return r->flags | (r->io->writethrough && !(r->flags & REQ_COMPRESSED) ? REQ_FUA : 0);
}

int io_request_write(struct io_request *r)
{
    struct io *io = r->io;
    r->report.began_ns = loop_now_ns();
    if (r->vmstate) {
        return measured(r, node_vmstate_write(io->image, r->offset, r->bytes, r->iov.iov->iov_base));
    }
    int rc = fill_last_sector(r);
    return measured(r, rc ? rc : edge_write(io->edge, r->offset, r->bytes, &r->iov, 0, write_flags(r)));
}

int io_request_zero(struct io_request *r)
{
    r->report.began_ns = loop_now_ns();
    int rc = fill_last_sector(r);
    return measured(r, rc ? rc : edge_zero(r->io->edge, r->offset, r->bytes, write_flags(r)));
}

int io_request_discard(struct io_request *r)
{
    uint64_t len = r->bytes, size = r->io->node->size;
    r->report.began_ns = loop_now_ns();
    if (in_last_sector(r->io, r->offset, len)) {
        len = r->offset < size ? size - r->offset : 0;
    }
    return measured(r, edge_discard(r->io->edge, r->offset, len));
}

static bool all_is(const uint8_t *buf, uint64_t len, int byte)
{
    return !len || (buf[0] == byte && !memcmp(buf, buf + 1, len - 1));
}

bool io_request_verify(const struct io_request *r, uint64_t at, uint64_t len)
{
    const uint8_t *buf = r->iov.iov->iov_base; /* the vector's buffers follow each other */
    if (all_is(buf + at, len, r->pattern)) {
        return true;
    }
    io_print(r->io, "Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", r->offset + at, len);
    return false;
}
