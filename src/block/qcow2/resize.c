/* SPDX-License-Identifier: BSD-2-Clause */
/* Longer, shorter, allocated beforehand; and the link to the backing file. */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/debug.h"

#include <inttypes.h>
#include <stdlib.h>

uint64_t l1_entries(const struct qcow2 *s, uint64_t size)
{
    unsigned shift = s->cluster_bits + s->l2_bits;
    return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

/* The new table is complete and stable before the header names it. */
static int l1_write_new(struct qcow2 *s, uint64_t off, uint64_t entries)
{
    uint64_t len = entries * 8;
    uint8_t *b = g_try_malloc0(len);
    if (!b) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < s->h.l1_size; i++) {
        store_be64(b + (size_t)i * 8, s->l1[i]);
    }
    block_debug_event_at(s->file->child, "l1_grow_write_table");
    int rc = meta_check(s, off, round_up(len, s->cluster_size), 0);
    rc = rc < 0 ? rc : file_write_buf(s, off, len, b);
    rc = rc < 0 ? rc : qcow2_barrier(s);
    g_free(b);
    s->file_high = max_u64(s->file_high, off + len);
    return rc;
}

/* Whatever becomes of the barrier behind it: once the header's write has succeeded the table is the new one. */
static int l1_activate(struct qcow2 *s, uint64_t off, uint32_t entries, bool *done)
{
    struct q_header h = s->h;
    h.l1_size = entries;
    h.l1_offset = off;
    block_debug_event_at(s->file->child, "l1_grow_activate_table");
    return header_switch(s, &h, done);
}

/* [lock] */
static int l1_grow(struct qcow2 *s, uint64_t entries)
{
    uint64_t off, old = s->h.l1_offset, old_len = (uint64_t)s->h.l1_size * 8;
    bool done = false;
    block_debug_event_at(s->file->child, "l1_grow_alloc_table");
    int rc = clusters_alloc(s, q_clusters(s, entries * 8), &off);
    if (rc < 0) {
        return rc;
    }
    uint64_t *l1 = g_try_malloc0_n(entries, 8);
    rc = l1 && bitmap_resize(s->l1_dirty, entries) ? qcow2_refs_stable(s) : -ENOMEM;
    rc = rc < 0 ? rc : l1_write_new(s, off, entries);
    rc = rc < 0 ? rc : l1_activate(s, off, entries, &done);
    if (!done) {
        g_free(l1);
        clusters_free_now(s, off, entries * 8);
        return rc;
    }
    memcpy(l1, s->l1, old_len);
    g_free(s->l1);
    s->l1 = l1;
    s->h.l1_size = entries;
    s->h.l1_offset = off;
    meta_remove(s, old, old_len, META_L1);
    meta_add(s, off, entries * 8, META_L1);
    if (old_len) {
        clusters_free_later(s, old, old_len, FREE_OTHER);
    }
    return rc;
}

int l1_reserve(struct qcow2 *s, uint64_t entries)
{
    if (entries <= s->h.l1_size) {
        return 0;
    }
    /* some more, so that VM state that grows does not move the table again and again */
    return l1_grow(s, max_u64(entries, min_u64(entries + entries / 2, QCOW2_MAX_L1 / 8)));
}

int qcow2_write_zeroes(struct qcow2 *s, uint64_t at, uint64_t stop)
{
    uint64_t room = 1 << 20;
    CLEANUP_FREE uint8_t *buf = at < stop ? g_try_malloc0(room) : NULL;
    int rc = 0;
    while (rc == 0 && at < stop) {
        struct iovec iov;
        uint64_t n = min_u64(room, stop - at);
        struct iovs v = IOVS_BUF(&iov, buf, n);
        rc = buf ? qcow2_write(s->n, at, n, &v, 0, 0) : -ENOMEM;
        at += n;
    }
    return rc;
}

