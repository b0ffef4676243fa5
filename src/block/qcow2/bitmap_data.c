/* SPDX-License-Identifier: BSD-2-Clause */
/* The bits of persistent bitmaps: read, marked ahead of writes, narrowed to what is true. The laws are in bitmap.h. */
#include "block/qcow2/bitmap.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <stdlib.h>

#define ROUND_NS UINT64_C(5000000000) /* how long a unit stays marked without new dirt */

static uint64_t granules(const struct q_bitmap *q)
{
    return bitmap_bits(q->b->bits);
}

static uint64_t units_per_cluster(const struct qcow2 *s)
{
    return s->cluster_size / BM_UNIT_BYTES;
}

static uint64_t units(const struct q_bitmap *q)
{
    return bitmap_bits(q->durable);
}

/* --- maps of units ------------------------------------------------------------------------------------------------ */

static int resize_map(struct bitmap **map, uint64_t bits)
{
    if (!*map) {
        *map = bitmap_create(bits);
        return *map ? 0 : -ENOMEM;
    }
    return bitmap_resize(*map, bits) ? 0 : -ENOMEM;
}

int bitmap_units_make(struct q_bitmap *q, uint64_t n)
{
    struct bitmap **const maps[] = {&q->wanted, &q->marking, &q->durable, &q->recent};
    uint64_t bits = div_round_up(n, BM_UNIT_GRANULES), old = q->durable ? units(q) : 0;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < G_N_ELEMENTS(maps); i++) {
        rc = resize_map(maps[i], bits);
    }
    if (rc == 0 && old && old <= bits) {
        bitmap_clear(q->durable, old - 1, 1); /* of its granules some may be new */
    }
    return rc;
}

void bitmap_units_free(struct q_bitmap *q)
{
    bitmap_destroy(q->wanted);
    bitmap_destroy(q->marking);
    bitmap_destroy(q->durable);
    bitmap_destroy(q->recent);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static int load_cluster(struct qcow2 *s, struct q_bitmap *q, uint32_t k, uint8_t *buf)
{
    uint64_t word = (uint64_t)k * (s->cluster_size / 8), all = div_round_up(granules(q), 64);
    uint64_t n = word < all ? min_u64(all - word, s->cluster_size / 8) : 0, off = q->table[k] & BME_OFFSET;
    if (q->table[k] == 0 || n == 0) {
        return 0;
    }
    if (q->table[k] == BM_ALL_DIRTY) {
        uint64_t first = word * 64;
        q->b->changes += bitmap_set(q->b->bits, first, min_u64(n * 64, granules(q) - first));
        return 0;
    }
    if (off + n * 8 > round_up(edge_size(s->file), s->cluster_size)) {
        return -EINVAL;
    }
    int rc = file_read_buf(s->file, off, n * 8, buf);
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        uint64_t w = load_le64(buf + i * 8);
        if (w) {
            bitmap_or_word(q->b->bits, word + i, w);
        }
    }
    return rc;
}

int bitmap_data_load(struct qcow2 *s, struct q_bitmap *q, struct err *e)
{
    CLEANUP_FREE uint8_t *buf = g_try_malloc(s->cluster_size);
    int rc = buf ? bitmap_units_make(q, granules(q)) : -ENOMEM;
    for (uint32_t k = 0; rc == 0 && k < q->entries; k++) {
        rc = load_cluster(s, q, k, buf);
    }
    return rc < 0 ? err_set_errno(e, -rc, "Could not read bitmap '%s' from image", q->name) : 0;
}

/* --- content ------------------------------------------------------------------------------------------------------ */

/* Bytes of the data as the file should have them; `at` and `len` are multiples of 8. */
static void fill(const struct q_bitmap *q, uint64_t at, uint8_t *out, uint64_t len)
{
    uint64_t bits = granules(q);
    for (uint64_t i = at / 8; i < (at + len) / 8; i++, out += 8) {
        uint64_t unit = i / BM_UNIT_WORDS, w = bitmap_word(q->b->bits, i);
        if (bitmap_test(q->durable, unit) || bitmap_test(q->marking, unit)) {
            w = i * 64 >= bits ? 0 : UINT64_MAX >> (i * 64 + 64 > bits ? i * 64 + 64 - bits : 0);
        }
        store_le64(out, w);
    }
}

