/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/disks.h"

#include "base/cleanup.h"
#include "export/nbd/nbd.h"
#include "job/copy.h"

#include <errno.h>
#include <string.h>

enum mode { MODE_NONE, MODE_SHARED, MODE_PRE_COPY, MODE_POST_COPY };

static const char *const modes[] = {"none", "shared", "pre-copy", "post-copy"};

struct disk {
    struct backend *backend; /* NULL: its medium is gone */
    struct backend_watch watch;
    char *name; /* what both sides know it by */
    enum mode mode;
    unsigned channel; /* MUX_DISKS + … */
    struct node *target;
    struct job *job;
    bool done;     /* the job has ended well, or it has followed */
    uint64_t left; /* post-copy: as the other side says; UINT64_MAX: it has not */
};

struct disks_out {
    struct vm *vm;
    unsigned n;
    struct disk *disks;
    struct nbd_server *server; /* of those that follow */
    struct co_queue changed;   /* a job's status has; disks_out_wake() */
};

/* --- which ---------------------------------------------------------------------------------------------------------
 */

static struct backend *backend_of_node(struct block_graph *g, const char *name, struct err *e)
{
    const struct node *n = node_lookup(g, name, e);
    GPtrArray *all = graph_backends(g);
    for (guint i = 0; n && i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        if (b->root && (b->root->child == n || node_skip_filters(b->root->child) == n)) {
            return b;
        }
    }
    if (n) {
        err_set(e, EINVAL, "Node '%s' is not the disk of a device: name one that is, or leave it out of 'disks'", name);
    }
    return NULL;
}

static void ejected(void *opaque)
{
    struct disk *k = opaque;
    k->backend = NULL;
}

static bool has(const struct disks_out *d, const struct backend *b)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].backend == b) {
            return true;
        }
    }
    return false;
}

static int read_disk(struct disks_out *d, struct json_object *o, struct err *e)
{
    struct json_object *node, *device, *mode;
    struct disk *k = &d->disks[d->n];
    bool has_node = json_object_object_get_ex(o, "node", &node);
    if (has_node == json_object_object_get_ex(o, "device", &device)) {
        return err_set(e, EINVAL, "Each of 'disks' needs either 'node' or 'device'");
    }
    struct backend *b = has_node ? backend_of_node(d->vm->graph, json_object_get_string(node), e)
                                 : backend_lookup(d->vm->graph, json_object_get_string(device), e);
    if (!b) {
        return -ENOENT;
    }
    const char *name = b->qdev ? b->qdev : b->name;
    if (!b->root) {
        return err_set(e, ENOMEDIUM, "Device '%s' has no medium", name);
    }
    if (has(d, b)) {
        return err_set(e, EINVAL, "Disk '%s' stands twice in 'disks'", name);
    }
    json_object_object_get_ex(o, "mode", &mode);
    while (strcmp(json_object_get_string(mode), modes[k->mode]) != 0) { /* one of them: the schema has seen to it */
        k->mode++;
    }
    k->name = g_strdup(name);
    k->left = UINT64_MAX;
    k->backend = b;
    k->watch = (struct backend_watch){.ejected = ejected, .opaque = k};
    backend_watch(b, &k->watch);
    d->n++;
    return 0;
}

int disks_out_create(struct vm *vm, struct json_object *list, struct disks_out **out, struct err *e)
{
    size_t n = list ? json_object_array_length(list) : 0;
    struct disks_out *d = g_new0(struct disks_out, 1);
    *d = (struct disks_out){.vm = vm, .disks = g_new0(struct disk, n)};
    int rc = n > MUX_IDS - MUX_DISKS
                 ? err_set(e, E2BIG, "'disks' may have %d entries, and has %zu", MUX_IDS - MUX_DISKS, n)
                 : 0;
    for (size_t i = 0, channel = MUX_DISKS; rc == 0 && i < n; i++) {
        rc = read_disk(d, json_object_array_get_idx(list, i), e);
        if (rc == 0 && d->disks[i].mode > MODE_SHARED) {
            d->disks[i].channel = (unsigned)channel++;
        }
    }
    if (rc < 0) {
        disks_out_destroy(d);
        return rc;
    }
    *out = d;
    return 0;
}

bool disks_out_copies(const struct disks_out *d, const struct backend *b)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].backend == b) {
            return d->disks[i].channel;
        }
    }
    return false;
}

