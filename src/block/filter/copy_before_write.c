/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/filter/copy_before_write.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/chain.h"
#include "block/debug.h"
#include "block/dirty.h"
#include "block/drivers.h"
#include "block/internal.h"
#include "block/transfer.h"
#include "block/turn.h"

#include <stdlib.h>

enum { DEFAULT_GRANULARITY = 64 << 10, PIECE = 1 << 20 };

static struct cbw *cbw_of(struct node *n)
{
    return n->priv;
}

/* --- bits -------------------------------------------------------------------------------------------------------- */

bool cbw_next(const struct cbw *c, uint64_t *off, uint64_t *len, uint64_t max)
{
    uint64_t bits = bitmap_bits(c->todo), from = *off / c->granularity;
    uint64_t bit = from < bits ? bitmap_next_set(c->todo, from, bits) : bits;
    if (bit == bits) {
        return false;
    }
    uint64_t end = bitmap_next_clear(c->todo, bit, min_u64(bits, bit + max_u64(1, max / c->granularity)));
    *off = bit * c->granularity;
    *len = min_u64(end * c->granularity, c->node->size) - *off;
    return true;
}

uint64_t cbw_left(const struct cbw *c)
{
    return min_u64(bitmap_count(c->todo) * c->granularity, c->node->size);
}

void cbw_skip(struct cbw *c, uint64_t off, uint64_t len)
{
    if (len) {
        uint64_t first = off / c->granularity;
        bitmap_clear(c->todo, first, (off + len - 1) / c->granularity + 1 - first);
    }
}

/* --- copying ----------------------------------------------------------------------------------------------------- */

/* The turn of the range is ours. */
static int copy_run(struct cbw *c, uint64_t off, uint64_t len)
{
    uint64_t size = min_u64(len, PIECE);
    uint8_t *buf = block_buf_alloc(c->target->child, size);
    if (!buf) {
        return -ENOMEM;
    }
    struct transfer t = {
        .from = c->node->file,
        .to = c->target,
        .compress = c->compress,
        .by_host = &c->by_host,
        .unmap = true,
        .overlay = c->overlay,
        .alone = c->alone,
        .buf = buf,
        .buf_size = size,
    };
    int rc = transfer_range(&t, off, len);
    c->is_read = rc ? t.is_read : c->is_read;
    if (rc == 0) {
        cbw_skip(c, off, len);
    }
    free(buf);
    return rc;
}

int cbw_copy(struct cbw *c, uint64_t off, uint64_t len)
{
    uint64_t at = round_down(off, c->granularity), end = off + len, n;
    struct turn turn;
    int rc = 0;
    node_in_flight_inc(c->node);
    turn_begin(&c->turns, &turn, at, round_up(end, c->granularity) - at);
    while (rc == 0 && !c->detached && !c->broken && cbw_next(c, &at, &n, UINT32_MAX) && at < end) {
        n = min_u64(n, round_up(end, c->granularity) - at);
        rc = copy_run(c, at, n);
        at += n;
    }
    turn_end(&c->turns, &turn);
    node_in_flight_dec(c->node);
    return rc ? rc : c->broken;
}

void cbw_give_up(struct cbw *c)
{
    if (c && !c->detached && !c->impatient) {
        c->broken = c->broken ? c->broken : -ECANCELED;
        c->impatient = true;
        node_set_patience(c->target->child, false);
    }
}

/* A copy that somebody waits for only so long. */
struct timed {
    struct cbw *c;
    uint64_t off, len;
    int rc;
    bool done, late;
    unsigned refs;
    struct co *waiter;
    struct timer timer;
};

static void timed_unref(struct timed *t)
{
    if (--t->refs == 0) {
        g_free(t);
    }
}

static void timed_wake(struct timed *t)
{
    if (t->waiter) {
        co_wake(take(t->waiter));
    }
}

static void timed_entry(void *opaque)
{
    struct timed *t = opaque;
    t->rc = cbw_copy(t->c, t->off, t->len);
    t->done = true;
    timed_wake(t);
    timed_unref(t);
}

