/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_commit.h"

#include "block/chain.h"
#include "job/commit.h"
#include "monitor/device_arg.h"
#include "monitor/job_action.h"

#include <string.h>

static int find_top(struct mon_ctx *c, const struct qmp_block_commit_args *a, struct commit_options *o, struct err *e)
{
    if (a->top_node && a->top) {
        return err_set(e, EINVAL, "'top-node' and 'top' are mutually exclusive");
    }
    o->top = o->active;
    if (a->top_node) {
        o->top = node_lookup(c->env->graph, a->top_node, e);
        return o->top ? 0 : -ENOENT;
    }
    if (a->top && strcmp(node_skip_filters(o->active)->filename, a->top) != 0) {
        o->top = chain_find_file(o->active, a->top);
    }
    return o->top ? 0 : err_set(e, ENOENT, "Top image file %s not found", a->top);
}

static struct node *lowest(struct node *n)
{
    for (struct node *below; (below = node_backing(n));) {
        n = below;
    }
    return node_skip_filters(n);
}

static int find_base(struct mon_ctx *c, const struct qmp_block_commit_args *a, struct commit_options *o, struct err *e)
{
    if (a->base_node && a->base) {
        return err_set(e, EINVAL, "'base-node' and 'base' are mutually exclusive");
    }
    if (a->base_node) {
        o->base = node_lookup(c->env->graph, a->base_node, e);
        return o->base ? 0 : -ENOENT;
    }
    if (a->base) {
        o->base = chain_find_file(o->top, a->base);
        return o->base ? 0 : err_set(e, ENOENT, "Can't find '%s' in the backing chain", a->base);
    }
    o->base = node_backing(o->top) ? lowest(o->top) : NULL;
    return o->base ? 0 : err_set(e, EINVAL, "There is no backing image below '%s'", o->top->name);
}

/* QEMU knows an error of its own here, by which libvirt finds out that there is the command. */
static int find_device(struct mon_ctx *c, const struct qmp_block_commit_args *a, struct device_arg *d, struct err *e)
{
    if (backend_find(c->env->graph, a->device) || node_find(c->env->graph, a->device)) {
        return device_arg_find(c, a->device, d, e);
    }
    return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", a->device);
}

static int create(struct mon_action *action, const struct qmp_block_commit_args *a, struct job **out, struct err *e)
{
    struct device_arg d;
    int rc = find_device(action->c, a, &d, e);
    if (rc) {
        return rc;
    }
    if (a->has_speed && a->speed < 0) {
        return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
    }
    struct commit_options o = {
        .job_id = a->job_id ? a->job_id : d.name,
        .backend = d.backend,
        .active = d.node,
        .backing_file = a->backing_file,
        .mask_protocol = a->has_backing_mask_protocol && a->backing_mask_protocol,
        .filter_node_name = a->filter_node_name,
        .speed = a->has_speed ? (uint64_t)a->speed : 0,
        .on_error = a->has_on_error ? (enum job_on_error)a->on_error : JOB_ON_ERROR_REPORT,
        .txn = action->txn,
        .flags = JOB_ACTION_FLAGS(a),
    };
    rc = find_top(action->c, a, &o, e);
    rc = rc ? rc : find_base(action->c, a, &o, e);
    return rc ? rc : commit_create(action->c->env->jobs, &o, out, e);
}

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    struct device_arg d;
    struct job *j = NULL;
    int rc = find_device(a->c, args, &d, e);
    if (rc) {
        return rc;
    }
    job_action_hold((struct job_action *)a, d.node);
    rc = create(a, args, &j, e);
    return job_action_made((struct job_action *)a, j, rc);
}

const struct mon_action_kind action_commit = JOB_ACTION_KIND("block-commit", block_commit, prepare);

int qmp_block_commit(struct mon_ctx *c, const struct qmp_block_commit_args *a, struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_commit, a, e);
}
