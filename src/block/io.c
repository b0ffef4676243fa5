/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The path of a request through one node: gate, checks, tracking, then the driver, with what the driver cannot do
 * emulated: alignment, splitting, zeroes, durable writes. The request's record lives on the stack.
 */
#include "block/io.h"

#include "base/checked.h"
#include "base/events.h"
#include "block/debug.h"
#include "block/internal.h"

#include <stdlib.h>
#include <string.h>

#define BOUNCE_MAX   (1u << 20)
#define STACK_LAYERS 16 /* layers of the graph that fit on one coroutine's stack with plenty to spare */

/* --- stacks ----------------------------------------------------------------------------------------------------- */

struct stack_call {
    int (*fn)(void *arg);
    void *arg;
    struct co *caller;
    bool done, waiting;
    int rc;
};

static void stack_call_run(void *opaque)
{
    struct stack_call *c = opaque;
    c->rc = c->fn(c->arg);
    c->done = true;
    if (c->waiting) {
        co_wake(c->caller);
    }
}

bool node_needs_stack(const struct node *n)
{
    return n->height && n->height % STACK_LAYERS == 0;
}

int block_on_new_stack(struct loop *l, int (*fn)(void *arg), void *arg)
{
    struct stack_call c = {.fn = fn, .arg = arg, .caller = co_self()};
    co_start(l, stack_call_run, &c);
    c.waiting = true;
    while (!c.done) {
        co_wait();
    }
    return c.rc;
}

/* --- begin and end ---------------------------------------------------------------------------------------------- */

struct io {
    struct edge *ed;
    struct node *n; /* the edge may point elsewhere after the request */
    uint64_t start_ns;
    struct request r;
};

static inline void edge_enter(struct edge *ed)
{
    ed->in_flight++;
    while (__builtin_expect(ed->gate && !ed->ungated, 0)) {
        co_queue_wait(&ed->gate_waiters);
    }
}

static inline void edge_leave(struct edge *ed)
{
    if (--ed->in_flight == 0 && !co_queue_empty(&ed->idle_waiters)) {
        co_queue_wake_all(&ed->idle_waiters);
    }
}

static int io_begin(struct io *io, struct edge *ed, enum req_type type, uint64_t off, uint64_t len)
{
    edge_enter(ed);
    struct node *n = ed->child;
    if (__builtin_expect(n->no_medium, 0) || !range_ok(off, len, n->size)) {
        edge_leave(ed);
        return n->no_medium ? -ENOMEDIUM : -EIO;
    }
    io->ed = ed;
    io->n = n;
    io->start_ns = loop_now_ns();
    request_begin(&io->r, n, type, off, len);
    if (__builtin_expect(n->serialising != 0, 0)) {
        request_wait(&io->r);
        if (!range_ok(off, len, n->size)) { /* a truncate went first */
            request_end(&io->r);
            edge_leave(ed);
            return -EIO;
        }
    }
    return 0;
}

static void io_end(struct io *io)
{
    request_end(&io->r);
    edge_leave(io->ed);
}

/* May the edge change data? */
static int check_write(const struct edge *ed, unsigned flags)
{
    unsigned need = flags & REQ_WRITE_UNCHANGED ? PERM_WRITE | PERM_WRITE_SAME : PERM_WRITE;
    return ed->perm & need && !ed->child->read_only && !ed->child->inactive ? 0 : -EPERM;
}

void *block_buf_alloc(struct node *n, size_t len)
{
    size_t align = MAX(4096u, n ? n->limits.mem_align : 1);
    void *p = NULL;
    return posix_memalign(&p, align, MAX(len, 1)) ? NULL : p;
}

static uint32_t align_of(const struct node *n)
{
    return n->limits.request_align ? n->limits.request_align : 1;
}

