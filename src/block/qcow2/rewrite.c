/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L2 tables of snapshots are never changed where they are. Those that have to be are copied, with the L1 tables that
 * lead to them, and one switch (snapshots.h) names the copies. What several have in common stays so.
 */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"

int switch_lose_times(struct q_switch *w, uint64_t off, uint64_t users)
{
    int rc = 0;
    for (uint64_t i = 0; i < users && rc == 0; i++) {
        rc = switch_lose(w, off >> w->s->cluster_bits);
    }
    return rc;
}

static uint64_t first_of(const struct q_rewrite *x, uint32_t index)
{
    const struct qcow2 *s = x->w.s;
    return (uint64_t)index << (s->cluster_bits + s->l2_bits);
}

/* Tables that are looked at: those of the disk, or all. */
static uint32_t count_of(const struct q_rewrite *x, const struct q_snap *snap)
{
    return x->states ? snap->l1_size : (uint32_t)min_u64(snap->l1_size, l1_entries(x->w.s, snap->info.disk_size));
}

static int find_table(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct q_rewrite *x = opaque;
    if (x->wants(x, first_of(x, index), data)) {
        g_hash_table_insert(x->tables, GSIZE_TO_POINTER(off), NULL);
    }
    return 0;
}

/* A table that there is not. */
static bool wants_missing(struct q_rewrite *x, const uint64_t *l1, uint32_t index)
{
    return !(l1[index] & L1E_OFFSET) && x->wants(x, first_of(x, index), NULL);
}

static int find_tables(struct q_rewrite *x)
{
    struct qcow2 *s = x->w.s;
    int rc = 0;
    for (guint i = 0; i < s->snapshots->len && rc == 0; i++) {
        const struct q_snap *snap = g_ptr_array_index(s->snapshots, i);
        CLEANUP_FREE uint64_t *l1 = NULL;
        uint32_t n = count_of(x, snap);
        rc = snap_l1_load(s, snap, &l1, NULL);
        rc = rc < 0 ? rc : l2_walk(s, l1, n, find_table, x);
        for (uint32_t k = 0; k < n && rc == 0; k++) {
            x->missing += wants_missing(x, l1, k);
        }
    }
    return rc;
}

/* --- one table ---------------------------------------------------------------------------------------------------- */

static int rewrite_table(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    struct q_rewrite *x = opaque;
    struct q_switch *w = &x->w;
    struct qcow2 *s = w->s;
    gpointer made;
    if (!g_hash_table_lookup_extended(x->tables, GSIZE_TO_POINTER(off), NULL, &made)) {
        return 0;
    }
    uint64_t copy = GPOINTER_TO_SIZE(made), users;
    if (!copy) {
        int rc = switch_users(w, off >> s->cluster_bits, &users);
        rc = rc < 0 ? rc : x->change(x, first_of(x, index), data, users);
        rc = rc < 0 ? rc : switch_copy_table(w, data, &copy);
        rc = rc < 0 || users == 1 ? rc : switch_set_users(w, copy >> s->cluster_bits, users);
        rc = rc < 0 ? rc : switch_lose_times(w, off, users);
        if (rc < 0) {
            return rc;
        }
        g_hash_table_insert(x->tables, GSIZE_TO_POINTER(off), GSIZE_TO_POINTER(copy));
    }
    x->l1[index] = copy;
    return 0;
}

static int make_missing(struct q_rewrite *x, const uint64_t *l1, uint32_t n)
{
    struct qcow2 *s = x->w.s;
    CLEANUP_FREE uint8_t *data = g_try_malloc(s->cluster_size);
    int rc = data ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint64_t made;
        if (!wants_missing(x, l1, i)) {
            continue;
        }
        memset(data, 0, s->cluster_size);
        rc = x->change(x, first_of(x, i), data, 1);
        rc = rc < 0 ? rc : switch_copy_table(&x->w, data, &made);
        x->l1[i] = rc < 0 ? 0 : made;
    }
    return rc;
}

/* --- one snapshot ------------------------------------------------------------------------------------------------- */

static bool names_one(struct q_rewrite *x, const uint64_t *l1, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (wants_missing(x, l1, i) || g_hash_table_contains(x->tables, GSIZE_TO_POINTER(l1[i] & L1E_OFFSET))) {
            return true;
        }
    }
    return false;
}

