/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

uint64_t refcount_max(const struct qcow2 *s)
{
    return s->h.refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << s->h.refcount_order)) - 1;
}

uint64_t refcount_load(const struct qcow2 *s, const uint8_t *b, uint64_t i)
{
    unsigned order = s->h.refcount_order;
    switch (order) {
    case 3:
        return b[i];
    case 4:
        return load_be16(b + i * 2);
    case 5:
        return load_be32(b + i * 4);
    case 6:
        return load_be64(b + i * 8);
    default: { /* several in a byte, the lowest bits first */
        unsigned bits = 1u << order, per = 8 / bits;
        return b[i / per] >> (i % per * bits) & ((1u << bits) - 1);
    }
    }
}

void refcount_store(const struct qcow2 *s, uint8_t *b, uint64_t i, uint64_t v)
{
    unsigned order = s->h.refcount_order;
    switch (order) {
    case 3:
        b[i] = v;
        break;
    case 4:
        store_be16(b + i * 2, v);
        break;
    case 5:
        store_be32(b + i * 4, v);
        break;
    case 6:
        store_be64(b + i * 8, v);
        break;
    default: {
        unsigned bits = 1u << order, per = 8 / bits, shift = i % per * bits, mask = (1u << bits) - 1;
        b[i / per] = (b[i / per] & ~(mask << shift)) | (v & mask) << shift;
    }
    }
}

static uint64_t block_of(const struct qcow2 *s, uint64_t region)
{
    return region < s->rt_size ? s->reftable[region] & RT_OFFSET : 0;
}

/* The block that counts the clusters of `region`; *out NULL: there is none, all its clusters are free. */
static int block_get(struct qcow2 *s, uint64_t region, struct q_table **out)
{
    uint64_t off = block_of(s, region);
    *out = NULL;
    if (!off) {
        return 0;
    }
    if (off & (s->cluster_size - 1)) {
        return qcow2_corrupt(s, true, -1, -1,
                             "Refblock offset %#" G_GINT64_MODIFIER "x unaligned (reftable index: %#" G_GINT64_MODIFIER
                             "x)",
                             off, region);
    }
    return cache_get(&s->rb, off, out);
}

/* Blocks that are older than the fork must not change. */
static bool must_move(const struct qcow2 *s, uint64_t region)
{
    return s->fork && !(region < bitmap_bits(s->fork) && bitmap_test(s->fork, region));
}

/* The region's block, new or a copy of the one it had, is at `off` from now on. */
static int block_place(struct qcow2 *s, uint64_t region, uint64_t off)
{
    struct q_table *from = NULL, *t;
    uint64_t old = block_of(s, region);
    int rc = meta_check(s, off, s->cluster_size, 0);
    rc = rc < 0 || !old ? rc : block_get(s, region, &from);
    struct q_buf *copy = from ? buf_ref(from->buf) : NULL;
    rc = rc < 0 ? rc : cache_new(&s->rb, off, &t);
    if (rc == 0) {
        if (copy) {
            memcpy(t->buf->data, copy->data, s->cluster_size);
            clusters_free_later(s, old, s->cluster_size, FREE_OTHER);
        }
        if (s->fork) {
            bitmap_set(s->fork, region, 1);
        }
        s->reftable[region] = off;
        bitmap_set(s->rt_dirty, region, 1);
        meta_add(s, off, s->cluster_size, META_REFBLOCK);
    }
    buf_unref(copy);
    return rc;
}

/* *out NULL: there is none. */
static int block_modify(struct qcow2 *s, uint64_t region, uint8_t **out)
{
    struct q_table *t;
    int rc = 0;
    if (block_of(s, region) && must_move(s, region)) {
        uint64_t off;
        rc = clusters_alloc(s, 1, &off);
        if (rc == 0) { /* where that cluster is counted may have been the region itself */
            rc = must_move(s, region) ? block_place(s, region, off) : clusters_free_now(s, off, 1);
        }
    }
    rc = rc < 0 ? rc : block_get(s, region, &t);
    *out = rc == 0 && t ? table_modify(&s->rb, t) : NULL;
    return rc < 0 ? rc : t && !*out ? -ENOMEM : 0;
}

