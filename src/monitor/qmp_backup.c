/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_backup.h"

#include "base/cleanup.h"
#include "block/io.h"
#include "block/options.h"
#include "job/backup.h"
#include "monitor/bitmap_arg.h"
#include "monitor/check.h"
#include "monitor/device_arg.h"
#include "monitor/job_action.h"
#include "monitor/new_image.h"

#include <unistd.h>

static const enum backup_sync sync_modes[] = {
    [QMP_MIRROR_SYNC_MODE_TOP] = BACKUP_TOP,       [QMP_MIRROR_SYNC_MODE_FULL] = BACKUP_FULL,
    [QMP_MIRROR_SYNC_MODE_NONE] = BACKUP_NONE,     [QMP_MIRROR_SYNC_MODE_INCREMENTAL] = BACKUP_INCREMENTAL,
    [QMP_MIRROR_SYNC_MODE_BITMAP] = BACKUP_BITMAP,
};

static int find_bitmap(const struct qmp_blockdev_backup_args *a, struct backup_options *o, struct err *e)
{
    struct bitmap_arg b = {a->sync, a->bitmap, a->has_bitmap_mode, a->bitmap_mode};
    int rc = bitmap_arg_find(&b, o->source, &o->bitmap, e);
    o->bitmap_mode = (enum backup_bitmap_mode)b.mode;
    return rc;
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
    o->by_host = perf && json_object_object_get_ex(perf, "use-copy-range", &v) && json_object_get_boolean(v);
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
        .discard_source = a->has_discard_source && a->discard_source,
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

/* --- drive-backup ------------------------------------------------------------------------------------------------- */

struct drive_action {
    struct job_action job;
    struct node *target; /* a reference; NULL: not there yet */
    char *made;          /* the file that goes if it is all for nothing; NULL: none */
    bool committed;
};

static struct qmp_blockdev_backup_args to_node(const struct qmp_drive_backup_args *a, const char *target)
{
    return (struct qmp_blockdev_backup_args){
        .job_id = a->job_id,
        .device = a->device,
        .target = target,
        .sync = a->sync,
        .has_speed = a->has_speed,
        .speed = a->speed,
        .bitmap = a->bitmap,
        .has_bitmap_mode = a->has_bitmap_mode,
        .bitmap_mode = a->bitmap_mode,
        .has_compress = a->has_compress,
        .compress = a->compress,
        .has_on_source_error = a->has_on_source_error,
        .on_source_error = a->on_source_error,
        .has_on_target_error = a->has_on_target_error,
        .on_target_error = a->on_target_error,
        .has_on_cbw_error = a->has_on_cbw_error,
        .on_cbw_error = a->on_cbw_error,
        .has_auto_finalize = a->has_auto_finalize,
        .auto_finalize = a->auto_finalize,
        .has_auto_dismiss = a->has_auto_dismiss,
        .auto_dismiss = a->auto_dismiss,
        .filter_node_name = a->filter_node_name,
        .has_discard_source = a->has_discard_source,
        .discard_source = a->discard_source,
        .x_perf = a->x_perf,
    };
}

/* sync=none: what the guest has not overwritten yet is read from the disk itself. */
static int put_above_source(struct node *target, struct node *source, struct err *e)
{
    struct edge *ed;
    return target->backing || !target->drv->takes_backing
               ? 0
               : node_attach_child(target, source, &backing_edge_spec, &ed, e);
}

static int open_image(struct drive_action *x, const struct qmp_drive_backup_args *a, struct node *source, struct err *e)
{
    bool none = a->sync == QMP_MIRROR_SYNC_MODE_NONE;
    struct new_image i = {
        .file = a->target,
        .format = a->format,
        .exists = x->job.action.c->goes_on || (a->has_mode && a->mode == QMP_NEW_IMAGE_MODE_EXISTING),
        .like = source,
        .backing = none                                  ? source
                   : a->sync == QMP_MIRROR_SYNC_MODE_TOP ? node_backing(source)
                                                         : NULL,
        .alone = none,
    };
    node_ref(source);
    int rc = new_image_open(x->job.action.c->env, &i, &x->target, &x->made, e);
    rc = rc || !none ? rc : put_above_source(x->target, source, e);
    node_unref(source);
    return rc;
}

static void drop_image(struct drive_action *x)
{
    node_unref(take(x->target));
    if (x->made && !x->committed) {
        unlink(x->made);
    }
    g_free(take(x->made));
}

static int open_drive(struct mon_action *a, const void *args, struct err *e)
{
    struct drive_action *x = (struct drive_action *)a;
    const struct qmp_drive_backup_args *d = args;
    struct bitmap_arg b = {d->sync, d->bitmap, d->has_bitmap_mode, d->bitmap_mode};
    struct dirty_bitmap *ignored;
    struct node *source = device_arg_node(a->c, d->device, d->device, NULL);
    int rc = source ? bitmap_arg_find(&b, source, &ignored, e) : 0; /* before a file is overwritten in vain */
    rc = source && !rc ? open_image(x, d, source, e) : rc;
    if (rc) {
        drop_image(x);
    }
    return rc;
}

static int prepare_drive(struct mon_action *a, const void *args, struct err *e)
{
    struct drive_action *x = (struct drive_action *)a;
    const struct qmp_drive_backup_args *d = args;
    struct node *source = device_arg_node(a->c, d->device, d->device, e);
    int rc = !source ? -ENODEV : x->target ? 0 : open_image(x, d, source, e);
    if (rc) {
        return rc;
    }
    struct qmp_blockdev_backup_args plain = to_node(d, x->target->name);
    return prepare(a, &plain, e);
}

static void commit_drive(struct mon_action *a)
{
    ((struct drive_action *)a)->committed = true;
    job_action_commit(a);
}

static void clean_drive(struct mon_action *a)
{
    struct drive_action *x = (struct drive_action *)a;
    if (x->job.job) {
        job_action_clean(a);
    }
    drop_image(x);
}

const struct mon_action_kind action_drive_backup = {
    .name = "drive-backup",
    .makes_job = true,
    .size = sizeof(struct drive_action),
    .args_size = sizeof(struct qmp_drive_backup_args),
    .decode = qmp_drive_backup_decode,
    .open = open_drive,
    .prepare = prepare_drive,
    .commit = commit_drive,
    .abort = job_action_abort,
    .clean = clean_drive,
};

int qmp_drive_backup(struct mon_ctx *c, const struct qmp_drive_backup_args *a, struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_drive_backup, a, e);
}
