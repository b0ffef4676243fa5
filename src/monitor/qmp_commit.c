/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_commit.h"

#include "job/commit.h"
#include "monitor/command.h"
#include "monitor/device_arg.h"

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
        o->top = device_arg_backing(o->active, a->top);
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
        o->base = device_arg_backing(o->top, a->base);
        return o->base ? 0 : err_set(e, ENOENT, "Can't find '%s' in the backing chain", a->base);
    }
    o->base = node_backing(o->top) ? lowest(o->top) : NULL;
    return o->base ? 0 : err_set(e, EINVAL, "There is no backing image below '%s'", o->top->name);
}

int qmp_block_commit(struct mon_ctx *c, const struct qmp_block_commit_args *a, struct json_object **ret, struct err *e)
{
    struct device_arg d;
    int rc = device_arg_find(c, a->device, &d, e);
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
        .flags = (a->has_auto_finalize && !a->auto_finalize ? JOB_MANUAL_FINALIZE : 0) |
                 (a->has_auto_dismiss && !a->auto_dismiss ? JOB_MANUAL_DISMISS : 0),
    };
    rc = find_top(c, a, &o, e);
    rc = rc ? rc : find_base(c, a, &o, e);
    struct job *j;
    return rc ? rc : commit_start(c->env->jobs, &o, &j, e);
}
