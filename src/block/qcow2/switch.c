/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes of everything at once.
 *
 * COPIED flags and refcounts must agree at any instant, and they lie in different clusters. So neither is changed where
 * it is: what changes is written elsewhere, where nothing names it yet, and one sector of the header changes it all.
 * Until then the clusters that will be free still count as used; what is allocated meanwhile is counted in the copies
 * alone. A crash before the header's write leaves the image as it was, a crash after it leaves it as it is to be.
 */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <stdlib.h>

enum { COPIES_BYTES = 2 << 20, BLOCKS_BYTES = 16 << 20 };

/* --- beginning and giving up -------------------------------------------------------------------------------------- */

static int fork_begin(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    uint64_t regions = s->rt_size;
    while (regions && !(s->reftable[regions - 1] & RT_OFFSET)) {
        regions--;
    }
    w->leaving = bitmap_create(regions << s->rb_bits);
    w->copies.buf = block_buf_alloc(s->file->child, max_u64(COPIES_BYTES, s->cluster_size));
    uint64_t *table = g_try_malloc_n(s->rt_size, 8);
    s->fork = bitmap_create(s->rt_size);
    if (!w->leaving || !w->copies.buf || !table || !s->fork) {
        g_free(table);
        bitmap_destroy(take(s->fork));
        return -ENOMEM;
    }
    memcpy(table, s->reftable, (size_t)s->rt_size * 8);
    w->old_reftable = s->reftable;
    w->old_rt_size = s->rt_size;
    w->old_rt_offset = s->rt_offset;
    s->reftable = table;
    w->forks = true;
    return 0;
}

int switch_begin(struct q_switch *w, struct qcow2 *s, bool forks)
{
    *w = (struct q_switch){.s = s};
    w->rows = g_array_new(FALSE, FALSE, sizeof(struct q_free));
    w->gone = g_array_new(FALSE, FALSE, sizeof(struct q_free));
    int rc = qcow2_settle(s);
    if (rc == 0 && s->freed.length) {
        rc = -EBUSY; /* somebody uses the image after all */
    }
    w->h = s->h;
    w->snapshots = g_ptr_array_copy(s->snapshots, NULL, NULL);
    g_ptr_array_set_free_func(w->snapshots, NULL);
    rc = rc < 0 || !forks ? rc : fork_begin(w);
    if (rc < 0) {
        switch_abort(w);
    }
    return rc;
}

static void release(struct q_switch *w)
{
    g_ptr_array_unref(w->snapshots);
    g_array_unref(w->rows);
    g_array_unref(w->gone);
    g_free(w->l1);
    g_free(w->table);
    g_free(w->old_reftable);
    free(w->copies.buf);
    bitmap_destroy(w->leaving);
    bitmap_destroy(take(w->s->fork));
}

/* All tables of the cache that changed since the fork began are copies of its own. */
static void fork_abort(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    g_free(s->reftable);
    s->reftable = take(w->old_reftable);
    s->rt_size = w->old_rt_size;
    s->rt_offset = w->old_rt_offset;
    s->rt_moved = false;
    bitmap_resize(s->rt_dirty, s->rt_size);
    bitmap_clear(s->rt_dirty, 0, s->rt_size);
    cache_reset(&s->rb);
    g_queue_clear_full(&s->freed, g_free);
    s->freed_bytes = 0;
    s->free_hint = 0;
    if (s->meta) {
        (void)meta_build(s); /* what is missing is only not watched over */
    }
}

void switch_abort(struct q_switch *w)
{
    if (w->forks) {
        fork_abort(w);
    } else {
        for (unsigned i = 0; i < w->rows->len; i++) {
            const struct q_free *f = &g_array_index(w->rows, struct q_free, i);
            clusters_free_now(w->s, f->offset, f->len);
        }
    }
    release(w);
}

/* --- room --------------------------------------------------------------------------------------------------------- */

int switch_take(struct q_switch *w, uint64_t clusters, uint64_t *off)
{
    int rc = clusters_alloc(w->s, clusters, off);
    if (rc == 0) {
        struct q_free f = {.offset = *off, .len = clusters << w->s->cluster_bits};
        g_array_append_val(w->rows, f);
        w->counter = COUNTER_NONE;
    }
    return rc;
}