static void timed_late(void *opaque)
{
    struct timed *t = opaque;
    t->late = true;
    timed_wake(t);
}

/* -ETIMEDOUT: the copy goes on by itself; what it does not get to stays as it is. */
static int copy_in_time(struct cbw *c, uint64_t off, uint64_t len)
{
    if (!c->timeout_ns) {
        return cbw_copy(c, off, len);
    }
    struct timed *t = g_new(struct timed, 1);
    *t = (struct timed){.c = c, .off = off, .len = len, .refs = 2};
    timer_init(&t->timer, co_loop(), timed_late, t);
    timer_arm(&t->timer, loop_now_ns() + c->timeout_ns);
    co_start(co_loop(), timed_entry, t);
    while (!t->done && !t->late) {
        t->waiter = co_self();
        co_wait();
    }
    timer_cancel(&t->timer);
    int rc = t->done ? t->rc : -ETIMEDOUT;
    timed_unref(t);
    return rc;
}

/* Before [off, off + len) of the disk changes. */
static int before(struct node *n, uint64_t off, uint64_t len)
{
    struct cbw *c = cbw_of(n);
    if (c->detached || c->broken || !len || !bitmap_count(c->todo)) {
        return 0;
    }
    uint64_t left = cbw_left(c);
    int rc = copy_in_time(c, off, len);
    c->copied += left - min_u64(left, cbw_left(c));
    if (rc < 0 && c->broken == -ECANCELED) {
        return 0;
    }
    if (rc < 0 && c->on_error == CBW_BREAK_SNAPSHOT) {
        if (!c->broken) {
            log_error(n->graph->log, "node '%s': the snapshot is broken: %s", n->name, g_strerror(-rc));
        }
        c->broken = rc;
        rc = 0;
    }
    return rc;
}

/* --- requests ---------------------------------------------------------------------------------------------------- */

static int cbw_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    int rc = before(n, off, len);
    return rc ? rc : edge_write(n->file, off, len, v, voff, flags);
}

static int cbw_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int rc = before(n, off, len);
    return rc ? rc : edge_zero(n->file, off, len, flags);
}

static int cbw_discard(struct node *n, uint64_t off, uint64_t len)
{
    int rc = before(n, off, len);
    return rc ? rc : edge_discard(n->file, off, len);
}

static int cbw_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    if (!cbw_of(n)->detached) {
        CLEANUP_FREE char *who = edge_describe(n->file);
        return err_set(e, EBUSY, "Node '%s' cannot change its size: it is in use by %s, which keeps what it held",
                       n->file->child->name, who);
    }
    return edge_truncate(n->file, size, exact, prealloc, e);
}

static bool cbw_supports_fua(struct node *n)
{
    return true;
}

/* --- coming and going -------------------------------------------------------------------------------------------- */

static uint32_t choose_granularity(const struct cbw_options *o, struct node *target)
{
    struct driver_info info = {0};
    struct node *image = node_skip_filters(target);
    if (!o->granularity && image->drv->get_info) {
        image->drv->get_info(image, &info);
    }
    return o->granularity ? o->granularity : MAX(info.cluster_size, DEFAULT_GRANULARITY);
}

/* The target reads from the disk what it does not have: it has what a write changes before that reaches the disk. */
static void let_writes(struct cbw *c, struct node *target)
{
    struct node *disk = c->node->file->child, *m = node_skip_filters(target);
    while (c->overlay && m->backing && node_reaches(m->backing->child, disk)) {
        edge_let(m->backing, c->node);
        m = node_skip_filters(m->backing->child);
    }
}

static int set_up(struct cbw *c, struct node *target, const struct cbw_options *o, struct err *e)
{
    struct node *n = c->node;
    c->granularity = choose_granularity(o, target);
    c->overlay = node_reaches(target, n->file->child);
    let_writes(c, target);
    c->on_error = o->on_error;
    c->compress = o->compress;
    c->by_host = o->by_host;
    c->alone = o->alone;
    uint64_t bits = div_round_up(n->size, c->granularity);
    c->todo = bitmap_create(bits);
    if (!c->todo) {
        return err_set(e, ENOMEM, "Node '%s': no memory for its bitmap", n->name);
    }
    bitmap_set(c->todo, 0, bits);
    return 0;
}

