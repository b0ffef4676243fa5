/* SPDX-License-Identifier: BSD-2-Clause */
/* Timer, software and external interrupts, their order and masks; WFI. */
#include "macros.inc"
    LIBRARY
    .globl _start
    .equ STIMECMP, 0x14d
_start:
    la sp, stack_end
    la t0, unexpected
    csrw stvec, t0
    li s8, 0x10000000 /* +16: the external line */
    CASE "time passes at 10 MHz or so"
    rdtime s5
    li a0, 200000
1:  addi a0, a0, -1
    bnez a0, 1b
    rdtime s6
    sltu a0, s5, s6
    EXPECT a0, 1
    CASE "timer pending"
    li a0, -1
    csrw STIMECMP, a0
    csrr a0, sip
    EXPECT a0, 0
    csrw STIMECMP, x0
    csrr a0, sip
    EXPECT a0, 0x20
    CASE "masked: no trap"
    li t0, 0x20
    csrw sie, t0
    nop
    CASE "taken when enabled"
    TRAPS
    csrsi sstatus, 2
    nop
1:  j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 5
    li a0, -1
    csrw STIMECMP, a0
    csrr a0, sip
    EXPECT a0, 0
    CASE "timer interrupts a loop"
    csrci sstatus, 2
    rdtime s5
    li t0, 20000
    add s6, s5, t0
    csrw STIMECMP, s6
    TRAPS
    csrsi sstatus, 2
1:  j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 5
    rdtime a0
    sltu a0, a0, s6
    EXPECT a0, 0
    CASE "WFI wakes at the deadline, interrupts off"
    csrci sstatus, 2
    rdtime s5
    li t0, 50000
    add s6, s5, t0
    csrw STIMECMP, s6
    wfi
    rdtime a0
    sltu a0, a0, s6
    EXPECT a0, 0
    CASE "the SBI's timer"
    rdtime a0
    li t0, 10000
    add a0, a0, t0
    SBI 0x54494d45, 0
    TRAPS
    csrsi sstatus, 2
1:  wfi
    j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 5
    csrci sstatus, 2
    li a0, -1
    SBI 0x54494d45, 0
    CASE "software"
    li t0, 2
    csrw sie, t0
    csrs sip, t0
    TRAPS
    csrsi sstatus, 2
1:  j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 1
    csrci sstatus, 2
    csrci sip, 2
    csrr a0, sip
    EXPECT a0, 0
    CASE "IPI to oneself"
    li a0, 1
    li a1, 0
    SBI 0x735049, 0
    csrr a0, sip
    EXPECT a0, 2
    csrw sip, x0
    CASE "external"
    li t0, 1
    sw t0, 16(s8)
    csrr a0, sip
    EXPECT a0, 0x200
    csrw sip, x0
    csrr a0, sip
    EXPECT a0, 0x200
    CASE "order: external, software, timer"
    csrw STIMECMP, x0
    csrsi sip, 2
    li t0, 0x222
    csrw sie, t0
    TRAPS
    csrsi sstatus, 2
1:  j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 9
    sw x0, 16(s8)
    TRAPS
    csrsi sstatus, 2
1:  j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 1
    csrci sip, 2
    TRAPS
    csrsi sstatus, 2
1:  j 1b
    END_TRAPS
    EXPECT s2, 1 << 63 | 5
    CASE "user mode is always interruptible"
    csrci sstatus, 2
    la t0, 2f
    csrw sepc, t0
    li t0, 0x122
    csrc sstatus, t0
    TRAPS
    sret
2:  j 2b
    END_TRAPS
    EXPECT s2, 1 << 63 | 5
    CASE "vectored"
    la t0, vectors
    ori t0, t0, 1
    csrw stvec, t0
    li s2, 0
    csrsi sstatus, 2
1:  beqz s2, 1b
    EXPECT s2, 5
    PASS
    .balign 4
vectors:
    j unexpected
    j unexpected
    j unexpected
    j unexpected
    j unexpected
    li s2, 5
    csrw sie, x0
    sret
