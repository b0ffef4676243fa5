/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/follower.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/options.h"
#include "block/snapshot.h"
#include "job/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { PATIENCE_S = 10 }; /* of requests, while the connection is broken */

struct follower {
    struct vm *vm;
    struct backend *backend; /* NULL: the medium is gone */
    struct backend_watch watch;
    char *name;
    int fd; /* where the NBD client finds its socket, also the next one */
    struct node *top, *remote;
    struct job *job;
    struct co_queue *changed;
    struct job_limit *limit;
    bool marked, started, done;
    uint64_t left;                       /* when the last job ended */
    enum io_error_action rerror, werror; /* the backend's own */
};

/* --- judging -------------------------------------------------------------------------------------------------------
 */

static int check_empty(struct node *n, const char *name, struct err *e)
{
    struct extent x;
    for (uint64_t off = 0; off < n->size; off += x.len) {
        int rc = node_status(n, false, off, n->size - off, &x);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Disk '%s': node '%s'", name, n->name);
        }
        if (x.flags & EXT_ALLOCATED) {
            return err_set(e, EINVAL,
                           "Disk '%s' cannot follow: node '%s' at the destination has data of its own: make an empty "
                           "image",
                           name, n->name);
        }
    }
    return 0;
}

int follower_judge(struct node *n, const char *name, struct err *e)
{
    struct node *top = node_skip_filters(n);
    if (!top->drv->takes_backing || !top->drv->change_backing) {
        return err_set(
            e, ENOTSUP,
            "Disk '%s' cannot follow: format '%s' of node '%s' at the destination has no backing images: use "
            "qcow2 there, or mode 'pre-copy'",
            name, top->drv->name, top->name);
    }
    if (top->backing || top->backing_filename) {
        return err_set(e, EINVAL, "Disk '%s' cannot follow: node '%s' at the destination has a backing image", name,
                       top->name);
    }
    int rc = node_check_no_snapshots(top, e);
    return rc < 0 ? rc : check_empty(top, name, e);
}

/* --- connecting ----------------------------------------------------------------------------------------------------
 */

static void ejected(void *opaque)
{
    struct follower *f = opaque;
    f->backend = NULL;
}

static int open_remote(struct follower *f, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *server = json_object_new_object();
    CLEANUP_FREE char *number = g_strdup_printf("%d", f->fd);
    json_object_object_add(server, "type", json_object_new_string("fd"));
    json_object_object_add(server, "str", json_object_new_string(number));
    json_object_object_add(o, "driver", json_object_new_string("nbd"));
    json_object_object_add(o, "server", take(server));
    json_object_object_add(o, "export", json_object_new_string(f->name));
    json_object_object_add(o, "read-only", json_object_new_boolean(true));
    json_object_object_add(o, "active", json_object_new_boolean(true));
    json_object_object_add(o, "reconnect-delay", json_object_new_int(PATIENCE_S));
    int rc = node_open(f->vm->graph, o, &f->remote, e);
    return rc < 0 ? err_wrap(e, "Disk '%s'", f->name) : 0;
}

static int mark(struct follower *f, struct err *e)
{
    int rc =
        chain_set_link(f->top, (struct chain_link){"nbd+unix:///?socket=what-did-not-follow-the-machine", "raw"}, e);
    f->marked = rc == 0;
    return rc;
}

static int stand_on_remote(struct follower *f, struct err *e)
{
    struct edge *ed;
    node_drain_begin(f->top);
    int rc = mark(f, e);
    rc = rc < 0 ? rc : node_attach_child(f->top, f->remote, &backing_edge_spec, &ed, e);
    node_drain_end(f->top);
    return rc;
}

struct follower *follower_create(struct vm *vm, struct backend *b, const char *name, struct co_queue *changed)
{
    struct follower *f = g_new0(struct follower, 1);
    *f = (struct follower){.vm = vm,
                           .backend = b,
                           .name = g_strdup(name),
                           .fd = -1,
                           .changed = changed,
                           .rerror = b->rerror,
                           .werror = b->werror};
    f->watch = (struct backend_watch){.ejected = ejected, .opaque = f};
    backend_watch(b, &f->watch);
    f->top = node_ref(node_skip_filters(b->root->child));
    f->left = f->top->size;
    return f;
}

