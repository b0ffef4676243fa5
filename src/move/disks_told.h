/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How far disks that follow their machine are, which only the destination knows, and that they are there: what is said
 * on sub-channel MUX_DISKS_END of each connection.
 *
 *     source                              destination
 *                                   ←     PROG {"left": [BYTES, …]}: of the disks of WANT's list, in its order; twice a
 *                                         second, if OKGO has "disks-progress": true
 *                                   ←     ALLD {}: the end
 *
 * Loop thread; [co] waits.
 */
#pragma once

#include "base/err.h"
#include "loop/co.h"
#include "loop/loop.h"

#define DISKS_PROGRESS "disks.progress" /* machine_release_says() */

struct channel;
struct migration;

/* The source: hears until the end. */
struct disks_hear {
    struct migration *m;
    bool over;
    struct err error; /* the connection's */
    int rc;
    struct co_queue done;
};
void disks_hear_begin(struct disks_hear *h, struct migration *m);
/* [co] Until ALLD; or, when the connection is broken, until nobody listens to it any more. */
int disks_hear_wait(struct disks_hear *h, struct err *e);

/* The destination: says it. */
struct disks_tell {
    struct migration *m;
    struct channel *ch;
    struct timer tick;
    bool saying;
    struct co_queue said;
};
void disks_tell_begin(struct disks_tell *t, struct migration *m);
/* [co] `all`: they are there, which the source hears, or not. */
void disks_tell_end(struct disks_tell *t, bool all);
