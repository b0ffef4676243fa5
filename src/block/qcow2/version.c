/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From version 2 to 3 and back. Going up is one write of the header. Going down, what only version 3 can say must be
 * said otherwise first, and every step of that leaves a whole image of version 3:
 *
 *     bitmaps                            dropped
 *     zero clusters of snapshots         unallocated where nothing shows through, else clusters full of zeroes: in
 *                                        copies of their L2 tables that one switch (snapshots.h) names
 *     zero clusters of the active image  the same, as a guest's writes would do it
 *     the header                         one write of its first sector
 */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <inttypes.h>

/* --- up ----------------------------------------------------------------------------------------------------------- */

/* Version 3 asks for the size of VM state and disk in each entry of the snapshot table. */
static int complete_snapshots(struct qcow2 *s)
{
    bool complete = true;
    for (guint i = 0; i < s->snapshots->len; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        complete &= x->extra >= 16;
    }
    if (complete) {
        return 0;
    }
    co_lock(&s->lock);
    int rc = snaps_rewrite(s);
    co_unlock(&s->lock);
    return rc;
}

/* The header with another version; what is in memory is as the file is. */
static int set_version(struct qcow2 *s, uint32_t version, struct err *e)
{
    struct q_header was = s->h;
    s->h.version = version;
    s->h.length = version < 3 ? QCOW2_V2_HEADER : QCOW2_V3_HEADER + 8;
    s->h.incompat = s->h.compat = s->h.autoclear = 0;
    s->h.refcount_order = 4;
    s->h.compression = COMPRESS_ZLIB;
    GBytes *tail = take(s->header_tail);
    int rc = header_write(s);
    if (rc < 0) {
        s->h = was;
        s->header_tail = tail;
        return err_set_errno(e, -rc, "Failed to update the image header");
    }
    g_clear_pointer(&tail, g_bytes_unref);
    s->lazy = false;
    return 0;
}

int qcow2_upgrade(struct qcow2 *s, const struct q_steps *steps, struct err *e)
{
    int rc = complete_snapshots(s);
    rc = rc < 0 ? rc : qcow2_settle(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to update the snapshot table");
    }
    steps_report(steps, 1, 2);
    return set_version(s, 3, e);
}

/* --- what stands in the way of going down ------------------------------------------------------------------------- */

static int find_compressed(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    const struct qcow2 *s = opaque;
    for (unsigned i = 0; i < 1u << s->l2_bits; i++) {
        if (entry_load(s, data, i).e & E_COMPRESSED) {
            return -EEXIST;
        }
    }
    return 0;
}

/* Calls fn for each L2 table of each snapshot. */
static int walk_snapshots(struct qcow2 *s, l2_fn *fn, void *opaque)
{
    int rc = 0;
    for (guint i = 0; i < s->snapshots->len && rc == 0; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        CLEANUP_FREE uint64_t *l1 = NULL;
        rc = snap_l1_load(s, x, &l1, NULL);
        rc = rc < 0 ? rc : l2_walk(s, l1, x->l1_size, fn, opaque);
    }
    return rc;
}

/* Version 2 has deflate alone. */
static int check_compression(struct qcow2 *s, struct err *e)
{
    if (s->h.compression == COMPRESS_ZLIB) {
        return 0;
    }
    int rc = qcow2_settle(s);
    rc = rc < 0 ? rc : l2_walk(s, s->l1, s->h.l1_size, find_compressed, s);
    rc = rc < 0 ? rc : walk_snapshots(s, find_compressed, s);
    if (rc == -EEXIST) {
        return err_set(e, ENOTSUP,
                       "Cannot downgrade an image with zstd compression type and existing compressed clusters");
    }
    return rc < 0 ? err_set_errno(e, -rc, "Failed to check block status") : 0;
}

