/* SPDX-License-Identifier: BSD-2-Clause */
/* The bitmap directory: which bitmaps an image has. The laws are in bitmap.h. */
#include "block/qcow2/bitmap.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <stdlib.h>

enum { ENTRY_FIXED = 24, TYPE_DIRTY = 1, MIN_BITS = 9, MAX_BITS = 31 };

static bool usable(const struct q_bitmap *q)
{
    return !(q->flags & BM_IN_USE) && (!q->extra_len || (q->flags & BM_EXTRA_COMPATIBLE));
}

static void entry_free_all(void *p)
{
    struct q_bitmap *q = p;
    bitmap_units_free(q);
    g_free(q->name);
    g_free(q->table);
    g_free(q->extra);
    g_free(q);
}

GPtrArray *bitmaps_new(void)
{
    return g_ptr_array_new_with_free_func(entry_free_all);
}

struct q_bitmap *bitmap_of(const struct qcow2 *s, const struct dirty_bitmap *b)
{
    for (guint i = 0; i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if (q->b == b) {
            return q;
        }
    }
    return NULL;
}

uint32_t bitmap_table_size(const struct qcow2 *s, uint64_t size, unsigned granularity_bits)
{
    uint64_t granules = max_u64(1, div_round_up(size, UINT64_C(1) << granularity_bits));
    return min_u64(q_clusters(s, div_round_up(granules, 8)), UINT32_MAX);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static void warn_lost(const struct qcow2 *s)
{
    log_warn(graph_log(s->n->graph),
             s->h.version < 3
                 ? "This qcow2 v2 image contains bitmaps, but they may have been modified by a program without "
                   "persistent bitmap support; so now they must all be considered inconsistent\n"
                   "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix."
                 : "a program lacking bitmap support modified this file, so all bitmaps are now considered "
                   "inconsistent\n"
                   "Some clusters may be leaked, run 'qemu-img check -r' on the image file to fix.");
}

int bitmaps_read_ext(struct qcow2 *s, const uint8_t *x, uint32_t len, struct err *e)
{
    if (len != 24) {
        return err_set(e, EINVAL, "bitmaps_ext: Invalid extension length");
    }
    if (!(s->h.autoclear & AUTOCLEAR_BITMAPS)) {
        warn_lost(s);
        return 0;
    }
    uint32_t n = load_be32(x);
    uint64_t dir_len = load_be64(x + 8), dir = load_be64(x + 16);
    if (load_be32(x + 4) != 0) {
        return err_set(e, EINVAL, "bitmaps_ext: Reserved field is not zero");
    }
    if (n > QCOW2_MAX_BITMAPS) {
        return err_set(e, EINVAL,
                       "bitmaps_ext: Image has %" PRIu32 " bitmaps, exceeding the QEMU supported maximum of %d", n,
                       QCOW2_MAX_BITMAPS);
    }
    if (n == 0) {
        return err_set(e, EINVAL, "found bitmaps extension with zero bitmaps");
    }
    if (dir & (s->cluster_size - 1)) {
        return err_set(e, EINVAL, "bitmaps_ext: invalid bitmap directory offset");
    }
    if (dir_len > QCOW2_MAX_BITMAP_DIR || !range_ok(dir, dir_len, INT64_MAX)) {
        return err_set(e, EINVAL,
                       "bitmaps_ext: bitmap directory size (%" PRIu64 ") exceeds the maximum supported size (%u)",
                       dir_len, QCOW2_MAX_BITMAP_DIR);
    }
    s->n_bitmaps = n;
    s->bitmap_dir = dir;
    s->bitmap_dir_len = dir_len;
    return 0;
}

static int dir_read(struct qcow2 *s, uint8_t **out)
{
    uint8_t *dir = g_try_malloc(s->bitmap_dir_len + 1);
    int rc = dir ? file_read_buf(s->file, s->bitmap_dir, s->bitmap_dir_len, dir) : -ENOMEM;
    if (rc < 0) {
        g_free(dir);
        return rc;
    }
    *out = dir;
    return 0;
}

/* What the document and QEMU's limits ask of an entry. */
static bool entry_ok(const struct qcow2 *s, const struct q_bitmap *q, const uint8_t *p, uint16_t name_size)
{
    return q->entries && q->table_off && !(q->table_off & (s->cluster_size - 1)) &&
           range_ok(q->table_off, (uint64_t)q->entries * 8, INT64_MAX) &&
           q->entries <= BM_MAX_PHYS >> s->cluster_bits && q->granularity_bits >= MIN_BITS &&
           q->granularity_bits <= MAX_BITS && !(q->flags & ~(uint32_t)BM_KNOWN) && p[16] == TYPE_DIRTY && name_size &&
           name_size <= DIRTY_BITMAP_MAX_NAME && strlen(q->name) == name_size;
}

/* *len: how far it reaches. A `q` that was made is the caller's also after an error. */
static int entry_parse(struct qcow2 *s, const uint8_t *p, uint64_t room, uint64_t *len, struct q_bitmap **out)
{
    if (room < ENTRY_FIXED) {
        return -EINVAL;
    }
    uint16_t name_size = load_be16(p + 18);
    uint32_t extra = load_be32(p + 20);
    *len = round_up(ENTRY_FIXED + (uint64_t)extra + name_size, 8);
    if (*len > room) {
        return -EINVAL;
    }
    struct q_bitmap *q = g_new0(struct q_bitmap, 1);
    q->table_off = load_be64(p);
    q->entries = load_be32(p + 8);
    q->flags = load_be32(p + 12);
    q->granularity_bits = p[17];
    q->extra = g_memdup2(p + ENTRY_FIXED, extra);
    q->extra_len = extra;
    q->name = g_strndup((const char *)p + ENTRY_FIXED + extra, name_size);
    *out = q;
    return entry_ok(s, q, p, name_size) ? 0 : -ERANGE;
}

static int dir_parse(struct qcow2 *s, const uint8_t *dir, struct err *e)
{
    uint64_t at = 0, len;
    while (at < s->bitmap_dir_len) {
        struct q_bitmap *q = NULL;
        int rc = entry_parse(s, dir + at, s->bitmap_dir_len - at, &len, &q);
        if (q) {
            q->flags_at = s->bitmap_dir + at + 12;
            g_ptr_array_add(s->bitmaps, q);
        }
        if (q && s->bitmaps->len > s->n_bitmaps) {
            return err_set(e, EINVAL, "More bitmaps found than specified in header extension");
        }
        if (rc == -ERANGE) {
            return err_set(e, EINVAL, "Bitmap '%s' doesn't satisfy the constraints", q->name);
        }
        if (rc < 0) {
            return err_set(e, EINVAL, "Broken bitmap directory");
        }
        at += len;
    }
    return s->bitmaps->len == s->n_bitmaps
               ? 0
               : err_set(e, EINVAL, "Less bitmaps found than specified in header extension");
}

int bitmap_table_read(struct qcow2 *s, struct q_bitmap *q)
{
    uint64_t len = (uint64_t)q->entries * 8;
    if (q->table) {
        return 0;
    }
    if (q->table_off + len > round_up(edge_size(s->file), s->cluster_size)) {
        return -EINVAL;
    }
    uint64_t *t = g_try_malloc(len);
    int rc = t ? file_read_buf(s->file, q->table_off, len, t) : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < q->entries; i++) {
        t[i] = load_be64(&t[i]);
        uint64_t off = t[i] & BME_OFFSET;
        bool bad = off ? t[i] != off || (off & (s->cluster_size - 1)) : t[i] > BM_ALL_DIRTY;
        rc = bad ? -EINVAL : 0;
    }
    if (rc < 0) {
        g_free(t);
        return rc;
    }
    q->table = t;
    return 0;
}

