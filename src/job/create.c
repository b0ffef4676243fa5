/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/create.h"

#include "base/checked.h"
#include "base/json.h"

struct create_job {
    struct job j;
    struct block_graph *graph;
    const struct block_driver *drv;
    struct json_object *opts;
};

/* To the driver a name that is no node's is that of a file to make. */
static int check_node(const struct create_job *c, const char *key, struct err *e)
{
    struct json_object *v;
    bool named = json_object_object_get_ex(c->opts, key, &v) && json_object_is_type(v, json_type_string);
    const char *name = named ? json_object_get_string(v) : NULL;
    return named && !node_find(c->graph, name)
               ? err_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", name, name)
               : 0;
}

/* Tools make such an image larger. */
static int check_size(const struct create_job *c, struct err *e)
{
    struct json_object *v;
    bool odd = json_object_object_get_ex(c->opts, "size", &v) && json_object_get_uint64(v) % 512;
    return odd && !strcmp(c->drv->name, "qcow2") ? err_set(e, EINVAL, "Image size must be a multiple of 512 bytes") : 0;
}

static int create_run(struct job *j, struct err *e)
{
    struct create_job *c = (struct create_job *)j;
    job_progress_remaining(j, 1);
    int rc = check_node(c, "file", e);
    rc = rc ? rc : check_node(c, "data-file", e);
    rc = rc ? rc : check_size(c, e);
    rc = rc ? rc : c->drv->create(c->graph, c->opts, e);
    job_progress(j, 1);
    return rc;
}

static void create_free(struct job *j)
{
    json_object_put(((struct create_job *)j)->opts);
}

static const struct job_driver create_driver = {
    .type = "create",
    .size = sizeof(struct create_job),
    .run = create_run,
    .free = create_free,
};

int create_start(struct jobs *js, struct block_graph *g, const char *id, const struct block_driver *drv,
                 struct json_object *opts, struct err *e)
{
    struct job *j;
    int rc = job_create(js, &(struct job_spec){.id = id, .drv = &create_driver, .flags = JOB_MANUAL_DISMISS}, &j, e);
    if (rc == 0) {
        struct create_job *c = (struct create_job *)j;
        c->graph = g;
        c->drv = drv;
        c->opts = json_clone(opts);
        job_start(j);
    }
    return rc;
}

/* --- amend ----------------------------------------------------------------------------------------------------------
 */

struct amend_job {
    struct job j;
    struct edge *edge; /* keeps the node */
    struct json_object *opts;
    bool force;
};

static void amend_progressed(void *opaque, uint64_t done, uint64_t total)
{
    struct job *j = opaque;
    job_progress(j, done - min_u64(done, j->progress_done));
    job_progress_remaining(j, total - min_u64(total, done));
}

static int amend_run(struct job *j, struct err *e)
{
    struct amend_job *a = (struct amend_job *)j;
    struct node *n = a->edge->child;
    struct amend_progress progress = {amend_progressed, j};
    job_progress_remaining(j, 1);
    while ((n->snapshots_placed || n->snapshots_making) && !job_is_cancelled(j)) {
        job_sleep(j, UINT64_MAX, "waits for a snapshot of the image that is being made");
    }
    int rc = job_is_cancelled(j) ? -ECANCELED : n->drv->amend(n, a->opts, a->force, &progress, e);
    job_progress(j, j->progress_total - j->progress_done);
    return rc;
}

static void amend_clean(struct job *j)
{
    struct amend_job *a = (struct amend_job *)j;
    edge_close(a->edge);
    a->edge = NULL;
}

static void amend_free(struct job *j)
{
    json_object_put(((struct amend_job *)j)->opts);
}

static const struct job_driver amend_driver = {
    .type = "amend",
    .size = sizeof(struct amend_job),
    .run = amend_run,
    .clean = amend_clean,
    .free = amend_free,
};

static char *amend_describe(void *user)
{
    return g_strdup_printf("job '%s'", ((struct amend_job *)user)->j.id);
}

static void amend_snapshots_changed(void *user)
{
    job_kick(&((struct amend_job *)user)->j);
}

static const struct edge_user_ops amend_ops = {.snapshots_changed = amend_snapshots_changed,
                                               .describe = amend_describe};

int amend_start(struct jobs *js, const struct amend_options *o, struct err *e)
{
    struct job *j;
    struct edge_spec spec = {.name = "main", .shared = PERM_ALL, .ops = &amend_ops};
    if (!o->node->drv->amend) {
        return err_set(e, ENOTSUP, "Driver does not support x-blockdev-amend");
    }
    if (o->node->read_only) {
        return err_set(e, EACCES, "Block node is read-only");
    }
    int rc = job_create(js, &(struct job_spec){.id = o->id, .drv = &amend_driver, .flags = JOB_MANUAL_DISMISS}, &j, e);
    if (rc) {
        return rc;
    }
    struct amend_job *a = (struct amend_job *)j;
    spec.user = a;
    rc = edge_open(o->node, &spec, &a->edge, e);
    if (rc) {
        job_early_fail(j);
        return rc;
    }
    a->opts = json_clone(o->opts);
    a->force = o->force;
    job_start(j);
    return 0;
}
