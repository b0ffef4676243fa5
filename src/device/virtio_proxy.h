/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the classes of one virtio device share on both transports: a class is on PCI or on virtio-mmio by its `bus`
 * ("PCI", "virtio-bus"), and its objects begin with a struct virtio_proxy.
 *
 * realize:   virtio_proxy_init(), features and configuration, virtio_proxy_plug()
 * unrealize: virtio_proxy_unplug(), then what the type holds
 * The device_class calls below serve as they are, or are called by the type's own.
 */
#pragma once

#include "device/device.h"
#include "device/virtio.h"
#include "device/virtio_pci.h"

struct virtio_proxy {
    struct device dev;
    struct virtio_pci pci; /* not on virtio-mmio */
    struct virtio_dev vdev;
};

/* indirect_desc, event_idx, queue_reset; and of those on virtio-mmio: bus. Those on PCI have virtio_pci_props. */
extern const struct device_prop virtio_proxy_props[], virtio_proxy_mmio_props[];

/* Offers what the properties say; paused until the machine resumes its devices. */
void virtio_proxy_init(struct virtio_proxy *p, const struct virtio_type *t, unsigned queues, unsigned queue_size);
/* On failure nothing is left but what the type made. `class_code`: of the PCI function. */
int virtio_proxy_plug(struct virtio_proxy *p, uint16_t class_code, struct err *e);
/* Off the bus, nothing in flight, the driver's state gone. [co] */
void virtio_proxy_unplug(struct virtio_proxy *p);

void virtio_proxy_reset(struct device *d);
void virtio_proxy_pause(struct device *d);
void virtio_proxy_resume(struct device *d);
bool virtio_proxy_busy(struct device *d);
bool virtio_proxy_on_pci(const struct virtio_proxy *p);

/* Of sections whose state struct begins with a struct virtio_pci_state; `pci` of it is used on PCI only. */
void virtio_proxy_state_get(struct virtio_proxy *p, struct virtio_pci_state *s);
int virtio_proxy_state_check(struct virtio_proxy *p, const struct virtio_pci_state *s, struct err *e);
void virtio_proxy_state_put(struct virtio_proxy *p, const struct virtio_pci_state *s);
/* The first fields of such a section, on PCI and on virtio-mmio; its subsections are virtio_pci_subsections. `t_` has
 * a struct virtio_pci_state `m_`. */
#define VIRTIO_PCI_FIELDS(t_, m_)                                                                                      \
    {.name = "pci",                                                                                                    \
     .type = STATE_TYPE_STRUCT,                                                                                        \
     .offset = offsetof(t_, m_.pci),                                                                                   \
     .count = 1,                                                                                                       \
     .stride = sizeof(struct pci_fn_state),                                                                            \
     .sub = pci_fn_state_fields},                                                                                      \
        VIRTIO_MMIO_FIELDS(t_, m_)
#define VIRTIO_MMIO_FIELDS(t_, m_)                                                                                     \
    {                                                                                                                  \
        .name = "virtio", .type = STATE_TYPE_STRUCT, .offset = offsetof(t_, m_.virtio), .count = 1,                    \
        .stride = sizeof(struct virtio_state), .sub = virtio_state_fields                                              \
    }

/* The initialisers that sections and classes of such a type have in common. A section's get, check, put and derived are
 * the type's own; `t_` is its state struct. */
#define VIRTIO_PROXY_SECTION(name_, t_, fields_)                                                                       \
    .name = (name_), .version = 1, .min_version = 1, .size = sizeof(t_), .fields = (fields_),                          \
    .subsections = virtio_pci_subsections
#define VIRTIO_PROXY_PCI_CLASS(t_, props_)                                                                             \
    .bus = "PCI", .props = (props_), .size = sizeof(t_), .user_creatable = true, .hotpluggable = true,                 \
    .busy = virtio_proxy_busy
#define VIRTIO_PROXY_MMIO_CLASS(t_, props_)                                                                            \
    .bus = "virtio-bus", .props = (props_), .size = sizeof(t_), .user_creatable = true, .busy = virtio_proxy_busy
