/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/snapshot.h"

#include "base/cleanup.h"
#include "block/chain.h"
#include "block/internal.h"

#include <string.h>

struct snapshot *snapshot_copy(const struct snapshot *s)
{
    struct snapshot *x = g_new(struct snapshot, 1);
    *x = *s;
    x->id = g_strdup(s->id);
    x->name = g_strdup(s->name);
    return x;
}

void snapshot_free(struct snapshot *s)
{
    if (s) {
        g_free(s->id);
        g_free(s->name);
        g_free(s);
    }
}

struct vmstate {
    struct node *t; /* a reference */
    const struct snapshot_state_ops *ops;
    void *priv;
    bool making, begun, over;
};

static void free_one(void *s)
{
    snapshot_free(s);
}

struct node *node_snapshot_target(struct node *n)
{
    while (n && !n->drv->snapshot_list) {
        struct edge *ed = node_filter_edge(n);
        ed = ed || !n->drv->passes_perms ? ed : n->file;
        n = ed ? ed->child : NULL;
    }
    return n;
}

static int writable_target(struct node *n, struct node **out, struct err *e)
{
    *out = node_snapshot_target(n);
    if (!*out) {
        return err_set(e, ENOTSUP, "Block driver does not support snapshots");
    }
    if ((*out)->inactive) {
        return err_set(e, EACCES, "Node '%s' is inactive", (*out)->name);
    }
    return (*out)->read_only ? err_set(e, EACCES, "Node '%s' is read-only", (*out)->name) : 0;
}

bool node_has_snapshots(struct node *n)
{
    return node_snapshot_target(n) != NULL;
}

GPtrArray *node_snapshots(struct node *n, struct err *e)
{
    struct node *t = node_snapshot_target(n);
    if (!t) {
        err_set(e, ENOTSUP, "Block driver does not support snapshots");
        return NULL;
    }
    GPtrArray *list = g_ptr_array_new_with_free_func(free_one);
    int rc = t->drv->snapshot_list(t, list);
    if (rc < 0) {
        err_set_errno(e, -rc, "Snapshots of '%s'", t->filename);
        g_ptr_array_unref(list);
        return NULL;
    }
    return list;
}

struct json_object *snapshot_info(const struct snapshot *s)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string(s->id));
    json_object_object_add(o, "name", json_object_new_string(s->name));
    json_object_object_add(o, "vm-state-size", json_object_new_int64(s->vm_state_size));
    json_object_object_add(o, "date-sec", json_object_new_int64(s->date_sec));
    json_object_object_add(o, "date-nsec", json_object_new_int64(s->date_nsec));
    json_object_object_add(o, "vm-clock-sec", json_object_new_int64(s->vm_clock_nsec / 1000000000));
    json_object_object_add(o, "vm-clock-nsec", json_object_new_int64(s->vm_clock_nsec % 1000000000));
    if (s->icount != UINT64_MAX) {
        json_object_object_add(o, "icount", json_object_new_int64(s->icount));
    }
    return o;
}

struct json_object *node_snapshots_info(struct node *n)
{
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    struct json_object *o = list && list->len ? json_object_new_array() : NULL;
    for (guint i = 0; o && i < list->len; i++) {
        json_object_array_add(o, snapshot_info(g_ptr_array_index(list, i)));
    }
    return o;
}

struct snapshot *node_snapshot_find(struct node *n, const char *id, const char *name)
{
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    for (guint i = 0; list && i < list->len; i++) {
        const struct snapshot *s = g_ptr_array_index(list, i);
        if ((!id || !strcmp(s->id, id)) && (!name || !strcmp(s->name, name))) {
            return snapshot_copy(s);
        }
    }
    return NULL;
}

/* To whoever works on the image. */
static void tell_above(struct node *n, unsigned stamp)
{
    n->stamp = stamp;
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        if (ed->ops && ed->ops->snapshots_changed) {
            ed->ops->snapshots_changed(ed->user);
        }
        if (ed->parent && ed->parent->stamp != stamp) {
            tell_above(ed->parent, stamp);
        }
    }
}

static void changed(struct node *t)
{
    tell_above(t, ++t->graph->stamp);
}

/* Flushes come past drains, from jobs that end and from links that are rewritten: they wait, too. */
static void hold(struct node *t)
{
    node_drain_begin(t);
    co_lock(&t->flush_lock);
}

