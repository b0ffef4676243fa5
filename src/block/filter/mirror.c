/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/filter/mirror.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/chain.h"
#include "block/drivers.h"
#include "block/internal.h"
#include "block/transfer.h"

#include <stdlib.h>

enum { PIECE = 1 << 20 };

static struct mirror *mirror_of(struct node *n)
{
    return n->priv;
}

struct node *mirror_source(const struct mirror *m)
{
    return m->node->file->child;
}

/* --- dirt ----------------------------------------------------------------------------------------------------- */

void mirror_mark(struct mirror *m, uint64_t off, uint64_t len)
{
    if (m->detached || !len) {
        return;
    }
    uint64_t first = off / m->granularity, end = (off + len - 1) / m->granularity + 1;
    if (bitmap_set(m->dirty, first, end - first) && m->hooks.dirtied) {
        m->hooks.dirtied(m->hooks.opaque);
    }
}

uint64_t mirror_dirty_bytes(const struct mirror *m)
{
    uint64_t bits = bitmap_bits(m->dirty), bytes = bitmap_count(m->dirty) * m->granularity;
    uint64_t tail = bits * m->granularity - m->node->size;
    return bits && tail && bitmap_test(m->dirty, bits - 1) ? bytes - tail : bytes;
}

bool mirror_next(const struct mirror *m, uint64_t *off, uint64_t *len, uint64_t max)
{
    uint64_t bits = bitmap_bits(m->dirty), from = *off / m->granularity;
    if (from >= bits) {
        return false;
    }
    uint64_t bit = bitmap_next_set(m->dirty, from, bits);
    if (bit == bits) {
        return false;
    }
    uint64_t end = bitmap_next_clear(m->dirty, bit, min_u64(bits, bit + max_u64(1, max / m->granularity)));
    *off = bit * m->granularity;
    *len = min_u64(end * m->granularity, m->node->size) - *off;
    return true;
}

void mirror_take(struct mirror *m, uint64_t off, uint64_t len)
{
    uint64_t first = off / m->granularity;
    bitmap_clear(m->dirty, first, div_round_up(off + len, m->granularity) - first);
}

/* A write of [off, off + len) makes the granules that it covers whole alike, whatever they were. */
static void take_covered(struct mirror *m, uint64_t off, uint64_t len)
{
    uint64_t first = div_round_up(off, m->granularity);
    uint64_t end = off + len == m->node->size ? bitmap_bits(m->dirty) : (off + len) / m->granularity;
    if (first < end) {
        bitmap_clear(m->dirty, first, end - first);
    }
}

void mirror_copy_begin(struct mirror *m)
{
    node_in_flight_inc(m->node);
}

void mirror_copy_end(struct mirror *m)
{
    node_in_flight_dec(m->node);
}

/* --- requests ------------------------------------------------------------------------------------------------- */

struct change {
    struct mirror *m;
    uint64_t off, len;
    const struct iovs *v; /* NULL: zeroes, or a flush */
    size_t voff;
    unsigned flags;
    bool is_flush;
    int rc;
    bool done;
    struct co *waiter;
};

static int source_change(struct change *c)
{
    struct edge *file = c->m->node->file;
    if (c->is_flush) {
        return edge_flush(file);
    }
    return c->v ? edge_write(file, c->off, c->len, c->v, c->voff, c->flags) : edge_zero(file, c->off, c->len, c->flags);
}

static int target_change(struct change *c)
{
    unsigned flags = c->m->durable ? c->flags & REQ_FUA : 0;
    if (c->is_flush) {
        return edge_flush(c->m->target);
    }
    if (c->v) {
        return edge_write(c->m->target, c->off, c->len, c->v, c->voff, flags);
    }
    return edge_zero(c->m->target, c->off, c->len, flags | (c->m->unmap ? c->flags & REQ_MAY_UNMAP : 0));
}

static void target_entry(void *opaque)
{
    struct change *c = opaque;
    c->rc = target_change(c);
    c->done = true;
    if (c->waiter) {
        co_wake(c->waiter);
    }
}

/* Both at a time. Returns what the source says. */
static int both_sides(struct change *c, int *target_rc)
{
    co_start(co_loop(), target_entry, c);
    int rc = source_change(c);
    c->waiter = co_self();
    while (!c->done) {
        co_wait();
    }
    *target_rc = c->rc;
    return rc;
}

/* Does a change that ends at `end`, within a granule or not, leave out a part of one that the target lacks? */
static bool leaves_out(struct mirror *m, uint64_t at, uint64_t end)
{
    uint64_t off = round_down(at, m->granularity), n = min_u64(m->granularity, m->node->size - off);
    struct extent x;
    if (end % m->granularity == 0 || end == m->node->size) {
        return false;
    }
    int rc = node_status(node_skip_filters(m->target->child), false, off, n, &x);
    return rc < 0 || !(x.flags & EXT_ALLOCATED) || x.len < n;
}

