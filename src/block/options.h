/* SPDX-License-Identifier: BSD-2-Clause */
/* The options that every node has, and file names as options; shared by open.c and child.c. */
#pragma once

#include "block/driver.h"

/* A copy with "a.b.c" keys made nested and objects whose keys are 0…n-1 made arrays. */
struct json_object *options_expand(struct json_object *o, struct err *e);
/* Reads read-only, cache, discard … into n. */
int options_read_common(struct node *n, struct json_object *o, struct err *e);
int options_check_known(const struct block_driver *drv, struct json_object *o, struct err *e);
/*
 * What a child leaves out comes from its parent's options. Which of the common options these are is in the child's
 * "inherited", a set of bits (options_left_out()), until it is opened.
 */
void options_inherit(struct json_object *child, struct json_object *parent, bool is_backing);
enum { OPTIONS_READ_ONLY = 1 << 4 }; /* one of the bits */
/* The common options that a child inherits and that `o` does not have. */
unsigned options_left_out(struct json_object *o);
/* What a child could inherit is the same in both; "on" is true. */
bool options_alike(struct json_object *a, struct json_object *b);
bool options_same_value(struct json_object *a, struct json_object *b);
/* Drops these. */
void options_drop(struct json_object *o, unsigned which);
/* Drops what the edge's child would inherit of its parent when that is opened with its options, and has inherited, from
 * the child's options `o`. */
void options_drop_inherited(struct json_object *o, const struct edge *ed);
/* Takes "inherited" out of `o`. */
unsigned options_take_inherited(struct json_object *o);
/* What o does not say comes from `under`, down into objects that both have. */
void options_lay_under(struct json_object *o, struct json_object *under);
/* Sets "driver" and what the name says for a protocol to open; leaves what is set. */
int options_from_filename(struct json_object *o, const char *filename, struct err *e);
/* The protocol below the node that `o` and the file name (or NULL) make is told how to do its I/O, if it has a choice.
 */
void options_put_aio(struct json_object *o, const char *filename, const char *aio);
/* {"filename": …} of a plain protocol node is that name; everything else is "json:{…}". g_malloc'd. */
char *options_json_filename(struct json_object *o);
/* Protocol by scheme: the driver, or NULL with an error. */
const struct block_driver *driver_lookup(const char *name, struct err *e);
/* How a node holds its backing. */
extern const struct edge_spec backing_edge_spec;
/* For node_open_child: opens opts and its backing chain, nothing else. */
int node_open_chain(struct block_graph *g, struct json_object *opts, struct node **out, struct err *e);
bool json_has(struct json_object *o, const char *key, struct json_object **val);
const char *json_get_str(struct json_object *o, const char *key);
