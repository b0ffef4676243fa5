/* SPDX-License-Identifier: BSD-2-Clause */
/* Edges: permissions, attaching and detaching, and moving them from node to node. */
#include "block/graph.h"

#include "base/cleanup.h"
#include "block/internal.h"

#include <string.h>

/* --- permissions ------------------------------------------------------------------------------------------------ */

static char *perm_text(unsigned perm)
{
    static const char *const names[] = {"consistent read", "write", "write unchanged", "resize"};
    GString *s = g_string_new(NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (perm & (1u << i)) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", names[i]);
        }
    }
    return g_string_free(s, false);
}

/* The job that fills the node or moves what it holds: its filter stays right above it. */
static const char *job_at(const struct node *n)
{
    const char *job = n->owner;
    for (guint i = 0; !job && i < n->parents->len; i++) {
        const struct edge *up = g_ptr_array_index(n->parents, i);
        job = up->pinned && up->parent ? up->parent->owner : NULL;
    }
    return job;
}

char *edge_describe(const struct edge *ed)
{
    const struct node *n = ed->parent;
    if (!n) {
        return ed->ops && ed->ops->describe ? ed->ops->describe(ed->user) : g_strdup("another user");
    }
    const char *job = job_at(n);
    if (n->owner) { /* a job's filter is known by its job */
        return g_strdup(n->owner);
    }
    return job ? g_strdup_printf("node '%s' of %s", n->name, job) : g_strdup_printf("node '%s'", n->name);
}

static bool lets(const struct edge *ed, const struct node *writer)
{
    return ed->lets && g_ptr_array_find(ed->lets, writer, NULL);
}

void edge_let(struct edge *ed, const struct node *writer)
{
    if (!ed->lets) {
        ed->lets = g_ptr_array_new();
    }
    if (!lets(ed, writer)) {
        g_ptr_array_add(ed->lets, (void *)(uintptr_t)writer);
    }
}

void edges_forget(const struct node *writer)
{
    GPtrArray *nodes = writer->graph->nodes;
    for (guint i = 0; i < nodes->len; i++) {
        const struct node *n = g_ptr_array_index(nodes, i);
        for (guint k = 0; k < n->children->len; k++) {
            const struct edge *ed = g_ptr_array_index(n->children, k);
            if (ed->lets) {
                g_ptr_array_remove(ed->lets, (void *)(uintptr_t)writer);
            }
        }
    }
}

static struct edge *step_down(struct node *n)
{
    struct edge *through = node_filter_edge(n);
    return through ? through : n->backing;
}

/* What shows the same as a chain from `from` down to `to` can do with all that the edges on the way can do with. */
static void inherit_lets(struct edge *ed, struct node *from, struct node *to)
{
    struct edge *step;
    for (struct node *n = from; n != to && (step = step_down(n)); n = step->child) {
        if (step->lets_others) {
            edge_let(ed, n);
        }
        for (guint i = 0; step->lets && i < step->lets->len; i++) {
            edge_let(ed, g_ptr_array_index(step->lets, i));
        }
    }
}

/* `ed` leaves out what is between. */
static void inherit_when_shortened(struct edge *ed, struct node *from, struct node *to)
{
    if (ed->parent && ed == ed->parent->backing && node_reaches(from, to)) {
        inherit_lets(ed, from, to);
    }
}

/* Whether those who use the child through `ed` can do with what `writer` writes to it. */
static bool lets_mirror(const struct edge *ed, const struct node *writer)
{
    if ((ed->shared & PERM_WRITE) || lets(ed, writer)) {
        return true;
    }
    const struct node *n = ed->parent;
    bool passes = n && n->parents->len && (ed->own_shared & PERM_WRITE || ed == n->backing);
    for (guint i = 0; passes && i < n->parents->len; i++) {
        passes = lets_mirror(g_ptr_array_index(n->parents, i), writer);
    }
    return passes;
}

/* The same for all that is written through `a`: a filter writes what those above it write. */
static bool lets_writes(const struct edge *b, const struct edge *a)
{
    struct node *n = a->parent;
    if (!n || lets_mirror(b, n)) {
        return n != NULL;
    }
    bool all = n->parents->len && node_filter_edge(n) == a && !(a->own_perm & PERM_WRITE);
    for (guint i = 0; all && i < n->parents->len; i++) {
        const struct edge *up = g_ptr_array_index(n->parents, i);
        all = !(up->perm & PERM_WRITE) || lets_writes(b, up);
    }
    return all;
}

