/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots get what they read from the images below, so that these can go, or change. The data is written while the
 * guest goes on, to clusters that nothing names yet; tables of the snapshots that name them are written by one switch.
 * A cluster that several snapshots lack is one for all of them. Of one that a snapshot lacks in part (extended entries)
 * the rest comes out of the snapshot's own.
 */
#include "block/qcow2/snapshots.h"

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/cleanup.h"

#include <stdlib.h>

struct place {
    uint64_t host, users; /* host 0: nowhere yet */
    struct q_entry was;   /* whose rest is in it; 0: of one that is lacked whole */
    struct place *next;   /* of another entry for the same guest cluster */
};

struct q_fill {
    struct q_rewrite r;
    struct qcow2 *s;
    uint64_t end, taken;  /* of the disk; of the node, when it began */
    struct bitmap *lacks; /* guest clusters that a snapshot reads from below */
    struct bitmap *whole; /* those of which one has nothing */
    struct bitmap *given; /* those that `have` and `parts` have */
    GHashTable *have;     /* guest cluster → struct place *; nothing names them yet */
    GHashTable *parts;    /* the same of those that are lacked in part */
};

/* --- what they lack ----------------------------------------------------------------------------------------------- */

#define LACKS_MAX (UINT64_C(1) << 32) /* clusters */

struct look {
    struct q_fill *f;
    uint64_t end; /* clusters of the snapshot's disk behind which nothing is asked for */
};

/* The subclusters that are read from below; without extended entries all or none. Nothing is made of an entry that
 * makes no sense. */
static uint32_t missing(const struct qcow2 *s, struct q_entry e)
{
    if (!s->extl2) {
        return e.e ? 0 : UINT32_MAX;
    }
    uint32_t data = (uint32_t)e.bitmap, zero = (uint32_t)(e.bitmap >> 32);
    bool sense = !(data & zero) && !(e.e & L2E_OFFSET & (s->cluster_size - 1)) && (!data || entry_has_host(s, e));
    return sense && !(e.e & E_COMPRESSED) ? ~(data | zero) : 0;
}

static struct place *part_find(const struct q_fill *f, uint64_t cluster, struct q_entry e)
{
    struct place *p = g_hash_table_lookup(f->parts, GSIZE_TO_POINTER(cluster));
    while (p && (p->was.e != (e.e & L2E_OFFSET) || p->was.bitmap != e.bitmap)) {
        p = p->next;
    }
    return p;
}

static void look_at_entry(struct q_fill *f, uint64_t cluster, struct q_entry e)
{
    if (!missing(f->s, e)) {
        return;
    }
    bitmap_set(f->lacks, cluster, 1);
    if (!e.bitmap) {
        bitmap_set(f->whole, cluster, 1);
    } else if (!part_find(f, cluster, e)) {
        struct place *p = g_new0(struct place, 1);
        p->was = (struct q_entry){e.e & L2E_OFFSET, e.bitmap};
        p->next = g_hash_table_lookup(f->parts, GSIZE_TO_POINTER(cluster));
        g_hash_table_insert(f->parts, GSIZE_TO_POINTER(cluster), p);
    }
}

static int look_at(void *opaque, uint32_t index, uint64_t off, uint8_t *data)
{
    const struct look *l = opaque;
    const struct qcow2 *s = l->f->s;
    uint64_t first = (uint64_t)index << s->l2_bits;
    for (unsigned i = 0; i < 1u << s->l2_bits && first + i < l->end; i++) {
        look_at_entry(l->f, first + i, entry_load(s, data, i));
    }
    return 0;
}

