/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What streams and commits do for snapshots inside of an image whose images below go away, or change: they get what
 * they read from there.
 */
#pragma once

#include "job/job.h"

struct fill_options {
    struct job *job;  /* whose speed, pauses and end count; NULL: nobody's */
    bool at_once;     /* nobody pauses it, or waits for its speed: run() is over, or there is no job */
    struct node *top; /* the image; has no snapshot in the making */
    uint64_t end;     /* bytes of its disk: behind that nothing changes */
    /* Whether what `below` has at `off` is needed, and so are *n bytes from there on, at most `len`. [co] */
    bool (*goes)(void *opaque, struct node *below, uint64_t off, uint64_t len, uint64_t *n);
    void *opaque;
};

/* [co] 0 also when the job is cancelled: they are as they were then. */
int fill_snapshots(const struct fill_options *o, struct err *e);

/*
 * The same at once, before a commit of `top`, to which nobody writes meanwhile, into `base`: they get what it writes
 * over. Nothing to do: 0. [co]
 */
int fill_for_commit(struct node *top, struct node *base, struct err *e);

/*
 * Snapshots of `top`, which itself needs nothing more of the images between it and `base` (NULL: all that are below),
 * get what they read from them. Inside run(). As fill_snapshots(). [co]
 */
int job_fill_snapshots(struct job *j, struct node *top, struct node *base, struct err *e);
