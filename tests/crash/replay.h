/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes of one recorded disk, all of them or a sample: between two flushes any of the writes that no flush covers yet
 * may have reached the disk, whole or some of its 512-byte sectors, or not at all.
 *
 * With up to REPLAY_EXHAUSTIVE writes outstanding every subset is tried, each also with one of its writes torn; beyond
 * that prefixes, all-but-one, only-one and random subsets.
 */
#pragma once

#include "memdisk.h"

enum { REPLAY_EXHAUSTIVE = 12 };

struct replay {
    const struct memdisk *start; /* what the disk held when the log began */
    const GArray *log;           /* struct mem_op */
    uint64_t seed;
    unsigned
        most; /* crashes per flush interval; 0: all subsets of up to REPLAY_EXHAUSTIVE writes, as many samples beyond */
    unsigned long points; /* out: how many there were */
};

/* `image` is the callee's to change. `at`: the crash came behind so many entries of the log. `what` describes it. */
typedef void replay_fn(void *opaque, struct memdisk *image, unsigned at, const char *what);
void replay_run(struct replay *r, replay_fn *fn, void *opaque);
