/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The mirror filter: stands above a disk that is being copied. Requests go to n->file (the source); what they change
 * is either remembered as dirty, for the copy job to bring over, or written to the target too ("write-blocking").
 * The job (job/copy.c) does the copying, through the filter's own edges, which no drain gates.
 *
 * Laws:
 *  1. A granule whose bit is clear is alike on both sides, unless a request or a copy is under way there.
 *  2. background: the bit is set after the source has answered, whatever the answer, before the guest hears of it.
 *  3. write-blocking: requests and copies of one range follow each other (turns); bits of granules that a write
 *     covers whole are cleared before it starts; when either side fails, all that it touched is dirty again.
 *  4. Discards are always dirt: what a range reads as afterwards is the source's affair.
 *  5. A target that is alone, and gets the images below it later, has a granule as a whole or not at all: a part of one
 *     that it lacks is not written to it, but the granule is copied once the source has the part.
 * Loop thread.
 */
#pragma once

#include "base/bitmap.h"
#include "block/graph.h"
#include "block/io.h"
#include "block/turn.h"

struct mirror_hooks {
    void (*dirtied)(void *opaque);               /* something became dirty, or nothing is unseen; does not wait */
    void (*target_failed)(void *opaque, int rc); /* [co] a guest's write did not reach the target; it is dirty now. The
                                                    guest hears of its write after this returns */
    void *opaque;
};

struct mirror {
    struct node *node;
    struct edge *target;
    unsigned target_shared; /* PERM_*: what others may do with the target meanwhile */
    struct mirror_hooks hooks;
    struct bitmap *dirty;
    uint32_t granularity;
    bool write_blocking;
    bool durable; /* write-blocking, and flushes and FUA go to the target too */
    bool unmap;
    bool alone;
    bool detached;         /* passes requests through and does nothing else */
    unsigned flushing;     /* flushes and durable writes under way */
    struct co_queue quiet; /* woken when none is any more */
    unsigned unseen;       /* background requests that will be dirt when they end */
    uint64_t guest_ns;     /* when the guest last asked for something */
    GQueue turns;          /* struct turn */
};

struct mirror_options {
    const char *node_name; /* NULL: made up */
    const char *owner;     /* "mirror job 'j'" */
    uint32_t granularity;
    bool write_blocking, unmap;
    bool into_backing; /* the target is a layer below the source: what is written there is what the layers above hold */
    bool alone;        /* the target gets the images below it later; the granularity is no smaller than its clusters */
    struct mirror_hooks hooks;
};

/*
 * Puts a filter between `source` and all that use it (above pinned filters: chain.h), with `target` as its second
 * child; nothing is dirty. The caller gets a reference to the filter's node (m->node). [co]
 */
int mirror_insert(struct node *source, struct node *target, const struct mirror_options *o, struct mirror **out,
                  struct err *e);
/* Lets go of the target; requests just pass from now on. */
void mirror_detach(struct mirror *m);
struct node *mirror_source(const struct mirror *m);

void mirror_mark(struct mirror *m, uint64_t off, uint64_t len);
uint64_t mirror_dirty_bytes(const struct mirror *m);
/* The next dirty run at or after `*off`, at most max bytes (max ≥ granularity), whole granules but at the end. */
bool mirror_next(const struct mirror *m, uint64_t *off, uint64_t *len, uint64_t max);
/* The copy of this run (as mirror_next gave it) is about to start. */
void mirror_take(struct mirror *m, uint64_t off, uint64_t len);
/* Around one copy: drains of either side wait for it, also between its read and its write. */
void mirror_copy_begin(struct mirror *m);
void mirror_copy_end(struct mirror *m);
