/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Chains of images: a node, its backing image, that one's … Layers are the nodes with data of their own; filters
 * between them are looked through. Loop thread.
 */
#pragma once

#include "block/graph.h"
#include "block/io.h"

/*
 * `layer` holds now, besides its own, what layers below it held that are not below it any more: a stream has filled it,
 * or it is a copy. Who copies what is above such a layer cannot leave it out of the chain.
 */
void chain_absorbed(struct node *layer);
uint64_t chain_now(const struct block_graph *g); /* for the next one: when somebody began */
/* The highest between `top` and `base` (NULL: to the end) to which that has happened since `began`, or the filter above
 * it; NULL: none. */
struct node *chain_absorbed_since(struct node *top, struct node *base, uint64_t began);
/* Whether layer `n` is `top` or one of those below it. */
bool chain_contains(struct node *top, struct node *n);
/* The layer that has `base` as its backing image; NULL: it is not below top. */
struct node *chain_layer_above(struct node *top, struct node *base);
/* The layer below `top` whose file is called so, however the name is written; NULL: there is none. */
struct node *chain_find_file(struct node *top, const char *filename);

/* The filter of a job that has it above a node, to stay right above it (a stream's, which fills that very node; a
 * commit's, which empties it). NULL: none. */
struct node *chain_pinned_filter(struct node *n);
/* Whether an image that holds nothing of the range, and reads it from `below`, misses it once it reads from `base`
 * (NULL: from nothing) instead; so for x->len bytes. [co] */
int chain_missing(struct node *below, struct node *base, uint64_t off, uint64_t len, struct extent *x, bool *missing);
/* The job of such a filter has nothing left but its end: until that is over no snapshot can be taken of what is below
 * (block/snapshot.h). */
void chain_set_ending(struct node *filter);
bool chain_is_ending(const struct node *filter);
/* Where other filters and layers for `n` go: above those. Not an image whose job is over. */
struct node *chain_above_pinned(struct node *n);
/* Where the next layer for `n`, a disk or an image of its chain, goes: below filters of jobs that copy whatever the
 * disk holds, above pinned ones. */
struct node *chain_place(struct node *n);
/* What people are shown for a disk: `n`, or the node below the filters that jobs have put there without being told a
 * name for them. The filter of a backup is shown, as QEMU shows it. */
struct node *chain_shown(struct node *n);
/* `overlay`, which has no backing image yet and no users, goes between `below` and all that use it. [co] */
int chain_put_above(struct node *below, struct node *overlay, struct err *e);
/* The way back. [co] */
int chain_take_away(struct node *overlay, struct err *e);

/* What a header says of the layer below. */
struct chain_link {
    const char *file, *format; /* file NULL: there is none */
};
/* As for `base` (NULL: none), called `file` instead when that is not NULL. mask_protocol: a base without a format is
 * "raw". Borrows. */
struct chain_link chain_link_to(struct node *base, const char *file, bool mask_protocol);
/* Writes it, durably; a node that is read-only is opened for writing meanwhile. Nobody moves. [co] */
int chain_set_link(struct node *n, struct chain_link l, struct err *e);

/* [co] */
int node_set_read_only(struct node *n, bool read_only, struct err *e);