/* The rest of the last cluster reads as zeroes; preallocated it has a place as well. *start: what is preallocated. */
static int zero_edge(struct qcow2 *s, uint64_t from, uint64_t to, int prealloc, uint64_t *start)
{
    bool zero = true;
    struct q_run r = {.type = Q_NORMAL};
    *start = to;
    int rc = from < to && prealloc != PREALLOC_OFF ? qcow2_map(s, from, to - from, &r) : 0;
    rc = rc < 0 || from == to ? rc : qcow2_reads_zero(s, from, to - from, &zero);
    if (rc < 0 || (zero && r.type != Q_UNALLOC && r.type != Q_ZERO)) {
        return rc;
    }
    if (r.type == Q_UNALLOC && !s->n->backing) {
        *start = round_down(from, s->cluster_size);
        return 0;
    }
    return qcow2_write_zeroes(s, from, to);
}

static bool holds_zeroes(const struct qcow2 *s, int mode);

/* What the image gains must read as zeroes, whatever the last cluster and the backing file hold there: all of it
 * where a backing file is longer, so that none that is longer still ever shows through. */
static int gain(struct qcow2 *s, uint64_t from, uint64_t to, int prealloc, struct err *e)
{
    uint64_t edge = min_u64(round_up(from, s->cluster_size), to), below = s->n->backing ? edge_size(s->n->backing) : 0;
    uint64_t start = edge;
    int rc = s->data_raw ? 0 : zero_edge(s, from, edge, prealloc, &start);
    if (rc == 0 && prealloc != PREALLOC_OFF) {
        rc = qcow2_preallocate(s, start, to, prealloc, e);
    }
    if (rc < 0 || below <= from || holds_zeroes(s, prealloc)) {
        return rc;
    }
    return s->h.version < 3 ? qcow2_write_zeroes(s, edge, max_u64(edge, min_u64(below, to)))
                            : qcow2_make_zero(s, edge, round_up(to, s->cluster_size));
}

static int set_size(struct qcow2 *s, uint64_t size)
{
    bool done = false;
    co_lock(&s->lock); /* so that nothing else that the header names moves */
    int rc = qcow2_writeback(s, true);
    struct q_header h = s->h;
    h.size = size;
    rc = rc < 0 ? rc : header_switch(s, &h, &done);
    co_unlock(&s->lock);
    if (done) { /* whatever became of the barrier: the header says so now */
        s->h.size = size;
        node_set_size(s->n, size);
    }
    return rc;
}

/* The file ends where its last used cluster does. */
static int cut_file(struct qcow2 *s)
{
    uint64_t c = min_u64(q_clusters(s, edge_size(s->file)), (uint64_t)s->rt_size << s->rb_bits), count = 0;
    int rc = 0;
    while (c > 0 && rc == 0 && count == 0) {
        if (!(s->reftable[(c - 1) >> s->rb_bits] & RT_OFFSET)) {
            c = (c - 1) >> s->rb_bits << s->rb_bits;
            continue;
        }
        rc = refcount_get(s, c - 1, &count);
        c -= count == 0;
    }
    uint64_t end = c << s->cluster_bits;
    if (rc == 0 && c && end < edge_size(s->file)) {
        rc = edge_truncate(s->file, end, false, PREALLOC_OFF, NULL);
        s->file_high = rc == 0 ? end : s->file_high;
    }
    return rc;
}

static int shrink(struct qcow2 *s, uint64_t size)
{
    uint64_t from = round_up(size, s->cluster_size), old = s->h.size;
    int rc = 0;
    if (s->has_data_file && edge_size(s->data) > size) { /* first: who reads it by itself sees no more than we do */
        rc = edge_truncate(s->data, size, false, PREALLOC_OFF, NULL);
    }
    rc = rc == 0 && from < old ? qcow2_cut(s, from, old - from) : rc;
    rc = rc < 0 ? rc : set_size(s, size);
    rc = rc < 0 ? rc : bitmaps_resize(s, size);
    rc = rc < 0 ? rc : qcow2_writeback(s, true);
    if (rc == 0) {
        co_lock(&s->lock); /* nothing is allocated where nothing is counted meanwhile */
        rc = blocks_drop_empty(s);
        co_unlock(&s->lock);
    }
    return rc < 0 ? rc : cut_file(s);
}

