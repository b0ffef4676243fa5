/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The fingerprint: everything that a guest can see of a machine, as lines of text that are the same wherever and
 * whenever it is made. Two machines with the same fingerprint can take over each other's state; a machine type's never
 * changes.
 *
 *     machine virt-0.1                              firmware extension 0x54494d45
 *     memory 0x80000000 0x8000000 ram               device-tree /cpus/cpu@0 riscv,isa = "rv64imafdc_…"
 *     registers 0x10000000 0x100 serial             pci 00:01.0 bar 4 = 0x4000, flags 0xc
 *     state /machine/uart0 uart16550 version 1      state /machine/uart0 mcr = 0x8
 *
 * Left out is what differs each time by design: the seed in the device tree, the time of day.
 */
#pragma once

#include "machine/vm.h"

/* After vm_start() with VM_BEGIN_PAUSED. g_malloc'd text; NULL on error. */
char *vm_fingerprint(struct vm *vm, struct err *e);
/* The same into a file. */
int vm_fingerprint_write(struct vm *vm, const char *file, struct err *e);
