/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The qcow2 image format, versions 2 and 3.
 *
 * Source document: QEMU docs/interop/qcow2.txt.
 *
 * LAYOUT. Everything is big-endian and counted in clusters of 2^cluster_bits bytes (512 B … 2 MiB).
 *
 *     cluster 0        header, header extensions, backing file name
 *     refcount table   → refcount blocks → one counter per cluster of the file
 *     L1 table         → L2 tables       → one entry per guest cluster → data cluster (or compressed bytes)
 *     snapshot table   → L1 tables of snapshots
 *     bitmap directory → bitmap tables → bits (bitmap.h)
 *
 * INVARIANTS of the file, at every instant a crash may come:
 *
 *  1. Whatever is reachable from the header (tables, blocks, data) has a refcount ≥ the number of references,
 *     unless the dirty bit is set. So a crash may only leak.
 *  2. A cluster that an L2 entry names holds the data the entry was made for: guest data and what was copied
 *     around it are stable before the entry is written.
 *  3. A table is stable before the pointer to it (L1 entry, refcount table entry, header field) is written.
 *  4. A cluster is not used again before the loss of its last reference is stable and whoever was reading
 *     or writing it has finished.
 *  5. A cluster whose L2 (L1) entry has the COPIED flag has refcount one and belongs to the active table alone.
 *  6. A header field is written by itself, in one sector, after all that it names is stable. The list of extensions
 *     and the name of the backing file are those of before, or of after, a change (header.c).
 *
 * In memory everything is changed at once (tables are caches with write-back, L1 and refcount table are arrays
 * with a map of changed entries); the order above is kept by one function, qcow2_writeback(), which
 * takes a picture of all that is dirty and writes it so:
 *
 *     refcount blocks; new L2 tables, which nothing on disk names yet
 *     flush                                   (also makes guest data stable)
 *     refcount table, flush                   only when it got new entries; a moved table: header, flush
 *     L2 tables in use; L1 entries
 *     flush
 *     clusters that lost their last reference become free (refcount blocks dirty again: written next time)
 *
 * Snapshots change many counters and COPIED flags together, and these must agree at any instant (5). So nothing that is
 * in use is changed: what is to change is written elsewhere and named all at once (switch.c):
 *
 *     whatever is dirty, flush                                          (the image is as its tables say)
 *     L2 tables with other flags, the L1 table, the snapshot table; refcount blocks with other counters and a refcount
 *         table that names them: all in free clusters, counted in the new blocks alone
 *     flush
 *     bytes 24 … 71 of the header: size, L1 table, refcount table, snapshot table
 *     flush
 *     clusters that lost their last reference (discarded in the file below) may be allocated
 *
 *     what        becomes active                            who else is counted          given up
 *     create      a new L1 table, L2 tables without flags   the snapshot: the old L1     –
 *     apply       a copy of the snapshot's L1, likewise     the snapshot                 what was active
 *     delete      a new L1 table, L2 tables with flags      –                            the snapshot's L1
 *     expand      likewise                                  snapshots: copies of L1 and  their tables of before
 *                 (version.c)                               L2 without zero clusters
 *
 *     begin       as create                                 what finish will name      –
 *     finish      –                                         the snapshot: a new L1     the L1 of begin
 *     cancel      a new L1 table, L2 tables with flags      –                            the L1 of begin
 *
 * A snapshot with the machine's state is made in two switches (state.c): begin, at its instant, adds nothing to the
 * snapshot table; while the guest goes on in the active image the state is written into clusters and L2 tables that
 * nothing names; when all is stable, finish names an L1 table with the entries of the old one and those of the state,
 * and the state's size, in one new snapshot table. So it is whole or absent. A crash in between leaks what begin
 * counted; the dirty bit is set before begin and cleared behind finish or cancel, so that whoever opens a version 3
 * image next gives that back. Before all that, clusters are taken, and given space in the file below, that cancel will
 * need: the state is written to them first, so that they are free again when it is given up for want of space.
 *
 * A snapshot's own L2 tables keep flags that mean nothing any more; no one looks at them there. An L2 table without
 * flags is shared, not copied. The VM state goes with the L1 table: the active image has it after apply only, and
 * loses it when its size changes or another snapshot is made. When nothing in use is counted differently (no L2 table
 * takes part), refcount blocks stay where they are and the counters of new clusters precede as always.
 *
 * The width of refcounts changes likewise (width.c): all blocks and the table are written elsewhere, in free clusters
 * that they alone count, and one write of the header's first sector names them and says the width. The version changes
 * by such a write too, once nothing is left that the other one cannot say (version.c).
 *
 * So a guest flush costs one flush when only data in place was written, two after allocations. Increments of
 * refcounts precede, decrements follow: there is one direction of dependency and no cycle.
 *
 * A table that changes while its picture is being written gets a buffer of its own first (table_modify).
 *
 * STATES of a guest cluster, and who moves it on:
 *
 *     unallocated ──plan_new──▶ in flight ──qcow2_link──▶ data ──qcow2_discard──▶ zero / unallocated
 *     zero ─────────────────────────▲                      │ ▲
 *     compressed ───────────────────┘                      └─┘ written in place when COPIED
 *
 * While in flight nobody else may touch the cluster's L2 entry: others wait (struct q_flight).
 *
 * CONCURRENCY. Loop thread only; coroutines switch just where they wait. Lookups take no lock. `lock` is held while
 * clusters are being allocated (metadata reads only, never data I/O), `wb_lock` by the one that writes back.
 */
