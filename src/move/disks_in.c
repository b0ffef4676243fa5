/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/disks.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/inactive.h"
#include "export/nbd/nbd.h"
#include "move/follower.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

enum { AGAIN_NS = 50000000 }; /* until what could not be read is tried again */

struct disk {
    struct backend *backend; /* NULL: its medium is gone */
    struct backend_watch watch;
    char *name;
    struct node *node; /* held */
    bool follows;      /* post-copy */
    struct follower *follower;
    struct edge *edge; /* the device's, which does not write meanwhile; NULL: as it was */
    unsigned perm, shared;
};

struct disks_in {
    struct vm *vm;
    unsigned n;
    struct disk *disks;
    struct nbd_server *server;
    struct co_queue changed; /* a follower's job has, or the connection */
};

/* --- which ---------------------------------------------------------------------------------------------------------
 */

struct backend *disk_of_device(struct block_graph *g, const char *name)
{
    GPtrArray *all = graph_backends(g);
    for (guint i = 0; i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        if (!strcmp(b->qdev ? b->qdev : b->name, name)) {
            return b;
        }
    }
    return NULL;
}

static void ejected(void *opaque)
{
    struct disk *k = opaque;
    k->backend = NULL;
    k->edge = NULL;
}

static int judge(struct disks_in *d, struct json_object *o, struct err *e)
{
    struct jread r = jread_init(o, NULL, e);
    const char *name = jread_str(&r, "device"), *mode = jread_str(&r, "mode");
    uint64_t size = jread_size(&r, "size");
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    bool follows = !strcmp(mode, "post-copy");
    if (!follows && strcmp(mode, "pre-copy") != 0) {
        return err_set(e, ENOTSUP, "Disk '%s' is to be moved by '%s', which this release does not know", name, mode);
    }
    struct backend *b = disk_of_device(d->vm->graph, name);
    if (!b || !b->root) {
        return err_set(e, ENOENT, "Disk '%s' cannot be copied: the destination has %s", name,
                       b ? "no medium in that device" : "no device of that name");
    }
    struct node *n = b->root->child;
    if (n->read_only) {
        return err_set(e, EROFS, "Disk '%s' cannot be copied: node '%s' at the destination is read-only", name,
                       n->name);
    }
    if (n->size != size) {
        return err_set(e, EINVAL,
                       "Disk '%s' cannot be copied: it has %" PRIu64 " bytes, node '%s' at the destination has %" PRIu64
                       ": make an image of the same size there",
                       name, size, n->name, n->size);
    }
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].backend == b) {
            return err_set(e, EINVAL, "Disk '%s' stands twice among those to be copied", name);
        }
    }
    rc = follows ? follower_judge(n, name, e) : 0;
    if (rc < 0) {
        return rc;
    }
    struct disk *k = &d->disks[d->n++];
    *k = (struct disk){.backend = b,
                       .watch = {.ejected = ejected, .opaque = k},
                       .name = g_strdup(name),
                       .node = node_ref(n),
                       .follows = follows};
    backend_watch(b, &k->watch);
    return 0;
}

int disks_in_create(struct vm *vm, struct json_object *want, struct disks_in **out, struct err *e)
{
    size_t n = json_object_is_type(want, json_type_array) ? json_object_array_length(want) : SIZE_MAX;
    if (n > MUX_IDS - MUX_DISKS) {
        return err_set(e, EPROTO, "The source's list of disks is none, or too long");
    }
    struct disks_in *d = g_new0(struct disks_in, 1);
    *d = (struct disks_in){.vm = vm, .disks = g_new0(struct disk, n)};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = judge(d, json_object_array_get_idx(want, i), e);
    }
    if (rc < 0) {
        disks_in_destroy(d);
        return rc;
    }
    *out = d;
    return 0;
}

/* --- serving -------------------------------------------------------------------------------------------------------
 */

static int serve(struct disks_in *d, struct disk *k, unsigned id, struct mux *m, struct err *e)
{
    struct edge *ed = k->backend ? k->backend->root : NULL;
    if (!ed || ed->child != k->node) {
        return err_set(e, ENOMEDIUM, "The medium of disk '%s' was taken out", k->name);
    }
    k->perm = ed->own_perm;
    k->shared = ed->own_shared;
    int rc = node_activate(k->node, e);
    rc = rc < 0 ? rc : edge_set_perm(ed, 0, PERM_ALL, e);
    if (rc < 0) {
        return rc;
    }
    k->edge = ed;
    const struct nbd_export_options o = {.node = k->node, .name = k->name, .writable = true};
    struct nbd_export *exp;
    rc = nbd_export_add(d->server, &o, &exp, e);
    int fd = rc < 0 ? rc : mux_socket(m, id, e);
    if (fd < 0) {
        return fd;
    }
    nbd_server_adopt(d->server, fd);
    return 0;
}