static void let_go(struct node *t)
{
    co_unlock(&t->flush_lock);
    node_drain_end(t);
}

int node_snapshot_create(struct node *n, struct snapshot *s, struct err *e)
{
    struct node *t;
    int rc = writable_target(n, &t, e);
    if (rc < 0) {
        return rc;
    }
    hold(t);
    rc = t->drv->snapshot_create(t, s, e);
    t->snapshots_taken += rc == 0;
    changed(t);
    let_go(t);
    return rc < 0 && !err_is_set(e) ? err_set_errno(e, -rc, "Could not create snapshot '%s'", s->name) : rc;
}

/* Everything between n and t is about to be, or has become, something else. */
static int mark_all(struct node *n, struct node *t)
{
    int rc = 0;
    for (struct node *x = n;; x = (node_filter_edge(x) ? node_filter_edge(x) : x->file)->child) {
        if (x->bitmaps->len && x->drv->bitmaps_intend) {
            rc = x->drv->bitmaps_intend(x, 0, x->size);
        }
        if (rc < 0) {
            return rc;
        }
        node_mark_dirty(x, 0, x->size);
        if (x == t) {
            return 0;
        }
    }
}

/* `v`, or when that is NULL, `id`: what the disk becomes. */
static int apply(struct node *n, struct node *t, const char *id, struct vmstate *v, struct err *e)
{
    node_drain_begin(n);
    int rc = mark_all(n, t);
    if (rc == 0) {
        uint64_t size = t->size;
        co_lock(&t->flush_lock);
        rc = v ? v->ops->revert(v->priv, e) : t->drv->snapshot_apply(t, id, e);
        co_unlock(&t->flush_lock);
        if (t->size != size) { /* what was gained is new to the bitmaps */
            int rc2 = mark_all(n, t);
            rc = rc < 0 ? rc : rc2;
        }
    }
    node_drain_end(n);
    return rc;
}

int node_snapshot_apply(struct node *n, const char *id, struct err *e)
{
    struct node *t;
    struct err why = ERR_INIT;
    int rc = writable_target(n, &t, e);
    if (rc < 0) {
        return rc;
    }
    rc = apply(n, t, id, NULL, &why);
    if (rc < 0) {
        if (err_is_set(&why)) {
            log_error(graph_log(n->graph), "%s", err_text(&why));
        }
        err_set_errno(e, -rc, "Failed to load snapshot");
    }
    err_clear(&why);
    return rc;
}

int node_snapshot_delete(struct node *n, const char *id, struct err *e)
{
    struct node *t;
    int rc = writable_target(n, &t, e);
    if (rc < 0) {
        return rc;
    }
    hold(t);
    rc = t->drv->snapshot_delete(t, id, e);
    changed(t);
    let_go(t);
    return rc < 0 && !err_is_set(e) ? err_set_errno(e, -rc, "Failed to free the cluster and L1 table") : rc;
}

int node_snapshot_show(struct node *n, const char *id, struct err *e)
{
    struct node *t = node_snapshot_target(n);
    if (!t) {
        return err_set(e, ENOTSUP, "Device does not support the requested feature");
    }
    if (!t->read_only) {
        return err_set(e, EINVAL, "Device is not readonly");
    }
    node_drain_begin(n);
    int rc = t->drv->snapshot_show(t, id, e);
    node_drain_end(n);
    return rc < 0 && !err_is_set(e) ? err_set_errno(e, -rc, "Snapshot '%s' of node '%s'", id, n->name) : rc;
}

int node_vmstate_read(struct node *n, uint64_t off, uint64_t len, void *buf)
{
    struct node *t = node_snapshot_target(n);
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, buf, len);
    if (!t || !t->drv->vmstate_read) {
        return -ENOTSUP;
    }
    if (t->no_medium) {
        return -ENOMEDIUM;
    }
    node_in_flight_inc(t);
    int rc = t->drv->vmstate_read(t, off, len, &v, 0);
    node_in_flight_dec(t);
    return rc;
}

int node_vmstate_write(struct node *n, uint64_t off, uint64_t len, const void *buf)
{
    struct node *t = node_snapshot_target(n);
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, (void *)(uintptr_t)buf, len);
    if (!t || !t->drv->vmstate_write) {
        return -ENOTSUP;
    }
    if (t->no_medium || t->read_only || t->inactive) {
        return t->no_medium ? -ENOMEDIUM : -EACCES;
    }
    node_in_flight_inc(t);
    int rc = t->drv->vmstate_write(t, off, len, &v, 0);
    node_in_flight_dec(t);
    return rc;
}

