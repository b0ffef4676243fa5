/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A protocol node whose file is memory, and which can keep a log of everything that reaches it, so that any crash can
 * be replayed: what was flushed is there, of the rest any part.
 */
#pragma once

#include "block/driver.h"

/* MEM_FLUSHED: a flush has ended; `off` is the length that the log had when it began: what lies before is on the disk.
 */
enum mem_kind { MEM_WRITE, MEM_SIZE, MEM_FLUSHED };

struct mem_op {
    enum mem_kind kind;
    uint64_t off, len; /* MEM_SIZE: len is the size */
    uint8_t *data;     /* NULL: zeroes */
    unsigned at;       /* by the disk's clock, if it has one */
};

enum { FAIL_READ = 1, FAIL_WRITE = 2, FAIL_FLUSH = 4, FAIL_GROW = 8 };

struct memdisk {
    uint8_t *data;
    uint64_t size, max; /* max: a longer file is refused */
    GArray *log;        /* struct mem_op; NULL: not kept */
    unsigned delay;     /* every so many requests wait a turn of the loop, so that others overtake */
    unsigned requests;
    unsigned slow_flush; /* turns of the loop that a flush takes besides */
    unsigned fail_in;    /* the so manieth request of fail_kinds from now fails; 0: none */
    unsigned fail_kinds; /* FAIL_*; 0: writes and flushes */
    int fail_rc;         /* 0: -EIO */
    bool fail_on;        /* and all that come after it */
    unsigned failed;     /* how many did */
    unsigned *clock;     /* counts entries, of all logs that share it; NULL: none */
};

void memdisk_finish(struct memdisk *d);
/* A node named `name` over d, which must outlive it; the caller has a reference. */
struct node *memdisk_open(struct block_graph *g, struct memdisk *d, const char *name);
void memdisk_log_start(struct memdisk *d);
/* `to` (empty) becomes `from`, which held the state when the log began, after a crash behind the first n entries. */
void memdisk_crash(struct memdisk *to, const struct memdisk *from, const GArray *log, unsigned n, uint64_t *seed);