static int load_one(struct qcow2 *s, struct q_bitmap *q, uint64_t *memory, struct err *e)
{
    uint32_t granularity = UINT32_C(1) << q->granularity_bits;
    if (!usable(q)) {
        return dirty_bitmap_create_inconsistent(s->n, q->name, granularity, &q->b, e);
    }
    if (q->entries < bitmap_table_size(s, s->n->size, q->granularity_bits)) {
        return err_set(e, EINVAL, "Bitmap '%s' doesn't satisfy the constraints", q->name);
    }
    *memory += (uint64_t)q->entries * 8 + s->n->size / granularity / 8;
    if (*memory > BM_MAX_MEMORY) {
        return err_set(e, EFBIG, "Image '%s' has more dirty bitmaps than can be loaded", s->n->filename);
    }
    int rc = bitmap_table_read(s, q);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not read bitmap_table table from image for bitmap '%s'", q->name);
    }
    rc = dirty_bitmap_create(s->n, q->name, granularity, &q->b, e);
    if (rc < 0) {
        return rc;
    }
    q->b->enabled = q->flags & BM_AUTO;
    q->b->persistent = true;
    rc = bitmap_data_load(s, q, e);
    s->bitmaps_odd |= q->entries != bitmap_table_size(s, s->n->size, q->granularity_bits);
    q->stored = q->b->changes;
    return rc;
}

