/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/graph.h"

#include "base/cleanup.h"
#include "base/id.h"
#include "block/internal.h"

#include <stdio.h>
#include <string.h>

struct block_graph *graph_create(struct loop *l, struct event_bus *bus, struct log *log)
{
    struct block_graph *g = g_new0(struct block_graph, 1);
    g->loop = l;
    g->bus = bus;
    g->log = log;
    g->nodes = g_ptr_array_new();
    return g;
}

static struct node *newest_owned(struct block_graph *g)
{
    for (guint i = g->nodes->len; i-- > 0;) {
        struct node *n = g_ptr_array_index(g->nodes, i);
        if (n->monitor_owned) {
            return n;
        }
    }
    return NULL;
}

void graph_destroy(struct block_graph *g)
{
    if (!g) {
        return;
    }
    struct node *n;
    while ((n = newest_owned(g))) {
        n->monitor_owned = false;
        node_unref(n);
    }
    for (guint i = 0; i < g->nodes->len; i++) {
        n = g_ptr_array_index(g->nodes, i);
        log_error(g->log, "node '%s' is still in use at the end", n->name);
    }
    g_ptr_array_free(g->nodes, true);
    if (g->backends) {
        g_ptr_array_free(g->backends, true);
    }
    if (g->ending) {
        g_ptr_array_free(g->ending, true);
    }
    g_free(g);
}

struct loop *graph_loop(struct block_graph *g)
{
    return g->loop;
}

struct event_bus *graph_bus(struct block_graph *g)
{
    return g->bus;
}

struct log *graph_log(struct block_graph *g)
{
    return g->log;
}

void graph_change_begin(struct block_graph *g)
{
    if (g->changing.owner != co_self()) {
        co_lock(&g->changing);
    }
    g->change_depth++;
}

void graph_change_end(struct block_graph *g)
{
    if (!--g->change_depth) {
        co_unlock(&g->changing);
    }
}

void graph_set_object_lookup(struct block_graph *g, graph_object_fn *fn, void *opaque)
{
    g->object_fn = fn;
    g->object_opaque = opaque;
}

void *graph_object(struct block_graph *g, const char *type, const char *id)
{
    return g->object_fn ? g->object_fn(g->object_opaque, type, id) : NULL;
}

void graph_set_metadata_only(struct block_graph *g, bool on)
{
    g->metadata_only = on;
}

bool graph_is_metadata_only(const struct block_graph *g)
{
    return g->metadata_only;
}

void graph_set_for_guest(struct block_graph *g)
{
    g->for_guest = true;
}

bool graph_is_for_guest(const struct block_graph *g)
{
    return g->for_guest;
}

GPtrArray *graph_nodes(struct block_graph *g)
{
    GPtrArray *a = g_ptr_array_new();
    for (guint i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);
        if (n->opened && !n->closing) {
            g_ptr_array_add(a, n);
        }
    }
    return a;
}

/* --- names ------------------------------------------------------------------------------------------------------ */

struct node *node_find_any(struct block_graph *g, const char *name)
{
    for (guint i = 0; i < g->nodes->len; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);
        if (!strcmp(n->name, name)) {
            return n;
        }
    }
    return NULL;
}

struct node *node_find(struct block_graph *g, const char *name)
{
    struct node *n = name ? node_find_any(g, name) : NULL;
    return n && n->opened && !n->closing ? n : NULL;
}

struct node *node_lookup(struct block_graph *g, const char *name, struct err *e)
{
    struct node *n = node_find(g, name);
    if (!n) {
        err_set(e, ENOENT, "Cannot find device='' nor node-name='%s'", name ? name : "");
    }
    return n;
}

void graph_allow_generated(struct block_graph *g, bool on)
{
    g->allow_generated = on;
}

static int choose_name(struct node *n, const char *name, struct err *e)
{
    struct block_graph *g = n->graph;
    if (!name || !*name) {
        do {
            snprintf(n->name, sizeof(n->name), "#block%03u", ++g->next_id);
        } while (node_find_any(g, n->name));
        n->generated_name = true;
        return 0;
    }
    bool generated = g->allow_generated && g_str_has_prefix(name, "#block");
    if (!generated && !id_wellformed(name)) {
        return err_set(e, EINVAL, "Invalid node-name: '%s'", name);
    }
    if (strlen(name) > NODE_NAME_MAX) {
        return err_set(e, EINVAL, "Node name too long");
    }
    if (node_find_any(g, name)) {
        return err_set(e, EEXIST, "Duplicate nodes with node-name='%s'", name);
    }
    g_strlcpy(n->name, name, sizeof(n->name));
    n->generated_name = generated;
    return 0;
}

/* --- life of a node --------------------------------------------------------------------------------------------- */

static void node_free(struct node *n)
{
    g_ptr_array_free(n->children, true);
    g_ptr_array_free(n->parents, true);
    g_ptr_array_free(n->bitmaps, true);
    json_object_put(n->options);
    g_free(n->owner);
    g_free(n->filename);
    g_free(n->full_name);
    g_free(n->auto_backing);
    g_free(n->backing_filename);
    g_free(n->backing_format);
    g_free(n->priv);
    g_free(n);
}