/* A guest device's, whose machine is still to come: it does nothing yet, and others may do what they like. */
static bool rests(const struct edge *ed)
{
    return ed->waits && ed->child->graph->open_inactive;
}

/* What a does and b does not want done. */
static unsigned clash(const struct edge *a, const struct edge *b)
{
    unsigned perm = rests(a) || rests(b) ? 0 : a->perm & ~b->shared;
    return perm & PERM_WRITE && lets_writes(b, a) ? perm & ~(unsigned)(PERM_WRITE | PERM_RESIZE) : perm;
}

static int conflict_error(struct node *n, const struct edge *a, const struct edge *b, struct err *e)
{
    CLEANUP_FREE char *perms = perm_text(clash(a, b));
    CLEANUP_FREE char *needs = edge_describe(a);
    CLEANUP_FREE char *denies = edge_describe(b);
    return err_set(e, EPERM,
                   "Permission conflict on node '%s': permissions '%s' are both required by %s (uses node '%s' as '%s' "
                   "child) and unshared by %s (uses node '%s' as '%s' child).",
                   n->name, perms, needs, n->name, a->name, denies, n->name, b->name);
}

static int cumulate(struct node *n, unsigned *perm, unsigned *shared, struct err *e)
{
    *perm = 0;
    *shared = PERM_ALL;
    for (guint i = 0; i < n->parents->len; i++) {
        struct edge *a = g_ptr_array_index(n->parents, i);
        for (guint j = 0; j < n->parents->len; j++) {
            struct edge *b = g_ptr_array_index(n->parents, j);
            if (i != j && clash(a, b)) {
                return conflict_error(n, a, b, e);
            }
        }
        *perm |= rests(a) ? 0 : a->perm;
        *shared &= rests(a) ? PERM_ALL : a->shared;
    }
    if (n->force_share) {
        *shared = PERM_ALL;
    }
    return 0;
}

/* What a child edge asks for now that its parent is used like this. */
static void child_perms(const struct node *n, const struct edge *ed, unsigned *perm, unsigned *shared)
{
    bool first = ed == n->file || (n->drv->filter_backing && ed == n->backing);
    *perm = ed->own_perm;
    *shared = ed->if_used && !n->parents->len ? PERM_ALL : ed->own_shared;
    if (first && (n->drv->is_filter || n->drv->passes_perms)) {
        *perm |= n->perm;
        *shared &= ed->lets_others ? PERM_ALL : n->shared | PERM_WRITE_SAME;
    } else if (ed == n->backing && !n->drv->is_filter) {
        *perm = ed->own_perm & ~(n->perm & PERM_READ ? 0u : (unsigned)PERM_READ);
        if (n->shared & PERM_WRITE) {
            *shared |= PERM_WRITE | PERM_RESIZE;
        }
    }
    if (n->read_only && !ed->also_read_only) {
        *perm &= ~(unsigned)(PERM_WRITE | PERM_WRITE_SAME | PERM_RESIZE);
    }
    if (n->inactive) {
        *perm &= PERM_READ;
        *shared = PERM_ALL;
    }
}

int node_update_perms(struct node *n, struct err *e)
{
    unsigned perm, shared;
    int rc = cumulate(n, &perm, &shared, e);
    if (rc < 0) {
        return rc;
    }
    if ((perm & (PERM_WRITE | PERM_WRITE_SAME)) && n->read_only) {
        return err_set(e, EPERM, "Block node is read-only");
    }
    if (n->inactive) { /* its parents get what they ask for when it is active */
        perm &= PERM_READ;
        shared = PERM_ALL;
    }
    if (n->drv->set_perm && (rc = n->drv->set_perm(n, perm, shared, e)) < 0) {
        return rc;
    }
    n->perm = perm;
    n->shared = shared;
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        child_perms(n, ed, &perm, &shared);
        if (perm == ed->perm && shared == ed->shared) {
            continue;
        }
        ed->perm = perm;
        ed->shared = shared;
        if ((rc = node_update_perms(ed->child, e)) < 0) {
            return rc;
        }
    }
    return 0;
}

/* The state before the change was legal, so going back to it succeeds (a lock may be lost only to a stranger). */
static void restore_perms(struct node *n)
{
    if (node_update_perms(n, NULL) < 0) {
        log_warn(n->graph->log, "node '%s': permissions could not be restored", n->name);
    }
}

