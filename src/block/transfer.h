/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bringing a range of one node over to another: what reads as zeroes is made to, cached data is seen instead of read,
 * the rest is read and written. For those who know which range is next and keep others away from it: copy jobs, live
 * copies.
 */
#pragma once

#include "block/graph.h"

struct transfer {
    struct edge *from, *to;
    struct node *base; /* what `from` has only from this layer down is left out; NULL: nothing is */
    bool unmap;        /* zeroes may become holes */
    bool overlay; /* the target reads from the source what it does not have: zeroes too are written, and readers of the
                   * target that are on their way to the source are waited for */
    uint8_t *buf;
    size_t buf_size;
    bool alone;    /* the target gets the images below it later: what it does not hold itself is not zeroes */
    bool is_read;  /* out: whether it was the source that failed */
    bool *by_host; /* the host's kernel may copy, until it is found that it cannot; NULL: it may not */
    bool compress; /* data is written compressed: ranges begin and end at clusters of the target */
};

enum { TRANSFER_NOTHING, TRANSFER_ZERO, TRANSFER_DATA };
/* What is to be done with [off, off + *len), shortened to what is alike; or a negative errno. [co] */
int transfer_kind(struct transfer *t, uint64_t off, uint64_t *len);
/* Writes what can be seen of the source (block/view.h) without reading it, with these REQ_* flags. How much from `off`
 * on it did; or an error of the target. [co] */
int64_t transfer_views(struct node *from, struct edge *to, uint64_t off, uint64_t len, unsigned flags);
/* [co] 0 or negative errno. */
int transfer_range(struct transfer *t, uint64_t off, uint64_t len);