int counter_get(struct qcow2 *s, struct q_counter *c, uint64_t cluster, uint64_t *out)
{
    uint64_t region = cluster >> s->rb_bits;
    if (c->region != region) {
        struct q_table *t;
        int rc = block_get(s, region, &t);
        if (rc < 0) {
            return rc;
        }
        *c = (struct q_counter){.region = region, .seen = t ? t->buf->data : NULL};
    }
    *out = c->seen ? refcount_load(s, c->seen, cluster & ((UINT64_C(1) << s->rb_bits) - 1)) : 0;
    return 0;
}

int counter_put(struct qcow2 *s, struct q_counter *c, uint64_t cluster, uint64_t value)
{
    uint64_t region = cluster >> s->rb_bits;
    if (c->region != region || !c->own) {
        uint8_t *b;
        int rc = block_modify(s, region, &b);
        *c = (struct q_counter){.region = b ? region : UINT64_MAX, .seen = b, .own = b};
        if (!b) {
            return rc < 0 ? rc : -ENOENT;
        }
    }
    refcount_store(s, c->own, cluster & ((UINT64_C(1) << s->rb_bits) - 1), value);
    return 0;
}

int refcount_get(struct qcow2 *s, uint64_t cluster, uint64_t *out)
{
    struct q_table *t;
    int rc = block_get(s, cluster >> s->rb_bits, &t);
    *out = rc == 0 && t ? refcount_load(s, t->buf->data, cluster & ((UINT64_C(1) << s->rb_bits) - 1)) : 0;
    return rc;
}

int refcount_set(struct qcow2 *s, uint64_t cluster, uint64_t value)
{
    uint8_t *b;
    int rc = block_modify(s, cluster >> s->rb_bits, &b);
    if (rc < 0) {
        return rc;
    }
    if (!b) {
        return value ? -ENOENT : 0;
    }
    refcount_store(s, b, cluster & ((UINT64_C(1) << s->rb_bits) - 1), value);
    if (value == 0 && cluster < s->free_hint) {
        s->free_hint = cluster;
    }
    return 0;
}

/* What has no block, or lies beyond the table, is free. */
int clusters_find(struct qcow2 *s, uint64_t n, uint64_t *first)
{
    uint64_t c = s->free_hint, run = 0, per = UINT64_C(1) << s->rb_bits;
    while (run < n) {
        struct q_table *t;
        int rc = block_get(s, c >> s->rb_bits, &t);
        if (rc < 0) {
            return rc;
        }
        if (c >> s->rb_bits >= s->rt_size) {
            c += n - run;
            run = n;
            break;
        }
        uint64_t i = c & (per - 1);
        if (!t) {
            uint64_t step = min_u64(per - i, n - run);
            c += step;
            run += step;
            continue;
        }
        for (; i < per && run < n; i++, c++) {
            run = refcount_load(s, t->buf->data, i) ? 0 : run + 1;
        }
    }
    if (c > QCOW2_MAX_HOST >> s->cluster_bits) {
        return -EFBIG;
    }
    *first = c - run;
    return 0;
}

/* Regions of [first, first + n) that have no block yet, or none that may change. */
static uint64_t missing_blocks(const struct qcow2 *s, uint64_t first, uint64_t n)
{
    uint64_t missing = 0;
    for (uint64_t r = first >> s->rb_bits; r <= (first + n - 1) >> s->rb_bits; r++) {
        missing += block_of(s, r) == 0 || must_move(s, r);
    }
    return missing;
}

/* Clusters of a table that has room for `region`; 0: it has already. */
static uint64_t table_growth(const struct qcow2 *s, uint64_t region)
{
    if (region < s->rt_size) {
        return 0;
    }
    uint64_t entries = max_u64(region + 1, s->rt_size + s->rt_size / 2);
    return q_clusters(s, entries * 8);
}

/* [first, first + count) get refcount one; their blocks exist or are made at `at`, one cluster each. */
static int take_clusters(struct qcow2 *s, uint64_t first, uint64_t count, uint64_t at)
{
    uint64_t mask = (UINT64_C(1) << s->rb_bits) - 1;
    for (uint64_t r = first >> s->rb_bits; r <= (first + count - 1) >> s->rb_bits; r++) {
        if (block_of(s, r) == 0 || must_move(s, r)) {
            int rc = block_place(s, r, at++ << s->cluster_bits);
            if (rc < 0) {
                return rc;
            }
        }
    }
    for (uint64_t c = first; c < first + count;) {
        struct q_table *t;
        int rc = block_get(s, c >> s->rb_bits, &t);
        uint8_t *b = rc < 0 || !t ? NULL : table_modify(&s->rb, t);
        if (!b) {
            return rc < 0 ? rc : -ENOMEM;
        }
        uint64_t end = min_u64(first + count, (c | mask) + 1);
        for (; c < end; c++) {
            refcount_store(s, b, c & mask, 1);
        }
    }
    return 0;
}