int qcow2_can_downgrade(struct qcow2 *s, uint64_t size, unsigned refcount_order, struct err *e)
{
    if (refcount_order != 4) {
        return err_set(e, ENOTSUP, "compat=0.10 requires refcount_bits=16");
    }
    if (s->has_data_file) {
        return err_set(e, ENOTSUP, "Cannot downgrade an image with a data file");
    }
    for (guint i = 0; i < s->snapshots->len; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        if (x->info.vm_state_size > UINT32_MAX || x->info.disk_size != size) {
            return err_set(e, ENOTSUP, "Internal snapshots prevent downgrade of image");
        }
    }
    uint64_t rest = s->h.incompat & ~(uint64_t)(INC_COMPRESSION | INC_DIRTY);
    if (rest) {
        return err_set(e, ENOTSUP, "Cannot downgrade an image with incompatible features 0x%" PRIx64 " set", rest);
    }
    return check_compression(s, e);
}

/* --- zero clusters ------------------------------------------------------------------------------------------------ */

/* Below this something else than zeroes may be seen where a cluster is unallocated. */
static uint64_t shown_end(const struct qcow2 *s)
{
    uint64_t end = s->n->backing ? edge_size(s->n->backing) : s->n->backing_filename ? UINT64_MAX / 2 : 0;
    return round_up(end, s->cluster_size);
}

static bool is_zero(struct q_entry e)
{
    return !(e.e & E_COMPRESSED) && (e.e & E_ZERO);
}

static int fill(struct qcow2 *s, uint64_t off, uint64_t len)
{
    return s->crypt ? qcow2_write_zeroes(s, off, off + len) : qcow2_zero_data(s, off, len);
}

/* What is allocated stays so. */
static int expand_run(struct qcow2 *s, uint64_t off, const struct q_run *r)
{
    uint64_t shown = shown_end(s), data = off < shown ? min_u64(r->len, shown - off) : 0;
    if (r->type == Q_ZERO_HOST) {
        data = r->len;
    }
    int rc = data ? fill(s, off, data) : 0;
    return rc == 0 && data < r->len ? qcow2_cut(s, off + data, r->len - data) : rc;
}

/* The whole active image, with what lies behind the disk. */
static int expand_active(struct qcow2 *s, const struct q_steps *steps)
{
    uint64_t end = (uint64_t)s->h.l1_size << (s->cluster_bits + s->l2_bits);
    struct q_run r;
    int rc = 0;
    for (uint64_t off = 0; off < end && rc == 0; off += r.len) {
        steps_report(steps, off, end + end / 8);
        rc = qcow2_map(s, off, min_u64(end - off, 1 << 30), &r);
        if (rc == 0 && (r.type == Q_ZERO || r.type == Q_ZERO_HOST)) {
            rc = expand_run(s, off, &r);
        }
    }
    return rc < 0 ? rc : qcow2_settle(s);
}

struct expand {
    struct q_switch w;
    GHashTable *tables; /* of snapshots, with zero clusters: offset → that of the copy without, NULL: not made yet */
    uint64_t shown;
    uint64_t *l1; /* of the snapshot at hand, as it will be */
};

static int find_zeroes(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct expand *x = opaque;
    const struct qcow2 *s = x->w.s;
    for (unsigned i = 0; i < 1u << s->l2_bits; i++) {
        if (is_zero(entry_load(s, data, i))) {
            g_hash_table_insert(x->tables, GSIZE_TO_POINTER(off), NULL);
            break;
        }
    }
    return 0;
}

/* `count` new clusters, each with as many users as the table that will name them. */
static int take_filled(struct expand *x, uint64_t guest, uint64_t count, uint64_t users, uint64_t *row)
{
    struct qcow2 *s = x->w.s;
    int rc = switch_take(&x->w, count, row);
    CLEANUP_FREE uint8_t *zeroes = s->crypt ? g_try_malloc0(s->cluster_size) : NULL;
    if (rc == 0 && s->crypt && !zeroes) {
        rc = -ENOMEM;
    }
    s->file_high = max_u64(s->file_high, *row + (count << s->cluster_bits));
    if (rc == 0 && !s->crypt) {
        rc = file_write_zeroes(s, *row, count << s->cluster_bits);
    }
    for (uint64_t i = 0; i < count && rc == 0 && s->crypt; i++) {
        uint64_t at = i << s->cluster_bits;
        struct iovec iov;
        struct iovs v = IOVS_BUF(&iov, zeroes, s->cluster_size);
        rc = data_write(s, &(struct q_place){guest + at, *row + at, s->cluster_size}, &v, 0);
    }
    for (uint64_t i = 0; i < count && rc == 0 && users > 1; i++) {
        rc = switch_set_users(&x->w, (*row >> s->cluster_bits) + i, users);
    }
    return rc;
}

