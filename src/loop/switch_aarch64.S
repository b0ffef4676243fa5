/* SPDX-License-Identifier: BSD-2-Clause */
/* Procedure Call Standard for the Arm 64-bit Architecture, section 6.1: a called function keeps x19 to x29, sp and the low halves of
 * v8 to v15; x30 is where it returns to. */
    .text

/* void co_switch(void **from, void *to) */
    .globl co_switch
    .hidden co_switch
    .type co_switch, %function
    .p2align 4
co_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size co_switch, . - co_switch

/* void *co_switch_prepare(void *bottom, size_t size, void (*entry)(void)) */
    .globl co_switch_prepare
    .hidden co_switch_prepare
    .type co_switch_prepare, %function
    .p2align 4
co_switch_prepare:
    add x0, x0, x1
    and x0, x0, #-16
    sub x0, x0, #160
    mov x9, #0
1:
    str xzr, [x0, x9]
    add x9, x9, #8
    cmp x9, #160
    b.ne 1b
    str x2, [x0, #88]
    ret
    .size co_switch_prepare, . - co_switch_prepare

    .section .note.GNU-stack, "", %progbits
