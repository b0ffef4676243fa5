/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio entropy device (virtio 1.2, 5.4) on PCI (virtio-rng-pci) and MMIO (virtio-rng-device).
 *
 * Bytes come from the source (crypto/rng.h) into a small pool ahead of the driver's requests, and go from there to the
 * driver, at most max-bytes of them in each period. A request is taken only when there are bytes for it, so none is
 * ever out while the source or the period is waited for. The pool is ancillary state: a reader may do without it.
 */
#pragma once

#include "device/device.h"

#define VIRTIO_RNG_POOL 256

extern const struct device_class virtio_rng_pci_class, virtio_rng_mmio_class;
