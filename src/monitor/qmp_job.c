/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_job.h"

#include "base/cleanup.h"
#include "job/job.h"
#include "monitor/action.h"

#include <string.h>

static struct job *find_job(struct mon_ctx *c, const char *id, struct err *e)
{
    struct job *j = jobs_find(c->env->jobs, id);
    if (!j) {
        err_set(e, ENOENT, "Job not found");
    }
    return j;
}

static struct job *find_block_job(struct mon_ctx *c, const char *id, struct err *e)
{
    struct job *j = jobs_find(c->env->jobs, id);
    if (!j || !j->drv->block) {
        err_set_class(e, ERR_DEVICE_NOT_ACTIVE, ENOENT, "Block job '%s' not found", id);
        return NULL;
    }
    return j;
}

static int query(struct mon_ctx *c, bool block, struct json_object **ret)
{
    GPtrArray *all = jobs_list(c->env->jobs);
    *ret = json_object_new_array();
    for (guint i = 0; i < all->len; i++) {
        struct job *j = g_ptr_array_index(all, i);
        if (j->id && (!block || j->drv->block)) {
            json_object_array_add(*ret, block ? job_block_info(j) : job_info(j));
        }
    }
    return 0;
}

int qmp_query_jobs(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    return query(c, false, ret);
}

int qmp_query_block_jobs(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    return query(c, true, ret);
}

int qmp_job_pause(struct mon_ctx *c, const struct qmp_job_pause_args *a, struct json_object **ret, struct err *e)
{
    struct job *j = find_job(c, a->id, e);
    return j ? job_user_pause(j, e) : -ENOENT;
}

int qmp_block_job_pause(struct mon_ctx *c, const struct qmp_block_job_pause_args *a, struct json_object **ret,
                        struct err *e)
{
    struct job *j = find_block_job(c, a->device, e);
    return j ? job_user_pause(j, e) : -ENOENT;
}

int qmp_job_resume(struct mon_ctx *c, const struct qmp_job_resume_args *a, struct json_object **ret, struct err *e)
{
    struct job *j = find_job(c, a->id, e);
    return j ? job_user_resume(j, e) : -ENOENT;
}

int qmp_block_job_resume(struct mon_ctx *c, const struct qmp_block_job_resume_args *a, struct json_object **ret,
                         struct err *e)
{
    struct job *j = find_block_job(c, a->device, e);
    return j ? job_user_resume(j, e) : -ENOENT;
}

/* A job that completed well and is gone: its switch has happened, which is what was asked for. */
static bool completed_before(struct mon_ctx *c, const char *id, struct json_object **ret)
{
    struct json_object *known = jobs_find(c->env->jobs, id) ? NULL : jobs_outcome(c->env->jobs, id);
    if (known) {
        *ret = json_object_get(known);
    }
    return known;
}

int qmp_job_complete(struct mon_ctx *c, const struct qmp_job_complete_args *a, struct json_object **ret, struct err *e)
{
    if (completed_before(c, a->id, ret)) {
        return 0;
    }
    struct job *j = find_job(c, a->id, e);
    return j ? job_user_complete(j, ret, e) : -ENOENT;
}

int qmp_block_job_complete(struct mon_ctx *c, const struct qmp_block_job_complete_args *a, struct json_object **ret,
                           struct err *e)
{
    if (completed_before(c, a->device, ret)) {
        return 0;
    }
    struct job *j = find_block_job(c, a->device, e);
    return j ? job_user_complete(j, ret, e) : -ENOENT;
}

int qmp_job_cancel(struct mon_ctx *c, const struct qmp_job_cancel_args *a, struct json_object **ret, struct err *e)
{
    struct job *j = find_job(c, a->id, e);
    return j ? job_user_cancel(j, true, e) : -ENOENT;
}

int qmp_block_job_cancel(struct mon_ctx *c, const struct qmp_block_job_cancel_args *a, struct json_object **ret,
                         struct err *e)
{
    bool force = a->has_force && a->force;
    struct job *j = find_block_job(c, a->device, e);
    if (!j) {
        return -ENOENT;
    }
    if (j->user_paused && !force) {
        return err_set(e, EBUSY, "The block job for device '%s' is currently paused", a->device);
    }
    return job_user_cancel(j, force, e);
}

int qmp_block_job_set_speed(struct mon_ctx *c, const struct qmp_block_job_set_speed_args *a, struct json_object **ret,
                            struct err *e)
{
    struct job *j = find_block_job(c, a->device, e);
    return j ? job_set_speed(j, a->speed, e) : -ENOENT;
}

