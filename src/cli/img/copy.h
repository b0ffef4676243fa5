/* SPDX-License-Identifier: BSD-2-Clause */
/* Copying the contents of disks into another: what convert does once its arguments are understood. */
#pragma once

#include "cli/img/img.h"

#define COPY_MAX_WORKERS 16
#define COPY_BUF_SIZE    (2u << 20)

struct copy {
    /* Set by the caller. The sources are laid end to end. */
    struct tool *img;
    struct img_disk *src;
    unsigned nsrc;
    struct img_disk *dst;
    uint32_t sparse; /* bytes of zeroes that are worth a hole; 0: write everything */
    uint64_t rate;   /* bytes per second; 0: no limit */
    unsigned workers;
    bool compressed;
    bool offload;    /* the host's kernel copies data where it can, and may let both files share it; no -S then */
    bool any_order;  /* writes need not start in the order of offsets */
    bool salvage;    /* what cannot be read becomes zeroes, with a warning */
    bool is_commit;  /* errors in the words of commit */
    bool reads_zero; /* what is not written to the target reads as zeroes */
    /* > 0: what only layers from this one on have (0 = the sources themselves) is not copied, below backing_size. */
    int backing_depth;
    uint64_t backing_size;
    struct img_progress *progress;

    /* The engine's own. */
    uint64_t *start; /* where each source begins; [nsrc] = the end */
    uint64_t size, next, turn, total_data, done_data, began_ns, passed;
    uint32_t cluster; /* unit of compressed writes */
    uint32_t unit;    /* of what the host copies */
    struct co_mutex cursor;
    struct co_queue turns;
    unsigned cur;     /* source of `next` */
    uint64_t ext_end; /* the extent around `next` */
    int ext_kind;
    int rc;                    /* the first error; printed */
    unsigned running, refused; /* refused: chunks in a row that the host would not copy */
    struct co *waiter;
};

/* Copies everything; 0, or negative errno after a message. The caller flushes. [co] */
int copy_run(struct copy *c);
/* Sum of the sources' sizes. */
uint64_t copy_size(const struct copy *c);
