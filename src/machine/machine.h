/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Boards and machine types. A board (virt.c) is one const struct machine_type: how it is made and worked. A machine
 * type as users know it ("virt-0.1") is a board as some release had it: types.c has them, with what each keeps from
 * before. The VM (vm.h) drives boards; loop thread, harts paused, unless it says otherwise.
 */
#pragma once

#include "device/board.h"
#include "machine/boot.h"
#include "machine/vm.h"
#include "state/section.h"

#define MACHINE_FLASH_BANKS 2
#define MACHINE_RAM_ID      "riscv_virt_board.ram" /* for clients: of RAM that no memory backend is named for */

struct machine;

struct machine_release;

struct machine_type {
    const char *const *options; /* of -M besides what every type takes; NULL-terminated; may be NULL */
    /* RAM and board devices; vm->accel is there afterwards. */
    int (*create)(struct vm *vm, const struct machine_release *r, const struct machine_config *c, struct machine **out,
                  struct err *e);
    void (*destroy)(struct machine *m);
    /* Before the machine starts: the board's devices that need block nodes (m->flash). May be NULL. [co] */
    int (*complete)(struct machine *m, struct err *e);
    void (*reset)(struct machine *m); /* board devices; the VM resets the plugged ones and the harts */
    /* Tells each board device that has state, in a fixed order, with its stable path. */
    void (*state_objects)(struct machine *m,
                          void (*add)(void *opaque, const char *path, const struct state_section *s, void *object),
                          void *opaque);
    /* The device tree as a g_malloc'd blob of *size bytes. */
    void *(*device_tree)(struct machine *m, size_t *size, struct err *e);
    int (*connect_serial)(struct machine *m, unsigned n, struct chardev *c, struct err *e);
    /* Nanoseconds by which the guest has set its clock ahead of the host's; 0: it never did. -M rtc-offset= begins
     * so. */
    int64_t (*rtc_offset)(struct machine *m);
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

/* The value that a property of a class has where nobody says otherwise, instead of the class's default. */
struct machine_compat {
    const char *driver, *prop, *value; /* driver "riscv-cpu": of -cpu */
};

struct machine_release {
    const struct machine_type_info *info;
    const struct machine_type *board;
    const struct machine_compat *compat; /* ends with driver NULL */
    const struct state_compat *state;    /* every section as the release wrote it; ends with section NULL */
    const char *const *unsaid; /* words of machines that move (move/proto.h) that it did not know; ends with NULL */
};
extern const struct machine_release machine_releases[]; /* ends with info NULL */
/* NULL: the class's own. */
const char *machine_compat_value(const struct machine_release *r, const char *driver, const char *prop);
/* Those of -cpu as it would have them, "a=off,b=off"; maybe empty. g_free. */
char *machine_cpu_compat(const struct machine_release *r);

struct machine {
    const struct machine_type *type;
    const struct machine_release *release;
    struct vm *vm;
    struct board board;
    struct boot boot;
    char *flash[MACHINE_FLASH_BANKS]; /* node or drive of each; NULL: the bank is not there; owned by the board */
};

/* By name or alias, NULL: the default. NULL with `e` naming the nearest when there is none. */
const struct machine_release *machine_type_find(const char *name, struct err *e);
/* The same among those that were there when `last` was released, whose type is the default then; NULL: all. */
const struct machine_release *machine_type_find_until(const char *name, const struct machine_release *last,
                                                      struct err *e);
/* How the release of `last` (NULL: this one) shows a type: whether it does, and the newest of its own is the default.
 */
bool machine_type_seen(const struct machine_type_info *t, const struct machine_release *last,
                       struct machine_type_info *as);
/* What that release knew of a section: NULL: all, as `r` is NULL. */
const struct state_compat *machine_release_knows(const struct machine_release *r, const char *section);
/* Whether that release knew a word of machines that move; NULL: all. */
bool machine_release_says(const struct machine_release *r, const char *word);
/* Options of -M that the type does not know are an error that names the nearest. */
int machine_check_options(const struct machine_release *r, struct json_object *options, struct err *e);
/* The VM's services for devices. */
void vm_fill_board(struct vm *vm, struct board *b);
/* What the board's accelerator is told of its machine: fills config->host. */
void vm_fill_accel_host(struct vm *vm, struct accel_host *h);
/* The guest powers off (any thread) or resets. */
void vm_guest_shutdown(struct vm *vm, unsigned code);
void vm_guest_reset(struct vm *vm);

extern const struct machine_type machine_virt;
