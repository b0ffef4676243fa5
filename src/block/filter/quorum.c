/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/filter/quorum.h"

#include "base/checked.h"
#include "base/json.h"
#include "block/drivers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MEMBERS_MAX = 1024, READ_MAX = 64 << 20 };

static const char *const quorum_options[] = {"children",          "vote-threshold", "blkverify",
                                             "rewrite-corrupted", "read-pattern",   NULL};
static const char *const quorum_strong[] = {"vote-threshold", "blkverify", "rewrite-corrupted", "read-pattern", NULL};

/* --- open and close ----------------------------------------------------------------------------------------------- */

static int read_options(struct quorum *q, struct json_object *options, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    const char *pattern = jread_str_or(&r, "read-pattern", "quorum");
    int64_t threshold = jread_int_or(&r, "vote-threshold", 0);
    q->blkverify = jread_bool_or(&r, "blkverify", false);
    q->rewrite = jread_bool_or(&r, "rewrite-corrupted", false);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    struct json_object *list = json_object_object_get(options, "children");
    if (list && !json_object_is_type(list, json_type_array)) {
        return err_set(e, EINVAL, "Option children is not a valid array");
    }
    size_t count = list ? json_object_array_length(list) : 0;
    if (count < 1 || count > MEMBERS_MAX) {
        return err_set(e, EINVAL, count ? "Too many children" : "Number of provided children must be 1 or more");
    }
    if (threshold < 1) {
        return err_set(e, ERANGE, "Parameter 'vote-threshold' expects a value >= 1");
    }
    if (threshold > (int64_t)count) {
        return err_set(e, ERANGE, "threshold may not exceed children count");
    }
    if (strcmp(pattern, "quorum") && strcmp(pattern, "fifo")) {
        return err_set(e, EINVAL, "Please set read-pattern as fifo or quorum");
    }
    q->threshold = (unsigned)threshold;
    q->pattern = strcmp(pattern, "fifo") ? QUORUM_VOTE : QUORUM_FIFO;
    if (q->pattern == QUORUM_FIFO) { /* they are for voting */
        q->blkverify = q->rewrite = false;
    }
    if (q->blkverify && (count != 2 || threshold != 2)) {
        return err_set(e, EINVAL,
                       "blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
    }
    if (q->rewrite && q->blkverify) {
        return err_set(e, EINVAL, "rewrite-corrupted=on cannot be used with blkverify=on");
    }
    return 0;
}

/* Others may read the members, but nobody else may change them. `there`: a node that was opened before; it can be
 * corrected even while n is read-only. */
static struct edge_spec member_spec(const struct quorum *q, const char *name, const struct node *there)
{
    return (struct edge_spec){.name = name,
                              .perm = PERM_READ | PERM_WRITE,
                              .shared = PERM_READ | PERM_WRITE_SAME,
                              .image = true,
                              .also_read_only = q->rewrite && there && !there->read_only};
}

static int open_member(struct node *n, struct json_object *what, struct err *e)
{
    struct quorum *q = n->priv;
    struct edge *ed;
    char name[32];
    snprintf(name, sizeof(name), "children.%u", q->next_index);
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, name, json_object_get(what));
    const char *reference = json_object_is_type(what, json_type_string) ? json_object_get_string(what) : NULL;
    struct edge_spec spec = member_spec(q, name, reference ? node_find(n->graph, reference) : NULL);
    int rc = node_open_child(n, o, &spec, &ed, e);
    json_object_put(o);
    if (rc == 0) {
        q->next_index++;
        g_ptr_array_add(q->members, ed);
    }
    return rc;
}

static int check_size(uint64_t size, const struct node *first, const struct node *other, struct err *e)
{
    return size == other->size
               ? 0
               : err_set(e, EIO,
                         "Could not refresh total sector count: '%s' has %" PRIu64 " bytes and '%s' has %" PRIu64,
                         first->name, size, other->name, other->size);
}

static int open_members(struct node *n, struct json_object *options, struct err *e)
{
    struct quorum *q = n->priv;
    struct json_object *list = json_object_object_get(options, "children");
    struct node *first = NULL;
    int rc = 0;
    for (size_t i = 0; i < json_object_array_length(list) && rc == 0; i++) {
        rc = open_member(n, json_object_array_get_idx(list, i), e);
        if (rc == 0) {
            struct node *m = ((struct edge *)g_ptr_array_index(q->members, i))->child;
            first = first ? first : m;
            n->size = first->size;
            n->limits.request_align = MAX(n->limits.request_align, m->limits.request_align);
            rc = check_size(n->size, first, m, e);
        }
    }
    return rc;
}

static int quorum_open(struct node *n, struct json_object *options, struct err *e)
{
    struct quorum *q = n->priv;
    int rc = read_options(q, options, e);
    if (rc < 0) {
        return rc;
    }
    q->members = g_ptr_array_new();
    n->limits.max_transfer = READ_MAX; /* of which each member needs a copy */
    rc = open_members(n, options, e);
    if (rc < 0) {
        g_ptr_array_free(q->members, true);
    }
    return rc;
}

static void quorum_close(struct node *n)
{
    struct quorum *q = n->priv;
    g_ptr_array_free(q->members, true);
}

static int quorum_add_child(struct node *n, struct node *child, struct err *e)
{
    struct quorum *q = n->priv;
    if (q->blkverify) {
        return err_set(e, ENOTSUP, "Cannot add a child to a quorum in blkverify mode");
    }
    if (q->members->len >= MEMBERS_MAX || q->next_index == UINT_MAX) {
        return err_set(e, EINVAL, "Too many children");
    }
    int rc = check_size(n->size, n, child, e);
    if (rc < 0) {
        return rc;
    }
    struct edge *ed;
    char name[32];
    snprintf(name, sizeof(name), "children.%u", q->next_index);
    struct edge_spec spec = member_spec(q, name, child);
    node_drain_begin(n);
    rc = node_attach_child(n, child, &spec, &ed, e);
    if (rc == 0) {
        q->next_index++;
        g_ptr_array_add(q->members, ed);
    }
    node_drain_end(n);
    return rc;
}