int bitmaps_load(struct qcow2 *s, struct err *e)
{
    CLEANUP_FREE uint8_t *dir = NULL;
    uint64_t memory = 0;
    int rc = s->n_bitmaps ? dir_read(s, &dir) : 0;
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to read bitmap directory");
    }
    rc = s->n_bitmaps ? dir_parse(s, dir, e) : 0;
    for (guint i = 0; rc == 0 && i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        rc = load_one(s, q, &memory, e);
        s->bitmaps_foreign |= (q->flags & (BM_AUTO | BM_IN_USE)) == BM_AUTO && !usable(q);
    }
    return rc;
}

void bitmaps_forget(struct qcow2 *s)
{
    if (s->bitmaps) {
        g_ptr_array_unref(take(s->bitmaps));
    }
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static int put_flags(struct qcow2 *s, struct q_bitmap *q, uint32_t flags)
{
    uint8_t b[4];
    store_be32(b, flags);
    int rc = meta_check(s, q->flags_at, sizeof(b), META_BITMAPS);
    rc = rc < 0 ? rc : file_write_buf(s, q->flags_at, sizeof(b), b);
    if (rc == 0) {
        q->flags = flags;
    }
    return rc;
}

int bitmap_give_up(struct qcow2 *s, struct q_bitmap *q)
{
    int rc = put_flags(s, q, q->flags | BM_IN_USE);
    rc = rc < 0 ? rc : qcow2_barrier(s);
    if (rc == 0) {
        q->b->inconsistent = true;
        q->b->enabled = false;
        log_error(graph_log(s->n->graph), "node '%s': bitmap '%s' can no longer be kept up and is inconsistent now",
                  s->n->name, q->name);
    }
    return rc;
}

int bitmaps_mark_foreign(struct qcow2 *s)
{
    int rc = 0;
    co_lock(&s->bm_lock);
    for (guint i = 0; rc == 0 && s->bitmaps_foreign && i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if ((q->flags & (BM_AUTO | BM_IN_USE)) == BM_AUTO && !usable(q)) {
            rc = put_flags(s, q, q->flags | BM_IN_USE);
        }
    }
    rc = rc < 0 || !s->bitmaps_foreign ? rc : qcow2_barrier(s);
    s->bitmaps_foreign = s->bitmaps_foreign && rc < 0;
    co_unlock(&s->bm_lock);
    return rc;
}

int bitmap_table_write(struct qcow2 *s, const struct q_bitmap *q, uint32_t first, uint32_t past)
{
    uint64_t at = q->table_off + (uint64_t)first * 8, len = (uint64_t)(past - first) * 8;
    CLEANUP_FREE uint8_t *b = g_try_malloc(len);
    if (!b) {
        return -ENOMEM;
    }
    for (uint32_t i = first; i < past; i++) {
        store_be64(b + (size_t)(i - first) * 8, q->table[i]);
    }
    int rc = meta_check(s, at, len, META_BITMAPS);
    return rc < 0 ? rc : file_write_buf(s, at, len, b);
}

static uint64_t entry_len(const struct q_bitmap *q)
{
    return round_up(ENTRY_FIXED + (uint64_t)q->extra_len + strlen(q->name), 8);
}

static void entry_encode(const struct q_bitmap *q, uint8_t *p)
{
    size_t name = strlen(q->name);
    store_be64(p, q->table_off);
    store_be32(p + 8, q->entries);
    store_be32(p + 12, q->flags);
    p[16] = TYPE_DIRTY;
    p[17] = q->granularity_bits;
    store_be16(p + 18, name);
    store_be32(p + 20, q->extra_len);
    if (q->extra_len) {
        memcpy(p + ENTRY_FIXED, q->extra, q->extra_len);
    }
    memcpy(p + ENTRY_FIXED + q->extra_len, q->name, name);
}

static uint64_t dir_len(const struct qcow2 *s)
{
    uint64_t len = 0;
    for (guint i = 0; i < s->bitmaps->len; i++) {
        len += entry_len(g_ptr_array_index(s->bitmaps, i));
    }
    return len;
}

/* [bm_lock] Clusters for the directory, written; refcounts and all are stable. */
static int dir_write(struct qcow2 *s, uint64_t len, uint64_t *off)
{
    CLEANUP_FREE uint8_t *b = g_try_malloc0(q_clusters(s, len) << s->cluster_bits);
    if (!b) {
        return -ENOMEM;
    }
    uint64_t at = 0;
    for (guint i = 0; i < s->bitmaps->len; i++) {
        const struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        entry_encode(q, b + at);
        at += entry_len(q);
    }
    co_lock(&s->lock);
    int rc = clusters_alloc(s, q_clusters(s, len), off);
    co_unlock(&s->lock);
    if (rc < 0) {
        return rc;
    }
    s->file_high = max_u64(s->file_high, *off + (q_clusters(s, len) << s->cluster_bits));
    rc = file_write_buf(s, *off, q_clusters(s, len) << s->cluster_bits, b);
    rc = rc < 0 ? rc : qcow2_refs_stable(s);
    if (rc < 0) {
        clusters_free_now(s, *off, len);
    }
    return rc;
}

static void name_flags(struct qcow2 *s)
{
    uint64_t at = s->bitmap_dir;
    for (guint i = 0; i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        q->flags_at = at + 12;
        at += entry_len(q);
    }
}

int bitmaps_publish(struct qcow2 *s)
{
    uint64_t old = s->bitmap_dir, old_len = s->bitmap_dir_len, len = dir_len(s), off = 0;
    uint32_t old_n = s->n_bitmaps;
    if (len > QCOW2_MAX_BITMAP_DIR || s->bitmaps->len > QCOW2_MAX_BITMAPS) {
        return -EFBIG;
    }
    int rc = len ? dir_write(s, len, &off) : qcow2_refs_stable(s);
    if (rc < 0) {
        return rc;
    }
    s->n_bitmaps = s->bitmaps->len;
    s->bitmap_dir = off;
    s->bitmap_dir_len = len;
    s->h.autoclear = (s->h.autoclear & ~(uint64_t)AUTOCLEAR_BITMAPS) | (len ? AUTOCLEAR_BITMAPS : 0);
    rc = header_write(s);
    s->bitmaps_unsure = rc < 0;
    if (rc < 0) { /* which of the two it names nobody knows: both stay allocated */
        s->n_bitmaps = old_n;
        s->bitmap_dir = old;
        s->bitmap_dir_len = old_len;
        s->h.autoclear = (s->h.autoclear & ~(uint64_t)AUTOCLEAR_BITMAPS) | (old_len ? AUTOCLEAR_BITMAPS : 0);
        return rc;
    }
    if (old_len) {
        meta_remove(s, old, old_len, META_BITMAPS);
        clusters_free_later(s, old, old_len, FREE_OTHER);
    }
    meta_add(s, off, len, META_BITMAPS);
    name_flags(s);
    s->n->write_gen++;
    return 0;
}

/* [bm_lock] A table of `entries` all clean ones. */
static int table_make(struct qcow2 *s, uint32_t entries, struct q_bitmap *q)
{
    uint64_t clusters = q_clusters(s, (uint64_t)entries * 8), off;
    CLEANUP_FREE uint64_t *t = g_try_malloc0((size_t)clusters << s->cluster_bits);
    if (!t) {
        return -ENOMEM;
    }
    co_lock(&s->lock);
    int rc = clusters_alloc(s, clusters, &off);
    co_unlock(&s->lock);
    if (rc < 0) {
        return rc;
    }
    rc = file_write_buf(s, off, clusters << s->cluster_bits, t);
    if (rc < 0) {
        clusters_free_now(s, off, clusters << s->cluster_bits);
        return rc;
    }
    s->file_high = max_u64(s->file_high, off + (clusters << s->cluster_bits));
    meta_add(s, off, (uint64_t)entries * 8, META_BITMAPS);
    q->table = take(t);
    q->table_off = off;
    q->entries = entries;
    return 0;
}

/* Nothing names these any more, or will not when the next flush has come. */
static void table_release(struct qcow2 *s, const struct q_bitmap *q, uint32_t keep, bool table)
{
    for (uint32_t i = keep; q->table && i < q->entries; i++) {
        if (q->table[i] & BME_OFFSET) {
            clusters_free_later(s, q->table[i] & BME_OFFSET, s->cluster_size, FREE_OTHER);
        }
    }
    if (table) {
        meta_remove(s, q->table_off, (uint64_t)q->entries * 8, META_BITMAPS);
        clusters_free_later(s, q->table_off, (uint64_t)q->entries * 8, FREE_OTHER);
    }
}

/* --- adding, changing, removing ----------------------------------------------------------------------------------- */

static int cannot_store(struct qcow2 *s, const char *name, uint32_t granularity, struct err *e)
{
    unsigned bits = log2_floor(granularity);
    if (s->h.version < 3) {
        return err_set(e, ENOTSUP, "Cannot store dirty bitmaps in qcow2 v2 files");
    }
    if (bits > MAX_BITS || bits < MIN_BITS) {
        return err_set(e, EINVAL,
                       bits > MAX_BITS ? "Granularity exceeds maximum (%" PRIu64 " bytes)"
                                       : "Granularity is under minimum (%" PRIu64 " bytes)",
                       UINT64_C(1) << (bits > MAX_BITS ? MAX_BITS : MIN_BITS));
    }
    if (strlen(name) > DIRTY_BITMAP_MAX_NAME) {
        return err_set(e, EINVAL, "Name length exceeds maximum (%u characters)", DIRTY_BITMAP_MAX_NAME);
    }
    if (bitmap_table_size(s, s->n->size, bits) > BM_MAX_PHYS >> s->cluster_bits) {
        return err_set(e, EINVAL, "Too much space will be occupied by the bitmap. Use larger granularity");
    }
    if (s->bitmaps->len >= QCOW2_MAX_BITMAPS) {
        return err_set(e, EINVAL, "Maximum number of persistent bitmaps is already reached");
    }
    if (dir_len(s) + round_up(ENTRY_FIXED + strlen(name), 8) > QCOW2_MAX_BITMAP_DIR) {
        return err_set(e, EINVAL, "Not enough space in the bitmap directory");
    }
    return 0;
}

int qcow2_bitmap_can_store(struct node *n, const char *name, uint32_t granularity, struct err *e)
{
    int rc = cannot_store(n->priv, name, granularity, e);
    return rc < 0 ? err_wrap(e, "Can't make bitmap '%s' persistent in '%s'", name, n->name) : 0;
}

static int add(struct qcow2 *s, struct dirty_bitmap *b, bool enabled)
{
    struct q_bitmap *q = g_new0(struct q_bitmap, 1);
    q->name = g_strdup(b->name);
    q->granularity_bits = log2_floor(b->granularity);
    q->flags = enabled ? BM_AUTO : 0;
    q->b = b;
    int rc = bitmap_units_make(q, bitmap_bits(b->bits));
    rc = rc < 0 ? rc : table_make(s, bitmap_table_size(s, s->n->size, q->granularity_bits), q);
    if (rc < 0) {
        entry_free_all(q);
        return rc;
    }
    g_ptr_array_add(s->bitmaps, q);
    rc = bitmap_narrow(s, q, NARROW_ALL);
    rc = rc < 0 ? rc : bitmaps_publish(s);
    bitmap_marking_ends(s, q, rc == 0);
    if (rc < 0) {
        if (!s->bitmaps_unsure) {
            table_release(s, q, 0, true);
        }
        g_ptr_array_remove(s->bitmaps, q);
    }
    return rc;
}

static int change(struct qcow2 *s, struct q_bitmap *q, bool enabled)
{
    uint32_t old = q->flags, flags = (old & ~(uint32_t)BM_AUTO) | (enabled ? BM_AUTO : 0);
    int rc = 0;
    if (flags != old || s->bitmaps_unsure) {
        q->flags = flags;
        rc = bitmaps_publish(s);
        q->flags = rc < 0 ? old : flags;
    }
    rc = rc < 0 ? rc : bitmap_narrow(s, q, NARROW_ALL);
    rc = rc < 0 ? rc : qcow2_barrier(s);
    bitmap_marking_ends(s, q, rc == 0);
    return rc;
}

static int store(struct qcow2 *s, struct dirty_bitmap *b, bool enabled)
{
    struct q_bitmap *q = bitmap_of(s, b);
    return q ? change(s, q, enabled) : add(s, b, enabled);
}

int qcow2_bitmap_store(struct node *n, struct dirty_bitmap *b, bool enabled, struct err *e)
{
    struct qcow2 *s = n->priv;
    co_lock(&s->bm_lock);
    int rc = s->corrupt ? -EIO : store(s, b, enabled);
    co_unlock(&s->bm_lock);
    return rc < 0 ? err_set_errno(e, -rc, "Could not store bitmap '%s' in '%s'", b->name, n->filename) : 0;
}

int qcow2_bitmap_remove(struct node *n, struct dirty_bitmap *b, struct err *e)
{
    struct qcow2 *s = n->priv;
    int rc = 0;
    guint at = 0;
    co_lock(&s->bm_lock);
    struct q_bitmap *q = bitmap_of(s, b);
    if (q && g_ptr_array_find(s->bitmaps, q, &at)) {
        (void)bitmap_table_read(s, q); /* a broken one leaks what it named */
        g_ptr_array_steal_index(s->bitmaps, at);
        rc = bitmaps_publish(s);
        if (rc < 0) {
            g_ptr_array_insert(s->bitmaps, (gint)at, q);
        } else {
            table_release(s, q, 0, true);
            entry_free_all(q);
        }
    }
    co_unlock(&s->bm_lock);
    return rc < 0 ? err_set_errno(e, -rc, "Failed to remove bitmap '%s' from '%s'", b->name, n->filename) : 0;
}

/* --- another size of the disk ------------------------------------------------------------------------------------- */

int bitmaps_can_resize(struct qcow2 *s, uint64_t size, struct err *e)
{
    for (guint i = 0; i < s->bitmaps->len; i++) {
        const struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        int rc = dirty_bitmap_check(q->b, BITMAP_BUSY | BITMAP_INCONSISTENT, e);
        if (rc < 0) {
            return rc;
        }
        if (bitmap_table_size(s, size, q->granularity_bits) > BM_MAX_PHYS >> s->cluster_bits) {
            return err_set(e, EFBIG, "Bitmap '%s' would be too large for a disk of %" PRIu64 " bytes", q->name, size);
        }
    }
    return 0;
}

static bool fits(const struct qcow2 *s, const struct q_bitmap *q, uint64_t size)
{
    return q->b->inconsistent || q->entries == bitmap_table_size(s, size, q->granularity_bits);
}

/* A table of the right size beside the old one, which is put into `old`. */
static int table_fit(struct qcow2 *s, struct q_bitmap *q, uint64_t size, struct q_bitmap *old)
{
    *old = *q;
    int rc = table_make(s, bitmap_table_size(s, size, q->granularity_bits), q);
    if (rc < 0) {
        old->table = NULL;
        return rc;
    }
    memcpy(q->table, old->table, (size_t)min_u64(q->entries, old->entries) * 8);
    return bitmap_table_write(s, q, 0, q->entries);
}

/* All tables at once, so that each crash finds all of them old, or all new. */
static int fit_tables(struct qcow2 *s, uint64_t size)
{
    guint n = s->bitmaps->len, i;
    CLEANUP_FREE struct q_bitmap *old = g_new0(struct q_bitmap, n + 1);
    int rc = 0;
    for (i = 0; rc == 0 && i < n; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        rc = fits(s, q, size) ? 0 : table_fit(s, q, size, &old[i]);
    }
    rc = rc < 0 ? rc : bitmaps_publish(s);
    for (i = 0; i < n; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i), *o = &old[i];
        if (!o->table) {
            continue;
        }
        if (rc == 0) {
            table_release(s, o, q->entries, true);
        } else { /* the new table leaks, unless nothing can name it */
            if (!s->bitmaps_unsure) {
                table_release(s, q, q->entries, true);
            }
            uint64_t *t = q->table;
            q->table = o->table;
            q->table_off = o->table_off;
            q->entries = o->entries;
            o->table = t;
        }
        g_free(o->table);
    }
    return rc;
}