/* Zero clusters in a row from entry i on: how many, all with something behind them or all without. */
static unsigned zeroes_from(const struct expand *x, uint64_t first, const uint8_t *data, unsigned i)
{
    const struct qcow2 *s = x->w.s;
    unsigned n = 0, all = 1u << s->l2_bits;
    bool shown = first + ((uint64_t)i << s->cluster_bits) < x->shown;
    while (i + n < all && is_zero(entry_load(s, data, i + n)) &&
           (first + ((uint64_t)(i + n) << s->cluster_bits) < x->shown) == shown) {
        n++;
    }
    return n;
}

static int lose_times(struct q_switch *w, uint64_t off, uint64_t users)
{
    int rc = 0;
    for (uint64_t i = 0; i < users && rc == 0; i++) {
        rc = switch_lose(w, off >> w->s->cluster_bits);
    }
    return rc;
}

/* Entries of the table of guest offsets from `first` on. */
static int expand_entries(struct expand *x, uint64_t first, uint8_t *data, uint64_t users)
{
    struct qcow2 *s = x->w.s;
    int rc = 0;
    for (unsigned i = 0, n; i < 1u << s->l2_bits && rc == 0; i += n) {
        uint64_t guest = first + ((uint64_t)i << s->cluster_bits), row = 0;
        n = zeroes_from(x, first, data, i);
        if (n && guest < x->shown) {
            rc = take_filled(x, guest, n, users, &row);
        }
        for (unsigned k = 0; k < n && rc == 0; k++, row += row ? s->cluster_size : 0) {
            uint64_t host = entry_load(s, data, i + k).e & L2E_OFFSET;
            rc = host ? lose_times(&x->w, host, users) : 0;
            entry_store(s, data, i + k, (struct q_entry){.e = row});
        }
        n += n == 0;
    }
    return rc;
}

static int expand_table(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct expand *x = opaque;
    struct q_switch *w = &x->w;
    struct qcow2 *s = w->s;
    gpointer made;
    if (!g_hash_table_lookup_extended(x->tables, GSIZE_TO_POINTER(off), NULL, &made)) {
        return 0;
    }
    uint64_t copy = GPOINTER_TO_SIZE(made), users;
    if (!copy) {
        int rc = switch_users(w, off >> s->cluster_bits, &users);
        rc = rc < 0 ? rc : expand_entries(x, (uint64_t)index << (s->cluster_bits + s->l2_bits), data, users);
        rc = rc < 0 ? rc : switch_copy_table(w, data, &copy);
        rc = rc < 0 || users == 1 ? rc : switch_set_users(w, copy >> s->cluster_bits, users);
        rc = rc < 0 ? rc : lose_times(w, off, users);
        if (rc < 0) {
            return rc;
        }
        g_hash_table_insert(x->tables, GSIZE_TO_POINTER(off), GSIZE_TO_POINTER(copy));
    }
    x->l1[index] = copy;
    return 0;
}

static bool names_one(const struct expand *x, const uint64_t *l1, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (g_hash_table_contains(x->tables, GSIZE_TO_POINTER(l1[i] & L1E_OFFSET))) {
            return true;
        }
    }
    return false;
}

