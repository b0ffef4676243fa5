/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Everything that a guest can see of its machine besides RAM and disks, as a list of objects with names: the clock,
 * the harts, the board's devices, the plugged ones.
 *
 *     save: vm_state_create(), vm_state_get(), encode each item's `st`
 *     load: vm_state_create(), decode into each item's `st`, vm_state_check(), vm_state_put()
 *
 * An object whose registers follow from others, or that has none (interrupt lines, the test finisher, an empty
 * virtio-mmio slot), is not in the list. Loop thread; the machine is held still (vm_quiesce(), or not started) from
 * create to put, so that devices neither come nor go.
 */
#pragma once

#include "machine/vm.h"
#include "state/field.h"

struct vm_state_item {
    char *path;  /* "/machine/uart0", "/machine/hart0", "/machine/peripheral/ID": stable, in streams; owned */
    char *place; /* device_place(); NULL: none; owned */
    const struct state_section *section;
    void *object; /* what get, check and put of the section work on; borrowed */
    void *st;     /* section->size bytes; zeroes until got or decoded; owned */
};

struct vm_state {
    struct vm *vm;
    unsigned n;
    struct vm_state_item *item; /* the clock first, then harts, board, plugged devices in the order they were made */
};

/* All objects of the machine that is there now; machine "none" has the clock alone. */
struct vm_state *vm_state_create(struct vm *vm);
void vm_state_destroy(struct vm_state *s); /* NULL is fine */
/* NULL: no such object. */
struct vm_state_item *vm_state_find(struct vm_state *s, const char *path);
/* Fills every item's `st` from its object: no waiting, no I/O. */
void vm_state_get(struct vm_state *s);
/*
 * Whether every item's `st` can be put: values that no guest could have made, addresses outside RAM, features that the
 * object does not have here. Changes nothing; the error names the object. RAM may still be missing.
 */
int vm_state_check(const struct vm_state *s, struct err *e);
/*
 * Makes every object be so. Cannot fail after vm_state_check(); what follows from the registers (interrupt lines,
 * timers, register windows of BARs, translated code) is computed again. Requests that were waiting in a device when its
 * state was got are taken from their queue again when the machine goes on.
 */
void vm_state_put(struct vm_state *s);
