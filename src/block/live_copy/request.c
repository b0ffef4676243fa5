/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests: to which sides they go, and what follows when one of them fails. */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <stdlib.h>

enum kind { WRITE, ZERO, FLUSH };

/* One request on its way to one side or both. */
struct change {
    struct lc *s;
    enum kind kind;
    uint64_t off, len;
    const struct iovs *v;
    size_t voff;
    unsigned flags;
    uint64_t first, count; /* its regions */
    int rc[2];
    bool sent[2], ended[2];
    struct co *waiter;
};

/* --- one side ----------------------------------------------------------------------------------------------------- */

static int zero_side(struct change *c, struct edge *ed)
{
    int rc = edge_zero(ed, c->off, c->len, c->flags);
    if (rc == -ENOTSUP && (c->flags & REQ_NO_FALLBACK)) {
        /* The other side may have its zeroes already: once, they are data here; the next request is refused. */
        c->s->no_zero = true;
        rc = edge_zero(ed, c->off, c->len, c->flags & ~(unsigned)(REQ_NO_FALLBACK | REQ_MAY_UNMAP));
    }
    return rc;
}

static int send_one(struct change *c, int i)
{
    struct edge *ed = lc_side_get(c->s, i);
    int rc = -EIO;
    c->sent[i] = true;
    if (ed && c->kind == WRITE) {
        rc = edge_write(ed, c->off, c->len, c->v, c->voff, c->flags);
    } else if (ed) {
        rc = c->kind == ZERO ? zero_side(c, ed) : edge_flush(ed);
    }
    if (ed) {
        lc_side_put(c->s, i);
    }
    c->rc[i] = rc;
    c->ended[i] = true;
    return rc;
}

static void send_other(void *opaque)
{
    struct change *c = opaque;
    send_one(c, !c->s->live);
    if (c->waiter) {
        co_wake(c->waiter);
    }
}

/* `live` is the live one when this begins; it may lose that while it is under way. */
static void send_both(struct change *c)
{
    int live = c->s->live;
    co_start(graph_loop(c->s->n->graph), send_other, c);
    send_one(c, live);
    c->waiter = co_self();
    while (!c->ended[!live]) {
        co_wait();
    }
}

/* --- afterwards --------------------------------------------------------------------------------------------------- */

/* The other side's failure is never the user's; the live one's is not while there is a spare. */
static int judge(struct change *c)
{
    struct lc *s = c->s;
    int other = lc_other(s);
    if (c->sent[other] && c->rc[other] < 0) {
        lc_side_failed(s, other, c->rc[other]);
        lc_make_stale(s, c->first, c->count);
    }
    int rc = c->rc[s->live];
    if (rc < 0 && rc != -ENOMEM && c->sent[other] && c->rc[other] == 0 && lc_spare(s)) {
        lc_side_failed(s, s->live, rc);
        lc_make_stale(s, c->first, c->count);
        return 0;
    }
    if (rc < 0 && c->kind != FLUSH) {
        lc_make_stale(s, c->first, c->count); /* they may differ now */
    }
    return rc;
}

/* What one side alone has must not be acknowledged before the state says so. */
static int settle(struct lc *s, int rc)
{
    if (!bitmap_count(s->stale) || s->n->read_only || s->n->inactive || s->detached) {
        return rc;
    }
    int rc2 = lc_state_single(s);
    return rc < 0 ? rc : rc2;
}

/* --- changes ------------------------------------------------------------------------------------------------------ */

static int detached_change(struct change *c)
{
    return send_one(c, DST);
}

/* The same bytes for both, whatever the guest does to its memory meanwhile. */
static int write_both(struct change *c)
{
    uint8_t *buf = block_buf_alloc(c->s->n, c->len);
    struct iovec iov;
    struct iovs own = IOVS_BUF(&iov, buf, c->len);
    if (!buf) {
        return -ENOMEM;
    }
    iovs_to_buf(c->v, c->voff, buf, c->len);
    c->v = &own;
    c->voff = 0;
    send_both(c);
    free(buf);
    return 0;
}

/* In turn: whether the live side can tells how the other one is asked. */
static int zero_both(struct change *c)
{
    int live = c->s->live;
    send_one(c, live);
    send_one(c, !live);
    return 0;
}

static int marked_change(struct change *c)
{
    struct lc *s = c->s;
    bool both = lc_present(s, lc_other(s)) &&
                (bitmap_next_clear(s->stale, c->first, c->first + c->count) < c->first + c->count ||
                 lc_being_copied(s, c->first, c->count));
    int rc = 0;
    if (!both) {
        lc_make_stale(s, c->first, c->count);
        send_one(c, s->live);
    } else {
        rc = c->kind == WRITE ? write_both(c) : zero_both(c);
    }
    return rc < 0 ? rc : settle(s, judge(c));
}

