/* SPDX-License-Identifier: BSD-2-Clause */
/* The copying itself: which runs, in what pieces, how many at a time. */
#include "job/copy_int.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/transfer.h"
#include "block/view.h"

#include <sys/mman.h>

enum { CHUNK = 1 << 20, BUSY_CHUNK = 1 << 20, BUSY_OPS = 8, DEFAULT_BUFS = 8 << 20, MAX_BUFS = 16 << 20 };
enum { LIMITED_CHUNK = 512 << 10 }; /* as QEMU's: the next piece of a commit waits until this one has been paid for */
#define ZERO_RUN        (256ull << 20)
#define SCAN_RUN        (1ull << 30)
#define SCAN_SLICE_NS   1000000ull
#define GUEST_RECENT_NS 20000000ull
#define RETRY_NS        100000000ull

struct op {
    struct copy_job *c;
    uint64_t off, len;
    unsigned buf;
};

/* --- buffers --------------------------------------------------------------------------------------------------- */

int copy_bufs_create(struct copy_job *c, uint64_t bytes, struct err *e)
{
    uint64_t granularity = c->m->granularity;
    bytes = min_u64(bytes ? bytes : DEFAULT_BUFS, MAX_BUFS);
    c->buf_size = max_u64(round_down(min_u64(CHUNK, bytes), 4096), 4096);
    if (c->buf_size > granularity) {
        c->buf_size = round_down(c->buf_size, granularity);
    }
    c->buf_count = (unsigned)min_u64(max_u64(bytes / c->buf_size, 1), COPY_MAX_BUFS);
    /* Mapped, so that the memory is the system's again when the job ends. */
    c->arena = mmap(NULL, c->buf_count * c->buf_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->arena == MAP_FAILED) {
        c->arena = NULL;
        return err_set_errno(e, errno, "Job '%s': buffers of %zu bytes", c->job.id, c->buf_count * c->buf_size);
    }
    for (c->bufs_free = 0; c->bufs_free < c->buf_count; c->bufs_free++) {
        c->free_bufs[c->bufs_free] = (uint8_t)(c->buf_count - 1 - c->bufs_free);
    }
    return 0;
}

void copy_bufs_destroy(struct copy_job *c)
{
    if (c->arena) {
        munmap(take(c->arena), c->buf_count * c->buf_size);
    }
}

/* --- errors ---------------------------------------------------------------------------------------------------- */

void copy_failed(struct copy_job *c, bool is_read, int rc)
{
    if (c->rc) {
        return;
    }
    enum job_on_error policy = is_read ? c->on_source_error : c->on_target_error;
    /* Past run() nobody would try again. */
    if (c->job.deferred) {
        policy = JOB_ON_ERROR_REPORT;
    }
    switch (job_error(&c->job, policy, is_read, rc)) {
    case JOB_ACTION_REPORT:
        c->rc = rc;
        break;
    case JOB_ACTION_IGNORE:
        c->retry_ns = loop_now_ns() + RETRY_NS;
        break;
    case JOB_ACTION_STOP:
        break;
    }
    job_kick(&c->job);
}

/* --- one range -------------------------------------------------------------------------------------------------- */

/* With a buffer, or without to look only. */
static struct transfer transfer_of(struct copy_job *c, uint8_t *buf)
{
    return (struct transfer){
        .from = c->m->node->file,
        .to = c->m->target,
        .base = c->m->alone ? NULL : c->base, /* whole granules */
        .unmap = c->unmap,
        .alone = c->m->alone,
        .buf = buf,
        .buf_size = c->buf_size,
    };
}

