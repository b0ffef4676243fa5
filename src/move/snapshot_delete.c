/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/snapshot.h"

#include "base/cleanup.h"
#include "block/snapshot.h"
#include "move/children.h"
#include "move/snapshot_nodes.h"

struct delete_job {
    struct job j;
    struct snapshot_nodes on;
};

static struct delete_job *of(struct job *j)
{
    return (struct delete_job *)j;
}

static int delete_one(const struct snapshot_nodes *on, struct node *n, struct err *e)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    struct snapshot *x = node_snapshot_find(n, NULL, on->tag);
    int rc = x ? node_snapshot_delete(n, x->id, &why) : 0;
    snapshot_free(x);
    return rc ? err_set(e, -rc, "Could not delete snapshot '%s' on '%s': %s", on->tag, snapshot_name_of(n),
                        err_text(&why))
              : 0;
}

/* The machine's state goes first: what is left, when that is all that can be done, is of no use to a load. */
static int delete_all(struct delete_job *d, struct err *e)
{
    struct snapshot_nodes *on = &d->on;
    int rc = snapshot_nodes_find(on, false, false, e);
    rc = rc ? rc : snapshot_nodes_check_present(on, e);
    for (guint i = 0; rc == 0 && i < on->nodes->len; i++) {
        rc = snapshot_check_no_child(g_ptr_array_index(on->nodes, i), on->tag, e);
    }
    job_progress_remaining(&d->j, on->nodes->len);
    for (int with = 1; with >= 0; with--) {
        for (guint i = 0; rc == 0 && i < on->nodes->len && !job_is_cancelled(&d->j); i++) {
            struct node *n = g_ptr_array_index(on->nodes, i);
            struct snapshot *x = node_snapshot_find(n, NULL, on->tag);
            if (x && (x->vm_state_size != 0) == (with != 0)) {
                rc = delete_one(on, n, e);
                job_progress(&d->j, 1);
            }
            snapshot_free(x);
        }
    }
    return rc;
}

static int delete_run(struct job *j, struct err *e)
{
    struct delete_job *d = of(j);
    graph_change_begin(d->on.vm->graph);
    int rc = delete_all(d, e);
    graph_change_end(d->on.vm->graph);
    return rc;
}

static void delete_clean(struct job *j)
{
    snapshot_nodes_finish(&of(j)->on);
}

static const struct job_driver delete_driver = {
    .type = "snapshot-delete",
    .size = sizeof(struct delete_job),
    .run = delete_run,
    .clean = delete_clean,
};

int snapshot_delete_start(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e)
{
    struct job *j;
    struct job_spec spec = {
        .id = o->job_id, .drv = &delete_driver, .flags = o->flags | (o->job_id ? 0u : (unsigned)JOB_INTERNAL)};
    int rc = job_create(vm->jobs, &spec, &j, e);
    if (rc == 0) {
        snapshot_nodes_init(&of(j)->on, j, vm, o);
        if (out) {
            *out = job_ref(j);
        }
        job_start(j);
    }
    return rc;
}

int snapshot_run(snapshot_start_fn *start, struct vm *vm, const struct snapshot_options *o, struct err *e)
{
    struct job *j = NULL;
    int rc = start(vm, o, &j, e);
    if (rc) {
        return rc;
    }
    rc = job_wait(j);
    if (rc) {
        err_set(e, -rc, "%s", err_text(&j->err));
    }
    job_unref(j);
    return rc;
}
