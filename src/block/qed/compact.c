/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Leaks are repaired by moving clusters into them and cutting the file. First data clusters: the last into the first
 * hole, until the holes lie among the tables at the end; then these tables, one by one, downwards. What moves is
 * stable in its new place before the entry that names it is written, so a crash leaves no more than other leaks.
 */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <stdlib.h>

enum { COPY_MAX = 1 << 20, ROUND = 65536 };

static int copy(struct qed *s, uint64_t from, uint64_t to, uint64_t len)
{
    uint64_t piece = min_u64(len, COPY_MAX);
    uint8_t *buf = block_buf_alloc(s->file->child, piece);
    int rc = buf ? 0 : -ENOMEM;
    for (uint64_t at = 0; at < len && rc == 0; at += piece) {
        rc = qed_file_read_buf(s->file, from + at, piece, buf);
        rc = rc < 0 ? rc : edge_write_buf(s->file, to + at, piece, buf, 0);
    }
    free(buf);
    return rc;
}

/* --- data --------------------------------------------------------------------------------------------------------- */

/* Pairs "from" → "to" for some of the clusters that are to move; *high: all above it are done with. */
static GHashTable *choose(struct qed_usage *u, uint64_t *low, uint64_t *high)
{
    GHashTable *moves = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    while (g_hash_table_size(moves) < ROUND) {
        uint64_t hole = bitmap_next_clear(u->used, *low, *high), from = *high;
        while (from > hole && (!bitmap_test(u->used, from - 1) || bitmap_test(u->meta, from - 1))) {
            from--;
        }
        *low = hole;
        *high = from;
        if (from <= hole) {
            break;
        }
        bitmap_clear(u->used, --from, 1);
        bitmap_set(u->used, hole, 1);
        uint64_t *pair = g_new(uint64_t, 2);
        pair[0] = from;
        pair[1] = hole;
        g_hash_table_insert(moves, pair, pair);
    }
    return moves;
}

static int copy_all(struct qed *s, GHashTable *moves)
{
    GHashTableIter i;
    gpointer value;
    int rc = 0;
    g_hash_table_iter_init(&i, moves);
    while (rc == 0 && g_hash_table_iter_next(&i, NULL, &value)) {
        const uint64_t *pair = value;
        rc = copy(s, pair[0] << s->cluster_bits, pair[1] << s->cluster_bits, s->cluster_size);
    }
    return rc < 0 ? rc : edge_flush(s->file);
}

static int rename_entries(struct qed_walk *w, uint8_t *entries, uint64_t count)
{
    int changed = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t e = load_le64(entries + 8 * i), cluster = e >> w->s->cluster_bits;
        const uint64_t *pair = e > QED_ZERO ? g_hash_table_lookup(w->opaque, &cluster) : NULL;
        if (pair) {
            store_le64(entries + 8 * i, pair[1] << w->s->cluster_bits);
            changed = 1;
        }
    }
    return changed;
}

static int for_each_table(struct qed_walk *w, uint8_t *entries, uint64_t count)
{
    struct qed_walk *inner = w->opaque;
    int rc = 0;
    for (uint64_t i = 0; i < count && rc == 0; i++) {
        uint64_t e = load_le64(entries + 8 * i);
        rc = e ? qed_walk_table(inner, e) : 0;
    }
    return rc;
}

