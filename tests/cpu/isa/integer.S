/* SPDX-License-Identifier: BSD-2-Clause */
/* I, M, Zba, Zbb, Zbs, compressed code, branches, loads and stores. */
#include "macros.inc"
    UNPRIVILEGED_MAIN
tests:
    mv s1, ra
    RR add, 1, 2, 3
    RR add, -1, 1, 0
    RR sub, 0, 1, -1
    RR sll, 1, 63, 0x8000000000000000
    RR sll, 1, 64, 1
    RR srl, -1, 60, 15
    RR sra, 0x8000000000000000, 63, -1
    RR slt, -1, 0, 1
    RR sltu, -1, 0, 0
    RR sltu, 0, -1, 1
    RR xor, 0xff, 0x0f, 0xf0
    RR or, 0xf0, 0x0f, 0xff
    RR and, 0xff, 0x0f, 0x0f
    RI addi, 5, -6, -1
    RI slti, -5, -4, 1
    RI sltiu, 5, -1, 1
    RI xori, 0, -1, -1
    RI ori, 1, 0x7f0, 0x7f1
    RI andi, -1, -2048, -2048
    RI slli, 1, 40, 0x10000000000
    RI srli, -1, 63, 1
    RI srai, -16, 2, -4
    RR addw, 0x7fffffff, 1, -0x80000000
    RR subw, 0, 1, -1
    RR sllw, 1, 31, -0x80000000
    RR srlw, -1, 31, 1
    RR sraw, 0x80000000, 31, -1
    RI addiw, 0xffffffff, 1, 0
    RI slliw, 1, 31, -0x80000000
    RI srliw, 0x180000000, 31, 1
    RI sraiw, 0x80000000, 1, -0x40000000
    CASE "lui"
    lui a0, 0x80000
    EXPECT a0, -0x80000000
    CASE "auipc"
    auipc a0, 0
    auipc a1, 1
    sub a0, a1, a0
    EXPECT a0, 0x1004
    CASE "writes to x0"
    addi x0, x0, 5
    lui x0, 1
    mv a0, x0
    EXPECT a0, 0
    CASE "locality hints do nothing"
    li a0, 7
    add x0, x0, x2
    add x0, x0, x5
    .half 0x900a /* c.ntl.p1 */
    .half 0x9016 /* c.ntl.all */
    mv a1, x0
    add a0, a0, a1
    EXPECT a0, 7

    RR mul, 3, -4, -12
    RR mulh, -1, -1, 0
    RR mulh, 0x8000000000000000, 2, -1
    RR mulhu, -1, -1, -2
    RR mulhsu, -1, -1, -1
    RR mulhsu, 2, -1, 1
    RR div, -7, 2, -3
    RR div, 7, 0, -1
    RR div, 0x8000000000000000, -1, 0x8000000000000000
    RR divu, -1, 2, 0x7fffffffffffffff
    RR divu, 5, 0, -1
    RR rem, -7, 2, -1
    RR rem, 7, 0, 7
    RR rem, 0x8000000000000000, -1, 0
    RR remu, 7, 0, 7
    RR remu, -1, 16, 15
    RR mulw, 0x10000, 0x10000, 0
    RR divw, 0x80000000, -1, -0x80000000
    RR divw, 1, 0x100000000, -1
    RR divuw, 0xffffffff, 1, -1
    RR divuw, 7, 0, -1
    RR remw, 0x80000000, -1, 0
    RR remw, -7, 0, -7
    RR remuw, 0x80000001, 0, -0x7fffffff

    RR sh1add, 3, 1, 7
    RR sh2add, 3, 1, 13
    RR sh3add, 3, 1, 25
    RR add.uw, -1, 1, 0x100000000
    RR sh1add.uw, -1, 0, 0x1fffffffe
    RR sh2add.uw, -1, 0, 0x3fffffffc
    RR sh3add.uw, -1, 0, 0x7fffffff8
    RI slli.uw, -1, 4, 0xffffffff0
    RR andn, 0xff, 0x0f, 0xf0
    RR orn, 0, 0, -1
    RR xnor, 5, 5, -1
    R clz, 1, 63
    R clz, 0, 64
    R ctz, 0x8000000000000000, 63
    R ctz, 0, 64
    R cpop, -1, 64
    R clzw, 1, 31
    R clzw, 0x100000000, 32
    R ctzw, 0x100000000, 32
    R ctzw, 8, 3
    R cpopw, -1, 32
    R sext.b, 0x80, -128
    R sext.h, 0x8000, -32768
    R zext.h, -1, 0xffff
    R orc.b, 0x0100001000000800, 0xff0000ff0000ff00
    R rev8, 0x0102030405060708, 0x0807060504030201
    RR min, -1, 1, -1
    RR max, -1, 1, 1
    RR minu, -1, 1, 1
    RR maxu, -1, 1, -1
    RR rol, 0x8000000000000001, 1, 3
    RR ror, 1, 1, 0x8000000000000000
    RR ror, 5, 0, 5
    RI rori, 1, 63, 2
    RR rolw, 0x80000000, 1, 1
    RR rorw, 1, 1, -0x80000000
    RI roriw, 1, 1, -0x80000000
    RR bclr, -1, 63, 0x7fffffffffffffff
    RR bext, 0x8000000000000000, 63, 1
    RR binv, 0, 65, 2
    RR bset, 0, 63, 0x8000000000000000
    RI bclri, -1, 0, -2
    RI bexti, 2, 1, 1
    RI binvi, 1, 0, 0
    RI bseti, 0, 32, 0x100000000

    /* czero.eqz and czero.nez, which older assemblers do not know */
    CASE "czero.eqz"
    li a1, 7
    .insn r 0x33, 5, 7, a0, a1, x0
    EXPECT a0, 0
    .insn r 0x33, 5, 7, a0, a1, a1
    EXPECT a0, 7
    CASE "czero.nez"
    .insn r 0x33, 7, 7, a0, a1, x0
    EXPECT a0, 7

    .macro BR insn, a, b, taken
    CASE "\insn \a \b"
    li a1, \a
    li a2, \b
    li a0, 1
    \insn a1, a2, 1f
    li a0, 0