static uint32_t copies_row(const struct q_switch *w)
{
    uint64_t most = max_u64(COPIES_BYTES >> w->s->cluster_bits, 1);
    return min_u64(most, w->copies.expected);
}

int switch_reserve(struct q_switch *w, uint32_t l1_size, uint64_t copies)
{
    struct qcow2 *s = w->s;
    w->l1 = l1_size ? g_try_malloc0_n(l1_size, 8) : NULL;
    int rc = w->l1 || !l1_size ? 0 : -ENOMEM;
    if (rc == 0 && w->new_table) {
        rc = snaps_encode(w->snapshots, &w->table, &w->table_len);
    }
    w->copies.expected = w->forks ? copies : 0;
    w->copies.n = copies_row(w);
    uint64_t l1 = q_clusters(s, (uint64_t)l1_size * 8), table = q_clusters(s, w->table_len), off = 0, row = 0;
    if (rc == 0 && !w->forks && l1) {
        rc = switch_take(w, l1, &off);
    }
    if (rc == 0 && (w->forks || table)) {
        rc = switch_take(w, (w->forks ? l1 : 0) + table + w->copies.n, &row);
    }
    if (rc < 0) {
        w->copies.n = 0;
        return rc;
    }
    if (l1) {
        w->h.l1_size = l1_size;
        w->h.l1_offset = w->forks ? row : off;
    }
    row += w->forks ? l1 << s->cluster_bits : 0;
    if (w->new_table) {
        w->h.nb_snapshots = w->snapshots->len;
        w->h.snapshots_offset = w->snapshots->len ? row : 0;
    }
    w->copies.off = row + (table << s->cluster_bits);
    s->file_high = max_u64(s->file_high, w->copies.off + ((uint64_t)w->copies.n << s->cluster_bits));
    return 0;
}

static int copies_write(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    uint64_t len = (uint64_t)w->copies.used << s->cluster_bits;
    s->file_high = max_u64(s->file_high, w->copies.off + len);
    return len ? file_write_buf(s, w->copies.off, len, w->copies.buf) : 0;
}

int switch_copy_table(struct q_switch *w, const uint8_t *data, uint64_t *off)
{
    struct qcow2 *s = w->s;
    if (w->copies.used == w->copies.n) {
        int rc = copies_write(w);
        w->copies.used = 0;
        w->copies.n = max_u64(copies_row(w), 1);
        rc = rc < 0 ? rc : switch_take(w, w->copies.n, &w->copies.off);
        if (rc < 0) {
            w->copies.n = 0;
            return rc;
        }
    }
    uint64_t at = (uint64_t)w->copies.used++ << s->cluster_bits;
    memcpy(w->copies.buf + at, data, s->cluster_size);
    w->copies.expected -= w->copies.expected > 0;
    *off = w->copies.off + at;
    return 0;
}

void switch_give_up(struct q_switch *w, uint64_t off, uint64_t len, int kind)
{
    struct q_free f = {.offset = off, .len = len, .kind = kind};
    if (len) {
        g_array_append_val(w->gone, f);
    }
}

/* --- counting ----------------------------------------------------------------------------------------------------- */

static int uncounted(struct q_switch *w, uint64_t cluster)
{
    return qcow2_corrupt(w->s, false, -1, -1, "Cluster %" PRIu64 " is in use but its refcount does not say so",
                         cluster);
}

static int gain(struct q_switch *w, uint64_t cluster)
{
    uint64_t n;
    int rc = counter_get(w->s, &w->counter, cluster, &n);
    if (rc < 0 || n == 0) {
        return rc < 0 ? rc : uncounted(w, cluster);
    }
    return n < refcount_max(w->s) ? counter_put(w->s, &w->counter, cluster, n + 1) : -EINVAL;
}

/* The last reference is counted until the end, so that nobody gets the cluster. */
int switch_lose(struct q_switch *w, uint64_t cluster)
{
    uint64_t n;
    int rc = counter_get(w->s, &w->counter, cluster, &n);
    if (rc < 0 || n > 1) {
        return rc < 0 ? rc : counter_put(w->s, &w->counter, cluster, n - 1);
    }
    if (n == 0 || cluster >= bitmap_bits(w->leaving) || !bitmap_set(w->leaving, cluster, 1)) {
        return uncounted(w, cluster);
    }
    return 0;
}

