/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio network card (virtio 1.2, 5.1) on PCI (virtio-net-pci) and MMIO (virtio-net-device): one pair of queues and a
 * control queue; no offloads. The guest may set the address and what it wants to hear.
 *
 * Queues: 0 into the guest, 1 out of it, 2 control. No request is kept: frames for which the driver has no buffer wait
 * here, so many at most, and are lost when the device goes or a state is loaded, as on a wire.
 */
#pragma once

#include "device/device.h"

extern const struct device_class virtio_net_pci_class, virtio_net_mmio_class;
