/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/qcow2.h"

static const char *cache_broken(const struct q_cache *c)
{
    if (g_hash_table_size(c->tables) != c->clean.length + c->dirty.length) {
        return "a cached table is in no list, or in two";
    }
    for (GList *l = c->dirty.head; l; l = l->next) {
        const struct q_table *t = l->data;
        if (!t->dirty || t->loading || t->gone || (t->offset & (c->table_size - 1))) {
            return "the list of dirty tables holds one that is not";
        }
    }
    for (GList *l = c->clean.head; l; l = l->next) {
        const struct q_table *t = l->data;
        if (t->dirty || t->gone) {
            return "the list of clean tables holds one that is not";
        }
    }
    return NULL;
}

static const char *flights_broken(const struct qcow2 *s)
{
    for (GList *a = s->flights.head; a; a = a->next) {
        const struct q_flight *x = a->data;
        for (GList *b = a->next; b; b = b->next) {
            const struct q_flight *y = b->data;
            if (x->first < y->first + y->count && y->first < x->first + x->count) {
                return "two flights over the same cluster";
            }
        }
    }
    return NULL;
}

const char *qcow2_broken_invariant(struct node *n)
{
    const struct qcow2 *s = n->priv;
    const char *why = cache_broken(&s->l2);
    why = why ? why : cache_broken(&s->rb);
    why = why ? why : flights_broken(s);
    uint64_t freed = 0;
    for (GList *l = s->freed.head; l; l = l->next) {
        freed += ((const struct q_free *)l->data)->len;
    }
    if (!why && freed != s->freed_bytes) {
        why = "bytes waiting to be freed are miscounted";
    }
    for (uint32_t i = 0; !why && s->meta && i < s->h.l1_size; i++) {
        uint64_t off = s->l1[i] & L1E_OFFSET;
        if (off && !GPOINTER_TO_UINT(g_hash_table_lookup(s->meta, GSIZE_TO_POINTER((off >> s->cluster_bits) + 1)))) {
            why = "an L2 table is not known as metadata";
        }
    }
    if (!why && bitmap_bits(s->rt_dirty) != s->rt_size) {
        why = "the map of changed refcount table entries has the wrong size";
    }
    return why;
}