/* A bitmap that was given by name: only what is dirty in it is part of the snapshot. */
static int use_bitmap(struct cbw *c, const char *node, const char *name, struct err *e)
{
    struct node *of = node_lookup(c->node->graph, node, e);
    struct dirty_bitmap *b = of ? dirty_bitmap_lookup(of, name, e) : NULL;
    int rc = b ? dirty_bitmap_check(b, BITMAP_READ, e) : -ENOENT;
    if (rc) {
        return rc;
    }
    uint64_t bits = bitmap_bits(c->todo);
    c->access = bitmap_create(bits);
    if (!c->access) {
        return err_set(e, ENOMEM, "Node '%s': no memory for its bitmap", c->node->name);
    }
    bitmap_clear(c->todo, 0, bits);
    for (uint64_t off = 0, len; dirty_bitmap_next(b, &off, &len, c->node->size, UINT64_MAX); off += len) {
        uint64_t first = off / c->granularity, end = div_round_up(off + len, c->granularity);
        bitmap_set(c->todo, first, end - first);
        bitmap_set(c->access, first, end - first);
    }
    return 0;
}

static int read_options(struct cbw *c, struct json_object *options, struct edge *target, struct err *e)
{
    static const char *const on_error[] = {"break-guest-write", "break-snapshot", NULL};
    struct cbw_options o = {0};
    struct jread r = jread_init(options, NULL, e);
    o.on_error = jread_enum_or(&r, "on-cbw-error", on_error, CBW_BREAK_GUEST_WRITE);
    int64_t cluster = jread_int_or(&r, "min-cluster-size", 0);
    int64_t timeout = jread_int_or(&r, "cbw-timeout", 0);
    struct json_object *bitmap = NULL;
    json_object_object_get_ex(options, "bitmap", &bitmap);
    int rc = jread_end_lax(&r);
    if (rc == 0 && (timeout < 0 || timeout > UINT32_MAX)) {
        rc = err_set(e, EINVAL, "Parameter 'cbw-timeout' expects uint32_t");
    }
    c->timeout_ns = (uint64_t)timeout * 1000000000;
    if (rc == 0 && cluster && (cluster < 0 || cluster > 64 << 20 || !is_pow2((uint64_t)cluster))) {
        rc = err_set(e, EINVAL, "min-cluster-size needs to be a power of 2, at most 64 MiB");
    }
    if (rc == 0) {
        o.granularity =
            cluster ? MAX((uint32_t)cluster, choose_granularity(&(struct cbw_options){0}, target->child)) : 0;
        rc = set_up(c, target->child, &o, e);
    }
    if (rc == 0 && bitmap) {
        struct jread b = jread_init(bitmap, "bitmap", e);
        const char *node = jread_str(&b, "node"), *name = jread_str(&b, "name");
        rc = jread_end_lax(&b);
        rc = rc ? rc : use_bitmap(c, node, name, e);
    }
    return rc;
}

static void cbw_close(struct node *n)
{
    struct cbw *c = cbw_of(n);
    bitmap_destroy(c->todo);
    bitmap_destroy(c->access);
}

