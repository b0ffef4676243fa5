/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * virtio SCSI host device (virtio 1.2, 5.6) on PCI (virtio-scsi-pci) and MMIO (virtio-scsi-device).
 *
 *   queue 0: control (virtio_scsi_task.c)    1: events (the same)    2 …: requests (virtio_scsi.c)
 *
 * A request runs as a coroutine on the loop. One that fails while its drive's policy says stop is parked, and looked at
 * anew when the machine goes on: by then its logical unit may be gone.
 *
 * Threads: the loop. The one exception: a reset by the driver may complete on a hart's thread, which only leaves word
 * (was_reset) for the loop, that looks before it does anything else.
 */
#pragma once

#include "device/scsi_bus.h"
#include "device/virtio_proxy.h"

#include <stdatomic.h>

enum {
    VSCSI_CONTROL,
    VSCSI_EVENTS,
    VSCSI_REQUESTS, /* the first of them */
};
enum { VSCSI_F_HOTPLUG = 1 << 1, VSCSI_F_CHANGE = 1 << 2 };
enum { VSCSI_MAX_TARGET = 255, VSCSI_MAX_LUN = 16383, VSCSI_LUN_LEN = 8 };
/* struct virtio_scsi_config */
enum {
    VSCSI_C_NUM_QUEUES = 0,
    VSCSI_C_SEG_MAX = 4,
    VSCSI_C_MAX_SECTORS = 8,
    VSCSI_C_CMD_PER_LUN = 12,
    VSCSI_C_EVENT_SIZE = 16,
    VSCSI_C_SENSE_SIZE = 20,
    VSCSI_C_CDB_SIZE = 24,
    VSCSI_C_MAX_CHANNEL = 28,
    VSCSI_C_MAX_TARGET = 30,
    VSCSI_C_MAX_LUN = 32,
    VSCSI_C_SIZE = 36,
};
enum vscsi_response {
    VSCSI_OK = 0,
    VSCSI_OVERRUN = 1,
    VSCSI_ABORTED = 2,
    VSCSI_BAD_TARGET = 3,
    VSCSI_RESET = 4,
    VSCSI_FAILURE = 9,
    VSCSI_FUNCTION_SUCCEEDED = 10,
    VSCSI_FUNCTION_REJECTED = 11,
    VSCSI_INCORRECT_LUN = 12,
};

/* What the driver is to be told through the event queue, and how many of that are kept while it has no buffers there.
 */
struct vscsi_event {
    uint32_t event, reason;
    uint8_t lun[VSCSI_LUN_LEN];
};
enum { VSCSI_EVENTS_MAX = 16 };

struct virtio_scsi {
    struct virtio_proxy proxy;
    struct scsi_bus bus;
    /* guest state; the rest is the proxy's and the logical units' */
    struct vscsi_event event[VSCSI_EVENTS_MAX];
    unsigned events;
    bool missed; /* there were more */
    /* host state */
    _Atomic bool was_reset; /* by the driver: the bus is to be reset */
    struct vscsi_req *running;
    struct vscsi_req *parked, **parked_end;
    struct co_queue enders; /* who waits for requests to end */
};

/* One request of the driver. */
struct vscsi_req {
    struct virtio_scsi *h;
    struct virtio_elem *el;
    struct scsi_req req;
    struct iovs answer; /* where the response goes; g_malloc'd */
    uint8_t lun[VSCSI_LUN_LEN];
    uint64_t tag;
    enum vscsi_response ended_by; /* a task management function; VSCSI_OK: none */
    struct vscsi_req *next, **at; /* in the list of those that run; of those that are parked: only next */
};

static inline struct virtio_scsi *vscsi_of(struct virtio_dev *v)
{
    return (struct virtio_scsi *)(void *)((char *)v - offsetof(struct virtio_scsi, proxy.vdev));
}

extern const struct device_class virtio_scsi_pci_class, virtio_scsi_mmio_class;
extern const struct virtio_type virtio_scsi_type;

/* Target and logical unit of an address as the driver writes it; false: there can be none of that kind. */
bool vscsi_address(const uint8_t lun[VSCSI_LUN_LEN], unsigned *target, unsigned *number);
/* Does what a driver's reset left to do. */
void vscsi_catch_up(struct virtio_scsi *h);
/* All that are parked and that `pick` picks end with `response`. */
void vscsi_end_parked(struct virtio_scsi *h, bool (*pick)(const struct vscsi_req *r, const void *how), const void *how,
                      enum vscsi_response response);
/* The machine goes on: they are done again. */
void vscsi_redo_parked(struct virtio_scsi *h);

/* Something is in the control queue. */
void vscsi_control(struct virtio_scsi *h);
/* Tells what there is to tell, as far as there are buffers. */
void vscsi_tell_events(struct virtio_scsi *h);
extern const struct scsi_hba_ops vscsi_hba_ops;
char *vscsi_boot_path(struct device *hba);
