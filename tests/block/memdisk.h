/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A protocol node whose file is memory, and which can keep a log of everything that reaches it, so that any crash can
 * be replayed: what was flushed is there, of the rest any part. Disks of one image keep one log, so that their order is
 * known.
 */
#pragma once

#include "block/driver.h"

/* MEM_FLUSHED: a flush has ended; `off` is the length that the log had when it began: what lies before it and is of the
 * same disk is there to stay. */
enum mem_kind { MEM_WRITE, MEM_SIZE, MEM_FLUSHED };

struct mem_op {
    enum mem_kind kind;
    unsigned disk;     /* of those that share the log; 0 is whose log it was first */
    uint64_t off, len; /* MEM_SIZE: len is the size */
    uint8_t *data;     /* NULL: zeroes */
};

enum { FAIL_READ = 1, FAIL_WRITE = 2, FAIL_FLUSH = 4, FAIL_GROW = 8 };

struct memdisk {
    uint8_t *data;
    uint64_t size, max; /* max: a longer file is refused */
    uint64_t room;      /* bytes of `data` besides the first; 0: as many as the size */
    GArray *log;        /* struct mem_op; NULL: not kept */
    unsigned number;    /* among those that share the log */
    unsigned delay;     /* every so many requests wait a turn of the loop, so that others overtake */
    unsigned requests;
    unsigned slow_flush;        /* turns of the loop that a flush takes besides */
    unsigned fail_in;           /* the so manieth request of fail_kinds from now fails; 0: none */
    unsigned fail_kinds;        /* FAIL_*; 0: writes and flushes */
    int fail_rc;                /* 0: -EIO */
    bool fail_on;               /* and all that come after it */
    unsigned failed;            /* how many did */
    struct memdisk *fails_with; /* whose faults these are; NULL: its own */
};

void memdisk_finish(struct memdisk *d);
/* A node named `name` over d, which must outlive it; the caller has a reference. */
struct node *memdisk_open(struct block_graph *g, struct memdisk *d, const char *name);
void memdisk_log_start(struct memdisk *d);
/* d's requests go to with's log, which has begun, as those of disk `number`. */
void memdisk_log_share(struct memdisk *d, const struct memdisk *with, unsigned number);
/* Bytes that come are zeroes. For whoever replays a log. */
void memdisk_resize(struct memdisk *d, uint64_t size);
/* `to` (empty, or one to be used again) becomes as `from`, without a log. */
void memdisk_copy(struct memdisk *to, const struct memdisk *from);
/* `to` (empty) becomes `from`, which held the state when the log began, after a crash behind the first n entries. */
void memdisk_crash(struct memdisk *to, const struct memdisk *from, const GArray *log, unsigned n, uint64_t *seed);