int edge_set_perm(struct edge *ed, unsigned perm, unsigned shared, struct err *e)
{
    unsigned old_perm = ed->own_perm, old_shared = ed->own_shared;
    ed->own_perm = perm;
    ed->own_shared = shared;
    unsigned was_perm = ed->perm, was_shared = ed->shared;
    if (ed->parent) {
        child_perms(ed->parent, ed, &ed->perm, &ed->shared);
    } else {
        ed->perm = perm;
        ed->shared = shared;
    }
    int rc = node_update_perms(ed->child, e);
    if (rc < 0) {
        ed->own_perm = old_perm;
        ed->own_shared = old_shared;
        ed->perm = was_perm;
        ed->shared = was_shared;
        restore_perms(ed->child);
    }
    return rc;
}

/* --- attaching and detaching ------------------------------------------------------------------------------------ */

static void edge_link(struct edge *ed, struct node *child)
{
    ed->child = node_ref(child);
    g_ptr_array_add(child->parents, ed);
}

static void edge_unlink(struct edge *ed)
{
    g_ptr_array_remove(ed->child->parents, ed);
}

static void parent_slots(struct edge *ed, const char *name)
{
    struct node *n = ed->parent;
    if (!strcmp(name, "backing") && (n->drv->takes_backing || n->drv->filter_backing)) {
        n->backing = ed;
    } else if (!n->file && (!strcmp(name, "file") || (n->drv->is_filter && !n->drv->filter_backing))) {
        n->file = ed;
    }
}

static struct edge *edge_new(const struct edge_spec *spec)
{
    struct edge *ed = g_new0(struct edge, 1);
    ed->name = g_strdup(spec->name);
    ed->perm = ed->own_perm = spec->perm;
    ed->shared = ed->own_shared = spec->shared;
    ed->ops = spec->ops;
    ed->user = spec->user;
    ed->also_read_only = spec->also_read_only;
    ed->if_used = spec->if_used;
    ed->pinned = spec->pinned;
    ed->waits = spec->waits;
    if (spec->lets) {
        edge_let(ed, spec->lets);
    }
    return ed;
}

void edge_set_opened(struct edge *ed)
{
    ed->opened = true;
    ed->child->heir_of = ed->parent->serial;
}

static bool is_child(const struct node *n, const struct node *child)
{
    bool is = false;
    for (guint i = 0; i < n->children->len && !is; i++) {
        is = ((const struct edge *)g_ptr_array_index(n->children, i))->child == child;
    }
    return is;
}

static const struct node *with_serial(const struct block_graph *g, uint64_t serial)
{
    for (guint i = 0; i < g->nodes->len; i++) {
        const struct node *n = g_ptr_array_index(g->nodes, i);
        if (n->serial == serial) {
            return n;
        }
    }
    return NULL;
}

/* The images between have gone: what was opened below them is n's own now. */
static void inherit_heir(const struct node *n, struct node *child)
{
    const struct node *above = child;
    while (above && above->heir_of && above->heir_of != n->serial) {
        above = with_serial(n->graph, above->heir_of);
    }
    if (above && above->heir_of) {
        child->heir_of = n->serial;
    }
}

/* Without closing: true when the child has no reference left. */
bool edge_remove(struct edge *ed)
{
    struct node *child = ed->child, *parent = ed->parent;
    edge_unlink(ed);
    if (parent) {
        g_ptr_array_remove(parent->children, ed);
        if (child->heir_of == parent->serial && !is_child(parent, child)) {
            child->heir_of = 0;
        }
        if (parent->file == ed) {
            parent->file = NULL;
        }
        if (parent->backing == ed) {
            parent->backing = NULL;
        }
    }
    g_clear_pointer(&ed->lets, g_ptr_array_unref);
    g_free(ed->name);
    g_free(ed);
    if (--child->refs == 0 && !child->closing) {
        return true;
    }
    restore_perms(child);
    graph_update_heights(child->graph);
    graph_update_gates(child->graph);
    return false;
}

static void edge_drop(struct edge *ed)
{
    struct node *child = ed->child;
    child->refs++; /* edge_remove() only counts; node_unref() closes */
    edge_remove(ed);
    node_unref(child);
}

static int check_active(const struct edge *ed, const struct node *child, struct err *e)
{
    if (!child->inactive) {
        return 0;
    }
    if (ed->parent) {
        return ed->parent->inactive ? 0
                                    : err_set(e, EPERM, "Inactive '%s' can't be a %s child of active '%s'", child->name,
                                              ed->name, ed->parent->name);
    }
    bool writes = ed->own_perm & (PERM_WRITE | PERM_WRITE_SAME | PERM_RESIZE);
    return ed->waits || !writes ? 0
                                : err_set(e, EPERM,
                                          "Node '%s' is inactive and cannot be written to: blockdev-set-active makes "
                                          "it active",
                                          child->name);
}

