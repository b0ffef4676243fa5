/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/inactive.h"

#include "base/cleanup.h"
#include "block/internal.h"

#include <string.h>

static const unsigned writes = PERM_WRITE | PERM_WRITE_SAME | PERM_RESIZE;

void graph_open_inactive(struct block_graph *g)
{
    g->open_inactive = true;
}

bool graph_opens_inactive(const struct block_graph *g)
{
    return g->open_inactive;
}

/* --- which nodes ------------------------------------------------------------------------------------------------ */

static int by_height(const void *a, const void *b)
{
    const struct node *const *x = a, *const *y = b;
    return (int)(*y)->height - (int)(*x)->height;
}

static void set_add(GPtrArray *set, struct node *n)
{
    if (!g_ptr_array_find(set, n, NULL)) {
        g_ptr_array_add(set, node_ref(n));
    }
}

static bool is_below(struct node *n, const GPtrArray *tops)
{
    for (guint i = 0; tops && i < tops->len; i++) {
        if (node_reaches(g_ptr_array_index(tops, i), n)) {
            return true;
        }
    }
    return false;
}

/* Nodes that are `inactive`, or not, but none that those of `except` (NULL: none) stand on. Referenced. */
static GPtrArray *set_of_all(struct block_graph *g, bool inactive, const GPtrArray *except)
{
    GPtrArray *set = g_ptr_array_new(), *all = graph_nodes(g);
    for (guint i = 0; i < all->len; i++) {
        struct node *n = g_ptr_array_index(all, i);
        if (n->inactive == inactive && !is_below(n, except)) {
            set_add(set, n);
        }
    }
    g_ptr_array_free(all, true);
    return set;
}

static bool stands_alone(const GPtrArray *set, const struct node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *up = g_ptr_array_index(n->parents, i);
        if (up->parent && !up->parent->inactive && !g_ptr_array_find((GPtrArray *)(uintptr_t)set, up->parent, NULL)) {
            return false;
        }
    }
    return true;
}

/* Of n and what is below: to activate all that is inactive, else all that nobody else needs active. */
static GPtrArray *set_below(struct node *n, bool inactive)
{
    GPtrArray *set = g_ptr_array_new();
    set_add(set, n);
    for (guint i = 0; i < set->len; i++) {
        const struct node *x = g_ptr_array_index(set, i);
        for (guint k = 0; k < x->children->len; k++) {
            struct node *child = ((struct edge *)g_ptr_array_index(x->children, k))->child;
            if (child->inactive == inactive && (inactive || stands_alone(set, child))) {
                set_add(set, child);
            }
        }
    }
    return set;
}

static void set_free(GPtrArray *set)
{
    for (guint i = 0; i < set->len; i++) {
        node_unref(g_ptr_array_index(set, i));
    }
    g_ptr_array_free(set, true);
}

/* --- what is done to all of them -------------------------------------------------------------------------------- */

static void drain(const GPtrArray *set, bool begin)
{
    for (guint i = 0; i < set->len; i++) {
        begin ? node_drain_begin(g_ptr_array_index(set, i)) : node_drain_end(g_ptr_array_index(set, i));
    }
}

static void mark(const GPtrArray *set, bool inactive)
{
    for (guint i = 0; i < set->len; i++) {
        struct node *n = g_ptr_array_index(set, i);
        n->inactive = inactive;
        if (json_object_object_get_ex(n->options, "active", NULL)) {
            json_object_object_add(n->options, "active", json_object_new_boolean(!inactive));
        }
    }
}

static int update_perms(const GPtrArray *set, struct err *e)
{
    int rc = 0;
    for (guint i = 0; i < set->len && rc == 0; i++) {
        rc = node_update_perms(g_ptr_array_index(set, i), e);
    }
    return rc;
}

/* Locks go; what could fail is only that one of them cannot be had back later. */
static void lay_down(const GPtrArray *set)
{
    mark(set, true);
    if (update_perms(set, NULL) < 0) {
        log_warn(((struct node *)g_ptr_array_index(set, 0))->graph->log,
                 "inactive nodes: permissions stay as they are");
    }
}

/* --- inactive --------------------------------------------------------------------------------------------------- */

static int check_user(const struct node *n, const struct edge *up, struct err *e)
{
    if (up->parent || up->waits || !(up->perm & writes)) {
        return 0;
    }
    CLEANUP_FREE char *who = edge_describe(up);
    return err_set(e, EBUSY, "Node '%s' cannot become inactive: %s writes to it", n->name, who);
}

static int check_node(const struct node *n, bool jobs_rest, struct err *e)
{
    if (n->owner && !jobs_rest) {
        return err_set(e, EBUSY, "Node '%s' cannot become inactive: it belongs to %s, which has to end first", n->name,
                       n->owner);
    }
    if (n->snapshots_making) {
        return err_set(e, EBUSY, "Node '%s' cannot become inactive: a snapshot of it is being taken", n->name);
    }
    int rc = 0;
    for (guint i = 0; i < n->parents->len && rc == 0; i++) {
        rc = check_user(n, g_ptr_array_index(n->parents, i), e);
    }
    for (guint i = 0; i < n->bitmaps->len && rc == 0; i++) {
        const struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        rc = b->persistent && !jobs_rest ? dirty_bitmap_check(b, BITMAP_BUSY, e) : 0;
    }
    return rc;
}

