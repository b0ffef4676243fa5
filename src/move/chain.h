/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A saved machine and the ones that it is based on, down to one that has all its pages: what RAM was, from all of them.
 * Level 0 is the state itself, level 1 its parent, and so on. Loop thread; [co].
 */
#pragma once

#include "move/move.h"
#include "state/manifest.h"
#include "state/stream.h"

enum { CHAIN_MAX = 256 }; /* levels */

struct chain;

/*
 * [co] Opens `from` (copied) and its parents, and checks that each is the one that is meant and of a machine with this
 * RAM. What is read for it: headers, manifests and indexes; with `whole`, the state's own index is not (nor looked
 * for).
 */
int chain_open(struct vm *vm, const struct move_source *from, bool whole, struct chain **out, struct err *e);
/* [co] Closes the parents; NULL is fine. */
void chain_close(struct chain *c);

unsigned chain_levels(const struct chain *c);
/* Stands behind the manifest. */
struct state_reader *chain_reader(const struct chain *c, unsigned level);
/* NULL for level 0 of one that was opened `whole`. */
const struct state_index *chain_index(const struct chain *c, unsigned level);
const char *chain_name(const struct chain *c, unsigned level); /* for messages */
uint64_t chain_bytes(const struct chain *c, unsigned level);
uint64_t chain_size(const struct chain *c); /* bytes of all levels */
bool chain_has_read_now(const struct chain *c);
/* Any page can be had at any time, and a damaged one is noticed. */
bool chain_can_be_lazy(const struct chain *c);
/* Called for each piece that a reader got from its source, with the bytes that all have got; negative: its error. */
void chain_watch(struct chain *c, int (*fn)(void *opaque, uint64_t done), void *opaque);

/* Pages [first, first + n) to buf, by read_now (`now`: any thread, several at a time) or by read ([co]). -errno. */
int chain_read(const struct chain *c, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool now);
/* [co] The parent that a state says it has: g_malloc'd; NULL: it has none, or it is no state. */
char *chain_parent_of(const struct move_source *from);
