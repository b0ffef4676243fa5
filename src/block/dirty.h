/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty bitmaps: which granules of a node were written since. The core marks every enabled bitmap of a node
 * before a write, zero or discard is acknowledged (and again if the request fails half way). Loop thread.
 */
#pragma once

#include "base/bitmap.h"
#include "block/graph.h"

struct dirty_bitmap {
    struct node *node;
    char *name;           /* NULL: anonymous (a job's own) */
    uint32_t granularity; /* bytes, power of two, 512 … 2 GiB */
    bool enabled, busy, persistent, inconsistent;
    struct bitmap *bits; /* one per granule */
};

/* granularity 0: 64 KiB or the cluster size if that is larger … as QEMU chooses. Starts clear and enabled. */
int dirty_bitmap_create(struct node *n, const char *name, uint32_t granularity, struct dirty_bitmap **out,
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
