/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots are made, applied, deleted and shown. Each of the first three is one switch (snapshots.h). */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <stdlib.h>

static bool names_any(const uint64_t *l1, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        if (l1[i] & L1E_OFFSET) {
            return true;
        }
    }
    return false;
}

static uint64_t count_tables(const uint64_t *l1, uint64_t n, uint64_t flag)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < n; i++) {
        count += (l1[i] & L1E_OFFSET) && (l1[i] & flag) == flag;
    }
    return count;
}

static int usable(const struct qcow2 *s, struct err *e)
{
    if (s->has_data_file) {
        return err_set(e, ENOTSUP, "Images with an external data file cannot have internal snapshots");
    }
    if (s->snapshots_unread) {
        return err_set(e, EINVAL, "The image is open to be checked: its snapshots are not known");
    }
    return s->corrupt ? err_set(e, EIO, "Image '%s' is corrupt", s->n->filename) : 0;
}

static struct q_snap *find(const struct qcow2 *s, const char *id, int *rc)
{
    struct q_snap *x = snaps_find(s, id);
    *rc = usable(s, NULL); /* whoever asked finds the words */
    *rc = *rc < 0 || x ? *rc : -ENOENT;
    return *rc < 0 ? NULL : x;
}

int qcow2_snapshot_list(struct node *n, GPtrArray *out)
{
    const struct qcow2 *s = n->priv;
    for (guint i = 0; i < s->snapshots->len; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        g_ptr_array_add(out, snapshot_copy(&x->info));
    }
    return 0;
}

/* The end of a switch that `rc` has got so far. */
static int finish(struct q_switch *w, int rc)
{
    if (rc < 0) {
        switch_abort(w);
        return rc;
    }
    return switch_commit(w);
}

/* --- create ------------------------------------------------------------------------------------------------------- */

char *snapshot_next_id(const struct qcow2 *s)
{
    unsigned long max = 0;
    for (guint i = 0; i < s->snapshots->len; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        unsigned long id = strtoul(x->info.id, NULL, 10);
        max = id > max ? id : max;
    }
    return g_strdup_printf("%lu", max + 1);
}

/* The snapshot gets the L1 table, and with it what VM state there is; the active image a new one. */
int snapshot_take(struct qcow2 *s, struct q_snap *x, bool named)
{
    struct q_switch w;
    uint64_t disk = l1_entries(s, s->h.size), used = min_u64(disk, s->h.l1_size);
    int rc = switch_begin(&w, s, names_any(s->l1, used));
    if (rc < 0) {
        return rc;
    }
    x->l1_offset = s->h.l1_offset;
    x->l1_size = s->h.l1_size;
    if (named) {
        g_ptr_array_add(w.snapshots, x);
    }
    w.new_table = named;
    w.keep_l1 = true;
    rc = switch_reserve(&w, max_u64(disk, 1), count_tables(s->l1, used, E_COPIED));
    return finish(&w, rc < 0 ? rc : switch_adopt(&w, s->l1, used));
}

int snapshot_check_new(struct qcow2 *s, const struct snapshot *info, struct err *e)
{
    int rc = usable(s, e);
    if (rc < 0) {
        return rc;
    }
    if (states_make(s, info->name)) {
        return err_set(e, EBUSY, "A snapshot '%s' of node '%s' is being made", info->name, s->n->name);
    }
    if (*info->id && snaps_find(s, info->id)) {
        return err_set(e, EEXIST, "There is a snapshot with the id '%s'", info->id);
    }
    if (strlen(info->id) > UINT16_MAX || strlen(info->name) > UINT16_MAX) {
        return err_set(e, EINVAL, "Id or name of a snapshot is longer than %u bytes", UINT16_MAX);
    }
    if (s->snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        return err_set(e, EFBIG, "The image has %u snapshots, and cannot have more", s->snapshots->len);
    }
    return 0;
}

int qcow2_snapshot_create(struct node *n, struct snapshot *info, struct err *e)
{
    struct qcow2 *s = n->priv;
    int rc = snapshot_check_new(s, info, e);
    if (rc < 0) {
        return rc;
    }
    if (!*info->id) {
        g_free(info->id);
        info->id = snapshot_next_id(s);
    }
    info->disk_size = s->h.size;
    co_lock(&s->lock);
    const struct q_snap made = {.info = *info};
    g_autoptr(GPtrArray) mine = snaps_new();
    g_ptr_array_add(mine, snap_copy(&made));
    rc = snapshot_take(s, g_ptr_array_index(mine, 0), true);
    co_unlock(&s->lock);
    return rc;
}

/* --- apply -------------------------------------------------------------------------------------------------------- */

/* Entries of the active L1 table when the image is as it was then. */
static int applied_l1(const struct qcow2 *s, const struct q_snap *x, uint32_t *out, struct err *e)
{
    uint64_t size = x->info.disk_size, need = l1_entries(s, size);
    if (size != s->h.size && s->h.version < 3) {
        return err_set(e, ENOTSUP, "Can't resize a v2 image which has snapshots");
    }
    if (size != s->h.size && (size & 511)) {
        return err_set(e, EINVAL, "The new size must be a multiple of 512");
    }
    if (size > INT64_MAX || need > QCOW2_MAX_L1 / 8) {
        return err_set_errno(e, EFBIG, "Failed to grow the L1 table");
    }
    *out = max_u64(max_u64(need, x->l1_size), 1);
    return 0;
}

