/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * System V ABI for x86-64, section 3.2.1: a called function keeps rbx, rbp, r12 to r15 and rsp. (The control bits of
 * the floating-point units, which it keeps too, are never changed on a loop's thread.)
 */
    .text

/* void co_switch(void **from, void *to) */
    .globl co_switch
    .hidden co_switch
    .type co_switch, @function
    .p2align 4
co_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size co_switch, . - co_switch

/* void *co_switch_prepare(void *bottom, size_t size, void (*entry)(void)): what co_switch pops, entry, and a zero where
 * entry's return address would be (at 8 below a multiple of 16). */
    .globl co_switch_prepare
    .hidden co_switch_prepare
    .type co_switch_prepare, @function
    .p2align 4
co_switch_prepare:
    leaq (%rdi, %rsi), %rax
    andq $-16, %rax
    movq $0, -8(%rax)
    movq %rdx, -16(%rax)
    movq $0, -24(%rax)
    movq $0, -32(%rax)
    movq $0, -40(%rax)
    movq $0, -48(%rax)
    movq $0, -56(%rax)
    movq $0, -64(%rax)
    subq $64, %rax
    ret
    .size co_switch_prepare, . - co_switch_prepare

    .section .note.GNU-stack, "", @progbits
