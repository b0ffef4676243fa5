/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing: a request is cut into pieces that are contiguous in the file and alike: in place, or newly allocated. Each
 * piece is one write of the file, with whatever must be copied around it in the same vector.
 */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/debug.h"

#include <stdlib.h>

enum { WAY_IN_PLACE, WAY_REUSE, WAY_NEW };
enum { ZERO_PIECE = 64 << 20 };

struct plan {
    uint64_t off, len, host; /* guest range, and where it goes */
    int way;
    bool fresh;          /* the clusters were never written: they read as zeroes */
    uint64_t head, tail; /* bytes before and behind that must get content as well */
    struct q_flight flight;
    struct q_op op;
};

struct q_flight *flight_find(struct qcow2 *s, uint64_t first, uint64_t count)
{
    for (GList *l = s->flights.head; l; l = l->next) {
        struct q_flight *f = l->data;
        if (ranges_overlap(f->first, f->count, first, count)) {
            return f;
        }
    }
    return NULL;
}

void flights_wait(struct qcow2 *s, uint64_t first, uint64_t count)
{
    struct q_flight *f;
    while ((f = flight_find(s, first, count))) {
        co_unlock(&s->lock);
        co_queue_wait(&f->done);
        co_lock(&s->lock);
    }
}

void flight_begin(struct qcow2 *s, struct q_flight *f, uint64_t first, uint64_t count)
{
    *f = (struct q_flight){.first = first, .count = count};
    f->link.data = f;
    g_queue_push_tail_link(&s->flights, &f->link);
}

void flight_end(struct qcow2 *s, struct q_flight *f)
{
    g_queue_unlink(&s->flights, &f->link);
    co_queue_wake_all(&f->done);
}

void op_begin(struct qcow2 *s, struct q_op *op)
{
    *op = (struct q_op){.seq = ++s->next_seq};
    op->link.data = op;
    g_queue_push_tail_link(&s->ops, &op->link);
}

void op_end(struct qcow2 *s, struct q_op *op)
{
    g_queue_unlink(&s->ops, &op->link);
}

static uint64_t mask_of(const struct qcow2 *s)
{
    return s->cluster_size - 1;
}

/* Subclusters [first, last] of the entry all hold data. */
static bool all_data(const struct qcow2 *s, struct q_entry e, unsigned first, unsigned last)
{
    for (unsigned i = first; i <= last; i++) {
        if (entry_type(s, e, i) != Q_NORMAL) {
            return false;
        }
    }
    return true;
}

static int way_of(const struct qcow2 *s, struct q_entry e, uint64_t off, uint64_t end)
{
    if (!entry_has_host(s, e) || !(e.e & E_COPIED)) {
        return WAY_NEW;
    }
    uint64_t mask = mask_of(s), last = min_u64(end - 1, off | mask);
    return all_data(s, e, (off & mask) >> s->sc_bits, (last & mask) >> s->sc_bits) ? WAY_IN_PLACE : WAY_REUSE;
}

/* How far the first cluster's way goes, within one flight-free range. */
static int classify(struct qcow2 *s, struct plan *p)
{
    uint64_t at = p->off, end = p->off + p->len;
    while (at < end) {
        struct q_table *t;
        unsigned i;
        int rc = slice_get(s, at, &t, &i);
        if (rc < 0) {
            return rc;
        }
        for (; at < end && i < 1u << s->slice_bits; i++) {
            struct q_entry e = t ? entry_load(s, t->buf->data, i) : (struct q_entry){0};
            bool misplaced = !(e.e & (E_COPIED | E_COMPRESSED)) && (e.e & L2E_OFFSET & mask_of(s));
            if (entry_type(s, e, 0) == Q_INVALID && !misplaced) { /* what is about to be left may lie anywhere */
                return qcow2_corrupt_target(s, at, e);
            }
            int way = way_of(s, e, at, end);
            uint64_t host = (e.e & L2E_OFFSET) + (at & mask_of(s));
            if (at == p->off) {
                p->way = way;
                p->host = way == WAY_NEW ? 0 : host;
            } else if ((way == WAY_NEW) != (p->way == WAY_NEW) || (way != WAY_NEW && host != p->host + (at - p->off))) {
                p->len = at - p->off;
                return 0;
            } else if (way == WAY_REUSE) { /* with what is written in place before and behind it */
                p->way = way;
            }
            at = min_u64(end, (at | mask_of(s)) + 1);
        }
    }
    return 0;
}

static int entry_at(struct qcow2 *s, uint64_t guest, struct q_entry *e)
{
    struct q_table *t;
    unsigned i;
    int rc = slice_get(s, guest, &t, &i);
    *e = rc == 0 && t ? entry_load(s, t->buf->data, i) : (struct q_entry){0};
    return rc;
}

