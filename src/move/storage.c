/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/storage.h"

#include "block/inactive.h"
#include "job/rest.h"

#include <errno.h>

static bool is_over(const struct job *j)
{
    return !j->id || j->status == JOB_CONCLUDED || j->status == JOB_NULL;
}

/* It will not end before somebody says so. */
static bool waits_for_word(struct job *j)
{
    bool manual = j->status == JOB_PENDING && !j->auto_finalize;
    return manual || j->status == JOB_STANDBY || j->user_paused || (j->status == JOB_READY && !job_left(j).granularity);
}

/* It is ready, and copies what the guest has written last; not one that waits for something, as for a snapshot's end.
 */
static bool catches_up(struct job *j)
{
    return j->status == JOB_READY && job_left(j).granularity && (!j->wait_reason || j->speed);
}

/* Among those that have to end. */
static struct job *find_job(struct vm *vm, const struct jobs_out *jobs, bool (*matches)(struct job *))
{
    GPtrArray *all = jobs_list(vm->jobs);
    for (guint i = 0; i < all->len; i++) {
        struct job *j = g_ptr_array_index(all, i);
        if (!is_over(j) && !jobs_out_may_rest(jobs, j) && (!matches || matches(j))) {
            return j;
        }
    }
    return NULL;
}

/* -drive snapshot=on: the file of its overlay has no name any more. */
static int check_temporary(struct vm *vm, struct err *e)
{
    GPtrArray *all = graph_nodes(vm->graph);
    int rc = 0;
    for (guint i = 0; i < all->len && rc == 0; i++) {
        const struct node *n = g_ptr_array_index(all, i);
        if (n->temporary) {
            rc = err_set(e, ENOTSUP,
                         "Disk '%s' is a temporary overlay (snapshot=on), which no other program can open: start the "
                         "machine without it, or save it with snapshot-save",
                         n->name);
        }
    }
    g_ptr_array_free(all, true);
    return rc;
}

int storage_check(struct vm *vm, const struct jobs_out *jobs, bool may_end, struct err *e)
{
    const struct job *j = may_end ? NULL : find_job(vm, jobs, waits_for_word);
    if (j) {
        return err_set(e, EBUSY,
                       "Job '%s' (%s) does not move with the machine, and ends only when it is told to: end it first, "
                       "or set pause-before-switchover and end it then",
                       j->id, j->drv->type);
    }
    return check_temporary(vm, e);
}

bool storage_is_busy(struct vm *vm, const struct jobs_out *jobs)
{
    return find_job(vm, jobs, NULL) != NULL;
}

int storage_give(struct vm *vm, const struct disks_out *disks, const struct jobs_out *jobs, uint64_t deadline_ns,
                 struct err *e)
{
    while (find_job(vm, jobs, catches_up) &&
           jobs_await_step(vm->jobs, deadline_ns)) { /* the guest stands still: soon */
    }
    const struct job *j = jobs_rest(vm->jobs, deadline_ns);
    if (j) {
        return err_set(e, ETIMEDOUT, "Job '%s' (%s) did not come to a stand within 'answer-timeout': its target hangs",
                       j->id ? j->id : "", j->drv->type);
    }
    j = find_job(vm, jobs, NULL);
    if (j) {
        return err_set(e, EBUSY, "Job '%s' (%s) does not move with the machine: end it before the switch", j->id,
                       j->drv->type);
    }
    g_autoptr(GPtrArray) stay = disks_out_stay(disks);
    int rc = graph_inactivate(vm->graph, stay, true, e);
    vm->disks_away = vm->disks_away || rc == 0;
    return rc;
}

int storage_give_rest(struct vm *vm, struct err *e)
{
    return graph_inactivate(vm->graph, NULL, true, e);
}

void storage_keep(struct vm *vm)
{
    if (!vm->disks_away) { /* else they wake with the disks */
        jobs_wake(vm->jobs);
    }
}

int storage_read(struct vm *vm, struct err *e)
{
    return graph_read_again(vm->graph, e);
}