/* The table in memory gets room for the clusters' regions, and a new home at `cluster`; written by qcow2_writeback().
 */
static int grow_table(struct qcow2 *s, uint64_t cluster, uint64_t clusters)
{
    uint64_t entries = clusters << (s->cluster_bits - 3);
    if (entries * 8 > QCOW2_MAX_REFTABLE) {
        return -EFBIG;
    }
    uint64_t *table = g_try_malloc0_n(entries, 8);
    if (!table || !bitmap_resize(s->rt_dirty, entries) || (s->fork && !bitmap_resize(s->fork, entries))) {
        g_free(table);
        return -ENOMEM;
    }
    memcpy(table, s->reftable, (size_t)s->rt_size * 8);
    g_free(s->reftable);
    s->reftable = table;
    clusters_free_later(s, s->rt_offset, (uint64_t)s->rt_size * 8, FREE_OTHER);
    meta_remove(s, s->rt_offset, (uint64_t)s->rt_size * 8, META_REFTABLE);
    s->rt_size = entries;
    s->rt_offset = cluster << s->cluster_bits;
    s->rt_moved = true;
    meta_add(s, s->rt_offset, entries * 8, META_REFTABLE);
    return 0;
}

/* Clusters for n of the caller's when `want` are taken from `first` on. */
static uint64_t row_needs(const struct qcow2 *s, uint64_t first, uint64_t want, uint64_t n, uint64_t *blocks,
                          uint64_t *table)
{
    *blocks = missing_blocks(s, first, want);
    *table = table_growth(s, (first + want - 1) >> s->rb_bits);
    return n + *blocks + *table;
}

int clusters_alloc(struct qcow2 *s, uint64_t n, uint64_t *offset)
{
    uint64_t want = n, first, blocks, table;
    for (;;) { /* n for the caller, then new refcount blocks, then a bigger refcount table, all in one row */
        int rc = clusters_find(s, want, &first);
        if (rc < 0) {
            return rc;
        }
        uint64_t need = row_needs(s, first, want, n, &blocks, &table);
        if (need <= want) {
            while (need < want) { /* another place may need less */
                want = need;
                need = row_needs(s, first, want, n, &blocks, &table);
            }
            break;
        }
        want = need;
    }
    int rc = meta_check(s, first << s->cluster_bits, want << s->cluster_bits, 0);
    if (rc == 0 && table) {
        rc = grow_table(s, first + n + blocks, table);
    }
    if (rc == 0) {
        rc = take_clusters(s, first, want, first + n);
    }
    if (rc < 0) {
        return rc;
    }
    s->free_hint = first + want;
    s->unstable = true;
    *offset = first << s->cluster_bits;
    return 0;
}

/* Another reference to the cluster of s->free_byte. False: it has as many as it can. */
static int share_cluster(struct qcow2 *s, uint64_t cluster, bool *ok)
{
    uint64_t count;
    int rc = refcount_get(s, cluster, &count);
    *ok = rc == 0 && count > 0 && count < refcount_max(s);
    return *ok ? refcount_set(s, cluster, count + 1) : rc;
}

int bytes_alloc(struct qcow2 *s, uint32_t len, uint64_t *offset)
{
    uint64_t in = s->free_byte & (s->cluster_size - 1), room = in ? s->cluster_size - in : 0;
    bool shared = false;
    int rc = 0;
    s->unstable = true;
    if (room) {
        rc = share_cluster(s, s->free_byte >> s->cluster_bits, &shared);
    }
    if (rc < 0) {
        return rc;
    }
    if (shared && len <= room) {
        *offset = s->free_byte;
        s->free_byte += len;
        return 0;
    }
    uint64_t next;
    rc = clusters_alloc(s, 1, &next);
    bool joined = rc == 0 && shared && next == s->free_byte + room;
    if (shared && !joined) { /* the reference just taken is not used */
        int rc2 = clusters_free_now(s, s->free_byte, 1);
        rc = rc < 0 ? rc : rc2;
    }
    if (rc < 0) {
        return rc;
    }
    *offset = joined ? s->free_byte : next;
    s->free_byte = *offset + len;
    return 0;
}

