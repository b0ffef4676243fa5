/* SPDX-License-Identifier: BSD-2-Clause */
/* Ranges that lose their data: zero clusters, discard, and the end of a shrinking image. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"

enum { TABLES_AT_ONCE = 64 };
enum what { TO_ZERO, TO_ZERO_UNMAP, TO_NOTHING, TO_DISCARD };

static bool is_zero_already(const struct qcow2 *s, struct q_entry e)
{
    return s->extl2 ? e.bitmap == BITMAP_ALL_ZERO && !(e.e & E_COMPRESSED)
                    : !(e.e & E_COMPRESSED) && (e.e & E_ZERO) != 0;
}

static struct q_entry zero_entry(const struct qcow2 *s, uint64_t keep)
{
    return s->extl2 ? (struct q_entry){keep, BITMAP_ALL_ZERO} : (struct q_entry){.e = keep | E_ZERO};
}

/* discard-no-unref: the cluster stays where it is, so that data written again does not lie elsewhere. */
static bool stays(const struct qcow2 *s, struct q_entry e, enum what w)
{
    return s->discard_no_unref && (w == TO_DISCARD || w == TO_ZERO_UNMAP) && !s->has_data_file &&
           entry_has_host(s, e) && (e.e & E_COPIED);
}

/* The entry of a whole cluster afterwards. */
static struct q_entry changed(const struct qcow2 *s, struct q_entry old, enum what w)
{
    bool host = entry_has_host(s, old), used = host || (old.e & E_COMPRESSED);
    if (stays(s, old, w)) {
        return zero_entry(s, old.e & ~E_ZERO);
    }
    switch (w) {
    case TO_NOTHING:
        return (struct q_entry){0};
    case TO_DISCARD: /* reads as zeroes afterwards where the version can say so */
        if (!used && (!s->n->backing || is_zero_already(s, old))) {
            return old;
        }
        return s->h.version >= 3 ? zero_entry(s, 0) : (struct q_entry){0};
    case TO_ZERO_UNMAP:
        if (s->has_data_file && host) { /* the place is fixed */
            return zero_entry(s, s->data_raw ? old.e & ~E_ZERO : 0);
        }
        return zero_entry(s, 0);
    default:
        return zero_entry(s, host ? old.e & ~E_ZERO : 0);
    }
}

/* Clusters that are what they are to become need no write of their table: *off moves behind them. */
static int skip_same(struct qcow2 *s, uint64_t *off, uint64_t end, enum what w)
{
    while (*off < end) {
        struct q_table *t;
        unsigned i;
        int rc = slice_get(s, *off, &t, &i);
        if (rc < 0 || !t) {
            return rc;
        }
        for (; *off < end && i < 1u << s->slice_bits; i++, *off += s->cluster_size) {
            struct q_entry old = entry_load(s, t->buf->data, i), e = changed(s, old, w);
            if (e.e != old.e || e.bitmap != old.bitmap) {
                return 0;
            }
        }
    }
    return 0;
}

static int change_clusters(struct qcow2 *s, uint64_t off, uint64_t end, enum what w, int kind)
{
    for (;;) {
        uint8_t *data;
        unsigned i;
        int rc = skip_same(s, &off, end, w);
        if (rc < 0 || off >= end) {
            return rc;
        }
        rc = slice_modify(s, off, &data, &i);
        if (rc < 0) {
            return rc;
        }
        for (; off < end && i < 1u << s->slice_bits; i++, off += s->cluster_size) {
            struct q_entry old = entry_load(s, data, i), e = changed(s, old, w);
            if (e.e == old.e && e.bitmap == old.bitmap) {
                continue;
            }
            entry_store(s, data, i, e);
            if (entry_has_host(s, e) != entry_has_host(s, old) || (old.e & E_COMPRESSED)) {
                entry_free(s, old, kind);
            }
        }
    }
}

/* The file below may forget what clusters hold that stay. Before the entries say so: a discard may lose data at any
 * time, but what is written afterwards must not be discarded. */