static int edge_attach(struct edge *ed, struct node *child, struct node *above, struct err *e)
{
    if (above) {
        inherit_lets(ed, above, child);
    }
    edge_link(ed, child);
    if (ed->parent) {
        g_ptr_array_add(ed->parent->children, ed);
        parent_slots(ed, ed->name);
        child_perms(ed->parent, ed, &ed->perm, &ed->shared);
    }
    graph_update_heights(child->graph);
    int rc = 0;
    for (guint i = 0; i < child->graph->nodes->len && !rc; i++) {
        struct node *n = g_ptr_array_index(child->graph->nodes, i);
        if (n->height > GRAPH_MAX_HEIGHT) {
            rc =
                err_set(e, ELOOP, "Block graph is too deep at node '%s': at most %d layers", n->name, GRAPH_MAX_HEIGHT);
        }
    }
    rc = rc ? rc : check_active(ed, child, e);
    rc = rc ? rc : node_update_perms(child, e);
    if (rc < 0) {
        edge_drop(ed);
        return rc;
    }
    graph_update_gates(child->graph);
    return 0;
}

int edge_open(struct node *child, const struct edge_spec *spec, struct edge **out, struct err *e)
{
    struct edge *ed = edge_new(spec);
    int rc = edge_attach(ed, child, spec->above, e);
    *out = rc < 0 ? NULL : ed;
    return rc;
}

void edge_wait_idle(struct edge *ed)
{
    while (ed->in_flight) {
        co_queue_wait(&ed->idle_waiters);
    }
}

void edge_close(struct edge *ed)
{
    if (!ed) {
        return;
    }
    edge_wait_idle(ed);
    edge_drop(ed);
}

int node_attach_child(struct node *n, struct node *child, const struct edge_spec *spec, struct edge **out,
                      struct err *e)
{
    if (node_reaches(child, n)) {
        *out = NULL;
        return err_set(e, ELOOP, "Making '%s' a %s child of '%s' would create a cycle", child->name, spec->name,
                       n->name);
    }
    struct edge *ed = edge_new(spec);
    ed->parent = n;
    int rc = edge_attach(ed, child, spec->above, e);
    *out = rc < 0 ? NULL : ed;
    return rc;
}

void node_detach_child(struct node *n, struct edge *ed)
{
    if (ed) {
        edge_wait_idle(ed);
        edge_drop(ed);
    }
}

/* --- changing the graph ----------------------------------------------------------------------------------------- */

static bool in_list(struct edge *const *list, const struct edge *ed)
{
    for (; list && *list; list++) {
        if (*list == ed) {
            return true;
        }
    }
    return false;
}

static void move_edge(struct edge *ed, struct node *to)
{
    struct node *from = ed->child;
    edge_unlink(ed);
    edge_link(ed, to);
    from->refs--; /* callers hold a reference of their own */
    ed->opened = false;
}

/* What users wrote to `from` and did not flush must survive although their next flush goes to `to`. */
static void carry_unflushed(struct node *from, struct node *to)
{
    to->write_gen++;
    if (node_skip_filters(to) != node_skip_filters(from)) {
        if (from->opened && !from->read_only && from->write_gen != from->flushed_gen) {
            int rc = node_flush(from);
            if (rc < 0) {
                log_warn(from->graph->log, "flushing node '%s' before '%s' takes its place: %s", from->name, to->name,
                         strerror(-rc));
            }
        }
    }
}

static void tell_moved(struct edge *ed, uint64_t old_size)
{
    struct node *to = ed->child;
    if (!ed->parent) {
        if (ed->ops && ed->ops->retargeted) {
            ed->ops->retargeted(ed->user);
        }
        if (old_size != to->size && ed->ops && ed->ops->resized) {
            ed->ops->resized(ed->user);
        }
        return;
    }
    ed->parent->write_gen++;
    if (node_filter_edge(ed->parent) == ed) {
        node_set_size(ed->parent, to->size);
        node_refresh_name(ed->parent);
    }
}

