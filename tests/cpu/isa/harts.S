/* SPDX-License-Identifier: BSD-2-Clause */
/* Four harts: start, stop, status, IPIs, atomics between them, remote fences. */
#include "macros.inc"
    LIBRARY
    .globl _start
    .equ HARTS, 4
    .equ ROUNDS, 20000
    .equ RET, 0x00008067
    .macro WAIT_FOR addr, value
    la t0, \addr
    li t1, \value
9778: lw t2, 0(t0)
    fence
    bne t2, t1, 9778b
    .endm
    /* starts hart \n, which may still be on its way to a stop, at \entry */
    .macro START n, entry
9779: li a0, \n
    la a1, \entry
    li a2, 0x55 + \n
    SBI 0x48534d, 0
    li t0, -6
    beq a0, t0, 9779b
    EXPECT a0, 0
    .endm
    .macro SECONDARY
    la t0, unexpected
    csrw stvec, t0
    CASE "on another hart"
    .endm
_start:
    la sp, stack_end
    la t0, unexpected
    csrw stvec, t0
    CASE "not started"
    li a0, 3
    SBI 0x48534d, 2
    EXPECT a0, 0
    EXPECT a1, 1
    CASE "start somewhere invalid"
    li a0, 1
    li a1, 0x1000
    SBI 0x48534d, 0
    EXPECT a0, -5
    CASE "start"
    START 1, count
    START 2, count
    START 3, count
    WAIT_FOR started, 3
    CASE "already started"
    li a0, 1
    la a1, count
    SBI 0x48534d, 0
    EXPECT a0, -6
    la t0, go
    li t1, 1
    sw t1, 0(t0)
    CASE "amoadd and lr/sc do not lose counts"
    call work
    WAIT_FOR finished, HARTS
    la t0, sum_amo
    ld a0, 0(t0)
    EXPECT a0, HARTS * ROUNDS
    ld a0, 8(t0)
    EXPECT a0, HARTS * ROUNDS
    ld a0, 16(t0)
    EXPECT a0, HARTS * ROUNDS
    CASE "stopped again"
1:  li a0, 2
    SBI 0x48534d, 2
    li t0, 1
    bne a1, t0, 1b
    CASE "message passing is ordered"
    la t0, finished
    sw x0, 0(t0)
    START 1, reader
    la t0, mailbox
    li t1, 0
    li t2, ROUNDS
1:  addi t1, t1, 1
    sd t1, 0(t0)
    fence w, w
    sd t1, 64(t0)
    bne t1, t2, 1b
    WAIT_FOR finished, 1
    CASE "IPI wakes from WFI"
    START 2, sleeper
    WAIT_FOR asleep, 1
    li a0, 4
    li a1, 0
    SBI 0x735049, 0
    EXPECT a0, 0
    WAIT_FOR woken, 1
    CASE "remote fence.i"
    la t0, code
    li t1, 0x00000513
    sw t1, 0(t0)
    li t1, RET
    sw t1, 4(t0)
    START 3, runner
    li s5, 0
    li s6, 200
1:  la t0, code
    slli t1, s5, 20
    li t2, 0x00000513
    or t1, t1, t2
    sw t1, 0(t0)
    li a0, 8
    li a1, 0
    SBI 0x52464e43, 0
    EXPECT a0, 0
    /* ask, and hear what it runs now */
    la t0, ask
    addi t1, s5, 1
    fence
    sw t1, 0(t0)
    la t0, answer
2:  lw t2, 0(t0)
    srli t3, t2, 16
    bne t3, t1, 2b
    slli t2, t2, 48
    srli a0, t2, 48
    EXPECT_REG a0, s5
    addi s5, s5, 1
    bne s5, s6, 1b
    CASE "remote sfence.vma"
    START 1, mapped
    WAIT_FOR mapped_up, 1
    la t0, leaf
    la t1, page_b
    srli t1, t1, 2
    ori t1, t1, 0xc3
    sd t1, 0(t0)
    li a0, 2
    li a1, 0
    li a2, 0x40000000
    li a3, 0x1000
    SBI 0x52464e43, 1
    EXPECT a0, 0
    la t0, look
    li t1, 1
    fence
    sw t1, 0(t0)
    WAIT_FOR seen, 0xbb
    PASS

