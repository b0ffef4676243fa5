/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The backup job: copies what a disk holds at one instant, the moment when the job is made, to a target while the guest
 * goes on writing. A copy-before-write filter (block/filter/copy_before_write.h) saves what the guest is about to
 * overwrite; the job copies the rest in order. It ends by itself.
 *
 * Dirty bitmaps. The bitmap that says what to copy is busy meanwhile and goes on gathering what the guest writes, so
 * that it never claims too little, whatever happens; what has been written since the instant is kept apart besides. In
 * the end the bitmap becomes just that, if the mode says so.
 */
#pragma once

#include "block/dirty.h"
#include "block/filter/copy_before_write.h"
#include "job/job.h"

enum backup_sync { BACKUP_TOP, BACKUP_FULL, BACKUP_NONE, BACKUP_INCREMENTAL, BACKUP_BITMAP };
/* When the bitmap is set back: when all went well, never, in any case (what was not copied stays dirty then). */
enum backup_bitmap_mode { BACKUP_ON_SUCCESS, BACKUP_NEVER, BACKUP_ALWAYS };

struct backup_options {
    const char *job_id;
    struct node *source, *target; /* borrowed */
    enum backup_sync sync;
    struct dirty_bitmap *bitmap; /* of the source; NULL: none */
    enum backup_bitmap_mode bitmap_mode;
    bool compress;
    bool by_host;        /* the host's kernel copies where it can */
    bool discard_source; /* which is a snapshot-access node: what has been copied need not be kept there */
    uint64_t speed;      /* bytes per second; 0: no limit */
    unsigned workers;    /* copies under way at a time; 0: chosen */
    uint64_t max_chunk;  /* bytes of one copy; 0: chosen */
    enum job_on_error on_source_error, on_target_error;
    enum cbw_on_error on_cbw_error;
    const char *filter_node_name; /* may be NULL */
    struct job_txn *txn;          /* may be NULL */
    unsigned flags;               /* JOB_MANUAL_… */
};

/* Checks and inserts the filter: the instant is when it returns. The caller starts the job (job_start), or discards it
 * (job_discard). Texts are QEMU's. [co] */
int backup_create(struct jobs *js, const struct backup_options *o, struct job **out, struct err *e);