/* A copy of a snapshot's entry, with room for another L1 table when it needs one; `mine` owns it. */
static int reserve_l1(struct q_rewrite *x, guint i, GPtrArray *mine)
{
    struct qcow2 *s = x->w.s;
    const struct q_snap *old = g_ptr_array_index(x->w.snapshots, i);
    CLEANUP_FREE uint64_t *l1 = NULL;
    uint64_t off;
    int rc = snap_l1_load(s, old, &l1, NULL);
    if (rc < 0 || !names_one(x, l1, count_of(x, old))) {
        return rc;
    }
    rc = switch_take(&x->w, q_clusters(s, (uint64_t)old->l1_size * 8), &off);
    if (rc == 0) {
        struct q_snap *new = snap_copy(old);
        new->l1_offset = off;
        g_ptr_array_add(mine, new);
        x->w.snapshots->pdata[i] = new;
    }
    return rc;
}

static int rewrite_snapshot(struct q_rewrite *x, const struct q_snap *old, const struct q_snap *new)
{
    struct qcow2 *s = x->w.s;
    CLEANUP_FREE uint64_t *l1 = NULL;
    int rc = snap_l1_load(s, old, &l1, NULL);
    if (rc < 0) {
        return rc;
    }
    x->l1 = g_memdup2(l1, (gsize)old->l1_size * 8);
    rc = l2_walk(s, l1, count_of(x, old), rewrite_table, x);
    rc = rc < 0 ? rc : make_missing(x, l1, count_of(x, old));
    rc = rc < 0 ? rc : switch_write_l1(&x->w, new->l1_offset, x->l1, new->l1_size);
    switch_give_up(&x->w, old->l1_offset, (uint64_t)old->l1_size * 8, FREE_OTHER);
    g_free(take(x->l1));
    return rc;
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

static int rewrite_all(struct q_rewrite *x, GPtrArray *mine)
{
    struct q_switch *w = &x->w;
    struct qcow2 *s = w->s;
    int rc = 0;
    for (guint i = 0; i < w->snapshots->len && rc == 0; i++) {
        rc = reserve_l1(x, i, mine);
    }
    w->new_table = true;
    uint32_t l1_size = (uint32_t)max_u64(s->h.l1_size, 1);
    rc = rc < 0 ? rc : switch_reserve(w, l1_size, g_hash_table_size(x->tables) + x->missing);
    for (guint i = 0; i < w->snapshots->len && rc == 0; i++) {
        const struct q_snap *old = g_ptr_array_index(s->snapshots, i), *new = g_ptr_array_index(w->snapshots, i);
        rc = old == new ? 0 : rewrite_snapshot(x, old, new);
    }
    CLEANUP_FREE uint64_t *l1 = g_memdup2(s->l1, (gsize)s->h.l1_size * 8);
    for (uint32_t i = 0; i < s->h.l1_size && rc == 0; i++) { /* what it shares with them it goes on sharing */
        gpointer made = g_hash_table_lookup(x->tables, GSIZE_TO_POINTER(l1[i] & L1E_OFFSET));
        l1[i] = made ? GPOINTER_TO_SIZE(made) : l1[i];
    }
    return rc < 0 ? rc : switch_reclaim(w, l1);
}

static int in_a_switch(struct q_rewrite *x)
{
    g_autoptr(GPtrArray) mine = snaps_new();
    int rc = switch_begin(&x->w, x->w.s, true);
    if (rc < 0) {
        return rc;
    }
    rc = rewrite_all(x, mine);
    if (rc < 0) {
        switch_abort(&x->w);
        return rc;
    }
    return switch_commit(&x->w);
}

int snapshots_rewrite(struct qcow2 *s, struct q_rewrite *x)
{
    x->w.s = s;
    x->tables = g_hash_table_new(NULL, NULL);
    x->missing = 0;
    int rc = find_tables(x);
    if (rc == 0 && (g_hash_table_size(x->tables) || x->missing)) {
        rc = in_a_switch(x);
    }
    g_hash_table_destroy(take(x->tables));
    return rc;
}