static int move_data(struct qed *s, struct qed_usage *u)
{
    uint64_t low = 0, high = u->clusters;
    int rc = 0;
    bool more = true;
    while (rc == 0 && more) {
        GHashTable *moves = choose(u, &low, &high);
        more = g_hash_table_size(moves) > 0;
        struct qed_walk inner = {s, rename_entries, moves}, outer = {s, for_each_table, &inner};
        rc = more ? copy_all(s, moves) : 0;
        rc = rc < 0 || !more ? rc : qed_walk_table(&outer, s->h.l1_offset);
        rc = rc < 0 || !more ? rc : edge_flush(s->file);
        g_hash_table_destroy(moves);
    }
    return rc;
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

struct place {
    uint64_t off;  /* of the table */
    uint64_t slot; /* in the file: of the entry that names it; 0: the header does */
};
struct places {
    GArray *all; /* struct place */
    uint64_t from, slot;
};

static int collect(struct qed_walk *w, uint8_t *entries, uint64_t count)
{
    struct places *p = w->opaque;
    for (uint64_t i = 0; i < count; i++, p->slot += 8) {
        struct place t = {load_le64(entries + 8 * i), p->slot};
        if (t.off >= p->from) {
            g_array_append_val(p->all, t);
        }
    }
    return 0;
}

static int lower(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->off < y->off ? -1 : x->off > y->off;
}

/* The copy is made: names it. */
static int name_table(struct qed *s, struct place *t, uint64_t to, struct places *p)
{
    uint8_t entry[8];
    int rc = edge_flush(s->file);
    store_le64(entry, to);
    if (rc == 0 && t->slot) {
        rc = edge_write_buf(s->file, t->slot, sizeof(entry), entry, 0);
    } else if (rc == 0) {
        struct qed_header h = s->h;
        h.l1_offset = to;
        rc = qed_header_write(s, &h);
        for (guint i = 0; rc == 0 && i < p->all->len; i++) {
            struct place *other = &g_array_index(p->all, struct place, i);
            other->slot += other->slot ? to - s->h.l1_offset : 0;
        }
        s->h.l1_offset = rc < 0 ? s->h.l1_offset : to;
    }
    t->off = to;
    return rc < 0 ? rc : edge_flush(s->file);
}

static int move_table(struct qed *s, struct place *t, uint64_t to, struct places *p)
{
    int rc = 0;
    if (t->off - to < s->table_bytes) { /* would lie on itself: by way of the end */
        uint64_t aside = round_up(edge_size(s->file), s->cluster_size);
        rc = qed_file_reach(s, aside + s->table_bytes);
        rc = rc < 0 ? rc : copy(s, t->off, aside, s->table_bytes);
        rc = rc < 0 ? rc : name_table(s, t, aside, p);
    }
    rc = rc < 0 ? rc : copy(s, t->off, to, s->table_bytes);
    return rc < 0 ? rc : name_table(s, t, to, p);
}

/* Only tables, and the holes among them, are left above the first hole. */
static int move_tables(struct qed *s, struct qed_usage *u, uint64_t *end)
{
    uint64_t to = bitmap_next_clear(u->used, 0, u->clusters) << s->cluster_bits;
    struct places p = {g_array_new(FALSE, FALSE, sizeof(struct place)), to, s->h.l1_offset};
    struct qed_walk w = {s, collect, &p};
    int rc = qed_walk_table(&w, s->h.l1_offset);
    struct place l1 = {s->h.l1_offset, 0};
    if (l1.off >= to) {
        g_array_append_val(p.all, l1);
    }
    g_array_sort(p.all, lower);
    for (guint i = 0; i < p.all->len && rc == 0; i++, to += s->table_bytes) {
        struct place *t = &g_array_index(p.all, struct place, i);
        rc = t->off == to ? 0 : move_table(s, t, to, &p);
    }
    g_array_free(p.all, TRUE);
    *end = to;
    return rc;
}

int qed_compact(struct qed *s, struct qed_usage *u)
{
    uint64_t end = 0;
    qed_cache_drop_all(&s->cache);
    g_array_set_size(s->lost, 0);
    int rc = move_data(s, u);
    rc = rc < 0 ? rc : move_tables(s, u, &end);
    int rc2 = qed_reload_l1(s);
    rc = rc < 0 ? rc : rc2;
    s->n->write_gen++;
    if (rc == 0 && end < edge_size(s->file)) {
        rc = edge_truncate(s->file, end, false, PREALLOC_OFF, NULL);
    }
    s->end = round_up(edge_size(s->file), s->cluster_size);
    return rc;
}
