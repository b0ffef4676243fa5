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
/* Lets go all that wait with `tag`, and forgets the breakpoint; an unknown tag is an error. */
int block_debug_resume(struct node *n, const char *tag, struct err *e);
bool block_debug_is_suspended(struct node *n, const char *tag);