static bool mem_aligned(const struct node *n, const struct iovs *v, size_t voff, size_t len)
{
    uintptr_t mask = n->limits.mem_align > 1 ? n->limits.mem_align - 1 : 0;
    if (!mask) {
        return true;
    }
    uintptr_t len_mask = align_of(n) - 1;
    for (int i = 0; i < v->n && len; i++) {
        size_t l = v->iov[i].iov_len;
        if (voff >= l) {
            voff -= l;
            continue;
        }
        size_t part = MIN(l - voff, len);
        if ((((uintptr_t)v->iov[i].iov_base + voff) & mask) || (part & len_mask)) {
            return false;
        }
        voff = 0;
        len -= part;
    }
    return true;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

/* Aligned; may reach past the end by less than request_align. */
int node_do_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    const struct block_driver *drv = n->drv;
    if (!drv->read) {
        struct edge *ed = node_filter_edge(n);
        return ed ? edge_read(ed, off, len, v, voff, flags) : -ENOTSUP;
    }
    uint64_t max = n->limits.max_transfer;
    if (!max || len <= max) {
        return drv->read(n, off, len, v, voff, flags);
    }
    max = MAX(round_down(max, 1ull << log2_floor(align_of(n))), align_of(n));
    int rc = 0;
    while (len && !rc) {
        uint64_t part = min_u64(len, max);
        rc = drv->read(n, off, part, v, voff, flags);
        off += part;
        voff += part;
        len -= part;
    }
    return rc;
}

static int read_bounced(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    uint64_t align = align_of(n);
    uint64_t pos = round_down(off, align), end = round_up(off + len, align);
    size_t size = min_u64(end - pos, BOUNCE_MAX);
    uint8_t *buf = block_buf_alloc(n, size);
    int rc = buf ? 0 : -ENOMEM;
    while (pos < end && !rc) {
        uint64_t part = min_u64(end - pos, size);
        uint64_t lo = max_u64(off, pos), hi = min_u64(off + len, pos + part);
        struct iovec iov;
        struct iovs b = IOVS_BUF(&iov, buf, part);
        rc = node_do_read(n, pos, part, &b, 0, flags);
        if (!rc) {
            iovs_from_buf(v, voff + (lo - off), buf + (lo - pos), hi - lo);
        }
        pos += part;
    }
    free(buf);
    return rc;
}

static int read_aligned(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    uint64_t mask = align_of(n) - 1;
    if (__builtin_expect(((off | len) & mask) || !mem_aligned(n, v, voff, len), 0)) {
        return read_bounced(n, off, len, v, voff, flags);
    }
    return node_do_read(n, off, len, v, voff, flags);
}

static int prefetch(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    if (n->drv->prefetches) {
        return n->drv->read(n, off, len, NULL, 0, flags & REQ_PREFETCH);
    }
    struct edge *ed = node_filter_edge(n);
    return ed ? edge_read(ed, off, len, NULL, 0, flags & REQ_PREFETCH) : 0;
}

static int do_edge_read(struct edge *ed, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct io io;
    int rc = io_begin(&io, ed, REQ_READ, off, len);
    if (rc < 0) {
        return rc;
    }
    if (flags & REQ_SERIALISING) {
        request_serialise(&io.r, align_of(io.n));
    }
    if (__builtin_expect(!v, 0)) {
        rc = len ? prefetch(io.n, off, len, flags) : 0;
    } else if (len) {
        rc = read_aligned(io.n, off, len, v, voff, flags & REQ_PREFETCH);
    }
    struct node_stats *s = &io.n->stats;
    s->rd_ops++;
    s->rd_ns += loop_now_ns() - io.start_ns;
    if (!rc) {
        s->rd_bytes += len;
    }
    io_end(&io);
    return rc;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

static int write_pieces(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    uint64_t max = n->limits.max_transfer;
    if (!max || len <= max) {
        return n->drv->write(n, off, len, v, voff, flags);
    }
    max = MAX(round_down(max, 1ull << log2_floor(align_of(n))), align_of(n));
    int rc = 0;
    while (len && !rc) {
        uint64_t part = min_u64(len, max);
        rc = n->drv->write(n, off, part, v, voff, flags);
        off += part;
        voff += part;
        len -= part;
    }
    return rc;
}

/* Zeroes as data, in pieces of one buffer. */
static int write_zero_data(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    size_t size = min_u64(round_up(len, align_of(n)), BOUNCE_MAX);
    void *buf = block_buf_alloc(n, size);
    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, size);
    int rc = 0;
    while (len && !rc) {
        struct iovec iov;
        uint64_t part = min_u64(len, size);
        struct iovs b = IOVS_BUF(&iov, buf, part);
        rc = node_do_write(n, off, part, &b, 0, flags);
        off += part;
        len -= part;
    }
    free(buf);
    return rc;
}