#pragma once

#include "base/bitmap.h"
#include "base/endian.h"
#include "block/driver.h"
#include "block/luks/luks.h"

#define QCOW2_MAGIC              0x514649fbu
#define QCOW2_V2_HEADER          72
#define QCOW2_V3_HEADER          104
#define QCOW2_MIN_BITS           9
#define QCOW2_MAX_BITS           21
#define QCOW2_MAX_L1             (32u << 20)
#define QCOW2_MAX_REFTABLE       (8u << 20)
#define QCOW2_MAX_SNAPSHOTS      65536
#define QCOW2_MAX_SNAPSHOT_TABLE (64u << 20)
#define QCOW2_MAX_SNAPSHOT_EXTRA 1024
#define QCOW2_MAX_BITMAPS        65535
#define QCOW2_MAX_BITMAP_DIR     (QCOW2_MAX_BITMAPS * 1024u)
#define QCOW2_MAX_HOST           (UINT64_C(1) << 56)
#define QCOW2_MAX_CRYPT_HEADER   (16u << 20)

#define L1E_OFFSET               UINT64_C(0x00fffffffffffe00)
#define L2E_OFFSET               UINT64_C(0x00fffffffffffe00)
#define RT_OFFSET                UINT64_C(0xfffffffffffffe00)
#define E_COPIED                 (UINT64_C(1) << 63)
#define E_COMPRESSED             (UINT64_C(1) << 62)
#define E_ZERO                   UINT64_C(1)
#define L1E_RESERVED             UINT64_C(0x7f000000000001ff)
#define BITMAP_ALL_ZERO          UINT64_C(0xffffffff00000000)

enum { INC_DIRTY = 1, INC_CORRUPT = 2, INC_DATA_FILE = 4, INC_COMPRESSION = 8, INC_EXTL2 = 16, INC_KNOWN = 31 };
enum { COMPAT_LAZY = 1 };
/* Ours, and safe to ignore: who opens the image for a guest should copy on read (docs/supported.md). */
#define COMPAT_COPY_ON_READ (UINT64_C(1) << 63)
enum { AUTOCLEAR_BITMAPS = 1, AUTOCLEAR_RAW = 2, AUTOCLEAR_KNOWN = 3 };
enum { COMPRESS_ZLIB = 0, COMPRESS_ZSTD = 1 };
enum { CRYPT_NONE = 0, CRYPT_AES = 1, CRYPT_LUKS = 2 };

enum {
    EXT_END = 0,
    EXT_BACKING_FORMAT = 0xe2792aca,
    EXT_FEATURES = 0x6803f857,
    EXT_BITMAPS = 0x23852875,
    EXT_CRYPTO = 0x0537be77,
    EXT_DATA_FILE = 0x44415441,
    EXT_GAP = 0x67617073, /* ours: nothing; for a moment, while the list moves (header.c) */
};

/* The header as it is in the file. */
struct q_header {
    uint32_t version, cluster_bits, crypt_method, l1_size, reftable_clusters, nb_snapshots, refcount_order, length;
    uint64_t backing_offset, size, l1_offset, reftable_offset, snapshots_offset;
    uint32_t backing_size;
    uint64_t incompat, compat, autoclear;
    uint8_t compression;
};

