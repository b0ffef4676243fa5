/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing: a request is cut into pieces that are contiguous in the file and alike: in place, or newly allocated. Each
 * piece is one write of the file, with what the backing image has around it in the same vector. Several requests
 * allocate at the same time.
 */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/endian.h"
#include "block/debug.h"

#include <stdlib.h>
#include <string.h>

struct plan {
    uint64_t off, len, host; /* guest range, and where it goes */
    bool is_new, shows;      /* shows: of the backing image, were it not for the new clusters */
    struct qed_flight flight;
};

/* --- flights ------------------------------------------------------------------------------------------------------ */

static struct qed_flight *flight_find(struct qed *s, uint64_t first, uint64_t count)
{
    for (GList *l = s->flights.head; l; l = l->next) {
        struct qed_flight *f = l->data;
        if (ranges_overlap(f->first, f->count, first, count)) {
            return f;
        }
    }
    return NULL;
}

/* [lock], which is dropped meanwhile */
static void flights_wait(struct qed *s, uint64_t first, uint64_t count)
{
    struct qed_flight *f;
    while ((f = flight_find(s, first, count))) {
        co_unlock(&s->lock);
        co_queue_wait(&f->done);
        co_lock(&s->lock);
    }
}

static void flight_begin(struct qed *s, struct qed_flight *f, uint64_t first, uint64_t count)
{
    *f = (struct qed_flight){.first = first, .count = count};
    f->link.data = f;
    g_queue_push_tail_link(&s->flights, &f->link);
}

static void flight_end(struct qed *s, struct qed_flight *f)
{
    g_queue_unlink(&s->flights, &f->link);
    co_queue_wake_all(&f->done);
}

/* How many of `count` clusters from `first`, which is not in flight, can be had before one that is. */
static uint64_t flights_clip(struct qed *s, uint64_t first, uint64_t count)
{
    for (GList *l = s->flights.head; l; l = l->next) {
        const struct qed_flight *f = l->data;
        if (f->first > first && f->first < first + count) {
            count = f->first - first;
        }
    }
    return count;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static int plan_new(struct qed *s, struct plan *p)
{
    uint64_t first = p->off >> s->cluster_bits, in = p->off & (s->cluster_size - 1), host;
    uint64_t count = flights_clip(s, first, qed_clusters(s, in + p->len));
    p->len = min_u64(p->len, (count << s->cluster_bits) - in);
    int rc = qed_table_own(s, p->off);
    rc = rc < 0 ? rc : qed_alloc(s, count, &host);
    if (rc == 0) {
        p->host = host + in;
        flight_begin(s, &p->flight, first, count);
    }
    return rc;
}

/* [lock] Decides where the first piece of [off, off + len) goes; its new clusters are then in flight. */
static int plan_make(struct qed *s, struct plan *p, uint64_t off, uint64_t len)
{
    struct qed_run r;
    flights_wait(s, off >> s->cluster_bits, 1);
    int rc = qed_map(s, off, len, &r);
    if (rc < 0) {
        return rc;
    }
    *p = (struct plan){.off = off, .len = r.len, .host = r.host, .is_new = r.type != QED_RUN_DATA};
    if (!p->is_new) {
        return qed_file_reach(s, r.host + r.len); /* a file may end within its last cluster */
    }
    struct edge *b = s->n->backing;
    p->shows = r.type == QED_RUN_NONE && b && round_down(off, s->cluster_size) < edge_size(b);
    return plan_new(s, p);
}

/* What the backing image has in [off, off + *len); *len 0: zeroes, as new clusters are. */
static int read_around(struct qed *s, uint64_t off, uint64_t *len, uint8_t *buf)
{
    uint64_t in = off < s->n->size ? min_u64(*len, s->n->size - off) : 0;
    memset(buf + in, 0, *len - in);
    block_debug_event_at(s->file->child, "cow_read");
    int rc = in ? qed_file_read_buf(s->n->backing, off, in, buf) : 0;
    if (rc == 0 && buf_is_zero(buf, in)) {
        *len = 0;
    }
    return rc;
}

static int write_with_edges(struct qed *s, struct plan *p, const struct iovs *v, size_t voff)
{
    uint64_t mask = s->cluster_size - 1, head = p->off & mask, tail = -(p->off + p->len) & mask, head_max = head;
    uint8_t *buf = block_buf_alloc(s->file->child, head + tail);
    if (!buf) {
        return -ENOMEM;
    }
    int rc = head ? read_around(s, p->off - head, &head, buf) : 0;
    if (rc == 0 && tail) {
        rc = read_around(s, p->off + p->len, &tail, buf + head_max);
    }
    if (rc == 0) {
        struct iovs mid;
        iovs_slice(&mid, v, voff, p->len);
        struct iovec *iov = g_new(struct iovec, mid.n + 2);
        iov[0] = (struct iovec){buf, head};
        memcpy(iov + 1, mid.iov, mid.n * sizeof(*iov));
        iov[mid.n + 1] = (struct iovec){buf + head_max, tail};
        struct iovs all = {iov, mid.n + 2, head + p->len + tail};
        block_debug_event_at(s->file->child, "cow_write");
        rc = edge_write(s->file, p->host - head, all.size, &all, 0, 0);
        g_free(iov);
        iovs_finish(&mid);
    }
    free(buf);
    return rc;
}

/* The data is written: the entries name it now, in the cache. */
static int link_piece(struct qed *s, struct plan *p)
{
    struct qed_slice *sl;
    unsigned i;
    int rc = qed_slice_get(s, p->off, &sl, &i);
    if (rc < 0) {
        return rc;
    }
    uint64_t host = round_down(p->host, s->cluster_size);
    for (uint64_t k = 0; k < p->flight.count; k++) {
        store_le64(sl->e + 8 * (i + k), host + (k << s->cluster_bits));
    }
    qed_cache_dirty(&s->cache, sl, true);
    s->unstable |= p->shows;
    qed_settle_later(s);
    return 0;
}

static int write_new(struct qed *s, struct plan *p, const struct iovs *v, size_t voff)
{
    block_debug_event_at(s->file->child, "write_aio");
    int rc = p->shows && ((p->off | p->len) & (s->cluster_size - 1)) ? write_with_edges(s, p, v, voff)
                                                                     : edge_write(s->file, p->host, p->len, v, voff, 0);
    rc = rc < 0 ? rc : link_piece(s, p);
    if (rc < 0) {
        co_lock(&s->lock);
        qed_give_back(s, round_down(p->host, s->cluster_size), p->flight.count << s->cluster_bits);
        co_unlock(&s->lock);
    }
    flight_end(s, &p->flight);
    return rc;
}

static int write_piece(struct qed *s, struct plan *p, const struct iovs *v, size_t voff)
{
    if (p->is_new) {
        return write_new(s, p, v, voff);
    }
    block_debug_event_at(s->file->child, "write_aio");
    return edge_write(s->file, p->host, p->len, v, voff, 0);
}

int qed_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct qed *s = n->priv;
    uint64_t end = off + len;
    while (off < end) {
        struct plan p;
        int rc = qed_make_room(s);
        if (rc < 0) {
            return rc;
        }
        co_lock(&s->lock);
        rc = plan_make(s, &p, off, end - off);
        co_unlock(&s->lock);
        rc = rc < 0 ? rc : write_piece(s, &p, v, voff);
        if (rc < 0) {
            return rc;
        }
        off += p.len;
        voff += p.len;
    }
    return 0;
}

