/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio over PCI (virtio 1.2, 4.1), modern registers only, INTx. All structures are in BAR 4, 16 KiB, as in QEMU:
 *
 *   0x0000 common   0x1000 ISR   0x2000 device   0x3000 notify (multiplier 4)
 */
#pragma once

#include "device/device.h"
#include "device/pci.h"
#include "device/virtio.h"
#include "device/virtio_state.h"

struct virtio_pci {
    struct pci_fn fn;
    struct virtio_dev *dev;
    unsigned cfg_cap; /* where VIRTIO_PCI_CAP_PCI_CFG is */
};

/* Properties every virtio PCI device has: addr, bus, multifunction and so on. */
extern const struct device_prop virtio_pci_props[];

/* Makes the function and plugs it in as `d`'s properties say. v is initialised. `class_code` is base class and
 * subclass. */
int virtio_pci_plug(struct virtio_pci *p, struct virtio_dev *v, struct device *d, uint16_t class_code, struct err *e);
void virtio_pci_unplug(struct virtio_pci *p);
void virtio_pci_reset(struct virtio_pci *p);

/* The sections of devices on this transport: a struct virtio_pci_state. */
struct virtio_pci_state {
    struct pci_fn_state pci;
    struct virtio_state virtio;
};
extern const struct state_field virtio_pci_state_fields[];
extern const struct state_subsection virtio_pci_subsections[];
extern const char *const virtio_pci_derived[];
void virtio_pci_state_get(struct virtio_pci *p, struct virtio_pci_state *s);
int virtio_pci_state_check(struct virtio_pci *p, const struct virtio_pci_state *s, struct err *e);
void virtio_pci_state_put(struct virtio_pci *p, const struct virtio_pci_state *s);
