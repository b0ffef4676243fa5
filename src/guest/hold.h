/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes to registers that are done only when something is durable: the state file keeps what the guest set, and no
 * access to a register may block. So the device takes the new value, holds the harts, and lets them go when the file
 * has it: a hart that has just written to a register ends its run of instructions up to the next jump, and rests until
 * nobody holds it. It can be paused and reset there, like one that sleeps. Accelerators without harts never look.
 */
#pragma once

#include "guest/mem.h"

/* Any thread; each is let go once. */
void guest_hold(struct guest_mem *m);
void guest_let_go(struct guest_mem *m);
bool guest_is_held(const struct guest_mem *m);
