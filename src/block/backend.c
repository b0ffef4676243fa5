/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/backend.h"

#include "base/cleanup.h"
#include "block/internal.h"

#include <string.h>

GPtrArray *graph_backends(struct block_graph *g)
{
    if (!g->backends) {
        g->backends = g_ptr_array_new();
    }
    return g->backends;
}

static struct backend *find_by(struct block_graph *g, const char *name,
                               bool (*match)(const struct backend *, const char *))
{
    GPtrArray *all = graph_backends(g);
    for (guint i = 0; i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        if (match(b, name)) {
            return b;
        }
    }
    return NULL;
}

static bool by_name(const struct backend *b, const char *name)
{
    return b->name[0] && !strcmp(b->name, name);
}

static bool by_qdev(const struct backend *b, const char *name)
{
    return (b->qdev && !strcmp(b->qdev, name)) || (b->qom_path && !strcmp(b->qom_path, name));
}

static bool ends_in(const char *path, const char *name)
{
    size_t n = strlen(name), len = path ? strlen(path) : 0;
    return len > n && path[len - n - 1] == '/' && !strcmp(path + len - n, name);
}

const char *backend_shown_qdev(const struct backend *b)
{
    return b->qdev && ends_in(b->qom_path, b->qdev) ? b->qdev : b->qom_path;
}

/* As QOM has it: a path may be named by its end alone ("disk0", "disk0/virtio-backend"). */
static bool by_partial_path(const struct backend *b, const char *name)
{
    return ends_in(b->qdev, name) || ends_in(b->qom_path, name);
}

static bool by_root(const struct backend *b, const char *name)
{
    return b->root && !strcmp(b->root->child->name, name);
}

struct backend *backend_find(struct block_graph *g, const char *name)
{
    if (!name || !*name) {
        return NULL;
    }
    struct backend *b = find_by(g, name, by_name);
    b = b ? b : find_by(g, name, by_qdev);
    return b ? b : find_by(g, name, by_partial_path);
}

struct backend *backend_with(struct block_graph *g, const struct node *n)
{
    GPtrArray *all = graph_backends(g);
    for (guint i = 0; i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        if (b->root && b->root->child == n) {
            return b;
        }
    }
    return NULL;
}

struct backend *backend_lookup(struct block_graph *g, const char *device, struct err *e)
{
    struct backend *b = backend_find(g, device);
    if (!b && device && *device) {
        b = find_by(g, device, by_root);
    }
    if (!b) {
        err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", device ? device : "");
    }
    return b;
}

int backend_create(struct block_graph *g, const char *name, struct backend **out, struct err *e)
{
    name = name ? name : "";
    *out = NULL;
    if (*name && find_by(g, name, by_name)) {
        return err_set(e, EEXIST, "Device with id '%s' already exists", name);
    }
    if (*name && node_find_any(g, name)) {
        return err_set(e, EEXIST, "Device name '%s' conflicts with an existing node name", name);
    }
    struct backend *b = g_new0(struct backend, 1);
    b->graph = g;
    b->name = g_strdup(name);
    b->rerror = IO_ERROR_AUTO;
    b->werror = IO_ERROR_AUTO;
    b->io_status = "ok";
    b->write_cache = true;
    acct_init(&b->stats);
    g_ptr_array_add(graph_backends(g), b);
    *out = b;
    return 0;
}

void backend_destroy(struct backend *b)
{
    if (!b) {
        return;
    }
    backend_eject(b);
    g_ptr_array_remove(b->graph->backends, b);
    backend_limit_by(b, NULL);
    acct_finish(&b->stats);
    g_free(b->name);
    g_free(b->qdev);
    g_free(b->qom_path);
    g_free(b);
}

static void resized(void *user)
{
    struct backend *b = user;
    if (b->dev && b->dev_ops->resized) {
        b->dev_ops->resized(b->dev);
    }
}

static char *describe(void *user)
{
    struct backend *b = user;
    if (b->name[0]) {
        return g_strdup_printf("block device '%s'", b->name);
    }
    return b->qdev ? g_strdup_printf("block device '%s'", b->qdev) : g_strdup("an anonymous block device");
}

static void set_drained(struct backend *b, bool drained)
{
    if (b->drained != drained) {
        b->drained = drained;
        backend_hurry(b, drained);
    }
}

static void drained_begin(void *user)
{
    set_drained(user, true);
}

static void drained_end(void *user)
{
    set_drained(user, false);
}

static const struct edge_user_ops backend_edge_ops = {
    .drained_begin = drained_begin, .drained_end = drained_end, .resized = resized, .describe = describe};

