/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_tuning.h"

#include "base/cleanup.h"
#include "base/objects.h"
#include "block/backend.h"
#include "block/driver.h"
#include "monitor/device_arg.h"

#include <errno.h>
#include <string.h>

/* --- limits ------------------------------------------------------------------------------------------------------- */

static struct backend *limited_disk(struct mon_ctx *c, const struct qmp_block_set_io_throttle_args *a, struct err *e)
{
    const char *name = a->device ? a->device : a->id;
    if (!a->device == !a->id) {
        err_set(e, EINVAL, "Need exactly one of 'device' and 'id'");
        return NULL;
    }
    struct backend *b = backend_find(c->env->graph, name);
    if (!b) {
        err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", name);
    } else if (!b->root) {
        err_set(e, ENOMEDIUM, "Device has no medium");
        b = NULL;
    }
    return b;
}

static int set_limit(struct throttle_limit *l, const char *name, int64_t avg, int64_t max, const int64_t *length,
                     struct err *e)
{
    if (avg < 0 || max < 0 || (length && *length < 0)) {
        return err_set(e, EINVAL, "'%s': limits cannot be negative", name);
    }
    *l = (struct throttle_limit){
        .avg = (uint64_t)avg, .max = (uint64_t)max, .burst_length = length ? (uint64_t)*length : 1};
    return 0;
}

static int read_limits(const struct qmp_block_set_io_throttle_args *a, struct throttle_config *out, struct err *e)
{
#define LIMIT(index, name)                                                                                             \
    if (!rc) {                                                                                                         \
        rc = set_limit(&out->limit[index], #name, a->name, a->has_##name##_max ? a->name##_max : 0,                    \
                       a->has_##name##_max_length ? &a->name##_max_length : NULL, e);                                  \
    }
    int rc = 0;
    *out = (struct throttle_config){0};
    LIMIT(THROTTLE_BPS_TOTAL, bps)
    LIMIT(THROTTLE_BPS_READ, bps_rd)
    LIMIT(THROTTLE_BPS_WRITE, bps_wr)
    LIMIT(THROTTLE_OPS_TOTAL, iops)
    LIMIT(THROTTLE_OPS_READ, iops_rd)
    LIMIT(THROTTLE_OPS_WRITE, iops_wr)
#undef LIMIT
    if (!rc && a->has_iops_size && a->iops_size < 0) {
        rc = err_set(e, EINVAL, "'iops_size' cannot be negative");
    }
    out->iops_size = a->has_iops_size ? (uint64_t)a->iops_size : 0;
    return rc ? rc : throttle_config_check(out, e);
}

static bool limits_nothing(const struct throttle_config *c)
{
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        if (c->limit[i].avg) {
            return false;
        }
    }
    return true;
}

int qmp_block_set_io_throttle(struct mon_ctx *c, const struct qmp_block_set_io_throttle_args *a,
                              struct json_object **ret, struct err *e)
{
    struct throttle_config config;
    struct backend *b = limited_disk(c, a, e);
    int rc = b ? read_limits(a, &config, e) : -ENODEV;
    if (rc) {
        return rc;
    }
    if (limits_nothing(&config)) {
        backend_limit_by(b, NULL);
        return 0;
    }
    struct throttle_group *have = backend_limits(b);
    const char *own = b->name[0] ? b->name : b->qdev;
    const char *name = a->group ? a->group : have ? throttle_group_name(have) : own;
    struct throttle_group *t = graph_limit_group(c->env->graph, name);
    throttle_group_set(t, &config);
    struct json_object *shown = c->env->objects ? object_registry_props(c->env->objects, name) : NULL;
    if (shown) {
        json_object_object_add(shown, "limits", throttle_config_json(&config));
    }
    if (t != have) {
        backend_limit_by(b, t);
    }
    throttle_group_unref(t);
    return 0;
}

/* --- histograms --------------------------------------------------------------------------------------------------- */

