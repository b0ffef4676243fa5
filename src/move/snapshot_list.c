/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/snapshot.h"

#include "block/snapshot.h"
#include "move/snapshot_nodes.h"

static void listed_free(void *p)
{
    struct snapshot_listed *x = p;
    snapshot_free(x->snapshot);
    g_free(x);
}

static void add(GPtrArray *out, struct node *n, const struct snapshot *s)
{
    struct snapshot_listed *x = g_new(struct snapshot_listed, 1);
    *x = (struct snapshot_listed){n, snapshot_copy(s)};
    g_ptr_array_add(out, x);
}

static bool on_all(GPtrArray *nodes, const char *tag)
{
    bool all = true;
    for (guint i = 0; all && i < nodes->len; i++) {
        struct snapshot *x = node_snapshot_find(g_ptr_array_index(nodes, i), NULL, tag);
        all = x != NULL;
        snapshot_free(x);
    }
    return all;
}

/* Those of n that are on all nodes, or those that are not. */
static void add_of(GPtrArray *out, GPtrArray *nodes, struct node *n, bool all)
{
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    for (guint i = 0; list && i < list->len; i++) {
        const struct snapshot *s = g_ptr_array_index(list, i);
        if (on_all(nodes, s->name) == all) {
            add(out, all ? NULL : n, s);
        }
    }
}

GPtrArray *snapshot_list_all(struct block_graph *g, struct err *e)
{
    g_autoptr(GPtrArray) nodes = snapshot_written_nodes(g);
    struct node *first = snapshot_default_vmstate(nodes, e);
    if (!first) {
        return NULL;
    }
    GPtrArray *out = g_ptr_array_new_with_free_func(listed_free);
    add_of(out, nodes, first, true);
    for (guint i = 0; i < nodes->len; i++) {
        add_of(out, nodes, g_ptr_array_index(nodes, i), false);
    }
    return out;
}
