/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The QED image format.
 *
 * Source document: QEMU docs/interop/qed_spec.txt.
 *
 * LAYOUT. Everything is little-endian and counted in clusters of 4 KiB … 64 MiB.
 *
 *     clusters 0 … header_size - 1    header (64 bytes), backing file name
 *     L1 table → L2 tables            table_size clusters each, entries of 8 bytes
 *     L2 entry                        0: not here; 1: zeroes; else the offset of a data cluster
 *
 * There is no map of free clusters: a new cluster lies behind all others, so it was never used and reads as zeroes.
 * What no table names is leaked.
 *
 * INVARIANTS of the file, at every instant a crash may come:
 *
 *  1. Every entry names clusters within the file that nothing else names: the file is stable in its new length before
 *     an entry is written that names what it gained.
 *  2. While the need-check bit is clear, nothing is leaked: it is stable before the first change of a table, and
 * cleared when all is stable and the file has its length. Opening an image that has it for writing cuts off what
 * nothing names; and empties the entries that a crash of another program, which does without (1), left without a
 * cluster.
 *  3. A table is stable before the L1 entry that names it is written.
 *  4. Where a backing image would show through a new data cluster, the cluster's contents are stable before its entry
 *     is written. Elsewhere the cluster reads as zeroes until they are, and so did what it takes the place of.
 *  5. A header field is written by itself, in the first sector, after all that it names is stable.
 *
 * Tables are cached and written back by one function, qed_writeback(), which takes a picture of what is dirty and then:
 *
 *     flush                 if the file became longer (1) or data was linked that must be stable (4)
 *     slices of L2 tables
 *     flush; L1 entries     if a table is new
 *     flush                 if the caller wants durability
 *
 * So a guest's flush costs one flush, two with a backing image; the first allocation after a pause costs one more for
 * the bit. It is cleared some seconds after the last allocation, and when the image is closed (qed_settle).
 *
 * STATES of a guest cluster, and who moves it on:
 *
 *     not here ──plan_new──▶ in flight ──link──▶ data, for ever: written, zeroed and discarded in place
 *     zeroes ───────────────────▲
 *     not here ──qed_zero──▶ zeroes
 *
 * While in flight nobody else may touch the cluster's entry: others wait (struct qed_flight).
 *
 * CONCURRENCY. Loop thread only; coroutines switch just where they wait. `lock` is held while clusters are being
 * allocated, entries emptied or the need-check bit changed, never during data I/O; `wb_lock` by the one that writes
 * back. Who wants both takes `lock` first.
 */
#pragma once

#include "base/bitmap.h"
#include "block/driver.h"

#define QED_MAGIC            0x00444551u
#define QED_HEADER_BYTES     64
#define QED_MIN_CLUSTER      4096u
#define QED_MAX_CLUSTER      (64u << 20)
#define QED_DEFAULT_CLUSTER  65536u
#define QED_MAX_TABLE        16u
#define QED_DEFAULT_TABLE    4u
#define QED_MAX_BACKING_NAME 1023u
#define QED_MAX_SIZE         (UINT64_C(1) << 62)

enum { QED_BACKING = 1, QED_NEED_CHECK = 2, QED_BACKING_RAW = 4, QED_KNOWN = 7 };
/* Ours, and safe to ignore: who opens the image for a guest should copy on read (docs/supported.md). */
#define QED_COMPAT_COPY_ON_READ (UINT64_C(1) << 63)
enum { QED_ZERO = 1 }; /* an L2 entry */

struct qed_header {
    uint32_t cluster_size, table_size, header_size; /* bytes, clusters, clusters */
    uint64_t features, compat, autoclear, l1_offset, image_size;
    uint32_t backing_offset, backing_size;
};

/* A piece of an L2 table in memory. */
struct qed_slice {
    uint64_t offset; /* in the file; the key */
    uint8_t *e;      /* entries as in the file */
    bool dirty, loading;
    unsigned users; /* they keep it in the cache */
    int rc;         /* of loading */
    struct co_queue waiters;
    GList link; /* in clean (most recently used first) or dirty */
};

struct qed_cache {
    struct edge *file;
    uint32_t slice_bytes, max;
    GHashTable *slices; /* offset → struct qed_slice */
    GQueue clean, dirty;
};

/* Guest clusters whose entries nobody else may change: new data is on its way to disk. */
struct qed_flight {
    uint64_t first, count;
    struct co_queue done;
    GList link;
};

struct qed_run_of { /* clusters that were handed out and not used */
    uint64_t off, len;
};

struct qed {
    struct node *n;
    struct edge *file;
    struct qed_header h;
    unsigned cluster_bits, entry_bits, slice_bits; /* entries per table, per slice */
    uint64_t cluster_size, table_bytes;
    bool for_check;

    uint64_t *l1; /* host order; l1_used entries: those that the image's size needs */
    uint64_t l1_used;
    struct bitmap *l1_dirty;
    struct qed_cache cache;

    struct co_mutex lock, wb_lock;
    uint64_t end;  /* of all clusters that were handed out */
    GArray *lost;  /* struct qed_run_of */
    bool unstable; /* since the last flush the file became longer (1), or data was linked that must be stable (4) */
    bool settle_due;
    GQueue flights;
    struct timer settle_timer;
};

static inline uint64_t qed_clusters(const struct qed *s, uint64_t bytes)
{
    return (bytes >> s->cluster_bits) + ((bytes & (s->cluster_size - 1)) != 0);
}

