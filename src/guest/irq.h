/* SPDX-License-Identifier: BSD-2-Clause */
/* An interrupt line: level-triggered, any thread. What it ends in (PLIC source, INTx pin) is the sink's affair. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct irq_line {
    void (*set)(void *opaque, unsigned n, bool level); /* NULL: not connected */
    void *opaque;
    unsigned n;
};

static inline void irq_set(const struct irq_line *l, bool level)
{
    if (l->set) {
        l->set(l->opaque, l->n, level);
    }
}