int qcow2_make_empty(struct node *n)
{
    struct qcow2 *s = n->priv;
    if (s->data_raw) {
        return -ENOTSUP; /* what is read straight from the data file cannot be unallocated */
    }
    if (s->corrupt) {
        return -EIO;
    }
    int rc = qcow2_cut(s, 0, s->h.size);
    n->write_gen++;
    rc = rc < 0 ? rc : qcow2_writeback(s, true);
    return rc < 0 || s->has_data_file ? rc : cut_file(s);
}

static int grow(struct qcow2 *s, uint64_t size, int prealloc, struct err *e)
{
    uint64_t entries = l1_entries(s, size), old = s->h.size;
    int rc = 0;
    if (entries > s->h.l1_size) {
        co_lock(&s->lock);
        rc = l1_grow(s, entries);
        co_unlock(&s->lock);
    }
    if (rc == 0 && s->has_data_file && edge_size(s->data) < size) {
        rc = edge_truncate(s->data, size, false, prealloc == PREALLOC_METADATA ? PREALLOC_OFF : prealloc, e);
    }
    if (prealloc == PREALLOC_OFF && s->data_raw) { /* whatever the data file holds there is what the guest sees */
        prealloc = PREALLOC_METADATA;
    }
    rc = rc < 0 ? rc : gain(s, old, size, prealloc, e);
    rc = rc < 0 ? rc : bitmaps_resize(s, size);
    return rc < 0 ? rc : set_size(s, size);
}

int qcow2_can_resize(struct qcow2 *s, uint64_t size, int version, struct err *e)
{
    if (size & 511) {
        return err_set(e, EINVAL, "The new size must be a multiple of 512");
    }
    if ((s->h.nb_snapshots || s->making) && version < 3) {
        return err_set(e, ENOTSUP, "Can't resize a v2 image which has snapshots");
    }
    if (l1_entries(s, size) > QCOW2_MAX_L1 / 8) {
        return err_set_errno(e, EFBIG, "Failed to grow the L1 table");
    }
    return bitmaps_can_resize(s, size, e);
}

int qcow2_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct qcow2 *s = n->priv;
    if (s->corrupt) {
        return err_set(e, EIO, "Image '%s' is corrupt", n->filename);
    }
    if (size < s->h.size && prealloc != PREALLOC_OFF) {
        return err_set(e, ENOTSUP, "Preallocation can't be used for shrinking an image");
    }
    bool cutting = size < s->h.size;
    int rc = qcow2_can_resize(s, size, s->h.version, e);
    if (rc < 0) {
        return rc;
    }
    rc = vmstate_drop(s);
    rc = rc < 0 ? rc : cutting ? shrink(s, size) : grow(s, size, prealloc, e);
    if (rc < 0 && !err_is_set(e)) {
        err_set_errno(e, -rc, cutting ? "Failed to discard cropped clusters" : "Failed to update the image size");
    }
    return rc;
}

/* --- preallocation ------------------------------------------------------------------------------------------------ */

/* What an image gains is allocated in the file as well then, which is zeroes. A new image shows its backing file. */
static bool holds_zeroes(const struct qcow2 *s, int mode)
{
    return s->data_raw || (!s->crypt && s->h.size && (mode == PREALLOC_FALLOC || mode == PREALLOC_FULL));
}

/* The entry of a cluster that nothing was written to, and that reads as zeroes because the file ended before it: or
 * would, were it not decrypted. Subclusters stay unallocated, so that a backing file shows through, but where `data`
 * is in the file. */
