/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Named moments in the life of a request or a job at which a test may make things fail or stop: what
 * blkdebug's rules name (QEMU: BlkdebugEvent). Nearly free while no blkdebug node is in the graph.
 */
#pragma once

#include "block/graph.h"

/* All events that rules may name, NULL-terminated; whoever fires a new one adds it here. */
extern const char *const block_debug_events[];

/* Fires `event` at the first blkdebug node from n downwards along filters and "file". May wait (breakpoints). NULL n is
 * fine. [co] */
void block_debug_event(struct node *n, const char *event);
/* The same, only if n itself is a blkdebug node: for layers that each fire on their child. [co] */
void block_debug_event_at(struct node *n, const char *event);
/* From now on the first request that reaches `event` stops until resumed. Several may wait with one tag. */
int block_debug_break(struct node *n, const char *event, const char *tag, struct err *e);
/* Lets one go that waits with `tag`, the latest; nobody does: -ENOENT. */
int block_debug_resume(struct node *n, const char *tag, struct err *e);
/* Lets go all that wait with `tag`, and forgets breakpoints of that name that nothing has reached; had none: -ENOENT.
 */
int block_debug_remove_break(struct node *n, const char *tag, struct err *e);
bool block_debug_is_suspended(struct node *n, const char *tag);
/* [co] Until one waits with `tag`, or block_debug_end(). */
void block_debug_wait_suspended(struct node *n, const char *tag);
/* The program is about to go: all that wait are let go, and nothing stops any more. */
void block_debug_end(struct block_graph *g);
/* From now on fn is told of each request that stops at a breakpoint or is resumed. */
typedef void block_debug_notify_fn(void *opaque, const char *tag, bool stopped);
void block_debug_set_notify(struct block_graph *g, block_debug_notify_fn *fn, void *opaque);
