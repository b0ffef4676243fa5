/* SPDX-License-Identifier: BSD-2-Clause */
/* What tests with whole machines share: how one is left alone, and how it ends. */
#pragma once

#include "loop/co.h"
#include "machine/vm.h"

/* Until nothing happens any more. */
static inline void side_settle(struct loop *l)
{
    for (unsigned idle = 0; idle < 2;) {
        idle = loop_turn(l, false) ? 0 : idle + 1;
    }
}

static inline int side_destroy_vm(void *vm)
{
    vm_destroy(vm);
    return 0;
}

static inline void side_end(struct loop *l, struct vm *vm)
{
    co_run(l, side_destroy_vm, vm);
    loop_destroy(l);
}
