/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM out of a stream: all of it into memory beside the guest's, which takes its place at once; or by and by, on
 * demand and in the background, by the stream's index.
 */
#pragma once

#include "move/lineage.h"

/* Room as large as the machine's RAM, empty. NULL: there is none. */
struct ram_in *ram_in_create(struct vm *vm, struct err *e);
void ram_in_destroy(struct ram_in *r); /* NULL is fine */
/*
 * [co] Where the machine's RAM is preallocated, so is this: with the memory of the machine itself if it holds nothing
 * yet, else with as much again. Zeroes are written then, and nothing needs to be made ready.
 */
int ram_in_preallocate(struct ram_in *r, struct err *e);
/* Instead of that, where RAM is to come while it is used: what the machine has been given and does not use goes. */
void ram_in_give_back(struct ram_in *r);
/* Most of it will come: in large pages, where the host has them, which costs less than many small ones. */
void ram_in_expect_all(struct ram_in *r);
/* A worker makes memory ready for what comes next. Of a stream in which zero pages come, too: else it has memory for
 * those that do not. */
void ram_in_work_ahead(struct ram_in *r);
/* [co] Nothing more comes: before anything else is done with it. */
void ram_in_settle(struct ram_in *r);
/* [co] Reads all of it: what does not come later is zero, and there. For RAM of which parts are to be caught. */
int ram_in_touch(struct ram_in *r);
/* [co] The runs of the RAMP chunk that the reader is at. 0, or the reader's error. */
int ram_in_chunk(struct ram_in *r, struct state_reader *from);
/* Where these pages lie, which are about to come, as zeroes or not; NULL: there are none such. */
uint8_t *ram_in_place(struct ram_in *r, unsigned block, uint64_t page, uint64_t pages, bool zero);
/* Zero from here on, whole pages. */
void ram_in_clear(struct ram_in *r, uint8_t *to, size_t len);
/* [co] All of RAM, mapped from files where it lies there as it was, and read where not. */
int ram_in_map(struct ram_in *r, const struct lineage *from, struct err *e);
/* The machine held still: its RAM is what came. Cannot fail. */
void ram_in_replace(struct ram_in *r);