/* What must be filled in around the piece: to the cluster's edge, or, with subclusters, to theirs. */
static int plan_edges(struct qcow2 *s, struct plan *p)
{
    uint64_t end = p->off + p->len, sc = (UINT64_C(1) << s->sc_bits) - 1, mask = mask_of(s);
    struct q_entry a, b;
    int rc = entry_at(s, p->off, &a);
    if (rc == 0) {
        rc = entry_at(s, end - 1, &b);
    }
    if (rc < 0) {
        return rc;
    }
    bool move_a = p->way == WAY_NEW && entry_has_data(s, a), move_b = p->way == WAY_NEW && entry_has_data(s, b);
    p->head = p->off & (move_a ? mask : sc);
    p->tail = -end & (move_b ? mask : sc);
    if (p->way == WAY_REUSE && entry_type(s, a, (p->off & mask) >> s->sc_bits) == Q_NORMAL) {
        p->head = 0;
    }
    if (p->way == WAY_REUSE && entry_type(s, b, ((end - 1) & mask) >> s->sc_bits) == Q_NORMAL) {
        p->tail = 0;
    }
    return 0;
}

static int plan_new(struct qcow2 *s, struct plan *p, uint64_t first, uint64_t count)
{
    uint64_t host;
    block_debug_event_at(s->file->child, "cluster_alloc");
    int rc = l2_own(s, first << s->cluster_bits, count << s->cluster_bits);
    if (rc < 0) {
        return rc;
    }
    if (s->has_data_file) {
        host = first << s->cluster_bits;
        s->unstable = true;
    } else {
        rc = clusters_alloc(s, count, &host);
        if (rc < 0) {
            return rc;
        }
        p->fresh = host >= s->file_high && !s->crypt;
        s->file_high = max_u64(s->file_high, host + (count << s->cluster_bits));
    }
    p->host = host + (p->off & mask_of(s));
    return 0;
}

/* A new L2 table lies before its data, and not before that of the table in front of it: as everybody lays them. */
static void stop_at_new_table(const struct qcow2 *s, struct plan *p)
{
    uint64_t span = UINT64_C(1) << (s->cluster_bits + s->l2_bits), at = round_down(p->off, span) + span;
    while (at < p->off + p->len && (s->l1[at / span] & L1E_OFFSET)) {
        at += span;
    }
    p->len = min_u64(p->len, at - p->off);
}

/* Decides where the first piece of [off, off + len) goes; its clusters are then in flight (or an operation in place).
 */
static int plan_make(struct qcow2 *s, struct plan *p, uint64_t off, uint64_t len)
{
    uint64_t first = off >> s->cluster_bits;
    *p = (struct plan){.off = off, .len = len};
    flights_wait(s, first, 1);
    for (GList *l = s->flights.head; l; l = l->next) { /* stops short of what others are allocating */
        const struct q_flight *f = l->data;
        if (f->first > first) {
            p->len = min_u64(p->len, (f->first << s->cluster_bits) - off);
        }
    }
    int rc = classify(s, p);
    if (p->way == WAY_NEW) {
        stop_at_new_table(s, p);
    }
    if (rc == 0 && p->way == WAY_IN_PLACE) {
        op_begin(s, &p->op);
        rc = s->has_data_file ? 0 : meta_check(s, p->host, p->len, 0);
        if (rc < 0) {
            op_end(s, &p->op);
        }
        return rc;
    }
    uint64_t count = q_clusters(s, (off & mask_of(s)) + p->len);
    if (rc == 0) {
        rc = plan_edges(s, p);
    }
    if (rc == 0 && p->way == WAY_NEW) {
        rc = plan_new(s, p, first, count);
    }
    if (rc == 0 && p->way == WAY_REUSE) {
        rc = l2_own(s, off, p->len);
        rc = rc < 0 || s->has_data_file ? rc : meta_check(s, p->host, p->len, 0);
        s->unstable = true;
    }
    if (rc == 0) {
        flight_begin(s, &p->flight, first, count);
    }
    return rc;
}

/* The content around the piece as the guest sees it now; nothing when it is zeroes and the clusters read so. */
static int fill_edge(struct qcow2 *s, struct plan *p, uint64_t off, uint64_t *len, uint8_t *buf)
{
    uint64_t in = off < s->n->size ? min_u64(*len, s->n->size - off) : 0;
    bool zero = true;
    int rc = in ? qcow2_reads_zero(s, off, in, &zero) : 0;
    if (rc < 0) {
        return rc;
    }
    if (zero && p->fresh) {
        *len = 0;
        return 0;
    }
    memset(buf + (zero ? 0 : in), 0, *len - (zero ? 0 : in));
    if (zero) {
        return 0;
    }
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, in);
    block_debug_event_at(s->file->child, "cow_read");
    return qcow2_read(s->n, off, in, &v, 0, 0);
}