/*
 * Clusters that follow each other in the file, as those of neighbouring entries mostly do: their counters are in one
 * block, which the first has found. With counters of 16 bits, which nearly all images have, the others cost no call.
 */
struct row {
    struct q_switch *w;
    int by; /* 1: gain(), -1: switch_lose() */
    uint64_t first, n;
};

static int row_one(const struct row *r, uint64_t cluster)
{
    return r->by > 0 ? gain(r->w, cluster) : switch_lose(r->w, cluster);
}

static int row_count(struct row *r)
{
    const struct qcow2 *s = r->w->s;
    const struct q_counter *c = &r->w->counter;
    uint64_t end = r->first + r->n, mask = (UINT64_C(1) << s->rb_bits) - 1;
    int rc = 0;
    for (uint64_t at = r->first; at < end && rc == 0; at++) {
        rc = row_one(r, at);
        bool quick = rc == 0 && s->h.refcount_order == 4 && c->own && c->region == at >> s->rb_bits;
        while (quick && at + 1 < end && ((at + 1) & mask)) {
            uint8_t *b = c->own + ((at + 1) & mask) * 2;
            uint16_t n = load_be16(b);
            if (n <= (r->by < 0) || n == UINT16_MAX) {
                break;
            }
            store_be16(b, (uint16_t)(n + r->by));
            at++;
        }
    }
    r->n = 0;
    return rc;
}

static int row_add(struct row *r, uint64_t cluster)
{
    if (r->n && r->first + r->n == cluster) {
        r->n++;
        return 0;
    }
    int rc = row_count(r);
    r->first = cluster;
    r->n = 1;
    return rc;
}

static int count_entry(struct row *r, struct q_entry e)
{
    struct q_switch *w = r->w;
    struct qcow2 *s = w->s;
    uint64_t off = e.e & L2E_OFFSET, len;
    if (e.e & E_COMPRESSED) {
        int rc = 0;
        compressed_range(s, e.e, &off, &len);
        uint64_t last = (off + len - 1) >> s->cluster_bits;
        for (uint64_t c = off >> s->cluster_bits; c <= last && rc == 0; c++) {
            rc = row_add(r, c);
        }
        return rc;
    }
    if (!off) {
        return 0;
    }
    if (off & (s->cluster_size - 1)) {
        return qcow2_corrupt(s, true, off, s->cluster_size, "Cluster allocation offset %#" PRIx64 " unaligned", off);
    }
    return row_add(r, off >> s->cluster_bits);
}

/* Memory for copies of refcount blocks is bounded; the cursor must not outlive a wait. */
static int next_table(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    w->counter = COUNTER_NONE;
    return s->rb.dirty.length > max_u64(s->rb.max, BLOCKS_BYTES >> s->cluster_bits) ? blocks_write(s) : 0;
}

int switch_users(struct q_switch *w, uint64_t cluster, uint64_t *out)
{
    int rc = next_table(w);
    rc = rc < 0 ? rc : counter_get(w->s, &w->counter, cluster, out);
    return rc == 0 && *out == 0 ? uncounted(w, cluster) : rc;
}

int switch_set_users(struct q_switch *w, uint64_t cluster, uint64_t users)
{
    w->counter = COUNTER_NONE;
    return counter_put(w->s, &w->counter, cluster, users);
}

/* --- what the active image has ------------------------------------------------------------------------------------ */

/* Others have it too. With flags in the table it needs one of its own without. */
static int adopt_table(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct q_switch *w = opaque;
    struct qcow2 *s = w->s;
    struct row row = {.w = w, .by = 1};
    bool flags = false;
    int rc = next_table(w);
    for (unsigned i = 0; i < 1u << s->l2_bits && rc == 0; i++) {
        struct q_entry e = entry_load(s, data, i);
        rc = e.e ? count_entry(&row, e) : 0;
        if ((e.e & E_COPIED) && !(e.e & E_COMPRESSED)) {
            e.e &= ~E_COPIED;
            entry_store(s, data, i, e);
            flags = true;
        }
    }
    rc = rc < 0 ? rc : row_count(&row);
    if (rc < 0 || !flags) {
        w->l1[index] = off;
        return rc < 0 ? rc : gain(w, off >> s->cluster_bits);
    }
    uint64_t copy;
    rc = switch_copy_table(w, data, &copy);
    w->l1[index] = copy | E_COPIED;
    return rc;
}