static int write_data(struct qcow2 *s, const struct q_bitmap *q, uint32_t k, uint64_t from, uint64_t len)
{
    uint64_t off = (q->table[k] & BME_OFFSET) + from;
    CLEANUP_FREE uint8_t *buf = g_try_malloc(len);
    if (!buf) {
        return -ENOMEM;
    }
    fill(q, (uint64_t)k * s->cluster_size + from, buf, len);
    int rc = meta_check(s, off, len, 0);
    return rc < 0 ? rc : file_write_buf(s, off, len, buf);
}

/* --- marking ------------------------------------------------------------------------------------------------------ */

/* The units of cluster k that are in `marking` go to the file, in runs of sectors; or the whole cluster by its entry.
 */
static int mark_cluster(struct qcow2 *s, struct q_bitmap *q, uint32_t k, bool *entry)
{
    enum { PER_SECTOR = 512 / BM_UNIT_BYTES };
    uint64_t first = k * units_per_cluster(s), past = min_u64(first + units_per_cluster(s), units(q));
    if (!(q->table[k] & BME_OFFSET)) {
        *entry = q->table[k] == 0;
        q->table[k] = BM_ALL_DIRTY;
        s->bitmaps_coarse = true;
        for (uint64_t u = first; u < past; u++) {
            bitmap_set(q->marking, u, !bitmap_test(q->durable, u));
        }
        return 0;
    }
    int rc = 0;
    for (uint64_t u = bitmap_next_set(q->marking, first, past); rc == 0 && u < past;) {
        uint64_t from = round_down(u - first, PER_SECTOR), to = from;
        while (u < past && u - first < to + PER_SECTOR) {
            to = round_down(u - first, PER_SECTOR) + PER_SECTOR;
            u = bitmap_next_set(q->marking, u + 1, past);
        }
        rc = write_data(s, q, k, from * BM_UNIT_BYTES, (to - from) * BM_UNIT_BYTES);
    }
    return rc;
}

static int mark_wanted(struct qcow2 *s, struct q_bitmap *q)
{
    uint64_t n = units(q), per = units_per_cluster(s);
    uint32_t lo = UINT32_MAX, hi = 0;
    int rc = 0;
    for (uint64_t u = 0; (u = bitmap_next_set(q->wanted, u, n)) < n; u++) {
        bitmap_set(q->marking, u, !bitmap_test(q->durable, u));
    }
    bitmap_clear(q->wanted, 0, n);
    for (uint64_t u = 0; rc == 0 && (u = bitmap_next_set(q->marking, u, n)) < n; u = (u / per + 1) * per) {
        bool entry = false;
        rc = mark_cluster(s, q, (uint32_t)(u / per), &entry);
        lo = entry ? MIN(lo, (uint32_t)(u / per)) : lo;
        hi = entry ? (uint32_t)(u / per) + 1 : hi;
    }
    return rc == 0 && lo < hi ? bitmap_table_write(s, q, lo, hi) : rc;
}

void bitmap_marking_ends(const struct qcow2 *s, struct q_bitmap *q, bool durable)
{
    uint64_t n = units(q), per = units_per_cluster(s);
    for (uint64_t u = 0; (u = bitmap_next_set(q->marking, u, n)) < n; u++) {
        uint64_t *entry = &q->table[u / per];
        if (durable) {
            bitmap_set(q->durable, u, 1);
        } else if (*entry == BM_ALL_DIRTY) {
            *entry = 0; /* whatever the file has: written again the next time */
        }
    }
    bitmap_clear(q->marking, 0, n);
}

/* [bm_lock] All that is wanted becomes durable. */
static int commit(struct qcow2 *s)
{
    int rc = s->bitmaps_unsure ? bitmaps_publish(s) : 0;
    for (guint i = 0; rc == 0 && i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        rc = q->b->inconsistent ? 0 : mark_wanted(s, q);
    }
    if (rc == 0 && !s->n->no_flush) {
        rc = edge_flush(s->file);
    }
    for (guint i = 0; i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if (!q->b->inconsistent) {
            bitmap_marking_ends(s, q, rc == 0);
        }
    }
    return rc;
}

