/* SPDX-License-Identifier: BSD-2-Clause */
/* F and D: specials, flags, rounding modes. The bulk of values is the differential test's. */
#include "macros.inc"
    UNPRIVILEGED_MAIN
    .macro LOADF reg, bits, w
    li t0, \bits
    fmv.\w\().x \reg, t0
    .endm
    /* operands and result as bits; flags */
    .macro F2 insn, w, a, b, result, flags
    CASE "\insn \a \b"
    csrwi fflags, 0
    LOADF f1, \a, \w
    LOADF f2, \b, \w
    \insn f0, f1, f2
    fmv.x.\w a0, f0
    EXPECT a0, \result
    csrr a0, fflags
    EXPECT a0, \flags
    .endm
    .macro F1M insn, w, a, rm, result, flags
    CASE "\insn \a \rm"
    csrwi fflags, 0
    LOADF f1, \a, \w
    \insn a0, f1, \rm
    EXPECT a0, \result
    csrr a0, fflags
    EXPECT a0, \flags
    .endm
    .macro CMP insn, w, a, b, result, flags
    CASE "\insn \a \b"
    csrwi fflags, 0
    LOADF f1, \a, \w
    LOADF f2, \b, \w
    \insn a0, f1, f2
    EXPECT a0, \result
    csrr a0, fflags
    EXPECT a0, \flags
    .endm
    .equ ONE_D, 0x3ff0000000000000
    .equ INF_D, 0x7ff0000000000000
    .equ QNAN_D, 0x7ff8000000000000
    .equ SNAN_D, 0x7ff0000000000001
    .equ MAX_D, 0x7fefffffffffffff
    .equ NEG, 0x8000000000000000
    .equ ONE, 0x3f800000
    .equ QNAN, 0x7fc00000
    .equ SNAN, 0x7f800001
tests:
    mv s1, ra
    csrwi frm, 0
    F2 fadd.d, d, ONE_D, ONE_D, 0x4000000000000000, 0
    F2 fadd.d, d, INF_D, NEG + INF_D, QNAN_D, 16
    F2 fadd.d, d, SNAN_D, ONE_D, QNAN_D, 16
    F2 fadd.d, d, QNAN_D, ONE_D, QNAN_D, 0
    F2 fadd.d, d, MAX_D, MAX_D, INF_D, 5
    F2 fadd.d, d, ONE_D, 1, ONE_D, 1
    F2 fmul.d, d, 0x0010000000000000, 0x3fe0000000000001, 0x0008000000000000, 3
    F2 fdiv.d, d, ONE_D, 0, INF_D, 8
    F2 fdiv.d, d, 0, 0, QNAN_D, 16
    F2 fmin.d, d, NEG, 0, NEG, 0
    F2 fmax.d, d, NEG, 0, 0, 0
    F2 fmin.d, d, SNAN_D, ONE_D, ONE_D, 16
    F2 fmax.d, d, QNAN_D, QNAN_D, QNAN_D, 0
    F2 fsgnjn.d, d, ONE_D, ONE_D, NEG + ONE_D, 0
    F2 fadd.s, w, ONE, ONE, 0x40000000, 0
    F2 fdiv.s, w, ONE, 0x40400000, 0x3eaaaaab, 1
    F2 fmul.s, w, SNAN, ONE, QNAN, 16
    CMP feq.d, d, QNAN_D, ONE_D, 0, 0
    CMP feq.d, d, SNAN_D, ONE_D, 0, 16
    CMP feq.d, d, NEG, 0, 1, 0
    CMP flt.d, d, QNAN_D, ONE_D, 0, 16
    CMP flt.d, d, NEG + ONE_D, ONE_D, 1, 0
    CMP fle.s, w, ONE, ONE, 1, 0
    CMP fle.s, w, ONE, QNAN, 0, 16
    F1M fcvt.w.d, d, 0x4004000000000000, rne, 2, 1
    F1M fcvt.w.d, d, 0x4004000000000000, rmm, 3, 1
    F1M fcvt.w.d, d, 0x4004000000000000, rup, 3, 1
    F1M fcvt.w.d, d, 0xc004000000000000, rdn, -3, 1
    F1M fcvt.w.d, d, 0xc004000000000000, rtz, -2, 1
    F1M fcvt.w.d, d, QNAN_D, rtz, 0x7fffffff, 16
    F1M fcvt.w.d, d, NEG + INF_D, rtz, -0x80000000, 16
    F1M fcvt.wu.d, d, 0xbff0000000000000, rtz, 0, 16
    F1M fcvt.wu.d, d, 0xbfe0000000000000, rtz, 0, 1
    F1M fcvt.wu.d, d, 0x41efffffffe00000, rtz, -1, 0
    F1M fcvt.lu.d, d, 0x43f0000000000000, rtz, -1, 16
    F1M fcvt.l.d, d, 0xc3e0000000000000, rtz, NEG, 0
    F1M fcvt.l.s, w, 0x7f800000, rtz, 0x7fffffffffffffff, 16
    CASE "ties away, addition"
    csrwi fcsr, 0
    LOADF f1, ONE_D, d
    LOADF f2, 0x3ca0000000000000, d /* half a unit in the last place of 1 */
    fadd.d f0, f1, f2, rmm
    fmv.x.d a0, f0
    EXPECT a0, ONE_D + 1
    fadd.d f0, f1, f2, rne
    fmv.x.d a0, f0
    EXPECT a0, ONE_D
    csrwi frm, 4
    fsub.d f2, f0, f2
    csrr a0, fflags
    EXPECT a0, 1
    CASE "dynamic rounding"
    li a0, 0x60
    csrw fcsr, a0
    LOADF f1, ONE_D, d
    LOADF f2, 0x4008000000000000, d
    fdiv.d f0, f1, f2
    fmv.x.d a0, f0
    EXPECT a0, 0x3fd5555555555556
    csrr a0, fcsr
    EXPECT a0, 0x61
    csrwi fcsr, 0
    CASE "boxing"
    LOADF f1, ONE, d
    fadd.s f0, f1, f1
    fmv.x.w a0, f0
    EXPECT a0, QNAN
    LOADF f1, ONE, w
    fmv.x.d a0, f1
    EXPECT a0, 0xffffffff3f800000
    CASE "fclass"
    LOADF f1, NEG + INF_D, d
    fclass.d a0, f1
    EXPECT a0, 1
    LOADF f1, NEG + 1, d
    fclass.d a0, f1
    EXPECT a0, 4
    LOADF f1, 0, d
    fclass.d a0, f1
    EXPECT a0, 16
    LOADF f1, SNAN_D, d
    fclass.d a0, f1
    EXPECT a0, 256
    LOADF f1, QNAN, w
    fclass.s a0, f1
    EXPECT a0, 512
    CASE "fmadd rounds once"
    LOADF f1, 0x3ff0000000000001, d
    LOADF f2, 0x3ff0000000000001, d
    LOADF f3, 0xbff0000000000002, d
    fmadd.d f0, f1, f2, f3
    fmv.x.d a0, f0
    EXPECT a0, 0x3970000000000000
    jr s1
