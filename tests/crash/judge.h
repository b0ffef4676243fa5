/* SPDX-License-Identifier: BSD-2-Clause */
#pragma once

#include "world.h"

/* A replay_fn over struct world: fails the test when the images hold what no crash may leave. */
void judge_crash(void *world, struct memdisk *images, unsigned at, const char *what);
/* Which promises hold there: the image that may be left depends on nothing else. For struct replay. */
uint64_t judge_epoch(void *world, unsigned at);
