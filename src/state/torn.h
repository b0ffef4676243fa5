/* SPDX-License-Identifier: BSD-2-Clause */
/* Live pages that were torn on their way, and have not come once more (state/stream.h, law 8). One thread at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct state_torn;

struct state_torn *state_torn_create(void);
void state_torn_destroy(struct state_torn *t); /* NULL is fine */
void state_torn_add(struct state_torn *t, unsigned block, uint64_t page);
/* These came, or will, by another way. */
void state_torn_mend(struct state_torn *t, unsigned block, uint64_t page, uint32_t pages);
/* Any; false: there is none. */
bool state_torn_any(const struct state_torn *t, unsigned *block, uint64_t *page);