int bitmaps_resize(struct qcow2 *s, uint64_t size)
{
    bool all_fit = true;
    int rc = 0;
    co_lock(&s->bm_lock);
    for (guint i = 0; rc == 0 && i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if (!q->b->inconsistent) {
            all_fit &= fits(s, q, size);
            rc = bitmap_table_size(s, size, q->granularity_bits) > BM_MAX_PHYS >> s->cluster_bits ? -EFBIG : 0;
            rc = rc < 0 ? rc : bitmap_units_make(q, max_u64(1, div_round_up(size, q->b->granularity)));
        }
    }
    rc = rc < 0 || all_fit ? rc : fit_tables(s, size);
    co_unlock(&s->bm_lock);
    return rc;
}

uint64_t bitmaps_measure(struct node *source, uint64_t cluster_size)
{
    uint64_t dir = 0, size = 0;
    for (guint i = 0; i < source->bitmaps->len; i++) {
        const struct dirty_bitmap *b = g_ptr_array_index(source->bitmaps, i);
        if (b->persistent) {
            uint64_t bytes = div_round_up(div_round_up(source->size, b->granularity), 8);
            uint64_t data = div_round_up(bytes, cluster_size);
            size += (data + div_round_up(data * 8, cluster_size)) * cluster_size;
            dir += round_up(ENTRY_FIXED + strlen(b->name), 8);
        }
    }
    return size + round_up(dir, cluster_size);
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

static bool is_exact(const struct qcow2 *s, const struct dirty_bitmap *b)
{
    const struct q_bitmap *q = bitmap_of(s, b);
    return q && q->stored == b->changes && !bitmap_count(q->durable) && !s->bitmaps_unsure;
}

int qcow2_bitmaps_store(struct node *n, struct err *e)
{
    struct qcow2 *s = n->priv;
    int rc = s->corrupt ? -EIO : s->bitmaps_odd ? bitmaps_resize(s, n->size) : 0;
    s->bitmaps_odd &= rc < 0;
    co_lock(&s->bm_lock);
    for (guint i = 0; rc == 0 && i < n->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        struct q_bitmap *q = b->persistent && b->inconsistent ? bitmap_of(s, b) : NULL;
        if (b->persistent && !b->inconsistent && !is_exact(s, b)) {
            rc = store(s, b, b->enabled);
        } else if (q && usable(q)) { /* since a change of it failed half way */
            rc = bitmap_give_up(s, q);
        }
    }
    co_unlock(&s->bm_lock);
    return rc < 0 ? err_set_errno(e, -rc, "Could not store the bitmaps of '%s'", n->filename) : 0;
}

int bitmaps_drop_all(struct qcow2 *s)
{
    co_lock(&s->bm_lock);
    GPtrArray *all = s->bitmaps;
    s->bitmaps = bitmaps_new();
    int rc = all->len ? bitmaps_publish(s) : 0;
    if (rc < 0) {
        g_ptr_array_unref(s->bitmaps);
        s->bitmaps = all;
    }
    co_unlock(&s->bm_lock);
    if (rc < 0) {
        return rc;
    }
    for (guint i = 0; i < all->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(all, i);
        (void)bitmap_table_read(s, q);
        table_release(s, q, 0, true);
        dirty_bitmap_destroy(q->b);
    }
    g_ptr_array_unref(all);
    return 0;
}

struct json_object *bitmaps_info(const struct qcow2 *s)
{
    struct json_object *list = json_object_new_array();
    for (guint i = 0; i < s->bitmaps->len; i++) {
        const struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        struct json_object *o = json_object_new_object(), *flags = json_object_new_array();
        if (q->flags & BM_IN_USE) {
            json_object_array_add(flags, json_object_new_string("in-use"));
        }
        if (q->flags & BM_AUTO) {
            json_object_array_add(flags, json_object_new_string("auto"));
        }
        json_object_object_add(o, "flags", flags);
        json_object_object_add(o, "name", json_object_new_string(q->name));
        json_object_object_add(o, "granularity", json_object_new_int64(INT64_C(1) << q->granularity_bits));
        json_object_array_add(list, o);
    }
    return list;
}

int bitmaps_walk(struct qcow2 *s, bitmap_range_fn *fn, void *opaque, unsigned *broken)
{
    int rc = s->n_bitmaps ? fn(opaque, s->bitmap_dir, s->bitmap_dir_len) : 0;
    for (guint i = 0; rc == 0 && i < s->bitmaps->len; i++) {
        struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        int bad = bitmap_table_read(s, q);
        *broken += bad < 0;
        rc = fn(opaque, q->table_off, (uint64_t)q->entries * 8);
        for (uint32_t k = 0; bad == 0 && rc == 0 && k < q->entries; k++) {
            uint64_t off = q->table[k] & BME_OFFSET;
            rc = off ? fn(opaque, off, s->cluster_size) : 0;
        }
    }
    return rc;
}

void bitmaps_meta(struct qcow2 *s)
{
    if (s->n_bitmaps) {
        meta_add(s, s->bitmap_dir, s->bitmap_dir_len, META_BITMAPS);
    }
    for (guint i = 0; i < s->bitmaps->len; i++) {
        const struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        meta_add(s, q->table_off, (uint64_t)q->entries * 8, META_BITMAPS);
    }
}
