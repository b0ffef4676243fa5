/* SPDX-License-Identifier: BSD-2-Clause */
/* Who saves or loads a machine: one at a time, and not bound to the coroutine that began. Loop thread. */
#pragma once

#include "machine/vm.h"

/* [co] Those who wait stay in their order. False: *given_up became true, of which move_turn_look() tells; NULL: it
 * never does. */
static inline bool move_turn_take(struct vm *vm, const bool *given_up)
{
    while (vm->moving && !(given_up && *given_up)) {
        co_queue_wait(&vm->moving_waiters);
    }
    if (given_up && *given_up) {
        return false;
    }
    vm->moving = true;
    return true;
}

static inline void move_turn_look(struct vm *vm)
{
    co_queue_wake_all(&vm->moving_waiters);
}

static inline void move_turn_give(struct vm *vm)
{
    vm->moving = false;
    move_turn_look(vm);
}