int switch_adopt(struct q_switch *w, const uint64_t *l1, uint32_t n)
{
    return w->forks ? l2_walk(w->s, l1, n, adopt_table, w) : 0;
}

static int leave_table(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct q_switch *w = opaque;
    struct qcow2 *s = w->s;
    struct row row = {.w = w, .by = -1};
    int rc = next_table(w);
    for (unsigned i = 0; i < 1u << s->l2_bits && rc == 0; i++) {
        struct q_entry e = entry_load(s, data, i);
        rc = e.e ? count_entry(&row, e) : 0;
    }
    rc = rc < 0 ? rc : row_count(&row);
    return rc < 0 ? rc : switch_lose(w, off >> s->cluster_bits);
}

int switch_leave(struct q_switch *w, const uint64_t *l1, uint32_t n)
{
    return w->forks ? l2_walk(w->s, l1, n, leave_table, w) : 0;
}

/* Flags come back where nobody else is left. A table that others have as well names nothing that is ours alone. */
static int reclaim_table(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct q_switch *w = opaque;
    struct qcow2 *s = w->s;
    uint64_t users, copy;
    bool changed = false;
    int rc = next_table(w);
    rc = rc < 0 ? rc : counter_get(s, &w->counter, off >> s->cluster_bits, &users);
    if (rc < 0 || users != 1) {
        w->l1[index] = off;
        return rc;
    }
    for (unsigned i = 0; i < 1u << s->l2_bits && rc == 0; i++) {
        struct q_entry e = entry_load(s, data, i);
        uint64_t at = e.e & L2E_OFFSET, n = 0;
        if (!at || (e.e & E_COMPRESSED) || (at & (s->cluster_size - 1))) {
            continue;
        }
        rc = counter_get(s, &w->counter, at >> s->cluster_bits, &n);
        if ((n == 1) != ((e.e & E_COPIED) != 0)) {
            e.e ^= E_COPIED;
            entry_store(s, data, i, e);
            changed = true;
        }
    }
    w->l1[index] = off | E_COPIED;
    if (rc < 0 || !changed) {
        return rc;
    }
    rc = switch_lose(w, off >> s->cluster_bits);
    rc = rc < 0 ? rc : switch_copy_table(w, data, &copy);
    w->l1[index] = rc < 0 ? 0 : copy | E_COPIED;
    return rc;
}