/* One reference less for each cluster that the bytes touch. -EINVAL: for all but those that had none. */
int clusters_free_now(struct qcow2 *s, uint64_t off, uint64_t len)
{
    uint64_t end = len ? (off + len - 1) >> s->cluster_bits : 0, uncounted = 0;
    for (uint64_t c = off >> s->cluster_bits; len && c <= end; c++) {
        uint64_t count;
        int rc = refcount_get(s, c, &count);
        if (rc == 0 && count == 0) {
            uncounted++;
            continue;
        }
        rc = rc < 0 ? rc : refcount_set(s, c, count - 1);
        if (rc < 0) {
            return rc;
        }
        if (count == 1 && s->free_byte >> s->cluster_bits == c) {
            s->free_byte = 0;
        }
    }
    if (uncounted) { /* worded as everybody knows it */
        log_bare(graph_log(s->n->graph), "qcow2_free_clusters failed: %s", g_strerror(EINVAL));
    }
    return uncounted ? -EINVAL : 0;
}

void clusters_free_later(struct qcow2 *s, uint64_t off, uint64_t len, int kind)
{
    struct q_free *last = s->freed.tail ? s->freed.tail->data : NULL;
    uint64_t seq = ++s->next_seq;
    s->freed_bytes += len;
    /* A run that continues the last one joins it; not for pieces of a shared cluster, which each hold a reference. */
    if (last && last->kind == kind && last->offset + last->len == off && (off & (s->cluster_size - 1)) == 0 &&
        s->freed.tail != s->freed_taken) {
        last->len += len;
        last->seq = seq;
        return;
    }
    struct q_free *f = g_new(struct q_free, 1);
    *f = (struct q_free){off, len, kind, seq};
    g_queue_push_tail(&s->freed, f);
}

/* --- empty blocks ------------------------------------------------------------------------------------------------- */

struct empty_block {
    uint64_t region, off;
};

static bool counts_itself(const struct qcow2 *s, const struct empty_block *b)
{
    return b->off >> s->cluster_bits >> s->rb_bits == b->region;
}

/* Nothing is counted in it but, if it is one of these clusters, itself. */
static int is_empty(struct qcow2 *s, const struct empty_block *b, bool *out)
{
    struct q_table *t;
    uint64_t first = b->region << s->rb_bits, own = b->off >> s->cluster_bits;
    int rc = block_get(s, b->region, &t);
    *out = rc == 0 && t;
    for (uint64_t i = 0; *out && i < UINT64_C(1) << s->rb_bits; i++) {
        *out = refcount_load(s, t->buf->data, i) == (first + i == own);
    }
    return rc;
}

static void set_block(struct qcow2 *s, uint64_t region, uint64_t off)
{
    s->reftable[region] = off;
    bitmap_set(s->rt_dirty, region, 1);
}

/* The table names them no more, durably: then their clusters are free. */
static int forget_blocks(struct qcow2 *s, const GArray *blocks)
{
    const struct empty_block *b = (const void *)blocks->data;
    for (guint i = 0; i < blocks->len; i++) {
        set_block(s, b[i].region, 0);
    }
    int written = qcow2_refs_stable(s), rc = written;
    for (guint i = 0; i < blocks->len; i++) {
        if (written < 0) {
            set_block(s, b[i].region, b[i].off);
            continue;
        }
        cache_drop(&s->rb, b[i].off, s->cluster_size);
        meta_remove(s, b[i].off, s->cluster_size, META_REFBLOCK);
        s->free_hint = min_u64(s->free_hint, b[i].off >> s->cluster_bits);
        if (rc == 0 && !counts_itself(s, &b[i])) {
            rc = clusters_free_now(s, b[i].off, s->cluster_size);
        }
    }
    return rc;
}

int blocks_drop_empty(struct qcow2 *s)
{
    int rc = 0;
    bool more = !s->fork;
    while (more && rc == 0) { /* one that was counted in another leaves that empty, perhaps */
        g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(struct empty_block));
        for (uint64_t r = 0; r < s->rt_size && rc == 0; r++) {
            struct empty_block b = {r, block_of(s, r)};
            bool empty = false;
            rc = b.off ? is_empty(s, &b, &empty) : 0;
            if (rc == 0 && empty) {
                g_array_append_val(found, b);
            }
        }
        more = found->len;
        rc = rc < 0 || !more ? rc : forget_blocks(s, found);
    }
    return rc;
}