/* With "target" it works from the moment it is opened; without (the job's) once it has one. */
static int cbw_open(struct node *n, struct json_object *options, struct err *e)
{
    struct cbw *c = cbw_of(n);
    struct edge *file, *target;
    /* What is written past the filter would be in the snapshot. It may be put there first, and its users come later. */
    struct edge_spec alone = {"file", PERM_READ, PERM_READ | PERM_WRITE_SAME, .if_used = true};
    int rc = node_open_child(n, options, &alone, &file, e);
    if (rc) {
        return rc;
    }
    c->node = n;
    c->detached = true;
    n->size = file->child->size;
    if (!json_object_object_get_ex(options, "target", NULL)) {
        return 0;
    }
    rc = node_open_child(n, options, &(struct edge_spec){"target", PERM_WRITE, PERM_ALL & ~PERM_RESIZE}, &target, e);
    if (rc == 0 && target->child->size < n->size) {
        rc = err_set(e, EINVAL, "Target '%s' is smaller than '%s'", target->child->name, file->child->name);
    }
    rc = rc ? rc : read_options(c, options, target, e);
    if (rc) {
        cbw_close(n);
        return rc;
    }
    c->target = target;
    c->detached = false;
    return 0;
}

static const char *const cbw_option_names[] = {"target",      "bitmap",           "on-cbw-error",
                                               "cbw-timeout", "min-cluster-size", NULL};

/* What it is above keeps its name. */
static char *cbw_plain_name(struct node *n)
{
    return n->file ? g_strdup(n->file->child->filename) : NULL;
}

const struct block_driver copy_before_write_driver = {
    .name = "copy-before-write",
    .priv_size = sizeof(struct cbw),
    .is_filter = true,
    .option_names = cbw_option_names,
    .open = cbw_open,
    .close = cbw_close,
    .plain_name = cbw_plain_name,
    .write = cbw_write,
    .zero = cbw_zero,
    .discard = cbw_discard,
    .truncate = cbw_truncate,
    .supports_fua = cbw_supports_fua,
};

static int open_above(struct node *source, const char *name, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("copy-before-write"));
    json_object_object_add(o, "file", json_object_new_string(source->name));
    json_object_object_add(o, "read-only", json_object_new_boolean(source->read_only));
    json_object_object_add(o, "active", json_object_new_boolean(!source->inactive));
    if (name) {
        json_object_object_add(o, "node-name", json_object_new_string(name));
    }
    return node_open(source->graph, o, out, e);
}

int cbw_insert(struct node *of, struct node *target, const struct cbw_options *o, struct cbw **out, struct err *e)
{
    struct node *n = NULL, *source = chain_above_pinned(of);
    int rc = open_above(source, o->node_name, &n, e);
    if (rc) {
        return rc;
    }
    n->owner = g_strdup(o->owner);
    struct cbw *c = cbw_of(n);
    struct edge *keep[] = {n->file, NULL};
    struct edge_spec spec = {"target", PERM_WRITE, PERM_ALL & ~PERM_RESIZE, .also_read_only = true};
    source = edge_drain_child(n->file); /* opening has waited, too */
    rc = set_up(c, target, o, e);
    rc = rc ? rc : node_attach_child(n, chain_above_pinned(target), &spec, &c->target, e);
    rc = rc ? rc : node_replace(source, n, keep, e); /* an overlay of the disk as target goes on reading the disk */
    c->detached = rc != 0;
    node_drain_end(source);
    if (rc) {
        node_unref(n);
        return rc;
    }
    *out = c;
    return 0;
}

void cbw_detach(struct cbw *c)
{
    c->detached = true;
    edge_set_perm(c->node->file, PERM_READ, PERM_ALL, NULL); /* those above it go back to the disk now */
    if (c->impatient) {
        node_set_patience(c->target->child, true);
        c->impatient = false;
    }
    if (c->target) {
        node_detach_child(c->node, take(c->target));
    }
}

/* --- reading what was -------------------------------------------------------------------------------------------- */

/* "snapshot-access": its file is a copy-before-write node, and it shows the disk as it was when that began. */
static struct cbw *source_of(struct node *n)
{
    return cbw_of(n->file->child);
}

static int access_open(struct node *n, struct json_object *options, struct err *e)
{
    struct edge *file;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", PERM_READ, PERM_ALL}, &file, e);
    if (rc) {
        return rc;
    }
    if (file->child->drv != &copy_before_write_driver) {
        return err_set(e, EINVAL, "Node '%s' is no copy-before-write filter, which snapshot-access reads from",
                       file->child->name);
    }
    n->file = file;
    n->size = file->child->size;
    n->read_only = true;
    return 0;
}