/* A header extension that we do not interpret is kept as it is. */
struct q_ext {
    uint32_t type, len;
    uint8_t *data;
};

/* --- table cache (cache.c) ---------------------------------------------------------------------------------- */

struct q_buf { /* a table's content; several hold it while its picture is being written */
    unsigned refs;
    uint8_t *data;
};

struct q_table {
    uint64_t offset;   /* in the file; the key */
    uint32_t l1_index; /* L2 slices: whose */
    bool dirty, loading, gone;
    unsigned refs; /* those that wait for it to be loaded */
    int rc;        /* of loading */
    uint64_t used; /* tick of the last use, for cache-clean-interval */
    struct q_buf *buf;
    struct co_queue waiters;
    GList link; /* in clean (most recently used first) or dirty */
};

struct q_cache {
    struct edge *file;
    uint32_t table_size;
    uint32_t max;           /* tables; dirty ones may exceed it for a moment */
    const char *load_event; /* block/debug.h */
    GHashTable *tables;     /* offset → struct q_table */
    GQueue clean, dirty;
    uint64_t tick;
};

void cache_init(struct q_cache *c, struct edge *file, uint32_t table_size, uint32_t max, const char *load_event);
void cache_finish(struct q_cache *c);
/* The table at `offset`, read if need be. Valid until the caller waits next. [co] */
int cache_get(struct q_cache *c, uint64_t offset, struct q_table **out);
bool cache_has(struct q_cache *c, uint64_t offset);
/* A table of zeroes that is not read from the file; dirty. -ENOMEM. */
int cache_new(struct q_cache *c, uint64_t offset, struct q_table **out);
/* The content, to be changed: now dirty. NULL when memory is short. */
uint8_t *table_modify(struct q_cache *c, struct q_table *t);
/* Forgets whatever lies in the range, dirty or not. */
void cache_drop(struct q_cache *c, uint64_t offset, uint64_t len);
void cache_reset(struct q_cache *c);       /* forgets everything */
void cache_drop_unused(struct q_cache *c); /* clean ones not used since the last call */
struct q_buf *buf_ref(struct q_buf *b);
void buf_unref(struct q_buf *b);

/* --- image ---------------------------------------------------------------------------------------------------- */

enum {
    FREE_NEVER,
    FREE_REQUEST,
    FREE_SNAPSHOT,
    FREE_OTHER,
    FREE_KINDS
}; /* why: decides whether the file gets a discard */

struct q_free {
    uint64_t offset, len; /* bytes in the file; each cluster they touch loses one reference */
    int kind;
    uint64_t seq; /* operations older than this may still use it */
};

/* Guest clusters whose L2 entries nobody else may change: new data is on its way to disk. */
struct q_flight {
    uint64_t first, count;
    struct co_queue done;
    GList link;
};

/* A read or a write in place; kept so that what it uses is not given to others. */
struct q_op {
    uint64_t seq;
    GList link;
};

enum {
    META_HEADER = 1,
    META_L1 = 2,
    META_L2 = 4,
    META_REFTABLE = 8,
    META_REFBLOCK = 16,
    META_SNAPSHOTS = 32,
    META_INACTIVE_L1 = 64,
    META_INACTIVE_L2 = 128,
    META_BITMAPS = 256
};

struct qcow2 {
    struct node *n;
    struct edge *file, *data; /* the same unless there is an external data file */
    struct q_header h;
    GArray *exts;        /* struct q_ext, unknown ones and the feature table */
    GBytes *header_tail; /* header bytes beyond those we know */
    char *data_filename;

    unsigned cluster_bits, l2_bits, l2e_size, rb_bits,
        sc_bits; /* entries per L2 table, per refcount block; subcluster */
    uint64_t cluster_size;
    bool extl2, has_data_file, data_raw, lazy, corrupt, corrupt_reported, discard[FREE_KINDS];
    bool discard_no_unref;
    bool settling, grown, no_ahead, for_check;
    unsigned overlap;    /* META_* that writes are checked against */
    GString *check_text; /* while a check runs: where it tells what it finds */