static int put_down_one(struct node *n, struct err *e)
{
    if (n->read_only) {
        return 0;
    }
    int rc = node_flush(n);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not flush node '%s'", n->name);
    }
    rc = n->drv->inactivate ? n->drv->inactivate(n, e) : 0;
    return rc;
}

static int make_ready(struct node *n, struct err *e)
{
    return n->drv->activate && !n->read_only ? n->drv->activate(n, e) : 0;
}

static int inactivate_set(GPtrArray *set, bool jobs_rest, struct err *e)
{
    int rc = 0;
    guint done = 0;
    g_ptr_array_sort(set, by_height);
    drain(set, true);
    for (guint i = 0; i < set->len && rc == 0; i++) {
        rc = check_node(g_ptr_array_index(set, i), jobs_rest, e);
    }
    for (; done < set->len && rc == 0; done++) {
        rc = put_down_one(g_ptr_array_index(set, done), e);
    }
    if (rc == 0) {
        lay_down(set);
    }
    while (rc < 0 && done-- > 0) {
        CLEANUP_ERR struct err why = ERR_INIT;
        struct node *n = g_ptr_array_index(set, done);
        if (make_ready(n, &why) < 0) {
            log_error(n->graph->log, "node '%s': %s", n->name, err_text(&why));
        }
    }
    drain(set, false);
    return rc;
}

int graph_inactivate(struct block_graph *g, const GPtrArray *except, bool jobs_rest, struct err *e)
{
    graph_change_begin(g);
    GPtrArray *set = set_of_all(g, false, except);
    int rc = inactivate_set(set, jobs_rest, e);
    set_free(set);
    graph_change_end(g);
    return rc;
}

int node_inactivate(struct node *n, struct err *e)
{
    struct block_graph *g = n->graph;
    int rc = 0;
    node_ref(n);
    graph_change_begin(g);
    GPtrArray *set = set_below(n, false);
    if (!n->inactive) {
        rc = stands_alone(set, n) ? inactivate_set(set, false, e) : err_set(e, EPERM, "Node has active parent node");
    }
    set_free(set);
    graph_change_end(g);
    node_unref(n);
    return rc;
}

/* --- active ------------------------------------------------------------------------------------------------------ */

/* It may be nobody's any more: what stood on it has opened another one. */
static bool is_left(const struct node *n)
{
    return !n->monitor_owned && !n->parents->len && n->refs == 1;
}

/* Children first. */
static int read_again(const GPtrArray *set, struct err *e)
{
    int rc = 0;
    for (guint i = set->len; i-- > 0 && rc == 0;) {
        struct node *n = g_ptr_array_index(set, i);
        if (!n->read_again && !is_left(n)) {
            CLEANUP_FREE char *named = g_strdup(n->backing_filename);
            rc = n->drv->read_again ? n->drv->read_again(n, e) : 0;
            if (g_strcmp0(named, n->backing_filename)) {
                g_clear_pointer(&n->auto_backing, g_free);
            }
            n->read_again = rc == 0;
            n->write_gen++;
            rc = rc < 0 ? err_wrap(e, "Node '%s' cannot become active", n->name) : 0;
        }
    }
    return rc;
}

static int make_all_ready(const GPtrArray *set, struct err *e)
{
    int rc = 0;
    guint i = set->len;
    while (i > 0 && rc == 0) {
        struct node *n = g_ptr_array_index(set, --i);
        rc = is_left(n) ? 0 : make_ready(n, e);
        n->read_again = false;
    }
    for (; rc < 0 && i < set->len; i++) {
        put_down_one(g_ptr_array_index(set, i), NULL);
    }
    return rc;
}

static int activate_set(GPtrArray *set, struct err *e)
{
    g_ptr_array_sort(set, by_height);
    drain(set, true);
    mark(set, false);
    int rc = update_perms(set, e);
    rc = rc < 0 ? rc : read_again(set, e);
    rc = rc < 0 ? rc : make_all_ready(set, e);
    if (rc < 0) {
        lay_down(set);
    }
    drain(set, false);
    return rc;
}

/* From now on guest devices do nothing, or what they are there for, to nodes that are active already. */
static int let_devices_rest(struct block_graph *g, bool rest, struct err *e)
{
    GPtrArray *active = set_of_all(g, false, NULL);
    g->open_inactive = rest;
    int rc = update_perms(active, e);
    set_free(active);
    return rc;
}

int graph_activate(struct block_graph *g, struct err *e)
{
    graph_change_begin(g);
    GPtrArray *set = set_of_all(g, true, NULL);
    bool was = g->open_inactive;
    int rc = was ? let_devices_rest(g, false, e) : 0;
    rc = rc < 0 || !set->len ? rc : activate_set(set, e);
    if (was && rc < 0) {
        let_devices_rest(g, true, NULL);
    }
    set_free(set);
    graph_change_end(g);
    return rc;
}

int node_activate(struct node *n, struct err *e)
{
    struct block_graph *g = n->graph;
    node_ref(n);
    graph_change_begin(g);
    int rc = 0;
    if (n->inactive) {
        GPtrArray *set = set_below(n, true);
        rc = activate_set(set, e);
        set_free(set);
    }
    graph_change_end(g);
    node_unref(n);
    return rc;
}

int graph_read_again(struct block_graph *g, struct err *e)
{
    graph_change_begin(g);
    GPtrArray *set = set_of_all(g, true, NULL);
    g_ptr_array_sort(set, by_height);
    drain(set, true);
    int rc = read_again(set, e);
    drain(set, false);
    set_free(set);
    graph_change_end(g);
    return rc;
}
