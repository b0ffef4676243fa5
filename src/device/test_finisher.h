/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SiFive test finisher, the virt board's syscon for power off and reset: one 32-bit register at offset 0.
 * Low half 0x5555: power off; 0x3333: power off, failed, exit code in the high half; 0x7777: reset.
 */
#pragma once

#include "guest/mem.h"

struct finisher_host {
    void *opaque;
    void (*shutdown)(void *opaque, unsigned code); /* on the hart's thread; must not block */
    void (*reset)(void *opaque);
};
struct finisher;

struct finisher *finisher_create(struct guest_mem *m, uint64_t gpa, const struct finisher_host *h, struct err *e);
void finisher_destroy(struct finisher *f); /* NULL is fine */
