/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/debug.h"

#include "block/internal.h"

const char *const block_debug_events[] = {
    "l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters", "l2_load", "l2_update", "l2_update_compressed", "l2_alloc_cow_read", "l2_alloc_write",
    "read_aio", "read_backing_aio", "read_compressed", "write_aio", "write_compressed", "vmstate_load", "vmstate_save",
    "cow_read", "cow_write", "reftable_load", "reftable_grow", "reftable_update", "refblock_load", "refblock_update",
    "refblock_update_part", "refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write",
    "refblock_alloc_write_blocks", "refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc",
    "cluster_alloc_bytes", "cluster_alloc_space", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev_rmw_head",
    "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail", "pwritev", "pwritev_zero", "pwritev_done",
    "empty_image_prepare", "cor_write", "none",
    /* ours: stages of live copy and of streaming */
    "copy_bulk", "copy_bulk_finished", "copy_dirty", "copy_switch", "copy_switched", "stream_step", "stream_relink",
    NULL};

static struct node *find_blkdebug(struct node *n)
{
    while (n && !n->drv->debug_event) {
        struct edge *ed = node_filter_edge(n) ? node_filter_edge(n) : n->file;
        n = ed ? ed->child : NULL;
    }
    return n;
}

void block_debug_event(struct node *n, const char *event)
{
    if (__builtin_expect(!n || !n->graph->debug_nodes, 1)) {
        return;
    }
    n = find_blkdebug(n);
    if (n) {
        n->drv->debug_event(n, event);
    }
}

void block_debug_event_at(struct node *n, const char *event)
{
    if (__builtin_expect(n->drv->debug_event != NULL, 0)) {
        n->drv->debug_event(n, event);
    }
}

void block_debug_set_notify(struct block_graph *g, block_debug_notify_fn *fn, void *opaque)
{
    g->debug_notify = fn;
    g->debug_opaque = opaque;
}
