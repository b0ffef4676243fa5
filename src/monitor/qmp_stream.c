/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_stream.h"

#include "job/stream.h"
#include "monitor/command.h"
#include "monitor/device_arg.h"

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
        o->base = device_arg_backing(o->top, a->base);
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

int qmp_block_stream(struct mon_ctx *c, const struct qmp_block_stream_args *a, struct json_object **ret, struct err *e)
{
    struct device_arg d;
    int rc = device_arg_find(c, a->device, &d, e);
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
        .flags = (a->has_auto_finalize && !a->auto_finalize ? JOB_MANUAL_FINALIZE : 0) |
                 (a->has_auto_dismiss && !a->auto_dismiss ? JOB_MANUAL_DISMISS : 0),
    };
    rc = find_layers(c, a, &o, e);
    struct job *j;
    return rc ? rc : stream_start(c->env->jobs, &o, &j, e);
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
