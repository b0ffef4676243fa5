/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Committing: what the layers from `top` down to `base` hold is written into `base`, and whoever used `top` uses
 * `base`. It is the copy job with a target below its source (job/copy.h), so guests keep writing meanwhile:
 *
 *   top is what the guest uses    ready, then in step until told to complete: the guest's disk is `base` from then on
 *   top is in the middle          ends by itself: the header of the image above names `base`, then its edge follows
 *
 * A crash at any instant leaves a chain that reads as before: what is in `base` early is what the layers above it hold.
 *
 * Snapshots inside of images in the middle of a chain stay in their files, and stay what they are: they are given what
 * is written over (job/guard.h). When the guest is to use `base`, which they would then need all of, there can be none:
 * the job is refused, or waits until one that is taken meanwhile is deleted.
 */
#pragma once

#include "block/backend.h"
#include "job/job.h"

struct commit_options {
    const char *job_id;
    struct backend *backend; /* whose guest's latency is shown; may be NULL */
    struct node *active;     /* what the guest uses; borrowed, as the others are */
    struct node *top, *base;
    const char *backing_file, *filter_node_name; /* may be NULL */
    bool mask_protocol;
    uint64_t speed; /* bytes per second; 0: no limit */
    enum job_on_error on_error;
    struct job_txn *txn; /* may be NULL */
    unsigned flags;      /* JOB_MANUAL_… */
};

/* Checks and makes the base writable. The caller starts the job (job_start), or discards it (job_discard). Error texts
 * are QEMU's. [co] */
int commit_create(struct jobs *js, const struct commit_options *o, struct job **out, struct err *e);

/*
 * At once, while all users of the medium wait: what its image has goes into the backing image, which keeps its place,
 * and the image is emptied. No job. [co]
 */
int commit_now(struct backend *b, struct err *e);
