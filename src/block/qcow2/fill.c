/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots get what they read from the images below, so that these can go. The data is written while the guest goes
 * on, to clusters that nothing names yet; tables of the snapshots that name them are written by one switch. A cluster
 * that several snapshots lack is one for all of them.
 */
#include "block/qcow2/snapshots.h"

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/cleanup.h"

struct place {
    uint64_t host, users;
};

struct q_fill {
    struct q_rewrite r;
    struct qcow2 *s;
    struct bitmap *lacks; /* guest clusters that a snapshot reads from below */
    struct bitmap *given; /* those that `have` has */
    GHashTable *have;     /* guest cluster → struct place *; nothing names them yet */
};

static bool fill_can(struct node *n)
{
    const struct qcow2 *s = n->priv;
    return !s->extl2 && !s->has_data_file && !s->corrupt; /* of a part of a cluster nothing is known here */
}

/* --- what they lack ----------------------------------------------------------------------------------------------- */

#define LACKS_MAX (UINT64_C(1) << 32) /* clusters */

struct look {
    struct q_fill *f;
    uint64_t end; /* clusters of the snapshot's disk behind which nothing is below */
};

/* Behind this all images below are over. */
static uint64_t below_end(const struct node *n)
{
    uint64_t end = 0;
    for (struct node *b = n->backing ? n->backing->child : NULL; b; b = node_backing(b)) {
        end = max_u64(end, b->size);
    }
    return end;
}

static bool is_missing(struct q_entry e)
{
    return !e.e;
}

static int look_at(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    const struct look *l = opaque;
    const struct qcow2 *s = l->f->s;
    uint64_t first = (uint64_t)index << s->l2_bits;
    for (unsigned i = 0; i < 1u << s->l2_bits && first + i < l->end; i++) {
        if (is_missing(entry_load(s, data, i))) {
            bitmap_set(l->f->lacks, first + i, 1);
        }
    }
    return 0;
}

static int look_through(struct q_fill *f, const struct q_snap *x)
{
    struct qcow2 *s = f->s;
    CLEANUP_FREE uint64_t *l1 = NULL;
    uint64_t size = min_u64(x->info.disk_size, below_end(s->n)), need = l1_entries(s, size);
    struct look l = {f, min_u64(div_round_up(size, s->cluster_size), bitmap_bits(f->lacks))};
    uint32_t n = (uint32_t)min_u64(x->l1_size, need);
    if (n < need) {
        return -ENOTSUP; /* a table that is too short for its disk */
    }
    int rc = snap_l1_load(s, x, &l1, NULL);
    rc = rc < 0 ? rc : l2_walk(s, l1, n, look_at, &l);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint64_t from = (uint64_t)i << s->l2_bits;
        if (!(l1[i] & L1E_OFFSET)) {
            bitmap_set(f->lacks, from, min_u64(l.end - from, UINT64_C(1) << s->l2_bits));
        }
    }
    return rc;
}

static int look_through_all(struct q_fill *f)
{
    struct qcow2 *s = f->s;
    uint64_t size = 0;
    for (guint i = 0; i < s->snapshots->len; i++) {
        size = max_u64(size, ((const struct q_snap *)g_ptr_array_index(s->snapshots, i))->info.disk_size);
    }
    uint64_t clusters = div_round_up(min_u64(size, below_end(s->n)), s->cluster_size);
    f->lacks = clusters <= LACKS_MAX ? bitmap_create(clusters) : NULL;
    f->given = f->lacks ? bitmap_create(clusters) : NULL;
    int rc = f->given ? 0 : clusters > LACKS_MAX ? -EFBIG : -ENOMEM;
    for (guint i = 0; i < s->snapshots->len && rc == 0; i++) {
        rc = look_through(f, g_ptr_array_index(s->snapshots, i));
    }
    return rc;
}

/* --- coming and going --------------------------------------------------------------------------------------------- */

static void give_back(struct q_fill *f, bool unused_only)
{
    GHashTableIter it;
    void *value;
    g_hash_table_iter_init(&it, f->have);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        const struct place *p = value;
        if (!unused_only || !p->users) {
            clusters_free_later(f->s, p->host, f->s->cluster_size, FREE_NEVER);
        }
    }
    g_hash_table_remove_all(f->have);
}

static void fill_destroy(void *priv)
{
    struct q_fill *f = priv;
    if (f) {
        give_back(f, false);
        making_end(f->s);
        bitmap_destroy(f->lacks);
        bitmap_destroy(f->given);
        g_hash_table_destroy(f->have);
        g_free(f);
    }
}