    uint64_t *l1; /* host order; h.l1_size entries */
    struct bitmap *l1_dirty;
    uint64_t *reftable;
    uint32_t rt_size; /* entries in memory */
    struct bitmap *rt_dirty;
    uint64_t rt_offset;
    bool rt_moved;       /* the header does not name rt_offset yet */
    struct bitmap *fork; /* during a switch (snapshots.h): regions whose blocks are its own copies */

    struct q_cache l2, rb;
    unsigned slice_bits; /* entries per L2 slice */
    GHashTable *meta;    /* cluster → META_* ; NULL until opened for writing */

    struct co_mutex lock, wb_lock, grow_lock, vm_lock;
    uint64_t free_hint; /* searching for free clusters begins here */
    uint64_t free_byte; /* next byte for compressed data; 0 none */
    uint64_t file_high; /* what lies beyond was never written and reads as zeroes */
    bool unsure;        /* the header may be another than h */
    bool unsure_all;    /* also in what header_switch() does not write; unsure is set too */
    bool unstable;      /* something was linked whose data or refcounts may not be stable */
    GQueue freed;       /* struct q_free *, until references are gone for good */
    GList *freed_taken; /* the last one that a write-back under way has in its picture */
    uint64_t freed_bytes;
    GQueue flights, ops;
    uint64_t next_seq;

    GPtrArray *snapshots;   /* struct q_snap * (snapshots.h) */
    GQueue states;          /* struct q_state * (state.c) */
    unsigned making;        /* snapshots that are taken and named by nothing yet; lost ones too */
    uint64_t snapshots_len; /* bytes of their table */
    bool snapshots_unread;  /* opened for a check that has not looked at them yet */
    GPtrArray *bitmaps;     /* struct q_bitmap *, in the directory's order */
    uint64_t bitmap_dir, bitmap_dir_len;
    uint32_t n_bitmaps;      /* as the header has it */
    struct co_mutex bm_lock; /* before `lock`; whoever changes bitmaps in the file */
    bool bitmaps_foreign;    /* one must be marked as in use before guest data changes */
    bool bitmaps_unsure;     /* which directory the header names */
    bool bitmaps_odd;        /* a table does not have the disk's size */
    bool bitmaps_coarse;     /* a whole cluster of bits was marked by its table entry */
    uint64_t bitmaps_round_ns;
    struct q_crypt *crypt;         /* crypt.c; NULL: not encrypted */
    uint64_t crypt_off, crypt_len; /* of the LUKS header */
    GQueue zstd_idle;              /* ZSTD_CCtx *: as many as were ever at work at a time */
    struct timer clean_timer;
    uint64_t clean_interval; /* ns */
};

static inline uint64_t q_clusters(const struct qcow2 *s, uint64_t bytes)
{
    return (bytes >> s->cluster_bits) + ((bytes & (s->cluster_size - 1)) != 0);
}

/* --- header.c --- */
/* Checks every field against the limits; buf holds the first `len` bytes of the file. */
int header_parse(struct q_header *h, const uint8_t *buf, size_t len, struct err *e);
int header_read_exts(struct qcow2 *s, const uint8_t *cluster, size_t len, struct err *e);
/*
 * Writes the first cluster anew from what is in memory, durably: a crash leaves what it said before or all of it. After
 * a failure it may say either (s->unsure_all): once the caller has put back what is in memory, it is written again
 * before anything else is. header_rewrite(): with wb_lock held, by whoever knows that nobody moves a table. [co]
 */
int header_write(struct qcow2 *s);
int header_rewrite(struct qcow2 *s);
/* Single fields, in place. */
int header_put64(struct qcow2 *s, unsigned at, uint64_t value);
int header_put32(struct qcow2 *s, unsigned at, uint32_t value);
int header_set_incompat(struct qcow2 *s, uint64_t value); /* and flushes */
/* [lock] Size, L1 table, refcount table and snapshot table at once, durably; nothing of it waits to be written back.
 * *written: it may have failed behind the write. After a failure s->unsure is set, and before anything else is written
 * the header becomes s->h. */
int header_switch(struct qcow2 *s, const struct q_header *h, bool *written);
/* The bytes of the first cluster; at most `size`. Returns the length or -ENOSPC. */
int64_t header_encode(const struct qcow2 *s, uint8_t *buf, size_t size);
char *header_unknown_features(const struct qcow2 *s, uint64_t unknown); /* "name, Unknown incompatible feature: 20" */