static int check_move(struct edge *const *edges, guint count, struct node *to, struct err *e)
{
    for (guint i = 0; i < count; i++) {
        struct node *parent = edges[i]->parent;
        if (parent && node_reaches(to, parent)) {
            return err_set(e, ELOOP, "Making '%s' a %s child of '%s' would create a cycle", to->name, edges[i]->name,
                           parent->name);
        }
        int rc = check_active(edges[i], to, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Both nodes are drained and referenced. All or nothing. */
static int move_edges(GPtrArray *edges, struct node *from, struct node *to, struct err *e)
{
    struct edge **list = (struct edge **)edges->pdata;
    int rc = check_move(list, edges->len, to, e);
    if (rc < 0) {
        return rc;
    }
    for (guint i = 0; i < edges->len; i++) {
        move_edge(list[i], to);
    }
    graph_update_heights(to->graph);
    rc = node_update_perms(from, e);
    if (!rc) {
        rc = node_update_perms(to, e);
    }
    if (rc < 0) {
        for (guint i = 0; i < edges->len; i++) {
            move_edge(list[i], from);
        }
        graph_update_heights(to->graph);
        restore_perms(to);
        restore_perms(from);
        return rc;
    }
    graph_update_gates(to->graph);
    for (guint i = 0; i < edges->len; i++) {
        if (list[i]->parent) {
            inherit_heir(list[i]->parent, to);
        }
        tell_moved(list[i], from->size);
    }
    return 0;
}

/* Both stay and stand still while edges move from one to the other. */
static void hold_still(struct node *from, struct node *to)
{
    node_ref(from);
    node_ref(to);
    node_drain_begin(from);
    node_drain_begin(to);
}

static void let_go(struct node *from, struct node *to)
{
    node_drain_end(to);
    node_drain_end(from);
    node_unref(from);
    node_unref(to);
}

/* Both stand still, and nobody has waited since that was found out. */
static int move_users(struct node *from, struct node *to, struct edge *const *keep, struct err *e)
{
    GPtrArray *edges = g_ptr_array_new();
    for (guint i = 0; i < from->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(from->parents, i);
        bool loop = ed->parent && node_reaches(to, ed->parent); /* `to` reads from `from` through it */
        if (!loop && !ed->pinned && !in_list(keep, ed)) {
            inherit_when_shortened(ed, from, to);
            g_ptr_array_add(edges, ed);
        }
    }
    int rc = move_edges(edges, from, to, e);
    log_trace(from->graph->log, block_replace, "node %s by %s: %s", from->name, to->name, rc < 0 ? "failed" : "done");
    g_ptr_array_free(edges, true);
    return rc;
}

int node_replace(struct node *from, struct node *to, struct edge *const *keep, struct err *e)
{
    if (from == to) {
        return 0;
    }
    hold_still(from, to);
    carry_unflushed(from, to);
    int rc = move_users(from, to, keep, e);
    let_go(from, to);
    return rc;
}

struct node *edge_drain_child(struct edge *ed)
{
    for (;;) {
        struct node *n = ed->child;
        node_drain_begin(n);
        if (ed->child == n) {
            return n;
        }
        node_drain_end(n);
    }
}

int edge_bypass(struct edge *ed, struct err *e)
{
    struct node *from = node_ref(ed->parent);
    ed->pinned = false; /* nobody goes above what is about to go */
    node_drain_begin(from);
    struct node *to = edge_drain_child(ed);
    to->write_gen++; /* what was not flushed through `from` is with the next flush */
    int rc = move_users(from, to, NULL, e);
    node_drain_end(to);
    node_drain_end(from);
    node_unref(from);
    return rc;
}

int edge_shorten(struct edge *ed, struct node *to, struct err *e)
{
    inherit_when_shortened(ed, ed->child, to);
    return edge_retarget(ed, to, e);
}

int edge_retarget(struct edge *ed, struct node *to, struct err *e)
{
    struct node *from = ed->child;
    if (from == to) {
        return 0;
    }
    hold_still(from, to);
    int rc = 0;
    carry_unflushed(from, to);
    if (ed->child == from) {
        GPtrArray *edges = g_ptr_array_new();
        g_ptr_array_add(edges, ed);
        rc = move_edges(edges, from, to, e);
        log_trace(from->graph->log, block_replace, "node %s by %s below %s: %s", from->name, to->name, ed->name,
                  rc < 0 ? "failed" : "done");
        g_ptr_array_free(edges, true);
    } else {
        rc = err_set(e, EBUSY, "Node '%s' was replaced meanwhile", from->name);
    }
    let_go(from, to);
    return rc;
}
