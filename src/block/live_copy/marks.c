/* SPDX-License-Identifier: BSD-2-Clause */
/* The bitmap: marking regions before they are written to, and clearing them when both sides have what was written. */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"

#include <stdlib.h>

enum { BLOCK_HEAD = 8, READ_SIZE = 1 << 20 };

/* --- the image in memory ------------------------------------------------------------------------------------------ */

static uint8_t *image_byte(struct lc *s, uint64_t region)
{
    return s->image + region / LC_BLOCK_REGIONS * LC_BLOCK + BLOCK_HEAD + region % LC_BLOCK_REGIONS / 8;
}

static void page_changed(struct lc *s, uint64_t region)
{
    bitmap_set(s->dirty_pages, region / LC_BLOCK_REGIONS * LC_BLOCK / LC_PAGE, 1);
}

static void set_mark(struct lc *s, uint64_t region)
{
    bitmap_set(s->marked, region, 1);
    bitmap_set(s->pending, region, 1);
    *image_byte(s, region) |= (uint8_t)(1 << region % 8);
    page_changed(s, region);
}

void lc_unmark(struct lc *s, uint64_t region)
{
    bitmap_clear(s->marked, region, 1);
    bitmap_clear(s->pending, region, 1);
    *image_byte(s, region) &= (uint8_t) ~(1 << region % 8);
    page_changed(s, region);
}

void lc_range(const struct lc *s, uint64_t off, uint64_t len, uint64_t *first, uint64_t *count)
{
    *first = off >> s->head.bits;
    *count = len ? ((off + len - 1) >> s->head.bits) - *first + 1 : 0;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static void block_seal(uint8_t *block, uint64_t number)
{
    store_be32(block + 4, (uint32_t)number);
    store_be32(block, crc32c(0, block + 4, LC_BLOCK - 4));
}

/* Takes over the regions of one block that has been read. */
static void load_block(struct lc *s, uint64_t number)
{
    uint8_t *block = s->image + number * LC_BLOCK;
    uint64_t first = number * LC_BLOCK_REGIONS, count = min_u64(LC_BLOCK_REGIONS, s->regions - first);
    bool valid = crc32c(0, block + 4, LC_BLOCK - 4) == load_be32(block) && load_be32(block + 4) == number;
    if (!valid) {
        s->bad_blocks += !buf_is_zero(block, LC_BLOCK);
        memset(block + BLOCK_HEAD, 0xff, LC_BLOCK - BLOCK_HEAD);
    }
    for (uint64_t i = count; i < LC_BLOCK_REGIONS; i++) { /* beyond the end of the disk */
        block[BLOCK_HEAD + i / 8] &= (uint8_t) ~(1 << i % 8);
    }
    for (uint64_t i = 0, run; i < count; i += run) {
        bool on = block[BLOCK_HEAD + i / 8] >> i % 8 & 1;
        for (run = 1; i + run < count && (block[BLOCK_HEAD + (i + run) / 8] >> (i + run) % 8 & 1) == on; run++) {
        }
        if (on) {
            bitmap_set(s->marked, first + i, run);
        }
    }
}

static int load(struct lc *s, struct err *e)
{
    uint64_t size = s->blocks * LC_BLOCK;
    for (uint64_t at = 0, n; at < size; at += n) {
        n = min_u64(size - at, READ_SIZE);
        int rc = edge_read_buf(s->file, LC_BITMAP_AT + at, n, s->image + at);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Could not read the bitmap of the live copy");
        }
    }
    for (uint64_t i = 0; i < s->blocks; i++) {
        load_block(s, i);
    }
    return 0;
}

int lc_marks_open(struct lc *s, struct err *e)
{
    struct bitmap **maps[] = {&s->marked, &s->pending, &s->committing, &s->stale, &s->recent, &s->older, &s->settling};
    s->regions = lc_regions(&s->head);
    s->blocks = div_round_up(s->regions, LC_BLOCK_REGIONS);
    s->pages = div_round_up(s->blocks * LC_BLOCK, LC_PAGE);
    bool ok = (s->image = calloc(s->pages, LC_PAGE)) && (s->dirty_pages = bitmap_create(s->pages));
    for (size_t i = 0; ok && i < G_N_ELEMENTS(maps); i++) {
        ok = (*maps[i] = bitmap_create(s->regions)) != NULL;
    }
    int rc = ok ? load(s, e) : err_set(e, ENOMEM, "No memory for a bitmap of %" PRIu64 " regions", s->regions);
    if (rc) {
        lc_marks_close(s);
    }
    return rc;
}