/* What the source holds of whole granules, durably if need be. */
static int copy_granules(struct mirror *m, uint64_t off, uint64_t len, bool fua)
{
    struct transfer t = {.from = m->node->file, .to = m->target, .unmap = m->unmap, .alone = true, .buf_size = PIECE};
    t.buf = block_buf_alloc(m->target->child, PIECE);
    int rc = t.buf ? transfer_range(&t, off, len) : -ENOMEM;
    free(t.buf);
    return rc == 0 && fua ? edge_flush(m->target) : rc;
}

/* Its turn has come. *off, *len: in: all granules that it touches; out: what may differ if something fails. */
static int change_in_turn(struct change *c, uint64_t *off, uint64_t *len, int *target_rc)
{
    struct mirror *m = c->m;
    if (m->alone && (leaves_out(m, c->off, c->off) || leaves_out(m, c->off + c->len - 1, c->off + c->len))) {
        mirror_take(m, *off, *len);
        int rc = source_change(c);
        *target_rc = rc ? 0 : copy_granules(m, *off, *len, m->durable && c->flags & REQ_FUA);
        return rc;
    }
    *off = c->off;
    *len = c->len;
    take_covered(m, c->off, c->len);
    if (c->v) {
        return both_sides(c, target_rc);
    }
    /* In turn: a refusal (REQ_NO_FALLBACK) comes back as a write of zeroes. */
    int rc = source_change(c);
    *target_rc = rc ? 0 : target_change(c);
    return rc;
}

static int change_both(struct change *c)
{
    struct mirror *m = c->m;
    struct turn turn;
    uint64_t off = c->off, len = c->len;
    int rc, target_rc = 0;

    if (m->alone) {
        off = round_down(off, m->granularity);
        len = min_u64(round_up(c->off + c->len, m->granularity), m->node->size) - off;
    }
    turn_begin(&m->turns, &turn, off, len);
    if (m->detached) {
        rc = source_change(c);
        turn_end(&m->turns, &turn);
        return rc;
    }
    rc = change_in_turn(c, &off, &len, &target_rc);
    if (rc || target_rc) {
        mirror_mark(m, off, len);
    }
    turn_end(&m->turns, &turn);
    if (target_rc && m->hooks.target_failed) {
        m->hooks.target_failed(m->hooks.opaque, target_rc);
    }
    return rc;
}

static void seen(struct mirror *m)
{
    if (--m->unseen == 0 && !m->detached && m->hooks.dirtied) {
        m->hooks.dirtied(m->hooks.opaque);
    }
}

static int change_sides(struct change *c)
{
    struct mirror *m = c->m;

    if (m->detached || (c->flags & REQ_WRITE_UNCHANGED)) {
        return source_change(c);
    }
    if (m->write_blocking) {
        return change_both(c);
    }
    m->unseen++;
    int rc = source_change(c);
    mirror_mark(m, c->off, c->len);
    seen(m);
    return rc;
}

static void flush_ends(struct mirror *m)
{
    if (--m->flushing == 0) {
        co_queue_wake_all(&m->quiet);
    }
}

static int change(struct change *c)
{
    struct mirror *m = c->m;
    bool durable = c->flags & REQ_FUA;

    m->guest_ns = loop_now_ns();
    m->flushing += durable;
    int rc = change_sides(c);
    if (durable) {
        flush_ends(m);
    }
    return rc;
}

static int mirror_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    mirror_of(n)->guest_ns = loop_now_ns();
    return edge_read(n->file, off, len, v, voff, flags);
}

static int mirror_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct change c = {.m = mirror_of(n), .off = off, .len = len, .v = v, .voff = voff, .flags = flags};
    return change(&c);
}

static int mirror_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct change c = {.m = mirror_of(n), .off = off, .len = len, .flags = flags};
    return change(&c);
}

static int mirror_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct mirror *m = mirror_of(n);

    m->guest_ns = loop_now_ns();
    m->unseen++;
    int rc = edge_discard(n->file, off, len);
    mirror_mark(m, off, len);
    seen(m);
    return rc;
}

static int mirror_flush(struct node *n)
{
    struct mirror *m = mirror_of(n);
    struct change c = {.m = m, .is_flush = true};
    int rc, target_rc = 0;

    m->flushing++;
    if (m->detached || !m->durable) {
        rc = source_change(&c);
    } else {
        rc = both_sides(&c, &target_rc);
    }
    if (target_rc && m->hooks.target_failed) {
        m->hooks.target_failed(m->hooks.opaque, target_rc);
    }
    flush_ends(m);
    return rc;
}

