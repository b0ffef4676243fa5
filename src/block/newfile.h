/* SPDX-License-Identifier: BSD-2-Clause */
/* The file that a new image goes into. */
#pragma once

#include "block/graph.h"

/* `what` is the "file" of BlockdevCreateOptions: a node's name, its options, or the name of a file that is made anew.
 * The caller gets a reference. [co] */
int newfile_open(struct block_graph *g, struct json_object *what, struct node **out, struct err *e);