/* A copy of a snapshot's entry, with room for another L1 table when it needs one; `mine` owns it. */
static int reserve_l1(struct expand *x, guint i, GPtrArray *mine)
{
    struct qcow2 *s = x->w.s;
    const struct q_snap *old = g_ptr_array_index(x->w.snapshots, i);
    CLEANUP_FREE uint64_t *l1 = NULL;
    uint64_t off;
    int rc = snap_l1_load(s, old, &l1, NULL);
    if (rc < 0 || !names_one(x, l1, old->l1_size)) {
        return rc;
    }
    rc = switch_take(&x->w, q_clusters(s, (uint64_t)old->l1_size * 8), &off);
    if (rc == 0) {
        struct q_snap *new = snap_copy(old);
        new->l1_offset = off;
        g_ptr_array_add(mine, new);
        x->w.snapshots->pdata[i] = new;
    }
    return rc;
}

static int expand_snapshot(struct expand *x, const struct q_snap *old, const struct q_snap *new)
{
    struct qcow2 *s = x->w.s;
    CLEANUP_FREE uint64_t *l1 = NULL;
    int rc = snap_l1_load(s, old, &l1, NULL);
    if (rc < 0) {
        return rc;
    }
    x->l1 = g_memdup2(l1, (gsize)old->l1_size * 8);
    rc = l2_walk(s, l1, old->l1_size, expand_table, x);
    rc = rc < 0 ? rc : switch_write_l1(&x->w, new->l1_offset, x->l1, new->l1_size);
    switch_give_up(&x->w, old->l1_offset, (uint64_t)old->l1_size * 8, FREE_OTHER);
    g_free(take(x->l1));
    return rc;
}

static int switch_to_expanded(struct expand *x, GPtrArray *mine)
{
    struct qcow2 *s = x->w.s;
    struct q_switch *w = &x->w;
    int rc = 0;
    for (guint i = 0; i < w->snapshots->len && rc == 0; i++) {
        rc = reserve_l1(x, i, mine);
    }
    w->new_table = true;
    uint32_t l1_size = max_u64(s->h.l1_size, 1);
    rc = rc < 0 ? rc : switch_reserve(w, l1_size, g_hash_table_size(x->tables));
    for (guint i = 0; i < w->snapshots->len && rc == 0; i++) {
        const struct q_snap *old = g_ptr_array_index(s->snapshots, i), *new = g_ptr_array_index(w->snapshots, i);
        rc = old == new ? 0 : expand_snapshot(x, old, new);
    }
    CLEANUP_FREE uint64_t *l1 = g_memdup2(s->l1, (gsize)s->h.l1_size * 8);
    for (uint32_t i = 0; i < s->h.l1_size && rc == 0; i++) { /* what it shares with them it goes on sharing */
        gpointer made = g_hash_table_lookup(x->tables, GSIZE_TO_POINTER(l1[i] & L1E_OFFSET));
        l1[i] = made ? GPOINTER_TO_SIZE(made) : l1[i];
    }
    return rc < 0 ? rc : switch_reclaim(w, l1);
}

/* [lock] */
static int expand_snapshots(struct qcow2 *s)
{
    struct expand x = {.w.s = s, .tables = g_hash_table_new(NULL, NULL), .shown = shown_end(s)};
    g_autoptr(GPtrArray) mine = snaps_new();
    int rc = walk_snapshots(s, find_zeroes, &x);
    if (rc == 0 && g_hash_table_size(x.tables)) {
        rc = switch_begin(&x.w, s, true);
        if (rc == 0) {
            rc = switch_to_expanded(&x, mine);
            if (rc < 0) {
                switch_abort(&x.w);
            } else {
                rc = switch_commit(&x.w);
            }
        }
    }
    g_hash_table_destroy(x.tables);
    return rc;
}

int qcow2_downgrade(struct qcow2 *s, const struct q_steps *steps, struct err *e)
{
    int rc = bitmaps_drop_all(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to remove the bitmaps");
    }
    rc = qcow2_settle(s);
    if (rc == 0) {
        co_lock(&s->lock);
        rc = expand_snapshots(s);
        co_unlock(&s->lock);
    }
    rc = rc < 0 ? rc : expand_active(s, steps);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to turn zero into data clusters");
    }
    return set_version(s, 2, e);
}
