/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages that a machine used first after a lazy load, in that order: kept with the machine (vm->first_used), saved with
 * it (the chunk rFSt), and read first when it is loaded again.
 */
#pragma once

#include "machine/vm.h"
#include "state/stream.h"

struct first;

/* What is known from before: `saved` (rFSt's payload; refused entries are ignored), else the machine's. [loop] */
struct first *first_create(struct vm *vm, const GByteArray *saved);
void first_destroy(struct first *f); /* NULL is fine */
unsigned first_count(const struct first *f);
/* The i-th of those that were known from before: block, page and pages of it. [loop] */
struct state_run first_get(const struct first *f, unsigned i);
/* These are needed now. Any thread. */
void first_add(struct first *f, unsigned block, uint64_t page, unsigned n);
/* All of it is what the machine used first. [loop] */
void first_keep(struct first *f);
