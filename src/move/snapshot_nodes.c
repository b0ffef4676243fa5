/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/snapshot_nodes.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/backend.h"
#include "block/snapshot.h"

#include <string.h>

void snapshot_progressed(void *job, uint64_t done, uint64_t total)
{
    struct job *j = job;
    job_progress(j, done - min_u64(done, j->progress_done));
    job_progress_remaining(j, total - min_u64(total, done));
}

struct json_object *snapshot_dropped(const GPtrArray *names)
{
    struct json_object *list = names->len ? json_object_new_array() : NULL;
    for (guint i = 0; i < names->len; i++) {
        json_object_array_add(list, json_object_new_string(g_ptr_array_index(names, i)));
    }
    return list;
}

const char *snapshot_name_of(const struct node *n)
{
    GPtrArray *all = graph_backends(n->graph);
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (b->root && b->root->child == n && b->name[0]) {
            return b->name;
        }
    }
    return n->name;
}

/* By an export: what is neither a node nor a job's own. */
static bool is_written_from_outside(const struct node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        if (!ed->parent && !ed->pinned && ed->perm & PERM_WRITE) {
            return true;
        }
    }
    return false;
}

GPtrArray *snapshot_written_nodes(struct block_graph *g)
{
    GPtrArray *out = g_ptr_array_new(), *all = graph_backends(g);
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        struct node *n = b->root ? b->root->child : NULL;
        if (n && !node_skip_filters(n)->read_only && !g_ptr_array_find(out, n, NULL)) {
            g_ptr_array_add(out, n);
        }
    }
    g_autoptr(GPtrArray) named = graph_nodes(g);
    for (guint i = 0; i < named->len; i++) {
        struct node *n = g_ptr_array_index(named, i);
        if (n->monitor_owned && !n->read_only && (!n->parents->len || is_written_from_outside(n)) &&
            !g_ptr_array_find(out, n, NULL)) {
            g_ptr_array_add(out, n);
        }
    }
    return out;
}

struct node *snapshot_default_vmstate(GPtrArray *nodes, struct err *e)
{
    for (guint i = 0; i < nodes->len; i++) {
        struct node *n = g_ptr_array_index(nodes, i);
        if (node_check_vmstate(n, NULL) == 0) {
            return n;
        }
    }
    err_set(e, ENOTSUP, "no block device can store vmstate for snapshot");
    return NULL;
}

/* --- the job's ---------------------------------------------------------------------------------------------------- */

void snapshot_nodes_init(struct snapshot_nodes *s, struct job *j, struct vm *vm, const struct snapshot_options *o)
{
    *s = (struct snapshot_nodes){
        .job = j,
        .vm = vm,
        .tag = g_strdup(o->tag),
        .vmstate_name = g_strdup(o->vmstate),
        .file = g_strdup(o->file),
        .names = g_strdupv((char **)(uintptr_t)o->devices),
        .edges = g_ptr_array_new(),
        .nodes = g_ptr_array_new(),
    };
}

void snapshot_nodes_release(struct snapshot_nodes *s)
{
    while (s->edges && s->edges->len) {
        edge_close(g_ptr_array_steal_index(s->edges, 0));
    }
    while (s->nodes && s->nodes->len) {
        node_unref(g_ptr_array_steal_index(s->nodes, 0));
    }
    s->vmstate = NULL;
}

void snapshot_nodes_finish(struct snapshot_nodes *s)
{
    snapshot_nodes_release(s);
    g_clear_pointer(&s->edges, g_ptr_array_unref);
    g_clear_pointer(&s->nodes, g_ptr_array_unref);
    g_clear_pointer(&s->names, g_strfreev);
    g_clear_pointer(&s->tag, g_free);
    g_clear_pointer(&s->vmstate_name, g_free);
    g_clear_pointer(&s->file, g_free);
}

static char *describe(void *user)
{
    const struct snapshot_nodes *s = user;
    return g_strdup_printf("%s job '%s'", s->job->drv->type, s->job->id ? s->job->id : s->tag);
}

static const struct edge_user_ops edge_ops = {.describe = describe};

/* The image stays where it is, whatever is put above it, and what it needs to be written to. */
static int hold(struct snapshot_nodes *s, struct node *n, bool writes, struct err *e)
{
    struct edge *ed;
    int rc = edge_open(node_snapshot_target(n),
                       &(struct edge_spec){.name = "snapshot",
                                           .perm = writes ? PERM_WRITE_SAME : 0,
                                           .shared = PERM_ALL,
                                           .ops = &edge_ops,
                                           .user = s,
                                           .pinned = true},
                       &ed, e);
    if (rc == 0) {
        g_ptr_array_add(s->edges, ed);
    }
    return rc;
}