static int mirror_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct mirror *m = mirror_of(n);
    if (!m->detached) {
        return err_set(e, EBUSY, "Node '%s' cannot change its size: it is in use by %s, which copies it", n->name,
                       n->owner);
    }
    return edge_truncate(n->file, size, exact, prealloc, e);
}

static bool mirror_supports_fua(struct node *n)
{
    return true;
}

static int mirror_open(struct node *n, struct json_object *options, struct err *e)
{
    struct mirror *m = mirror_of(n);
    struct edge *file;

    int rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &file, e);
    if (rc) {
        return rc;
    }
    m->node = n;
    m->detached = true;
    n->size = file->child->size;
    n->limits = file->child->limits;
    n->limits.request_align = 1; /* below it is the source's or the target's affair */
    return 0;
}

static void mirror_close(struct node *n)
{
    struct mirror *m = mirror_of(n);
    bitmap_destroy(m->dirty);
}

/* What it is above keeps its name. */
static char *mirror_plain_name(struct node *n)
{
    return n->file ? g_strdup(n->file->child->filename) : NULL;
}

const struct block_driver mirror_driver = {
    .name = "mirror_top",
    .priv_size = sizeof(struct mirror),
    .is_filter = true,
    .open = mirror_open,
    .close = mirror_close,
    .plain_name = mirror_plain_name,
    .read = mirror_read,
    .write = mirror_write,
    .zero = mirror_zero,
    .discard = mirror_discard,
    .flush = mirror_flush,
    .truncate = mirror_truncate,
    .supports_fua = mirror_supports_fua,
};

/* --- coming and going ------------------------------------------------------------------------------------------ */

static int open_above(struct node *source, const char *name, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *opts = json_object_new_object();

    json_object_object_add(opts, "driver", json_object_new_string("mirror_top"));
    json_object_object_add(opts, "file", json_object_new_string(source->name));
    json_object_object_add(opts, "read-only", json_object_new_boolean(source->read_only));
    json_object_object_add(opts, "active", json_object_new_boolean(!source->inactive));
    if (name) {
        json_object_object_add(opts, "node-name", json_object_new_string(name));
    }
    return node_open(source->graph, opts, out, e);
}

static int attach(struct mirror *m, struct node *target, const struct mirror_options *o, struct err *e)
{
    struct node *n = m->node;

    m->dirty = bitmap_create(div_round_up(n->size, o->granularity));
    if (!m->dirty) {
        return err_set(e, ENOMEM, "Node '%s': no memory for its dirty bitmap", n->file->child->name);
    }
    m->granularity = o->granularity;
    m->write_blocking = o->write_blocking;
    m->unmap = o->unmap;
    m->alone = o->alone;
    m->hooks = o->hooks;
    /* A layer below the source is read by those above it all the time. */
    m->target_shared = PERM_WRITE_SAME | (o->into_backing ? PERM_READ : 0);
    struct edge_spec spec = {"target", PERM_WRITE, m->target_shared, .also_read_only = true};
    spec.above = o->into_backing ? n->file->child : NULL;
    return node_attach_child(n, chain_above_pinned(target), &spec, &m->target, e);
}

int mirror_insert(struct node *of, struct node *target, const struct mirror_options *o, struct mirror **out,
                  struct err *e)
{
    struct node *n = NULL, *source = chain_above_pinned(of);
    int rc = open_above(source, o->node_name, &n, e);
    if (rc) {
        return rc;
    }
    n->owner = g_strdup(o->owner);
    struct mirror *m = mirror_of(n);
    struct edge *keep[] = {n->file, NULL};
    bool above = false;

    source = edge_drain_child(n->file); /* opening has waited, too */
    rc = node_replace(source, n, keep, e);
    if (rc == 0) {
        above = true;
        n->file->pinned = n->file->lets_others = o->into_backing;
        /* From here on nobody writes to the source past the filter. */
        rc = edge_set_perm(n->file, 0, o->into_backing ? PERM_ALL : PERM_READ | PERM_WRITE_SAME, e);
    }
    if (rc == 0) {
        rc = attach(m, target, o, e);
    }
    m->detached = rc != 0;
    if (rc && above) {
        edge_set_perm(n->file, 0, PERM_ALL, NULL);
        node_replace(n, source, NULL, NULL);
    }
    node_drain_end(source);
    if (rc) {
        node_unref(n);
        return rc;
    }
    *out = m;
    return 0;
}

void mirror_detach(struct mirror *m)
{
    m->detached = true;
    m->hooks = (struct mirror_hooks){0};
    /* Those above may go back to the source now. */
    if (m->node->file) {
        edge_set_perm(m->node->file, 0, PERM_ALL, NULL);
    }
    if (m->target) {
        node_detach_child(m->node, take(m->target));
    }
}
