/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Boards: what a machine type is made of. One const struct machine_type each; machine.c has the table, a board file
 * (virt.c) has the rest. The VM (vm.h) drives them; loop thread, harts paused, unless it says otherwise.
 */
#pragma once

#include "device/board.h"
#include "machine/boot.h"
#include "machine/vm.h"
#include "state/field.h"

struct machine;

struct machine_type {
    struct machine_type_info info;
    const char *const *options; /* of -M besides what every type takes; NULL-terminated; may be NULL */
    /* RAM and board devices; vm->accel is there afterwards. */
    int (*create)(struct vm *vm, const struct machine_config *c, struct machine **out, struct err *e);
    void (*destroy)(struct machine *m);
    void (*reset)(struct machine *m); /* board devices; the VM resets the plugged ones and the harts */
    /* Tells each board device that has state, in a fixed order, with its stable path. */
    void (*state_objects)(struct machine *m,
                          void (*add)(void *opaque, const char *path, const struct state_section *s, void *object),
                          void *opaque);
    /* The device tree as a g_malloc'd blob of *size bytes. */
    void *(*device_tree)(struct machine *m, size_t *size, struct err *e);
    int (*connect_serial)(struct machine *m, unsigned n, struct chardev *c, struct err *e);
    /* The guest's clock was started, stopped or set. */
    void (*clock_changed)(struct machine *m);
    /* Firmware's boot order: one path a line, `len` bytes with the final NUL. */
    void (*boot_order)(struct machine *m, const char *text, size_t len);
    /* qtest: changes of the harts' external interrupt inputs are told to fn as well; NULL: no more. */
    void (*watch_irq)(struct machine *m, void (*fn)(void *opaque, unsigned hart, bool level), void *opaque);
    /* The debug console of the harts' firmware interface: the first serial port. Hart's thread. */
    size_t (*console_write)(struct machine *m, const uint8_t *buf, size_t len);
    size_t (*console_read)(struct machine *m, uint8_t *buf, size_t len);
};

struct machine {
    const struct machine_type *type;
    struct vm *vm;
    struct board board;
    struct boot boot;
};

/* By name or alias, NULL: the default. NULL with `e` naming the nearest when there is none. */
const struct machine_type *machine_type_find(const char *name, struct err *e);
/* Options of -M that the type does not know are an error that names the nearest. */
int machine_check_options(const struct machine_type *t, struct json_object *options, struct err *e);
/* The VM's services for devices. */
void vm_fill_board(struct vm *vm, struct board *b);
/* What the board's accelerator is told of its machine: fills config->host. */
void vm_fill_accel_host(struct vm *vm, struct accel_host *h);
/* The guest powers off (any thread) or resets. */
void vm_guest_shutdown(struct vm *vm, unsigned code);
void vm_guest_reset(struct vm *vm);

extern const struct machine_type machine_virt;