/* --- bitmap.c, bitmap_data.c: persistent dirty bitmaps (bitmap.h) --- */
GPtrArray *bitmaps_new(void);
/* The header extension; what it names is loaded when the node has its size. */
int bitmaps_read_ext(struct qcow2 *s, const uint8_t *x, uint32_t len, struct err *e);
int bitmaps_load(struct qcow2 *s, struct err *e);
void bitmaps_forget(struct qcow2 *s);
/* Before the first change to guest data: those that we cannot keep up. [co] */
int bitmaps_mark_foreign(struct qcow2 *s);
/* At a flush, before the write-back: marks that are not needed any more become exact bits. [co] */
void bitmaps_round(struct qcow2 *s);
/* What the persistent bitmaps of `source` take in an image with clusters of that size: bytes. */
uint64_t bitmaps_measure(struct node *source, uint64_t cluster_size);
int bitmaps_can_resize(struct qcow2 *s, uint64_t size, struct err *e);
/* Tables for a disk of `size`: before it grows, after it has shrunk. [co] */
int bitmaps_resize(struct qcow2 *s, uint64_t size);
/* The image has none afterwards. [co] */
int bitmaps_drop_all(struct qcow2 *s);
struct json_object *bitmaps_info(const struct qcow2 *s);
/* Calls fn for each range that bitmaps occupy: directory, tables, data. *broken: tables that cannot be read. */
typedef int bitmap_range_fn(void *opaque, uint64_t off, uint64_t len);
int bitmaps_walk(struct qcow2 *s, bitmap_range_fn *fn, void *opaque, unsigned *broken);
void bitmaps_meta(struct qcow2 *s); /* adds directory and tables to s->meta */
int qcow2_bitmap_can_store(struct node *n, const char *name, uint32_t granularity, struct err *e);
int qcow2_bitmap_store(struct node *n, struct dirty_bitmap *b, bool enabled, struct err *e);
int qcow2_bitmap_remove(struct node *n, struct dirty_bitmap *b, struct err *e);
int qcow2_bitmaps_store(struct node *n, struct err *e);
int qcow2_bitmaps_intend(struct node *n, uint64_t off, uint64_t len);