/* Aligned, like node_do_read(). REQ_FUA is passed on; the driver must understand it or the caller flush. */
int node_do_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    if (!v) {
        return write_zero_data(n, off, len, flags);
    }
    if (!n->drv->write) {
        struct edge *ed = node_filter_edge(n);
        return ed ? edge_write(ed, off, len, v, voff, flags) : -ENOTSUP;
    }
    return write_pieces(n, off, len, v, voff, flags);
}

static int read_block(struct node *n, uint64_t off, uint8_t *buf)
{
    struct iovec iov;
    struct iovs b = IOVS_BUF(&iov, buf, align_of(n));
    return node_do_read(n, off, align_of(n), &b, 0, 0);
}

/* One piece [pos, pos + part) of a read-modify-write of [off, end). */
static int rmw_piece(struct node *n, uint64_t pos, uint64_t part, uint64_t off, uint64_t end, uint8_t *buf)
{
    uint64_t align = align_of(n);
    int rc = 0;
    if (off > pos) {
        block_debug_event_at(n, "pwritev_rmw_head");
        rc = read_block(n, pos, buf);
        block_debug_event_at(n, "pwritev_rmw_after_head");
    }
    bool same_block = off > pos && part == align;
    if (!rc && end < pos + part && !same_block) {
        block_debug_event_at(n, "pwritev_rmw_tail");
        rc = read_block(n, pos + part - align, buf + part - align);
        block_debug_event_at(n, "pwritev_rmw_after_tail");
    }
    return rc;
}

static int write_announced(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff,
                           unsigned flags)
{
    block_debug_event_at(n, "pwritev");
    int rc = node_do_write(n, off, len, v, voff, flags);
    block_debug_event_at(n, "pwritev_done");
    return rc;
}

/* The request must be serialising over the blocks that it touches unless off and len are aligned. */
static int write_bounced(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    uint64_t align = align_of(n);
    uint64_t pos = round_down(off, align), end = round_up(off + len, align);
    size_t size = min_u64(end - pos, max_u64(BOUNCE_MAX, align));
    uint8_t *buf = block_buf_alloc(n, size);
    int rc = buf ? 0 : -ENOMEM;
    while (pos < end && !rc) {
        uint64_t part = min_u64(end - pos, size);
        uint64_t lo = max_u64(off, pos), hi = min_u64(off + len, pos + part);
        rc = rmw_piece(n, pos, part, off, off + len, buf);
        if (rc < 0) {
            break;
        }
        if (v) {
            iovs_to_buf(v, voff + (lo - off), buf + (lo - pos), hi - lo);
        } else {
            memset(buf + (lo - pos), 0, hi - lo);
        }
        struct iovec iov;
        struct iovs b = IOVS_BUF(&iov, buf, part);
        rc = write_announced(n, pos, part, &b, 0, flags);
        pos += part;
    }
    free(buf);
    return rc;
}

struct span {
    uint64_t off, len;
    const struct iovs *v; /* NULL: zeroes */
    size_t voff;
};

static int write_any(struct node *n, struct request *r, const struct span *s, unsigned flags)
{
    uint64_t mask = align_of(n) - 1;
    bool unaligned = ((s->off | s->len) & mask) != 0;
    if (__builtin_expect(unaligned, 0)) {
        request_serialise(r, align_of(n));
    }
    if (__builtin_expect(unaligned || (s->v && !mem_aligned(n, s->v, s->voff, s->len)), 0)) {
        return write_bounced(n, s->off, s->len, s->v, s->voff, flags);
    }
    return write_announced(n, s->off, s->len, s->v, s->voff, flags);
}

static int write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    if (n->drv->write_compressed) {
        return n->drv->write_compressed(n, off, len, v, voff);
    }
    struct edge *ed = node_filter_edge(n);
    return ed ? edge_write(ed, off, len, v, voff, REQ_COMPRESSED) : -ENOTSUP;
}

/* Before anything that will change data: may it, and do the images that remember such changes know? */
static void tell_threshold(struct node *n, uint64_t end)
{
    uint64_t threshold = n->write_threshold;
    struct json_object *o = json_object_new_object();
    n->write_threshold = 0;
    json_object_object_add(o, "node-name", json_object_new_string(n->name));
    json_object_object_add(o, "amount-exceeded", json_object_new_uint64(end - threshold));
    json_object_object_add(o, "write-threshold", json_object_new_uint64(threshold));
    if (n->graph->bus) {
        event_emit(n->graph->bus, "BLOCK_WRITE_THRESHOLD", o);
    } else {
        json_object_put(o);
    }
}