static int discard_staying(struct qcow2 *s, uint64_t off, uint64_t end, enum what w)
{
    int rc = 0;
    while (off < end && rc == 0 && s->discard_no_unref && s->discard[FREE_REQUEST]) {
        struct q_table *t;
        uint64_t host = 0, len = 0, size = edge_size(s->file);
        unsigned i;
        rc = slice_get(s, off, &t, &i);
        if (rc < 0 || !t) {
            break;
        }
        for (; off < end && i < 1u << s->slice_bits; i++, off += s->cluster_size) {
            struct q_entry e = entry_load(s, t->buf->data, i);
            if (stays(s, e, w) && (!len || (e.e & L2E_OFFSET) == host + len)) {
                host = len ? host : e.e & L2E_OFFSET;
                len += s->cluster_size;
            } else if (len) {
                break;
            }
        }
        if (len && host < size) {
            rc = edge_discard(s->file, host, min_u64(len, size - host));
        }
    }
    return rc == -ENOTSUP ? 0 : rc;
}

static bool l2_exists(const struct qcow2 *s, uint64_t off)
{
    uint64_t i = off >> (s->cluster_bits + s->l2_bits);
    return i < s->h.l1_size && (s->l1[i] & L1E_OFFSET);
}

/* Subclusters of one cluster become zero. */
static int zero_part(struct qcow2 *s, uint64_t off, uint64_t end)
{
    uint8_t *data;
    unsigned i;
    int rc = slice_modify(s, off, &data, &i);
    if (rc < 0) {
        return rc;
    }
    struct q_entry e = entry_load(s, data, i);
    if (e.e & E_COMPRESSED) {
        return -ENOTSUP;
    }
    uint64_t mask = s->cluster_size - 1;
    unsigned first = (off & mask) >> s->sc_bits, last = ((end - 1) & mask) >> s->sc_bits;
    uint64_t set = (UINT64_MAX >> (63 - (last - first)) << first) & UINT32_MAX;
    e.bitmap = (e.bitmap & ~set) | set << 32;
    entry_store(s, data, i, e);
    return 0;
}

/* [off, end) is made of whole clusters (zero: of subclusters), but for the end of the image. */
static int change(struct qcow2 *s, uint64_t off, uint64_t end, enum what w, int kind)
{
    uint64_t span = UINT64_C(1) << (s->cluster_bits + s->l2_bits), mask = s->cluster_size - 1;
    bool to_zero = w == TO_ZERO || w == TO_ZERO_UNMAP;
    if (end == s->n->size || !s->extl2) {
        end = round_up(end, s->cluster_size);
    }
    for (unsigned i = 1; off < end; i++) {
        if (i % TABLES_AT_ONCE == 0) { /* damaged ones are one table, named very often */
            co_yield ();
        }
        int rc = qcow2_make_room(s);
        if (rc < 0) {
            return rc;
        }
        uint64_t part = min_u64(end, (off & ~(span - 1)) + span);
        if (!to_zero && !l2_exists(s, off) && (w == TO_NOTHING || !s->n->backing)) {
            off = part;
            continue;
        }
        bool single = (off & mask) || part - off < s->cluster_size;
        part = single ? min_u64(part, (off | mask) + 1) : part & ~mask;
        co_lock(&s->lock);
        flights_wait(s, off >> s->cluster_bits, q_clusters(s, part) - (off >> s->cluster_bits));
        rc = l2_own(s, off, part - off);
        if (rc == 0 && !single) {
            rc = discard_staying(s, off, part, w);
        }
        if (rc == 0) {
            rc = single ? zero_part(s, off, part) : change_clusters(s, off, part, w, kind);
        }
        co_unlock(&s->lock);
        if (rc < 0) {
            return rc;
        }
        off = part;
    }
    return 0;
}

/* By this image, or where it leaves that open, by what is below it. */
static int rest_reads_zero(struct qcow2 *s, uint64_t off, uint64_t len, bool *zero)
{
    for (*zero = true; len && *zero;) {
        struct q_run r;
        int rc = qcow2_map(s, off, len, &r);
        if (rc < 0) {
            return rc;
        }
        *zero = r.type == Q_ZERO || r.type == Q_ZERO_HOST;
        if (r.type == Q_UNALLOC || r.type == Q_UNALLOC_HOST) {
            *zero = true;
            if (s->n->backing && off < edge_size(s->n->backing)) {
                struct extent x;
                rc = node_status_above(s->n->backing->child, NULL, off, r.len, &x, NULL);
                if (rc < 0) {
                    return rc;
                }
                *zero = x.flags & EXT_ZERO;
                r.len = x.len;
            }
        }
        off += r.len;
        len -= r.len;
    }
    return 0;
}

