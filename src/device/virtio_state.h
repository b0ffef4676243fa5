/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a guest can see of a virtio device, for the sections of the devices: what the core holds, to be put beside what
 * the transport and the type hold. Loop thread, harts paused, the device paused.
 *
 * Elements that are out (parked: see virtq_park()) are saved as the heads of their chains. After a load nothing is
 * out: virtq_pop() gives these heads again before it looks for new ones. Kicks are not saved: resume looks at every
 * queue.
 */
#pragma once

#include "device/virtio.h"

struct virtq_state {
    uint64_t desc, avail, used;
    uint16_t num;
    bool ready;
    uint16_t last_avail, used_idx, signalled;
    bool signalled_valid;
};

struct virtq_parked {
    uint8_t heads[VIRTIO_QUEUE_SIZE_MAX / 8]; /* a bit each */
};

struct virtio_state {
    uint64_t features, driver_features;
    uint32_t feature_sel, driver_feature_sel;
    uint16_t queue_sel;
    uint8_t status, isr, config_generation;
    bool reset_pending;
    uint32_t config_size;
    uint8_t config[VIRTIO_CONFIG_MAX];
    uint16_t queue_size; /* the largest that the driver may set */
    uint32_t queues;
    struct virtq_state queue[VIRTIO_QUEUES_MAX];
    /* subsection "parked" */
    uint32_t parked_queues;
    struct virtq_parked parked[VIRTIO_QUEUES_MAX];
    /* subsection "queue-reset": since virt-0.2 */
    uint64_t resetting; /* queues, a bit each */
};

extern const struct state_field virtio_state_fields[], virtio_parked_fields[], virtio_resetting_fields[];
bool virtio_parked_needed(const struct virtio_state *s);
bool virtio_resetting_needed(const struct virtio_state *s);
#define VIRTIO_PARKED_LOSS    "requests that wait for the disk: the driver would wait for them for ever"
#define VIRTIO_RESETTING_LOSS "resets of queues under way: the driver would wait for them for ever"
/* For a section's `derived`. */
#define VIRTIO_DERIVED "irq", "kicked", "in_flight", "queue.host"

void virtio_state_get(struct virtio_dev *v, struct virtio_state *s);
int virtio_state_check(struct virtio_dev *v, const struct virtio_state *s, struct err *e);
void virtio_state_put(struct virtio_dev *v, const struct virtio_state *s);

/* A section that is nothing but this: devices on virtio-mmio. `st_` is a struct virtio_state. */
extern const struct state_subsection virtio_mmio_subsections[];
extern const char *const virtio_mmio_derived[];