/* --- meta.c --- */
int meta_build(struct qcow2 *s);
void meta_add(struct qcow2 *s, uint64_t off, uint64_t len, unsigned kind);
void meta_remove(struct qcow2 *s, uint64_t off, uint64_t len, unsigned kind);
/* 0, or -EIO after marking the image corrupt: something else than `mine` lies there. [co] */
int meta_check(struct qcow2 *s, uint64_t off, uint64_t len, unsigned mine);
/* Says so, emits BLOCK_IMAGE_CORRUPTED; fatal: sets the corrupt bit and takes the medium away. Returns -EIO. [co] */
int qcow2_corrupt(struct qcow2 *s, bool fatal, int64_t off, int64_t len, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* --- refcount.c; those marked [lock] want s->lock --- */
uint64_t refcount_load(const struct qcow2 *s, const uint8_t *block, uint64_t index);
void refcount_store(const struct qcow2 *s, uint8_t *block, uint64_t index, uint64_t value);
uint64_t refcount_max(const struct qcow2 *s);
int refcount_get(struct qcow2 *s, uint64_t cluster, uint64_t *out);
/* The first n free clusters in a row, from s->free_hint on; nothing is taken. */
int clusters_find(struct qcow2 *s, uint64_t n, uint64_t *first);
/* [lock] n clusters in a row, refcount one. */
int clusters_alloc(struct qcow2 *s, uint64_t n, uint64_t *offset);
/* [lock] `len` bytes for compressed data. */
int bytes_alloc(struct qcow2 *s, uint32_t len, uint64_t *offset);
/* Gives back at once what never was referenced on disk. */
int clusters_free_now(struct qcow2 *s, uint64_t off, uint64_t len);
/* Gives back when the loss of the reference is stable. */
void clusters_free_later(struct qcow2 *s, uint64_t off, uint64_t len, int kind);
/* Refcount blocks that count nothing are given back; with s->lock. [co] */
int blocks_drop_empty(struct qcow2 *s);
int refcount_set(struct qcow2 *s, uint64_t cluster, uint64_t value); /* check: an existing block's counter */

/* [lock] Many counters, one near the other: the block is looked for when another begins. To be forgotten
 * (COUNTER_NONE) whenever clusters were allocated or anything else was waited for. */
struct q_counter {
    uint64_t region;
    const uint8_t *seen; /* NULL: there is no block */
    uint8_t *own;        /* it may be changed */
};
#define COUNTER_NONE ((struct q_counter){.region = UINT64_MAX})
int counter_get(struct qcow2 *s, struct q_counter *c, uint64_t cluster, uint64_t *out);
int counter_put(struct qcow2 *s, struct q_counter *c, uint64_t cluster, uint64_t value); /* -ENOENT: no block */

/* --- writeback.c --- */
/* Writes all that is dirty, in order; `durable`: and is on stable storage afterwards. [co] */
int qcow2_writeback(struct qcow2 *s, bool durable);
/* Refcount blocks only, without order: for a fork, whose blocks nothing names yet. */
int blocks_write(struct qcow2 *s);
/* Before an operation that dirties: writes back when too much is dirty or waits to be freed. [co] */
int qcow2_make_room(struct qcow2 *s);
int qcow2_relieve(struct qcow2 *s); /* the same for who holds s->lock or changes no guest data */
/* Everything, refcounts of lazy images too; the dirty bit is cleared. [co] */
int qcow2_settle(struct qcow2 *s);
int qcow2_barrier(struct qcow2 *s); /* flush of file and data file */
/* Refcounts too, of lazy images as well: what was allocated may be named now. [co] */
int qcow2_refs_stable(struct qcow2 *s);

/* --- map.c --- */
enum { Q_UNALLOC, Q_UNALLOC_HOST, Q_ZERO, Q_ZERO_HOST, Q_NORMAL, Q_COMPRESSED, Q_INVALID };

struct q_entry {
    uint64_t e, bitmap; /* as stored; bitmap 0 without extended entries */
};
struct q_run {
    int type;
    uint64_t len;  /* bytes from the asked offset, ≥ 1 */
    uint64_t host; /* of the asked offset; compressed: the entry */
};
static inline struct q_entry entry_load(const struct qcow2 *s, const uint8_t *slice, unsigned i)
{
    const uint8_t *p = slice + (size_t)i * s->l2e_size;
    return (struct q_entry){load_be64(p), s->extl2 ? load_be64(p + 8) : 0};
}

static inline void entry_store(const struct qcow2 *s, uint8_t *slice, unsigned i, struct q_entry e)
{
    uint8_t *p = slice + (size_t)i * s->l2e_size;
    store_be64(p, e.e);
    if (s->extl2) {
        store_be64(p + 8, e.bitmap);
    }
}
int entry_type(const struct qcow2 *s, struct q_entry e, unsigned sc);
bool entry_has_host(const struct qcow2 *s, struct q_entry e);
bool entry_has_data(const struct qcow2 *s, struct q_entry e); /* some of it must be copied when it moves */
void compressed_range(const struct qcow2 *s, uint64_t entry, uint64_t *off, uint64_t *len);
/* What the bytes from `off` on are; at most `len`. Q_INVALID: an entry that makes no sense, about which nothing is
 * said. */
int qcow2_look(struct qcow2 *s, uint64_t off, uint64_t len, struct q_run *out);
/* The same; such an entry is an error. */
int qcow2_map(struct qcow2 *s, uint64_t off, uint64_t len, struct q_run *out);
/* The slice with the entry of `guest`, NULL when there is no L2 table. Valid until the next wait. */
int slice_get(struct qcow2 *s, uint64_t guest, struct q_table **out, unsigned *index);
/* [lock] Makes sure that the L2 tables of the range exist and are the active image's own. */
int l2_own(struct qcow2 *s, uint64_t off, uint64_t len);
/* The same slice to change it; l2_own() must have been called. */
int slice_modify(struct qcow2 *s, uint64_t guest, uint8_t **data, unsigned *index);
void entry_free(struct qcow2 *s, struct q_entry e, int kind);
/* qcow2_corrupt() of an entry that makes no sense; of one that was to be written to. */
int qcow2_corrupt_entry(struct qcow2 *s, uint64_t guest, struct q_entry e);
int qcow2_corrupt_target(struct qcow2 *s, uint64_t guest, struct q_entry e);

/* --- write.c --- */
struct q_flight *flight_find(struct qcow2 *s, uint64_t first, uint64_t count);
/* Waits until no flight overlaps; with s->lock held, which is dropped meanwhile. */
void flights_wait(struct qcow2 *s, uint64_t first, uint64_t count);
void flight_begin(struct qcow2 *s, struct q_flight *f, uint64_t first, uint64_t count);
void flight_end(struct qcow2 *s, struct q_flight *f);
void op_begin(struct qcow2 *s, struct q_op *op);
void op_end(struct qcow2 *s, struct q_op *op);
int qcow2_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
/* Clusters of zeroes that are data, and stay where they are if they are the image's own. Whole clusters; not of
 * encrypted images, nor those with a data file. */
int qcow2_zero_data(struct qcow2 *s, uint64_t off, uint64_t len);
int qcow2_copy_file(struct node *n, uint64_t off, uint64_t len, struct node *src, uint64_t soff);

/* --- below.c --- */
/* What lies beyond the end of the file reads as zeroes. */
int file_read(struct edge *file, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
int file_read_buf(struct edge *file, uint64_t off, uint64_t len, void *buf);
/* These make the file longer when need be. */
int file_write_zeroes(struct qcow2 *s, uint64_t off, uint64_t len);
int file_write(struct qcow2 *s, struct edge *file, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
int file_write_buf(struct qcow2 *s, uint64_t off, uint64_t len, const void *buf);
/* Data from the host file of `src`, copied by the host; -ENOTSUP: not this way. */
int file_copy(struct qcow2 *s, uint64_t off, uint64_t len, struct node *src, uint64_t soff);
/* Cuts off what was grown ahead of need. */
int file_trim(struct qcow2 *s);

/* --- read.c --- */
int qcow2_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int qcow2_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out);
/* Whether a guest range is known to read as zeroes without reading data. */
int qcow2_reads_zero(struct qcow2 *s, uint64_t off, uint64_t len, bool *zero);

/* --- discard.c --- */
int qcow2_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags);
int qcow2_discard(struct node *n, uint64_t off, uint64_t len);
/* Entries become unallocated, whatever the version: for a shrinking image. */
int qcow2_cut(struct qcow2 *s, uint64_t off, uint64_t len);
/* Entries of whole clusters (or to the end of the image) read as zeroes; version 3. */
int qcow2_make_zero(struct qcow2 *s, uint64_t off, uint64_t end);

/* --- crypt.c: encrypted images --- */
/* A piece of data: where the guest has it, and where the file has it. */
struct q_place {
    uint64_t guest, host, len;
};
/* Data clusters, encrypted or not. Reads past the end of the file are zeroes, writes make it longer. [co] */
int data_read(struct qcow2 *s, const struct q_place *at, const struct iovs *v, size_t voff);
int data_write(struct qcow2 *s, const struct q_place *at, const struct iovs *v, size_t voff);
int qcow2_crypt_read_ext(struct qcow2 *s, const uint8_t *data, uint32_t len, struct err *e);
int qcow2_crypt_open(struct qcow2 *s, struct json_object *options, struct err *e);
void qcow2_crypt_finish(struct qcow2 *s);
/* s takes over what `old`, an earlier state of the node, decrypts with; keys may have changed since. */
int qcow2_crypt_read_again(struct qcow2 *s, struct qcow2 *old, struct err *e);
struct json_object *qcow2_crypt_info(const struct qcow2 *s); /* ImageInfoSpecificQCow2Encryption */
/* How a new image is to be encrypted. */
struct q_crypt_create {
    uint32_t method;
    struct luks_create luks; /* method AES: the password alone */
};
/* `o`: "encrypt" of BlockdevCreateOptionsQcow2 or NULL; `legacy`: the old name for format=aes was given. */
int qcow2_crypt_create_read(struct block_graph *g, struct json_object *o, bool legacy, struct q_crypt_create *c,
                            struct err *e);
uint64_t qcow2_crypt_header_len(const struct q_crypt_create *c); /* bytes in the file besides the usual metadata */
/* Makes an empty image an encrypted one. */
int qcow2_crypt_create(struct qcow2 *s, struct q_crypt_create *c, struct err *e);
/* `o`: QCryptoBlockAmendOptionsLUKS. */
int qcow2_crypt_amend(struct qcow2 *s, struct json_object *o, bool force, struct err *e);

/* --- compress.c --- */
void compress_finish(struct qcow2 *s); /* frees what was kept for the next cluster */
int qcow2_write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
int compressed_read(struct qcow2 *s, uint64_t entry, uint64_t in_cluster, uint64_t len, const struct iovs *v,
                    size_t voff);

/* --- create.c, resize.c --- */
extern const struct create_option qcow2_create_options[];
/* Options as command lines have them, "encrypt.key-secret" and "cluster_size", as QAPI has them; NULL: an error. */
struct json_object *qcow2_normalise(struct json_object *opts, struct err *e);
int qcow2_create(struct block_graph *g, struct json_object *opts, struct err *e);
int qcow2_measure(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *r,
                  struct err *e);
uint64_t l1_entries(const struct qcow2 *s, uint64_t size); /* of a table for so many bytes */
int l1_reserve(struct qcow2 *s, uint64_t entries);         /* [lock] */
/* Writes [at, stop). */
int qcow2_write_zeroes(struct qcow2 *s, uint64_t at, uint64_t stop);
/* What stands in the way, in an image of that version. */
int qcow2_can_resize(struct qcow2 *s, uint64_t size, int version, struct err *e);
int qcow2_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e);
/* Allocates [off, end) without writing data. */
int qcow2_preallocate(struct qcow2 *s, uint64_t off, uint64_t end, int mode, struct err *e);
int qcow2_change_backing(struct node *n, const char *file, const char *format, struct err *e);
int qcow2_make_empty(struct node *n);

