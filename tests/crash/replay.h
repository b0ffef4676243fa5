/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes of the recorded disks of one image, all of them or a sample: between two flushes any of the writes that no
 * flush covers yet may have reached their disk, whole, some of their 512-byte sectors, or not at all, and in any order.
 *
 * With up to REPLAY_EXHAUSTIVE writes outstanding every subset is tried: whole, with each of its writes torn, with all
 * of them torn, and in other orders where they overlap. Beyond that, a sample: prefixes, all but one, only one and
 * random subsets, torn and reordered by chance. What comes out twice is judged and counted once.
 */
#pragma once

#include "memdisk.h"

enum { REPLAY_EXHAUSTIVE = 12, REPLAY_DISKS = 3 };

struct replay {
    const struct memdisk *start; /* what each disk held when the log began */
    unsigned disks;
    const GArray *log; /* struct mem_op */
    uint64_t seed;
    unsigned most; /* crashes per flush interval; 0: all of up to REPLAY_EXHAUSTIVE writes, thousands beyond */
    /* What decides besides the disks, as a number; NULL: each place in the log is another one. */
    uint64_t (*epoch)(void *opaque, unsigned at);
    unsigned long points, same; /* out: how many there were, and how often one came out that had been */
};

/* `images`: the disks, which are the callee's to change. `at`: the crash came behind so many entries of the log. `what`
 * describes it. */
typedef void replay_fn(void *opaque, struct memdisk *images, unsigned at, const char *what);
void replay_run(struct replay *r, replay_fn *fn, void *opaque);
