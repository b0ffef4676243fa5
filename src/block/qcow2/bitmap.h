/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Persistent dirty bitmaps in qcow2 images. They survive crashes.
 *
 * Source document: QEMU docs/interop/qcow2.txt, "Bitmaps extension" and "Bitmaps".
 *
 * LAYOUT
 *
 *     header extension 0x23852875   how many, 0, length and offset of the directory (24 bytes)
 *     directory    → per bitmap: table, its entries, flags, type, granularity, extra data, name; padded to 8 bytes
 *     table        → per cluster of bitmap data: its offset, or 0 (all clean) or 1 (all dirty)
 *     data           bit i of byte k stands for granule 8 k + i
 *
 * INVARIANTS, besides those in qcow2.h, at every instant a crash may come:
 *
 *  B1. In the file a usable bitmap has at least the granules that are dirty in memory, and those that requests under
 * way may be making dirty, stable before the data of such a request reaches the file. So a bitmap may claim too much
 *      after a crash, never too little, and is used on: by us, and by any program that knows bitmaps. For the same
 *      reason it is never said to be "in use" while we have the image open: what is stored is always true enough.
 *  B2. "In use" means: nobody keeps this one up any more. Others set it (they store bitmaps only when they close the
 *      image); we set it, before guest data changes, for an enabled bitmap that we cannot use (extra data), and when
 *      the marks of a bitmap can no longer be written. Such bitmaps are listed and kept until they are removed.
 *  B3. The directory is changed in place for "in use" alone. Whatever else changes (names, flags, tables and their
 *      sizes) goes into a new directory, stable before the header names it; what is no longer named is freed after.
 *  B4. Data is changed in place, so that each sector of it has what B1 asks. A table entry changes in place: from 0 to
 * 1 at any time, to an offset when the cluster's refcount and content are stable, to 0 before the cluster is freed.
 *
 * MARKS. Data is cut into units of 1024 granules (64 MiB of the disk with granules of 64 KiB). Before a write makes a
 * granule dirty its whole unit is marked, that is set in the file, by one write of a sector; where there is no
 * cluster for it, by a table entry of 1, which needs no space. One flush makes durable what many requests wait for.
 * Further writes to a marked unit cost nothing. Marks are narrowed to the exact bits when the guest flushes and the
 * unit has had no new dirt for some seconds, or its mark was a whole cluster; and of all units when the image is
 * closed.
 *
 *     exact ──bitmaps_intend──▶ wanted ──commit──▶ marking ──flush──▶ durable ──narrow──▶ exact
 *
 * A bitmap with more or fewer table entries than the disk's size asks for is what a crash during a resize leaves: it is
 * read as far as it goes, and made good when the image is closed.
 */
#pragma once

#include "block/dirty.h"
#include "block/qcow2/qcow2.h"

enum {
    BM_IN_USE = 1,
    BM_AUTO = 2,
    BM_EXTRA_COMPATIBLE = 4,
    BM_KNOWN = 7,
    BM_UNIT_WORDS = 16, /* of 64 granules */
    BM_UNIT_BYTES = BM_UNIT_WORDS * 8,
    BM_UNIT_GRANULES = BM_UNIT_WORDS * 64,
};
#define BM_MAX_PHYS   (UINT64_C(512) << 20) /* data of one bitmap, as QEMU */
#define BM_MAX_MEMORY (UINT64_C(1) << 30)   /* of all together */
#define BM_ALL_DIRTY  UINT64_C(1)           /* a table entry */
#define BME_OFFSET    UINT64_C(0x00fffffffffffe00)

/* An entry of the directory, and what is known of its data. */
struct q_bitmap {
    char *name;
    uint64_t table_off;
    uint32_t entries;
    uint64_t *table; /* as in the file, in host order; NULL for one that cannot be used */
    uint32_t flags;
    unsigned granularity_bits;
    uint8_t *extra;
    uint32_t extra_len;
    uint64_t flags_at;                                  /* where its flags are in the file */
    struct dirty_bitmap *b;                             /* borrowed: the node's */
    struct bitmap *wanted, *marking, *durable, *recent; /* units; recent: had new dirt since the last round */
    uint64_t stored;                                    /* b->changes when the file had exactly its bits */
};

/* --- bitmap.c: the directory --- */
struct q_bitmap *bitmap_of(const struct qcow2 *s, const struct dirty_bitmap *b); /* NULL: not in the image */
uint32_t bitmap_table_size(const struct qcow2 *s, uint64_t size, unsigned granularity_bits);
/*
 * [bm_lock] The header names a new directory of s->bitmaps as they are; the tables that it names are stable, or will be
 * with the flush that comes first. After an error the file has the old one, or the new one whole.
 */
int bitmaps_publish(struct qcow2 *s);
/* Reads the table of one that cannot be used, to free what it names. */
int bitmap_table_read(struct qcow2 *s, struct q_bitmap *q);
/* Entries [first, past) of the table. */
int bitmap_table_write(struct qcow2 *s, const struct q_bitmap *q, uint32_t first, uint32_t past);
/* It is no longer kept up: says so in the file. */
int bitmap_give_up(struct qcow2 *s, struct q_bitmap *q);

/* --- bitmap_data.c: bits --- */
int bitmap_data_load(struct qcow2 *s, struct q_bitmap *q, struct err *e);
/* (Re)makes the maps of units for the size of q->b. */
int bitmap_units_make(struct q_bitmap *q, uint64_t granules);
void bitmap_units_free(struct q_bitmap *q);
enum bitmap_narrow { NARROW_OLD, NARROW_ALL };
/* [bm_lock] The file gets the exact bits; NARROW_OLD: of units that are marked and have had no new dirt. After
 * NARROW_ALL comes a flush and bitmap_marking_ends(). */
int bitmap_narrow(struct qcow2 *s, struct q_bitmap *q, enum bitmap_narrow what);
/* [bm_lock] What was being marked is durable, or may not be in the file. */
void bitmap_marking_ends(const struct qcow2 *s, struct q_bitmap *q, bool durable);