static int apply_locked(struct qcow2 *s, const struct q_snap *x, const uint64_t *l1, uint32_t l1_size)
{
    struct q_switch w;
    int rc = switch_begin(&w, s, names_any(s->l1, s->h.l1_size) || names_any(l1, x->l1_size));
    if (rc < 0) {
        return rc;
    }
    w.h.size = x->info.disk_size;
    rc = switch_reserve(&w, l1_size, count_tables(l1, x->l1_size, 0));
    rc = rc < 0 ? rc : switch_leave(&w, s->l1, s->h.l1_size);
    rc = rc < 0 ? rc : switch_adopt(&w, l1, x->l1_size);
    return finish(&w, rc);
}

int qcow2_snapshot_apply(struct node *n, const char *id, struct err *e)
{
    int rc;
    const struct q_snap *x = find(n->priv, id, &rc);
    return rc < 0 ? rc : snapshot_put_back(n->priv, x, e);
}

int snapshot_put_back(struct qcow2 *s, const struct q_snap *x, struct err *e)
{
    CLEANUP_FREE uint64_t *l1 = NULL;
    uint32_t l1_size = 0;
    uint64_t old = s->h.size;
    int rc = applied_l1(s, x, &l1_size, e);
    rc = rc < 0 ? rc : qcow2_make_room(s);
    rc = rc < 0 || x->info.disk_size <= old ? rc : bitmaps_resize(s, x->info.disk_size);
    if (rc < 0) {
        return rc;
    }
    co_lock(&s->lock);
    rc = snap_l1_load(s, x, &l1, e);
    rc = rc < 0 ? rc : apply_locked(s, x, l1, l1_size);
    co_unlock(&s->lock);
    if (s->h.size < old || rc < 0) { /* only now: what is too long does no harm meanwhile */
        int rc2 = bitmaps_resize(s, s->h.size);
        rc = rc < 0 ? rc : rc2;
    }
    return rc;
}

/* --- delete ------------------------------------------------------------------------------------------------------- */

int snapshot_give_back(struct qcow2 *s, struct q_snap *x, const uint64_t *l1)
{
    struct q_switch w;
    bool shares = names_any(l1, x->l1_size);
    int rc = switch_begin(&w, s, shares);
    if (rc < 0) {
        return rc;
    }
    w.new_table = g_ptr_array_remove(w.snapshots, x);
    rc = switch_reserve(&w, shares ? max_u64(s->h.l1_size, 1) : 0, count_tables(s->l1, s->h.l1_size, 0));
    rc = rc < 0 ? rc : switch_leave(&w, l1, x->l1_size);
    rc = rc < 0 ? rc : switch_reclaim(&w, s->l1);
    switch_give_up(&w, x->l1_offset, (uint64_t)x->l1_size * 8, FREE_OTHER);
    return finish(&w, rc);
}

int qcow2_snapshot_delete(struct node *n, const char *id, struct err *e)
{
    struct qcow2 *s = n->priv;
    CLEANUP_FREE uint64_t *l1 = NULL;
    int rc;
    struct q_snap *x = find(s, id, &rc);
    if (rc < 0) {
        return rc;
    }
    if (states_read(s, id)) {
        return err_set(e, EBUSY, "Snapshot '%s' of node '%s' is being loaded from", x->info.name, n->name);
    }
    co_lock(&s->lock);
    rc = snap_l1_load(s, x, &l1, e);
    rc = rc < 0 ? rc : snapshot_give_back(s, x, l1);
    co_unlock(&s->lock);
    return rc;
}

int snaps_rewrite(struct qcow2 *s)
{
    struct q_switch w;
    int rc = switch_begin(&w, s, false);
    if (rc < 0) {
        return rc;
    }
    w.new_table = true;
    return finish(&w, switch_reserve(&w, 0, 0));
}

/* --- show --------------------------------------------------------------------------------------------------------- */

int qcow2_snapshot_show(struct node *n, const char *id, struct err *e)
{
    struct qcow2 *s = n->priv;
    CLEANUP_FREE uint64_t *l1 = NULL;
    int rc;
    const struct q_snap *x = find(s, id, &rc);
    rc = rc < 0 ? rc : snap_l1_load(s, x, &l1, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t need = l1_entries(s, x->info.disk_size), size = max_u64(max_u64(need, x->l1_size), 1);
    if (x->info.disk_size > INT64_MAX || need > QCOW2_MAX_L1 / 8) {
        return err_set(e, EFBIG, "The disk of snapshot '%s' is too big", x->info.name);
    }
    uint64_t *active = g_try_malloc0_n(size, 8);
    if (!active) {
        return err_set_errno(e, ENOMEM, "Snapshot '%s'", x->info.name);
    }
    if (x->l1_size) {
        memcpy(active, l1, (size_t)x->l1_size * 8);
    }
    g_free(s->l1);
    s->l1 = active;
    s->h.l1_size = size;
    s->h.l1_offset = x->l1_offset;
    s->h.size = x->info.disk_size;
    cache_reset(&s->l2);
    node_set_size(n, round_down(s->h.size, 512));
    return 0;
}
