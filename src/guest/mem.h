/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest physical memory: RAM blocks and memory-mapped register windows, and the dirty log.
 *
 * RAM never moves and is never unmapped while harts run; its host pointers may be cached (the CPU's TLB does).
 * Register windows may be added, moved and removed while harts run (PCI BARs): look-ups are lock-free on an
 * immutable sorted table that the writers replace, and freed tables wait until no reader can hold them.
 *
 * Threads: any for look-ups and accesses; ram_add before the first hart runs; mmio_* from any thread.
 */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_PAGE_BITS 12
#define GUEST_PAGE_SIZE (1u << GUEST_PAGE_BITS)

struct guest_mem;
struct loop_event;

/* One contiguous piece of RAM; owned by guest_mem, lives as long. */
struct guest_ram {
    const char *name; /* "ram", stable: used in streams */
    uint64_t gpa;     /* page-aligned */
    uint64_t size;    /* bytes, page-aligned */
    uint8_t *host;    /* mmap'd, MAP_NORESERVE, zero-filled */
    bool of_file;     /* parts are private mappings of a file: userfaultfd does not take those */
    bool spare;       /* preallocated, and nothing was put there: who brings what shall be in it may take the memory */
    struct memory_policy policy;
    /* One byte per page: bits of enum guest_dirty; NULL while no log is on. Writers store GUEST_DIRTY, with relaxed
     * order. */
    _Atomic(uint8_t *) dirty;
    /* One byte per page, nonzero = guest_mem_will_read() or _write() has something to do there (guest/pages.h);
     * NULL while nobody watches. store_guard: the same where harts must look too, on the first store of each after
     * accel->dirty_log_changed; elsewhere their accesses are caught. */
    _Atomic(uint8_t *) guard, store_guard;
    /* One byte per page: nonzero = the accelerator holds decoded code of this page; a write by anyone but
     * the storing hart itself must go through guest_mem_code_written(). */
    uint8_t *code;
};

/* A register window. `off` is relative to its base; size is 1, 2, 4 or 8; off is a multiple of size.
 * Called on the hart's (or DMA's) thread; must not block. Bus validates, device asserts. */
struct mmio_ops {
    uint64_t (*read)(void *opaque, uint64_t off, unsigned size);
    void (*write)(void *opaque, uint64_t off, uint64_t val, unsigned size);
    unsigned min_size, max_size; /* accesses outside are refused by the bus as access faults; 0, 0 = 1..8 */
};
struct mmio_region {
    const char *name; /* borrowed; object path for messages */
    uint64_t gpa, size;
    const struct mmio_ops *ops;
    void *opaque;
};

struct guest_mem *guest_mem_create(void);
void guest_mem_destroy(struct guest_mem *m);

/* Fails when it overlaps RAM or the memory cannot be had. */
int guest_ram_add(struct guest_mem *m, const char *name, uint64_t gpa, uint64_t size, struct err *e);
/* The same with memory as `p` wants it; to have it preallocated takes its time. */
int guest_ram_add_as(struct guest_mem *m, const struct memory_policy *p, const char *name, uint64_t gpa, uint64_t size,
                     struct err *e);
/* Something is put into RAM: none of it is spare. Loop thread. */
void guest_ram_used(struct guest_mem *m);
/* Block `i` in address order, NULL past the end. */
struct guest_ram *guest_ram_get(struct guest_mem *m, unsigned i);
/* Block that holds gpa, NULL when none. */
struct guest_ram *guest_ram_find(struct guest_mem *m, uint64_t gpa);
/* Host address of [gpa, gpa+len) when it is all in one RAM block, else NULL. Does not mark dirt. */
void *guest_ram_ptr(struct guest_mem *m, uint64_t gpa, uint64_t len);

/* Copy for devices and loaders (DMA); RAM only; may span blocks. -EFAULT when any byte is not RAM (nothing is
 * copied then). Writes mark the dirty log and drop decoded code. */
int guest_mem_read(struct guest_mem *m, uint64_t gpa, void *buf, size_t len);
int guest_mem_write(struct guest_mem *m, uint64_t gpa, const void *buf, size_t len);
/* After storing through a host pointer from guest_ram_ptr(): marks dirt and drops decoded code. */
void guest_mem_mark_written(struct guest_mem *m, uint64_t gpa, uint64_t len);

/*
 * Before storing through such a pointer, and before giving one to the kernel to read from or to write to: a page that
 * is being saved is copied first, one that is still to come is fetched. Cheap while neither goes on. The permission
 * lasts until the next quiesce: who keeps a request across one asks again.
 */
void guest_mem_will_write(struct guest_mem *m, uint64_t gpa, uint64_t len);
void guest_mem_will_read(struct guest_mem *m, uint64_t gpa, uint64_t len);
/*
 * For harts, which must be able to stop while they wait for a page that is still to come: whether the one at gpa is;
 * and getting it, which takes as long as reading it. Negative errno: it cannot be had now; the machine has been asked
 * to stop, and the hart tries again when it goes on. Never the loop thread.
 */
bool guest_mem_is_missing(struct guest_mem *m, uint64_t gpa);
int guest_mem_fetch(struct guest_mem *m, uint64_t gpa);
/*
 * For devices on the loop, which must not wait for a page that is still to come, perhaps by the loop itself: whether
 * one of [gpa, gpa + len) is. Then all of those are asked for, and `tell` is set once when some have come: look again.
 * When they cannot be had the machine is stopped, and a device looks again when it goes on. Pages that are there stay.
 * guest_mem_forget(): `tell` is about to be destroyed.
 */
bool guest_mem_awaits(struct guest_mem *m, uint64_t gpa, uint64_t len, struct loop_event *tell);
void guest_mem_forget(struct guest_mem *m, struct loop_event *tell);
/* What was in the pages of [gpa, gpa + len) does not matter any more: those that are awaited are zero. Loop thread. */
void guest_mem_discard(struct guest_mem *m, uint64_t gpa, uint64_t len);

/* Windows must not overlap RAM or each other. */
int mmio_add(struct guest_mem *m, const struct mmio_region *r, struct err *e);
void mmio_remove(struct guest_mem *m, const struct mmio_ops *ops, void *opaque, uint64_t gpa);
/* Window `i` by address; false past the end. Nobody adds or removes one meanwhile. */
bool mmio_get(struct guest_mem *m, unsigned i, struct mmio_region *out);
/* False: no window there, or it refuses this size (the caller raises an access fault). */
bool mmio_read(struct guest_mem *m, uint64_t gpa, unsigned size, uint64_t *val);
bool mmio_write(struct guest_mem *m, uint64_t gpa, unsigned size, uint64_t val);

/* Dirty log: who reads it has a bit of his own in each page's byte; who writes sets all of them. */
enum guest_dirty { DIRTY_MOVE = 1, DIRTY_SINCE_A = 2, DIRTY_SINCE_B = 4, GUEST_DIRTY = 0xff };
/* On for him, with all of his bits clear, also when it was on; harts must then be told by accel->dirty_log_changed. Any
 * thread. */
int guest_dirty_log_start(struct guest_mem *m, enum guest_dirty who, struct err *e);
void guest_dirty_log_stop(struct guest_mem *m, enum guest_dirty who);

/* Bits of a page's guard. */
enum { GUARD_WRITE = 1, GUARD_READ = 2 };
/*
 * Set once, before harts run, by guest/pages.c. `access`: called on any thread for a page with such a bit that is about
 * to be accessed so (and late, when it no longer has the bit); returns when that may be. `fetch`: guest_mem_fetch().
 */
struct guest_mem_watcher {
    void (*access)(void *opaque, unsigned block, uint64_t page);
    int (*fetch)(void *opaque, unsigned block, uint64_t page);
    /* For a page with GUARD_READ: whether it is awaited, see guest_mem_awaits(). */
    bool (*awaits)(void *opaque, unsigned block, uint64_t page, struct loop_event *tell);
    void (*discard)(void *opaque, unsigned block, uint64_t page);
    void (*forget)(void *opaque, struct loop_event *tell);
    void *opaque;
};
void guest_mem_set_watcher(struct guest_mem *m, const struct guest_mem_watcher *w);

/* Set once by the accelerator: called (any thread) when decoded code may be stale in [gpa, gpa+len). */
void guest_mem_set_code_hook(struct guest_mem *m, void (*hook)(void *opaque, uint64_t gpa, uint64_t len), void *opaque);