/* --- with the machine's state ------------------------------------------------------------------------------------- */

int node_check_vmstate(struct node *n, struct err *e)
{
    struct node *t = node_snapshot_target(n);
    if (!t || !t->drv->state_ops) {
        return err_set(e, ENOTSUP, "Device '%s' is writable but does not support snapshots", n->name);
    }
    if (t->inactive) {
        return err_set(e, EACCES, "Node '%s' is inactive", t->name);
    }
    return t->read_only ? err_set(e, EACCES, "Node '%s' is read-only", t->name) : 0;
}

int node_check_snapshot_jobs(struct node *n, struct err *e)
{
    struct node *image = node_skip_filters(n);
    for (struct node *f = image; (f = chain_pinned_filter(f));) {
        if (chain_is_ending(f)) {
            CLEANUP_FREE char *who = edge_describe(node_filter_edge(f));
            return err_set(e, EBUSY,
                           "Node '%s' is in use by %s, which is about to let go of images that a snapshot inside of it "
                           "would need: wait for its end",
                           image->name, who);
        }
    }
    return 0;
}

static struct vmstate *vmstate_new(struct node *t)
{
    struct vmstate *v = g_new0(struct vmstate, 1);
    v->t = node_ref(t);
    v->ops = t->drv->state_ops;
    return v;
}

static void vmstate_free(struct vmstate *v)
{
    node_unref(v->t);
    g_free(v);
}

/* `s` is made, or that of this id gets another state. */
static int vmstate_make(struct node *n, const struct snapshot *s, const char *id, struct vmstate **out, struct err *e)
{
    int rc = node_check_vmstate(n, e);
    if (rc < 0) {
        return rc;
    }
    struct vmstate *v = vmstate_new(node_snapshot_target(n));
    v->t->snapshots_placed++;
    hold(v->t);
    rc = s ? v->ops->create(v->t, s, &v->priv, e) : v->ops->replace(v->t, id, &v->priv, e);
    let_go(v->t);
    if (rc < 0) {
        v->t->snapshots_placed--;
        changed(v->t);
        vmstate_free(v);
        return rc;
    }
    v->making = true;
    *out = v;
    return 0;
}

int vmstate_create(struct node *n, const struct snapshot *s, struct vmstate **out, struct err *e)
{
    return vmstate_make(n, s, NULL, out, e);
}

int vmstate_replace(struct node *n, const char *id, struct vmstate **out, struct err *e)
{
    return vmstate_make(n, NULL, id, out, e);
}

int vmstate_begin(struct vmstate *v, uint64_t vm_clock_nsec, struct err *e)
{
    hold(v->t);
    int rc = v->ops->begin(v->priv, vm_clock_nsec, e);
    v->begun = rc == 0;
    v->t->snapshots_making += v->begun;
    v->t->snapshots_taken += v->begun;
    changed(v->t);
    let_go(v->t);
    return rc;
}

int vmstate_write(struct vmstate *v, uint64_t off, uint64_t len, const void *buf)
{
    if (v->t->no_medium) {
        return -ENOMEDIUM;
    }
    node_in_flight_inc(v->t);
    int rc = v->ops->write(v->priv, off, len, buf);
    node_in_flight_dec(v->t);
    return rc;
}

int vmstate_revert(struct vmstate *v, struct node *n, struct err *e)
{
    int rc = apply(n, v->t, NULL, v, e);
    return rc < 0 && !err_is_set(e) ? err_set_errno(e, -rc, "Node '%s'", n->name) : rc;
}

static void vmstate_over(struct vmstate *v)
{
    v->over = true;
    v->t->snapshots_placed--;
    v->t->snapshots_making -= v->begun;
    changed(v->t);
}

int vmstate_finish(struct vmstate *v, uint64_t size, struct err *e)
{
    node_in_flight_inc(v->t);
    int rc = v->ops->settle(v->priv, e);
    node_in_flight_dec(v->t);
    if (rc < 0) {
        return rc;
    }
    hold(v->t);
    rc = v->ops->finish(v->priv, size, e);
    if (rc == 0) {
        vmstate_over(v);
    }
    let_go(v->t);
    return rc;
}

