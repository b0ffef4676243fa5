/* SPDX-License-Identifier: BSD-2-Clause */
/* The properties of virtio-blk, on every transport. */
#pragma once

#include "device/device.h"

#define VIRTIO_BLK_SERIAL_LEN 20

extern const struct device_prop virtio_blk_props[];
/* What no single property's limits say. */
int virtio_blk_check_props(struct device *d, struct err *e);
