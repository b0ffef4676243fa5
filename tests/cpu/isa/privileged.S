/* SPDX-License-Identifier: BSD-2-Clause */
/* Traps, CSRs, SRET, user mode's limits, the SBI's answers. */
#include "macros.inc"
    LIBRARY
    .globl _start
    .macro ILLEGAL text, bits:vararg
    CASE "illegal: \text"
    TRAPS
    \bits
    END_TRAPS
    EXPECT s2, 2
    .endm
    .macro EXPECT_STVAL value
    EXPECT s3, \value
    .endm
    /* runs `code` in user mode until it traps: s2 cause, s3 value, s4 pc */
    .macro USER code:vararg
    la t0, 9777f
    csrw sepc, t0
    li t0, 1 << 8
    csrc sstatus, t0
    TRAPS
    sret
    .balign 4
9777:
    \code
    nop
    ebreak
    END_TRAPS
    .endm
_start:
    la sp, stack_end
    la t0, unexpected
    csrw stvec, t0

    CASE "a0 and a1 at the start"
    EXPECT a0, 0
    EXPECT a1, 0
    CASE "ebreak"
    TRAPS
    la s5, 1f
1:  ebreak
    END_TRAPS
    EXPECT s2, 3
    EXPECT_REG s3, s5
    EXPECT_REG s4, s5
    CASE "state of a trap"
    csrsi sstatus, 2
    TRAPS
    ebreak
    END_TRAPS
    csrr a0, sstatus
    andi a0, a0, 0x122
    EXPECT a0, 0x120
    CASE "sret restores"
    la t0, 1f
    csrw sepc, t0
    sret