int follower_connect(struct follower *f, struct mux *m, unsigned id, struct err *e)
{
    f->fd = mux_socket(m, id, e);
    int rc = f->fd < 0 ? f->fd : open_remote(f, e);
    if (rc == 0) {
        graph_change_begin(f->vm->graph);
        rc = stand_on_remote(f, e);
        graph_change_end(f->vm->graph);
    }
    return rc;
}

int follower_reconnect(struct follower *f, struct mux *m, unsigned id, struct err *e)
{
    if (f->done) {
        return 0;
    }
    CLEANUP_CLOSE int fd = mux_socket(m, id, e);
    return fd < 0 ? fd : dup3(fd, f->fd, O_CLOEXEC) < 0 ? err_set_errno(e, errno, "Disk '%s'", f->name) : 0;
}

/* --- following -----------------------------------------------------------------------------------------------------
 */

static void start_job(struct follower *f)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct stream_options o = {
        .top = f->top, .together = f->limit, .on_error = JOB_ON_ERROR_REPORT, .flags = JOB_INTERNAL};
    struct job *j;
    graph_change_begin(f->vm->graph);
    int rc = stream_create(f->vm->jobs, &o, &j, &e);
    graph_change_end(f->vm->graph);
    if (rc < 0) {
        log_warn(f->vm->log, "disk '%s' does not follow for now: %s", f->name, err_text(&e));
        return;
    }
    f->job = job_ref(j);
    j->changed = f->changed;
    job_start(j);
}

static void drop_job(struct follower *f)
{
    if (f->job) {
        f->left = follower_left(f);
        f->job->changed = NULL;
        job_unref(take(f->job));
    }
}

/* Reading what is missing may fail for as long as the connection is broken; the guest does not hear of that. */
void follower_start(struct follower *f, struct job_limit *limit)
{
    f->limit = limit;
    f->started = true;
    if (f->backend) {
        f->backend->rerror = f->backend->werror = IO_ERROR_STOP;
    }
    start_job(f);
}

static void finish(struct follower *f)
{
    f->done = true;
    f->marked = false;
    if (f->backend && f->started) {
        f->backend->rerror = f->rerror;
        f->backend->werror = f->werror;
    }
    node_unref(take(f->remote));
}

bool follower_is_done(const struct follower *f)
{
    return f->done;
}

bool follower_works(const struct follower *f)
{
    return f->done || (f->job && !f->job->over);
}

void follower_step(struct follower *f)
{
    bool ended = f->job;
    if (follower_works(f)) {
        return;
    }
    drop_job(f);
    if (!f->top->backing || f->top->backing->child != f->remote) { /* all is here, or somebody has seen to it */
        finish(f);
    } else if (!ended) { /* what has just failed would fail again */
        start_job(f);
    }
}

uint64_t follower_left(const struct follower *f)
{
    const struct job *j = f->job;
    uint64_t left = j && j->progress_total ? j->progress_total - j->progress_done : f->left;
    return f->done ? 0 : MIN(left, f->left);
}

/* --- the end -------------------------------------------------------------------------------------------------------
 */

static void go_back(struct follower *f)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    graph_change_begin(f->vm->graph);
    node_drain_begin(f->top);
    if (f->top->backing && f->top->backing->child == f->remote) {
        node_detach_child(f->top, f->top->backing);
    }
    node_drain_end(f->top);
    if (f->marked && !f->started && chain_set_link(f->top, (struct chain_link){0}, &e)) {
        log_warn(f->vm->log, "disk '%s' of a machine that did not come: %s", f->name, err_text(&e));
    }
    graph_change_end(f->vm->graph);
}

void follower_destroy(struct follower *f)
{
    if (!f) {
        return;
    }
    if (f->job && !f->job->over) {
        job_cancel_sync(f->job);
    }
    drop_job(f);
    if (!f->done && f->remote) {
        go_back(f);
    }
    node_unref(f->remote);
    node_unref(f->top);
    backend_unwatch(&f->watch);
    if (f->fd >= 0) {
        close(f->fd);
    }
    g_free(f->name);
    g_free(f);
}
