/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI (PCI Local Bus 3.0, PCI Express base specification for the configuration mechanism): a bus of up to 32 slots with
 * 8 functions, configuration space, base address registers, INTx.
 *
 * Configuration space is accessed on a hart's thread under the function's own mutex; a write that moves a BAR maps and
 * unmaps register windows there. INTx levels are atomics: pci_set_intx() may be called under any mutex. Functions
 * come and go on the loop thread with the harts paused.
 */
#pragma once

#include "device/board.h"
#include "state/field.h"

#include <pthread.h>

#define PCI_SLOTS        32
#define PCI_CONFIG_SIZE  256
#define PCIE_CONFIG_SIZE 4096
#define PCI_BARS         6

enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS_PROG = 0x09,
    PCI_CLASS = 0x0a,
    PCI_CACHE_LINE = 0x0c,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_CAP_POINTER = 0x34,
    PCI_INT_LINE = 0x3c,
    PCI_INT_PIN = 0x3d,
};
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4, PCI_COMMAND_INTX_DISABLE = 0x400 };
enum { PCI_STATUS_INTERRUPT = 8, PCI_STATUS_CAP_LIST = 0x10 };
enum { PCI_CAP_VENDOR = 9 };
enum { PCI_BAR_MEM64 = 4, PCI_BAR_PREFETCH = 8 };

struct pci_bar {
    uint64_t size;  /* 0: none; power of two, at least 16 */
    unsigned flags; /* PCI_BAR_MEM64 takes two registers */
    const struct mmio_ops *ops;
    uint64_t mapped; /* where it is now; UINT64_MAX: nowhere */
};

struct pci_bus;

/* A function. Embed it; pci_fn_init() before anything else. */
struct pci_fn {
    struct pci_bus *bus; /* NULL: not plugged */
    unsigned devfn;      /* slot * 8 + function */
    const char *name;    /* borrowed: for window names and messages */
    void *opaque;        /* of the BARs' ops and of the hooks */
    pthread_mutex_t mutex;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* mask of bits the guest may change */
    struct pci_bar bar[PCI_BARS];
    unsigned cap_end; /* next free byte for a capability */
    unsigned last_cap;
    _Atomic uint32_t intx; /* INTX_*: level, disabled */
    /* Optional: before a read of, after a write to [off, off + size) of the configuration space; under the mutex. */
    void (*config_read)(struct pci_fn *f, unsigned off, unsigned size);
    void (*config_written)(struct pci_fn *f, unsigned off, unsigned size);
};

/* lines[4]: INTA … INTD of slot 0; slot s pin p goes to lines[(s + p) % 4], as QEMU's generic host. */
struct pci_bus *pci_bus_create(struct guest_mem *m, const struct irq_line lines[4]);
void pci_bus_destroy(struct pci_bus *b); /* empty by then; NULL is fine */
struct pci_fn *pci_bus_fn(struct pci_bus *b, unsigned devfn);
/* A free slot (function 0), from 1 up; -1 when all are taken. */
int pci_bus_free_slot(struct pci_bus *b);
/* Where BARs may be mapped: the host's windows. Others are ignored until moved inside. */
void pci_bus_add_window(struct pci_bus *b, uint64_t base, uint64_t size);

void pci_fn_init(struct pci_fn *f, const char *name, void *opaque);
void pci_fn_finish(struct pci_fn *f);
void pci_fn_set_ids(struct pci_fn *f, uint16_t vendor, uint16_t device, uint32_t class_rev);
void pci_fn_add_bar(struct pci_fn *f, unsigned n, uint64_t size, unsigned flags, const struct mmio_ops *ops);
/* Room for a capability of `len` bytes (at least 2); its offset. The caller fills from offset + 2. */
unsigned pci_fn_add_cap(struct pci_fn *f, uint8_t id, unsigned len);
/* Fails when the place is taken. */
int pci_fn_plug(struct pci_fn *f, struct pci_bus *b, unsigned devfn, struct err *e);
void pci_fn_unplug(struct pci_fn *f);
/* Power-on state of the common registers: BARs unmapped, command 0. */
void pci_fn_reset(struct pci_fn *f);
void pci_set_intx(struct pci_fn *f, bool level);
struct irq_line pci_intx_line(struct pci_fn *f);
/* The number of the line that its interrupt pin, which it has, drives. */
unsigned pci_fn_line(const struct pci_fn *f);
/* size 1, 2 or 4. */
uint32_t pci_config_read(struct pci_fn *f, unsigned off, unsigned size);
void pci_config_write(struct pci_fn *f, unsigned off, uint32_t val, unsigned size);

/* --- state: part of the state of the device whose function it is. Loop thread, harts paused ----------------------- */

struct pci_fn_state {
    uint8_t config[PCI_CONFIG_SIZE];
    bool mapped[PCI_BARS]; /* a BAR that says where may still be nowhere: it collided */
};
extern const struct state_field pci_fn_state_fields[];
/* Before any function's state is put: none of their register windows is in the way of another. */
void pci_bus_unmap_bars(struct pci_bus *b);
void pci_fn_state_get(struct pci_fn *f, struct pci_fn_state *s);
int pci_fn_state_check(struct pci_fn *f, const struct pci_fn_state *s, struct err *e);
/* INTx is low afterwards: it is the device's to raise. */
void pci_fn_state_put(struct pci_fn *f, const struct pci_fn_state *s);