/* [off, end) within one unit, which becomes zero as a whole when the rest of it reads so already. */
static int zero_within(struct qcow2 *s, uint64_t off, uint64_t end, enum what w, bool fallback)
{
    uint64_t unit = UINT64_C(1) << s->sc_bits, first = off & ~(unit - 1), len = min_u64(unit, s->n->size - first);
    bool zero = false;
    int rc = qcow2_make_room(s);
    if (rc < 0) {
        return rc;
    }
    co_lock(&s->lock);
    flights_wait(s, off >> s->cluster_bits, 1);
    rc = rest_reads_zero(s, first, off - first, &zero);
    if (rc == 0 && zero && end < first + len) {
        rc = rest_reads_zero(s, end, first + len - end, &zero);
    }
    if (rc == 0 && zero) {
        rc = l2_own(s, first, 1);
        if (rc == 0) {
            rc = s->extl2 ? zero_part(s, first, first + len) : change_clusters(s, first, first + len, w, FREE_REQUEST);
        }
    }
    co_unlock(&s->lock);
    if (rc < 0 || zero) {
        return rc;
    }
    if (!fallback) {
        return -ENOTSUP;
    }
    CLEANUP_FREE uint8_t *buf = g_try_malloc0(end - off);
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, end - off);
    return buf ? qcow2_write(s->n, off, end - off, &v, 0, 0) : -ENOMEM;
}

static int zero_range(struct qcow2 *s, uint64_t off, uint64_t end, enum what w, bool fallback)
{
    uint64_t unit = UINT64_C(1) << s->sc_bits;
    int rc = 0;
    if (off & (unit - 1)) { /* up to the next unit */
        uint64_t stop = min_u64(end, round_up(off, unit));
        rc = zero_within(s, off, stop, w, fallback);
        off = stop;
    }
    uint64_t middle = end & ~(unit - 1);
    if (rc == 0 && off < middle) {
        rc = change(s, off, middle, w, FREE_REQUEST);
        off = middle;
    }
    return rc == 0 && off < end ? zero_within(s, off, end, w, fallback) : rc;
}

/* A raw data file must read so without us; behind its end it does. */
static int zero_raw(struct qcow2 *s, uint64_t off, uint64_t end, unsigned flags)
{
    end = min_u64(end, edge_size(s->data));
    return off < end ? edge_zero(s->data, off, end - off, flags) : 0;
}

int qcow2_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct qcow2 *s = n->priv;
    if (s->h.version < 3 && n->backing) {
        return -ENOTSUP;
    }
    if (s->data_raw) {
        int rc = zero_raw(s, off, off + len, flags);
        if (rc < 0) {
            return rc;
        }
    }
    enum what w = s->h.version < 3 ? TO_NOTHING : flags & REQ_MAY_UNMAP ? TO_ZERO_UNMAP : TO_ZERO;
    return zero_range(s, off, off + len, w, !(flags & REQ_NO_FALLBACK));
}

int qcow2_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct qcow2 *s = n->priv;
    uint64_t mask = s->cluster_size - 1, end = off + len;
    if (s->h.version < 3 && n->backing) { /* would show what the backing file has */
        return -ENOTSUP;
    }
    off = round_up(off, s->cluster_size);
    end = end == n->size ? end : end & ~mask;
    if (off >= end) {
        return 0;
    }
    bool in_file = s->data_raw && !s->crypt; /* the file must read as the image does */
    int rc = in_file ? zero_raw(s, off, end, REQ_MAY_UNMAP) : 0;
    rc = rc < 0 ? rc : change(s, off, end, TO_DISCARD, FREE_REQUEST);
    if (rc == 0 && s->has_data_file && !in_file && s->discard[FREE_REQUEST] && off < edge_size(s->data)) {
        rc = qcow2_writeback(s, true);
        rc = rc < 0 ? rc : edge_discard(s->data, off, min_u64(end, edge_size(s->data)) - off);
    }
    return rc;
}

int qcow2_cut(struct qcow2 *s, uint64_t off, uint64_t len)
{
    return change(s, off, off + len, TO_NOTHING, FREE_OTHER);
}

int qcow2_make_zero(struct qcow2 *s, uint64_t off, uint64_t end)
{
    return change(s, off, end, TO_ZERO, FREE_OTHER);
}
