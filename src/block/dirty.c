/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/dirty.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
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

static uint64_t granules(const struct node *n, uint32_t granularity)
{
    return max_u64(1, div_round_up(n->size, granularity));
}

static int make(struct node *n, const char *name, uint32_t granularity, uint64_t bits, struct dirty_bitmap **out,
                struct err *e)
{
    *out = NULL;
    if (name && dirty_bitmap_find(n, name)) {
        return err_set(e, EEXIST, "Bitmap already exists: %s", name);
    }
    if (name && strlen(name) > DIRTY_BITMAP_MAX_NAME) {
        return err_set(e, EINVAL, "Bitmap name too long: %s", name);
    }
    struct bitmap *map = bitmap_create(bits);
    if (!map) {
        return err_set(e, ENOMEM, "Not enough memory for a dirty bitmap of node '%s'", n->name);
    }
    struct dirty_bitmap *b = g_new0(struct dirty_bitmap, 1);
    *b = (struct dirty_bitmap){.node = n, .name = g_strdup(name), .granularity = granularity, .bits = map};
    g_ptr_array_add(n->bitmaps, b);
    *out = b;
    return 0;
}

int dirty_bitmap_create(struct node *n, const char *name, uint32_t granularity, struct dirty_bitmap **out,
                        struct err *e)
{
    *out = NULL;
    if (granularity && (granularity < 512 || granularity > 1u << 31 || !is_pow2(granularity))) {
        return err_set(e, EINVAL, "Granularity must be a power of 2 from 512 to 2 GiB, not %u", granularity);
    }
    granularity = granularity ? granularity : default_granularity(n);
    int rc = make(n, name, granularity, granules(n, granularity), out, e);
    if (rc == 0) {
        (*out)->enabled = true;
    }
    return rc;
}