static struct q_entry empty_entry(const struct qcow2 *s, uint64_t host, bool data)
{
    struct q_entry e = {.e = host | E_COPIED};
    if (s->extl2 && data) {
        e.bitmap = UINT32_MAX;
    } else if (!s->extl2 && s->crypt && s->h.version >= 3) {
        e.e |= E_ZERO;
    }
    return e;
}

static int link_empty(struct qcow2 *s, uint64_t off, uint64_t end, uint64_t host, bool has_data)
{
    while (off < end) {
        uint8_t *data;
        unsigned i;
        int rc = slice_modify(s, off, &data, &i);
        if (rc < 0) {
            return rc;
        }
        for (; off < end && i < 1u << s->slice_bits; i++, off += s->cluster_size, host += s->cluster_size) {
            struct q_entry e = entry_load(s, data, i);
            if (entry_has_host(s, e) || (e.e & E_COMPRESSED)) {
                entry_free(s, e, FREE_OTHER);
            }
            entry_store(s, data, i, empty_entry(s, host, has_data));
        }
    }
    return 0;
}

static int preallocate_part(struct qcow2 *s, uint64_t off, uint64_t end, int mode, struct err *e)
{
    uint64_t clusters = q_clusters(s, end - off), host = off;
    co_lock(&s->lock);
    int rc = l2_own(s, off, end - off);
    if (rc == 0 && !s->has_data_file) {
        s->free_hint = max_u64(s->free_hint, q_clusters(s, max_u64(s->file_high, edge_size(s->file))));
        rc = clusters_alloc(s, clusters, &host);
    }
    rc = rc < 0 ? rc : link_empty(s, off, end, host, holds_zeroes(s, mode));
    co_unlock(&s->lock);
    s->unstable = true;
    uint64_t stop = host + (clusters << s->cluster_bits);
    if (rc == 0 && !s->has_data_file) {
        s->file_high = max_u64(s->file_high, stop);
        if (edge_size(s->file) < stop) {
            rc = edge_truncate(s->file, stop, false, mode == PREALLOC_METADATA ? PREALLOC_OFF : mode, e);
        }
    }
    return rc == 0 && s->crypt && s->h.version < 3 ? qcow2_write_zeroes(s, off, end) : rc;
}

int qcow2_preallocate(struct qcow2 *s, uint64_t off, uint64_t end, int mode, struct err *e)
{
    uint64_t step = UINT64_C(1) << (s->cluster_bits + s->l2_bits), hint = s->free_hint;
    int rc = file_trim(s);
    s->no_ahead = true;
    while (rc == 0 && off < end) {
        uint64_t stop = min_u64(end, (off & ~(step - 1)) + step);
        rc = qcow2_make_room(s);
        rc = rc < 0 ? rc : preallocate_part(s, off, stop, mode, e);
        off = stop;
    }
    s->no_ahead = false;
    s->free_hint = min_u64(s->free_hint, hint);
    return rc;
}

/* --- backing file ------------------------------------------------------------------------------------------------- */

int qcow2_change_backing(struct node *n, const char *file, const char *format, struct err *e)
{
    struct qcow2 *s = n->priv;
    if (file && strlen(file) > 1023) {
        return err_set(e, EINVAL, "Backing file name too long");
    }
    if (file && s->data_raw) {
        return err_set(e, EINVAL, "Cannot set a backing file for images with data-file-raw");
    }
    char *old_file = n->backing_filename, *old_format = n->backing_format;
    n->backing_filename = file && *file ? g_strdup(file) : NULL;
    n->backing_format = n->backing_filename && format && *format ? g_strdup(format) : NULL;
    int rc = qcow2_writeback(s, true);
    rc = rc < 0 ? rc : header_write(s);
    if (rc < 0) {
        g_free(n->backing_filename);
        g_free(n->backing_format);
        n->backing_filename = old_file;
        n->backing_format = old_format;
        return err_set_errno(e, -rc, "Could not change the backing file of '%s'", n->filename);
    }
    g_free(old_file);
    g_free(old_format);
    return 0;
}
