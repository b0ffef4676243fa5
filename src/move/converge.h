/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Auto-converge: a guest that writes to its memory about as fast as it is sent is slowed down, more and more, until its
 * migration comes to an end. Loop thread.
 */
#pragma once

#include <stdint.h>

struct converge;
struct migration;

/* After a round in which so many bytes became dirty and so many were sent. Does nothing unless it is switched on. */
void converge_judge(struct migration *m, uint64_t dirty, uint64_t sent);
unsigned converge_percent(const struct migration *m); /* of its time that the guest stands still; 0: it does not */
void converge_end(struct migration *m);               /* the guest is as fast as ever */