bool disks_out_any(const struct disks_out *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].channel) {
            return true;
        }
    }
    return false;
}

struct json_object *disks_out_want(const struct disks_out *d)
{
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < d->n; i++) {
        const struct disk *k = &d->disks[i];
        if (k->channel && k->backend) {
            struct json_object *o = json_object_new_object();
            json_object_object_add(o, "device", json_object_new_string(k->name));
            json_object_object_add(o, "mode", json_object_new_string(modes[k->mode]));
            json_object_object_add(o, "size", json_object_new_uint64(k->backend->root->child->size));
            json_object_array_add(list, o);
        }
    }
    return list;
}

/* --- copying -------------------------------------------------------------------------------------------------------
 */

static int open_target(struct disks_out *d, struct disk *k, struct mux *m, struct err *e)
{
    CLEANUP_CLOSE int fd = mux_socket(m, k->channel, e);
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *server = json_object_new_object();
    char number[16];
    if (fd < 0) {
        return fd;
    }
    g_snprintf(number, sizeof(number), "%d", fd);
    json_object_object_add(server, "type", json_object_new_string("fd"));
    json_object_object_add(server, "str", json_object_new_string(number));
    json_object_object_add(o, "driver", json_object_new_string("nbd"));
    json_object_object_add(o, "server", take(server));
    json_object_object_add(o, "export", json_object_new_string(k->name));
    return node_open(d->vm->graph, o, &k->target, e);
}

static int start_job(struct disks_out *d, struct disk *k, struct job_limit *limit, struct err *e)
{
    if (!k->backend) { /* ejected while the other side was asked */
        return err_set(e, ENOMEDIUM, "Device '%s' has no medium", k->name);
    }
    const struct copy_options o = {.source = k->backend->root->child,
                                   .target = k->target,
                                   .backend = k->backend,
                                   .sync = COPY_FULL,
                                   .unmap = true,
                                   .together = limit,
                                   .on_source_error = JOB_ON_ERROR_REPORT,
                                   .on_target_error = JOB_ON_ERROR_REPORT,
                                   .flags = JOB_INTERNAL};
    struct job *j;
    int rc = copy_create(d->vm->jobs, &o, &j, e);
    if (rc == 0) {
        k->job = job_ref(j);
        j->changed = &d->changed;
        job_start(j);
    }
    return rc;
}

static int begin(struct disks_out *d, struct disk *k, struct mux *m, struct job_limit *limit, struct err *e)
{
    int rc = open_target(d, k, m, e);
    if (rc == 0) {
        graph_change_begin(d->vm->graph);
        rc = start_job(d, k, limit, e);
        graph_change_end(d->vm->graph);
    }
    if (rc < 0) {
        err_wrap(e, "Disk '%s'", k->name);
    }
    return rc;
}

int disks_out_check(const struct disks_out *d, struct err *e)
{
    for (unsigned i = 0; i < d->n; i++) {
        const struct disk *k = &d->disks[i];
        if (k->job && k->job->over && !k->done) {
            return err_is_set(&k->job->err)
                       ? err_set(e, EIO, "Disk '%s' could not be copied: %s", k->name, err_text(&k->job->err))
                       : err_set(e, EIO, "Disk '%s' could not be copied: %s", k->name,
                                 g_strerror(k->job->rc ? -k->job->rc : ECANCELED));
        }
    }
    return 0;
}

static bool all_alike(const struct disks_out *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].job && !job_is_ready(d->disks[i].job)) {
            return false;
        }
    }
    return true;
}

int disks_out_copy(struct disks_out *d, struct mux *m, struct job_limit *limit, const bool *cancelled, struct err *e)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < d->n; i++) {
        if (d->disks[i].mode == MODE_PRE_COPY) {
            rc = begin(d, &d->disks[i], m, limit, e);
        }
    }
    rc = rc < 0 ? rc : *cancelled ? -ECANCELED : disks_out_check(d, e);
    while (rc == 0 && !all_alike(d)) {
        co_queue_wait(&d->changed);
        rc = *cancelled ? -ECANCELED : disks_out_check(d, e);
    }
    return rc;
}

void disks_out_wake(struct disks_out *d)
{
    if (d) {
        co_queue_wake_all(&d->changed);
    }
}

/* --- the end -------------------------------------------------------------------------------------------------------
 */

