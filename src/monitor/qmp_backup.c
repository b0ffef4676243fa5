/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_backup.h"

#include "job/backup.h"
#include "monitor/check.h"
#include "monitor/device_arg.h"
#include "monitor/job_action.h"

static const enum backup_sync sync_modes[] = {
    [QMP_MIRROR_SYNC_MODE_TOP] = BACKUP_TOP,       [QMP_MIRROR_SYNC_MODE_FULL] = BACKUP_FULL,
    [QMP_MIRROR_SYNC_MODE_NONE] = BACKUP_NONE,     [QMP_MIRROR_SYNC_MODE_INCREMENTAL] = BACKUP_INCREMENTAL,
    [QMP_MIRROR_SYNC_MODE_BITMAP] = BACKUP_BITMAP,
};

static int find_bitmap(const struct qmp_blockdev_backup_args *a, struct backup_options *o, struct err *e)
{
    const char *sync = qmp_MirrorSyncMode_names[a->sync];
    bool by_bitmap = o->sync == BACKUP_INCREMENTAL || o->sync == BACKUP_BITMAP;
    if (o->sync == BACKUP_INCREMENTAL && a->has_bitmap_mode && a->bitmap_mode != QMP_BITMAP_SYNC_MODE_ON_SUCCESS) {
        return err_set(e, EINVAL, "Bitmap sync mode must be 'on-success' when using sync mode '%s'", sync);
    }
    if (by_bitmap && !a->bitmap) {
        return err_set(e, EINVAL, "must provide a valid bitmap name for '%s' sync mode", sync);
    }
    if (!a->bitmap) {
        return a->has_bitmap_mode ? err_set(e, EINVAL, "Cannot specify bitmap sync mode without a bitmap") : 0;
    }
    if (!a->has_bitmap_mode && o->sync != BACKUP_INCREMENTAL) {
        return err_set(e, EINVAL, "Bitmap sync mode must be given when providing a bitmap");
    }
    if (o->sync == BACKUP_NONE || (!by_bitmap && a->bitmap_mode == QMP_BITMAP_SYNC_MODE_NEVER)) {
        return err_set(e, EINVAL, "Bitmap sync mode '%s' has no meaning when combined with sync mode '%s'",
                       qmp_BitmapSyncMode_names[a->bitmap_mode], sync);
    }
    o->bitmap_mode = a->has_bitmap_mode ? (enum backup_bitmap_mode)a->bitmap_mode : BACKUP_ON_SUCCESS;
    o->bitmap = dirty_bitmap_find(o->source, a->bitmap);
    if (!o->bitmap) {
        o->bitmap = dirty_bitmap_find(node_skip_filters(o->source), a->bitmap);
    }
    return o->bitmap ? 0 : err_set(e, ENOENT, "Bitmap '%s' could not be found", a->bitmap);
}

static int read_perf(struct json_object *perf, struct backup_options *o, struct err *e)
{
    struct json_object *v;
    int64_t workers = 0, chunk = 0;
    if (perf && json_object_object_get_ex(perf, "max-workers", &v)) {
        workers = json_object_get_int64(v);
        if (workers < 1 || workers > INT32_MAX) {
            return err_set(e, EINVAL, "max-workers must be between 1 and %d", INT32_MAX);
        }
    }
    if (perf && json_object_object_get_ex(perf, "max-chunk", &v)) {
        chunk = json_object_get_int64(v);
        if (chunk < 0) {
            return err_set(e, EINVAL, "max-chunk must be zero (which means no limit) or positive");
        }
    }
    o->workers = (unsigned)MIN(workers, 64);
    o->max_chunk = (uint64_t)MIN(chunk, 64 << 20);
    return 0;
}

static int read_args(struct mon_action *action, const struct qmp_blockdev_backup_args *a, struct backup_options *o,
                     struct err *e)
{
    struct device_arg source, target;
    if (a->has_speed && a->speed < 0) {
        return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
    }
    int rc = device_arg_find(action->c, a->device, &source, e);
    rc = rc ? rc : device_arg_find(action->c, a->target, &target, e);
    if (rc) {
        return rc;
    }
    *o = (struct backup_options){
        .job_id = a->job_id ? a->job_id : source.name,
        .source = source.node,
        .target = target.node,
        .sync = sync_modes[a->sync],
        .compress = a->has_compress && a->compress,
        .speed = a->has_speed ? (uint64_t)a->speed : 0,
        .on_source_error = a->has_on_source_error ? (enum job_on_error)a->on_source_error : JOB_ON_ERROR_REPORT,
        .on_target_error = a->has_on_target_error ? (enum job_on_error)a->on_target_error : JOB_ON_ERROR_REPORT,
        .on_cbw_error = a->has_on_cbw_error ? (enum cbw_on_error)a->on_cbw_error : CBW_BREAK_GUEST_WRITE,
        .filter_node_name = a->filter_node_name,
        .txn = action->txn,
        .flags = JOB_ACTION_FLAGS(a),
    };
    rc = read_perf(a->x_perf, o, e);
    return rc ? rc : find_bitmap(a, o, e);
}

static int prepare(struct mon_action *a, const void *args, struct err *e)
{
    struct job_action *x = (struct job_action *)a;
    struct device_arg source;
    struct backup_options o;
    struct job *j = NULL;
    int rc = device_arg_find(a->c, ((const struct qmp_blockdev_backup_args *)args)->device, &source, e);
    if (rc) {
        return rc;
    }
    job_action_hold(x, source.node);
    rc = read_args(a, args, &o, e); /* draining has waited */
    rc = rc ? rc : backup_create(a->c->env->jobs, &o, &j, e);
    return job_action_made(x, j, rc);
}

const struct mon_action_kind action_backup = JOB_ACTION_KIND("blockdev-backup", blockdev_backup, prepare);

int qmp_blockdev_backup(struct mon_ctx *c, const struct qmp_blockdev_backup_args *a, struct json_object **ret,
                        struct err *e)
{
    return mon_action_run(c, &action_backup, a, e);
}