/* --- header.c --- */
/* Checks every field against the limits. `buf` has QED_HEADER_BYTES; file_size: of the file. */
int qed_header_parse(struct qed_header *h, const uint8_t *buf, uint64_t file_size, struct err *e);
void qed_header_encode(const struct qed_header *h, uint8_t *buf);
/* The largest image with such tables. */
uint64_t qed_max_size(uint64_t cluster_size, uint64_t table_size);
bool qed_size_ok(uint64_t image_size, uint64_t cluster_size, uint64_t table_size);
int qed_header_write(struct qed *s, const struct qed_header *h); /* as it is */
int qed_header_read_backing(struct qed *s, struct err *e);       /* into n->backing_filename, _format */
/* [lock] Sets the need-check bit durably, unless it is set. */
int qed_need_check(struct qed *s);
int qed_change_backing(struct node *n, const char *file, const char *format, struct err *e);
int qed_amend(struct node *n, struct json_object *opts, bool force, const struct amend_progress *progress,
              struct err *e);

/* --- cache.c --- */
void qed_cache_init(struct qed_cache *c, struct edge *file, uint32_t slice_bytes, uint32_t max);
void qed_cache_finish(struct qed_cache *c);
/* The slice at `offset`, read if need be. Valid until the caller waits next, unless it is among the users. [co] */
int qed_cache_get(struct qed_cache *c, uint64_t offset, struct qed_slice **out);
void qed_cache_dirty(struct qed_cache *c, struct qed_slice *sl, bool dirty);
void qed_cache_drop_all(struct qed_cache *c); /* nobody uses any; dirty ones are lost */

/* --- map.c --- */
enum { QED_RUN_NONE, QED_RUN_ZERO, QED_RUN_DATA };

struct qed_run {
    int type;
    uint64_t len;  /* bytes from the asked offset, ≥ 1; within one slice */
    uint64_t host; /* of the asked offset: QED_RUN_DATA */
};
/* What the bytes from `off` on are; at most `len`. -EINVAL: an entry is invalid. */
int qed_map(struct qed *s, uint64_t off, uint64_t len, struct qed_run *out);
/* Likewise, but what has no L2 table is a run as long as what the table would stand for. */
int qed_map_far(struct qed *s, uint64_t off, uint64_t len, struct qed_run *out);
/* How many runs may be looked at before others have their turn: damaged tables name one table very often. */
enum { QED_RUNS_AT_ONCE = 512 };
/* The slice with the entry of `guest`, NULL when there is no L2 table. Valid until the next wait. */
int qed_slice_get(struct qed *s, uint64_t guest, struct qed_slice **out, unsigned *index);
bool qed_data_ok(const struct qed *s, uint64_t offset);
bool qed_table_ok(const struct qed *s, uint64_t offset);
/* L1 entries [from, to) from the file. */
int qed_load_l1(struct qed *s, uint64_t to);
/* All that is loaded, as the file has it now; none of it is dirty. If it cannot be read, nothing can be had through it
 * any more: what it named may have moved. */
int qed_reload_l1(struct qed *s);
uint64_t qed_l1_entries(const struct qed *s, uint64_t image_size);

/* --- read.c --- */
int qed_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int qed_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out);
/* What lies beyond the end of the file reads as zeroes. */
int qed_file_read(struct edge *file, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
int qed_file_read_buf(struct edge *file, uint64_t off, uint64_t len, void *buf);

/* --- alloc.c; all [lock] --- */
int qed_file_reach(struct qed *s, uint64_t end); /* makes the file at least so long */
int qed_alloc(struct qed *s, uint64_t clusters, uint64_t *off);
void qed_give_back(struct qed *s, uint64_t off, uint64_t len); /* what was allocated and cannot be used */
int qed_table_own(struct qed *s, uint64_t guest);              /* makes sure that there is an L2 table */
int qed_trim(struct qed *s);                                   /* cuts off what was grown ahead of need */

/* --- write.c --- */
int qed_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int qed_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags);
int qed_discard(struct node *n, uint64_t off, uint64_t len);

/* --- writeback.c --- */
/* Writes all dirty tables, in order; `durable`: and is on stable storage afterwards. Not with wb_lock. [co] */
int qed_writeback(struct qed *s, bool durable);
/* Before an operation that dirties: writes back when too much is dirty. [co] */
int qed_make_room(struct qed *s);
/* Everything is stable, the file as long as need be, and the need-check bit clear. -EAGAIN: allocations are under way.
 * [co] */
int qed_settle(struct qed *s);
int qed_flush(struct node *n);
void qed_settle_later(struct qed *s); /* some seconds from now */

/* --- create.c, resize.c --- */
extern const struct create_option qed_create_options[], qed_amend_options[];
int qed_create(struct block_graph *g, struct json_object *opts, struct err *e);
int qed_measure(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *r,
                struct err *e);
int qed_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e);
int qed_make_empty(struct node *n);

/* --- check.c, repair.c --- */
/* Which clusters of the file something names. */
struct qed_usage {
    struct bitmap *used, *meta; /* one bit per cluster; meta: header and tables */
    uint64_t clusters;          /* of the file, a last one that is not whole too */
};
int qed_check(struct node *n, struct check_result *r, unsigned fix, struct err *e);
/* An image with the need-check bit becomes one without; -EIO: there is what no crash of ours can have done. */
int qed_recover(struct qed *s);
/* Moves clusters until nothing is leaked. The image has no other fault; nothing else is in flight. */
int qed_compact(struct qed *s, struct qed_usage *u);
/* Calls fn for each piece of each L2 table (or of the L1 table): it may change the entries and return 1. [co] */
struct qed_walk {
    struct qed *s;
    int (*fn)(struct qed_walk *w, uint8_t *entries, uint64_t count);
    void *opaque;
};
int qed_walk_table(struct qed_walk *w, uint64_t offset);