/* Whether something of the range has yet to be marked; then it is wanted now. */
static bool want(struct q_bitmap *q, uint64_t off, uint64_t len)
{
    uint64_t g = q->b->granularity, first = off / g, past = (off + len - 1) / g + 1;
    bool missing = false;
    for (uint64_t at = first; (at = bitmap_next_clear(q->b->bits, at, past)) < past;) {
        uint64_t u = at / BM_UNIT_GRANULES;
        bitmap_set(q->recent, u, 1);
        if (!bitmap_test(q->durable, u)) {
            missing = true;
            bitmap_set(q->wanted, u, !bitmap_test(q->marking, u));
        }
        at = (u + 1) * BM_UNIT_GRANULES;
    }
    return missing;
}

static bool want_all(struct qcow2 *s, uint64_t off, uint64_t len)
{
    bool missing = false;
    for (guint i = 0; i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        missing |= q->b->enabled && !q->b->inconsistent && want(q, off, len);
    }
    return missing;
}

/* [bm_lock] What cannot be marked is not kept up any more: the guest's write comes first. */
static int give_up_missing(struct qcow2 *s, uint64_t off, uint64_t len)
{
    int rc = 0;
    for (guint i = 0; rc == 0 && i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if (q->b->enabled && !q->b->inconsistent && want(q, off, len)) {
            rc = bitmap_give_up(s, q);
        }
    }
    return rc;
}

int qcow2_bitmaps_intend(struct node *n, uint64_t off, uint64_t len)
{
    struct qcow2 *s = n->priv;
    int rc = s->corrupt ? -EIO : 0;
    if (rc == 0 && want_all(s, off, len)) {
        co_lock(&s->bm_lock);
        if (want_all(s, off, len)) { /* else who had the lock before has done it */
            rc = commit(s);
            rc = rc < 0 || want_all(s, off, len) ? give_up_missing(s, off, len) : 0;
        }
        co_unlock(&s->bm_lock);
    }
    return rc;
}

/* --- narrowing ---------------------------------------------------------------------------------------------------- */

struct new_entry {
    uint32_t k;
    uint64_t value;
};

static bool unit_changing(const struct qcow2 *s, const struct q_bitmap *q, uint64_t unit)
{
    uint64_t bytes = (uint64_t)BM_UNIT_GRANULES << q->granularity_bits;
    return node_changing(s->n, unit * bytes, bytes);
}

/* Unmarks the units of cluster k that may be: range[] says which have changed. All: units that requests under way may
 * be making dirty, whatever they have been until now, are marked. */
static bool unmark(struct qcow2 *s, struct q_bitmap *q, uint32_t k, bool all, uint64_t range[2])
{
    uint64_t per = units_per_cluster(s), first = k * per, past = min_u64(first + per, units(q));
    range[0] = all ? 0 : per;
    range[1] = all ? per : 0;
    for (uint64_t u = first; all && u < past; u++) {
        bool changing = unit_changing(s, q, u);
        bitmap_set(q->marking, u, changing && !bitmap_test(q->durable, u));
        bitmap_clear(q->durable, u, !changing);
    }
    for (uint64_t u = first; !all && (u = bitmap_next_set(q->durable, u, past)) < past; u++) {
        if (!bitmap_test(q->recent, u) && !unit_changing(s, q, u)) {
            bitmap_clear(q->durable, u, 1);
            range[0] = min_u64(range[0], u - first);
            range[1] = max_u64(range[1], u - first + 1);
        }
    }
    return range[0] < range[1];
}

static int new_cluster(struct qcow2 *s, struct q_bitmap *q, uint32_t k, const uint8_t *buf, uint64_t *value)
{
    co_lock(&s->lock);
    int rc = clusters_alloc(s, 1, value);
    co_unlock(&s->lock);
    if (rc < 0) {
        return rc;
    }
    s->file_high = max_u64(s->file_high, *value + s->cluster_size);
    rc = file_write_buf(s, *value, s->cluster_size, buf);
    if (rc < 0) {
        clusters_free_now(s, *value, s->cluster_size);
    }
    return rc;
}

static bool all_dirty(const struct q_bitmap *q, uint64_t first, uint64_t past)
{
    return bitmap_next_clear(q->b->bits, first, past) >= past;
}

