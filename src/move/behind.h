/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A file that is written in a row, behind the back of who makes what is in it: while he fills one buffer, others are
 * written, past the host's cache where its file system allows that. Loop thread; [co] waits.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct loop;
struct behind;

/* From `at` on. `fd` stays the caller's; `direct` is the same file opened with O_DIRECT, taken, or -1. */
struct behind *behind_create(struct loop *l, int fd, int direct, uint64_t at);
/* [co] Takes a copy. Negative errno: what was written before did not get there. */
int behind_write(struct behind *b, const void *buf, size_t len);
/* [co] All of it is in the file, but not yet flushed: the last that is said to it. */
int behind_finish(struct behind *b);
void behind_destroy(struct behind *b); /* [co] What is not written is lost. NULL is fine. */
