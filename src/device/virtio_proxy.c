/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_proxy.h"

#include "base/cleanup.h"
#include "device/virtio_mmio.h"

#include <string.h>

const struct device_prop virtio_proxy_props[] = {
    {"indirect_desc", PROP_BOOL, "on", .help = "on/off"},
    {"event_idx", PROP_BOOL, "on", .help = "on/off"},
    {"queue_reset", PROP_BOOL, "on", .help = "on/off"},
    {NULL},
};
const struct device_prop virtio_proxy_mmio_props[] = {
    {"bus", PROP_STR, .help = "Slot to plug into: virtio-mmio-bus.N (default: the last free one)"},
    {NULL},
};

static struct virtio_proxy *proxy_of(struct device *d)
{
    return (struct virtio_proxy *)d;
}

bool virtio_proxy_on_pci(const struct virtio_proxy *p)
{
    return !strcmp(p->dev.cls->bus, "PCI");
}

void virtio_proxy_init(struct virtio_proxy *p, const struct virtio_type *t, unsigned queues, unsigned queue_size)
{
    struct device *d = &p->dev;
    struct virtio_dev *v = &p->vdev;
    virtio_init(v, t, d->board, queues, queue_size);
    v->name = device_name(d);
    v->paused = true;
    v->features |= device_bool(d, "indirect_desc") ? VIRTIO_F_INDIRECT_DESC : 0;
    v->features |= device_bool(d, "event_idx") ? VIRTIO_F_EVENT_IDX : 0;
    v->features |= device_bool(d, "queue_reset") ? VIRTIO_F_RING_RESET : 0;
}

int virtio_proxy_plug(struct virtio_proxy *p, uint16_t class_code, struct err *e)
{
    struct device *d = &p->dev;
    int rc = virtio_proxy_on_pci(p) ? virtio_pci_plug(&p->pci, &p->vdev, d, class_code, e)
                                    : virtio_mmio_plug(d, &p->vdev, e);
    if (rc < 0) {
        virtio_finish(&p->vdev);
    }
    return rc;
}

void virtio_proxy_unplug(struct virtio_proxy *p)
{
    virtio_pause(&p->vdev);
    if (virtio_proxy_on_pci(p)) {
        virtio_pci_unplug(&p->pci);
    } else {
        virtio_mmio_unplug(p->dev.board, &p->vdev);
    }
    p->vdev.irq = (struct irq_line){0};
    virtio_system_reset(&p->vdev);
    virtio_finish(&p->vdev);
}

void virtio_proxy_reset(struct device *d)
{
    struct virtio_proxy *p = proxy_of(d);
    virtio_system_reset(&p->vdev);
    if (virtio_proxy_on_pci(p)) {
        virtio_pci_reset(&p->pci);
    }
}

void virtio_proxy_pause(struct device *d)
{
    virtio_pause(&proxy_of(d)->vdev);
}

void virtio_proxy_resume(struct device *d)
{
    virtio_resume(&proxy_of(d)->vdev);
}

bool virtio_proxy_busy(struct device *d)
{
    struct virtio_dev *v = &proxy_of(d)->vdev;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    return v->status & VIRTIO_STATUS_DRIVER_OK;
}

/* --- state -------------------------------------------------------------------------------------------------------- */

void virtio_proxy_state_get(struct virtio_proxy *p, struct virtio_pci_state *s)
{
    if (virtio_proxy_on_pci(p)) {
        virtio_pci_state_get(&p->pci, s);
    } else {
        virtio_state_get(&p->vdev, &s->virtio);
    }
}

int virtio_proxy_state_check(struct virtio_proxy *p, const struct virtio_pci_state *s, struct err *e)
{
    return virtio_proxy_on_pci(p) ? virtio_pci_state_check(&p->pci, s, e) : virtio_state_check(&p->vdev, &s->virtio, e);
}

void virtio_proxy_state_put(struct virtio_proxy *p, const struct virtio_pci_state *s)
{
    if (virtio_proxy_on_pci(p)) {
        virtio_pci_state_put(&p->pci, s);
    } else {
        virtio_state_put(&p->vdev, &s->virtio);
    }
}
