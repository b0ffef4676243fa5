/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/rest.h"

#include "base/bitmap.h"
#include "job/job_int.h"

#include <errno.h>

/* --- which ------------------------------------------------------------------------------------------------------- */

/* It has done its part, and waits for the others of its group. */
static bool waits_for_others(const struct job *j)
{
    return j->status == JOB_WAITING && j->txn && !j->txn->finalizing && !j->txn->aborting && !j->rc;
}

static bool is_at_work(const struct job *j)
{
    bool works = j->status == JOB_RUNNING || j->status == JOB_PAUSED || job_is_ready(j);
    return works && j->started && !j->deferred && !j->over && !j->cancelled;
}

const char *job_why_stays(const struct job *j)
{
    if (!j->drv->stays) {
        return "no job of this kind can";
    }
    if (!is_at_work(j) && !waits_for_others(j)) {
        return "it is about to end";
    }
    return j->drv->stays(j);
}

struct job *job_group(const struct job *j)
{
    return j->txn && j->txn->jobs->len > 1 ? g_ptr_array_index(j->txn->jobs, j->txn->jobs->len - 1) : NULL;
}

struct job_left job_left(struct job *j)
{
    struct job_left l = {0};
    if (j->drv->left) {
        j->drv->left(j, &l);
    }
    return l;
}

bool job_is_in_step(struct job *j)
{
    struct job_left l = job_is_ready(j) && is_at_work(j) ? job_left(j) : (struct job_left){0};
    return l.granularity && !bitmap_count(l.bits);
}

/* --- rest -------------------------------------------------------------------------------------------------------- */

static bool stands(const struct job *j)
{
    return j->paused || !j->started || j->deferred || j->over;
}

static const struct job *find_moving(const struct jobs *js)
{
    GPtrArray *all = jobs_list((struct jobs *)(uintptr_t)js);
    for (guint i = 0; i < all->len; i++) {
        const struct job *j = g_ptr_array_index(all, i);
        if (j->rests && !stands(j)) {
            return j;
        }
    }
    return NULL;
}

bool jobs_await_step(struct jobs *js, uint64_t deadline_ns)
{
    return co_queue_wait_until(jobs_resting(js), deadline_ns);
}

const struct job *jobs_rest(struct jobs *js, uint64_t deadline_ns)
{
    GPtrArray *all = jobs_list(js);
    for (guint i = 0; i < all->len; i++) {
        struct job *j = g_ptr_array_index(all, i);
        if (!j->rests && (is_at_work(j) || waits_for_others(j))) {
            j->rests = true;
            job_pause(j);
        }
    }
    const struct job *late;
    while ((late = find_moving(js)) && jobs_await_step(js, deadline_ns)) {
    }
    return late;
}

static void wake(struct job *j)
{
    if (j->rests) {
        j->rests = j->moves = false;
        job_resume(j);
    }
}

void jobs_wake(struct jobs *js)
{
    GPtrArray *all = jobs_list(js);
    for (guint i = 0; i < all->len; i++) {
        wake(g_ptr_array_index(all, i));
    }
}

static struct job *find_moved(struct jobs *js)
{
    GPtrArray *all = jobs_list(js);
    for (guint i = 0; i < all->len; i++) {
        struct job *j = g_ptr_array_index(all, i);
        if (j->rests && j->moves) {
            return j;
        }
    }
    return NULL;
}

void jobs_moved(struct jobs *js)
{
    struct job *j;
    while ((j = find_moved(js))) {
        j->rests = j->moves = false; /* it never goes on: the pause ends with it */
        job_ref(j);
        job_cancel_sync(j);
        job_unref(j);
    }
    jobs_wake(js);
}

/* --- there ------------------------------------------------------------------------------------------------------- */

void job_join(struct job *j, struct job *first)
{
    job_txn_move(j, first->txn);
}

int job_go_on(struct job *j, const struct job_left *left, uint64_t done, struct err *e)
{
    if (!left->granularity || !j->drv->go_on) {
        return 0;
    }
    int rc = j->drv->go_on(j, left, e);
    if (rc == 0) {
        j->progress_total += done - j->progress_done;
        j->progress_done = j->rate_done = done;
    }
    return rc;
}
