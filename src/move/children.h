/* SPDX-License-Identifier: BSD-2-Clause */
/* Which snapshots need others of the same image: those whose machine state holds only what changed since. All [co]. */
#pragma once

#include "block/snapshot.h"

/* One whose state is based on the snapshot `tag`: its name, g_malloc'd; NULL with *e unset: there is none. */
char *snapshot_child(struct node *n, const char *tag, struct err *e);
/* Whether a snapshot of the node may go: an error that names one that needs it. */
int snapshot_check_no_child(struct node *n, const char *tag, struct err *e);