1:  csrr a0, sstatus
    andi a0, a0, 0x122
    EXPECT a0, 0x022
    csrci sstatus, 2

    ILLEGAL "zeros", .word 0
    EXPECT_STVAL 0
    ILLEGAL "ones", .word 0xffffffff
    EXPECT_STVAL 0xffffffff
    ILLEGAL "reserved compressed", .half 0x8000, 1
    EXPECT_STVAL 0x8000
    ILLEGAL "mret", .word 0x30200073
    EXPECT_STVAL 0x30200073
    ILLEGAL "machine CSR", csrr a0, mstatus
    ILLEGAL "absent CSR", csrr a0, 0x5c0
    ILLEGAL "write of a read-only CSR", csrw time, a0
    ILLEGAL "hypervisor load", .word 0x60054573
    csrw sstatus, x0
    ILLEGAL "floating point off", fadd.d f0, f0, f0
    EXPECT_STVAL 0x02007053
    ILLEGAL "fcsr off", csrr a0, fcsr
    ILLEGAL "compressed load off", .half 0x2000, 1
    li t0, 1 << 13
    csrs sstatus, t0
    ILLEGAL "rounding mode 5", .word 0x0200d053 | 5 << 12
    csrwi frm, 5
    ILLEGAL "dynamic rounding mode 5", fadd.d f0, f0, f0
    csrwi frm, 0
    CASE "FS turns dirty"
    li t0, 3 << 13
    csrc sstatus, t0
    li t0, 1 << 13
    csrs sstatus, t0
    fmv.d.x f0, x0
    csrr a0, sstatus
    srli a1, a0, 63
    EXPECT a1, 1
    srli a0, a0, 13
    andi a0, a0, 3
    EXPECT a0, 3
    CASE "reading does not turn FS dirty"
    li t0, 2 << 13
    csrw sstatus, t0
    la t1, scratch
    fsd f0, 0(t1)
    fmv.x.d t1, f0
    csrr a0, sstatus
    srli a0, a0, 13
    EXPECT a0, 1 << 20 | 2

    CASE "sstatus: UXL is 64"
    csrw sstatus, x0
    csrr a0, sstatus
    EXPECT a0, 2 << 32
    CASE "csrrs csrrc csrrwi return the old value"
    li a0, 0xf0
    csrw sscratch, a0
    li a0, 0x0f
    csrrs a1, sscratch, a0
    EXPECT a1, 0xf0
    csrrc a1, sscratch, a0
    EXPECT a1, 0xff
    csrrwi a1, sscratch, 3
    EXPECT a1, 0xf0
    csrr a0, sscratch
    EXPECT a0, 3
    CASE "sepc is even, stvec keeps its mode"
    li a0, -1
    csrw sepc, a0
    csrr a0, sepc
    EXPECT a0, -2
    csrr a1, stvec
    li a0, 2
    csrw stvec, a0
    csrr a0, stvec
    EXPECT_REG a0, a1
    CASE "satp refuses Sv57"
    li a0, 10 << 60
    csrw satp, a0
    csrr a0, satp
    EXPECT a0, 0
    CASE "sie takes only what exists"
    li a0, -1
    csrw sie, a0
    csrr a0, sie
    csrw sie, x0
    EXPECT a0, 0x222

    CASE "ecall from user mode"
    USER ecall
    EXPECT s2, 8
    CASE "privileged instructions in user mode"
    USER csrr a0, sstatus
    EXPECT s2, 2
    USER sret
    EXPECT s2, 2
    USER wfi
    EXPECT s2, 2
    USER sfence.vma
    EXPECT s2, 2
    CASE "counters in user mode"
    csrw scounteren, x0
    USER rdtime a0
    EXPECT s2, 2
    csrwi scounteren, 2
    USER rdtime a0
    EXPECT s2, 3
    USER rdcycle a0
    EXPECT s2, 2
    CASE "cache blocks in user mode"
    la a1, scratch
    csrw senvcfg, x0
    USER .word 0x0045a00f
    EXPECT s2, 2
    li t0, 0x80
    csrw senvcfg, t0
    USER .word 0x0045a00f
    EXPECT s2, 3
    USER .word 0x0015a00f
    EXPECT s2, 2
    CASE "cbo.zero"
    la a1, scratch
    li a0, -1
    sd a0, 0(a1)
    sd a0, 56(a1)
    sd a0, 64(a1)
    addi a2, a1, 33
    cbo.zero (a2)
    ld a0, 56(a1)
    EXPECT a0, 0
    ld a0, 0(a1)
    EXPECT a0, 0
    ld a0, 64(a1)
    EXPECT a0, -1
    cbo.flush (a1)

    CASE "access faults"
    li a1, 0x7ffffff8
    TRAPS
    ld a0, 0(a1)
    END_TRAPS
    EXPECT s2, 5
    EXPECT_REG s3, a1
    TRAPS
    sd a0, 0(a1)
    END_TRAPS
    EXPECT s2, 7
    TRAPS
    amoadd.w a0, a0, (a1)
    END_TRAPS
    EXPECT s2, 7
    TRAPS
    lr.w a0, (a1)
    END_TRAPS
    EXPECT s2, 5
    TRAPS
    jr a1
    END_TRAPS
    EXPECT s2, 1
    EXPECT_REG s3, a1
    EXPECT_REG s4, a1
    CASE "misaligned atomics"
    la a1, scratch + 2
    TRAPS
    amoadd.w a0, a0, (a1)
    END_TRAPS
    EXPECT s2, 6
    EXPECT_REG s3, a1
    TRAPS
    lr.w a0, (a1)
    END_TRAPS
    EXPECT s2, 4
    CASE "registers of devices"
    li a1, 0x10000000
    li a0, 0x12345678
    sd a0, 8(a1)
    lw a0, 0(a1)
    EXPECT a0, 0x12345678
    lbu a0, 0(a1)
    EXPECT a0, 0x78
    TRAPS
    lw a0, 2(a1)
    END_TRAPS
    EXPECT s2, 5
    TRAPS
    amoadd.w a0, a0, (a1)
    END_TRAPS
    EXPECT s2, 7

    CASE "a trap takes back what was not executed"
    rdinstret s5
    TRAPS
    ld a0, 0(x0)
    addi a0, a0, 1
    addi a0, a0, 1
    addi a0, a0, 1
    END_TRAPS
    rdinstret s6
    sub a0, s6, s5
    EXPECT a0, 12

    CASE "SBI base"
    SBI 0x10, 0
    EXPECT a0, 0
    EXPECT a1, 0x02000000
    li a0, 0x4442434e
    SBI 0x10, 3
    EXPECT a1, 1
    li a0, 0x99
    SBI 0x10, 3
    EXPECT a1, 0
    CASE "SBI unknown"
    SBI 0x12345, 0
    EXPECT a0, -2
    SBI 0x10, 77
    EXPECT a0, -2
    CASE "SBI parameters"
    li a0, 0
    li a1, 7
    SBI 0x735049, 0
    EXPECT a0, 0
    li a0, 2
    li a1, 0
    SBI 0x735049, 0
    EXPECT a0, -3
    li a0, 1
    SBI 0x48534d, 2
    EXPECT a0, -3
    li a0, 0
    SBI 0x48534d, 2
    EXPECT a0, 0
    EXPECT a1, 0
    la a1, _start
    li a0, 0
    SBI 0x48534d, 0
    EXPECT a0, -6
    li a0, 8
    li a1, 0x1000
    li a2, 0
    SBI 0x4442434e, 0
    EXPECT a0, -3
    li a0, 9
    SBI 0x53525354, 0
    EXPECT a0, -3
    PASS
    .data
    .balign 4096
scratch: .skip 128
