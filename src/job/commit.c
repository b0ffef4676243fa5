/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/commit.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/snapshot.h"
#include "block/transfer.h"
#include "job/copy.h"
#include "job/fill.h"

#include <errno.h>
#include <stdlib.h>

static int check(const struct commit_options *o, struct err *e)
{
    struct node *top = node_skip_filters(o->top), *base = node_skip_filters(o->base);
    if (top == base) {
        return err_set(e, EINVAL, "cannot commit an image into itself");
    }
    if (!chain_contains(o->active, top)) {
        return err_set(e, EINVAL, "'%s' is not in this backing file chain", o->top->name);
    }
    if (!chain_contains(top, base)) {
        return err_set(e, EINVAL, "'%s' is not in this backing file chain", o->base->name);
    }
    if (o->backing_file && top == node_skip_filters(o->active)) {
        return err_set(e, EINVAL, "'backing-file' specified, but 'top' is the active layer");
    }
    return 0;
}

/* What is emptied must not be filled at the same time: it is worth nothing afterwards. */
static int check_others(struct node *top, struct node *base, struct err *e)
{
    for (struct node *n = top; n != base; n = node_skip_filters(node_backing(n))) {
        struct node *f = chain_pinned_filter(n);
        if (f) {
            CLEANUP_FREE char *who = edge_describe(node_filter_edge(f));
            return err_set(
                e, EBUSY,
                "Node '%s' is in use by %s, which cannot go together with a commit of it: nothing is left of "
                "the image afterwards",
                n->name, who);
        }
    }
    struct node *f = chain_pinned_filter(base);
    if (f) { /* what it writes does not know of what the commit writes past it */
        CLEANUP_FREE char *who = edge_describe(node_filter_edge(f));
        return err_set(e, EBUSY,
                       "Node '%s' is in use by %s, which writes to it at the same time as a commit into it would",
                       base->name, who);
    }
    return 0;
}

/*
 * The guest goes on in the base, which snapshots inside of the layers above would need as it was. They would be left
 * behind, too: the machine does not use these layers any more.
 */
static int check_no_snapshots(struct node *top, struct node *base, struct err *e)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    for (struct node *n = top; n != base; n = node_skip_filters(node_backing(n))) {
        if (node_check_no_snapshots(n, &why)) {
            return err_set(e, EBUSY, "%s, or use block-stream, which keeps them", err_text(&why));
        }
    }
    return 0;
}

int commit_create(struct jobs *js, const struct commit_options *o, struct job **out, struct err *e)
{
    int rc = check(o, e);
    if (rc) {
        return rc;
    }
    struct node *top = node_skip_filters(o->top), *base = node_skip_filters(o->base);
    rc = check_others(top, base, e);
    if (rc) {
        return rc;
    }
    bool is_active = top == node_skip_filters(o->active);
    rc = is_active ? check_no_snapshots(top, base, e) : 0;
    if (rc) {
        return rc;
    }
    struct copy_options c = {
        .job_id = o->job_id,
        .source = top,
        .target = base,
        .backend = is_active ? o->backend : NULL,
        .sync = COPY_TOP,
        .commit = true,
        .switches = !is_active,
        .target_read_only = base->read_only,
        .backing_file = o->backing_file,
        .mask_protocol = o->mask_protocol,
        .filter_node_name = o->filter_node_name,
        .unmap = true,
        .speed = o->speed,
        .on_source_error = o->on_error,
        .on_target_error = o->on_error,
        .txn = o->txn,
        .flags = o->flags,
    };
    rc = base->read_only ? node_set_read_only(base, false, e) : 0;
    if (rc) {
        return rc;
    }
    node_ref(base);
    rc = copy_create(js, &c, out, e);
    if (rc && c.target_read_only && !base->read_only) {
        node_set_read_only(base, true, NULL);
    }
    node_unref(base);
    return rc;
}

/* --- at once ------------------------------------------------------------------------------------------------------ */

enum { NOW_BUFFER = 1 << 20 };

static int grow(struct edge *to, uint64_t size, struct err *e)
{
    return edge_size(to) < size ? edge_truncate(to, size, false, PREALLOC_OFF, e) : 0;
}

/* `top` is drained; the edges pass. */
static int move_down(struct node *top, struct edge *from, struct edge *to, struct err *e)
{
    struct transfer t = {.from = from, .to = to, .base = to->child, .unmap = true, .buf_size = NOW_BUFFER};
    int rc = grow(to, top->size, e);
    if (rc) {
        return rc;
    }
    t.buf = block_buf_alloc(top, NOW_BUFFER);
    rc = t.buf ? transfer_range(&t, 0, top->size) : -ENOMEM;
    free(t.buf);
    rc = rc ? rc : edge_flush(to); /* durable below before it is forgotten above */
    rc = rc ? rc : top->drv->make_empty(top);
    rc = rc ? rc : node_flush(top);
    return rc ? err_set_errno(e, -rc, "image '%s'", top->name) : 0;
}

static int with_edges(struct node *top, struct node *base, struct err *e)
{
    struct edge *from = NULL, *to = NULL;
    struct edge_spec read = {"commit", PERM_READ, PERM_ALL}, write = {"commit", PERM_WRITE | PERM_RESIZE, PERM_ALL};
    int rc = edge_open(top, &read, &from, e);
    rc = rc ? rc : edge_open(base, &write, &to, e);
    if (!rc) {
        from->ungated = to->ungated = true;
        node_drain_begin(top);
        rc = fill_for_commit(top, node_backing(top), e);
        rc = rc ? rc : move_down(top, from, to, e);
        node_drain_end(top);
    }
    edge_close(from);
    edge_close(to);
    return rc;
}

int commit_now(struct backend *b, struct err *e)
{
    struct node *top = node_skip_filters(b->root->child), *below = node_backing(top);
    if (!below || !top->drv->make_empty || top->read_only) {
        return err_set(e, ENOTSUP, "node '%s' is %s", top->name,
                       !below           ? "no overlay: it has no backing image"
                       : top->read_only ? "read-only"
                                        : "of a format that cannot be emptied");
    }
    struct node *base = node_skip_filters(below);
    int rc = check_others(top, base, e);
    bool read_only = base->read_only;
    unsigned shared = b->root->own_shared;
    rc = rc || !read_only ? rc : node_set_read_only(base, false, e);
    if (rc) {
        return rc;
    }
    node_ref(top);
    node_ref(base);
    rc = edge_set_perm(b->root, b->root->own_perm, PERM_ALL, e); /* it waits: others may write below it */
    rc = rc ? rc : with_edges(top, base, e);
    edge_set_perm(b->root, b->root->own_perm, shared, NULL);
    if (read_only) {
        node_set_read_only(base, true, NULL);
    }
    node_unref(base);
    node_unref(top);
    return rc;
}
