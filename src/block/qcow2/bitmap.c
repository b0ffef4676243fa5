/* SPDX-License-Identifier: BSD-2-Clause */
/* Bitmap directory: read to know what it occupies; kept as it is. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>

/* One entry of the directory; false: it does not hold together. */
struct bitmap_entry {
    uint64_t table;
    uint32_t entries, flags;
    size_t len; /* in the directory */
};

static bool bitmap_entry_load(const uint8_t *dir, uint64_t len, uint64_t at, struct bitmap_entry *b)
{
    if (!range_ok(at, 24, len)) {
        return false;
    }
    const uint8_t *p = dir + at;
    b->table = load_be64(p);
    b->entries = load_be32(p + 8);
    b->flags = load_be32(p + 12);
    b->len = round_up(UINT64_C(24) + load_be32(p + 20) + load_be16(p + 18), 8);
    return range_ok(at, b->len, len);
}

static int read_dir(struct qcow2 *s, uint8_t **out)
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

int bitmaps_load(struct qcow2 *s, struct err *e)
{
    CLEANUP_FREE uint8_t *dir = NULL;
    if (!s->n_bitmaps) {
        return 0;
    }
    int rc = read_dir(s, &dir);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Image '%s': Could not read bitmap directory", s->n->filename);
    }
    uint64_t at = 0;
    for (uint32_t i = 0; i < s->n_bitmaps; i++) {
        struct bitmap_entry b;
        bool ok = bitmap_entry_load(dir, s->bitmap_dir_len, at, &b) && !(b.table & (s->cluster_size - 1));
        if (!ok || !range_ok(b.table, (uint64_t)b.entries * 8, edge_size(s->file))) {
            return err_set(e, EINVAL, "Image '%s': bitmap directory is broken at entry %" PRIu32, s->n->filename, i);
        }
        at += b.len;
    }
    return 0;
}

/* "in use" and "auto": the two lowest flags. A bitmap that was tracking has missed something from now on. */
static int mark_bitmaps(struct qcow2 *s)
{
    CLEANUP_FREE uint8_t *dir = NULL;
    uint64_t at = 0;
    bool changed = false;
    int rc = read_dir(s, &dir);
    for (uint32_t i = 0; rc == 0 && i < s->n_bitmaps; i++) {
        struct bitmap_entry b;
        if (!bitmap_entry_load(dir, s->bitmap_dir_len, at, &b)) {
            return -EIO;
        }
        if ((b.flags & 3) == 2) {
            store_be32(dir + at + 12, b.flags | 1);
            changed = true;
        }
        at += b.len;
    }
    if (rc == 0 && changed) {
        rc = file_write_buf(s, s->bitmap_dir, s->bitmap_dir_len, dir);
        rc = rc < 0 ? rc : qcow2_barrier(s);
    }
    return rc;
}

int bitmaps_mark(struct qcow2 *s)
{
    int rc = 0;
    co_lock(&s->lock);
    if (!s->bitmaps_marked && s->n_bitmaps) {
        rc = mark_bitmaps(s);
    }
    s->bitmaps_marked = rc == 0;
    co_unlock(&s->lock);
    return rc;
}

static int walk_table(struct qcow2 *s, const struct bitmap_entry *b, bitmap_range_fn *fn, void *opaque)
{
    int rc = fn(opaque, b->table, (uint64_t)b->entries * 8);
    for (uint32_t i = 0; rc == 0 && i < b->entries; i += 512) {
        uint8_t part[512 * 8];
        uint32_t n = min_u64(512, b->entries - i);
        rc = file_read_buf(s->file, b->table + (uint64_t)i * 8, (uint64_t)n * 8, part);
        for (uint32_t k = 0; rc == 0 && k < n; k++) {
            uint64_t off = load_be64(part + (size_t)k * 8) & L2E_OFFSET;
            rc = off ? fn(opaque, off, s->cluster_size) : 0;
        }
    }
    return rc;
}

int bitmaps_walk(struct qcow2 *s, bitmap_range_fn *fn, void *opaque)
{
    CLEANUP_FREE uint8_t *dir = NULL;
    if (!s->n_bitmaps) {
        return 0;
    }
    int rc = read_dir(s, &dir);
    rc = rc < 0 ? rc : fn(opaque, s->bitmap_dir, s->bitmap_dir_len);
    uint64_t at = 0;
    for (uint32_t i = 0; rc == 0 && i < s->n_bitmaps; i++) {
        struct bitmap_entry b;
        if (!bitmap_entry_load(dir, s->bitmap_dir_len, at, &b)) {
            return -EIO;
        }
        rc = walk_table(s, &b, fn, opaque);
        at += b.len;
    }
    return rc;
}
