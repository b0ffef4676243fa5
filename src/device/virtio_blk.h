/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio block device (virtio 1.2, 5.2) on PCI (virtio-blk-pci) and MMIO (virtio-blk-device): multi-queue, discard,
 * write zeroes, switchable write cache, topology.
 *
 * Requests run as coroutines on the loop; data goes between the block graph and guest RAM without a copy. A request
 * that fails follows the backend's rerror/werror: reported, ignored, or the machine stops and it is parked and runs
 * again on resume.
 */
#pragma once

#include "device/device.h"

extern const struct device_class virtio_blk_pci_class, virtio_blk_mmio_class;
