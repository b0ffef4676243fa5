/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What every disk device has in common, whatever its guest speaks to it: the properties, the backend (block/backend.h)
 * that "drive" names or that is made for it, and what becomes of I/O errors. Loop thread.
 */
#pragma once

#include "block/backend.h"
#include "device/device.h"

struct disk {
    struct device *dev;
    struct backend *backend;
    bool own_backend; /* made from a node name, or for an empty drive: goes with the device */
    bool may_write;   /* as the medium was when it was attached */
    const char *part; /* of the device, that holds it; NULL: the device itself */
};

/* "drive", "bootindex", error policies, counters … : one of the class's tables; block sizes: another. */
extern const struct device_prop disk_props[], disk_size_props[];
extern const char *const disk_on_off_auto[];
/* What no single property's limits say of sizes. */
int disk_check_sizes(const struct device *d, struct err *e);

enum {
    DISK_READ_ONLY = 1,    /* never written, whatever the node allows */
    DISK_MAY_BE_EMPTY = 2, /* no drive, or a drive without medium, is fine */
};
/* Finds or makes the backend; after an error too, disk_detach() ends it. [co] */
int disk_attach(struct disk *k, struct device *d, unsigned flags, struct err *e);
/* The backend is this device's from now on; `opaque` is what `ops` are called with. */
void disk_claim(struct disk *k, const struct backend_dev_ops *ops, void *opaque);
/* [co]; zero-filled is fine. */
void disk_detach(struct disk *k);
/*
 * A request failed with rc < 0: tells everybody (BLOCK_IO_ERROR). IO_ERROR_IGNORE: it shall seem to have been good;
 * IO_ERROR_STOP: the machine is about to stop, and the request is to be done again when it goes on; else
 * IO_ERROR_REPORT.
 */
enum io_error_action disk_failed(struct disk *k, bool is_read, int rc);
