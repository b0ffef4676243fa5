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
    struct q_rewrite r;
    uint64_t shown;
};

static bool has_zeroes(struct q_rewrite *r, uint64_t first, const uint8_t *data)
{
    const struct qcow2 *s = r->w.s;
    for (unsigned i = 0; data && i < 1u << s->l2_bits; i++) {
        if (is_zero(entry_load(s, data, i))) {
            return true;
        }
    }
    return false;
}

/* `count` new clusters, each with as many users as the table that will name them. */
static int take_filled(struct expand *x, uint64_t guest, uint64_t count, uint64_t users, uint64_t *row)
{
    struct qcow2 *s = x->r.w.s;
    int rc = switch_take(&x->r.w, count, row);
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
        rc = switch_set_users(&x->r.w, (*row >> s->cluster_bits) + i, users);
    }
    return rc;
}

/* Zero clusters in a row from entry i on: how many, all with something behind them or all without. */
static unsigned zeroes_from(const struct expand *x, uint64_t first, const uint8_t *data, unsigned i)
{
    const struct qcow2 *s = x->r.w.s;
    unsigned n = 0, all = 1u << s->l2_bits;
    bool shown = first + ((uint64_t)i << s->cluster_bits) < x->shown;
    while (i + n < all && is_zero(entry_load(s, data, i + n)) &&
           (first + ((uint64_t)(i + n) << s->cluster_bits) < x->shown) == shown) {
        n++;
    }
    return n;
}

static int expand_entries(struct q_rewrite *r, uint64_t first, uint8_t *data, uint64_t users)
{
    struct expand *x = (struct expand *)r;
    struct qcow2 *s = x->r.w.s;
    int rc = 0;
    for (unsigned i = 0, n; i < 1u << s->l2_bits && rc == 0; i += n) {
        uint64_t guest = first + ((uint64_t)i << s->cluster_bits), row = 0;
        n = zeroes_from(x, first, data, i);
        if (n && guest < x->shown) {
            rc = take_filled(x, guest, n, users, &row);
        }
        for (unsigned k = 0; k < n && rc == 0; k++, row += row ? s->cluster_size : 0) {
            uint64_t host = entry_load(s, data, i + k).e & L2E_OFFSET;
            rc = host ? switch_lose_times(&x->r.w, host, users) : 0;
            entry_store(s, data, i + k, (struct q_entry){.e = row});
        }
        n += n == 0;
    }
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
        struct expand x = {.r = {.wants = has_zeroes, .change = expand_entries, .states = true}, .shown = shown_end(s)};
        rc = snapshots_rewrite(s, &x.r);
        co_unlock(&s->lock);
    }
    rc = rc < 0 ? rc : expand_active(s, steps);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to turn zero into data clusters");
    }
    return set_version(s, 2, e);
}
