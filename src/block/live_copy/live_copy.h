/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The live-copy image format: a small file that names a source and a destination and remembers how far one has been
 * copied to the other. The node made of it is the disk that both hold. While it is open for writing it copies; after a
 * crash it goes on where it was; when one side is missing or fails the other one serves, and what it gets is remembered
 * for the day the first comes back. docs/live-copy-format.md is the guide; the laws stand in live_copy/lc.h.
 *
 * These functions are for tools and for the monitor. `n` must be a node of this driver (live_copy_of_node tells); those
 * that change something need it open for writing. Loop thread.
 */
#pragma once

#include "block/graph.h"

enum live_copy_side { LIVE_COPY_SOURCE, LIVE_COPY_DESTINATION };

enum live_copy_state {
    LIVE_COPY_COPYING,  /* the destination has never been complete */
    LIVE_COPY_IN_SYNC,  /* both sides are current */
    LIVE_COPY_SWITCHED, /* both are, and the destination is the one that is read */
    LIVE_COPY_DEGRADED, /* one side has fallen behind */
    LIVE_COPY_DETACHED, /* over: the destination alone is the disk */
};
extern const char *const live_copy_state_names[];

struct live_copy_status {
    enum live_copy_state state;
    enum live_copy_side live; /* the side that is read */
    bool switched;
    bool current[2];           /* holds all that was flushed, by the state on disk */
    bool missing[2];           /* cannot be opened, or has failed */
    const char *trouble[2];    /* why; borrowed until whoever asked waits; NULL: not missing */
    uint64_t total, remaining; /* bytes of the disk; of the regions that must still be copied */
    uint64_t passes;           /* tries at copying all that remains that ended with errors */
    uint64_t outages;          /* how often a side has failed */
    /* The last error of either: 0, or negative errno. */
    int rc;
    bool error_is_read;
    uint64_t error_off;
};

struct live_copy_options {
    bool copying;      /* copy in the background */
    uint64_t speed;    /* bytes of data per second; 0: no limit */
    unsigned parallel; /* pieces copied at a time */
    uint64_t piece;    /* bytes of one, for which a write may have to wait */
    uint64_t record_ms, retry_ms;
};

/* Whether it is one, with its sides open. */
bool live_copy_of_node(const struct node *n);
/* Of a node that is one, also without its sides: what its file calls them; borrowed. */
void live_copy_get_names(const struct node *n, const char *names[2]);
void live_copy_get_status(struct node *n, struct live_copy_status *out);
void live_copy_get_options(struct node *n, struct live_copy_options *out);
void live_copy_set_options(struct node *n, const struct live_copy_options *o);
/* Waits until the status may have changed, at most so long. [co] */
void live_copy_wait(struct node *n, uint64_t timeout_ns);
/* Tries at once what would be tried after a while: a missing side, and ranges that could not be copied. */
void live_copy_retry(struct node *n);
/*
 * From now on the destination is the side that is read, durably; both go on getting writes. Needs a destination that is
 * current; said again it succeeds. [co]
 */
int live_copy_switch(struct node *n, struct err *e);
/* After a switch: the source is let go for good. Said again it succeeds. [co] */
int live_copy_detach(struct node *n, struct err *e);
