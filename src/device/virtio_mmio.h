/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio over MMIO (virtio 1.2, 4.2; version 2 registers). The board has a fixed number of slots, each with a window
 * and an interrupt; an empty one reads as device 0.
 */
#pragma once

#include "device/device.h"
#include "device/virtio.h"

#define VIRTIO_MMIO_SIZE 0x1000

/* Slot `n`: virtio-mmio-bus.N. */
struct virtio_slot *virtio_slot_create(struct guest_mem *m, unsigned n, uint64_t gpa, struct irq_line irq,
                                       struct err *e);
void virtio_slot_destroy(struct virtio_slot *s); /* NULL is fine */
/*
 * Plugs v, which is d, into the slot that its property "bus" ("virtio-mmio-bus.3") names, or without one into the last
 * free one, as QEMU does. Harts paused, as for unplug.
 */
int virtio_mmio_plug(struct device *d, struct virtio_dev *v, struct err *e);
/* Of the slot that v is in; 0: none. */
uint64_t virtio_mmio_address(struct board *b, const struct virtio_dev *v);
void virtio_mmio_unplug(struct board *b, struct virtio_dev *v);