int qmp_job_finalize(struct mon_ctx *c, const struct qmp_job_finalize_args *a, struct json_object **ret, struct err *e)
{
    struct job *j = find_job(c, a->id, e);
    return j ? job_finalize(j, e) : -ENOENT;
}

int qmp_block_job_finalize(struct mon_ctx *c, const struct qmp_block_job_finalize_args *a, struct json_object **ret,
                           struct err *e)
{
    struct job *j = find_block_job(c, a->id, e);
    return j ? job_finalize(j, e) : -ENOENT;
}

int qmp_job_dismiss(struct mon_ctx *c, const struct qmp_job_dismiss_args *a, struct json_object **ret, struct err *e)
{
    struct job *j = find_job(c, a->id, e);
    return j ? job_dismiss(j, e) : -ENOENT;
}

int qmp_block_job_dismiss(struct mon_ctx *c, const struct qmp_block_job_dismiss_args *a, struct json_object **ret,
                          struct err *e)
{
    struct job *j = find_block_job(c, a->id, e);
    return j ? job_dismiss(j, e) : -ENOENT;
}

static const char *string_of(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

static int change(struct job *j, struct json_object *options, struct err *e)
{
    const char *type = string_of(options, "type");
    if (strcmp(type, j->drv->type) != 0) {
        return err_set(e, EINVAL, "Job '%s' is '%s' job, not '%s'", j->id, j->drv->type, type);
    }
    return job_change(j, options, e);
}

int qmp_job_change(struct mon_ctx *c, const struct qmp_job_change_args *a, struct json_object **ret, struct err *e)
{
    struct job *j = find_job(c, string_of(a->options, "id"), e);
    return j ? change(j, a->options, e) : -ENOENT;
}

int qmp_block_job_change(struct mon_ctx *c, const struct qmp_block_job_change_args *a, struct json_object **ret,
                         struct err *e)
{
    struct job *j = find_block_job(c, string_of(a->options, "id"), e);
    return j ? change(j, a->options, e) : -ENOENT;
}

/* --- as actions --------------------------------------------------------------------------------------------------- */

/* Whether it may be told is looked at when it is prepared; it is told when all others have been, too. */
struct verb_action {
    struct mon_action action;
    struct job *job; /* a reference; NULL: it completed before */
};

static int find_for(struct mon_action *a, const char *id, enum job_verb verb, struct err *e)
{
    struct job *j = find_job(a->c, id, e);
    int rc = j ? job_check_verb(j, verb, e) : -ENOENT;
    if (rc == 0) {
        ((struct verb_action *)a)->job = job_ref(j);
    }
    return rc;
}

static int prepare_complete(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_job_complete_args *x = args;
    CLEANUP_JSON struct json_object *known = NULL;
    return completed_before(a->c, x->id, &known) ? 0 : find_for(a, x->id, JOB_VERB_COMPLETE, e);
}

static int prepare_finalize(struct mon_action *a, const void *args, struct err *e)
{
    return find_for(a, ((const struct qmp_job_finalize_args *)args)->id, JOB_VERB_FINALIZE, e);
}

/* What it was found to be able to do it cannot do any more if it has failed meanwhile: its own events say so. */
static void log_late(struct mon_action *a, int rc, struct err *e)
{
    if (rc) {
        log_warn(a->c->env->log, "%s of a transaction: %s", a->kind->name, err_is_set(e) ? err_text(e) : "failed");
    }
}

static void commit_complete(struct mon_action *a)
{
    struct job *j = ((struct verb_action *)a)->job;
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *outcome = NULL;
    if (j) {
        log_late(a, job_user_complete(j, &outcome, &e), &e);
    }
}

static void commit_finalize(struct mon_action *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    log_late(a, job_finalize(((struct verb_action *)a)->job, &e), &e);
}

static void clean_verb(struct mon_action *a)
{
    job_unref(((struct verb_action *)a)->job);
}

const struct mon_action_kind action_job_complete = {
    .name = "job-complete",
    .size = sizeof(struct verb_action),
    .args_size = sizeof(struct qmp_job_complete_args),
    .decode = qmp_job_complete_decode,
    .prepare = prepare_complete,
    .commit = commit_complete,
    .clean = clean_verb,
};
const struct mon_action_kind action_job_finalize = {
    .name = "job-finalize",
    .size = sizeof(struct verb_action),
    .args_size = sizeof(struct qmp_job_finalize_args),
    .decode = qmp_job_finalize_decode,
    .prepare = prepare_finalize,
    .commit = commit_finalize,
    .clean = clean_verb,
};