int dirty_bitmap_create_inconsistent(struct node *n, const char *name, uint32_t granularity, struct dirty_bitmap **out,
                                     struct err *e)
{
    int rc = make(n, name, granularity, 1, out, e);
    if (rc == 0) {
        (*out)->inconsistent = (*out)->persistent = true;
    }
    return rc;
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
        b->changes += bitmap_set(b->bits, first, last - first + 1);
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
        b->changes += bitmap_clear(b->bits, first, past - first);
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

int node_intend_dirty(struct node *n, uint64_t off, uint64_t len)
{
    for (guint i = 0; n->drv->bitmaps_intend && len && i < n->bitmaps->len; i++) {
        const struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        uint64_t first = off / b->granularity, past = (off + len - 1) / b->granularity + 1;
        if (b->enabled && b->persistent && bitmap_next_clear(b->bits, first, past) < past) {
            return n->drv->bitmaps_intend(n, off, len);
        }
    }
    return 0;
}

void node_resize_bitmaps(struct node *n)
{
    for (guint i = 0; i < n->bitmaps->len; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        if (b->inconsistent) {
            continue;
        }
        b->changes++;
        if (!bitmap_resize(b->bits, granules(n, b->granularity))) {
            b->inconsistent = true; /* claims nothing any more rather than too little */
            b->enabled = false;
            log_error(n->graph->log, "node '%s': dirty bitmap '%s' could not grow with it", n->name,
                      b->name ? b->name : "");
        }
    }
}

/* --- for users ---------------------------------------------------------------------------------------------------- */

char *dirty_bitmap_sha256(const struct dirty_bitmap *b)
{
    GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
    uint64_t words = div_round_up(bitmap_bits(b->bits), 64), part[512];
    for (uint64_t i = 0; i < words;) {
        unsigned n = 0;
        for (; n < G_N_ELEMENTS(part) && i < words; i++) {
            store_le64(&part[n++], bitmap_word(b->bits, i));
        }
        g_checksum_update(sum, (const guchar *)part, (gssize)(n * sizeof(part[0])));
    }
    char *text = g_strdup(g_checksum_get_string(sum));
    g_checksum_free(sum);
    return text;
}

int dirty_bitmap_check(const struct dirty_bitmap *b, unsigned against, struct err *e)
{
    if ((against & BITMAP_BUSY) && b->busy) {
        return err_set(e, EBUSY, "Bitmap '%s' is currently in use by another operation and cannot be used", b->name);
    }
    if ((against & BITMAP_READ_ONLY) && b->persistent && (b->node->read_only || b->node->inactive)) {
        return err_set(e, EACCES, "Bitmap '%s' is readonly and cannot be modified", b->name);
    }
    if ((against & BITMAP_INCONSISTENT) && b->inconsistent) {
        return err_set(e, EINVAL, "Bitmap '%s' is inconsistent and cannot be used", b->name);
    }
    return 0;
}

struct dirty_bitmap *dirty_bitmap_lookup(struct node *n, const char *name, struct err *e)
{
    struct dirty_bitmap *b = dirty_bitmap_find(n, name);
    if (!b) {
        err_set(e, ENOENT, "Dirty bitmap '%s' not found", name);
    }
    return b;
}

bool node_keeps_bitmaps(struct node *n)
{
    return n->drv->bitmap_can_store && n->drv->bitmap_can_store(n, "", 1u << 31, NULL) == 0;
}

static int can_store(struct node *n, const struct bitmap_spec *spec, struct err *e)
{
    uint32_t granularity = spec->granularity ? spec->granularity : default_granularity(n);
    if (!n->drv->bitmap_can_store) {
        return err_set_errno(e, ENOTSUP, "Can't store persistent bitmaps to %s", n->name);
    }
    if (n->read_only) {
        return err_set(e, EACCES, "Can't make bitmap '%s' persistent in '%s', which is read-only", spec->name, n->name);
    }
    if (n->inactive) {
        return err_set(e, EACCES, "Can't make bitmap '%s' persistent in '%s', which is inactive", spec->name, n->name);
    }
    return n->drv->bitmap_can_store(n, spec->name, granularity, e);
}

int node_bitmap_add(struct node *n, const struct bitmap_spec *spec, struct dirty_bitmap **out, struct err *e)
{
    struct dirty_bitmap *b;
    if (!*spec->name) {
        return err_set(e, EINVAL, "Bitmap name cannot be empty");
    }
    if (spec->has_granularity && (spec->granularity < 512 || !is_pow2(spec->granularity))) {
        return err_set(e, EINVAL, "Granularity must be power of 2 and at least 512");
    }
    int rc = spec->persistent ? can_store(n, spec, e) : 0;
    rc = rc < 0 ? rc : dirty_bitmap_create(n, spec->name, spec->granularity, &b, e);
    if (rc < 0) {
        return rc;
    }
    b->enabled = !spec->disabled;
    b->persistent = spec->persistent;
    rc = dirty_bitmap_store(b, e);
    if (rc < 0) {
        dirty_bitmap_destroy(b);
        return rc;
    }
    if (out) {
        *out = b;
    }
    return 0;
}

int node_bitmap_remove(struct dirty_bitmap *b, struct err *e)
{
    int rc = dirty_bitmap_check(b, BITMAP_BUSY | BITMAP_READ_ONLY, e);
    if (rc == 0 && b->persistent && b->node->drv->bitmap_remove) {
        rc = b->node->drv->bitmap_remove(b->node, b, e);
    }
    if (rc == 0) {
        dirty_bitmap_destroy(b);
    }
    return rc;
}

static int copy_bits(const struct dirty_bitmap *b, struct bitmap **out, struct err *e)
{
    *out = bitmap_create(bitmap_bits(b->bits));
    if (!*out) {
        return err_set(e, ENOMEM, "Not enough memory for a copy of bitmap '%s'", b->name);
    }
    bitmap_or(*out, b->bits);
    return 0;
}

static void set_bits(struct dirty_bitmap *b, const struct bitmap *bits)
{
    bitmap_clear(b->bits, 0, bitmap_bits(b->bits));
    bitmap_or(b->bits, bits);
    b->changes++;
}

/* The image gets what b was together with what it is. Nothing else sees b meanwhile but who lists bitmaps. */
static int store_held(struct dirty_bitmap *b, struct err *e)
{
    bool enabled = b->enabled;
    struct bitmap *bits;
    int rc = copy_bits(b, &bits, e);
    if (rc < 0) {
        return rc;
    }
    bitmap_or(b->bits, b->held->bits);
    b->enabled = b->enabled || b->held->enabled;
    rc = b->node->drv->bitmap_store(b->node, b, b->enabled, e);
    set_bits(b, bits);
    b->enabled = enabled;
    bitmap_destroy(bits);
    return rc;
}

int dirty_bitmap_store(struct dirty_bitmap *b, struct err *e)
{
    const struct block_driver *drv = b->node->drv;
    if (!b->persistent || !drv->bitmap_store) {
        return 0;
    }
    return b->held ? store_held(b, e) : drv->bitmap_store(b->node, b, b->enabled, e);
}

int dirty_bitmap_enable(struct dirty_bitmap *b, bool on, struct err *e)
{
    const struct block_driver *drv = b->node->drv;
    int rc = dirty_bitmap_check(b, BITMAP_CHANGE, e);
    if (rc < 0 || b->enabled == on) {
        return rc;
    }
    b->enabled = true; /* also while the image still says so */
    if (b->held) {
        rc = on ? dirty_bitmap_store(b, e) : 0;
    } else if (b->persistent && drv->bitmap_store) {
        rc = drv->bitmap_store(b->node, b, on, e);
    }
    b->enabled = rc == 0 ? on : !on;
    return rc;
}

/* --- changes that can be taken back --- */

int dirty_bitmap_hold(struct dirty_bitmap *b, struct bitmap_saved *s, struct err *e)
{
    *s = (struct bitmap_saved){.enabled = b->enabled};
    int rc = b->inconsistent ? 0 : copy_bits(b, &s->bits, e);
    if (rc == 0 && !b->held && s->bits) {
        b->held = s;
    }
    return rc;
}

static void release(struct dirty_bitmap *b, struct bitmap_saved *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (b->held == s) {
        b->held = NULL;
        if (dirty_bitmap_store(b, &e) < 0) {
            log_warn(b->node->graph->log, "node '%s': the image has more of dirty bitmap '%s' than there is: %s",
                     b->node->name, b->name, err_text(&e));
        }
    }
    bitmap_destroy(take(s->bits));
}

void dirty_bitmap_keep(struct dirty_bitmap *b, struct bitmap_saved *s)
{
    release(b, s);
}

void dirty_bitmap_put_back(struct dirty_bitmap *b, struct bitmap_saved *s)
{
    if (s->bits) {
        set_bits(b, s->bits);
        b->enabled = s->enabled;
    }
    release(b, s);
}

/* --- bits --- */

/* The change could not be stored, nor what was before: nobody knows what the image has of it. */
static void lost(struct dirty_bitmap *b, const struct err *e)
{
    b->inconsistent = true;
    b->enabled = false;
    log_error(b->node->graph->log, "node '%s': dirty bitmap '%s' is inconsistent: %s", b->node->name, b->name,
              err_text(e));
}

/*
 * Writes stand still meanwhile: a granule that is dirty in memory because of others' bits, and not yet in the image,
 * would not be marked in the image before it is written.
 */
static int change_bits(struct dirty_bitmap *b, void (*fn)(struct dirty_bitmap *b, void *arg), void *arg, struct err *e)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    struct bitmap *was;
    struct node *n = b->node;
    if (!b->persistent) {
        fn(b, arg);
        return 0;
    }
    node_drain_begin(n);
    int rc = copy_bits(b, &was, e);
    if (rc == 0) {
        fn(b, arg);
        rc = dirty_bitmap_store(b, e);
        if (rc < 0) {
            set_bits(b, was);
            if (!b->held && dirty_bitmap_store(b, &why) < 0) {
                lost(b, &why);
            }
        }
        bitmap_destroy(was);
    }
    node_drain_end(n);
    return rc;
}