1:  EXPECT a0, \taken
    .endm
    BR beq, 1, 1, 1
    BR beq, 1, 2, 0
    BR bne, 1, 2, 1
    BR blt, -1, 0, 1
    BR blt, 0, 0, 0
    BR bge, 0, 0, 1
    BR bge, -1, 0, 0
    BR bltu, 0, -1, 1
    BR bltu, -1, 0, 0
    BR bgeu, -1, 0, 1
    CASE "jal links"
    jal a0, 1f
1:  la a1, 1b
    EXPECT_REG a0, a1
    CASE "jalr clears bit 0, same register for both"
    la a0, 1f
    addi a0, a0, 1
    jalr a0, 0(a0)
1:  la a1, 1b
    EXPECT_REG a0, a1
    CASE "backward loop"
    li a0, 0
    li a1, 1000
1:  addi a0, a0, 3
    addi a1, a1, -1
    bnez a1, 1b
    EXPECT a0, 3000

    la s2, scratch
    li a1, 0x8182838485868788
    sd a1, 0(s2)
    .macro PEEK insn, off, result
    CASE "\insn \off"
    \insn a0, \off(s2)
    EXPECT a0, \result
    .endm
    PEEK lb, 0, -0x78
    PEEK lbu, 7, 0x81
    PEEK lh, 0, -0x7878
    PEEK lhu, 2, 0x8586
    PEEK lw, 0, -0x7a797878
    PEEK lwu, 4, 0x81828384
    PEEK lh, 1, -0x7979
    PEEK lw, 3, -0x7d7c7b7b
    sd x0, 8(s2)
    PEEK ld, 1, 0x0081828384858687
    CASE "stores"
    sd x0, 0(s2)
    li a1, -1
    sb a1, 1(s2)
    PEEK ld, 0, 0xff00
    sh a1, 3(s2)
    PEEK ld, 0, 0xffff00ff00
    sw a1, 6(s2)
    PEEK ld, 0, 0xffff00ffff00ff00
    PEEK ld, 8, 0xffff
    CASE "across a page"
    la s2, page_end
    li a1, 0x1122334455667788
    sd a1, -3(s2)
    ld a0, -3(s2)
    EXPECT a0, 0x1122334455667788
    lbu a0, 0(s2)
    EXPECT a0, 0x55
    lhu a0, -1(s2)
    EXPECT a0, 0x5566

    CASE "code across a page"
    li a0, 0
    call crossing
    EXPECT a0, 111
    call crossing
    EXPECT a0, 222

    .option rvc
    CASE "compressed"
    c.li a0, -3
    c.addi a0, 5
    c.slli a0, 4
    c.mv a1, a0
    c.add a0, a1
    c.srli a0, 1
    c.lui a2, 0xfffff
    c.sub a0, a2
    c.j 1f
    c.li a0, 0
1:  c.beqz a0, 2f
    c.addiw a0, 1
2:  .option norvc
    EXPECT a0, 0x1021
    CASE "instret counts every instruction once"
    rdinstret a0
    lui a1, 0x12345
    addi a1, a1, 0x678
    auipc a1, 1
    addi a1, a1, 4
    nop
    beqz zero, 1f
    nop
1:  rdinstret a2
    sub a0, a2, a0
    EXPECT a0, 7
    jr s1

    .balign 4096
    .skip 4094 - 4
crossing:
    addi a0, a0, 100
    addi a0, a0, 11 /* the last two bytes of this page and the first two of the next */
    ret
    .data
    .balign 4096
scratch: .skip 4096
page_end: .skip 4096