static int look_through(struct q_fill *f, const struct q_snap *x)
{
    struct qcow2 *s = f->s;
    CLEANUP_FREE uint64_t *l1 = NULL;
    uint64_t size = min_u64(x->info.disk_size, f->end), need = l1_entries(s, size);
    struct look l = {f, min_u64(div_round_up(size, s->cluster_size), bitmap_bits(f->lacks))};
    uint32_t n = (uint32_t)min_u64(x->l1_size, need);
    if (n < need) {
        return -ENOTSUP; /* a table that is too short for its disk */
    }
    int rc = snap_l1_load(s, x, &l1, NULL);
    rc = rc < 0 ? rc : l2_walk(s, l1, n, look_at, &l);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint64_t from = (uint64_t)i << s->l2_bits, clusters = min_u64(l.end - from, UINT64_C(1) << s->l2_bits);
        if (!(l1[i] & L1E_OFFSET)) {
            bitmap_set(f->lacks, from, clusters);
            bitmap_set(f->whole, from, clusters);
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
    uint64_t clusters = div_round_up(min_u64(size, f->end), s->cluster_size);
    f->lacks = clusters <= LACKS_MAX ? bitmap_create(clusters) : NULL;
    f->whole = f->lacks ? bitmap_create(clusters) : NULL;
    f->given = f->whole ? bitmap_create(clusters) : NULL;
    int rc = f->given ? 0 : clusters > LACKS_MAX ? -EFBIG : -ENOMEM;
    for (guint i = 0; i < s->snapshots->len && rc == 0; i++) {
        rc = look_through(f, g_ptr_array_index(s->snapshots, i));
    }
    return rc;
}

/* --- coming and going --------------------------------------------------------------------------------------------- */

static void give_back_all(struct q_fill *f, GHashTable *places, bool unused_only)
{
    GHashTableIter it;
    void *value;
    g_hash_table_iter_init(&it, places);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        for (struct place *p = value, *next; p; p = next) {
            next = p->next;
            if (p->host && (!unused_only || !p->users)) {
                clusters_free_later(f->s, p->host, f->s->cluster_size, FREE_NEVER);
            }
            g_free(p);
        }
    }
    g_hash_table_remove_all(places);
}

static void give_back(struct q_fill *f, bool unused_only)
{
    give_back_all(f, f->have, unused_only);
    give_back_all(f, f->parts, unused_only);
}

static void fill_destroy(void *priv)
{
    struct q_fill *f = priv;
    if (f) {
        give_back(f, false);
        making_end(f->s);
        bitmap_destroy(f->lacks);
        bitmap_destroy(f->whole);
        bitmap_destroy(f->given);
        g_hash_table_destroy(f->have);
        g_hash_table_destroy(f->parts);
        g_free(f);
    }
}

static int fill_create(struct node *n, uint64_t end, void **out, struct err *e)
{
    struct qcow2 *s = n->priv;
    if (s->corrupt) {
        return err_set(e, EIO, "Image '%s' is corrupt", n->filename);
    }
    int rc = making_begin(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Node '%s'", n->name);
    }
    struct q_fill *f = g_new0(struct q_fill, 1);
    f->s = s;
    f->end = end;
    f->taken = n->snapshots_taken;
    f->have = g_hash_table_new(NULL, NULL);
    f->parts = g_hash_table_new(NULL, NULL);
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

static int get_clusters(struct qcow2 *s, uint64_t count, uint64_t *host)
{
    co_lock(&s->lock);
    int rc = clusters_alloc(s, count, host);
    if (rc == 0) {
        s->file_high = max_u64(s->file_high, *host + (count << s->cluster_bits));
    }
    co_unlock(&s->lock);
    return rc;
}

static int write_whole(struct q_fill *f, uint64_t first, uint64_t count, const uint8_t *buf)
{
    struct qcow2 *s = f->s;
    uint64_t host, len = count << s->cluster_bits;
    int rc = get_clusters(s, count, &host);
    if (rc < 0) {
        return rc;
    }
    for (uint64_t i = 0; i < count; i++) {
        const struct place p = {.host = host + (i << s->cluster_bits)};
        g_hash_table_insert(f->have, GSIZE_TO_POINTER(first + i), g_memdup2(&p, sizeof(p)));
    }
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, (void *)(uintptr_t)buf, len);
    return data_write(s, &(struct q_place){first << s->cluster_bits, host, len}, &v, 0);
}

/* What the entry has, over what is below. Should the cluster have been given up meanwhile, nobody has that entry any
 * more. */