static int write_with_edges(struct qcow2 *s, struct plan *p, const struct iovs *v, size_t voff)
{
    uint64_t head = p->head, tail = p->tail;
    uint8_t *buf = block_buf_alloc(s->data->child, head + tail);
    if (!buf) {
        return -ENOMEM;
    }
    int rc = fill_edge(s, p, p->off - head, &head, buf);
    if (rc == 0) {
        rc = fill_edge(s, p, p->off + p->len, &tail, buf + p->head);
    }
    if (rc < 0) {
        free(buf);
        return rc;
    }
    struct iovs mid;
    iovs_slice(&mid, v, voff, p->len);
    struct iovec *iov = g_new(struct iovec, mid.n + 2);
    int n = 0;
    if (head) {
        iov[n++] = (struct iovec){buf, head};
    }
    memcpy(iov + n, mid.iov, mid.n * sizeof(*iov));
    n += mid.n;
    if (tail) {
        iov[n++] = (struct iovec){buf + p->head, tail};
    }
    struct iovs all = {iov, n, head + p->len + tail};
    block_debug_event_at(s->file->child, "write_aio");
    rc = data_write(s, &(struct q_place){p->off - head, p->host - head, all.size}, &all, 0);
    g_free(iov);
    iovs_finish(&mid);
    free(buf);
    return rc;
}

/* The entry of a cluster of the piece after the write. */
static struct q_entry new_entry(const struct qcow2 *s, const struct plan *p, struct q_entry old, uint64_t guest)
{
    uint64_t mask = mask_of(s), host = (p->host & ~mask) + (guest - (p->off & ~mask));
    struct q_entry e = {.e = host | E_COPIED};
    if (s->extl2) {
        uint64_t a = max_u64(p->off - p->head, guest), b = min_u64(p->off + p->len + p->tail, guest + s->cluster_size);
        unsigned first = (a & mask) >> s->sc_bits, last = ((b - 1) & mask) >> s->sc_bits;
        uint64_t set = (UINT64_MAX >> (63 - (last - first)) << first) & UINT32_MAX;
        e.bitmap = old.e & E_COMPRESSED ? 0 : old.bitmap;
        e.bitmap = (e.bitmap | set) & ~(set << 32);
    }
    return e;
}

/* The data is written: the L2 entries name it now, in the cache. */
static int link_piece(struct qcow2 *s, struct plan *p)
{
    uint64_t mask = mask_of(s), end = p->off + p->len;
    for (uint64_t at = p->off & ~mask; at < end;) {
        uint8_t *data;
        unsigned i;
        int rc = slice_modify(s, at, &data, &i);
        if (rc < 0) {
            return rc;
        }
        for (; at < end && i < 1u << s->slice_bits; i++, at += s->cluster_size) {
            struct q_entry old = entry_load(s, data, i);
            entry_store(s, data, i, new_entry(s, p, old, at));
            if (p->way == WAY_NEW) {
                entry_free(s, old, FREE_SNAPSHOT);
            }
        }
        s->unstable = true;
    }
    return 0;
}

static int write_plain(struct qcow2 *s, struct plan *p, const struct iovs *v, size_t voff)
{
    block_debug_event_at(s->file->child, "write_aio");
    return data_write(s, &(struct q_place){p->off, p->host, p->len}, v, voff);
}

/* The bytes are there: whatever happened, the piece is over. */
static int end_piece(struct qcow2 *s, struct plan *p, int rc)
{
    if (p->way == WAY_IN_PLACE) {
        op_end(s, &p->op);
        return rc;
    }
    if (rc == 0) {
        rc = link_piece(s, p);
    } else if (p->way == WAY_NEW && !s->has_data_file) {
        clusters_free_now(s, p->host & ~mask_of(s), p->flight.count << s->cluster_bits);
    }
    flight_end(s, &p->flight);
    return rc;
}

static int begin_piece(struct qcow2 *s, struct plan *p, uint64_t off, uint64_t len)
{
    int rc = qcow2_make_room(s);
    if (rc == 0) {
        co_lock(&s->lock);
        rc = plan_make(s, p, off, len);
        co_unlock(&s->lock);
    }
    return rc;
}

int qcow2_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct qcow2 *s = n->priv;
    int rc = 0;
    struct plan p;
    for (uint64_t end = off + len; off < end && rc == 0; off += p.len, voff += p.len) {
        rc = begin_piece(s, &p, off, end - off);
        if (rc == 0) {
            rc = p.head || p.tail ? write_with_edges(s, &p, v, voff) : write_plain(s, &p, v, voff);
            rc = end_piece(s, &p, rc);
        }
    }
    return rc;
}

int qcow2_zero_data(struct qcow2 *s, uint64_t off, uint64_t len)
{
    int rc = 0;
    struct plan p;
    for (uint64_t end = off + len; off < end && rc == 0; off += p.len) {
        rc = begin_piece(s, &p, off, min_u64(end - off, ZERO_PIECE));
        if (rc == 0) {
            rc = file_write_zeroes(s, p.host, p.len);
            rc = end_piece(s, &p, rc);
        }
    }
    return rc;
}

int qcow2_copy_file(struct node *n, uint64_t off, uint64_t len, struct node *src, uint64_t soff)
{
    struct qcow2 *s = n->priv;
    int rc = s->crypt ? -ENOTSUP : 0;
    struct plan p;
    for (uint64_t end = off + len; off < end && rc == 0; off += p.len, soff += p.len) {
        rc = begin_piece(s, &p, off, end - off);
        if (rc == 0) {
            rc = p.head || p.tail ? -ENOTSUP : file_copy(s, p.host, p.len, src, soff);
            rc = end_piece(s, &p, rc);
        }
    }
    return rc;
}
