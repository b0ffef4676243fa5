/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the core share among themselves; not for drivers, jobs or users. */
#pragma once

#include "block/debug.h"
#include "block/dirty.h"
#include "block/driver.h"

struct block_graph {
    struct loop *loop;
    struct event_bus *bus;
    struct log *log;
    GPtrArray *nodes;    /* in order of creation; those that are being opened too */
    GPtrArray *backends; /* struct backend *; NULL until there is one (backend.c) */
    unsigned next_id, stamp;
    uint64_t last_serial;
    uint64_t absorptions; /* chain_absorbed() */
    unsigned debug_nodes; /* blkdebug nodes in the graph */
    block_debug_notify_fn *debug_notify;
    void *debug_opaque;
    struct co_queue debug_waiters; /* for a request to stop at a breakpoint */
    bool debug_over;               /* block_debug_end() */
    graph_object_fn *object_fn;
    void *object_opaque;
    bool metadata_only, for_guest, allow_generated, open_inactive;
    struct co_mutex changing; /* graph_change_begin() */
    unsigned change_depth;
    GPtrArray *ending; /* struct node *, not referenced: chain_set_ending(); NULL until there is one */
};

/* --- graph.c, edge.c --- */
/* What is said of this child of the parent's is said of the node. */
static inline bool edge_leads_to_heir(const struct edge *ed)
{
    return ed->parent && ed->child->heir_of == ed->parent->serial;
}
/* The child was opened for this edge. */
void edge_set_opened(struct edge *ed);
/* Registers a name ("" or NULL: makes one up). The caller has the only reference. */
int node_create(struct block_graph *g, const struct block_driver *drv, const char *name, struct node **out,
                struct err *e);
/* Also those that are being opened. */
struct node *node_find_any(struct block_graph *g, const char *name);
/* Drops the edge; true when it was the child's last reference: the caller closes it. */
bool edge_remove(struct edge *ed);
/* `ed` can do with what `writer` writes to its child: graph.h, struct edge. */
void edge_let(struct edge *ed, const struct node *writer);
/* `writer` closes: no edge lets it write any more. */
void edges_forget(const struct node *writer);
/* Recomputes n's perm and shared and what follows from them below. */
int node_update_perms(struct node *n, struct err *e);
void graph_update_heights(struct block_graph *g);
/* Gates of user edges follow `drained` of what they reach; calls the users' and the drivers' functions. */
void graph_update_gates(struct block_graph *g);
void edge_wait_idle(struct edge *ed);
void node_wait_idle(struct node *n); /* n alone */

/* --- naming.c --- */
/* A driver that is named by nothing but its options sets no name: n is called after its file, or in full. */
void node_take_name(struct node *n);
/* The backing image that n has now is the one that its header names. */
void node_backing_is_named(struct node *n);
/* The names of n and of those above it that are called after it, now that one of n's children is another. */
void node_refresh_name(struct node *n);

/* --- request.c --- */
enum req_type { REQ_READ, REQ_WRITE, REQ_ZERO, REQ_DISCARD, REQ_TRUNCATE, REQ_FLUSH, REQ_LOCK };

struct request {
    GList link; /* in node->tracked */
    struct node *node;
    uint64_t off, len; /* what overlap is judged by */
    enum req_type type;
    bool serialising;
    struct co *co;
    struct request *waiting_for;
    struct co_queue waiters;
};
void request_begin(struct request *r, struct node *n, enum req_type type, uint64_t off, uint64_t len);
/* Waits for whatever overlaps and must go first. */
void request_wait(struct request *r);
/* Widens to `align` and from now on holds others back; waits as request_wait(). */
void request_serialise(struct request *r, uint64_t align);
void request_end(struct request *r);
static inline void node_in_flight_inc(struct node *n)
{
    n->in_flight++;
}
void node_in_flight_dec(struct node *n);

/* --- io.c --- */
int node_do_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
/* v NULL: zeroes. */
int node_do_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int node_do_zero(struct node *n, struct request *r, uint64_t off, uint64_t len, unsigned flags);
int node_do_discard(struct node *n, uint64_t off, uint64_t len);
/* Runs fn on a fresh stack when n stands so high that the layers below it would need more than one. */
bool node_needs_stack(const struct node *n);
int block_on_new_stack(struct loop *l, int (*fn)(void *arg), void *arg);

/* --- dirty.c --- */
void node_mark_dirty(struct node *n, uint64_t off, uint64_t len);
/* [co] before a request that will make the range dirty: what the image must know of that is in it when this returns. */
int node_intend_dirty(struct node *n, uint64_t off, uint64_t len);
void node_resize_bitmaps(struct node *n);
