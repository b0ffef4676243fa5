/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands of sterna-io on a disk or node of a running machine, as the human monitor's `qemu-io` has them. */
#pragma once

#include "block/backend.h"

/*
 * Runs a line on the backend's own edge, or (NULL) on the node; what it prints is appended to `out`, why it could
 * not begin to `errors`. Requests that go on after the line (aio_…) tell of their ends on standard output. Returns what
 * the command did: negative when it failed. [co]
 */
int io_monitor_run(struct block_graph *g, struct backend *b, struct node *n, const char *line, GString *out,
                   GString *errors);
