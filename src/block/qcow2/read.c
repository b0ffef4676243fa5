/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/debug.h"

enum { MAPS_AT_ONCE = 16 };

static int backing_read(struct qcow2 *s, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    struct edge *b = s->n->backing;
    if (!b) {
        iovs_fill(v, voff, 0, len);
        return 0;
    }
    block_debug_event_at(s->file->child, "read_backing_aio");
    return file_read(b, off, len, v, voff);
}

static int run_read(struct qcow2 *s, const struct q_run *r, uint64_t off, const struct iovs *v, size_t voff)
{
    switch (r->type) {
    case Q_NORMAL:
        block_debug_event_at(s->file->child, "read_aio");
        return data_read(s, &(struct q_place){off, r->host, r->len}, v, voff);
    case Q_COMPRESSED:
        return compressed_read(s, r->host, off & (s->cluster_size - 1), r->len, v, voff);
    case Q_UNALLOC:
    case Q_UNALLOC_HOST:
        return backing_read(s, off, r->len, v, voff);
    default:
        iovs_fill(v, voff, 0, r->len);
        return 0;
    }
}

/* Fragments of one request that are read at the same time. */
struct fan {
    struct qcow2 *s;
    const struct iovs *v;
    struct co *parent;
    unsigned pending;
    bool waiting;
    int rc;
};
struct fan_part {
    struct fan *fan;
    struct q_run run;
    uint64_t off;
    size_t voff;
};
enum { FAN_MAX = 16 };

static void fan_part_run(void *arg)
{
    struct fan_part *p = arg;
    struct fan *f = p->fan;
    int rc = run_read(f->s, &p->run, p->off, f->v, p->voff);
    if (rc < 0 && f->rc == 0) {
        f->rc = rc;
    }
    g_free(p);
    if (--f->pending < FAN_MAX && f->waiting) {
        f->waiting = false;
        co_wake(f->parent);
    }
}

static void fan_wait(struct fan *f, unsigned below)
{
    while (f->pending >= below) {
        f->waiting = true;
        co_wait();
    }
}

static void fan_start(struct fan *f, const struct q_run *r, uint64_t off, size_t voff)
{
    struct fan_part *p = g_new(struct fan_part, 1);
    *p = (struct fan_part){f, *r, off, voff};
    f->pending++;
    co_start(co_loop(), fan_part_run, p);
    fan_wait(f, FAN_MAX);
}

static bool waits(int type)
{
    return type == Q_NORMAL || type == Q_COMPRESSED || type == Q_UNALLOC || type == Q_UNALLOC_HOST;
}

int qcow2_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct qcow2 *s = n->priv;
    struct fan f = {.s = s, .v = v, .parent = co_self()};
    struct q_op op;
    int rc = 0;
    op_begin(s, &op);
    while (len && rc == 0 && f.rc == 0) {
        struct q_run r;
        rc = qcow2_map(s, off, len, &r);
        if (rc == 0 && r.len < len && waits(r.type)) {
            fan_start(&f, &r, off, voff);
        } else if (rc == 0) {
            rc = run_read(s, &r, off, v, voff);
        }
        off += r.len;
        voff += r.len;
        len -= r.len;
    }
    fan_wait(&f, 1);
    op_end(s, &op);
    return rc < 0 ? rc : f.rc;
}

static unsigned extent_flags(const struct qcow2 *s, int type)
{
    unsigned offset = s->crypt ? 0 : EXT_OFFSET; /* the file holds it, but not as it is */
    switch (type) {
    case Q_NORMAL:
        return EXT_DATA | EXT_ALLOCATED | offset;
    case Q_COMPRESSED:
        return EXT_DATA | EXT_ALLOCATED | EXT_COMPRESSED;
    case Q_ZERO:
        return EXT_ZERO | EXT_ALLOCATED;
    case Q_ZERO_HOST:
        return EXT_ZERO | EXT_ALLOCATED | offset;
    case Q_UNALLOC_HOST: /* a part of a cluster that was allocated for another part of it */
        return offset;
    default:
        return 0;
    }
}

int qcow2_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct qcow2 *s = n->priv;
    struct q_run r;
    int rc = qcow2_map(s, off, len, &r);
    if (rc < 0) {
        return rc;
    }
    *out = (struct extent){.len = r.len, .flags = extent_flags(s, r.type)};
    if (out->flags & EXT_OFFSET) {
        out->offset = r.host;
        out->file = s->data->child;
    }
    /* Kinds that look the same to a reader are one extent. Not without end: damaged tables name one table very often.
     */
    for (unsigned i = 1; i < MAPS_AT_ONCE && out->len < len && !(out->flags & EXT_OFFSET); i++) {
        rc = qcow2_look(s, off + out->len, len - out->len, &r);
        if (rc < 0 || r.type == Q_INVALID || extent_flags(s, r.type) != out->flags) {
            break;
        }
        out->len += r.len;
        if (r.type == Q_COMPRESSED && out->len >= 64 << 20) {
            break;
        }
    }
    return 0;
}

int qcow2_reads_zero(struct qcow2 *s, uint64_t off, uint64_t len, bool *zero)
{
    *zero = true;
    for (unsigned i = 1; len && *zero; i++) {
        struct q_run r;
        int rc = qcow2_map(s, off, len, &r);
        if (rc < 0) {
            return rc;
        }
        bool backed = s->n->backing && off < edge_size(s->n->backing);
        *zero =
            r.type == Q_ZERO || r.type == Q_ZERO_HOST || ((r.type == Q_UNALLOC || r.type == Q_UNALLOC_HOST) && !backed);
        off += r.len;
        len -= r.len;
        if (i % MAPS_AT_ONCE == 0) {
            co_yield ();
        }
    }
    return 0;
}
