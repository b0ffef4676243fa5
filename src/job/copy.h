/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy job: brings a disk over to another image while the guest uses it, and switches the guest to the copy.
 * One implementation of blockdev-mirror (copy, stay in step, switch when told) and block_copy (copy, switch by itself).
 *
 * The switch:
 *  1. From now on guest writes go to both images, flushes too; what is dirty is copied: nothing is left.
 *  2. The target is flushed: it now holds all that the guest has flushed, and all that it will flush.
 *  3. (block_copy) The commit file is written: whoever restarts the VM uses the target.
 *  4. The guest's requests are held back, those in flight end, its edge moves to the target, requests go on. This is
 *     the only time the guest stands still; it is measured and reported ("pause-ns", BLOCK_JOB_SWITCHED).
 * A failure at any step leaves the guest on the source, and removes the commit file before the guest hears of a write
 * that only the source has.
 */
#pragma once

#include "block/backend.h"
#include "block/dirty.h"
#include "job/job.h"

enum copy_sync { COPY_FULL, COPY_TOP, COPY_NONE, COPY_INCREMENTAL };
/* When the bitmap is set back: when all went well, never, in any case (what was not copied stays dirty then). */
enum copy_bitmap_mode { COPY_BITMAP_ON_SUCCESS, COPY_BITMAP_NEVER, COPY_BITMAP_ALWAYS };
enum copy_stage { COPY_BULK, COPY_BULK_FINISHED, COPY_DIRTY, COPY_SWITCHED };
extern const char *const copy_stage_names[]; /* "bulk", "bulk-finished", "dirty", "switched" */

struct copy_options {
    const char *job_id;
    struct node *source, *target; /* borrowed: the job takes references */
    struct backend *backend;      /* whose guest's latency is shown; may be NULL */
    enum copy_sync sync;
    struct dirty_bitmap *bitmap; /* COPY_INCREMENTAL: what to copy; busy meanwhile, and goes on gathering */
    enum copy_bitmap_mode bitmap_mode;
    bool target_is_zero; /* reads as zeroes all over */
    bool over_source;    /* the target, which has no backing image yet, gets the source as its */
    bool write_blocking, unmap;
    uint32_t granularity;       /* bytes, power of two 512 … 64 MiB; 0: chosen */
    uint64_t buf_size;          /* bytes of buffers; 0: 8 MiB; at most 16 MiB are used */
    uint64_t speed;             /* bytes per second; 0: no limit */
    struct job_limit *together; /* borrowed; NULL: none */
    enum job_on_error on_source_error, on_target_error;
    const char *replaces, *filter_node_name; /* may be NULL */
    struct job_txn *txn;                     /* may be NULL */
    unsigned flags;                          /* JOB_MANUAL_… */
    /* block-commit's: the target is a layer below the source and gets what those above it hold. Not ready-and-wait
     * with `switches`, for a source that nobody writes to: its overlay is moved to the target by itself. */
    bool commit;
    bool target_read_only;    /* it was, and will be again unless it becomes what the guest writes to */
    const char *backing_file; /* what the overlay's header shall say instead of the target's name; may be NULL */
    bool mask_protocol;       /* block/chain.h */
    /* block_copy's: */
    bool switches; /* by itself */
    bool stops;    /* the guest, at the switch */
    uint64_t downtime_limit_ms;
    const char *commit_filename; /* NULL: none */
    const char *device, *image;  /* what the commit file says */
};

struct copy_progress {
    enum copy_stage stage;
    uint64_t transferred, remaining, total;            /* bytes */
    uint64_t rate;                                     /* bytes per second; 0 unknown */
    uint64_t eta_ms, downtime_ms;                      /* UINT64_MAX unknown */
    uint64_t pause_ns;                                 /* measured at the switch; 0 before */
    uint64_t guest_writes, guest_p50_us, guest_p99_us; /* since the job began */
};

/* Checks and inserts the mirror filter. The caller starts the job (job_start), or discards it (job_discard). Loop
 * thread, [co]. The texts are QEMU's where it has the same error. */
int copy_create(struct jobs *js, const struct copy_options *o, struct job **out, struct err *e);
/* `j` was made by copy_create (also when it is over, while somebody holds a reference). */
void copy_get_progress(struct job *j, struct copy_progress *out);
bool copy_has_switched(const struct job *j);
