/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/job_action.h"

static struct job_action *of(struct mon_action *a)
{
    return (struct job_action *)a;
}

void job_action_hold(struct job_action *x, struct node *n)
{
    x->still = node_ref(n);
    if (x->action.in_company) {
        node_drain_begin(n);
    }
}

int job_action_made(struct job_action *x, struct job *j, int rc)
{
    if (rc) {
        job_action_clean(&x->action);
    } else {
        x->job = job_ref(j);
    }
    return rc;
}

/* While others were prepared somebody may have cancelled it: then it is gone already. */
static bool waits(const struct job_action *x)
{
    return x->job->status == JOB_CREATED;
}

void job_action_commit(struct mon_action *a)
{
    if (waits(of(a))) {
        job_start(of(a)->job);
    }
}

void job_action_abort(struct mon_action *a)
{
    if (waits(of(a))) {
        job_discard(of(a)->job);
    }
}

void job_action_clean(struct mon_action *a)
{
    struct job_action *x = of(a);
    job_unref(x->job);
    if (a->in_company) {
        node_drain_end(x->still);
    }
    node_unref(x->still);
}