int node_create(struct block_graph *g, const struct block_driver *drv, const char *name, struct node **out,
                struct err *e)
{
    struct node *n = g_new0(struct node, 1);
    n->graph = g;
    n->serial = ++g->last_serial;
    n->drv = drv;
    n->refs = 1;
    n->shared = PERM_ALL;
    n->write_gen = 1; /* what was written before we came may still want flushing */
    n->filename = g_strdup("");
    n->children = g_ptr_array_new();
    n->parents = g_ptr_array_new();
    n->bitmaps = g_ptr_array_new();
    int rc = choose_name(n, name, e);
    if (rc < 0) {
        node_free(n);
        return rc;
    }
    n->priv = g_malloc0(drv->priv_size ? drv->priv_size : 1);
    g_ptr_array_add(g->nodes, n);
    *out = n;
    return 0;
}

struct node *node_ref(struct node *n)
{
    n->refs++;
    return n;
}

/* From here on nobody finds it any more, and references that are taken and dropped mean nothing. */
static void node_doom(struct node *n)
{
    n->closing = true;
    n->refs = 1;
    if (n->graph->ending) {
        g_ptr_array_remove_fast(n->graph->ending, n);
    }
}

/* Children that nobody holds any more join `dead`: a chain of any length is closed without recursion. */
static void node_close(struct node *n, GQueue *dead)
{
    log_trace(n->graph->log, block_close, "node %s", n->name);
    node_wait_idle(n);
    if (n->opened) {
        if (!n->read_only && !n->inactive && !node_is_unwritten(n)) {
            int told = n->flush_rc, rc = node_flush(n);
            if (rc < 0 && rc != told) {
                log_error(n->graph->log, "flushing node '%s' before closing it: %s", n->name, strerror(-rc));
            }
        }
        node_wait_idle(n);
        if (n->drv->close) {
            n->drv->close(n);
        }
    }
    while (n->bitmaps->len) {
        dirty_bitmap_destroy(g_ptr_array_index(n->bitmaps, n->bitmaps->len - 1));
    }
    while (n->children->len) {
        struct edge *ed = g_ptr_array_index(n->children, n->children->len - 1);
        struct node *child = ed->child;
        if (edge_remove(ed)) {
            node_doom(child); /* its turn comes when those before it have been flushed */
            g_queue_push_tail(dead, child);
        }
    }
    g_ptr_array_remove(n->graph->nodes, n);
    edges_forget(n);
    if (n->drv->debug_event && n->opened) {
        n->graph->debug_nodes--;
    }
    graph_update_gates(n->graph);
    node_free(n);
}

void node_unref(struct node *n)
{
    if (!n || --n->refs || n->closing) {
        return;
    }
    GQueue dead = G_QUEUE_INIT;
    node_doom(n);
    do {
        node_close(n, &dead);
    } while ((n = g_queue_pop_head(&dead)));
}

void node_set_size(struct node *n, uint64_t size)
{
    if (n->size == size) {
        return;
    }
    n->size = size;
    if (!n->opened) {
        return;
    }
    node_resize_bitmaps(n);
    for (guint i = 0; i < n->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(n->parents, i);
        if (!ed->parent) {
            if (ed->ops && ed->ops->resized) {
                ed->ops->resized(ed->user);
            }
        } else if (node_filter_edge(ed->parent) == ed && !ed->parent->drv->own_size) {
            node_set_size(ed->parent, size);
        } else if (ed == ed->parent->file && ed->parent->opened && ed->parent->drv->child_resized) {
            ed->parent->drv->child_resized(ed->parent);
        }
    }
}

/* --- walks ------------------------------------------------------------------------------------------------------ */

static bool reaches(struct node *from, struct node *to, unsigned stamp)
{
    if (from == to) {
        return true;
    }
    from->stamp = stamp;
    for (guint i = 0; i < from->children->len; i++) {
        struct edge *ed = g_ptr_array_index(from->children, i);
        if (ed->child->stamp != stamp && reaches(ed->child, to, stamp)) {
            return true;
        }
    }
    return false;
}

bool node_reaches(struct node *from, struct node *to)
{
    return reaches(from, to, ++from->graph->stamp);
}

struct edge *node_filter_edge(struct node *n)
{
    if (!n->drv->is_filter) {
        return NULL;
    }
    return n->drv->filter_backing ? n->backing : n->file;
}

struct node *node_skip_filters(struct node *n)
{
    struct edge *ed;
    while (n && (ed = node_filter_edge(n))) {
        n = ed->child;
    }
    return n;
}

struct node *node_backing(struct node *n)
{
    n = node_skip_filters(n);
    return n && n->backing ? n->backing->child : NULL;
}

static unsigned height_of(struct node *n, unsigned stamp)
{
    if (n->stamp == stamp) {
        return n->height;
    }
    n->stamp = stamp;
    unsigned h = 0;
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        h = MAX(h, height_of(ed->child, stamp) + 1);
    }
    n->height = h;
    return h;
}

void graph_update_heights(struct block_graph *g)
{
    unsigned stamp = ++g->stamp;
    for (guint i = 0; i < g->nodes->len; i++) {
        height_of(g_ptr_array_index(g->nodes, i), stamp);
    }
}
