/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Draining. A node is quiesced when it, or anything below it, is drained by name; the gate of a user's edge is
 * closed while its node is quiesced. Both are derived afresh after each drain and each change of the graph, so
 * an edge that moves between two drained nodes simply stays closed.
 */
#include "block/graph.h"

#include "block/internal.h"

static bool wants_quiet(struct node *n, unsigned stamp, GHashTable *quiet)
{
    if (n->stamp == stamp) {
        return g_hash_table_contains(quiet, n);
    }
    n->stamp = stamp;
    bool yes = n->drained > 0;
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        yes |= wants_quiet(ed->child, stamp, quiet);
    }
    if (yes) {
        g_hash_table_add(quiet, n);
    }
    return yes;
}

static void set_gate(struct edge *ed, bool closed)
{
    ed->gate = closed;
    if (closed) {
        if (ed->ops && ed->ops->drained_begin) {
            ed->ops->drained_begin(ed->user);
        }
        return;
    }
    co_queue_wake_all(&ed->gate_waiters);
    if (ed->ops && ed->ops->drained_end) {
        ed->ops->drained_end(ed->user);
    }
}

static void set_quiesced(struct node *n, bool quiesced)
{
    n->quiesced = quiesced;
    if (!n->opened) {
        return;
    }
    if (quiesced && n->drv->drain_begin) {
        n->drv->drain_begin(n);
    } else if (!quiesced && n->drv->drain_end) {
        n->drv->drain_end(n);
    }
}

/* Brings one node or edge in line; what it calls may change the graph, so the search starts over after each. */
static bool settle_one(struct block_graph *g)
{
    unsigned stamp = ++g->stamp;
    GHashTable *quiet = g_hash_table_new(NULL, NULL);
    bool changed = false;
    for (guint i = 0; i < g->nodes->len && !changed; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);
        bool yes = wants_quiet(n, stamp, quiet);
        for (guint j = 0; j < n->parents->len && !changed; j++) {
            struct edge *ed = g_ptr_array_index(n->parents, j);
            if (!ed->parent && !!ed->gate != yes) {
                changed = true;
                set_gate(ed, yes);
            }
        }
        if (!changed && n->quiesced != yes) {
            changed = true;
            set_quiesced(n, yes);
        }
    }
    g_hash_table_destroy(quiet);
    return changed;
}

void graph_update_gates(struct block_graph *g)
{
    bool any = false;
    for (guint i = 0; i < g->nodes->len && !any; i++) {
        struct node *n = g_ptr_array_index(g->nodes, i);
        any = n->drained || n->quiesced;
        for (guint j = 0; j < n->parents->len && !any; j++) {
            struct edge *ed = g_ptr_array_index(n->parents, j);
            any = ed->gate != 0;
        }
    }
    while (any && settle_one(g)) {
    }
}

void node_in_flight_dec(struct node *n)
{
    if (--n->in_flight == 0 && !co_queue_empty(&n->idle_waiters)) {
        co_queue_wake_all(&n->idle_waiters);
    }
}

void node_wait_idle(struct node *n)
{
    while (n->in_flight) {
        co_queue_wait(&n->idle_waiters);
    }
}

static struct node *busy_at_or_above(struct node *n, unsigned stamp)
{
    n->stamp = stamp;
    for (guint i = 0; i < n->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(n->parents, i);
        if (ed->parent && ed->parent->stamp != stamp) {
            struct node *busy = busy_at_or_above(ed->parent, stamp);
            if (busy) {
                return busy;
            }
        }
    }
    return n->in_flight ? n : NULL;
}

void node_drain_begin(struct node *n)
{
    node_ref(n);
    n->drained++;
    graph_update_gates(n->graph);
    struct node *busy;
    /* From the top downwards: a request that is under way above still comes down. */
    while ((busy = busy_at_or_above(n, ++n->graph->stamp))) {
        bool closing = busy->closing; /* its last request is the flush of its end: no reference keeps it */
        if (!closing) {
            node_ref(busy);
        }
        co_queue_wait(&busy->idle_waiters);
        if (!closing) {
            node_unref(busy);
        }
    }
}

void node_drain_end(struct node *n)
{
    n->drained--;
    graph_update_gates(n->graph);
    node_unref(n);
}