static int write_begin(const struct edge *ed, struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int rc = check_write(ed, flags);
    if (__builtin_expect(n->write_threshold && off + len > n->write_threshold, 0)) {
        tell_threshold(n, off + len);
    }
    bool remembered = !(flags & REQ_WRITE_UNCHANGED) && n->bitmaps->len;
    return !rc && __builtin_expect(remembered, 0) ? node_intend_dirty(n, off, len) : rc;
}

/* After anything that changed, or may have changed, data. */
static int write_done(struct io *io, uint64_t off, uint64_t len, unsigned flags, int rc)
{
    struct node *n = io->n;
    n->write_gen++;
    if (!(flags & REQ_WRITE_UNCHANGED) && n->bitmaps->len) {
        node_mark_dirty(n, off, len);
    }
    if (!rc && off + len > n->stats.wr_highest) {
        n->stats.wr_highest = off + len;
    }
    if (!rc && (flags & REQ_FUA)) {
        rc = node_flush(n);
    }
    return rc;
}

/* Splits REQ_FUA into what the driver does and what write_done() has to. */
static void split_fua(struct node *n, unsigned flags, unsigned *drv_flags, unsigned *end_flags)
{
    const struct block_driver *drv = n->drv;
    *drv_flags = flags & ~(unsigned)REQ_SERIALISING;
    *end_flags = flags;
    if (!(flags & REQ_FUA)) {
        return;
    }
    if (drv->supports_fua ? drv->supports_fua(n) : !drv->write && drv->is_filter) {
        *end_flags &= ~(unsigned)REQ_FUA;
    } else {
        *drv_flags &= ~(unsigned)REQ_FUA;
    }
}

static int do_edge_write(struct edge *ed, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct io io;
    int rc = io_begin(&io, ed, REQ_WRITE, off, len);
    if (rc < 0) {
        return rc;
    }
    struct node *n = io.n;
    unsigned drv_flags, end_flags;
    split_fua(n, flags, &drv_flags, &end_flags);
    rc = write_begin(ed, n, off, len, flags); /* after the gate: the edge may point to another node now */
    if (!rc && len) {
        if (flags & REQ_SERIALISING) {
            request_serialise(&io.r, align_of(n));
        }
        if (flags & REQ_COMPRESSED) {
            rc = write_compressed(n, off, len, v, voff);
            end_flags |= flags & REQ_FUA;
        } else if (__builtin_expect(n->detect_zeroes && iovs_is_zero(v, voff, len), 0)) {
            unsigned f = drv_flags | (n->detect_zeroes == 2 && n->discard_unmap ? REQ_MAY_UNMAP : 0);
            end_flags = flags;
            rc = node_do_zero(n, &io.r, off, len, f & ~(unsigned)REQ_FUA);
        } else {
            struct span span = {off, len, v, voff};
            rc = write_any(n, &io.r, &span, drv_flags);
        }
        rc = write_done(&io, off, len, end_flags, rc);
    }
    n->stats.wr_ops++;
    n->stats.wr_ns += loop_now_ns() - io.start_ns;
    if (!rc) {
        n->stats.wr_bytes += len;
    }
    io_end(&io);
    return rc;
}

int edge_copy_file(struct edge *ed, uint64_t off, uint64_t len, struct node *src, uint64_t soff)
{
    struct io io;
    int rc = io_begin(&io, ed, REQ_WRITE, off, len);
    if (rc < 0) {
        return rc;
    }
    struct node *n = io.n;
    bool can = n->drv->copy_file && !n->detect_zeroes && !((off | len) & (align_of(n) - 1));
    rc = check_write(ed, 0);
    if (!rc) {
        rc = can ? n->drv->copy_file(n, off, len, src, soff) : -ENOTSUP;
        log_trace(n->graph->log, block_copy, "node %s off %" PRIu64 " len %" PRIu64 ": %d", n->name, off, len, rc);
        rc = write_done(&io, off, len, 0, rc);
    }
    n->stats.wr_ops += !rc;
    n->stats.wr_bytes += rc ? 0 : len;
    io_end(&io);
    return rc;
}

