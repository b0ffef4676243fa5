/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images that several programs have open, of which one at a time uses them: a machine on its way from one to another.
 *
 *     active ──inactivate: flushed, as after closing; locks released──▶ inactive: nothing is written, no lock is held
 *        ▲                                                                  │
 *        └──── activate: locks taken, metadata read anew, made ready ◀──────┘
 *
 * A node that is opened inactive (option "active", or graph_open_inactive()) has taken no lock either; what it has read
 * of its image may be old until it is active. Users may hold it meanwhile, guest devices with the permission to write.
 * An active node stands on active ones only. All [co].
 */
#pragma once

#include "block/graph.h"

/* From now on nodes are opened inactive, unless their options say otherwise; until graph_activate(). */
void graph_open_inactive(struct block_graph *g);

/* All nodes or none, but for those of `except` (struct node; NULL: none) and what is below these. Refused while jobs or
 * exports write; errors name them. `jobs_rest`: jobs do nothing until graph_activate(). */
int graph_inactivate(struct block_graph *g, const GPtrArray *except, bool jobs_rest, struct err *e);
/* All nodes or none: after a failure it can be tried again. Those that are active stay as they are. */
int graph_activate(struct block_graph *g, struct err *e);
/*
 * Others have become inactive: reads the metadata of all inactive nodes, which stay inactive; graph_activate() will not
 * do it again. Only while nobody else can become active.
 */
int graph_read_again(struct block_graph *g, struct err *e);

/* The node, and what only it stands on. Refused while an active node stands on it. */
int node_inactivate(struct node *n, struct err *e);
/* The node and all below. */
int node_activate(struct node *n, struct err *e);