static void add(struct snapshot_nodes *s, struct node *n)
{
    if (!g_ptr_array_find(s->nodes, n, NULL)) {
        g_ptr_array_add(s->nodes, node_ref(n));
    }
}

static int find_named(struct snapshot_nodes *s, struct err *e)
{
    for (char **name = s->names; *name; name++) {
        struct node *n = node_find(s->vm->graph, *name);
        if (!n) {
            return err_set(e, ENOENT, "No block device node '%s'", *name);
        }
        add(s, n);
    }
    return 0;
}

static int check_can(struct snapshot_nodes *s, struct err *e)
{
    for (guint i = 0; i < s->nodes->len; i++) {
        struct node *n = g_ptr_array_index(s->nodes, i);
        if (!node_has_snapshots(n)) {
            return err_set(e, ENOTSUP, "Device '%s' is writable but does not support snapshots", snapshot_name_of(n));
        }
        int rc = node_check_vmstate(n, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int find_vmstate(struct snapshot_nodes *s, struct err *e)
{
    for (guint i = 0; s->vmstate_name && i < s->nodes->len; i++) {
        struct node *n = g_ptr_array_index(s->nodes, i);
        if (!strcmp(n->name, s->vmstate_name)) {
            s->vmstate = n;
            return 0;
        }
    }
    if (s->vmstate_name) {
        return err_set(e, ENOENT, "vmstate block device '%s' does not exist", s->vmstate_name);
    }
    s->vmstate = snapshot_default_vmstate(s->nodes, e);
    return s->vmstate ? 0 : -ENOTSUP;
}

int snapshot_nodes_find(struct snapshot_nodes *s, bool writes, bool with_state, struct err *e)
{
    int rc = s->names ? find_named(s, e) : 0;
    if (!s->names && !s->file) {
        g_autoptr(GPtrArray) all = snapshot_written_nodes(s->vm->graph);
        for (guint i = 0; i < all->len; i++) {
            add(s, g_ptr_array_index(all, i));
        }
    }
    rc = rc ? rc : check_can(s, e);
    rc = rc || !with_state || s->file ? rc : find_vmstate(s, e);
    for (guint i = 0; rc == 0 && i < s->nodes->len; i++) {
        rc = hold(s, g_ptr_array_index(s->nodes, i), writes, e);
    }
    return rc;
}

int snapshot_nodes_check_absent(struct snapshot_nodes *s, struct err *e)
{
    for (guint i = 0; i < s->nodes->len; i++) {
        struct node *n = g_ptr_array_index(s->nodes, i);
        struct snapshot *x = node_snapshot_find(n, NULL, s->tag);
        snapshot_free(x);
        if (x) {
            return err_set(e, EEXIST, "Snapshot '%s' already exists in one or more devices", s->tag);
        }
    }
    return 0;
}

int snapshot_nodes_check_present(struct snapshot_nodes *s, struct err *e)
{
    for (guint i = 0; i < s->nodes->len; i++) {
        struct node *n = g_ptr_array_index(s->nodes, i);
        struct snapshot *x = node_snapshot_find(n, NULL, s->tag);
        snapshot_free(x);
        if (!x) {
            return err_set(e, ENOENT, "Snapshot '%s' does not exist in one or more devices", s->tag);
        }
    }
    return 0;
}

/* Of somebody else who works for a job on n or above it; g_malloc'd. */
static char *job_above(const struct snapshot_nodes *s, const struct node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        if (g_ptr_array_find(s->edges, ed, NULL)) {
            continue;
        }
        char *who = !ed->parent || ed->parent->owner ? edge_describe(ed) : NULL;
        if (who && strstr(who, "job '")) {
            return who;
        }
        g_free(who);
        who = ed->parent ? job_above(s, ed->parent) : NULL;
        if (who) {
            return who;
        }
    }
    return NULL;
}

int snapshot_nodes_check_idle(struct snapshot_nodes *s, struct err *e)
{
    for (guint i = 0; i < s->nodes->len; i++) {
        struct node *n = node_snapshot_target(g_ptr_array_index(s->nodes, i));
        CLEANUP_FREE char *who = job_above(s, n);
        if (who) {
            return err_set(e, EBUSY,
                           "Node '%s' is in use by %s: snapshot '%s' cannot be loaded meanwhile; wait for the job's "
                           "end, or cancel it",
                           n->name, who, s->tag);
        }
    }
    return 0;
}

void snapshot_nodes_drain(struct snapshot_nodes *s)
{
    for (guint i = 0; i < s->edges->len; i++) {
        node_drain_begin(((struct edge *)g_ptr_array_index(s->edges, i))->child);
    }
}

void snapshot_nodes_undrain(struct snapshot_nodes *s)
{
    for (guint i = s->edges->len; i-- > 0;) {
        node_drain_end(((struct edge *)g_ptr_array_index(s->edges, i))->child);
    }
}
