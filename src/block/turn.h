/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Taking turns: whoever works on a range waits for all that came before it and overlaps. For filters and formats that
 * write one thing to two places, where overlapping writes must arrive in the same order on both. Loop thread.
 */
#pragma once

#include "loop/co.h"

#include <glib.h>
#include <stdint.h>

/* Lives on the stack of whoever takes it. The queue is zero-initialised. */
struct turn {
    uint64_t off, len;
    GList link; /* in the queue, first come first */
    struct co_queue waiters;
};

void turn_begin(GQueue *queue, struct turn *t, uint64_t off, uint64_t len); /* [co] */
void turn_end(GQueue *queue, struct turn *t);
