/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/dirty.h"

#include "base/checked.h"
#include "block/driver.h"
#include "block/internal.h"

#include <string.h>

static uint32_t default_granularity(struct node *n)
{
    struct driver_info info = {0};
    struct node *top = node_skip_filters(n);
    if (top->drv->get_info && top->drv->get_info(top, &info) == 0 && info.cluster_size) {
        return MAX(4096u, MIN(65536u, info.cluster_size));
    }
    return 65536;
}

static uint64_t granules(const struct dirty_bitmap *b)
{
    return max_u64(1, div_round_up(b->node->size, b->granularity));
}

int dirty_bitmap_create(struct node *n, const char *name, uint32_t granularity, struct dirty_bitmap **out,
                        struct err *e)
{
    *out = NULL;
    if (granularity && (granularity < 512 || granularity > 1u << 31 || !is_pow2(granularity))) {
        return err_set(e, EINVAL, "Granularity must be a power of 2 from 512 to 2 GiB, not %u", granularity);
    }
    if (name && dirty_bitmap_find(n, name)) {
        return err_set(e, EEXIST, "Bitmap already exists: %s", name);
    }
    if (name && strlen(name) > 1023) {
        return err_set(e, EINVAL, "Bitmap name too long: %s", name);
    }
    struct dirty_bitmap *b = g_new0(struct dirty_bitmap, 1);
    b->node = n;
    b->granularity = granularity ? granularity : default_granularity(n);
    b->enabled = true;
    b->bits = bitmap_create(granules(b));
    if (!b->bits) {
        g_free(b);
        return err_set(e, ENOMEM, "Not enough memory for a dirty bitmap of node '%s'", n->name);
    }
    b->name = g_strdup(name);
    g_ptr_array_add(n->bitmaps, b);
    *out = b;
    return 0;
}

void dirty_bitmap_destroy(struct dirty_bitmap *b)
{
    if (!b) {
        return;
    }
    g_ptr_array_remove(b->node->bitmaps, b);
    bitmap_destroy(b->bits);
    g_free(b->name);
    g_free(b);
}

struct dirty_bitmap *dirty_bitmap_find(struct node *n, const char *name)
{
    for (guint i = 0; i < n->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        if (b->name && !strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

/* Clips to the map, so that a range beyond the node's end is harmless. */
static bool granule_range(const struct dirty_bitmap *b, uint64_t *off, uint64_t *len)
{
    uint64_t end = bitmap_bits(b->bits) * b->granularity;
    if (*off >= end || !*len) {
        return false;
    }
    *len = min_u64(*len, end - *off);
    return true;
}

void dirty_bitmap_set(struct dirty_bitmap *b, uint64_t off, uint64_t len)
{
    if (granule_range(b, &off, &len)) {
        uint64_t first = off / b->granularity, last = (off + len - 1) / b->granularity;
        bitmap_set(b->bits, first, last - first + 1);
    }
}

void dirty_bitmap_clear(struct dirty_bitmap *b, uint64_t off, uint64_t len)
{
    if (!granule_range(b, &off, &len)) {
        return;
    }
    uint64_t end = off + len;
    uint64_t first = div_round_up(off, b->granularity);
    /* The last granule is whole when the node ends in it. */
    uint64_t past = end >= b->node->size ? bitmap_bits(b->bits) : end / b->granularity;
    if (first < past) {
        bitmap_clear(b->bits, first, past - first);
    }
}

bool dirty_bitmap_next(struct dirty_bitmap *b, uint64_t *off, uint64_t *len, uint64_t end, uint64_t max)
{
    end = min_u64(end, b->node->size);
    if (*off >= end) {
        return false;
    }
    uint64_t g = b->granularity, bits = div_round_up(end, g);
    uint64_t first = bitmap_next_set(b->bits, *off / g, bits);
    if (first >= bits) {
        return false;
    }
    uint64_t start = max_u64(*off, first * g);
    uint64_t limit = max && max < end - start ? start + max : end;
    uint64_t past = bitmap_next_clear(b->bits, first, div_round_up(limit, g));
    *off = start;
    *len = min_u64(past * g, limit) - start;
    return true;
}

uint64_t dirty_bitmap_bytes(const struct dirty_bitmap *b)
{
    uint64_t bytes = bitmap_count(b->bits) * b->granularity, size = b->node->size;
    uint64_t bits = bitmap_bits(b->bits);
    if (size && size % b->granularity && bitmap_test(b->bits, bits - 1)) {
        bytes -= b->granularity - size % b->granularity;
    }
    return bytes;
}

void node_mark_dirty(struct node *n, uint64_t off, uint64_t len)
{
    for (guint i = 0; i < n->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        if (b->enabled) {
            dirty_bitmap_set(b, off, len);
        }
    }
}

void node_resize_bitmaps(struct node *n)
{
    for (guint i = 0; i < n->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        if (!bitmap_resize(b->bits, granules(b))) {
            b->inconsistent = true; /* claims nothing any more rather than too little */
            b->enabled = false;
            log_error(n->graph->log, "node '%s': dirty bitmap '%s' could not grow with it", n->name,
                      b->name ? b->name : "");
        }
    }
}
