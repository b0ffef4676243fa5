/* SPDX-License-Identifier: BSD-2-Clause */
/* Who saves or loads a machine: one at a time, and not bound to the coroutine that began. Loop thread. */
#pragma once

#include "machine/vm.h"

/* [co] First come, first served. */
static inline void move_turn_take(struct vm *vm)
{
    if (vm->moving) {
        co_queue_wait(&vm->moving_waiters);
    }
    vm->moving = true;
}

static inline void move_turn_give(struct vm *vm)
{
    vm->moving = co_queue_wake_one(&vm->moving_waiters);
}