/* --- zeroes and discard ----------------------------------------------------------------------------------------- */

static int zero_middle(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    const struct block_driver *drv = n->drv;
    uint64_t align = MAX(n->limits.zero_align, align_of(n)), max = n->limits.max_zero;
    max = max ? MAX(max - max % align, align) : len;
    while (len) {
        uint64_t part = min_u64(len, max);
        int rc = -ENOTSUP;
        if (drv->zero) {
            rc = drv->zero(n, off, part, flags);
        } else if (node_filter_edge(n) && !drv->write) {
            rc = edge_zero(node_filter_edge(n), off, part, flags);
        }
        if (rc == -ENOTSUP && !(flags & REQ_NO_FALLBACK)) {
            rc = node_do_write(n, off, part, NULL, 0, flags & ~(unsigned)(REQ_MAY_UNMAP | REQ_NO_FALLBACK));
        }
        if (rc < 0) {
            return rc;
        }
        off += part;
        len -= part;
    }
    return 0;
}

/* r: the request on whose behalf, made serialising where blocks are shared with others. */
int node_do_zero(struct node *n, struct request *r, uint64_t off, uint64_t len, unsigned flags)
{
    uint64_t align = MAX(n->limits.zero_align, align_of(n)), end = off + len;
    uint64_t lo = off % align ? off + (align - off % align) : off;
    uint64_t hi = end - end % align;
    if (end == n->size && end % align_of(n) == 0) {
        hi = end; /* the last, partial unit is all ours */
    }
    bool have_middle = lo < hi;
    if (!have_middle) {
        lo = hi = end;
    }
    if ((flags & REQ_NO_FALLBACK) && (lo > off || hi < end)) {
        return -ENOTSUP;
    }
    if ((off | end) & (align_of(n) - 1)) {
        request_serialise(r, align_of(n));
    }
    unsigned wflags = flags & ~(unsigned)(REQ_MAY_UNMAP | REQ_NO_FALLBACK);
    struct span head = {.off = off, .len = lo - off}, tail = {.off = hi, .len = end - hi};
    int rc = head.len ? write_any(n, r, &head, wflags) : 0;
    if (!rc && have_middle) {
        rc = zero_middle(n, lo, hi - lo, flags);
    }
    if (!rc && tail.len) {
        rc = write_any(n, r, &tail, wflags);
    }
    return rc;
}

static int do_edge_zero(struct edge *ed, uint64_t off, uint64_t len, unsigned flags)
{
    struct io io;
    int rc = io_begin(&io, ed, REQ_ZERO, off, len);
    if (rc < 0) {
        return rc;
    }
    struct node *n = io.n;
    if (!n->discard_unmap) {
        flags &= ~(unsigned)REQ_MAY_UNMAP;
    }
    rc = write_begin(ed, n, off, len, flags);
    if (!rc && len) {
        block_debug_event_at(n, "pwritev_zero");
        if (flags & REQ_SERIALISING) {
            request_serialise(&io.r, align_of(n));
        }
        /* Durability by a flush afterwards: zeroes are rarely asked for with FUA. */
        unsigned f = flags & ~(unsigned)(REQ_SERIALISING | REQ_FUA);
        rc = node_do_zero(n, &io.r, off, len, f);
        if (rc != -ENOTSUP) {
            rc = write_done(&io, off, len, flags, rc);
        }
    }
    n->stats.zero_ops++;
    if (!rc) {
        n->stats.zero_bytes += len;
    }
    io_end(&io);
    return rc;
}

/* Finer parts than discard_align are left as they are, except the last of the node. */
int node_do_discard(struct node *n, uint64_t off, uint64_t len)
{
    const struct block_driver *drv = n->drv;
    uint64_t align = MAX(n->limits.discard_align, align_of(n)), end = off + len;
    off = off % align ? off + (align - off % align) : off;
    if (end != n->size || end % align_of(n)) {
        end -= end % align;
    }
    uint64_t max = n->limits.max_discard;
    max = max ? MAX(max - max % align, align) : UINT64_MAX;
    while (off < end) {
        uint64_t part = min_u64(end - off, max - off % max); /* pieces end where the units of those below do */
        int rc = 0;
        if (drv->discard) {
            rc = drv->discard(n, off, part);
        } else if (node_filter_edge(n)) {
            rc = edge_discard(node_filter_edge(n), off, part);
        }
        if (rc < 0 && rc != -ENOTSUP) {
            return rc;
        }
        off += part;
    }
    return 0;
}

