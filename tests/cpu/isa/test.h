/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Self-checking programs for rv_run. A file holds cases: CASE names what follows, EXPECT compares. The first difference
 * prints the case and the value on the SBI console and ends the run with failure.
 *
 * UNPRIVILEGED_MAIN runs the function `tests` four times: supervisor mode without translation, then with Sv39, and user mode
 * with Sv39 and Sv48. Register use: s11 = name of the case, t6 and ra are the macros'. The code is position-independent: user mode sees it
 * 1 GiB higher, where the same pages are user's.
 */
    .option norvc
    .equ USER_ALIAS, 0x40000000

    .macro CASE name
    .section .rodata
9771: .asciz "\name"
    .text
    la s11, 9771b
    .endm

    .macro EXPECT reg, value
    li t6, \value
    beq \reg, t6, 9772f
    mv a0, \reg
    j fail
9772:
    .endm

    .macro EXPECT_REG reg, other
    beq \reg, \other, 9772f
    mv a0, \reg
    j fail
9772:
    .endm

    /* one instruction, two operands */
    .macro RR insn, a, b, result
    CASE "\insn \a \b"
    li a1, \a
    li a2, \b
    \insn a0, a1, a2
    EXPECT a0, \result
    .endm
    .macro R insn, a, result
    CASE "\insn \a"
    li a1, \a
    \insn a0, a1
    EXPECT a0, \result
    .endm
    .macro RI insn, a, imm, result
    CASE "\insn \a \imm"
    li a1, \a
    \insn a0, a1, \imm
    EXPECT a0, \result
    .endm

    .macro SBI ext, fid
    li a7, \ext
    li a6, \fid
    ecall
    .endm
    .macro PASS
    li a0, 0
    li a1, 0
    SBI 0x53525354, 0
    .endm

    /* Runs what stands between TRAPS and END_TRAPS expecting one trap; its cause and value go to s2, s3, its pc to s4, and execution continues
     * behind END_TRAPS. Supervisor mode. */
    .macro TRAPS
    la t6, 9773f
    csrw stvec, t6
    j 9774f
    .balign 4
9773: csrr s2, scause
    csrr s3, stval
    csrr s4, sepc
    j 9775f
9774:
    .endm
    .macro END_TRAPS
    li a0, -1
    j fail
9775: la t6, unexpected
    csrw stvec, t6
    .endm

    .macro LIBRARY
    /* fail: a0 = what was found. From user mode by way of a trap. */
    .text
fail:
    mv a1, s11
    li a7, 2
    mv s10, a0
    /* the supervisor's ECALL goes to the SBI, where 2 is the legacy getchar and harmless; the user's comes back as a trap */
    ecall
fail_supervisor:
    csrw satp, zero
    li t0, USER_ALIAS
    li t1, 0xc0000000
    bltu s11, t1, 1f
    sub s11, s11, t0
1:  lbu a0, 0(s11)
    beqz a0, 2f
    SBI 0x4442434e, 2
    addi s11, s11, 1
    j 1b
2:  li a0, 32
    SBI 0x4442434e, 2
    li s9, 60
3:  srl a0, s10, s9
    andi a0, a0, 15
    addi a0, a0, '0'
    li t0, '9'
    bleu a0, t0, 4f
    addi a0, a0, 'a' - '0' - 10
4:  SBI 0x4442434e, 2
    addi s9, s9, -4
    bgez s9, 3b
    li a0, 10
    SBI 0x4442434e, 2
    li a0, 0
    li a1, 1
    SBI 0x53525354, 0
5:  j 5b
    .balign 4
unexpected:
    csrr a0, scause
    csrr a1, sepc
    csrr a2, stval
    li t0, 8
    bne a0, t0, 1f
    li t0, 2
    beq a7, t0, fail_supervisor
1:  mv s10, a0
    slli s10, s10, 48
    or s10, s10, a1
    j fail_supervisor
    .bss
    .balign 16
stack: .skip 8192
stack_end:
    .text
    .endm

    .macro UNPRIVILEGED_MAIN
    LIBRARY
    .globl _start
_start:
    la sp, stack_end
    la t0, unexpected
    csrw stvec, t0
    li t0, 3 << 13
    csrs sstatus, t0
    call tests
    /* Sv39: 0x80000000 for the supervisor, 0xc0000000 the same memory for the user */
    la t0, root39
    srli t1, t0, 12
    li t2, 8 << 60
    or t1, t1, t2
    csrw satp, t1
    sfence.vma
    call tests
    call user
    la t0, root48 /* its first entry: the table of Sv39 */
    la t1, root39
    srli t1, t1, 2
    ori t1, t1, 1
    sd t1, 0(t0)
    srli t1, t0, 12
    li t2, 9 << 60
    or t1, t1, t2
    csrw satp, t1
    sfence.vma
    call user
    csrw satp, zero
    PASS
user:
    mv s0, ra
    la t0, back
    csrw stvec, t0
    la t0, user_code
    li t1, USER_ALIAS
    add t0, t0, t1
    add sp, sp, t1
    csrw sepc, t0
    li t0, 1 << 8
    csrc sstatus, t0
    sret
    .balign 4
back:
    csrr t0, scause
    li t1, 8
    bne t0, t1, unexpected
    li t1, 1
    bne a7, t1, unexpected
    la t0, unexpected
    csrw stvec, t0
    la sp, stack_end
    jr s0
user_code:
    call tests
    li a7, 1
    ecall
    .data
    .balign 4096
root39:
    .quad 0, 0, 0x20000000 + 0x0f, 0x20000000 + 0x1f
    .skip 4096 - 32
root48:
    .skip 4096
    .text
    .endm
