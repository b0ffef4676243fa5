/* SPDX-License-Identifier: BSD-2-Clause */
/* -snapshot: a throw-away qcow2 layer above a node. */
#pragma once

#include "block/graph.h"

/*
 * Opens a new qcow2 node whose backing is `node` and whose file, in TMPDIR or /var/tmp, has no name any more: it is
 * gone when the node closes or the program dies. `opts` (may be NULL): common options of the overlay (node-name,
 * discard …). The caller gets a reference. [co]
 */
int node_open_temp_overlay(struct node *node, struct json_object *opts, struct node **out, struct err *e);