int qmp_block_latency_histogram_set(struct mon_ctx *c, const struct qmp_block_latency_histogram_set_args *a,
                                    struct json_object **ret, struct err *e)
{
    struct backend *b = backend_find(c->env->graph, a->id);
    if (!b) {
        return err_set(e, ENODEV, "Device '%s' not found", a->id);
    }
    const struct {
        const char *name;
        struct json_object *own;
        int type; /* -1: there are no such requests */
    } kinds[] = {{"read", a->boundaries_read, ACCT_READ},
                 {"write", a->boundaries_write, ACCT_WRITE},
                 {"append write", a->boundaries_zap, -1},
                 {"flush", a->boundaries_flush, ACCT_FLUSH}};
    bool any = a->boundaries;
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        struct json_object *wanted = kinds[i].own ? kinds[i].own : a->boundaries;
        any |= wanted != NULL;
        if (wanted && kinds[i].type >= 0 && acct_set_histogram(&b->stats, kinds[i].type, wanted)) {
            return err_set(e, EINVAL, "Device '%s' set %s boundaries fail: they must increase, from 1 on", a->id,
                           kinds[i].name);
        }
    }
    if (!any) {
        acct_clear_histograms(&b->stats);
    }
    return 0;
}

/* --- the write threshold ------------------------------------------------------------------------------------------ */

int qmp_block_set_write_threshold(struct mon_ctx *c, const struct qmp_block_set_write_threshold_args *a,
                                  struct json_object **ret, struct err *e)
{
    struct node *n = node_find(c->env->graph, a->node_name);
    if (!n) {
        return err_set(e, ENODEV, "Device '%s' not found", a->node_name);
    }
    n->write_threshold = a->write_threshold;
    return 0;
}

/* --- children ----------------------------------------------------------------------------------------------------- */

static int add_child(struct node *parent, struct node *child, struct err *e)
{
    if (!parent->drv->add_child) {
        return err_set(e, ENOTSUP, "The node %s does not support adding a child", parent->name);
    }
    if (child->parents->len) {
        return err_set(e, EBUSY, "The node %s already has a parent", child->name);
    }
    return parent->drv->add_child(parent, child, e);
}

static int remove_child(struct node *parent, const char *name, struct err *e)
{
    struct edge *found = NULL;
    for (guint i = 0; i < parent->children->len; i++) {
        struct edge *ed = g_ptr_array_index(parent->children, i);
        found = !strcmp(ed->name, name) ? ed : found;
    }
    if (!found) {
        return err_set(e, ENOENT, "Node '%s' does not have child '%s'", parent->name, name);
    }
    return parent->drv->remove_child
               ? parent->drv->remove_child(parent, found, e)
               : err_set(e, ENOTSUP, "The node %s does not support removing a child", parent->name);
}

static int change_children(struct mon_ctx *c, const struct qmp_x_blockdev_change_args *a, struct err *e)
{
    struct node *parent = device_arg_node(c, a->parent, a->parent, e);
    if (!parent) {
        return -ENODEV;
    }
    if (!a->child == !a->node) {
        return a->child ? err_set(e, EINVAL, "The parameters child and node are in conflict")
                        : err_set(e, EINVAL, "Either child or node must be specified");
    }
    if (a->child) {
        return remove_child(parent, a->child, e);
    }
    struct node *child = node_find(c->env->graph, a->node);
    return child ? add_child(parent, child, e) : err_set(e, ENOENT, "Node '%s' not found", a->node);
}

int qmp_x_blockdev_change(struct mon_ctx *c, const struct qmp_x_blockdev_change_args *a, struct json_object **ret,
                          struct err *e)
{
    graph_change_begin(c->env->graph);
    int rc = change_children(c, a, e);
    graph_change_end(c->env->graph);
    return rc;
}

/* --- I/O threads: there is the one loop ----------------------------------------------------------------------------
 */

int qmp_x_blockdev_set_iothread(struct mon_ctx *c, const struct qmp_x_blockdev_set_iothread_args *a,
                                struct json_object **ret, struct err *e)
{
    const struct node *n = node_find(c->env->graph, a->node_name);
    const char *thread = a->iothread ? json_object_get_string(a->iothread) : NULL;
    if (!n) {
        return err_set(e, ENOENT, "Failed to find node with node-name='%s'", a->node_name);
    }
    if (!(a->has_force && a->force) && backend_with(c->env->graph, n)) {
        return err_set(
            e, EBUSY, "Node %s is attached to a device and could be in use (force=true does it all the same)", n->name);
    }
    if (thread && !graph_object(c->env->graph, "iothread", thread)) {
        return err_set(e, ENOENT, "Cannot find iothread %s", thread);
    }
    return 0;
}
