/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which pages a destination does not have yet, as they are now: all at first, then those that the guest has written to
 * since they were taken. Loop thread, but for dirty_take().
 */
#pragma once

#include "machine/vm.h"

struct dirty;

/* Switches the dirty log on; all of RAM is dirty. */
int dirty_create(struct vm *vm, struct dirty **out, struct err *e);
void dirty_destroy(struct dirty *d); /* switches it off; NULL is fine */
/*
 * What was written since the last time joins the rest; returns how many pages that were. What harts write from now on
 * is seen by the next one, even to pages that dirty_take() takes meanwhile.
 */
uint64_t dirty_harvest(struct dirty *d);
/* The guest stands still: from now on each page is taken that is dirty, also one that the log has again. */
void dirty_last(struct dirty *d);
/* Pages to take. Any thread. */
uint64_t dirty_pages(const struct dirty *d);
/* The first such page of the block at or after `page`; UINT64_MAX: none. */
uint64_t dirty_next(const struct dirty *d, unsigned block, uint64_t page);
/* As pages_take(): of [first, first + n) those that are dirty, which are clean then, and not dirty again already, which
 * stay so. `buf` NULL: they are not copied.
 * Any thread, and several at a time for different pages. */
int dirty_take(struct dirty *d, unsigned block, uint64_t first, unsigned n, uint8_t *buf, uint8_t *what);
