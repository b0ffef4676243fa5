/* SPDX-License-Identifier: BSD-2-Clause */
/* What copy.c, copy_io.c and copy_switch.c share; nobody else includes this. */
#pragma once

#include "block/filter/mirror.h"
#include "job/copy.h"
#include "job/guard.h"

enum { COPY_MAX_BUFS = 16 };

struct copy_job {
    struct job job;
    /* configuration */
    enum copy_sync sync;
    enum job_on_error on_source_error, on_target_error;
    bool unmap, switches, stops, target_is_zero;
    bool impatient;              /* node_set_patience(), of the target */
    bool scanned;                /* what is left to copy is what the mirror has as dirty */
    struct dirty_bitmap *bitmap; /* of the source; NULL: none, or settled */
    enum copy_bitmap_mode bitmap_mode;
    bool commit, target_read_only, mask_protocol;
    uint64_t downtime_limit_ms;
    char *backing_file;
    char *commit_filename, *device, *image, *replaces;
    /* the graph; all NULL after clean */
    struct block_graph *graph;
    struct node *source, *target, *base; /* references */
    struct mirror *m;                    /* holds a reference to its node */
    struct edge *hold;                   /* on the filter: tells of drains */
    struct backend *backend;             /* may be gone: see guest_stats() */
    uint64_t size;
    /* buffers */
    uint8_t *arena;
    size_t buf_size;
    unsigned buf_count, bufs_free;
    uint8_t free_bufs[COPY_MAX_BUFS];
    /* progress */
    enum copy_stage stage;
    unsigned ops, passes;
    uint64_t op_bytes, cursor, retry_ns;
    uint64_t empty; /* bytes with nothing to copy that count as progress in the end */
    struct co_queue ops_idle;
    int rc; /* the error that ends the job */
    bool held, idle, should_complete, converging, synced;
    /* the switch */
    bool drained, pivoting, switched, commit_written, told, stop_copying; /* told: that it is switching */
    GArray *moved;       /* struct moved: what the switch moved to the target */
    GPtrArray *relinked; /* struct old_link *: what overlays' headers said before */
    uint64_t drain_ns, pause_ns;
    char live[NODE_NAME_MAX + 1];
    char *live_filename;
    uint32_t writes_before[32];
    char *kept;         /* a commit's: why what is below its images is kept as it is, for people; NULL: it is not */
    struct guard guard; /* of one in the middle of a chain; else all zero */
    struct err why;     /* the last round failed */
};

static inline struct copy_job *copy_of(struct job *j)
{
    return (struct copy_job *)j;
}

/* --- copy_io.c --- */
/* Whether a copy of `source` may take the place of the node of that name. */
int copy_check_replaces(struct node *source, struct node *target, const char *name, struct err *e);
int copy_bufs_create(struct copy_job *c, uint64_t bytes, struct err *e);
void copy_bufs_destroy(struct copy_job *c);
/* Marks what must be copied before anything is written. [co] */
void copy_scan(struct copy_job *c);
void copy_mark_bitmap(struct copy_job *c, const struct dirty_bitmap *from);
/* Starts copying the next dirty run at or after the cursor; false: there is none. [co] */
bool copy_dispatch(struct copy_job *c);
/* Whether one more may be under way: while the guest wants its disk, few and small ones are, because the kernel makes
 * the guest's buffered writes wait behind them. */
bool copy_may_dispatch(const struct copy_job *c);
/* Copies what is dirty, here and now, until nothing is or an error is final. [co] */
int copy_rest(struct copy_job *c);
void copy_wait_ops(struct copy_job *c);
/* A commit in the middle: whether there are snapshots inside of its images. */
bool copy_look(struct copy_job *c);
/* mirror_next(), of what may be copied. */
bool copy_next(const struct copy_job *c, uint64_t *off, uint64_t *len, uint64_t max);
/* Snapshots get what they need, so that what is dirty may be copied. [co] */
void copy_make_safe(struct copy_job *c);
/* The job's error, with the text that there is of it. */
int copy_error(struct copy_job *c, struct err *e);
int copy_flush_target(struct copy_job *c);
/* Applies the policy; an error that it reports ends the job. */
void copy_failed(struct copy_job *c, bool is_read, int rc);
static inline uint64_t copy_remaining(const struct copy_job *c)
{
    return mirror_dirty_bytes(c->m) + c->op_bytes;
}

/* --- copy_switch.c --- */
int copy_prepare(struct job *j, struct err *e);
void copy_commit(struct job *j);
void copy_abort(struct job *j);
void copy_clean(struct job *j);
void copy_set_stage(struct copy_job *c, enum copy_stage stage);
/* The guest's write did not reach the target. [co] */
void copy_target_failed(void *opaque, int rc);