static int read_rest(struct qcow2 *s, uint64_t guest, struct q_entry e, uint8_t *buf)
{
    uint64_t sub = UINT64_C(1) << s->sc_bits;
    int rc = 0;
    for (unsigned i = 0; i < 32 && rc == 0; i++) {
        struct iovec iov;
        struct iovs v = IOVS_BUF(&iov, buf + i * sub, sub);
        if (e.bitmap >> i & 1) {
            rc = data_read(s, &(struct q_place){guest + i * sub, e.e + i * sub, sub}, &v, 0);
        }
    }
    return rc;
}

static int write_part(struct q_fill *f, uint64_t cluster, struct place *p, const uint8_t *below)
{
    struct qcow2 *s = f->s;
    uint64_t guest = cluster << s->cluster_bits;
    uint8_t *buf = block_buf_alloc(s->data->child, s->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    memcpy(buf, below, s->cluster_size);
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, s->cluster_size);
    int rc = read_rest(s, guest, p->was, buf);
    rc = rc < 0 ? rc : get_clusters(s, 1, &p->host);
    rc = rc < 0 ? rc : data_write(s, &(struct q_place){guest, p->host, s->cluster_size}, &v, 0);
    free(buf);
    return rc;
}

static int fill_write(void *priv, uint64_t off, uint64_t len, const void *buf)
{
    struct q_fill *f = priv;
    struct qcow2 *s = f->s;
    const uint8_t *b = buf;
    uint64_t first = off >> s->cluster_bits, end = first + (len >> s->cluster_bits);
    int rc = qcow2_relieve(s);
    for (uint64_t at = first, to; rc == 0 && (at = bitmap_next_set(f->whole, at, end)) < end; at = to) {
        to = bitmap_next_clear(f->whole, at, end);
        rc = write_whole(f, at, to - at, b + ((at - first) << s->cluster_bits));
    }
    for (uint64_t at = first; rc == 0 && at < end && g_hash_table_size(f->parts); at++) {
        struct place *p = g_hash_table_lookup(f->parts, GSIZE_TO_POINTER(at));
        for (; p && rc == 0; p = p->next) {
            rc = write_part(f, at, p, b + ((at - first) << s->cluster_bits));
        }
    }
    if (rc == 0) {
        bitmap_set(f->given, first, end - first);
    }
    return rc;
}

/* --- the tables --------------------------------------------------------------------------------------------------- */

/* NULL: it stays as it is. */
static struct place *place_of(const struct q_fill *f, uint64_t cluster, struct q_entry e)
{
    struct place *p = !missing(f->s, e) ? NULL
                      : e.bitmap        ? part_find(f, cluster, e)
                                        : g_hash_table_lookup(f->have, GSIZE_TO_POINTER(cluster));
    return p && p->host ? p : NULL;
}

static bool wants(struct q_rewrite *r, uint64_t first, const uint8_t *data)
{
    const struct q_fill *f = (const struct q_fill *)r;
    const struct qcow2 *s = f->s;
    uint64_t from = first >> s->cluster_bits, end = min_u64(from + (UINT64_C(1) << s->l2_bits), bitmap_bits(f->given));
    for (uint64_t at = from; at < end && (at = bitmap_next_set(f->given, at, end)) < end; at++) {
        if (!data || place_of(f, at, entry_load(s, data, (unsigned)(at - from)))) {
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
        struct q_entry e = entry_load(s, data, i);
        struct place *p = place_of(f, (first >> s->cluster_bits) + i, e);
        if (p) {
            p->users += users;
            entry_store(s, data, i, (struct q_entry){p->host, s->extl2 ? e.bitmap | missing(s, e) : 0});
            rc = switch_set_users(&r->w, p->host >> s->cluster_bits, p->users);
            rc = rc < 0 || !(e.e & L2E_OFFSET) ? rc : switch_lose_times(&r->w, e.e & L2E_OFFSET, users);
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
    if (g_hash_table_size(f->parts) && f->taken != s->n->snapshots_taken) {
        /* A cluster may have become another one that is lacked in the same part, by way of a snapshot that was deleted.
         */
        return err_set(e, EAGAIN, "A snapshot of node '%s' was taken meanwhile", s->n->name);
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
    .create = fill_create,
    .next = fill_next,
    .write = fill_write,
    .commit = fill_commit,
    .destroy = fill_destroy,
};
