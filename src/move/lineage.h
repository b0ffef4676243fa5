/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A saved machine and the ones that it is based on, down to one that has all its pages: what RAM was, from all of them.
 * Level 0 is the state itself, level 1 its parent, and so on. Loop thread; [co].
 */
#pragma once

#include "move/move.h"
#include "state/manifest.h"
#include "state/stream.h"

enum { LINEAGE_MAX = 256 }; /* levels */

struct lineage;

/*
 * [co] Opens `from` (copied) and its parents, and checks that each is the one that is meant and of a machine with this
 * RAM. What is read for it: headers, manifests and indexes; with `whole`, the state's own index is not (nor looked
 * for).
 */
int lineage_open(struct vm *vm, const struct move_source *from, bool whole, struct lineage **out, struct err *e);
/* [co] Closes the parents; NULL is fine. */
void lineage_close(struct lineage *c);

unsigned lineage_levels(const struct lineage *c);
/* Stands behind the manifest. */
struct state_reader *lineage_reader(const struct lineage *c, unsigned level);
/* NULL for level 0 of one that was opened `whole`. */
const struct state_index *lineage_index(const struct lineage *c, unsigned level);
const char *lineage_name(const struct lineage *c, unsigned level); /* for messages */
uint64_t lineage_bytes(const struct lineage *c, unsigned level);
uint64_t lineage_size(const struct lineage *c); /* bytes of all levels */
bool lineage_has_read_now(const struct lineage *c);
/* Any page can be had at any time, and a damaged one is noticed. */
bool lineage_can_be_lazy(const struct lineage *c);
/* Called for each piece that a reader got from its source, with the bytes that all have got; negative: its error. */
void lineage_watch(struct lineage *c, int (*fn)(void *opaque, uint64_t done), void *opaque);

/* Pages [first, first + n) to buf, by read_now (`now`: any thread, several at a time) or by read ([co]). -errno. */
int lineage_read(const struct lineage *c, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool now);
/*
 * Where pages [first, first + n) are: n is cut to what is in one place. In a file as they were: its descriptor, and
 * *offset; elsewhere: -1. *zero: nothing but zeroes.
 */
int lineage_place(const struct lineage *c, unsigned block, uint64_t first, unsigned *n, uint64_t *offset, bool *zero);
