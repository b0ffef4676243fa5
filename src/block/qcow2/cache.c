/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/qcow2.h"

#include "base/cleanup.h"
#include "block/debug.h"

#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__
#include <malloc.h>
#define give_back_memory() malloc_trim(0)
#else
#define give_back_memory() (void)0
#endif

enum { WORTH_GIVING_BACK = 1 << 20 };

struct q_buf *buf_ref(struct q_buf *b)
{
    b->refs++;
    return b;
}

void buf_unref(struct q_buf *b)
{
    if (b && --b->refs == 0) {
        free(b->data);
        g_free(b);
    }
}

static struct q_buf *buf_create(struct q_cache *c)
{
    uint8_t *data = block_buf_alloc(c->file->child, c->table_size);
    if (!data) {
        return NULL;
    }
    struct q_buf *b = g_new(struct q_buf, 1);
    *b = (struct q_buf){.refs = 1, .data = data};
    return b;
}

void cache_init(struct q_cache *c, struct edge *file, uint32_t table_size, uint32_t max, const char *load_event)
{
    *c = (struct q_cache){.file = file, .table_size = table_size, .max = max, .load_event = load_event};
    c->tables = g_hash_table_new(g_int64_hash, g_int64_equal);
    g_queue_init(&c->clean);
    g_queue_init(&c->dirty);
}

static GQueue *queue_of(struct q_cache *c, struct q_table *t)
{
    return t->dirty ? &c->dirty : &c->clean;
}

static void table_release(struct q_table *t)
{
    if (t->gone && t->refs == 0) {
        buf_unref(t->buf);
        g_free(t);
    }
}

static void table_remove(struct q_cache *c, struct q_table *t)
{
    g_hash_table_remove(c->tables, &t->offset);
    g_queue_unlink(queue_of(c, t), &t->link);
    t->gone = true;
    table_release(t);
}

void cache_finish(struct q_cache *c)
{
    if (!c->tables) {
        return;
    }
    while (c->clean.head) {
        table_remove(c, c->clean.head->data);
    }
    while (c->dirty.head) {
        table_remove(c, c->dirty.head->data);
    }
    g_hash_table_destroy(take(c->tables));
}

void cache_reset(struct q_cache *c)
{
    struct edge *file = c->file;
    const char *event = c->load_event;
    uint32_t size = c->table_size, max = c->max;
    cache_finish(c);
    cache_init(c, file, size, max, event);
}

static void evict(struct q_cache *c)
{
    GList *l = c->clean.tail;
    while (l && g_hash_table_size(c->tables) >= c->max) {
        struct q_table *t = l->data;
        l = l->prev;
        if (!t->loading && t->refs == 0) {
            table_remove(c, t);
        }
    }
}

static struct q_table *table_create(struct q_cache *c, uint64_t offset, bool dirty)
{
    evict(c);
    struct q_buf *b = buf_create(c);
    if (!b) {
        return NULL;
    }
    struct q_table *t = g_new0(struct q_table, 1);
    t->offset = offset;
    t->buf = b;
    t->dirty = dirty;
    t->link.data = t;
    t->used = ++c->tick;
    g_hash_table_insert(c->tables, &t->offset, t);
    g_queue_push_head_link(queue_of(c, t), &t->link);
    return t;
}

static int table_load(struct q_cache *c, struct q_table *t)
{
    t->loading = true;
    t->refs++;
    block_debug_event_at(c->file->child, c->load_event);
    t->rc = file_read_buf(c->file, t->offset, c->table_size, t->buf->data);
    t->loading = false;
    t->refs--;
    int rc = t->gone ? -EAGAIN : t->rc;
    co_queue_wake_all(&t->waiters);
    if (t->gone) {
        table_release(t);
    } else if (rc < 0) {
        table_remove(c, t);
    }
    return rc;
}

/* Another coroutine is reading it. */
static void wait_loaded(struct q_table *t)
{
    t->refs++;
    while (t->loading) {
        co_queue_wait(&t->waiters);
    }
    t->refs--;
    table_release(t);
}

int cache_get(struct q_cache *c, uint64_t offset, struct q_table **out)
{
    for (;;) {
        struct q_table *t = g_hash_table_lookup(c->tables, &offset);
        if (!t) {
            t = table_create(c, offset, false);
            if (!t) {
                return -ENOMEM;
            }
            int rc = table_load(c, t);
            if (rc < 0 && rc != -EAGAIN) {
                return rc;
            }
            continue;
        }
        if (t->loading) {
            wait_loaded(t);
            continue;
        }
        t->used = ++c->tick;
        if (!t->dirty && c->clean.head != &t->link) {
            g_queue_unlink(&c->clean, &t->link);
            g_queue_push_head_link(&c->clean, &t->link);
        }
        *out = t;
        return 0;
    }
}

bool cache_has(struct q_cache *c, uint64_t offset)
{
    struct q_table *t = g_hash_table_lookup(c->tables, &offset);
    return t && !t->loading;
}

int cache_new(struct q_cache *c, uint64_t offset, struct q_table **out)
{
    cache_drop(c, offset, c->table_size);
    struct q_table *t = table_create(c, offset, true);
    if (!t) {
        return -ENOMEM;
    }
    memset(t->buf->data, 0, c->table_size);
    *out = t;
    return 0;
}

uint8_t *table_modify(struct q_cache *c, struct q_table *t)
{
    if (t->buf->refs > 1) {
        struct q_buf *b = buf_create(c);
        if (!b) {
            return NULL;
        }
        memcpy(b->data, t->buf->data, c->table_size);
        buf_unref(t->buf);
        t->buf = b;
    }
    if (!t->dirty) {
        g_queue_unlink(&c->clean, &t->link);
        t->dirty = true;
        g_queue_push_tail_link(&c->dirty, &t->link);
    }
    return t->buf->data;
}

void cache_drop(struct q_cache *c, uint64_t offset, uint64_t len)
{
    for (uint64_t at = offset; at < offset + len; at += c->table_size) {
        struct q_table *t = g_hash_table_lookup(c->tables, &at);
        if (t) {
            table_remove(c, t);
        }
    }
}

void cache_drop_unused(struct q_cache *c)
{
    GList *l = c->clean.tail;
    uint64_t dropped = 0;
    while (l) {
        struct q_table *t = l->data;
        l = l->prev;
        if (t->used != 0) {
            t->used = 0; /* a use before the next call sets it again */
        } else if (!t->loading && t->refs == 0) {
            table_remove(c, t);
            dropped += c->table_size;
        }
    }
    if (dropped >= WORTH_GIVING_BACK) {
        give_back_memory(); /* small blocks between others: free() keeps them for the next allocation */
    }
}
