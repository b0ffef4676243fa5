/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/job.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "job/job_int.h"

int job_apply_verb(struct job *j, enum job_verb verb, struct err *e)
{
    if (job_verb_allowed(verb, j->status) && !(j->txn && j->txn->finalizing)) {
        return 0;
    }
    return err_set(e, EPERM, "Job '%s' in state '%s' cannot accept command verb '%s'", j->id,
                   job_status_names[j->status], job_verb_names[verb]);
}

void job_pause(struct job *j)
{
    j->pause_count++;
    if (!j->paused) {
        job_kick(j);
    }
}

void job_resume(struct job *j)
{
    if (--j->pause_count == 0) {
        job_kick(j);
    }
}

int job_user_pause(struct job *j, struct err *e)
{
    int rc = job_apply_verb(j, JOB_VERB_PAUSE, e);
    if (rc) {
        return rc;
    }
    if (j->user_paused) {
        return err_set(e, EBUSY, "Job is already paused");
    }
    j->user_paused = true;
    job_pause(j);
    return 0;
}

int job_user_resume(struct job *j, struct err *e)
{
    if (!j->user_paused || !j->pause_count) {
        return err_set(e, EINVAL, "Can't resume a job that was not paused");
    }
    int rc = job_apply_verb(j, JOB_VERB_RESUME, e);
    if (rc) {
        return rc;
    }
    if (j->drv->user_resume) {
        j->drv->user_resume(j);
    }
    j->io_status = "ok";
    j->user_paused = j->stopped_by_error = false;
    job_resume(j);
    return 0;
}

int job_user_cancel(struct job *j, bool force, struct err *e)
{
    int rc = job_apply_verb(j, JOB_VERB_CANCEL, e);
    if (rc) {
        return rc;
    }
    job_ref(j);
    job_cancel(j, force);
    job_unref(j);
    return 0;
}

/* Said again, or too late: what it asks for is under way or done. */
static bool completes_already(const struct job *j)
{
    return j->drv->outcome && j->rc == 0 && !j->cancelled && j->status >= JOB_WAITING && j->status != JOB_ABORTING;
}

int job_check_verb(struct job *j, enum job_verb verb, struct err *e)
{
    if (verb == JOB_VERB_COMPLETE && completes_already(j)) {
        return 0;
    }
    int rc = job_apply_verb(j, verb, e);
    if (rc == 0 && verb == JOB_VERB_COMPLETE && (job_cancel_requested(j) || !j->drv->complete)) {
        rc = err_set(e, EBUSY, "The active block job '%s' cannot be completed", j->id);
    }
    return rc;
}

int job_user_complete(struct job *j, struct json_object **outcome, struct err *e)
{
    *outcome = NULL;
    if (completes_already(j)) {
        *outcome = json_object_new_object();
        j->drv->outcome(j, *outcome);
        return 0;
    }
    int rc = job_check_verb(j, JOB_VERB_COMPLETE, e);
    return rc ? rc : j->drv->complete(j, e);
}

int job_finalize(struct job *j, struct err *e)
{
    int rc = job_apply_verb(j, JOB_VERB_FINALIZE, e);
    if (rc) {
        return rc;
    }
    job_txn_finalize(j->txn);
    return 0;
}

int job_dismiss(struct job *j, struct err *e)
{
    int rc = job_apply_verb(j, JOB_VERB_DISMISS, e);
    if (rc) {
        return rc;
    }
    job_do_dismiss(j);
    return 0;
}

int job_set_speed(struct job *j, int64_t speed, struct err *e)
{
    int rc = job_apply_verb(j, JOB_VERB_SET_SPEED, e);
    if (rc) {
        return rc;
    }
    if (speed < 0) {
        return err_set(e, EINVAL, "Parameter 'speed' expects a non-negative value");
    }
    j->speed = (uint64_t)speed;
    j->speed_next_ns = 0;
    if (j->drv->speed_changed) {
        j->drv->speed_changed(j);
    }
    job_kick(j);
    return 0;
}

int job_change(struct job *j, struct json_object *options, struct err *e)
{
    int rc = job_apply_verb(j, JOB_VERB_CHANGE, e);
    if (rc) {
        return rc;
    }
    if (!j->drv->change) {
        return err_set(e, ENOTSUP, "Job type does not support change");
    }
    return j->drv->change(j, options, e);
}

int job_wait(struct job *j)
{
    job_ref(j);
    while (j->status < JOB_CONCLUDED) {
        co_queue_wait(&j->finished);
    }
    int rc = j->rc;
    job_unref(j);
    return rc;
}

int job_cancel_sync(struct job *j)
{
    job_ref(j);
    if (j->status < JOB_CONCLUDED) {
        job_cancel(j, true);
    }
    int rc = job_wait(j);
    job_unref(j);
    return rc;
}

static void add_int(struct json_object *o, const char *key, uint64_t v)
{
    json_object_object_add(o, key, json_object_new_int64(v > INT64_MAX ? INT64_MAX : (int64_t)v));
}

static void add_str(struct json_object *o, const char *key, const char *v)
{
    json_object_object_add(o, key, json_object_new_string(v));
}

static void add_bool(struct json_object *o, const char *key, bool v)
{
    json_object_object_add(o, key, json_object_new_boolean(v));
}

/* What both kinds of answer have beyond QEMU's. */
static void add_common(struct job *j, struct json_object *o, bool block)
{
    if (err_is_set(&j->err)) {
        add_str(o, "error", err_text(&j->err));
    }
    if (j->rate) {
        add_int(o, "rate", j->rate);
    }
    uint64_t eta = job_eta_ms(j);
    if (eta != UINT64_MAX && !job_is_completed(j)) {
        add_int(o, "eta", (eta + 999) / 1000);
    }
    if (j->wait_reason) {
        add_str(o, "wait-reason", j->wait_reason);
    }
    if (j->drv->query) {
        j->drv->query(j, o, block);
    }
}

struct json_object *job_info(struct job *j)
{
    struct json_object *o = json_object_new_object();
    add_str(o, "id", j->id);
    add_str(o, "type", j->drv->type);
    add_str(o, "status", job_status_names[j->status]);
    add_int(o, "current-progress", j->progress_done);
    add_int(o, "total-progress", j->progress_total);
    add_common(j, o, false);
    return o;
}

struct json_object *job_block_info(struct job *j)
{
    struct json_object *o = json_object_new_object();
    add_str(o, "type", j->drv->type);
    add_str(o, "device", j->id);
    add_int(o, "len", j->progress_total);
    add_int(o, "offset", j->progress_done);
    add_bool(o, "busy", j->busy);
    add_bool(o, "paused", j->pause_count > 0);
    add_int(o, "speed", j->speed);
    add_str(o, "io-status", j->io_status);
    add_bool(o, "ready", job_is_ready(j));
    add_str(o, "status", job_status_names[j->status]);
    add_bool(o, "auto-finalize", j->auto_finalize);
    add_bool(o, "auto-dismiss", j->auto_dismiss);
    add_common(j, o, true);
    return o;
}
