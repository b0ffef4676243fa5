/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stream job: brings what a chain has below a node into that node, while the guest uses it, and then lets go of the
 * layers that are not needed any more.
 *
 * It puts a copy-on-read filter above the node and reads through it whatever is not in the node yet; the filter stores
 * what passes, and a guest's write always wins. What has been brought over stays, whatever happens: a stream that was
 * stopped, or crashed, skips it the next time. When nothing is left:
 *  1. The node is flushed: it holds all that it needs.
 *  2. Its header names another backing file, or none.
 *  3. The node's edge follows.
 * Between 2 and 3 a crash changes nothing that anybody reads: both chains hold the same.
 */
#pragma once

#include "block/graph.h"
#include "job/job.h"

struct stream_options {
    const char *job_id;
    struct node *top;             /* where to; borrowed, as the others are */
    struct node *base;            /* what stays below it; NULL: nothing */
    struct node *bottom;          /* the lowest layer to copy from; NULL: the one above base */
    const char *backing_file;     /* what the header shall say instead of the base's name; NULL: that */
    bool mask_protocol;           /* a base without a format is called "raw" */
    const char *filter_node_name; /* NULL: a name is made up */
    uint64_t speed;               /* bytes per second; 0: no limit */
    struct job_limit *together;   /* borrowed; NULL: none */
    uint64_t idle_ms;             /* work only when no request of the guest has been there for so long; 0: always */
    enum job_on_error on_error;
    struct job_txn *txn; /* may be NULL */
    unsigned flags;      /* JOB_MANUAL_… */
};

/* Checks and inserts the filter. The caller starts the job (job_start), or discards it (job_discard). Error texts are
 * QEMU's. [co] */
int stream_create(struct jobs *js, const struct stream_options *o, struct job **out, struct err *e);
/*
 * One step for a caller with its own idea of when the system is idle: finds the first range at or after `off` that is
 * not in the node yet and brings at most 64 KiB or one cluster of it over. *end: how far the node has all that it
 * needs, as far as was looked; its size: there is nothing left to do. [co]
 */
int stream_step(struct node *top, uint64_t off, uint64_t *end, struct err *e);
