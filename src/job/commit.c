/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/commit.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/snapshot.h"
#include "job/copy.h"

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
        int rc = node_check_no_snapshots(n, e);
        if (rc) {
            return rc;
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
