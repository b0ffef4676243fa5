/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_stream.h"

#include "block/chain.h"
#include "job/stream.h"
#include "monitor/device_arg.h"
#include "monitor/job_action.h"

static int one_of(const char *a, const char *a_name, const char *b, const char *b_name, struct err *e)
{
    return a && b ? err_set(e, EINVAL, "'%s' and '%s' cannot be specified at the same time", a_name, b_name) : 0;
}

static int find_layers(struct mon_ctx *c, const struct qmp_block_stream_args *a, struct stream_options *o,
                       struct err *e)
{
    int rc = one_of(a->base, "base", a->base_node, "base-node", e);
    rc = rc ? rc : one_of(a->base, "base", a->bottom, "bottom", e);
    rc = rc ? rc : one_of(a->bottom, "bottom", a->base_node, "base-node", e);
    if (rc) {
        return rc;
    }
    if (a->base) {
        o->base = chain_find_file(o->top, a->base);
        return o->base ? 0 : err_set(e, ENOENT, "Can't find '%s' in the backing chain", a->base);
    }
    if (a->base_node) {
        o->base = node_lookup(c->env->graph, a->base_node, e);
        return o->base ? 0 : -ENOENT;
    }
    if (a->bottom) {
        o->bottom = node_lookup(c->env->graph, a->bottom, e);
        return o->bottom ? 0 : -ENOENT;
    }
    return 0;
}

static int create(struct mon_action *action, const struct qmp_block_stream_args *a, struct job **out, struct err *e)
{
    struct device_arg d;
    int rc = device_arg_find(action->c, a->device, &d, e);
    if (rc) {
        return rc;
    }
    if (a->has_speed && a->speed < 0) {
        return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
    }
    struct stream_options o = {
        .job_id = a->job_id ? a->job_id : d.name,
        .top = d.node,
        .backing_file = a->backing_file,
        .mask_protocol = a->has_backing_mask_protocol && a->backing_mask_protocol,
        .filter_node_name = a->filter_node_name,
        .speed = a->has_speed ? (uint64_t)a->speed : 0,
        .idle_ms = a->has_idle_grace ? a->idle_grace : 0,
        .on_error = a->has_on_error ? (enum job_on_error)a->on_error : JOB_ON_ERROR_REPORT,
        .txn = action->txn,
        .flags = JOB_ACTION_FLAGS(a),
    };
    rc = find_layers(action->c, a, &o, e);
    return rc ? rc : stream_create(action->c->env->jobs, &o, out, e);
}

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    struct device_arg d;
    struct job *j = NULL;
    int rc = device_arg_find(a->c, ((const struct qmp_block_stream_args *)args)->device, &d, e);
    if (rc) {
        return rc;
    }
    job_action_hold((struct job_action *)a, d.node);
    rc = create(a, args, &j, e);
    return job_action_made((struct job_action *)a, j, rc);
}

const struct mon_action_kind action_stream = JOB_ACTION_KIND("block-stream", block_stream, prepare);

int qmp_block_stream(struct mon_ctx *c, const struct qmp_block_stream_args *a, struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_stream, a, e);
}

int qmp_block_stream_step(struct mon_ctx *c, const struct qmp_block_stream_step_args *a, struct json_object **ret,
                          struct err *e)
{
    struct device_arg d;
    uint64_t end = 0;
    int rc = device_arg_find(c, a->device, &d, e);
    if (rc == 0 && a->offset < 0) {
        rc = err_set(e, EINVAL, "Parameter 'offset' expects a non-negative value");
    }
    if (rc == 0) {
        rc = stream_step(d.node, (uint64_t)a->offset, &end, e);
    }
    if (rc == 0) {
        *ret = json_object_new_object();
        json_object_object_add(*ret, "offset", json_object_new_int64((int64_t)end));
        json_object_object_add(*ret, "size", json_object_new_int64((int64_t)node_skip_filters(d.node)->size));
    }
    return rc;
}
