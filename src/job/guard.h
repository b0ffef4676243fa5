/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots inside of images that are committed in the middle of a chain. They read what they lack from the images
 * below, and the commit writes to one of those: what it is going to write over they are given before, in rounds.
 *
 * Laws:
 *  1. The base gets nothing but granules that are safe, as long as there is a snapshot.
 *  2. A granule is safe when every snapshot has, durably, what the base had there when it was taken.
 *  3. A snapshot that is taken makes all of them unsafe, and is seen before any request that comes after its instant.
 *
 * Loop thread.
 */
#pragma once

#include "base/bitmap.h"
#include "job/job.h"

struct guard {
    struct node *top, *base; /* images; what is between them, `top` too, is committed. Borrowed */
    uint64_t size;           /* bytes that are committed */
    uint32_t granularity;
    struct bitmap *safe;
    uint64_t taken;    /* snapshots of these images when `safe` began to be right */
    bool on, making;   /* there are some; one is in the making */
    GPtrArray *opened; /* struct node *, references: images that were read-only */
};

/* g->top, base, size and granularity are set. Images with snapshots become writable. [co] */
int guard_init(struct guard *g, struct err *e);
/* After a guard_init() that failed, too, and of one that is all zero. [co] */
void guard_finish(struct guard *g);
/* Looks how it is: g->on. */
bool guard_look(struct guard *g);
/* The first part of [*off, *off + *len) that is safe; false: there is none. */
bool guard_next(const struct guard *g, uint64_t *off, uint64_t *len);
/*
 * [co] A round: what is dirty becomes safe, unless there is another snapshot meanwhile or the job is cancelled. None is
 * in the making, nothing is being written to the base.
 */
int guard_round(struct guard *g, struct job *j, const struct bitmap *dirty, struct err *e);