/* --- limits ------------------------------------------------------------------------------------------------------- */

struct backend_limit {
    struct throttle_group *group;
    unsigned refs;
    unsigned bypass; /* > 0: nobody waits */
};

static void limit_unref(struct backend_limit *l)
{
    if (l && !--l->refs) {
        throttle_group_unref(l->group);
        g_free(l);
    }
}

static void limit_let_go(struct backend_limit *l)
{
    l->bypass++;
    throttle_group_kick(l->group);
}

void backend_limit_by(struct backend *b, struct throttle_group *t)
{
    struct backend_limit *old = take(b->limit);
    if (t) {
        b->limit = g_new(struct backend_limit, 1);
        *b->limit = (struct backend_limit){.group = throttle_group_ref(t), .refs = 1, .bypass = b->unlimited};
    }
    if (old) {
        limit_let_go(old);
        limit_unref(old);
    }
}

struct throttle_group *backend_limits(const struct backend *b)
{
    return b->limit ? b->limit->group : NULL;
}

void backend_wait_turn(struct backend *b, bool is_write, uint64_t bytes)
{
    struct backend_limit *l = b->limit;
    if (l) {
        l->refs++;
        throttle_group_wait(l->group, is_write, bytes, &l->bypass);
        limit_unref(l);
    }
}

void backend_hurry(struct backend *b, bool on)
{
    b->unlimited += on ? 1 : -1u;
    if (b->limit && on) {
        limit_let_go(b->limit);
    } else if (b->limit) {
        b->limit->bypass--;
    }
}

struct throttle_group *graph_limit_group(struct block_graph *g, const char *name)
{
    struct throttle_group *t = graph_object(g, "throttle-group", name);
    GPtrArray *all = graph_backends(g);
    for (guint i = 0; !t && i < all->len; i++) {
        struct throttle_group *other = backend_limits(g_ptr_array_index(all, i));
        t = other && !strcmp(throttle_group_name(other), name) ? other : NULL;
    }
    return t ? throttle_group_ref(t) : throttle_group_create(graph_loop(g), name);
}

/* --- the medium --------------------------------------------------------------------------------------------------- */

int backend_insert(struct backend *b, struct node *n, bool writable, bool share_rw, struct err *e)
{
    if (b->root) {
        return err_set(e, EBUSY, "Device '%s' already has a medium: node '%s'", b->name[0] ? b->name : b->qdev,
                       b->root->child->name);
    }
    unsigned perm = PERM_READ | (writable ? PERM_WRITE : 0);
    unsigned shared = PERM_READ | PERM_WRITE_SAME | PERM_RESIZE | (share_rw ? PERM_WRITE : 0);
    struct edge_spec spec = {"root", perm, shared, &backend_edge_ops, b, .waits = true};
    int rc = edge_open(n, &spec, &b->root, e);
    if (rc) {
        b->root = NULL;
        return rc;
    }
    b->io_status = "ok";
    b->read_only_medium = n->read_only;
    resized(b);
    return 0;
}

int backend_claim(struct backend *b, bool writable, bool share_rw, struct err *e)
{
    unsigned perm = PERM_READ | (writable ? PERM_WRITE : 0);
    unsigned shared = PERM_READ | PERM_WRITE_SAME | PERM_RESIZE | (share_rw ? PERM_WRITE : 0);
    bool same = perm == b->root->own_perm && shared == b->root->own_shared;
    return same ? 0 : edge_set_perm(b->root, perm, shared, e);
}

void backend_share(struct backend *b)
{
    if (b->root) {
        edge_set_perm(b->root, 0, PERM_ALL, NULL); /* asking for less always works */
    }
}

void backend_watch(struct backend *b, struct backend_watch *w)
{
    w->backend = b;
    w->link.data = w;
    g_queue_push_tail_link(&b->watches, &w->link);
}

void backend_unwatch(struct backend_watch *w)
{
    if (w->backend) {
        g_queue_unlink(&take(w->backend)->watches, &w->link);
    }
}

void backend_eject(struct backend *b)
{
    while (b->watches.head) {
        struct backend_watch *w = b->watches.head->data;
        backend_unwatch(w);
        w->ejected(w->opaque);
    }
    edge_close(take(b->root));
    set_drained(b, false);
}

void backend_delete(struct backend *b)
{
    if (!b->dev) {
        backend_destroy(b);
        return;
    }
    b->deleted = true;
    b->rerror = b->werror = IO_ERROR_REPORT; /* nothing that the user could mend: no reason to stop */
    b->name[0] = '\0';
    backend_limit_by(b, NULL);
    backend_eject(b);
}
