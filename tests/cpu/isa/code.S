/* SPDX-License-Identifier: BSD-2-Clause */
/* Code that is written while it runs. */
#include "macros.inc"
    LIBRARY
    .globl _start
    .equ RET, 0x00008067
_start:
    la sp, stack_end
    la t0, unexpected
    csrw stvec, t0
    CASE "fence.i after each change"
    la s8, buffer
    li t0, RET
    sw t0, 4(s8)
    li s5, 1000
    li s6, 0x00000513 /* li a0, 0 */
    li s7, 0
1:  sw s6, 0(s8)
    fence.i
    jalr s8
    add s7, s7, a0
    li t0, 1 << 20
    add s6, s6, t0
    addi s5, s5, -1
    bnez s5, 1b
    EXPECT s7, 1000 * 999 / 2
    CASE "by AMO"
    li a1, 0x02a00513 /* li a0, 42 */
    amoswap.w x0, a1, (s8)
    fence.i
    jalr s8
    EXPECT a0, 42
    CASE "through another page's end, a misaligned store"
    li a1, 0x04000513
    sw a1, 0(s8)
    fence.i
    jalr s8
    EXPECT a0, 64
    sb x0, 3(s8)
    fence.i
    jalr s8
    EXPECT a0, 0
    CASE "an instruction across pages, each half"
    la s9, split - 2
    li t0, 0x00500513
    sh t0, 0(s9)
    srli t0, t0, 16
    sh t0, 2(s9)
    li t0, RET
    sh t0, 4(s9)
    srli t0, t0, 16
    sh t0, 6(s9)
    fence.i
    jalr s9
    EXPECT a0, 5
    li t0, 0x0060
    sh t0, 2(s9)
    fence.i
    jalr s9
    EXPECT a0, 6
    li t0, 0x0593 /* now to a1 */
    sh t0, 0(s9)
    fence.i
    li a1, 0
    jalr s9
    EXPECT a1, 6
    CASE "cbo.zero over code"
    la a1, buffer
    cbo.zero (a1)
    fence.i
    TRAPS
    jalr s8
    END_TRAPS
    EXPECT s2, 2
    CASE "more code than the cache holds"
    /* 1 MiB of two-instruction blocks, run twice */
    la s8, area
    li s5, 0x20000
    mv t1, s8
    li t2, 0x00150513 /* addi a0, a0, 1 */
    li t3, 0x0040006f /* j +4 */
1:  sw t2, 0(t1)
    sw t3, 4(t1)
    addi t1, t1, 8
    addi s5, s5, -1
    bnez s5, 1b
    li t0, RET
    sw t0, 0(t1)
    fence.i
    li a0, 0
    jalr s8
    jalr s8
    EXPECT a0, 0x40000
    PASS
    .bss
    .balign 4096
buffer: .skip 8192
split: .skip 4096
area: .skip 0x100000 + 16