int disks_in_begin(struct disks_in *d, struct mux *m, struct err *e)
{
    const struct nbd_server_options so = {.graph = d->vm->graph};
    int rc = 0;
    d->server = nbd_server_create(&so);
    graph_change_begin(d->vm->graph);
    for (unsigned i = 0; rc == 0 && i < d->n; i++) {
        rc = d->disks[i].follows ? 0 : serve(d, &d->disks[i], MUX_DISKS + i, m, e);
    }
    graph_change_end(d->vm->graph);
    return rc;
}

static int give_back(struct disk *k, struct err *e)
{
    struct edge *ed = take(k->edge);
    if (!ed) {
        return 0;
    }
    int rc = edge_flush(ed);
    if (rc < 0) {
        err_set_errno(e, -rc, "Disk '%s' could not be flushed at the destination", k->name);
    }
    int perm = edge_set_perm(ed, k->perm, k->shared, rc < 0 ? NULL : e);
    return rc < 0 ? rc : perm;
}

int disks_in_finish(struct disks_in *d, struct err *e)
{
    int rc = 0;
    nbd_server_destroy(take(d->server));
    graph_change_begin(d->vm->graph);
    for (unsigned i = 0; i < d->n; i++) {
        int one = give_back(&d->disks[i], rc < 0 ? NULL : e);
        rc = rc < 0 ? rc : one;
    }
    graph_change_end(d->vm->graph);
    return rc;
}

/* --- following ----------------------------------------------------------------------------------------------------
 */

int disks_in_connect(struct disks_in *d, struct mux *m, struct err *e)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < d->n; i++) {
        struct disk *k = &d->disks[i];
        if (k->follows && (!k->backend || k->backend->root->child != k->node)) {
            rc = err_set(e, ENOMEDIUM, "The medium of disk '%s' was taken out", k->name);
        } else if (k->follows) {
            k->follower = follower_create(d->vm, k->backend, k->name, &d->changed);
            rc = node_activate(k->node, e); /* ours alone: the source's is another one */
            rc = rc < 0 ? rc : follower_connect(k->follower, m, MUX_DISKS + i, e);
        }
    }
    return rc;
}

bool disks_in_follow(const struct disks_in *d)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].follows) {
            return true;
        }
    }
    return false;
}

void disks_in_start(struct disks_in *d, struct job_limit *limit)
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].follower) {
            follower_start(d->disks[i].follower, limit);
        }
    }
}

int disks_in_reconnect(struct disks_in *d, struct mux *m, struct err *e)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < d->n; i++) {
        rc = d->disks[i].follower ? follower_reconnect(d->disks[i].follower, m, MUX_DISKS + i, e) : 0;
    }
    return rc;
}

static bool all_are(const struct disks_in *d, bool (*is)(const struct follower *f))
{
    for (unsigned i = 0; i < d->n; i++) {
        if (d->disks[i].follower && !is(d->disks[i].follower)) {
            return false;
        }
    }
    return true;
}

int disks_in_wait(struct disks_in *d, const struct mux *m, struct err *e)
{
    for (;;) {
        for (unsigned i = 0; i < d->n; i++) {
            if (d->disks[i].follower) {
                follower_step(d->disks[i].follower);
            }
        }
        if (all_are(d, follower_is_done)) {
            return 0;
        }
        if (mux_error(m)) {
            return err_set_errno(e, -mux_error(m), "the connection is broken");
        }
        if (all_are(d, follower_works)) {
            co_queue_wait(&d->changed);
        } else {
            co_sleep(AGAIN_NS); /* the source, or a disk, has refused: only trying tells whether it still does */
        }
    }
}

void disks_in_wake(struct disks_in *d)
{
    if (d) {
        co_queue_wake_all(&d->changed);
    }
}

static uint64_t left_of(const struct disk *k)
{
    uint64_t size = k->follows ? k->node->size : 0;
    return k->follower ? MIN(follower_left(k->follower), size) : size;
}

struct json_object *disks_in_left(const struct disks_in *d)
{
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < d->n; i++) {
        json_object_array_add(list, json_object_new_uint64(left_of(&d->disks[i])));
    }
    return list;
}

void disks_in_stats(const struct disks_in *d, struct disks_stats *s)
{
    *s = (struct disks_stats){0};
    for (unsigned i = 0; i < d->n; i++) {
        const struct disk *k = &d->disks[i];
        uint64_t size = k->follows ? k->node->size : 0, left = left_of(k);
        s->total += size;
        s->remaining += left;
        s->transferred += size - left;
    }
}

void disks_in_destroy(struct disks_in *d)
{
    if (!d) {
        return;
    }
    disks_in_finish(d, NULL);
    for (unsigned i = 0; i < d->n; i++) {
        follower_destroy(d->disks[i].follower);
        backend_unwatch(&d->disks[i].watch);
        node_unref(d->disks[i].node);
        g_free(d->disks[i].name);
    }
    g_free(d->disks);
    g_free(d);
}