/* The content of cluster k as it should be now. What changes its entry is left to the caller. */
static int narrow_cluster(struct qcow2 *s, struct q_bitmap *q, uint32_t k, bool all, GArray *entries)
{
    uint64_t range[2], bits = s->cluster_size * 8, first = k * bits, old = q->table[k];
    if (!unmark(s, q, k, all, range) || (old == 0 && first >= granules(q))) {
        return 0;
    }
    CLEANUP_FREE uint8_t *buf = g_try_malloc(s->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    fill(q, (uint64_t)k * s->cluster_size, buf, s->cluster_size);
    bool zero = buf_is_zero(buf, s->cluster_size);
    struct new_entry x = {k, 0};
    if ((old & BME_OFFSET) && !(all && zero)) {
        uint64_t from = round_down(range[0] * BM_UNIT_BYTES, 512), to = round_up(range[1] * BM_UNIT_BYTES, 512);
        return write_data(s, q, k, from, to - from);
    }
    if (!zero && first < granules(q) && all_dirty(q, first, min_u64(first + bits, granules(q)))) {
        x.value = BM_ALL_DIRTY;
    } else if (!zero) {
        int rc = new_cluster(s, q, k, buf, &x.value);
        if (rc < 0) {
            return rc;
        }
    }
    if (x.value != old) {
        g_array_append_val(entries, x);
    }
    return 0;
}

/* What the entries name is stable first. After an error the file has some of them, or not: an entry that is 0 in memory
 * is written anew by the next mark, and what may be named stays allocated. */
static int put_entries(struct qcow2 *s, struct q_bitmap *q, const GArray *entries)
{
    int rc = qcow2_refs_stable(s);
    uint32_t lo = UINT32_MAX, hi = 0;
    CLEANUP_FREE uint64_t *old = g_new(uint64_t, entries->len);
    for (guint i = 0; i < entries->len; i++) {
        const struct new_entry *x = &g_array_index(entries, struct new_entry, i);
        old[i] = q->table[x->k];
        if (rc < 0) {
            (void)clusters_free_now(s, x->value & BME_OFFSET, x->value & BME_OFFSET ? s->cluster_size : 0);
            continue;
        }
        q->table[x->k] = x->value;
        lo = MIN(lo, x->k);
        hi = MAX(hi, x->k + 1);
    }
    if (rc < 0) {
        return rc;
    }
    s->n->write_gen++; /* there is something to flush */
    rc = bitmap_table_write(s, q, lo, hi);
    for (guint i = 0; i < entries->len; i++) {
        const struct new_entry *x = &g_array_index(entries, struct new_entry, i);
        if (rc < 0) {
            q->table[x->k] = 0;
        } else if (old[i] & BME_OFFSET) {
            clusters_free_later(s, old[i] & BME_OFFSET, s->cluster_size, FREE_OTHER);
        }
    }
    return rc;
}

int bitmap_narrow(struct qcow2 *s, struct q_bitmap *q, enum bitmap_narrow what)
{
    bool all = what == NARROW_ALL;
    uint64_t changes = q->b->changes, per = units_per_cluster(s), u = 0;
    GArray *entries = g_array_new(FALSE, FALSE, sizeof(struct new_entry));
    int rc = 0;
    for (uint32_t k = 0; rc == 0 && all && k < q->entries; k++) {
        rc = narrow_cluster(s, q, k, true, entries);
    }
    for (; rc == 0 && !all && (u = bitmap_next_set(q->durable, u, units(q))) < units(q); u = (u / per + 1) * per) {
        rc = narrow_cluster(s, q, (uint32_t)(u / per), false, entries);
    }
    int rc2 = entries->len ? put_entries(s, q, entries) : 0;
    g_array_free(entries, TRUE);
    rc = rc < 0 ? rc : rc2;
    if (rc == 0 && all && !bitmap_count(q->durable) && !bitmap_count(q->marking)) {
        q->stored = changes;
    }
    return rc;
}

void bitmaps_round(struct qcow2 *s)
{
    uint64_t now = loop_now_ns();
    bool due = now - s->bitmaps_round_ns >= ROUND_NS;
    if (!s->bitmaps->len || (!due && !s->bitmaps_coarse)) {
        return;
    }
    co_lock(&s->bm_lock);
    s->bitmaps_coarse = false;
    for (guint i = 0; i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if (q->b->inconsistent || !bitmap_count(q->durable)) {
            continue;
        }
        if (bitmap_narrow(s, q, NARROW_OLD) < 0) { /* claims too much for longer */
            break;
        }
        if (due) {
            bitmap_clear(q->recent, 0, units(q));
        }
    }
    s->bitmaps_round_ns = due ? now : s->bitmaps_round_ns;
    co_unlock(&s->bm_lock);
}