static int fill_create(struct node *n, void **out, struct err *e)
{
    struct qcow2 *s = n->priv;
    int rc = making_begin(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Node '%s'", n->name);
    }
    struct q_fill *f = g_new0(struct q_fill, 1);
    f->s = s;
    f->have = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    co_lock(&s->lock);
    rc = look_through_all(f);
    co_unlock(&s->lock);
    if (rc < 0) {
        fill_destroy(f);
        return err_set_errno(e, -rc, "Snapshots of node '%s'", n->name);
    }
    *out = f;
    return 0;
}

/* --- the data ----------------------------------------------------------------------------------------------------- */

static bool fill_next(void *priv, uint64_t *off, uint64_t *len)
{
    const struct q_fill *f = priv;
    uint64_t end = bitmap_bits(f->lacks), from = *off >> f->s->cluster_bits;
    uint64_t bit = from < end ? bitmap_next_set(f->lacks, from, end) : end;
    if (bit >= end) {
        return false;
    }
    *off = bit << f->s->cluster_bits;
    *len = (bitmap_next_clear(f->lacks, bit, end) - bit) << f->s->cluster_bits;
    return true;
}

static int fill_write(void *priv, uint64_t off, uint64_t len, const void *buf)
{
    struct q_fill *f = priv;
    struct qcow2 *s = f->s;
    uint64_t host, count = len >> s->cluster_bits;
    int rc = qcow2_relieve(s);
    if (rc < 0) {
        return rc;
    }
    co_lock(&s->lock);
    rc = clusters_alloc(s, count, &host);
    if (rc == 0) {
        s->file_high = max_u64(s->file_high, host + len);
    }
    co_unlock(&s->lock);
    if (rc < 0) {
        return rc;
    }
    for (uint64_t i = 0; i < count; i++) {
        const struct place p = {.host = host + (i << s->cluster_bits)};
        g_hash_table_insert(f->have, GSIZE_TO_POINTER((off >> s->cluster_bits) + i), g_memdup2(&p, sizeof(p)));
    }
    bitmap_set(f->given, off >> s->cluster_bits, count);
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, (void *)(uintptr_t)buf, len);
    return data_write(s, &(struct q_place){off, host, len}, &v, 0);
}

/* --- the tables --------------------------------------------------------------------------------------------------- */

static struct place *place_of(const struct q_fill *f, uint64_t cluster)
{
    return g_hash_table_lookup(f->have, GSIZE_TO_POINTER(cluster));
}

static bool wants(struct q_rewrite *r, uint64_t first, const uint8_t *data)
{
    const struct q_fill *f = (const struct q_fill *)r;
    const struct qcow2 *s = f->s;
    uint64_t from = first >> s->cluster_bits, end = min_u64(from + (UINT64_C(1) << s->l2_bits), bitmap_bits(f->given));
    for (uint64_t at = from; at < end && (at = bitmap_next_set(f->given, at, end)) < end; at++) {
        if (!data || is_missing(entry_load(s, data, (unsigned)(at - from)))) {
            return true;
        }
    }
    return false;
}

static int change(struct q_rewrite *r, uint64_t first, uint8_t *data, uint64_t users)
{
    struct q_fill *f = (struct q_fill *)r;
    const struct qcow2 *s = f->s;
    int rc = 0;
    for (unsigned i = 0; i < 1u << s->l2_bits && rc == 0; i++) {
        struct place *p = is_missing(entry_load(s, data, i)) ? place_of(f, (first >> s->cluster_bits) + i) : NULL;
        if (p) {
            p->users += users;
            entry_store(s, data, i, (struct q_entry){.e = p->host});
            rc = switch_set_users(&r->w, p->host >> s->cluster_bits, p->users);
        }
    }
    return rc;
}

static int fill_commit(void *priv, struct err *e)
{
    struct q_fill *f = priv;
    struct qcow2 *s = f->s;
    f->r.wants = wants;
    f->r.change = change;
    if (states_begun(s)) {
        return err_set(e, EBUSY, "A snapshot of node '%s' is being made", s->n->name);
    }
    co_lock(&s->lock);
    uint64_t before = s->h.snapshots_offset;
    int rc = snapshots_rewrite(s, &f->r);
    co_unlock(&s->lock);
    if (rc == 0 || s->h.snapshots_offset != before) { /* it may have failed behind the header's write */
        give_back(f, true);                           /* what a snapshot lacked that was deleted meanwhile */
    }
    return rc < 0 ? err_set_errno(e, -rc, "Could not rewrite the snapshots of node '%s'", s->n->name) : 0;
}

const struct snapshot_fill_ops qcow2_fill_ops = {
    .can = fill_can,
    .create = fill_create,
    .next = fill_next,
    .write = fill_write,
    .commit = fill_commit,
    .destroy = fill_destroy,
};
