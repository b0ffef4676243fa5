/* SPDX-License-Identifier: BSD-2-Clause */
/* For processors without a switch of their own: correct everywhere, but each switch is a system call. */
#include "loop/impl.h"

#include <stdint.h>
#include <ucontext.h>

void *co_switch_prepare(void *bottom, size_t size, void (*entry)(void))
{
    /* The context itself takes the top of the stack, cache-line aligned. */
    ucontext_t *ctx = (ucontext_t *)(((uintptr_t)bottom + size - sizeof(ucontext_t)) & ~(uintptr_t)63);
    getcontext(ctx);
    ctx->uc_stack.ss_sp = bottom;
    ctx->uc_stack.ss_size = (size_t)((char *)ctx - (char *)bottom);
    ctx->uc_link = NULL;
    makecontext(ctx, entry, 0);
    return ctx;
}

void co_switch(void **from, void *to)
{
    ucontext_t here;
    *from = &here;
    swapcontext(&here, to);
}