static int do_edge_discard(struct edge *ed, uint64_t off, uint64_t len)
{
    struct io io;
    int rc = io_begin(&io, ed, REQ_DISCARD, off, len);
    if (rc < 0) {
        return rc;
    }
    struct node *n = io.n;
    rc = write_begin(ed, n, off, n->discard_unmap ? len : 0, 0);
    if (!rc && len && n->discard_unmap) {
        rc = node_do_discard(n, off, len);
        rc = write_done(&io, off, len, 0, rc);
    }
    n->stats.discard_ops++;
    if (!rc) {
        n->stats.discard_bytes += len;
    }
    io_end(&io);
    return rc;
}

/* --- flush ------------------------------------------------------------------------------------------------------ */

static int flush_driver(struct node *n)
{
    const struct block_driver *drv = n->drv;
    if (n->no_flush && drv->is_protocol) {
        return 0;
    }
    struct edge *ed = node_filter_edge(n) ? node_filter_edge(n) : n->file;
    if (ed) {
        block_debug_event_at(ed->child, "flush_to_os");
        block_debug_event_at(ed->child, "flush_to_disk");
    }
    if (drv->flush) {
        return drv->flush(n);
    }
    return ed ? edge_flush(ed) : 0;
}

static int flush_once(void *arg)
{
    struct node *n = arg;
    uint64_t gen = n->write_gen;
    co_lock(&n->flush_lock);
    int rc = 0;
    if (n->flushed_gen < gen && !n->inactive) { /* else somebody's flush, begun after ours was asked for, has done it */
        gen = n->write_gen;
        uint64_t t0 = loop_now_ns();
        rc = flush_driver(n);
        n->stats.flush_ns += loop_now_ns() - t0;
        n->flush_rc = rc;
        if (!rc) {
            n->flushed_gen = gen;
        }
    }
    co_unlock(&n->flush_lock);
    return rc;
}

void node_set_patience(struct node *n, bool patient)
{
    if (n->drv->set_patience) {
        n->drv->set_patience(n, patient);
        return;
    }
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        if (ed != n->backing) {
            node_set_patience(ed->child, patient);
        }
    }
}

int node_flush(struct node *n)
{
    log_trace(n->graph->log, block_flush, "node %s", n->name);
    node_in_flight_inc(n);
    n->stats.flush_ops++;
    int rc = node_needs_stack(n) ? block_on_new_stack(n->graph->loop, flush_once, n) : flush_once(n);
    node_in_flight_dec(n);
    return rc;
}

int edge_flush(struct edge *ed)
{
    edge_enter(ed);
    int rc = node_flush(ed->child);
    edge_leave(ed);
    return rc;
}

/* --- size ------------------------------------------------------------------------------------------------------- */

uint64_t edge_size(const struct edge *ed)
{
    return ed->child->size;
}

struct truncate_call {
    struct node *n;
    uint64_t size;
    bool exact;
    int prealloc;
    struct err *e;
};

static int truncate_driver(void *arg)
{
    struct truncate_call *c = arg;
    struct node *n = c->n;
    if (n->drv->truncate) {
        return n->drv->truncate(n, c->size, c->exact, c->prealloc, c->e);
    }
    struct edge *ed = node_filter_edge(n);
    if (!ed) {
        return err_set(c->e, ENOTSUP, "Image format driver '%s' does not support resize", n->drv->name);
    }
    return edge_truncate(ed, c->size, c->exact, c->prealloc, c->e);
}