static void clear_all(struct dirty_bitmap *b, void *arg)
{
    b->changes += bitmap_clear(b->bits, 0, bitmap_bits(b->bits));
}

static void add_all(struct dirty_bitmap *b, void *arg)
{
    uint64_t size = b->node->size;
    for (uint64_t off = 0, len; dirty_bitmap_next(arg, &off, &len, size, 0); off += len) {
        dirty_bitmap_set(b, off, len);
    }
}

int dirty_bitmap_reset(struct dirty_bitmap *b, struct err *e)
{
    int rc = dirty_bitmap_check(b, BITMAP_CHANGE, e);
    if (rc == 0 && b->held) { /* the image loses nothing yet */
        clear_all(b, NULL);
        return 0;
    }
    return rc < 0 ? rc : change_bits(b, clear_all, NULL, e);
}

int dirty_bitmap_merge(struct dirty_bitmap *dst, struct dirty_bitmap *src, struct err *e)
{
    int rc = dirty_bitmap_check(dst, BITMAP_CHANGE, e);
    rc = rc < 0 ? rc : dirty_bitmap_check(src, BITMAP_READ, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t size = dst->node->size, from = src->node->size;
    if (size != from) {
        return err_set(e, EINVAL,
                       "Bitmaps are of different sizes (destination size is %" G_GUINT64_FORMAT
                       ", source size is %" G_GUINT64_FORMAT ") and can't be merged",
                       size, from);
    }
    return change_bits(dst, add_all, src, e);
}
