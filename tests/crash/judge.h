/* SPDX-License-Identifier: BSD-2-Clause */
#pragma once

#include "world.h"

/* A replay_fn over struct world: fails the test when the image holds what no crash may leave. */
void judge_crash(void *world, struct memdisk *image, unsigned at, const char *what);