static int quorum_remove_child(struct node *n, struct edge *child, struct err *e)
{
    struct quorum *q = n->priv;
    if (q->members->len <= q->threshold) {
        return err_set(e, EINVAL, "The number of children cannot be lower than the vote threshold %u", q->threshold);
    }
    node_drain_begin(n);
    g_ptr_array_remove(q->members, child); /* in order: fifo asks them so */
    node_detach_child(n, child);
    node_drain_end(n);
    return 0;
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

/* Of as many members as can be had without an allocation. */
enum { FEW = 8 };

static int call(struct quorum_call *c, int *few, int (*run)(struct quorum_call *c))
{
    struct quorum *q = c->n->priv;
    unsigned count = q->members->len;
    c->rcs = count <= FEW ? few : g_try_new(int, count);
    if (!c->rcs) {
        return -ENOMEM;
    }
    int rc = run(c);
    if (c->rcs != few) {
        g_free(c->rcs);
    }
    return rc;
}

/* Enough members did it. */
static int by_all(struct quorum_call *c)
{
    struct quorum *q = c->n->priv;
    if (quorum_call_all(c) >= q->threshold) {
        return 0;
    }
    quorum_report_failure(c);
    return quorum_common_error(c);
}

static int read_one(struct quorum_call *c, struct edge *member, unsigned i)
{
    return edge_read_buf(member, c->off, c->len, c->copies + i * c->len);
}

static int read_first(struct quorum_call *c)
{
    struct quorum *q = c->n->priv;
    int rc = -EIO;
    for (unsigned i = 0; i < q->members->len; i++) {
        struct edge *member = g_ptr_array_index(q->members, i);
        rc = edge_read(member, c->off, c->len, c->v, c->voff, c->flags);
        if (rc == 0) {
            return 0;
        }
        quorum_report_bad(c, member, rc);
    }
    return rc;
}

static int quorum_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct quorum *q = n->priv;
    int few[FEW];
    struct quorum_call c = {
        .n = n, .op = QUORUM_READ, .off = off, .len = len, .v = v, .voff = voff, .flags = flags, .fn = read_one};
    if (q->pattern == QUORUM_FIFO) {
        return read_first(&c);
    }
    uint64_t bytes;
    struct edge *first = g_ptr_array_index(q->members, 0);
    c.copies = mul_ok(len, q->members->len, &bytes) ? block_buf_alloc(first->child, bytes) : NULL;
    int rc = c.copies ? call(&c, few, quorum_vote) : -ENOMEM;
    free(c.copies);
    return rc;
}

static int write_one(struct quorum_call *c, struct edge *member, unsigned i)
{
    return edge_write(member, c->off, c->len, c->v, c->voff, c->flags);
}

static int quorum_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    int few[FEW];
    struct quorum_call c = {
        .n = n, .op = QUORUM_WRITE, .off = off, .len = len, .v = v, .voff = voff, .flags = flags, .fn = write_one};
    return call(&c, few, by_all);
}

static int zero_one(struct quorum_call *c, struct edge *member, unsigned i)
{
    return edge_zero(member, c->off, c->len, c->flags);
}

static int quorum_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    int few[FEW];
    struct quorum_call c = {.n = n, .op = QUORUM_WRITE, .off = off, .len = len, .flags = flags, .fn = zero_one};
    return flags & REQ_NO_FALLBACK ? -ENOTSUP : call(&c, few, by_all); /* all can, or none tries */
}

static int flush_one(struct quorum_call *c, struct edge *member, unsigned i)
{
    return edge_flush(member);
}

static int quorum_flush(struct node *n)
{
    int few[FEW];
    struct quorum_call c = {.n = n, .op = QUORUM_FLUSH, .len = n->size, .fn = flush_one};
    return call(&c, few, by_all);
}

/* Zero is what all of them call so. */
static int quorum_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct quorum *q = n->priv;
    *out = (struct extent){.len = len, .flags = EXT_ZERO | EXT_ALLOCATED};
    for (unsigned i = 0; i < q->members->len; i++) {
        struct edge *member = g_ptr_array_index(q->members, i);
        struct extent x;
        int rc = node_status_above(member->child, NULL, off, out->len, &x, NULL);
        if (rc < 0 || !(x.flags & EXT_ZERO)) {
            out->flags = EXT_DATA | EXT_ALLOCATED;
            out->len = rc < 0 ? out->len : x.len;
            return 0;
        }
        out->len = min_u64(out->len, x.len);
    }
    return 0;
}

static int64_t quorum_allocated_size(struct node *n)
{
    struct quorum *q = n->priv;
    int64_t sum = 0;
    for (unsigned i = 0; i < q->members->len; i++) {
        int64_t size = node_allocated_size(((struct edge *)g_ptr_array_index(q->members, i))->child);
        if (size < 0) {
            return size;
        }
        sum += size;
    }
    return sum;
}

const struct block_driver quorum_driver = {
    .name = "quorum",
    .priv_size = sizeof(struct quorum),
    .children_alike = true,
    .option_names = quorum_options,
    .strong_options = quorum_strong,
    .open = quorum_open,
    .close = quorum_close,
    .read = quorum_read,
    .write = quorum_write,
    .zero = quorum_zero,
    .flush = quorum_flush,
    .status = quorum_status,
    .allocated_size = quorum_allocated_size,
    .add_child = quorum_add_child,
    .remove_child = quorum_remove_child,
};