count: /* a0 = hart, a1 = 0x55 + hart */
    SECONDARY
    addi t0, a0, 0x55
    bne t0, a1, fail
    csrr t0, satp
    bnez t0, fail
    la t0, started
    li t1, 1
    amoadd.w x0, t1, (t0)
    WAIT_FOR go, 1
    call work
    SBI 0x48534d, 1
    j fail
work:
    la t0, sum_amo
    li t1, ROUNDS
    li t2, 1
1:  amoadd.d x0, t2, (t0)
    addi t4, t0, 8
2:  lr.d t3, (t4)
    addi t3, t3, 1
    sc.d t5, t3, (t4)
    bnez t5, 2b
    /* a lock */
    addi t4, t0, 24
3:  amoswap.w.aq t5, t2, (t4)
    bnez t5, 3b
    ld t5, 16(t0)
    addi t5, t5, 1
    sd t5, 16(t0)
    amoswap.w.rl x0, x0, (t4)
    addi t1, t1, -1
    bnez t1, 1b
    la t0, finished
    amoadd.w x0, t2, (t0)
    ret
reader:
    SECONDARY
    la t0, mailbox
    li t3, ROUNDS
1:  ld t1, 64(t0)
    fence r, r
    ld t2, 0(t0)
    bltu t2, t1, fail
    bne t1, t3, 1b
    la t0, finished
    li t1, 1
    sw t1, 0(t0)
    SBI 0x48534d, 1
sleeper:
    SECONDARY
    li t0, 2
    csrw sie, t0
    la t0, asleep
    li t1, 1
    sw t1, 0(t0)
1:  wfi
    csrr t0, sip
    andi t0, t0, 2
    beqz t0, 1b
    la t0, woken
    sw t1, 0(t0)
    SBI 0x48534d, 1
runner:
    SECONDARY
    la s5, ask
    la s6, answer
    la s7, code
    li s8, 0
1:  lw t0, 0(s5)
    beq t0, s8, 1b
    mv s8, t0
    fence
    jalr s7
    slli t0, s8, 16
    or t0, t0, a0
    sw t0, 0(s6)
    j 1b
mapped:
    SECONDARY
    la t0, root
    srli t1, t0, 12
    li t2, 8 << 60
    or t1, t1, t2
    la t2, middle
    srli t2, t2, 2
    ori t2, t2, 1
    sd t2, 8(t0)
    la t2, leaf
    srli t3, t2, 2
    ori t3, t3, 1
    la t0, middle
    sd t3, 0(t0)
    la t3, page_a
    srli t3, t3, 2
    ori t3, t3, 0xc3
    sd t3, 0(t2)
    csrw satp, t1
    sfence.vma
    li t0, 0x40000000
    lw t1, 0(t0)
    li t2, 0xaa
    bne t1, t2, fail
    la t1, mapped_up
    li t2, 1
    sw t2, 0(t1)
    la t1, look
1:  lw t2, 0(t1)
    beqz t2, 1b
    lw t1, 0(t0)
    la t2, seen
    sw t1, 0(t2)
    SBI 0x48534d, 1
    .data
    .balign 4096
root:
    .quad 0, 0, 0x20000000 + 0xcf
    .skip 4096 - 24
middle: .skip 4096
leaf: .skip 4096
page_a: .word 0xaa
    .balign 4096
page_b: .word 0xbb
    .balign 4096
code: .skip 4096
sum_amo: .skip 32
    .balign 64
mailbox: .skip 128
started: .word 0
go: .word 0
finished: .word 0
asleep: .word 0
woken: .word 0
ask: .word 0
answer: .word 0
mapped_up: .word 0
look: .word 0
seen: .word 0
