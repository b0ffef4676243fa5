/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Platform-level interrupt controller (RISC-V PLIC specification 1.0.0), one S-mode context per hart.
 *
 *   0x000000 + 4n            priority of source n (n = 1 … sources), 0 = never
 *   0x001000 + 4w            pending bits, word w
 *   0x002000 + 0x80c + 4w    enable bits of context c
 *   0x200000 + 0x1000c       threshold of context c
 *   0x200004 + 0x1000c       claim (read) / complete (write)
 *
 * Sources are level-triggered lines: pending is level and not claimed. All state is atomic and nothing here locks, so
 * lines may be set from any thread, also under a device's mutex.
 */
#pragma once

#include "guest/irq.h"
#include "guest/mem.h"
#include "state/field.h"

#define PLIC_SOURCES   96 /* 1 … 96 */
#define PLIC_WORDS     ((PLIC_SOURCES + 32) / 32)
#define PLIC_MAX_HARTS 8
#define PLIC_SIZE      0x600000u
#define PLIC_PRIO_MAX  7

struct plic;

struct plic *plic_create(struct guest_mem *m, uint64_t gpa, unsigned harts, struct err *e);
void plic_destroy(struct plic *p); /* NULL is fine */
void plic_reset(struct plic *p);   /* harts paused */
/* Where context c's output goes: accel's set_irq. Before harts run. */
void plic_connect(struct plic *p, void (*set)(void *opaque, unsigned hart, bool level), void *opaque);
/* The line into source n, 1 … 96. */
struct irq_line plic_line(struct plic *p, unsigned n);
/* Computes all outputs again (after a reset of the harts). */
void plic_refresh(struct plic *p);
/* The object is the struct plic. The level of each source is its device's affair. */
extern const struct state_section plic_state;