int vmstate_open(struct node *n, const char *id, struct vmstate **out, struct err *e)
{
    struct node *t = node_snapshot_target(n);
    if (!t || !t->drv->state_ops) {
        return err_set(e, ENOTSUP, "Device '%s' does not support VM state snapshots", n->name);
    }
    struct vmstate *v = vmstate_new(t);
    int rc = v->ops->open(t, id, &v->priv, e);
    if (rc < 0) {
        vmstate_free(v);
        return rc;
    }
    *out = v;
    return 0;
}

int vmstate_read(struct vmstate *v, uint64_t off, uint64_t len, void *buf)
{
    if (v->t->no_medium) {
        return -ENOMEDIUM;
    }
    node_in_flight_inc(v->t);
    int rc = v->ops->read(v->priv, off, len, buf);
    node_in_flight_dec(v->t);
    return rc;
}

int vmstate_map(struct vmstate *v, uint64_t size, GArray *out, int *fd)
{
    struct edge *ed = v->t->file;
    struct node *file = ed ? ed->child : NULL;
    if (!file || !file->drv->host_fd || !v->ops->map) {
        return -ENOTSUP;
    }
    *fd = file->drv->host_fd(file);
    node_in_flight_inc(v->t);
    int rc = v->ops->map(v->priv, size, out);
    node_in_flight_dec(v->t);
    return rc;
}

void vmstate_destroy(struct vmstate *v)
{
    if (!v) {
        return;
    }
    if (v->making && !v->over) {
        hold(v->t);
        int rc = v->ops->cancel(v->priv);
        vmstate_over(v);
        let_go(v->t);
        if (rc < 0) {
            log_error(graph_log(v->t->graph), "Node '%s' keeps the space of a snapshot that was not completed: %s",
                      v->t->name, strerror(-rc));
        }
    }
    v->ops->destroy(v->priv);
    vmstate_free(v);
}

/* --- without the images below --------------------------------------------------------------------------------------
 */

struct snapshot_fill {
    struct node *t; /* a reference */
    const struct snapshot_fill_ops *ops;
    void *priv;
};

int snapshot_fill_create(struct node *n, uint64_t end, struct snapshot_fill **out, struct err *e)
{
    struct node *t;
    void *priv;
    int rc = writable_target(n, &t, e);
    if (rc < 0) {
        return rc;
    }
    rc = t->drv->fill_ops ? t->drv->fill_ops->create(t, end, &priv, e)
                          : err_set(e, ENOTSUP, "Snapshots of node '%s' cannot be changed", t->name);
    if (rc == 0) {
        *out = g_new(struct snapshot_fill, 1);
        **out = (struct snapshot_fill){node_ref(t), t->drv->fill_ops, priv};
        t->snapshots_making++; /* there is more in the image than it says */
    }
    return rc;
}

bool snapshot_fill_next(struct snapshot_fill *f, uint64_t *off, uint64_t *len)
{
    return f->ops->next(f->priv, off, len);
}

int snapshot_fill_write(struct snapshot_fill *f, uint64_t off, uint64_t len, const void *buf)
{
    if (f->t->no_medium) {
        return -ENOMEDIUM;
    }
    node_in_flight_inc(f->t);
    int rc = f->ops->write(f->priv, off, len, buf);
    node_in_flight_dec(f->t);
    return rc;
}

int snapshot_fill_commit(struct snapshot_fill *f, struct err *e)
{
    hold(f->t);
    int rc = f->ops->commit(f->priv, e);
    let_go(f->t);
    return rc;
}

void snapshot_fill_destroy(struct snapshot_fill *f)
{
    if (f) {
        f->ops->destroy(f->priv);
        f->t->snapshots_making--;
        changed(f->t);
        node_unref(f->t);
        g_free(f);
    }
}

/* --- what stands in the way ---------------------------------------------------------------------------------------
 */

int node_check_no_snapshots(struct node *n, struct err *e)
{
    struct node *t = node_snapshot_target(n);
    if (t && t->snapshots_making) {
        return err_set(e, EBUSY, "A snapshot inside of node '%s' is being made, which needs the images below it",
                       t->name);
    }
    g_autoptr(GPtrArray) list = t ? node_snapshots(t, NULL) : NULL;
    if (!list || !list->len) {
        return 0;
    }
    const struct snapshot *first = g_ptr_array_index(list, 0);
    return err_set(
        e, EBUSY, "Node '%s' has internal snapshots (snapshot '%s'), which need the images below it: delete them first",
        t->name, first->name);
}
