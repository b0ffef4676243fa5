/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's state inside of a snapshot, to be read. All [co]. */
#pragma once

#include "block/snapshot.h"
#include "move/move.h"

/*
 * Until out->close() the snapshot cannot be deleted. `direct`: with read_now, where that is possible. Its parents are
 * snapshots of the same node.
 */
int snapshot_state_open(struct node *n, const char *tag, bool direct, struct move_source *out, struct err *e);
