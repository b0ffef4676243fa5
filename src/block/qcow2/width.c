/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Refcounts of another width. All counters are written once more, in free clusters that only they count; then one write
 * of the header's first sector names them and says how wide they are. A crash before it leaves the image as it was, one
 * after it as it is to be: there the structures of before are free.
 */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <stdlib.h>

struct width {
    struct qcow2 *s;
    struct qcow2 as;         /* only to say how wide: refcount_store() */
    unsigned rb_bits;        /* counters of a new block */
    uint64_t end;            /* clusters that the blocks of before count */
    struct bitmap *used;     /* new regions that need a block */
    struct bitmap *old;      /* clusters of the structures of before */
    uint64_t first, row;     /* where the new ones are, in clusters: blocks, then the table */
    uint64_t blocks, *table; /* the table has the rest of the row */
    const struct q_steps *steps;
};

static bool has_block(const struct qcow2 *s, uint64_t cluster)
{
    uint64_t region = cluster >> s->rb_bits;
    return region < s->rt_size && (s->reftable[region] & RT_OFFSET);
}

/* Which regions count something; and whether all of it fits. */
static int scan(struct width *w, struct err *e)
{
    struct qcow2 *s = w->s;
    struct q_counter k = COUNTER_NONE;
    uint64_t max = refcount_max(&w->as), n, mask = (UINT64_C(1) << s->rb_bits) - 1;
    for (uint64_t c = 0; c < w->end; c++) {
        if (!has_block(s, c)) {
            c |= mask;
            continue;
        }
        int rc = counter_get(s, &k, c, &n);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Failed to read a refcount");
        }
        if (n > max) {
            return err_set(e, EINVAL,
                           "Cannot decrease refcount entry width to %d bits: Cluster at offset %#" PRIx64
                           " has a refcount of %" PRIu64,
                           1 << w->as.h.refcount_order, c << s->cluster_bits, n);
        }
        if (n) {
            bitmap_set(w->used, c >> w->rb_bits, 1);
        }
        if ((c & mask) == mask) {
            steps_report(w->steps, c / 2, w->end);
        }
    }
    return 0;
}

static void note_old(struct width *w, uint64_t off, uint64_t len)
{
    for (uint64_t c = off >> w->s->cluster_bits, end = c + q_clusters(w->s, len); c < end && c < w->end; c++) {
        bitmap_set(w->old, c, 1);
    }
}

static void note_all_old(struct width *w)
{
    struct qcow2 *s = w->s;
    note_old(w, s->rt_offset, (uint64_t)s->rt_size * 8);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        if (s->reftable[i] & RT_OFFSET) {
            note_old(w, s->reftable[i] & RT_OFFSET, s->cluster_size);
        }
    }
}

/* Clusters that the structures take when they lie in [first, first + row). */
static uint64_t row_needs(struct width *w, uint64_t first, uint64_t row)
{
    uint64_t known = bitmap_bits(w->used), last = (first + row - 1) >> w->rb_bits;
    w->blocks = bitmap_count(w->used);
    for (uint64_t r = first >> w->rb_bits; r <= last; r++) {
        w->blocks += r >= known || !bitmap_test(w->used, r);
    }
    return w->blocks + q_clusters(w->s, max_u64(known, last + 1) * 8);
}

/* The row counts itself, so its length is found by trying. */
static int find_row(struct width *w)
{
    struct qcow2 *s = w->s;
    uint64_t need = bitmap_count(w->used) + 1;
    s->free_hint = 0;
    do {
        w->row = need;
        int rc = clusters_find(s, w->row, &w->first);
        if (rc < 0) {
            return rc;
        }
        need = row_needs(w, w->first, w->row);
    } while (need > w->row);
    uint64_t regions = max_u64(bitmap_bits(w->used), ((w->first + w->row - 1) >> w->rb_bits) + 1);
    if ((w->row - w->blocks) << s->cluster_bits > QCOW2_MAX_REFTABLE) {
        return -EFBIG;
    }
    if (!bitmap_resize(w->used, regions)) {
        return -ENOMEM;
    }
    uint64_t from = w->first >> w->rb_bits, to = (w->first + w->row - 1) >> w->rb_bits;
    bitmap_set(w->used, from, to - from + 1);
    return meta_check(s, w->first << s->cluster_bits, w->row << s->cluster_bits, 0);
}

