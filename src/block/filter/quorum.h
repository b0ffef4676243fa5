/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "quorum": the same data on several nodes. Writes go to all; a read takes what at least vote-threshold of them agree
 * on, or, with read-pattern=fifo, what the first one that works has. Who fails or disagrees is told by events
 * (QUORUM_REPORT_BAD, QUORUM_FAILURE) and, if wanted, written anew.
 */
#pragma once

#include "block/driver.h"

enum quorum_pattern { QUORUM_VOTE, QUORUM_FIFO };
enum quorum_op { QUORUM_READ, QUORUM_WRITE, QUORUM_FLUSH };

struct quorum {
    GPtrArray *members; /* struct edge * */
    unsigned threshold, next_index;
    bool blkverify, rewrite;
    enum quorum_pattern pattern;
};

/* A request to all members at the same time. */
struct quorum_call {
    struct node *n;
    enum quorum_op op;
    uint64_t off, len;
    int (*fn)(struct quorum_call *c, struct edge *member, unsigned i);
    const struct iovs *v;
    size_t voff;
    unsigned flags;
    uint8_t *copies; /* of a read: `len` bytes for each member */
    int *rcs;        /* what each returned */
    unsigned count, running;
    struct co *parent;
    bool waiting;
};

/* Runs c->fn for each member; returns how many succeeded. Tells of those that did not. [co] */
unsigned quorum_call_all(struct quorum_call *c);
/* The error that most members have. */
int quorum_common_error(const struct quorum_call *c);
void quorum_report_bad(const struct quorum_call *c, const struct edge *member, int rc);
void quorum_report_failure(const struct quorum_call *c);
/* A read by vote. [co] */
int quorum_vote(struct quorum_call *c);
