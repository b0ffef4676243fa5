/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The accelerator: what runs guest instructions. The built-in interpreter (`accel=interp`) is one; KVM can be
 * another. Nothing above this header knows the instruction set: registers are named and typed by the
 * accelerator's own table (reg_table), and boot code of the board for that architecture sets them by name.
 *
 * A hart runs on a host thread of its own that the accelerator creates. Life of a hart:
 *
 *      create -> PAUSED --resume--> RUNNING --pause--> PAUSED --destroy-->
 *
 * pause() asks, and returns when every hart stands at an instruction boundary. A hart that the guest itself has
 * not started yet (SBI HSM) is RUNNING as seen from here but executes nothing.
 * Threads: create/destroy/pause/resume/get/set on the loop thread; set_irq and kick from any.
 */
#pragma once

#include "base/err.h"
#include "guest/clock.h"
#include "guest/irq.h"
#include "guest/mem.h"
#include "state/field.h"

#include <json-c/json.h>

struct accel;

/* What the guest may ask of its machine from a hart; called on the hart's thread, must not block. */
struct accel_host {
    void *opaque;
    /* Guest asks to power off or reset (SBI SRST). reason: nonzero = system failure. */
    void (*shutdown)(void *opaque, unsigned reason);
    void (*reset)(void *opaque, unsigned reason);
    /* SBI DBCN: bytes to / from the debug console; returns bytes taken / given (0: none now). */
    size_t (*console_write)(void *opaque, const uint8_t *buf, size_t len);
    size_t (*console_read)(void *opaque, uint8_t *buf, size_t len);
    /* A hart hit something that the accelerator itself cannot go on from (never for guest mistakes). */
    void (*internal_error)(void *opaque, unsigned hart, const char *text);
};

struct accel_config {
    const char *cpu;        /* -cpu: model and features, "max", "rv64,zbb=off"; NULL = default */
    const char *cpu_compat; /* features that the machine type has otherwise than the model, as behind -cpu's; or NULL */
    unsigned harts;         /* 1..8 */
    uint64_t timebase_hz;   /* of the time CSR: 10,000,000 on virt */
    struct guest_mem *mem;  /* borrowed */
    struct guest_clock *clock; /* borrowed */
    struct accel_host host;
    bool never_run; /* accel=qtest: harts exist but execute nothing */
};

/* One guest-visible register, for dumps, state and debuggers. */
struct accel_reg {
    const char *name; /* "pc", "x10", "f3", "sstatus", "stimecmp" … */
    unsigned bits;
    unsigned id; /* for get/set */
};

struct accel_ops {
    const char *name;        /* "interp" */
    const char *description; /* for -accel help */
    bool sees_stores;        /* a hart looks at guest_ram.store_guard before it stores: guest/pages.h */
    struct accel *(*create)(const struct accel_config *c, struct err *e);
    void (*destroy)(struct accel *a);
    void (*resume)(struct accel *a);
    void (*pause)(struct accel *a); /* returns with all harts stopped; bounded by one instruction */
    /* Every hart executes nothing until that host time (CLOCK_MONOTONIC ns; 0: does again), its clock and timers go on.
     * Paused and resumed meanwhile it stays at rest. Any time. */
    void (*nap)(struct accel *a, uint64_t until_ns);
    /* Registers as after power-on; hart 0 will start at `entry` with a0 = hart id, a1 = `dtb` (boot arguments);
     * the others wait for the guest to start them. Harts paused. */
    void (*reset)(struct accel *a, uint64_t entry, uint64_t dtb);
    /* External interrupt input of a hart (the PLIC's S-mode context output). Any thread. */
    void (*set_irq)(struct accel *a, unsigned hart, bool level);
    const struct accel_reg *(*reg_table)(struct accel *a, size_t *n);
    uint64_t (*get_reg)(struct accel *a, unsigned hart, unsigned id);
    int (*set_reg)(struct accel *a, unsigned hart, unsigned id, uint64_t val);
    /* The dirty log was switched on, off or harvested: drop cached write permission. Harts may be running. */
    void (*dirty_log_changed)(struct accel *a);
    /* Pages that were missing have come: harts that wait for one look again. Any thread. */
    void (*pages_came)(struct accel *a);
    /* How long (host ns) hart `i` has waited for pages that were missing; of the number of harts: all of them at once.
     */
    uint64_t (*pages_waited)(struct accel *a, unsigned i);
    /* The clock was stepped or set while harts are paused: recompute timer interrupts. */
    void (*clock_changed)(struct accel *a);
    /* Adds the architecture's properties of hart `i` to a device tree cpu node (riscv,isa and the like). */
    int (*describe_hart)(struct accel *a, unsigned hart, void *fdt, int node);
    /* What the harts' firmware interface says of itself, as lines of text: g_free. */
    char *(*describe_firmware)(struct accel *a);
    /* What the guest can see of a hart; the object of get, check and put is what hart_object() gives. Harts paused. */
    const struct state_section *hart_state;
    void *(*hart_object)(struct accel *a, unsigned hart);
    /* Instructions retired by a hart since reset. */
    uint64_t (*instret)(struct accel *a, unsigned hart);
    /* Host bytes that the accelerator uses for caches now. */
    size_t (*cache_bytes)(struct accel *a);
};