/* How many references the cluster will have. */
static int count_then(struct width *w, struct q_counter *k, uint64_t cluster, uint64_t *out)
{
    if (cluster - w->first < w->row) {
        *out = 1;
        return 0;
    }
    int rc = counter_get(w->s, k, cluster, out);
    *out -= rc == 0 && *out && bitmap_test(w->old, cluster);
    return rc;
}

static int write_block(struct width *w, uint64_t region, uint64_t off, uint8_t *b)
{
    struct qcow2 *s = w->s;
    struct q_counter k = COUNTER_NONE; /* not to be kept while we wait for a write */
    uint64_t first = region << w->rb_bits, per = UINT64_C(1) << w->rb_bits, n;
    memset(b, 0, s->cluster_size);
    for (uint64_t i = 0; i < per; i++) {
        bool in_row = first + i - w->first < w->row;
        if (!in_row && (first + i >= w->end || !has_block(s, first + i))) {
            continue;
        }
        int rc = count_then(w, &k, first + i, &n);
        if (rc < 0) {
            return rc;
        }
        refcount_store(&w->as, b, i, n);
    }
    w->table[region] = off;
    return file_write_buf(s, off, s->cluster_size, b);
}

static int write_all(struct width *w)
{
    struct qcow2 *s = w->s;
    uint64_t regions = bitmap_bits(w->used), at = w->first, room = (w->row - w->blocks) << s->cluster_bits;
    uint8_t *b = block_buf_alloc(s->file->child, max_u64(room, s->cluster_size));
    int rc = b ? 0 : -ENOMEM;
    for (uint64_t r = bitmap_next_set(w->used, 0, regions); r < regions && rc == 0;
         r = bitmap_next_set(w->used, r + 1, regions)) {
        rc = write_block(w, r, at++ << s->cluster_bits, b);
        steps_report(w->steps, regions + r, 2 * regions);
    }
    for (uint64_t i = 0; i < room / 8 && rc == 0; i++) {
        store_be64(b + i * 8, w->table[i]);
    }
    rc = rc < 0 ? rc : file_write_buf(s, (w->first + w->blocks) << s->cluster_bits, room, b);
    free(b);
    s->file_high = max_u64(s->file_high, (w->first + w->row) << s->cluster_bits);
    return rc < 0 ? rc : qcow2_barrier(s);
}

/* The header says so, and what is in memory follows. */
static int activate(struct width *w)
{
    struct qcow2 *s = w->s;
    struct q_header was = s->h;
    uint64_t off = (w->first + w->blocks) << s->cluster_bits;
    s->h.refcount_order = w->as.h.refcount_order;
    s->h.reftable_offset = off;
    s->h.reftable_clusters = w->row - w->blocks;
    co_lock(&s->wb_lock);
    int rc = header_rewrite(s);
    co_unlock(&s->wb_lock);
    if (rc < 0) {
        s->h = was;
        return rc;
    }
    s->rb_bits = w->rb_bits;
    return refcounts_adopt(s, take(w->table), off, w->row - w->blocks);
}

static int change(struct width *w, struct err *e)
{
    struct qcow2 *s = w->s;
    uint64_t regions = s->rt_size;
    int rc = qcow2_settle(s);
    rc = rc == 0 && s->freed.length ? -EBUSY : rc;
    while (regions && !(s->reftable[regions - 1] & RT_OFFSET)) {
        regions--;
    }
    w->end = regions << s->rb_bits;
    w->used = bitmap_create(((w->end - 1) >> w->rb_bits) + 1);
    w->old = bitmap_create(w->end);
    rc = rc < 0 || (w->used && w->old) ? rc : -ENOMEM;
    rc = rc < 0 ? rc : scan(w, e);
    rc = rc < 0 ? rc : find_row(w);
    if (rc < 0) {
        return rc;
    }
    note_all_old(w);
    w->table = g_try_malloc0((w->row - w->blocks) << s->cluster_bits);
    rc = w->table ? write_all(w) : -ENOMEM;
    return rc < 0 ? rc : activate(w);
}

int refcounts_change_width(struct qcow2 *s, unsigned order, const struct q_steps *steps, struct err *e)
{
    struct width w = {.s = s, .as.h.refcount_order = order, .steps = steps};
    w.rb_bits = s->cluster_bits + 3 - order;
    co_lock(&s->lock);
    int rc = change(&w, e);
    co_unlock(&s->lock);
    bitmap_destroy(w.used);
    bitmap_destroy(w.old);
    g_free(w.table);
    return rc < 0 && !err_is_set(e) ? err_set_errno(e, -rc, "Failed to change the width of refcounts") : rc;
}
