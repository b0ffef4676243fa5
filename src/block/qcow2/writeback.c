/* SPDX-License-Identifier: BSD-2-Clause */
/* The order of writes; see the laws in qcow2.h. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/debug.h"

#include <stdlib.h>

struct shot { /* one table as it was when the picture was taken */
    struct q_table *t;
    struct q_buf *buf;
    uint64_t offset;
};
struct changed_entry {
    uint64_t index, value;
};

struct picture {
    GArray *blocks, *new_l2, *old_l2; /* struct shot */
    GArray *l1, *rt;                  /* struct changed_entry; rt: the whole table when it moved */
    bool unstable, rt_moved, has_refs;
    uint64_t rt_offset, l1_offset;
    uint32_t rt_size;
    GList *freed_last;
};

int qcow2_barrier(struct qcow2 *s)
{
    if (s->n->no_flush) {
        return 0;
    }
    int rc = s->has_data_file ? edge_flush(s->data) : 0;
    return rc < 0 ? rc : edge_flush(s->file);
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const struct shot *)a)->offset, y = ((const struct shot *)b)->offset;
    return x < y ? -1 : x > y;
}

static void take_tables(struct qcow2 *s, struct q_cache *c, GArray *in_use, GArray *fresh)
{
    GList *l;
    while ((l = g_queue_pop_head_link(&c->dirty))) {
        struct q_table *t = l->data;
        struct shot x = {t, buf_ref(t->buf), t->offset};
        t->dirty = false;
        t->refs++; /* stays in the cache until it is written */
        g_queue_push_head_link(&c->clean, l);
        g_array_append_val(fresh && bitmap_test(s->l1_dirty, t->l1_index) ? fresh : in_use, x);
    }
    g_array_sort(in_use, by_offset);
    if (fresh) {
        g_array_sort(fresh, by_offset);
    }
}

static void take_entries(struct bitmap *dirty, const uint64_t *table, bool all, GArray *out)
{
    uint64_t n = bitmap_bits(dirty);
    if (!all && bitmap_count(dirty) == 0) {
        return;
    }
    for (uint64_t i = all ? 0 : bitmap_next_set(dirty, 0, n); i < n;
         i = all ? i + 1 : bitmap_next_set(dirty, i + 1, n)) {
        struct changed_entry x = {i, table[i]};
        g_array_append_val(out, x);
    }
    bitmap_clear(dirty, 0, n);
}

static void picture_take(struct qcow2 *s, struct picture *p)
{
    GArray **tables[] = {&p->blocks, &p->new_l2, &p->old_l2}, **entries[] = {&p->l1, &p->rt};
    for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++) {
        *tables[i] = g_array_new(FALSE, FALSE, sizeof(struct shot));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(entries); i++) {
        *entries[i] = g_array_new(FALSE, FALSE, sizeof(struct changed_entry));
    }
    p->unstable = s->unstable;
    p->has_refs = !s->lazy || s->settling || s->rb.dirty.length > s->rb.max / 2;
    take_tables(s, &s->l2, p->old_l2, p->new_l2);
    take_entries(s->l1_dirty, s->l1, false, p->l1);
    p->l1_offset = s->h.l1_offset;
    if (p->has_refs) {
        take_tables(s, &s->rb, p->blocks, NULL);
        p->rt_moved = s->rt_moved;
        p->rt_offset = s->rt_offset;
        p->rt_size = s->rt_size;
        take_entries(s->rt_dirty, s->reftable, s->rt_moved, p->rt);
        s->rt_moved = false;
    }
    p->freed_last = s->freed.tail;
    s->freed_taken = s->freed.tail;
    s->unstable = false;
}

/* What was not written is dirty again. */
static void untake(struct q_cache *c, GArray *a, bool failed)
{
    for (unsigned i = 0; i < a->len; i++) {
        struct shot *x = &g_array_index(a, struct shot, i);
        struct q_table *t = x->t;
        t->refs--;
        if (t->gone && t->refs == 0) {
            buf_unref(t->buf);
            g_free(t);
        } else if (failed && !t->gone && !t->dirty) {
            g_queue_unlink(&c->clean, &t->link);
            t->dirty = true;
            g_queue_push_tail_link(&c->dirty, &t->link);
        }
        buf_unref(x->buf);
    }
    g_array_free(a, TRUE);
}

static void retake(GArray *a, struct bitmap *dirty, bool failed)
{
    for (unsigned i = 0; failed && i < a->len; i++) {
        uint64_t index = g_array_index(a, struct changed_entry, i).index;
        if (index < bitmap_bits(dirty)) {
            bitmap_set(dirty, index, 1);
        }
    }
    g_array_free(a, TRUE);
}

