/* SPDX-License-Identifier: BSD-2-Clause */
/* What job.c and verbs.c share; nobody else includes this. */
#pragma once

#include "job/job.h"

struct job_txn {
    GPtrArray *jobs; /* struct job *, each with a reference */
    unsigned refs;
    bool aborting, finalizing;
    struct co_queue changed; /* somebody's run() is over */
};

/* It ends together with those of `t` from now on. */
void job_txn_move(struct job *j, struct job_txn *t);
/* Who waits for jobs to stand still; woken when one has another status, or waits for something. */
struct co_queue *jobs_resting(struct jobs *js);
/* Along an allowed arrow of the table; emits JOB_STATUS_CHANGE. Others are logged and not taken. */
void job_set_status(struct job *j, enum job_status s);
int job_apply_verb(struct job *j, enum job_verb verb, struct err *e);
/* Marks it cancelled; the caller kicks. */
void job_mark_cancelled(struct job *j, bool force);
void job_cancel(struct job *j, bool force); /* [co] */
int job_txn_finalize(struct job_txn *t);    /* [co] prepares, then commits or aborts */
/* status → null, out of the list, the core's reference dropped. */
void job_do_dismiss(struct job *j);
void job_emit_block(struct job *j, const char *name);
