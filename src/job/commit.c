/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/commit.h"

#include "block/chain.h"
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

int commit_create(struct jobs *js, const struct commit_options *o, struct job **out, struct err *e)
{
    int rc = check(o, e);
    if (rc) {
        return rc;
    }
    struct node *top = node_skip_filters(o->top), *base = node_skip_filters(o->base);
    bool is_active = top == node_skip_filters(o->active);
    struct copy_options c = {
        .job_id = o->job_id,
        .source = is_active ? o->active : top,
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