/* --- zeroes and discard ------------------------------------------------------------------------------------------- */

/* [lock] Entries of what is not here: whole clusters, or to the end of the image. */
static int mark_zero(struct qed *s, uint64_t off, uint64_t len)
{
    struct qed_slice *sl;
    unsigned i;
    int rc = qed_need_check(s);
    rc = rc < 0 ? rc : qed_table_own(s, off);
    rc = rc < 0 ? rc : qed_slice_get(s, off, &sl, &i);
    for (uint64_t k = 0; rc == 0 && k < qed_clusters(s, len); k++) {
        store_le64(sl->e + 8 * (i + k), QED_ZERO);
    }
    if (rc == 0) {
        qed_cache_dirty(&s->cache, sl, true);
        qed_settle_later(s);
    }
    return rc;
}

static int zero_piece(struct qed *s, uint64_t off, uint64_t len, struct qed_run *r)
{
    uint64_t first = off >> s->cluster_bits;
    co_lock(&s->lock);
    flights_wait(s, first, 1);
    int rc = qed_map(s, off, len, r);
    if (rc == 0) {
        r->len = min_u64(r->len, flights_clip(s, first, qed_clusters(s, r->len)) << s->cluster_bits);
    }
    if (rc == 0 && r->type == QED_RUN_NONE) {
        rc = mark_zero(s, off, r->len);
    }
    co_unlock(&s->lock);
    return rc;
}

int qed_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct qed *s = n->priv;
    uint64_t end = off + len;
    for (unsigned i = 1; off < end; i++) {
        struct qed_run r;
        int rc = qed_make_room(s);
        rc = rc < 0 ? rc : zero_piece(s, off, end - off, &r);
        if (rc == 0 && r.type == QED_RUN_DATA) {
            rc = edge_zero(s->file, r.host, min_u64(r.len, edge_size(s->file) - r.host), flags & ~(unsigned)REQ_FUA);
        }
        if (rc < 0) {
            return rc;
        }
        off += r.len;
        if (i % QED_RUNS_AT_ONCE == 0) {
            co_yield ();
        }
    }
    return 0;
}

/* The file gives back the space; the image keeps the cluster. */
int qed_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct qed *s = n->priv;
    for (unsigned i = 1; len; i++) {
        struct qed_run r;
        int rc = qed_map_far(s, off, len, &r);
        if (rc == 0 && r.type == QED_RUN_DATA) {
            rc = edge_discard(s->file, r.host, min_u64(r.len, edge_size(s->file) - r.host));
        }
        if (rc < 0) {
            return rc;
        }
        off += r.len;
        len -= r.len;
        if (i % QED_RUNS_AT_ONCE == 0) {
            co_yield ();
        }
    }
    return 0;
}
