/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "copy-before-write": stands above a disk and keeps what it held at one instant, the moment when the filter was put
 * there. Before a write changes a granule for the first time, what it held is copied to the target. A backup job
 * (job/backup.h) copies the rest through the same function; "snapshot-access" reads the disk as it was.
 *
 * Laws:
 *  1. A granule whose bit in `todo` is set has not changed since that instant; one whose bit is clear and that is part
 *     of the snapshot is on the target as it was.
 *  2. Bits are cleared by the one that holds the turn of their range, after the target has the data. Who reads a
 *     granule from the disk because its bit is set holds the turn while it reads: a write to it waits.
 *  3. When a copy fails, either the write that it was for fails (break-guest-write), or the snapshot is broken for good
 *     and the write goes on (break-snapshot).
 * Loop thread.
 */
#pragma once

#include "base/bitmap.h"
#include "block/graph.h"
#include "block/io.h"

enum cbw_on_error { CBW_BREAK_GUEST_WRITE, CBW_BREAK_SNAPSHOT };

struct cbw {
    struct node *node;
    struct edge *target;
    struct bitmap *todo;
    struct bitmap *access; /* what is part of the snapshot; NULL: all of it */
    uint32_t granularity;  /* bytes, power of two */
    enum cbw_on_error on_error;
    uint64_t timeout_ns; /* how long a write of the guest waits for its copy; 0: as long as it takes */
    bool compress;
    bool by_host;    /* transfer.h */
    bool overlay;    /* the target reads from the disk what it does not have: it shows what was */
    bool alone;      /* the target gets the images below it later (block/transfer.h) */
    bool detached;   /* passes requests through and does nothing else */
    bool impatient;  /* node_set_patience(), of the target */
    int broken;      /* the error that broke the snapshot; 0: it is whole */
    GQueue turns;    /* struct turn */
    bool is_read;    /* whether it was the disk that the last failed copy could not read */
    uint64_t copied; /* bytes that writes of the guest had copied */
};

struct cbw_options {
    const char *node_name; /* NULL: made up */
    const char *owner;     /* "backup job 'j'" */
    uint32_t granularity;  /* 0: 64 KiB, or the target's cluster size when that is larger */
    enum cbw_on_error on_error;
    bool compress;
    bool by_host; /* the host's kernel copies where it can */
    bool alone;   /* the target gets the images below it later (block/transfer.h) */
};

/* Puts a filter between `source` and all that use it; everything is to be copied. The caller gets a reference to the
 * filter's node. Drains the source: the instant is when it returns. [co] */
int cbw_insert(struct node *source, struct node *target, const struct cbw_options *o, struct cbw **out, struct err *e);
/* Lets go of the target; requests just pass from now on. [co] */
void cbw_detach(struct cbw *c);
/* Nothing is copied any more: copies that wait for a connection end, and requests that wait for these go on. NULL is
 * fine. */
void cbw_give_up(struct cbw *c);
/* What of [off, off + len) is still to be copied is. [co] 0 or negative errno. */
int cbw_copy(struct cbw *c, uint64_t off, uint64_t len);
/* `n` is a snapshot-access node: what the granules that lie wholly in the range held is not part of the snapshot any
 * more, and its copy is given back. [co] */
int snapshot_access_forget(struct node *n, uint64_t off, uint64_t len);
bool node_is_snapshot_access(const struct node *n);
/* Granules that lie in the range wholly or in part need not be copied. */
void cbw_skip(struct cbw *c, uint64_t off, uint64_t len);
/*
 * What another one has kept, of the same disk on the same target, is kept now: `todo` as there, and of the snapshot is
 * `access` (NULL: all of it). Nobody writes meanwhile, or has since.
 */
int cbw_keep(struct cbw *c, const struct bitmap *todo, const struct bitmap *access, bool broken, struct err *e);
/* The next run at or after *off that is to be copied, at most `max` bytes; false: there is none. */
bool cbw_next(const struct cbw *c, uint64_t *off, uint64_t *len, uint64_t max);
uint64_t cbw_left(const struct cbw *c); /* bytes */
