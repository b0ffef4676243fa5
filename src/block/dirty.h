/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty bitmaps: which granules of a node were written since. The core marks every enabled bitmap of a node
 * before a write, zero or discard is acknowledged (and again if the request fails half way). Loop thread.
 *
 * A PERSISTENT bitmap is kept by the node's driver in its image. At every instant the image has at least the bits that
 * are set here and those that a request in flight is about to set: so no crash makes a bitmap claim too little. The
 * core asks the driver before each write that makes a granule dirty (bitmaps_intend); what changes bits otherwise ends
 * with dirty_bitmap_store().
 */
#pragma once

#include "base/bitmap.h"
#include "block/graph.h"

#define DIRTY_BITMAP_MAX_NAME 1023 /* bytes */

struct dirty_bitmap {
    struct node *node;
    char *name;           /* NULL: anonymous (a job's own) */
    uint32_t granularity; /* bytes, power of two, 512 … 2 GiB */
    bool enabled, busy, persistent;
    bool inconsistent; /* of the image; cannot be used, only removed. It has no bits then, whatever the node's size */
    uint64_t changes;  /* counted up as bits change */
    const struct bitmap_saved *held;
    struct bitmap *bits; /* one per granule */
};

/* granularity 0: 64 KiB or the cluster size if that is larger … as QEMU chooses. Starts clear and enabled. */
int dirty_bitmap_create(struct node *n, const char *name, uint32_t granularity, struct dirty_bitmap **out,
                        struct err *e);
/* For drivers: one that is in the image but cannot be used. */
int dirty_bitmap_create_inconsistent(struct node *n, const char *name, uint32_t granularity, struct dirty_bitmap **out,
                                     struct err *e);
void dirty_bitmap_destroy(struct dirty_bitmap *b); /* NULL is fine */
struct dirty_bitmap *dirty_bitmap_find(struct node *n, const char *name);
/* Byte ranges, widened to granules (set) or narrowed to whole granules (clear). */
void dirty_bitmap_set(struct dirty_bitmap *b, uint64_t off, uint64_t len);
void dirty_bitmap_clear(struct dirty_bitmap *b, uint64_t off, uint64_t len);
/* Next dirty run at or after *off below end: sets *off, *len (bytes, clipped to the node's size), at most `max` long.
 */
bool dirty_bitmap_next(struct dirty_bitmap *b, uint64_t *off, uint64_t *len, uint64_t end, uint64_t max);
uint64_t dirty_bitmap_bytes(const struct dirty_bitmap *b);
/* SHA-256 of the bits, in hexadecimal digits; g_free. */
char *dirty_bitmap_sha256(const struct dirty_bitmap *b);

/* --- what users ask for: QEMU's checks and texts; all that change something [co] ---------------------------------- */

enum { BITMAP_BUSY = 1, BITMAP_READ_ONLY = 2, BITMAP_INCONSISTENT = 4 };
#define BITMAP_CHANGE (BITMAP_BUSY | BITMAP_READ_ONLY | BITMAP_INCONSISTENT)
#define BITMAP_READ   (BITMAP_BUSY | BITMAP_INCONSISTENT)
/* An error when the bitmap is any of `against`. */
int dirty_bitmap_check(const struct dirty_bitmap *b, unsigned against, struct err *e);
/* By name; NULL with *e set. */
struct dirty_bitmap *dirty_bitmap_lookup(struct node *n, const char *name, struct err *e);

bool node_keeps_bitmaps(struct node *n); /* its image can have persistent bitmaps */

struct bitmap_spec {
    const char *name;
    bool has_granularity, persistent, disabled;
    uint32_t granularity;
};
/* A persistent one is in the image when this returns. `out` may be NULL. */
int node_bitmap_add(struct node *n, const struct bitmap_spec *spec, struct dirty_bitmap **out, struct err *e);
/* From the image too, then from memory. */
int node_bitmap_remove(struct dirty_bitmap *b, struct err *e);
int dirty_bitmap_enable(struct dirty_bitmap *b, bool on, struct err *e);
int dirty_bitmap_reset(struct dirty_bitmap *b, struct err *e); /* all clean */
/* dst |= src, whatever their granularities. The same size, of any node. */
int dirty_bitmap_merge(struct dirty_bitmap *dst, struct dirty_bitmap *src, struct err *e);
/* The image has the bits as they are; does nothing for one that is not persistent. */
int dirty_bitmap_store(struct dirty_bitmap *b, struct err *e);

/* --- changes that can be taken back ------------------------------------------------------------------------------- */

/*
 * Between dirty_bitmap_hold() and one of the two below, while the node is drained: what is changed is changed in
 * memory, but the image only gains: it has all that the bitmap was, as well as all that it is now. So whatever happens,
 * a crash too, it claims enough. Nests.
 */
struct bitmap_saved {
    struct bitmap *bits; /* private */
    bool enabled;
};
int dirty_bitmap_hold(struct dirty_bitmap *b, struct bitmap_saved *s, struct err *e);
void dirty_bitmap_keep(struct dirty_bitmap *b, struct bitmap_saved *s);     /* as it is now */
void dirty_bitmap_put_back(struct dirty_bitmap *b, struct bitmap_saved *s); /* as it was */
