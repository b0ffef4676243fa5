/* SPDX-License-Identifier: BSD-2-Clause */
/* How many references each cluster has, as the tables say; and refcount structures made from that. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <stdlib.h>

enum { CHUNK_BITS = 12 };

void counts_init(struct q_counts *c)
{
    c->chunks = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
    c->end = 0;
}

void counts_finish(struct q_counts *c)
{
    g_clear_pointer(&c->chunks, g_hash_table_destroy);
}

static uint32_t *chunk_of(const struct q_counts *c, uint64_t cluster)
{
    return g_hash_table_lookup(c->chunks, GSIZE_TO_POINTER(cluster >> CHUNK_BITS));
}

uint32_t counts_get(const struct q_counts *c, uint64_t cluster)
{
    const uint32_t *k = chunk_of(c, cluster);
    return k ? k[cluster & ((1u << CHUNK_BITS) - 1)] : 0;
}

bool counts_empty(const struct q_counts *c, uint64_t cluster)
{
    return chunk_of(c, cluster) == NULL;
}

int counts_add(struct q_counts *c, uint64_t cluster)
{
    uint32_t *k = chunk_of(c, cluster);
    if (!k) {
        k = g_try_malloc0_n(1u << CHUNK_BITS, sizeof(*k));
        if (!k) {
            return -ENOMEM;
        }
        g_hash_table_insert(c->chunks, GSIZE_TO_POINTER(cluster >> CHUNK_BITS), k);
    }
    uint32_t *n = &k[cluster & ((1u << CHUNK_BITS) - 1)];
    *n += *n < UINT32_MAX;
    c->end = max_u64(c->end, cluster + 1);
    return 0;
}

static bool region_used(const struct qcow2 *s, const struct q_counts *c, uint64_t region)
{
    uint64_t first = region << s->rb_bits, end = first + (UINT64_C(1) << s->rb_bits);
    while (first < end) {
        if (counts_empty(c, first)) {
            first = ((first >> CHUNK_BITS) + 1) << CHUNK_BITS;
        } else if (counts_get(c, first++)) {
            return true;
        }
    }
    return false;
}

static uint64_t regions_used(const struct qcow2 *s, const struct q_counts *c)
{
    uint64_t n = 0;
    for (uint64_t r = 0; r <= (c->end - 1) >> s->rb_bits; r++) {
        n += region_used(s, c, r);
    }
    return n;
}

/* Block by block; returns the table that names them. */
static int write_blocks(struct qcow2 *s, const struct q_counts *c, uint64_t first, uint64_t *table)
{
    uint64_t per = UINT64_C(1) << s->rb_bits, max = refcount_max(s);
    CLEANUP_FREE uint8_t *b = g_try_malloc(s->cluster_size);
    int rc = b ? 0 : -ENOMEM;
    for (uint64_t r = 0; rc == 0 && r <= (c->end - 1) >> s->rb_bits; r++) {
        if (!region_used(s, c, r)) {
            continue;
        }
        memset(b, 0, s->cluster_size);
        for (uint64_t i = 0; i < per && rc == 0; i++) {
            uint64_t n = counts_get(c, (r << s->rb_bits) + i);
            rc = n > max ? -ERANGE : 0;
            refcount_store(s, b, i, n);
        }
        table[r] = first++ << s->cluster_bits;
        rc = rc < 0 ? rc : file_write_buf(s, table[r], s->cluster_size, b);
    }
    return rc;
}

static int write_table(struct qcow2 *s, const uint64_t *table, uint64_t off, uint64_t clusters)
{
    uint64_t n = clusters << (s->cluster_bits - 3);
    CLEANUP_FREE uint8_t *b = g_try_malloc(n * 8);
    if (!b) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < n; i++) {
        store_be64(b + i * 8, table[i]);
    }
    int rc = file_write_buf(s, off, n * 8, b);
    rc = rc < 0 ? rc : qcow2_barrier(s);
    uint8_t f[12];
    store_be64(f, off);
    store_be32(f + 8, clusters);
    rc = rc < 0 ? rc : file_write_buf(s, 48, sizeof(f), f);
    return rc < 0 ? rc : qcow2_barrier(s);
}

int refcounts_adopt(struct qcow2 *s, uint64_t *table, uint64_t off, uint64_t clusters)
{
    struct bitmap *dirty = bitmap_create(clusters << (s->cluster_bits - 3));
    if (!dirty) {
        g_free(table);
        return -ENOMEM;
    }
    bitmap_destroy(s->rt_dirty);
    s->rt_dirty = dirty;
    g_free(s->reftable);
    s->reftable = table;
    s->rt_size = clusters << (s->cluster_bits - 3);
    s->rt_offset = s->h.reftable_offset = off;
    s->h.reftable_clusters = clusters;
    s->rt_moved = false;
    cache_reset(&s->rb);
    s->free_hint = 0;
    return s->meta ? meta_build(s) : 0;
}

/* At the end of the file: blocks, then the table; each counted before it is written. */
int refcounts_rebuild(struct qcow2 *s, struct q_counts *c)
{
    uint64_t first = max_u64(c->end, q_clusters(s, edge_size(s->file))), at = first, blocks = 0, clusters = 0;
    for (;;) {
        blocks = regions_used(s, c);
        uint64_t end = max_u64(c->end, first + blocks + clusters);
        clusters = q_clusters(s, (((end + clusters) >> s->rb_bits) + 2) * 8);
        if (at >= first + blocks + clusters) {
            break;
        }
        for (; at < first + blocks + clusters; at++) {
            if (counts_add(c, at) < 0) {
                return -ENOMEM;
            }
        }
    }
    blocks = at - first - clusters; /* as many as were counted; one may stay unused, as part of the table */
    if (clusters << s->cluster_bits > QCOW2_MAX_REFTABLE) {
        return -EFBIG;
    }
    uint64_t *table = g_try_malloc0(clusters << s->cluster_bits);
    int rc = table ? write_blocks(s, c, first, table) : -ENOMEM;
    rc = rc < 0 ? rc : qcow2_barrier(s);
    rc = rc < 0 ? rc : write_table(s, table, (first + blocks) << s->cluster_bits, clusters);
    if (rc < 0) {
        g_free(table);
        return rc;
    }
    s->file_high = max_u64(s->file_high, at << s->cluster_bits);
    return refcounts_adopt(s, table, (first + blocks) << s->cluster_bits, clusters);
}
