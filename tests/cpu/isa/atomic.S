/* SPDX-License-Identifier: BSD-2-Clause */
/* LR, SC and every AMO. */
#include "macros.inc"
    UNPRIVILEGED_MAIN
    .macro AMO insn, store, load, mem, b, result
    CASE "\insn \mem \b"
    li a1, \mem
    li a2, \b
    \store a1, 0(s2)
    \insn a3, a2, (s2)
    EXPECT_REG a3, a1
    \load a0, 0(s2)
    EXPECT a0, \result
    .endm
tests:
    mv s1, ra
    la s2, word
    AMO amoswap.w, sw, lw, 1, -2, -2
    AMO amoadd.w, sw, lw, 0x7fffffff, 1, -0x80000000
    AMO amoxor.w, sw, lw, 5, 1, 4
    AMO amoand.w, sw, lw, 5, 4, 4
    AMO amoor.w, sw, lw, 5, 2, 7
    AMO amomin.w, sw, lw, -1, 1, -1
    AMO amomax.w, sw, lw, -1, 1, 1
    AMO amominu.w, sw, lw, -1, 1, 1
    AMO amomaxu.w, sw, lw, -1, 1, -1
    AMO amoswap.d, sd, ld, 1, -2, -2
    AMO amoadd.d, sd, ld, 0x7fffffff, 1, 0x80000000
    AMO amoxor.d, sd, ld, -1, 1, -2
    AMO amoand.d.aqrl, sd, ld, 5, 4, 4
    AMO amoor.d, sd, ld, 5, 2, 7
    AMO amomin.d, sd, ld, -1, 1, -1
    AMO amomax.d, sd, ld, -1, 1, 1
    AMO amominu.d, sd, ld, -1, 1, 1
    AMO amomaxu.d, sd, ld, -1, 1, -1
    CASE "word AMO leaves the other half"
    li a1, -1
    sd a1, 0(s2)
    amoand.w a0, x0, (s2)
    ld a0, 0(s2)
    EXPECT a0, 0xffffffff00000000
    CASE "lr sc"
    sd x0, 0(s2)
    li a2, 9
    lr.d a1, (s2)
    sc.d a0, a2, (s2)
    EXPECT a0, 0
    ld a0, 0(s2)
    EXPECT a0, 9
    CASE "second sc fails"
    sc.d a0, x0, (s2)
    EXPECT a0, 1
    ld a0, 0(s2)
    EXPECT a0, 9
    CASE "sc after a store to it fails"
    lr.w a1, (s2)
    sw x0, 0(s2)
    sc.w a0, a2, (s2)
    EXPECT a0, 1
    CASE "sc elsewhere fails"
    lr.w a1, (s2)
    addi a3, s2, 8
    sc.w a0, a2, (a3)
    EXPECT a0, 1
    CASE "sc of another size fails"
    lr.w a1, (s2)
    sc.d a0, a2, (s2)
    EXPECT a0, 1
    CASE "lr.w sign-extends"
    li a1, 0x80000000
    sw a1, 0(s2)
    lr.w a0, (s2)
    EXPECT a0, -0x80000000
    jr s1
    .data
    .balign 16
word: .skip 16
