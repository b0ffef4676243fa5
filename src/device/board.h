/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a board offers the devices that are plugged into it: the VM's services, its buses, and what devices may
 * ask of the machine.  Made and owned by machine/; one per VM.  The pointers do not change while devices exist.
 */
#pragma once

#include "base/events.h"
#include "base/log.h"
#include "block/graph.h"
#include "guest/clock.h"
#include "guest/irq.h"
#include "guest/mem.h"
#include "loop/loop.h"

struct pci_bus;
struct virtio_slot;

struct board {
    struct loop *loop;
    struct log *log; /* may be NULL */
    struct event_bus *bus;
    struct block_graph *graph;
    struct guest_mem *mem;
    struct guest_clock *clock;
    unsigned harts;
    struct pci_bus *pci;               /* root bus; NULL: the board has none */
    struct virtio_slot **virtio_slots; /* virtio-mmio-bus.0 …; NULL: none */
    unsigned n_virtio_slots;
    const char *pci_boot_path; /* of the root bus, for firmware: "/pci@30000000" */
    void *opaque;              /* for the calls below */
    /* A disk's policy says stop: the machine goes to io-error. Loop thread; returns before it stands. */
    void (*io_error)(void *opaque);
};