void lc_marks_close(struct lc *s)
{
    struct bitmap **maps[] = {&s->marked, &s->pending, &s->committing, &s->stale,
                              &s->recent, &s->older,   &s->settling,   &s->dirty_pages};
    for (size_t i = 0; i < G_N_ELEMENTS(maps); i++) {
        bitmap_destroy(*maps[i]);
        *maps[i] = NULL;
    }
    free(take(s->image));
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static int write_page(struct lc *s, uint64_t page, uint8_t *buf)
{
    memcpy(buf, s->image + page * LC_PAGE, LC_PAGE); /* bits may change while it is being written */
    for (uint64_t i = 0; i < LC_PAGE / LC_BLOCK; i++) {
        uint64_t number = page * (LC_PAGE / LC_BLOCK) + i;
        if (number < s->blocks) {
            block_seal(buf + i * LC_BLOCK, number);
        }
    }
    bitmap_clear(s->dirty_pages, page, 1);
    int rc = edge_write_buf(s->file, LC_BITMAP_AT + page * LC_PAGE, LC_PAGE, buf, 0);
    if (rc < 0) {
        bitmap_set(s->dirty_pages, page, 1);
    }
    return rc;
}

static int write_pages(struct lc *s)
{
    uint8_t *buf = block_buf_alloc(s->file->child, LC_PAGE);
    int rc = buf ? 0 : -ENOMEM;
    for (uint64_t page = 0; rc == 0 && (page = bitmap_next_set(s->dirty_pages, page, s->pages)) < s->pages; page++) {
        rc = write_page(s, page, buf);
    }
    free(buf);
    return rc < 0 ? rc : 0;
}

static void move_bits(struct bitmap *to, struct bitmap *from)
{
    bitmap_or(to, from);
    bitmap_clear(from, 0, bitmap_bits(from));
}

int lc_marks_write(struct lc *s, bool stable)
{
    struct bitmap *written = s->pending;
    s->pending = s->committing; /* empty: only the holder of the lock fills it */
    s->committing = written;
    int rc = write_pages(s);
    if (rc == 0 && stable) {
        rc = edge_flush(s->file);
    }
    if (rc == 0 && stable) {
        bitmap_clear(s->committing, 0, s->regions);
        return 0;
    }
    if (rc < 0) { /* what was written before a failed flush may be lost */
        for (uint64_t r = 0; (r = bitmap_next_set(s->committing, r, s->regions)) < s->regions; r++) {
            page_changed(s, r);
        }
    }
    move_bits(s->pending, s->committing);
    return rc < 0 ? rc : 0;
}

void lc_marks_rewrite(struct lc *s)
{
    bitmap_set(s->dirty_pages, 0, s->pages);
}

static bool on_disk(const struct lc *s, uint64_t first, uint64_t end)
{
    return bitmap_next_set(s->pending, first, end) == end && bitmap_next_set(s->committing, first, end) == end;
}

int lc_mark(struct lc *s, uint64_t first, uint64_t count)
{
    uint64_t end = first + count;
    for (uint64_t r = first; (r = bitmap_next_clear(s->marked, r, end)) < end;) {
        set_mark(s, r);
    }
    lc_touch(s, first, count);
    int rc = 0;
    while (rc == 0 && !on_disk(s, first, end)) { /* one flush serves all that wait for the lock */
        co_lock(&s->meta_lock);
        if (bitmap_next_set(s->pending, first, end) < end) {
            rc = lc_marks_write(s, true);
        }
        co_unlock(&s->meta_lock);
    }
    return rc;
}

/* --- clearing ----------------------------------------------------------------------------------------------------- */

void lc_touch(struct lc *s, uint64_t first, uint64_t count)
{
    bitmap_set(s->recent, first, count);
    if (!s->sweep_at) {
        s->sweep_at = loop_now_ns() + s->opt.record_ms * 1000000;
        lc_keeper_alarm(s, s->sweep_at);
    }
}

/* What changed neither since the last sweep nor is changing now moves to `settling`; the others grow older. */
static void rotate(struct lc *s)
{
    for (GList *l = s->ops.head; l; l = l->next) {
        const struct lc_op *op = l->data;
        bitmap_set(s->recent, op->first, op->count);
    }
    for (uint64_t r = 0; (r = bitmap_next_set(s->older, r, s->regions)) < s->regions; r++) {
        if (!bitmap_test(s->recent, r) && !bitmap_test(s->stale, r)) {
            bitmap_set(s->settling, r, 1);
        }
    }
    bitmap_clear(s->older, 0, s->regions);
    move_bits(s->older, s->recent);
}

void lc_sweep(struct lc *s)
{
    s->sweep_at = 0;
    rotate(s);
    if (bitmap_count(s->settling)) {
        int rc = lc_flush_sides(s, true);
        for (uint64_t r = 0; (r = bitmap_next_set(s->settling, r, s->regions)) < s->regions; r++) {
            if (rc == 0 && !bitmap_test(s->recent, r) && !bitmap_test(s->stale, r)) {
                lc_unmark(s, r);
            } else {
                bitmap_set(s->recent, r, 1);
            }
        }
        bitmap_clear(s->settling, 0, s->regions);
        co_lock(&s->meta_lock);
        lc_marks_write(s, false); /* when it fails the pages stay dirty: the next sweep writes them */
        co_unlock(&s->meta_lock);
        lc_changed(s);
    }
    if (bitmap_count(s->recent) || bitmap_count(s->older) || bitmap_count(s->dirty_pages)) {
        s->sweep_at = loop_now_ns() + s->opt.record_ms * 1000000;
    }
}

void lc_sweep_all(struct lc *s)
{
    int rc = lc_flush_sides(s, true);
    uint64_t end = s->regions;
    for (uint64_t r = 0; rc == 0 && (r = bitmap_next_set(s->marked, r, end)) < end;) {
        if (bitmap_test(s->stale, r)) {
            r = bitmap_next_clear(s->stale, r, end);
        } else {
            lc_unmark(s, r++);
        }
    }
    co_lock(&s->meta_lock);
    rc = lc_marks_write(s, true);
    co_unlock(&s->meta_lock);
    if (rc < 0) {
        log_warn(graph_log(s->n->graph), "node '%s': how far its copy is could not be recorded: %s", s->n->name,
                 g_strerror(-rc));
    }
}
