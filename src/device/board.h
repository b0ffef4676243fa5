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

#include <glib.h>

struct net;
struct pci_bus;
struct virtio_slot;

struct board {
    struct loop *loop;
    struct log *log; /* may be NULL */
    struct event_bus *bus;
    struct block_graph *graph;
    struct net *net; /* net/net.h */
    struct guest_mem *mem;
    struct guest_clock *clock;
    unsigned harts;
    struct pci_bus *pci;               /* root bus; NULL: the board has none */
    struct virtio_slot **virtio_slots; /* virtio-mmio-bus.0 …; NULL: none */
    unsigned n_virtio_slots;
    GPtrArray *scsi_buses;     /* struct scsi_bus *: those that devices brought; NULL: none */
    const char *pci_boot_path; /* of the root bus, for firmware: "/pci@30000000" */
    void *opaque;              /* for the calls below */
    /* A disk's policy says stop: the machine goes to io-error. Loop thread; returns before it stands. */
    void (*io_error)(void *opaque);
    /*
     * Something has changed that a restart must find again: a tray, a medium, a lock, a mode, an address that the guest
     * set. Returns when the state file says so durably, at once where there is none; only then is the guest told that
     * it is done. What the file says of a device is device_options(), so its class's make_up() must tell the new state
     * by then. On failure (a full disk; the text says why) the file says what it said: the device takes the change
     * back, and fails what the guest asked for. Not with a node drained or a lock held that others wait for. [co]
     */
    int (*changed)(void *opaque, struct err *e);
};
