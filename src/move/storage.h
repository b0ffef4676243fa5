/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks that both machines have open, on storage that both can see: whose they are.
 *
 *     the source's      until all its nodes are inactive (block/inactive.h): after the guest has stopped, before DEVS
 *     nobody's          STOP … OKGO: the destination reads their metadata, and says REDY; until OKGO is sent, the
 *                       source may make them its own again
 *     the destination's from OKGO on: it takes the locks, then runs
 *
 * A lock that cannot be had stops the machine that should run (io-error), on either side, and `cont` tries again.
 * Jobs rest meanwhile (job/rest.h), those that move (move/jobs.h) and those that are ready, whose copies hold all that
 * their disks do. For all others the switch waits. Loop thread; [co] waits.
 */
#pragma once

#include "machine/vm.h"
#include "move/disks.h"
#include "move/jobs.h"

/* What can never go: a disk that only this program can see; with `may_end` (the switch stops for a manager) false also
 * a job that ends only when it is told to. */
int storage_check(struct vm *vm, const struct jobs_out *jobs, bool may_end, struct err *e);
/* Jobs of which the switch has to wait for the end. */
bool storage_is_busy(struct vm *vm, const struct jobs_out *jobs);
/* [co] The machine stands still: jobs rest, by then at the latest, and it gives up all nodes, which vm_take_disks()
 * takes again; but not those that `disks` still has to serve. */
int storage_give(struct vm *vm, const struct disks_out *disks, const struct jobs_out *jobs, uint64_t deadline_ns,
                 struct err *e);
/* [co] It has gone: those, too. */
int storage_give_rest(struct vm *vm, struct err *e);
/* It has not, and has its disks again, if it ever gave them: its jobs go on. */
void storage_keep(struct vm *vm);
/* [co] The source has given them up: what is known of their images is read again. */
int storage_read(struct vm *vm, struct err *e);
