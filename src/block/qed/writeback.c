/* SPDX-License-Identifier: BSD-2-Clause */
/* The order in which dirty tables reach the file, and the way back to a file without the need-check bit. */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/endian.h"
#include "block/debug.h"

#include <stdlib.h>
#include <string.h>

enum { DIRTY_MAX = 256 };                                  /* slices */
#define SETTLE_AFTER_NS (UINT64_C(5) * 1000 * 1000 * 1000) /* as QEMU */

/* --- pictures ----------------------------------------------------------------------------------------------------- */

struct shot {
    struct qed_slice *slice;
    uint8_t *copy;
};
struct l1_shot {
    uint64_t first, count;
    uint8_t *copy;
};

/* What is dirty, as it is now; its slices stay in the cache until it is written. */
struct picture {
    GArray *slices, *l1;
    bool unstable; /* what the entries name must be stable first */
};

static void picture_free(struct qed *s, struct picture *p, bool written)
{
    for (guint i = 0; i < p->slices->len; i++) {
        struct shot *shot = &g_array_index(p->slices, struct shot, i);
        shot->slice->users--;
        if (!written) {
            qed_cache_dirty(&s->cache, shot->slice, true);
        }
        free(shot->copy);
    }
    for (guint i = 0; i < p->l1->len; i++) {
        struct l1_shot *shot = &g_array_index(p->l1, struct l1_shot, i);
        if (!written) {
            bitmap_set(s->l1_dirty, shot->first, shot->count);
        }
        g_free(shot->copy);
    }
    g_array_free(p->slices, TRUE);
    g_array_free(p->l1, TRUE);
    s->unstable |= p->unstable;
}

static int take_slices(struct qed *s, struct picture *p)
{
    while (s->cache.dirty.head) {
        struct shot shot = {s->cache.dirty.head->data, block_buf_alloc(s->file->child, s->cache.slice_bytes)};
        if (!shot.copy) {
            return -ENOMEM;
        }
        memcpy(shot.copy, shot.slice->e, s->cache.slice_bytes);
        shot.slice->users++;
        qed_cache_dirty(&s->cache, shot.slice, false);
        g_array_append_val(p->slices, shot);
    }
    return 0;
}

static int take_l1(struct qed *s, struct picture *p)
{
    uint64_t i = 0, end = s->l1_used;
    while (end && (i = bitmap_next_set(s->l1_dirty, i, end)) < end) {
        struct l1_shot shot = {i, bitmap_next_clear(s->l1_dirty, i, end) - i, NULL};
        shot.copy = g_try_malloc_n(shot.count, 8);
        if (!shot.copy) {
            return -ENOMEM;
        }
        for (uint64_t k = 0; k < shot.count; k++) {
            store_le64(shot.copy + 8 * k, s->l1[i + k]);
        }
        bitmap_clear(s->l1_dirty, i, shot.count);
        g_array_append_val(p->l1, shot);
        i += shot.count;
    }
    return 0;
}

static int picture_take(struct qed *s, struct picture *p)
{
    p->slices = g_array_new(FALSE, FALSE, sizeof(struct shot));
    p->l1 = g_array_new(FALSE, FALSE, sizeof(struct l1_shot));
    p->unstable = s->unstable;
    s->unstable = false;
    int rc = take_slices(s, p);
    return rc < 0 ? rc : take_l1(s, p);
}

static int picture_write(struct qed *s, struct picture *p)
{
    int rc = 0;
    if (p->unstable && p->slices->len) {
        rc = edge_flush(s->file);
        p->unstable = rc < 0;
    }
    for (guint i = 0; i < p->slices->len && rc == 0; i++) {
        struct shot *shot = &g_array_index(p->slices, struct shot, i);
        block_debug_event_at(s->file->child, "l2_update");
        rc = edge_write_buf(s->file, shot->slice->offset, s->cache.slice_bytes, shot->copy, 0);
    }
    if (rc == 0 && p->l1->len) {
        rc = edge_flush(s->file);
        p->unstable &= rc < 0;
    }
    for (guint i = 0; i < p->l1->len && rc == 0; i++) {
        struct l1_shot *shot = &g_array_index(p->l1, struct l1_shot, i);
        block_debug_event_at(s->file->child, "l1_update");
        rc = edge_write_buf(s->file, s->h.l1_offset + shot->first * 8, shot->count * 8, shot->copy, 0);
    }
    return rc;
}

/* --- writing back ------------------------------------------------------------------------------------------------- */

int qed_writeback(struct qed *s, bool durable)
{
    struct picture p;
    co_lock(&s->wb_lock);
    int rc = picture_take(s, &p);
    rc = rc < 0 ? rc : picture_write(s, &p);
    picture_free(s, &p, rc == 0);
    rc = rc == 0 && durable ? edge_flush(s->file) : rc;
    co_unlock(&s->wb_lock);
    return rc;
}

int qed_make_room(struct qed *s)
{
    return g_queue_get_length(&s->cache.dirty) > DIRTY_MAX ? qed_writeback(s, false) : 0;
}

int qed_settle(struct qed *s)
{
    co_lock(&s->lock);
    int rc = g_queue_is_empty(&s->flights) ? qed_writeback(s, true) : -EAGAIN;
    if (rc == 0 && edge_size(s->file) > s->end) {
        rc = qed_trim(s);
        rc = rc < 0 ? rc : edge_flush(s->file);
    }
    if (rc == 0 && (s->h.features & QED_NEED_CHECK)) {
        struct qed_header h = s->h;
        h.features &= ~(uint64_t)QED_NEED_CHECK;
        rc = qed_header_write(s, &h);
        if (rc == 0) { /* it may be gone now, whether the flush ends well or not */
            s->h.features = h.features;
            rc = edge_flush(s->file);
        }
    }
    co_unlock(&s->lock);
    return rc;
}

void qed_settle_later(struct qed *s)
{
    timer_arm(&s->settle_timer, loop_now_ns() + SETTLE_AFTER_NS);
}

/* A flush that the settling is a part of: so it counts as a request in flight, which drains and closing wait for. */
int qed_flush(struct node *n)
{
    struct qed *s = n->priv;
    bool settle = s->settle_due;
    s->settle_due = false;
    int rc = n->read_only ? 0 : qed_writeback(s, true);
    if (rc == 0 && settle && qed_settle(s) < 0) {
        qed_settle_later(s); /* nobody waits for it */
    }
    return rc;
}
