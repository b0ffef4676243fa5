/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Run state of a VM, between vm.c and run.c only. One count says how many hold the machine still (not running, each
 * quiesce); harts, clock and device queues stop with the first and go on with the last.
 *
 *     prelaunch, paused, io-error --cont--> running --stop, error--> paused, io-error, shutdown, internal-error
 *     any --reset--> the same if running, else prelaunch
 */
#pragma once

#include "machine/vm.h"

struct vm_run *vm_run_create(struct vm *vm);
void vm_run_destroy(struct vm_run *r);
/* The machine stands still for good. [co] */
void vm_run_end(struct vm *vm);
/* Gives the board the devices with a bootindex, in their order (vm.c). */
void vm_tell_boot_order(struct vm *vm);
/* After vm_start(). */
bool vm_run_started(const struct vm *vm);
/* struct board's io_error. */
void vm_io_error(void *opaque);