static void picture_drop(struct qcow2 *s, struct picture *p, bool failed)
{
    untake(&s->rb, p->blocks, failed);
    untake(&s->l2, p->new_l2, failed);
    untake(&s->l2, p->old_l2, failed);
    retake(p->l1, s->l1_dirty, failed);
    retake(p->rt, s->rt_dirty, failed);
    s->unstable |= failed;
    s->rt_moved |= failed && p->rt_moved;
    s->freed_taken = NULL;
}

/* Neighbours go out in one write. */
static int write_tables(struct qcow2 *s, const struct q_cache *c, const GArray *a, unsigned kind)
{
    enum { BATCH = 64 };
    struct iovec iov[BATCH];
    for (unsigned i = 0; i < a->len;) {
        const struct shot *x = &g_array_index(a, struct shot, i);
        unsigned n = 0;
        while (n < BATCH && i + n < a->len && x[n].offset == x[0].offset + (uint64_t)n * c->table_size) {
            iov[n] = (struct iovec){x[n].buf->data, c->table_size};
            n++;
        }
        struct iovs v = {iov, n, (size_t)n * c->table_size};
        block_debug_event_at(s->file->child, kind == META_L2 ? "l2_update" : "refblock_update_part");
        int rc = meta_check(s, x->offset, v.size, kind);
        rc = rc < 0 ? rc : file_write(s, s->file, x->offset, v.size, &v, 0);
        if (rc < 0) {
            return rc;
        }
        s->file_high = max_u64(s->file_high, x->offset + v.size);
        i += n;
    }
    return 0;
}

static int write_entries(struct qcow2 *s, const GArray *a, uint64_t table, unsigned kind)
{
    const struct changed_entry *x = (const void *)a->data;
    for (unsigned i = 0; i < a->len;) {
        unsigned n = 1;
        while (i + n < a->len && x[i + n].index == x[i].index + n) {
            n++;
        }
        CLEANUP_FREE uint8_t *b = g_try_malloc((size_t)n * 8);
        if (!b) {
            return -ENOMEM;
        }
        for (unsigned k = 0; k < n; k++) {
            store_be64(b + (size_t)k * 8, x[i + k].value);
        }
        uint64_t at = table + x[i].index * 8;
        block_debug_event_at(s->file->child, kind == META_L1 ? "l1_update" : "reftable_update");
        int rc = meta_check(s, at, (uint64_t)n * 8, kind);
        rc = rc < 0 ? rc : file_write_buf(s, at, (uint64_t)n * 8, b);
        if (rc < 0) {
            return rc;
        }
        s->file_high = max_u64(s->file_high, at + (uint64_t)n * 8);
        i += n;
    }
    return 0;
}

static int write_reftable(struct qcow2 *s, const struct picture *p)
{
    if (p->rt->len == 0) {
        return 0;
    }
    int rc = write_entries(s, p->rt, p->rt_offset, META_REFTABLE);
    rc = rc < 0 ? rc : qcow2_barrier(s);
    if (rc < 0 || !p->rt_moved) {
        return rc;
    }
    uint8_t b[12]; /* offset and clusters are neighbours in the header */
    store_be64(b, p->rt_offset);
    store_be32(b + 8, (uint64_t)p->rt_size * 8 >> s->cluster_bits);
    rc = file_write_buf(s, 48, sizeof(b), b);
    rc = rc < 0 ? rc : qcow2_barrier(s);
    if (rc == 0) {
        s->h.reftable_offset = p->rt_offset;
        s->h.reftable_clusters = load_be32(b + 8);
    }
    return rc;
}

static int picture_write(struct qcow2 *s, const struct picture *p)
{
    bool links = p->old_l2->len || p->l1->len;
    if (s->lazy && links && p->unstable && !(s->h.incompat & INC_DIRTY)) {
        int rc = header_set_incompat(s, s->h.incompat | INC_DIRTY);
        if (rc < 0) {
            return rc;
        }
    }
    int rc = write_tables(s, &s->rb, p->blocks, META_REFBLOCK);
    rc = rc < 0 ? rc : write_tables(s, &s->l2, p->new_l2, META_L2);
    if (rc == 0 && ((p->unstable && links) || p->rt->len || p->l1->len)) {
        rc = qcow2_barrier(s);
    }
    rc = rc < 0 ? rc : write_reftable(s, p);
    rc = rc < 0 ? rc : write_tables(s, &s->l2, p->old_l2, META_L2);
    return rc < 0 ? rc : write_entries(s, p->l1, p->l1_offset, META_L1);
}