static int finish(struct disk *k, struct err *e)
{
    int rc = k->job->over ? 0 : job_user_cancel(k->job, false, e); /* ends well, as it is ready, and does not switch */
    rc = rc < 0 ? rc : job_wait(k->job);
    k->done = rc == 0;
    node_unref(take(k->target));
    return rc;
}

int disks_out_finish(struct disks_out *d, struct err *e)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < d->n; i++) {
        rc = d->disks[i].job ? finish(&d->disks[i], e) : 0;
    }
    if (rc < 0) {
        err_clear(e);
        rc = disks_out_check(d, e);
        return rc < 0 ? rc : err_set(e, EIO, "A disk could not be copied to its end");
    }
    return 0;
}

/* --- disks that follow ---------------------------------------------------------------------------------------------
 */

bool disks_out_follow(const struct disks_out *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].mode == MODE_POST_COPY) {
            return true;
        }
    }
    return false;
}

GPtrArray *disks_out_stay(const struct disks_out *d)
{
    GPtrArray *nodes = g_ptr_array_new();
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].mode == MODE_POST_COPY && d->disks[i].backend) {
            g_ptr_array_add(nodes, d->disks[i].backend->root->child);
        }
    }
    return nodes;
}

static int serve(struct disks_out *d, struct disk *k, struct mux *m, struct err *e)
{
    if (!k->backend) {
        return err_set(e, ENOMEDIUM, "The medium of disk '%s' was taken out", k->name);
    }
    const struct nbd_export_options o = {.node = k->backend->root->child, .name = k->name};
    struct nbd_export *exp;
    int rc = nbd_export_add(d->server, &o, &exp, e);
    int fd = rc < 0 ? rc : mux_socket(m, k->channel, e);
    if (fd < 0) {
        return fd;
    }
    nbd_server_adopt(d->server, fd);
    return 0;
}

int disks_out_serve(struct disks_out *d, struct mux *m, struct err *e)
{
    const struct nbd_server_options so = {.graph = d->vm->graph};
    int rc = 0;
    nbd_server_destroy(take(d->server));
    d->server = nbd_server_create(&so);
    graph_change_begin(d->vm->graph);
    for (unsigned i = 0; rc == 0 && i < d->n; i++) {
        rc = d->disks[i].mode == MODE_POST_COPY ? serve(d, &d->disks[i], m, e) : 0;
    }
    graph_change_end(d->vm->graph);
    return rc;
}

void disks_out_arrived(struct disks_out *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        d->disks[i].done = d->disks[i].done || d->disks[i].mode == MODE_POST_COPY;
    }
}

void disks_out_told(struct disks_out *d, struct json_object *left)
{
    size_t n = json_object_is_type(left, json_type_array) ? json_object_array_length(left) : 0;
    for (unsigned i = 0; i < d->n; i++) {
        struct disk *k = &d->disks[i];
        struct json_object *o = k->mode == MODE_POST_COPY && k->channel - MUX_DISKS < n
                                    ? json_object_array_get_idx(left, k->channel - MUX_DISKS)
                                    : NULL;
        if (json_object_is_type(o, json_type_int)) {
            k->left = json_object_get_uint64(o);
        }
    }
}

void disks_out_stats(const struct disks_out *d, struct disks_stats *s)
{
    *s = (struct disks_stats){0};
    for (unsigned i = 0; i < d->n; i++) {
        struct copy_progress p = {0};
        if (d->disks[i].job) {
            copy_get_progress(d->disks[i].job, &p);
            s->transferred += p.transferred;
            s->remaining += d->disks[i].done ? 0 : p.remaining;
            s->total += p.total;
        } else if (d->disks[i].mode == MODE_POST_COPY && d->disks[i].backend) {
            uint64_t size = d->disks[i].backend->root->child->size;
            uint64_t left = d->disks[i].done ? 0 : MIN(d->disks[i].left, size);
            s->total += size;
            s->remaining += left;
            s->transferred += size - left;
        }
    }
}

void disks_out_destroy(struct disks_out *d)
{
    if (!d) {
        return;
    }
    nbd_server_destroy(d->server);
    for (unsigned i = 0; i < d->n; i++) {
        struct disk *k = &d->disks[i];
        if (k->job && !k->job->over) {
            job_cancel_sync(k->job);
        }
        if (k->job) {
            k->job->changed = NULL;
            job_unref(k->job);
        }
        node_unref(k->target);
        backend_unwatch(&k->watch);
        g_free(k->name);
    }
    g_free(d->disks);
    g_free(d);
}