static void op_entry(void *opaque)
{
    struct op *op = opaque;
    struct copy_job *c = op->c;
    struct turn turn;

    turn_begin(&c->m->turns, &turn, op->off, op->len);
    struct transfer t = transfer_of(c, c->arena + op->buf * c->buf_size);
    int rc = transfer_range(&t, op->off, op->len);
    if (rc < 0) {
        mirror_mark(c->m, op->off, op->len);
    }
    turn_end(&c->m->turns, &turn);
    if (rc == 0 && op->len >= CHUNK) {
        node_start_writeback(c->m->target->child, op->off, op->len);
    }
    c->free_bufs[c->bufs_free++] = (uint8_t)op->buf;
    c->ops--;
    c->op_bytes -= op->len;
    if (rc < 0) {
        copy_failed(c, t.is_read, rc);
    } else {
        job_progress(&c->job, op->len);
    }
    g_free(op);
    if (!c->ops) {
        co_queue_wake_all(&c->ops_idle);
    }
    job_kick(&c->job);
    mirror_copy_end(c->m);
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

bool copy_look(struct copy_job *c)
{
    return c->guard.safe && guard_look(&c->guard);
}

bool copy_next(const struct copy_job *c, uint64_t *off, uint64_t *len, uint64_t max)
{
    while (mirror_next(c->m, off, len, max)) {
        if (!c->guard.on || guard_next(&c->guard, off, len)) {
            return true;
        }
        *off += *len;
    }
    return false;
}

void copy_make_safe(struct copy_job *c)
{
    copy_wait_ops(c);
    err_clear(&c->why);
    int rc = guard_round(&c->guard, &c->job, c->m->dirty, &c->why);
    if (rc < 0) {
        copy_failed(c, false, rc);
    }
}

int copy_error(struct copy_job *c, struct err *e)
{
    if (c->rc && err_is_set(&c->why)) {
        err_move(e, &c->why);
    }
    return c->rc;
}

/* --- many ------------------------------------------------------------------------------------------------------- */

static bool guest_active(const struct copy_job *c)
{
    return loop_now_ns() - c->m->guest_ns < GUEST_RECENT_NS;
}

bool copy_may_dispatch(const struct copy_job *c)
{
    return c->bufs_free && (c->ops < BUSY_OPS || !guest_active(c));
}

bool copy_dispatch(struct copy_job *c)
{
    struct mirror *m = c->m;
    uint64_t off = c->cursor, len, alike;

    if (!copy_next(c, &off, &len, ZERO_RUN)) {
        return false;
    }
    mirror_copy_begin(m);
    uint64_t chunk = guest_active(c) ? min_u64(c->buf_size, BUSY_CHUNK) : c->buf_size;
    chunk = c->commit && c->switches && c->job.speed ? min_u64(chunk, LIMITED_CHUNK) : chunk;
    chunk = max_u64(chunk, m->granularity);
    /* Data goes in chunks, so that nobody waits long for one; what needs no data goes in one. */
    alike = len;
    if (len > chunk) {
        struct transfer t = transfer_of(c, NULL);
        int what = transfer_kind(&t, off, &alike);
        alike = what < 0 || what == TRANSFER_DATA ? chunk : max_u64(alike, chunk);
    }
    alike = min_u64(alike, len);
    if (alike < len) {
        len = max_u64(round_down(alike, m->granularity), m->granularity);
    }
    mirror_take(m, off, len);
    struct op *op = g_new(struct op, 1);
    *op = (struct op){.c = c, .off = off, .len = len, .buf = c->free_bufs[--c->bufs_free]};
    c->ops++;
    c->op_bytes += len;
    c->cursor = off + len;
    job_speed_account(&c->job, len);
    co_start(jobs_loop(c->job.jobs), op_entry, op);
    return true;
}

void copy_wait_ops(struct copy_job *c)
{
    while (c->ops) {
        co_queue_wait(&c->ops_idle);
    }
}

int copy_rest(struct copy_job *c)
{
    while (mirror_dirty_bytes(c->m) && !c->rc) {
        c->cursor = 0;
        while (c->bufs_free && copy_dispatch(c)) {
        }
        if (!c->ops && copy_look(c)) {
            copy_make_safe(c);
        }
        copy_wait_ops(c);
    }
    return c->rc;
}

int copy_flush_target(struct copy_job *c)
{
    mirror_copy_begin(c->m);
    int rc = edge_flush(c->m->target);
    mirror_copy_end(c->m);
    if (rc < 0) {
        copy_failed(c, false, rc);
    }
    return rc;
}

/* --- the beginning ---------------------------------------------------------------------------------------------- */

void copy_mark_bitmap(struct copy_job *c, const struct dirty_bitmap *from)
{
    uint64_t end = bitmap_bits(from->bits);
    for (uint64_t bit = 0; (bit = bitmap_next_set(from->bits, bit, end)) < end;) {
        uint64_t stop = bitmap_next_clear(from->bits, bit, end);
        uint64_t off = bit * from->granularity;
        if (off < c->size) {
            mirror_mark(c->m, off, min_u64(stop * from->granularity, c->size) - off);
        }
        bit = stop;
    }
}

void copy_scan(struct copy_job *c)
{
    uint64_t slice = loop_now_ns();

    for (uint64_t off = 0, n; off < c->size && !c->rc; off += n) {
        job_pause_point(&c->job);
        while (c->held && !job_is_cancelled(&c->job)) {
            job_sleep(&c->job, UINT64_MAX, "held back by a drain");
        }
        if (job_is_cancelled(&c->job)) {
            return;
        }
        n = min_u64(c->size - off, SCAN_RUN);
        mirror_copy_begin(c->m);
        struct transfer t = transfer_of(c, NULL);
        t.base = c->base;
        int what = transfer_kind(&t, off, &n);
        mirror_copy_end(c->m);
        if (what < 0) {
            /* Copying will meet the error again, and obey the policy. */
            n = min_u64(n, CHUNK);
        }
        if (what && !(what == TRANSFER_ZERO && c->target_is_zero)) {
            mirror_mark(c->m, off, n);
        }
        if (loop_now_ns() - slice > SCAN_SLICE_NS) {
            co_yield ();
            slice = loop_now_ns();
        }
    }
}