/* Tells the file below that nobody needs the clusters whose only reference this is. */
static void discard_freed(struct qcow2 *s, const struct q_free *f)
{
    uint64_t end = min_u64(f->offset + f->len, edge_size(s->file));
    for (uint64_t at = f->offset; at < end;) {
        uint64_t n = 0, count;
        while (at + n < end && refcount_get(s, (at + n) >> s->cluster_bits, &count) == 0 && count == 1) {
            n += s->cluster_size;
        }
        if (n) {
            edge_discard(s->file, at, min_u64(n, end - at));
        }
        at += n + s->cluster_size;
    }
}

/* The references are gone on disk; what operations under way may still use waits for the next time. */
static int apply_freed(struct qcow2 *s, const GList *last)
{
    int rc = 0;
    bool more = last != NULL;
    while (more && (rc == 0 || rc == -EINVAL)) {
        const struct q_op *oldest = s->ops.head ? s->ops.head->data : NULL;
        struct q_free *f = g_queue_peek_head(&s->freed);
        if (oldest && oldest->seq < f->seq) {
            break;
        }
        more = s->freed.head != last;
        g_queue_pop_head(&s->freed);
        s->freed_bytes -= f->len;
        if (s->discard[f->kind]) {
            discard_freed(s, f);
        }
        rc = clusters_free_now(s, f->offset, f->len);
        g_free(f);
    }
    return rc;
}

/* With wb_lock. Nothing may be written while it is not known which of two headers the file has. */
static int writable(struct qcow2 *s)
{
    bool written;
    if (s->corrupt) {
        return -EIO;
    }
    if (s->unsure_all) {
        return header_rewrite(s);
    }
    return s->unsure ? header_switch(s, &s->h, &written) : 0;
}

static int writeback_locked(struct qcow2 *s, bool durable)
{
    struct picture p = {0};
    int rc = writable(s);
    if (rc < 0) {
        return rc;
    }
    picture_take(s, &p);
    rc = picture_write(s, &p);
    if (rc == 0 && durable) {
        rc = qcow2_barrier(s);
    }
    if (rc == 0 && durable) {
        apply_freed(s, p.freed_last); /* a failure only leaks */
    }
    picture_drop(s, &p, rc < 0);
    return rc;
}

int blocks_write(struct qcow2 *s)
{
    GArray *a = g_array_new(FALSE, FALSE, sizeof(struct shot));
    co_lock(&s->wb_lock);
    take_tables(s, &s->rb, a, NULL);
    int rc = write_tables(s, &s->rb, a, META_REFBLOCK);
    untake(&s->rb, a, rc < 0);
    co_unlock(&s->wb_lock);
    return rc;
}

int qcow2_writeback(struct qcow2 *s, bool durable)
{
    co_lock(&s->wb_lock);
    int rc = writeback_locked(s, durable);
    co_unlock(&s->wb_lock);
    return rc;
}

int qcow2_make_room(struct qcow2 *s)
{
    int rc = s->corrupt ? -EIO : 0;
    if (__builtin_expect(s->unsure, 0)) {
        co_lock(&s->wb_lock);
        rc = writable(s);
        co_unlock(&s->wb_lock);
    }
    if (rc < 0) {
        return rc;
    }
    rc = __builtin_expect(s->bitmaps_foreign, 0) ? bitmaps_mark_foreign(s) : 0;
    return rc < 0 ? rc : qcow2_relieve(s);
}

int qcow2_relieve(struct qcow2 *s)
{
    enum { FREED_MAX = 4096 };
    if (s->freed.length > FREED_MAX || s->freed_bytes > UINT64_C(256) << 20) {
        return qcow2_writeback(s, true);
    }
    bool full = s->l2.dirty.length > s->l2.max / 2 || s->rb.dirty.length > max_u64(s->rb.max, 4) * 3 / 4;
    return full ? qcow2_writeback(s, false) : 0;
}

int qcow2_refs_stable(struct qcow2 *s)
{
    bool was = s->settling;
    s->settling = true;
    int rc = qcow2_writeback(s, true);
    s->settling = was;
    return rc;
}

int qcow2_settle(struct qcow2 *s)
{
    int rc = 0;
    s->settling = true;
    for (int i = 0; i < 4 && rc == 0; i++) {
        rc = qcow2_writeback(s, true);
        if (!s->freed.length && !s->rb.dirty.length && !s->l2.dirty.length) {
            break;
        }
    }
    s->settling = false;
    if (rc == 0 && (s->h.incompat & INC_DIRTY) && s->h.version >= 3 && !s->making) {
        rc = header_set_incompat(s, s->h.incompat & ~(uint64_t)INC_DIRTY);
    }
    return rc;
}
