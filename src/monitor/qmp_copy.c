/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_copy.h"

#include "base/cleanup.h"
#include "block/driver.h"
#include "job/block_copy.h"
#include "job/copy.h"
#include "monitor/bitmap_arg.h"
#include "monitor/device_arg.h"
#include "monitor/job_action.h"
#include "monitor/new_image.h"

#include <string.h>

static const enum copy_sync sync_modes[] = {
    [QMP_MIRROR_SYNC_MODE_TOP] = COPY_TOP,
    [QMP_MIRROR_SYNC_MODE_FULL] = COPY_FULL,
    [QMP_MIRROR_SYNC_MODE_NONE] = COPY_NONE,
    [QMP_MIRROR_SYNC_MODE_INCREMENTAL] = COPY_INCREMENTAL,
    [QMP_MIRROR_SYNC_MODE_BITMAP] = COPY_INCREMENTAL,
};

/* What both commands have: the generated structs differ, their common members do not. */
#define COMMON_OPTIONS(o, a)                                                                                           \
    do {                                                                                                               \
        (o)->job_id = (a)->job_id;                                                                                     \
        (o)->replaces = (a)->replaces;                                                                                 \
        (o)->speed = (a)->has_speed ? (uint64_t)(a)->speed : 0;                                                        \
        (o)->granularity = (a)->has_granularity ? (uint32_t)(a)->granularity : 0;                                      \
        (o)->buf_size = (a)->has_buf_size ? (uint64_t)(a)->buf_size : 0;                                               \
        (o)->on_source_error = (a)->has_on_source_error ? (enum job_on_error)(a)->on_source_error : 0;                 \
        (o)->on_target_error = (a)->has_on_target_error ? (enum job_on_error)(a)->on_target_error : 0;                 \
        (o)->unmap = !(a)->has_unmap || (a)->unmap;                                                                    \
        (o)->write_blocking = (a)->has_copy_mode && (a)->copy_mode == QMP_MIRROR_COPY_MODE_WRITE_BLOCKING;             \
        (o)->flags = JOB_ACTION_FLAGS(a);                                                                              \
    } while (0)

/* Device or node name; the device's name is the job's when none was given. */
static int find_source(struct mon_ctx *c, const char *device, struct copy_options *o, struct err *e)
{
    struct device_arg d;
    int rc = device_arg_find(c, device, &d, e);
    if (rc == 0) {
        o->backend = d.backend;
        o->source = d.node;
        o->device = d.name;
        o->job_id = o->job_id ? o->job_id : d.name;
    }
    return rc;
}

static int check_numbers(bool has_speed, int64_t speed, bool has_buf_size, int64_t buf_size, struct err *e)
{
    if (has_speed && speed < 0) {
        return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
    }
    if (has_buf_size && buf_size < 0) {
        return err_set(e, EINVAL, "Invalid parameter 'buf-size'");
    }
    return 0;
}

static int find_bitmap(const struct qmp_blockdev_mirror_args *a, struct copy_options *o, struct err *e)
{
    struct bitmap_arg b = {a->sync, a->bitmap, a->has_bitmap_mode, a->bitmap_mode};
    if (a->bitmap && o->sync != COPY_INCREMENTAL) {
        return err_set(e, EINVAL, "Sync mode '%s' not supported with bitmap.", qmp_MirrorSyncMode_names[a->sync]);
    }
    int rc = bitmap_arg_find(&b, o->source, &o->bitmap, e);
    o->bitmap_mode = (enum copy_bitmap_mode)b.mode;
    return rc;
}

static int create(struct mon_action *action, const struct qmp_blockdev_mirror_args *a, struct job **out, struct err *e)
{
    struct copy_options o = {.txn = action->txn};

    COMMON_OPTIONS(&o, a);
    o.filter_node_name = a->filter_node_name;
    int rc = check_numbers(a->has_speed, a->speed, a->has_buf_size, a->buf_size, e);
    if (rc == 0) {
        rc = find_source(action->c, a->device, &o, e);
    }
    if (rc) {
        return rc;
    }
    o.target = device_arg_node(action->c, a->target, a->target, e);
    if (!o.target) {
        return -ENOENT;
    }
    o.sync = sync_modes[a->sync];
    o.target_is_zero = a->has_target_is_zero && a->target_is_zero;
    rc = find_bitmap(a, &o, e);
    return rc ? rc : copy_create(action->c->env->jobs, &o, out, e);
}

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    struct device_arg d;
    struct job *j = NULL;
    int rc = device_arg_find(a->c, ((const struct qmp_blockdev_mirror_args *)args)->device, &d, e);
    if (rc) {
        return rc;
    }
    job_action_hold((struct job_action *)a, d.node);
    rc = create(a, args, &j, e);
    return job_action_made((struct job_action *)a, j, rc);
}

