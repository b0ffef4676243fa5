/* SPDX-License-Identifier: BSD-2-Clause */
/* Sv39 and Sv48: permissions, SUM, MXR, A and D, superpages, SFENCE.VMA. */
#include "macros.inc"
    LIBRARY
    .globl _start
    .equ V, 1
    .equ R, 2
    .equ W, 4
    .equ X, 8
    .equ U, 16
    .equ A, 64
    .equ D, 128
    .equ PAGE, 0x40000000 /* mapped by pte */
    /* sets the PTE of PAGE to the physical page at `where` with flags */
    .macro MAP where, flags
    la t0, \where
    srli t0, t0, 2
    ori t0, t0, \flags
    la t1, pte
    sd t0, 0(t1)
    li t0, PAGE
    sfence.vma t0, x0
    .endm
    .macro FAULTS cause, insn:vararg
    TRAPS
    \insn
    END_TRAPS
    EXPECT s2, \cause
    EXPECT_REG s3, s8
    .endm
    .macro POINTER table, to, index
    la t0, \to
    srli t0, t0, 2
    ori t0, t0, V
    la t1, \table
    sd t0, 8 * \index(t1)
    .endm
_start:
    la sp, stack_end
    la t0, unexpected
    csrw stvec, t0
    POINTER root, middle, 1
    POINTER middle, pte, 0
    li s8, PAGE
    la t0, root
    srli t0, t0, 12
    li t1, 8 << 60
    or s7, t0, t1
    csrw satp, s7
    sfence.vma
    call cases
    /* once more with another level above */
    csrw satp, x0
    POINTER root48, root, 0
    la t0, root48
    srli t0, t0, 12
    li t1, 9 << 60
    or s7, t0, t1
    csrw satp, s7
    call cases
    csrw satp, x0
    PASS
cases:
    mv s1, ra
    CASE "load and store"
    MAP one, V | R | W
    li a0, 77
    sd a0, 0(s8)
    la a1, one
    ld a1, 0(a1)
    EXPECT a1, 77
    CASE "A and D were set"
    la t0, pte
    ld a0, 0(t0)
    andi a0, a0, 0xff
    EXPECT a0, V | R | W | A | D
    CASE "a load sets A alone"
    MAP one, V | R | W
    ld a0, 0(s8)
    la t0, pte
    ld a0, 0(t0)
    andi a0, a0, 0xff
    EXPECT a0, V | R | W | A
    CASE "a store after the load sets D"
    sd x0, 0(s8)
    la t0, pte
    ld a0, 0(t0)
    andi a0, a0, 0xff
    EXPECT a0, V | R | W | A | D
    CASE "read-only"
    MAP one, V | R
    ld a0, 0(s8)
    FAULTS 15, sd x0, 0(s8)
    FAULTS 15, amoadd.w a0, a0, (s8)
    FAULTS 12, jr s8
    CASE "not valid"
    MAP one, R | W
    FAULTS 13, ld a0, 0(s8)
    CASE "write without read is reserved"
    MAP one, V | W
    FAULTS 15, sd a0, 0(s8)
    CASE "reserved bits"
    MAP one, V | R
    la t1, pte
    ld t0, 0(t1)
    bseti t0, t0, 60
    sd t0, 0(t1)
    sfence.vma
    FAULTS 13, ld a0, 0(s8)
    CASE "execute-only and MXR"
    MAP one, V | X
    FAULTS 13, ld a0, 0(s8)
    li t0, 1 << 19
    csrs sstatus, t0
    ld a0, 0(s8)
    csrc sstatus, t0
    FAULTS 13, ld a0, 0(s8)
    CASE "user's page: SUM"
    MAP one, V | R | W | X | U
    FAULTS 13, ld a0, 0(s8)
    FAULTS 12, jr s8
    li s9, 1 << 18
    csrs sstatus, s9
    ld a0, 0(s8)
    sd a0, 0(s8)
    FAULTS 12, jr s8
    csrc sstatus, s9
    FAULTS 15, sd a0, 0(s8)
    CASE "supervisor's page from user mode"
    MAP one, V | R | W | X
    csrw sepc, s8
    li t0, 1 << 8
    csrc sstatus, t0
    FAULTS 12, sret
    CASE "sfence.vma takes a new mapping"
    la t0, one
    li a0, 1
    sd a0, 0(t0)
    la t0, two
    li a0, 2
    sd a0, 0(t0)
    MAP one, V | R | W
    ld a0, 0(s8)
    EXPECT a0, 1
    MAP two, V | R | W
    ld a0, 0(s8)
    EXPECT a0, 2
    CASE "code follows a new mapping"
    la t0, one
    li a0, 0x00100513 /* li a0, 1 */
    sw a0, 0(t0)
    li a0, 0x00008067 /* ret */
    sw a0, 4(t0)
    la t0, two
    li a1, 0x00200513 /* li a0, 2 */
    sw a1, 0(t0)
    li a0, 0x00008067
    sw a0, 4(t0)
    MAP one, V | X
    fence.i
    jalr s8
    EXPECT a0, 1
    MAP two, V | X
    jalr s8
    EXPECT a0, 2
    CASE "not canonical"
    li s8, 1 << 63 | PAGE
    FAULTS 13, ld a0, 0(s8)
    FAULTS 12, jr s8
    li s8, PAGE
    CASE "misaligned superpage"
    la t1, middle
    ld s9, 0(t1)
    la t0, pte /* its page is no multiple of 2 MiB */
    srli t0, t0, 2
    ori t0, t0, V | R
    sd t0, 0(t1)
    sfence.vma
    FAULTS 13, ld a0, 0(s8)
    CASE "superpage"
    li t0, 0x80400000 >> 2 | V | R
    la t1, middle
    sd t0, 0(t1)
    sfence.vma
    la a1, marker
    li t0, 0x80400000
    sub a1, a1, t0
    add a1, a1, s8
    ld a0, 0(a1)
    EXPECT a0, 0x1234
    CASE "flush of one address drops the superpage"
    la t1, middle
    sd x0, 0(t1)
    sfence.vma s8
    TRAPS
    ld a0, 0(a1)
    END_TRAPS
    EXPECT s2, 13
    la t1, middle
    sd s9, 0(t1)
    sfence.vma
    CASE "load across into a page that is missing"
    MAP one, V | R | W
    li s8, PAGE + 0x1000
    li a1, PAGE + 0xffd
    FAULTS 13, ld a0, 0(a1)
    li a0, -1
    FAULTS 15, sd a0, 0(a1)
    li a1, PAGE + 0xff8
    ld a0, 0(a1)
    EXPECT a0, 0
    li s8, PAGE
    CASE "page table outside RAM"
    la t1, middle
    li t0, 0x70000000 >> 2 | V
    sd t0, 0(t1)
    sfence.vma
    FAULTS 5, ld a0, 0(s8)
    la t1, middle
    sd s9, 0(t1)
    sfence.vma
    jr s1
    .data
    .balign 4096
marker: .quad 0x1234
    .balign 4096
root:
    .quad 0, 0, 0x20000000 + 0xcf
    .skip 4096 - 24
root48: .skip 4096
middle: .skip 4096
pte: .skip 4096
one: .skip 4096
two: .skip 4096
