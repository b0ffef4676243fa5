/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading and writing through an edge. All [co]; 0 or negative errno. Offsets and lengths are bytes of any
 * alignment (the core aligns). A range must lie within the child's size, else -EIO (checked here, once, for every
 * driver).
 */
#pragma once

#include "base/zero.h"
#include "block/graph.h"

#include <sys/uio.h>

/* A vector of buffers; `size` is their sum. Borrowed by whoever gets one. */
struct iovs {
    struct iovec *iov;
    int n;
    size_t size;
};
/* An iovs on the caller's stack over one buffer: struct iovs v = IOVS_BUF(&iov, buf, len) with struct iovec iov. */
#define IOVS_BUF(iovp, buf, len) (*(iovp) = (struct iovec){(buf), (len)}, (struct iovs){(iovp), 1, (len)})

size_t iovs_to_buf(const struct iovs *v, size_t voff, void *buf, size_t len);
size_t iovs_from_buf(const struct iovs *v, size_t voff, const void *buf, size_t len);
void iovs_fill(const struct iovs *v, size_t voff, int byte, size_t len);
/* The part [voff, voff+len) as a new array (g_malloc'd in out->iov: iovs_finish frees). Shares the buffers. */
void iovs_slice(struct iovs *out, const struct iovs *v, size_t voff, size_t len);
void iovs_finish(struct iovs *v);
/* Cuts `len` bytes, at most all, off the beginning; changes the vector's entries. */
void iovs_skip(struct iovs *v, size_t len);
bool iovs_is_zero(const struct iovs *v, size_t voff, size_t len);
/* The part as an array for a system call, at most max entries; *got = its bytes. Returns the number of entries. */
int iovs_window(const struct iovs *v, size_t voff, size_t len, struct iovec *out, int max, size_t *got);
/* Memory for I/O: aligned to max(4096, n->limits.mem_align); free(). NULL when memory is short. */
void *block_buf_alloc(struct node *n, size_t len);

enum {
    REQ_FUA = 1,         /* durable on return */
    REQ_MAY_UNMAP = 2,   /* zero: may deallocate */
    REQ_NO_FALLBACK = 4, /* zero: -ENOTSUP rather than writing zeroes as data */
    REQ_SERIALISING = 8, /* waits for and holds back overlapping requests at this node */
    REQ_COMPRESSED = 16,
    REQ_PREFETCH =
        32, /* read: bring it into the top layer if there is a copy-on-read filter to do so; `v` may be NULL then, and
             * errors of the copy are reported. Without such a filter and with v NULL: does nothing */
    REQ_WRITE_UNCHANGED =
        64, /* write of what a reader saw already: needs PERM_WRITE_SAME only, does not dirty bitmaps */
};

int edge_read(struct edge *ed, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int edge_write(struct edge *ed, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int edge_read_buf(struct edge *ed, uint64_t off, uint64_t len, void *buf);
int edge_write_buf(struct edge *ed, uint64_t off, uint64_t len, const void *buf, unsigned flags);
int edge_zero(struct edge *ed, uint64_t off, uint64_t len, unsigned flags);
int edge_discard(struct edge *ed, uint64_t off, uint64_t len);
/*
 * Copying by the host's kernel, which may not copy at all but let both files share what they have: what node `from`
 * (and its chain) has at soff is written to [off, off + len). -ENOTSUP: cannot be done this way: read and write instead
 * (a part may have been copied). The caller sees to it that nobody changes the source meanwhile.
 */
int edge_copy_range(struct edge *ed, uint64_t off, uint64_t len, struct node *from, uint64_t soff);
/* One step of it, for drivers: from the host file of `src`, a protocol's node. */
int edge_copy_file(struct edge *ed, uint64_t off, uint64_t len, struct node *src, uint64_t soff);
int edge_flush(struct edge *ed);
int edge_truncate(struct edge *ed, uint64_t size, bool exact, int prealloc, struct err *e);
uint64_t edge_size(const struct edge *ed);

/* What a range is. `len` > 0 bytes from the asked offset are alike. */
enum {
    EXT_DATA = 1,      /* reads data of this layer */
    EXT_ZERO = 2,      /* reads as zeroes */
    EXT_ALLOCATED = 4, /* decided by this layer (data or zero), not by its backing */
    EXT_OFFSET = 8,    /* `offset` in `file` holds the data, as it is */
    EXT_COMPRESSED = 16,
    EXT_EOF = 32, /* ends at the end of the node */
};
struct extent {
    uint64_t len;
    unsigned flags;
    uint64_t offset;
    struct node *file; /* borrowed */
};
/* This layer alone (filters look through). `want_zero` false: only EXT_ALLOCATED need be exact, be quick. */
int node_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out);
/* The chain from n down to, but not including, base (NULL: all of it). *depth (may be NULL): how many layers down the
 * range was decided, 0 = n. Nothing above base has it: flags without EXT_ALLOCATED (base NULL: EXT_ZERO). */
int node_status_above(struct node *n, struct node *base, uint64_t off, uint64_t len, struct extent *out, int *depth);
/* The same of the edge's child and all of its chain, as a request: waits while the edge's gate is closed. */
int edge_status(struct edge *ed, uint64_t off, uint64_t len, struct extent *out, int *depth);

/* Which layers (bit = depth) were looked at, and found to have holes below their data. Zero-initialised. */
struct hollow_layers {
    uint64_t known, found;
};
/*
 * For `x`, what layer n of a chain (the depth-th) says of a range: if the layer's file is so much smaller on the host
 * than it is long that data must lie in holes of it (an image whose tables were allocated in advance), the file is
 * asked too, and x becomes the part that is alike there. [co]
 */
int node_status_holes(struct node *n, int depth, struct hollow_layers *layers, struct extent *x);

/* Allocated bytes on the host, of the node and what only it uses; negative errno unknown. [co] */
int64_t node_allocated_size(struct node *n);
/* Flushes without an edge: for the core, jobs that own the node, drivers. [co] */
int node_flush(struct node *n);
/*
 * Without patience, requests of n and of the nodes below it but its backing image do not wait for a connection that is
 * lost: they fail. Each time that it was taken it is given back. Does not wait.
 */
void node_set_patience(struct node *n, bool patient);

/* Request tracking for those who must keep others away for longer than one request (copy-on-read, mirror). */
struct range_lock;
/* Waits for overlapping writes and locks (not for reads, and not for the calling coroutine's own requests); writes and
 * locks that come later wait for it. NULL when memory is short. [co] */
struct range_lock *node_lock_range(struct node *n, uint64_t off, uint64_t len);
void node_unlock_range(struct range_lock *l);
/* Whether a request under way at the node may change data in the range. */
bool node_changing(struct node *n, uint64_t off, uint64_t len);
