/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qed/qed.h"

#include "base/cleanup.h"
#include "block/debug.h"

#include <stdlib.h>

void qed_cache_init(struct qed_cache *c, struct edge *file, uint32_t slice_bytes, uint32_t max)
{
    *c = (struct qed_cache){.file = file, .slice_bytes = slice_bytes, .max = max};
    c->slices = g_hash_table_new(g_int64_hash, g_int64_equal);
    g_queue_init(&c->clean);
    g_queue_init(&c->dirty);
}

static void slice_remove(struct qed_cache *c, struct qed_slice *sl)
{
    g_hash_table_remove(c->slices, &sl->offset);
    g_queue_unlink(sl->dirty ? &c->dirty : &c->clean, &sl->link);
    free(sl->e);
    g_free(sl);
}

void qed_cache_drop_all(struct qed_cache *c)
{
    while (c->clean.head) {
        slice_remove(c, c->clean.head->data);
    }
    while (c->dirty.head) {
        slice_remove(c, c->dirty.head->data);
    }
}

void qed_cache_finish(struct qed_cache *c)
{
    if (c->slices) {
        qed_cache_drop_all(c);
        g_hash_table_destroy(take(c->slices));
    }
}

static void evict(struct qed_cache *c)
{
    GList *l = c->clean.tail;
    while (l && g_hash_table_size(c->slices) >= c->max) {
        struct qed_slice *sl = l->data;
        l = l->prev;
        if (!sl->users) {
            slice_remove(c, sl);
        }
    }
}

static struct qed_slice *slice_create(struct qed_cache *c, uint64_t offset)
{
    evict(c);
    uint8_t *e = block_buf_alloc(c->file->child, c->slice_bytes);
    if (!e) {
        return NULL;
    }
    struct qed_slice *sl = g_new(struct qed_slice, 1);
    *sl = (struct qed_slice){.offset = offset, .e = e};
    sl->link.data = sl;
    g_hash_table_insert(c->slices, &sl->offset, sl);
    g_queue_push_head_link(&c->clean, &sl->link);
    return sl;
}

/* The others that want it wait meanwhile. */
static int slice_load(struct qed_cache *c, struct qed_slice *sl)
{
    sl->loading = true;
    sl->users++;
    block_debug_event_at(c->file->child, "l2_load");
    sl->rc = qed_file_read_buf(c->file, sl->offset, c->slice_bytes, sl->e);
    sl->loading = false;
    co_queue_wake_all(&sl->waiters);
    sl->users--;
    int rc = sl->rc;
    if (rc < 0 && !sl->users) {
        slice_remove(c, sl);
    }
    return rc;
}

static int slice_wait(struct qed_cache *c, struct qed_slice *sl)
{
    sl->users++;
    while (sl->loading) {
        co_queue_wait(&sl->waiters);
    }
    sl->users--;
    int rc = sl->rc;
    if (rc < 0 && !sl->users) {
        slice_remove(c, sl);
    }
    return rc;
}

int qed_cache_get(struct qed_cache *c, uint64_t offset, struct qed_slice **out)
{
    struct qed_slice *sl = g_hash_table_lookup(c->slices, &offset);
    int rc = 0;
    if (sl && (sl->loading || sl->rc < 0)) {
        rc = slice_wait(c, sl);
    } else if (!sl) {
        sl = slice_create(c, offset);
        rc = sl ? slice_load(c, sl) : -ENOMEM;
    } else if (!sl->dirty && c->clean.head != &sl->link) {
        g_queue_unlink(&c->clean, &sl->link);
        g_queue_push_head_link(&c->clean, &sl->link);
    }
    *out = rc < 0 ? NULL : sl;
    return rc;
}

void qed_cache_dirty(struct qed_cache *c, struct qed_slice *sl, bool dirty)
{
    if (sl->dirty != dirty) {
        g_queue_unlink(sl->dirty ? &c->dirty : &c->clean, &sl->link);
        sl->dirty = dirty;
        g_queue_push_head_link(sl->dirty ? &c->dirty : &c->clean, &sl->link);
    }
}