int switch_reclaim(struct q_switch *w, const uint64_t *l1)
{
    struct qcow2 *s = w->s;
    int rc = w->forks ? copies_write(w) : 0; /* l1 may name some */
    w->counter = COUNTER_NONE;
    return w->forks && rc == 0 ? l2_walk(s, l1, min_u64(s->h.l1_size, w->h.l1_size), reclaim_table, w) : rc;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static bool forked(const struct qcow2 *s, uint64_t cluster)
{
    uint64_t region = cluster >> s->rb_bits;
    return region < bitmap_bits(s->fork) && bitmap_test(s->fork, region);
}

/* The table needs a new place, unless it had to grow and has one. Afterwards nothing more is allocated. */
static int place_reftable(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    uint64_t off, len = (uint64_t)s->rt_size * 8;
    if (s->rt_moved) {
        return 0;
    }
    int rc = clusters_alloc(s, q_clusters(s, len), &off);
    if (rc < 0 || s->rt_moved) {
        return rc < 0 ? rc : clusters_free_now(s, off, len);
    }
    clusters_free_later(s, s->rt_offset, len, FREE_OTHER);
    s->rt_offset = off;
    s->rt_moved = true;
    return 0;
}

/* Counters of what leaves can only change in copies. */
static int fork_leaving(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    uint64_t end = bitmap_bits(w->leaving), mask = (UINT64_C(1) << s->rb_bits) - 1;
    int rc = 0;
    for (uint64_t c = bitmap_next_set(w->leaving, 0, end); c < end && rc == 0;
         c = bitmap_next_set(w->leaving, (c | mask) + 1, end)) {
        uint64_t n;
        rc = next_table(w);
        rc = rc < 0 ? rc : counter_get(s, &w->counter, c, &n);
        rc = rc < 0 ? rc : counter_put(s, &w->counter, c, n);
    }
    return rc;
}

static int free_leaving(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    uint64_t end = bitmap_bits(w->leaving), last = UINT64_MAX;
    int rc = 0;
    for (uint64_t c = bitmap_next_set(w->leaving, 0, end); c < end && rc == 0;
         c = bitmap_next_set(w->leaving, c + 1, end)) {
        uint64_t n;
        if (c >> s->rb_bits != last >> s->rb_bits) {
            rc = next_table(w);
        }
        last = c;
        rc = rc < 0 ? rc : counter_get(s, &w->counter, c, &n);
        rc = rc < 0 ? rc : n ? counter_put(s, &w->counter, c, n - 1) : uncounted(w, c);
        if (rc == 0 && n > 1) { /* the new make-up has got it as well */
            bitmap_clear(w->leaving, c, 1);
        }
    }
    return rc;
}

/* Tables that are given up, where their counters are copied anyway; the others are freed later, as always. */
static int free_tables(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    GQueue all = s->freed;
    int rc = 0;
    g_queue_init(&s->freed);
    s->freed_bytes = 0;
    struct q_free *f;
    while ((f = g_queue_pop_head(&all))) {
        uint64_t end = f->offset + f->len;
        for (uint64_t at = f->offset & ~(s->cluster_size - 1); at < end; at += s->cluster_size) {
            if (rc == 0 && !s->discard[f->kind] && forked(s, at >> s->cluster_bits)) {
                rc = clusters_free_now(s, at, 1);
            } else {
                clusters_free_later(s, at, s->cluster_size, f->kind);
            }
        }
        g_free(f);
    }
    return rc;
}

static int write_table(struct qcow2 *s, uint64_t off, uint8_t *b, uint64_t len, uint64_t room)
{
    int rc = len ? file_write_buf(s, off, len, b) : 0;
    s->file_high = max_u64(s->file_high, off + round_up(room, s->cluster_size));
    return rc;
}

static int write_entries(struct qcow2 *s, uint64_t off, const uint64_t *table, uint64_t n)
{
    uint64_t len = round_up(n * 8, s->cluster_size);
    CLEANUP_FREE uint8_t *b = g_try_malloc0(len);
    for (uint64_t i = 0; b && i < n; i++) {
        store_be64(b + i * 8, table[i]);
    }
    return b ? write_table(s, off, b, len, len) : -ENOMEM;
}

int switch_write_l1(struct q_switch *w, uint64_t off, const uint64_t *l1, uint32_t n)
{
    w->counter = COUNTER_NONE;
    return write_entries(w->s, off, l1, n);
}

/* Everything that the header is going to name, stable. */
static int write_all(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    int rc = copies_write(w);
    uint64_t unused = (uint64_t)(w->copies.n - w->copies.used) << s->cluster_bits;
    if (rc == 0 && unused) {
        rc = clusters_free_now(s, w->copies.off + ((uint64_t)w->copies.used << s->cluster_bits), unused);
    }
    rc = rc < 0 || !w->l1 ? rc : write_entries(s, w->h.l1_offset, w->l1, w->h.l1_size);
    rc = rc < 0 ? rc : write_table(s, w->h.snapshots_offset, w->table, w->table_len, w->table_len);
    if (rc < 0 || !w->forks) { /* counters of new clusters only: they may precede */
        return rc < 0 ? rc : qcow2_settle(s);
    }
    rc = fork_leaving(w);
    rc = rc < 0 ? rc : place_reftable(w);
    rc = rc < 0 ? rc : free_leaving(w);
    for (unsigned i = 0; i < w->gone->len; i++) {
        const struct q_free *f = &g_array_index(w->gone, struct q_free, i);
        clusters_free_later(s, f->offset, f->len, f->kind);
    }
    g_array_set_size(w->gone, 0);
    rc = rc < 0 ? rc : free_tables(w);
    rc = rc < 0 ? rc : blocks_write(s);
    rc = rc < 0 ? rc : write_entries(s, s->rt_offset, s->reftable, s->rt_size);
    w->h.reftable_offset = s->rt_offset;
    w->h.reftable_clusters = (uint64_t)s->rt_size * 8 >> s->cluster_bits;
    return rc < 0 ? rc : qcow2_barrier(s);
}

/* Tells the file below what nobody needs any more. */
static void discard_left(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    uint64_t end = w->leaving && s->discard[FREE_SNAPSHOT] ? bitmap_bits(w->leaving) : 0, size = edge_size(s->file);
    for (uint64_t c = 0; c < end && (c = bitmap_next_set(w->leaving, c, end)) < end;) {
        uint64_t stop = bitmap_next_clear(w->leaving, c, end), at = c << s->cluster_bits;
        if (at < size) {
            edge_discard(s->file, at, min_u64(stop << s->cluster_bits, size) - at);
        }
        c = stop;
    }
}

/* What is in memory follows the header. */
static int adopt(struct q_switch *w, struct bitmap **l1_dirty)
{
    struct qcow2 *s = w->s;
    w->h.incompat = s->h.incompat;
    w->h.reftable_offset = s->rt_offset;
    w->h.reftable_clusters = (uint64_t)s->rt_size * 8 >> s->cluster_bits;
    s->h = w->h;
    if (w->l1) {
        g_free(s->l1);
        s->l1 = take(w->l1);
        bitmap_destroy(s->l1_dirty);
        s->l1_dirty = take(*l1_dirty);
    }
    if (w->new_table) {
        GPtrArray *snaps = snaps_new();
        for (guint i = 0; i < w->snapshots->len; i++) {
            struct q_snap *x = snap_copy(g_ptr_array_index(w->snapshots, i));
            x->extra = SNAP_EXTRA + x->unknown_len;
            g_ptr_array_add(snaps, x);
        }
        g_ptr_array_unref(s->snapshots);
        s->snapshots = snaps;
        s->snapshots_len = w->table_len;
    }
    if (w->forks) {
        s->rt_moved = false;
        bitmap_clear(s->rt_dirty, 0, s->rt_size);
    }
    bitmap_destroy(take(s->fork));
    cache_reset(&s->l2);
    s->free_byte = 0;
    s->free_hint = 0;
    for (unsigned i = 0; i < w->gone->len; i++) {
        const struct q_free *f = &g_array_index(w->gone, struct q_free, i);
        clusters_free_later(s, f->offset, f->len, f->kind);
    }
    return s->meta ? meta_build(s) : 0;
}

int switch_commit(struct q_switch *w)
{
    struct qcow2 *s = w->s;
    struct bitmap *l1_dirty = bitmap_create(w->h.l1_size ? w->h.l1_size : 1);
    if (w->l1 && !w->keep_l1) {
        switch_give_up(w, s->h.l1_offset, (uint64_t)s->h.l1_size * 8, FREE_OTHER);
    }
    if (w->new_table && s->h.nb_snapshots) {
        switch_give_up(w, s->h.snapshots_offset, s->snapshots_len, FREE_OTHER);
    }
    int rc = l1_dirty ? write_all(w) : -ENOMEM;
    if (rc == 0 && !w->forks) {
        w->h.reftable_offset = s->rt_offset;
        w->h.reftable_clusters = (uint64_t)s->rt_size * 8 >> s->cluster_bits;
    }
    bool written = false;
    rc = rc < 0 ? rc : header_switch(s, &w->h, &written);
    if (!written) {
        bitmap_destroy(l1_dirty);
        switch_abort(w);
        return rc;
    }
    int rc2 = adopt(w, &l1_dirty);
    rc = rc < 0 ? rc : rc2;
    if (rc == 0) {
        discard_left(w);
    }
    bitmap_destroy(l1_dirty);
    release(w);
    s->n->write_gen++;
    node_set_size(s->n, round_down(s->h.size, 512));
    return rc;
}