int edge_truncate(struct edge *ed, uint64_t size, bool exact, int prealloc, struct err *e)
{
    if (size > INT64_MAX / 2) {
        return err_set(e, EFBIG, "Node '%s': size %" G_GUINT64_FORMAT " is too large", ed->child->name, size);
    }
    edge_enter(ed);
    struct node *n = ed->child;
    log_trace(n->graph->log, block_truncate, "node %s size %" G_GUINT64_FORMAT, n->name, size);
    int rc = 0;
    if (n->no_medium) {
        edge_leave(ed);
        return err_set(e, ENOMEDIUM, "No medium inserted");
    }
    if (!(ed->perm & PERM_RESIZE) || n->read_only || n->inactive) {
        rc = err_set(e, EPERM, "Node '%s' may not be resized by this user: it is %s", n->name,
                     n->read_only  ? "read-only"
                     : n->inactive ? "inactive"
                                   : "opened without the permission");
        edge_leave(ed);
        return rc;
    }
    struct request r;
    uint64_t from = min_u64(size, n->size);
    request_begin(&r, n, REQ_TRUNCATE, from, INT64_MAX - from);
    request_serialise(&r, 1);
    struct truncate_call c = {n, size, exact, prealloc, e};
    rc = node_needs_stack(n) ? block_on_new_stack(n->graph->loop, truncate_driver, &c) : truncate_driver(&c);
    n->write_gen++;
    request_end(&r);
    edge_leave(ed);
    return rc;
}

/* --- entry points ----------------------------------------------------------------------------------------------- */

#define TRACE_REQUEST(ed, point, off, len, flags)                                                                      \
    log_trace((ed)->child->graph->log, point,                                                                          \
              "node %s off %" G_GUINT64_FORMAT " bytes %" G_GUINT64_FORMAT " flags 0x%x", (ed)->child->name, off, len, \
              flags)

struct edge_call {
    struct edge *ed;
    uint64_t off, len;
    const struct iovs *v;
    size_t voff;
    unsigned flags;
};

static int call_read(void *arg)
{
    struct edge_call *c = arg;
    return do_edge_read(c->ed, c->off, c->len, c->v, c->voff, c->flags);
}

static int call_write(void *arg)
{
    struct edge_call *c = arg;
    return do_edge_write(c->ed, c->off, c->len, c->v, c->voff, c->flags);
}

static int call_zero(void *arg)
{
    struct edge_call *c = arg;
    return do_edge_zero(c->ed, c->off, c->len, c->flags);
}

static int call_discard(void *arg)
{
    struct edge_call *c = arg;
    return do_edge_discard(c->ed, c->off, c->len);
}

int edge_read(struct edge *ed, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    TRACE_REQUEST(ed, block_read, off, len, flags);
    if (__builtin_expect(node_needs_stack(ed->child), 0)) {
        struct edge_call c = {ed, off, len, v, voff, flags};
        return block_on_new_stack(ed->child->graph->loop, call_read, &c);
    }
    return do_edge_read(ed, off, len, v, voff, flags);
}

int edge_write(struct edge *ed, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    TRACE_REQUEST(ed, block_write, off, len, flags);
    if (__builtin_expect(node_needs_stack(ed->child), 0)) {
        struct edge_call c = {ed, off, len, v, voff, flags};
        return block_on_new_stack(ed->child->graph->loop, call_write, &c);
    }
    return do_edge_write(ed, off, len, v, voff, flags);
}

int edge_read_buf(struct edge *ed, uint64_t off, uint64_t len, void *buf)
{
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, len);
    return edge_read(ed, off, len, &v, 0, 0);
}

int edge_write_buf(struct edge *ed, uint64_t off, uint64_t len, const void *buf, unsigned flags)
{
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, (void *)(uintptr_t)buf, len);
    return edge_write(ed, off, len, &v, 0, flags);
}

int edge_zero(struct edge *ed, uint64_t off, uint64_t len, unsigned flags)
{
    TRACE_REQUEST(ed, block_zero, off, len, flags);
    if (__builtin_expect(node_needs_stack(ed->child), 0)) {
        struct edge_call c = {.ed = ed, .off = off, .len = len, .flags = flags};
        return block_on_new_stack(ed->child->graph->loop, call_zero, &c);
    }
    return do_edge_zero(ed, off, len, flags);
}

int edge_discard(struct edge *ed, uint64_t off, uint64_t len)
{
    TRACE_REQUEST(ed, block_discard, off, len, 0u);
    if (__builtin_expect(node_needs_stack(ed->child), 0)) {
        struct edge_call c = {.ed = ed, .off = off, .len = len};
        return block_on_new_stack(ed->child->graph->loop, call_discard, &c);
    }
    return do_edge_discard(ed, off, len);
}