/* How much at `off` is alike in being kept on the target (*kept) or still on the disk. */
static int alike(struct cbw *c, uint64_t off, uint64_t *len, bool *kept)
{
    uint64_t bit = off / c->granularity, end = div_round_up(off + *len, c->granularity);
    if (c->broken || c->detached) {
        return c->broken ? -EACCES : -ESTALE;
    }
    if (c->access && !bitmap_test(c->access, bit)) {
        return -EACCES;
    }
    *kept = !bitmap_test(c->todo, bit);
    end = *kept ? bitmap_next_set(c->todo, bit, end) : bitmap_next_clear(c->todo, bit, end);
    if (c->access) {
        end = min_u64(end, bitmap_next_clear(c->access, bit, end));
    }
    *len = min_u64(*len, end * c->granularity - off);
    return 0;
}

static int access_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct cbw *c = source_of(n);
    int rc = 0;
    while (len && rc == 0) {
        struct turn turn;
        uint64_t part = len;
        bool kept = false;
        turn_begin(&c->turns, &turn, off, len);
        rc = alike(c, off, &part, &kept);
        if (rc == 0) {
            rc = edge_read(kept ? c->target : c->node->file, off, part, v, voff, 0);
        }
        turn_end(&c->turns, &turn);
        off += part;
        voff += part;
        len -= part;
    }
    return rc;
}

/* Without a bitmap all is part of the snapshot, until now. */
static int make_access(struct cbw *c)
{
    uint64_t bits = bitmap_bits(c->todo);
    c->access = c->access ? c->access : bitmap_create(bits);
    if (!c->access) {
        return -ENOMEM;
    }
    bitmap_set(c->access, 0, bits);
    return 0;
}

int cbw_keep(struct cbw *c, const struct bitmap *todo, const struct bitmap *access, bool broken, struct err *e)
{
    uint64_t bits = bitmap_bits(c->todo);
    if (access && make_access(c)) {
        return err_set(e, ENOMEM, "Node '%s': no memory for its bitmap", c->node->name);
    }
    bitmap_clear(c->todo, 0, bits);
    bitmap_or(c->todo, todo);
    if (access) {
        bitmap_clear(c->access, 0, bits);
        bitmap_or(c->access, access);
    } else {
        bitmap_destroy(take(c->access));
    }
    c->broken = broken ? -EIO : 0;
    return 0;
}

int snapshot_access_forget(struct node *n, uint64_t off, uint64_t len)
{
    struct cbw *c = source_of(n);
    struct turn turn;
    uint64_t g = c->granularity, from = round_up(off, g);
    uint64_t end = off + len == n->size ? off + len : round_down(off + len, g);
    if (from >= end || c->broken || c->detached) {
        return 0;
    }
    turn_begin(&c->turns, &turn, from, end - from);
    int rc = c->access ? 0 : make_access(c);
    if (rc == 0) {
        uint64_t first = from / g, count = div_round_up(end, g) - first;
        bitmap_clear(c->access, first, count);
        bitmap_clear(c->todo, first, count);
        rc = edge_discard(c->target, from, end - from);
    }
    turn_end(&c->turns, &turn);
    return rc;
}

bool node_is_snapshot_access(const struct node *n)
{
    return n->drv == &snapshot_access_driver;
}

static int access_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct cbw *c = source_of(n);
    bool kept = false;
    int rc = alike(c, off, &len, &kept);
    if (rc) {
        return rc;
    }
    rc = node_status_above(kept ? c->target->child : c->node->file->child, NULL, off, len, out, NULL);
    out->flags = (out->flags & (EXT_ZERO | EXT_DATA)) | EXT_ALLOCATED; /* where the data is may change any time */
    return rc;
}

const struct block_driver snapshot_access_driver = {
    .name = "snapshot-access",
    .open = access_open,
    .read = access_read,
    .status = access_status,
};