static int change(struct change *c)
{
    struct lc *s = c->s;
    struct turn turn;
    struct lc_op op = {.link = {.data = &op}};

    if (s->bare) {
        return -EIO;
    }
    if (s->detached) {
        return detached_change(c);
    }
    lc_range(s, c->off, c->len, &c->first, &c->count);
    op.first = c->first;
    op.count = c->count;
    turn_begin(&s->turns, &turn, c->off, c->len);
    g_queue_push_tail_link(&s->ops, &op.link);
    int rc = lc_mark(s, c->first, c->count);
    if (rc == 0) {
        rc = s->detached ? detached_change(c) : marked_change(c);
    }
    g_queue_unlink(&s->ops, &op.link);
    turn_end(&s->turns, &turn);
    return rc;
}

/* What no reader sees is the live side's own affair. */
static int unchanged(struct change *c)
{
    return send_one(c, c->s->live);
}

int lc_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct lc *s = lc_of(n);
    struct change c = {.s = s, .kind = WRITE, .off = off, .len = len, .v = v, .voff = voff, .flags = flags};
    return flags & REQ_WRITE_UNCHANGED ? unchanged(&c) : change(&c);
}

int lc_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct lc *s = lc_of(n);
    struct change c = {.s = s, .kind = ZERO, .off = off, .len = len, .flags = flags};
    uint64_t unit = max_u64(n->limits.discard_align, 1);
    bool ragged = off % unit || ((off + len) % unit && off + len != n->size);
    if (flags & REQ_WRITE_UNCHANGED) {
        return unchanged(&c);
    }
    if (!s->detached && (flags & REQ_NO_FALLBACK) && (s->no_zero || ragged)) {
        return -ENOTSUP;
    }
    return change(&c);
}

int lc_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct lc *s = lc_of(n);
    struct edge *live = s->side[s->live].edge;
    if (s->detached) {
        return edge_discard(live, off, len);
    }
    return !live || live->child->discard_unmap ? lc_zero(n, off, len, REQ_MAY_UNMAP | REQ_NO_FALLBACK) : 0;
}

/* --- reads -------------------------------------------------------------------------------------------------------- */

/* The other side is asked instead; what could not be read is written to the bad side when it comes back. */
static void read_elsewhere(struct lc *s, uint64_t off, uint64_t len, int rc)
{
    uint64_t first, count;
    int live = s->live;
    lc_range(s, off, len, &first, &count);
    lc_mark(s, first, count); /* when it fails, that range is read from the bad side again some day */
    if (s->live == live && lc_spare(s)) {
        lc_side_failed(s, live, rc);
        settle(s, 0); /* when it fails, the next write sees to it */
    }
}

int lc_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct lc *s = lc_of(n);
    for (;;) {
        int live = s->live;
        struct edge *ed = lc_side_get(s, live);
        int rc = ed ? edge_read(ed, off, len, v, voff, 0) : -EIO;
        if (ed) {
            lc_side_put(s, live);
        }
        if (rc == 0 || rc == -ENOMEM) {
            return rc;
        }
        if (s->live == live && lc_spare(s)) {
            read_elsewhere(s, off, len, rc);
        }
        if (s->live == live) {
            return rc;
        }
    }
}

int lc_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct lc *s = lc_of(n);
    struct edge *ed = want_zero && !s->bare ? lc_side_get(s, s->live) : NULL;
    if (!ed) {
        *out = (struct extent){.len = len, .flags = EXT_DATA | EXT_ALLOCATED};
        return 0;
    }
    int live = s->live;
    int rc = node_status_above(ed->child, NULL, off, len, out, NULL);
    lc_side_put(s, live);
    out->flags |= EXT_ALLOCATED;
    return rc;
}

/* --- flush -------------------------------------------------------------------------------------------------------- */

int lc_flush_sides(struct lc *s, bool all)
{
    struct change c = {.s = s, .kind = FLUSH};
    if (s->detached) {
        return send_one(&c, DST);
    }
    if (lc_present(s, lc_other(s)) && (s->joined || all)) {
        send_both(&c);
    } else {
        send_one(&c, s->live);
    }
    return judge(&c);
}

int lc_flush(struct node *n)
{
    struct lc *s = lc_of(n);
    if (s->bare) {
        return edge_flush(s->file);
    }
    int rc = lc_flush_sides(s, false);
    return s->detached ? rc : settle(s, rc);
}
