/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changing the options of nodes that are open: read-only and back, cache mode, what else a driver allows.
 *
 * All nodes of one call change together or not at all:
 *   prepare   each driver makes what it needs for the new options (a new descriptor, new caches); nothing changes yet
 *   links     children are exchanged
 *   swap      common options and drivers' states are exchanged; permissions and locks follow
 *   activate  drivers do what needs the new state, children first (a format that may write now)
 *   finish    the old state is released, or, after a swap back, the new one
 * The nodes stand still meanwhile.
 */
#pragma once

#include "block/graph.h"

/* A child that is to be another node: "file" or "backing". */
struct reopen_link {
    const char *name;      /* NULL: stays */
    struct node *old, *to; /* NULL: none; each with a reference */
    uint64_t heir_of;      /* of `to`, before */
    bool was_opened, was_heir, changed;
    GPtrArray *lets; /* the edge's, for the child that it does not have */
};
enum { REOPEN_LINKS = 2 };

/* What one node is to become; the driver's callbacks get it. */
struct node_reopen {
    struct node *n;
    /* Options and common flags (read_only, direct, discard_unmap …) as they will be; after the swap as they were. The
     * other members are only copies. */
    struct node as;
    void *priv; /* the driver's: its new state until the swap, its old one afterwards */
    bool prepared;
    struct reopen_link links[REOPEN_LINKS]; /* the core's */
};

struct reopen_request {
    struct node *n;
    /* Nested as for node_open(); what it says about a child ("file": {…}) changes the child, if that was opened for n
     * and not named. The name of a node, or null for "backing", puts another child in its place. */
    struct json_object *options;
    bool keep; /* what is not mentioned stays as it is; else it gets its default, in children, too */
};

/*
 * Children that were opened for a node follow where its common options change, but for options that were given to them
 * themselves, then or since. So do those whose parents were, but have gone from between (block-stream, block-commit).
 * Error texts are QEMU's. [co]
 */
int node_reopen(const struct reopen_request *requests, unsigned count, struct err *e);
