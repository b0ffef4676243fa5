/* SPDX-License-Identifier: BSD-2-Clause */
/* Actions that make a job: it is made when they are prepared and starts when they are committed. */
#pragma once

#include "job/job.h"
#include "monitor/action.h"

struct job_action {
    struct mon_action action;
    struct node *still; /* a reference; in company drained until clean */
    struct job *job;    /* a reference */
};

/* First: what the job works on stands still from here on, so that all actions see the same instant. Waits. */
void job_action_hold(struct job_action *x, struct node *n);
/* Last: what prepare returns when making `j` returned `rc`; lets go when that failed. */
int job_action_made(struct job_action *x, struct job *j, int rc);
void job_action_commit(struct mon_action *a);
void job_action_abort(struct mon_action *a);
void job_action_clean(struct mon_action *a);

/* How a kind of them is written: its name, and its command's with underscores. */
#define JOB_ACTION_KIND(kind_name, c_name, prepare_fn)                                                                 \
    {                                                                                                                  \
        .name = kind_name, .makes_job = true, .size = sizeof(struct job_action),                                       \
        .args_size = sizeof(struct qmp_##c_name##_args), .decode = qmp_##c_name##_decode, .prepare = prepare_fn,       \
        .commit = job_action_commit, .abort = job_action_abort, .clean = job_action_clean,                             \
    }
/* The flags that auto-finalize and auto-dismiss of its arguments `a` mean. */
#define JOB_ACTION_FLAGS(a)                                                                                            \
    (((a)->has_auto_finalize && !(a)->auto_finalize ? JOB_MANUAL_FINALIZE : 0u) |                                      \
     ((a)->has_auto_dismiss && !(a)->auto_dismiss ? JOB_MANUAL_DISMISS : 0u))