const struct mon_action_kind action_mirror = JOB_ACTION_KIND("blockdev-mirror", blockdev_mirror, prepare);

int qmp_blockdev_mirror(struct mon_ctx *c, const struct qmp_blockdev_mirror_args *a, struct json_object **ret,
                        struct err *e)
{
    return mon_action_run(c, &action_mirror, a, e);
}

/* --- drive-mirror --------------------------------------------------------------------------------------------------
 */

static int open_target(struct mon_ctx *c, const struct qmp_drive_mirror_args *a, struct copy_options *o, struct err *e)
{
    bool exists = a->has_mode && a->mode == QMP_NEW_IMAGE_MODE_EXISTING;
    o->over_source = o->sync == COPY_NONE && !exists;
    exists |= c->goes_on;
    struct new_image i = {
        .file = a->target,
        .format = a->format,
        .exists = exists,
        .like = o->source,
        .backing = o->over_source        ? o->source
                   : o->sync == COPY_TOP ? node_backing(o->source)
                                         : NULL,
        .node_name = a->node_name,
        .alone = o->over_source,
    };
    return new_image_open(c->env, &i, &o->target, NULL, e);
}

int qmp_drive_mirror(struct mon_ctx *c, const struct qmp_drive_mirror_args *a, struct json_object **ret, struct err *e)
{
    struct copy_options o = {0};

    COMMON_OPTIONS(&o, a);
    int rc = check_numbers(a->has_speed, a->speed, a->has_buf_size, a->buf_size, e);
    if (rc == 0) {
        rc = find_source(c, a->device, &o, e);
    }
    if (rc) {
        return rc;
    }
    if (a->sync == QMP_MIRROR_SYNC_MODE_INCREMENTAL || a->sync == QMP_MIRROR_SYNC_MODE_BITMAP) {
        return err_set(e, ENOTSUP, "Sync mode '%s' not supported", qmp_MirrorSyncMode_names[a->sync]);
    }
    if (a->replaces && !a->node_name) {
        return err_set(e, EINVAL, "a node-name must be provided when replacing a named node of the graph");
    }
    o.sync = sync_modes[a->sync];
    struct node *source = node_ref(o.source);
    rc = open_target(c, a, &o, e);
    /* Opening waits: the device may have another medium by now. */
    if (rc == 0 && find_source(c, a->device, &o, e) == 0) {
        struct job *j;
        rc = copy_create(c->env->jobs, &o, &j, e);
        if (rc == 0) {
            job_start(j);
        }
    } else if (rc == 0) {
        rc = -ENODEV;
    }
    node_unref(o.target);
    node_unref(source);
    return rc;
}

/* --- block_copy ------------------------------------------------------------------------------------------------------
 */

int qmp_block_copy(struct mon_ctx *c, const struct qmp_block_copy_args *a, struct json_object **ret, struct err *e)
{
    struct block_copy_options o = {
        .device = a->device,
        .filename = a->filename,
        .target = a->target,
        .format = a->format,
        .commit_filename = a->commit_filename,
        .inc = a->has_inc && a->inc,
        .stop = a->has_action && a->action == QMP_BLOCK_COPY_ACTION_STOP,
        .speed = a->has_speed ? (uint64_t)a->speed : 0,
    };
    int rc = check_numbers(a->has_speed, a->speed, false, 0, e);
    return rc ? rc : block_copy_start(c->env->jobs, c->env->graph, &o, e);
}

int qmp_block_copy_cancel(struct mon_ctx *c, const struct qmp_block_copy_cancel_args *a, struct json_object **ret,
                          struct err *e)
{
    return block_copy_cancel(c->env->jobs, c->env->graph, a->device, e);
}

int qmp_query_block_copy(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = block_copy_query(c->env->jobs);
    return 0;
}