/* --- amend.c, version.c, width.c; nobody else uses the image meanwhile [co] --- */
extern const struct create_option qcow2_amend_options[];
int qcow2_amend(struct node *n, struct json_object *opts, bool force, const struct amend_progress *progress,
                struct err *e);
/* Several things, one after the other, of which `done` are done. */
struct q_steps {
    const struct amend_progress *to; /* NULL: nobody */
    unsigned done, all;
};
void steps_report(const struct q_steps *p, uint64_t done, uint64_t all); /* how much of the next is done; p NULL: no */
int qcow2_upgrade(struct qcow2 *s, const struct q_steps *steps, struct err *e);
/* An image with disks of that size, and such refcounts. */
int qcow2_can_downgrade(struct qcow2 *s, uint64_t size, unsigned refcount_order, struct err *e);
int qcow2_downgrade(struct qcow2 *s, const struct q_steps *steps, struct err *e);
/* Counters of 1 << order bits. */
int refcounts_change_width(struct qcow2 *s, unsigned order, const struct q_steps *steps, struct err *e);

/* --- qcow2.c, reopen.c --- */
/* Settings and empty caches, from options. */
int qcow2_read_options(struct qcow2 *s, struct json_object *options, struct err *e);
/* What writing needs: features others left are cleared, refcounts are true. [co] */
int qcow2_prepare_writing(struct qcow2 *s, struct err *e);
/* From now on unused tables leave the caches every clean_interval. */
void qcow2_arm_cleaning(struct qcow2 *s);
extern const char *const qcow2_reopen_names[];
int qcow2_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e);
void qcow2_reopen_swap(struct node *n, struct node_reopen *r);
int qcow2_reopen_activate(struct node *n, struct node_reopen *r, struct err *e);
void qcow2_reopen_finish(struct node *n, struct node_reopen *r);

/* --- check.c, repair.c --- */
int qcow2_check(struct node *n, struct check_result *r, unsigned fix, struct err *e);

/* References found, per cluster; sparse. */
struct q_counts {
    GHashTable *chunks;
    uint64_t end; /* one past the highest cluster with references */
};
void counts_init(struct q_counts *c);
void counts_finish(struct q_counts *c);
uint32_t counts_get(const struct q_counts *c, uint64_t cluster);
int counts_add(struct q_counts *c, uint64_t cluster);
/* No cluster of this chunk of 4096 has any. */
bool counts_empty(const struct q_counts *c, uint64_t cluster);
/* Writes refcount structures anew from the counts. */
int refcounts_rebuild(struct qcow2 *s, struct q_counts *c);
/* In memory: another refcount table, of so many clusters, which the header names; takes `table`. */
int refcounts_adopt(struct qcow2 *s, uint64_t *table, uint64_t off, uint64_t clusters);

/* Debug builds of the tests: every in-memory invariant; NULL when all hold, else what does not. */
const char *qcow2_broken_invariant(struct node *n);
