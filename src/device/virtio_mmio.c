/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_mmio.h"

#include "base/cleanup.h"

#include <stdlib.h>

enum {
    R_MAGIC = 0x000,
    R_VERSION = 0x004,
    R_DEVICE_ID = 0x008,
    R_VENDOR_ID = 0x00c,
    R_DEVICE_FEATURES = 0x010,
    R_DEVICE_FEATURES_SEL = 0x014,
    R_DRIVER_FEATURES = 0x020,
    R_DRIVER_FEATURES_SEL = 0x024,
    R_QUEUE_SEL = 0x030,
    R_QUEUE_NUM_MAX = 0x034,
    R_QUEUE_NUM = 0x038,
    R_QUEUE_READY = 0x044,
    R_QUEUE_NOTIFY = 0x050,
    R_INTERRUPT_STATUS = 0x060,
    R_INTERRUPT_ACK = 0x064,
    R_STATUS = 0x070,
    R_QUEUE_DESC = 0x080,
    R_QUEUE_DRIVER = 0x090,
    R_QUEUE_DEVICE = 0x0a0,
    R_SHM_LEN = 0x0b0,
    R_SHM_BASE = 0x0b8,
    R_QUEUE_RESET = 0x0c0,
    R_CONFIG_GENERATION = 0x0fc,
    R_CONFIG = 0x100,
};

struct virtio_slot {
    struct guest_mem *mem;
    uint64_t gpa;
    unsigned n;
    struct irq_line irq;
    struct virtio_dev *dev; /* changes only while harts are paused */
};

static uint64_t empty_read(uint64_t off)
{
    switch (off) {
    case R_MAGIC:
        return 0x74726976; /* "virt" */
    case R_VERSION:
        return 2;
    case R_VENDOR_ID:
        return 0x554d4551;
    default:
        return 0;
    }
}

static uint64_t slot_read(void *opaque, uint64_t off, unsigned size)
{
    struct virtio_slot *s = opaque;
    struct virtio_dev *v = s->dev;
    if (!v) {
        return empty_read(off);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    if (off >= R_CONFIG) {
        return virtio_config_read(v, off - R_CONFIG, size);
    }
    const struct virtq *q = virtio_selected(v);
    if (size != 4) {
        return 0;
    }
    switch (off) {
    case R_DEVICE_ID:
        return v->type->id;
    case R_DEVICE_FEATURES:
        return virtio_get_features(v);
    case R_QUEUE_NUM_MAX:
        return q ? q->max : 0;
    case R_QUEUE_READY:
        return q && q->ready;
    case R_INTERRUPT_STATUS:
        return v->isr;
    case R_STATUS:
        return virtio_get_status(v);
    case R_SHM_LEN:
    case R_SHM_LEN + 4:
    case R_SHM_BASE:
    case R_SHM_BASE + 4:
        return 0xffffffff; /* no such region */
    case R_QUEUE_RESET:
        return q && q->resetting;
    case R_CONFIG_GENERATION:
        return v->config_generation;
    default:
        return empty_read(off);
    }
}

static void set_half(uint64_t *reg, bool high, uint32_t val)
{
    unsigned shift = high ? 32 : 0;
    *reg = (*reg & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

static void write_queue(struct virtio_dev *v, uint64_t off, uint32_t val)
{
    struct virtq *q = virtio_selected(v);
    if (!q || q->ready) {
        return;
    }
    switch (off & ~4ull) {
    case R_QUEUE_DESC:
        set_half(&q->desc, off & 4, val);
        break;
    case R_QUEUE_DRIVER:
        set_half(&q->avail, off & 4, val);
        break;
    case R_QUEUE_DEVICE:
        set_half(&q->used, off & 4, val);
        break;
    default:
        break;
    }
}

static void write_register(struct virtio_dev *v, uint64_t off, uint32_t val)
{
    switch (off) {
    case R_DEVICE_FEATURES_SEL:
        v->feature_sel = val;
        break;
    case R_DRIVER_FEATURES:
        virtio_set_features(v, val);
        break;
    case R_DRIVER_FEATURES_SEL:
        v->driver_feature_sel = val;
        break;
    case R_QUEUE_SEL:
        v->queue_sel = val < VIRTIO_QUEUES_MAX ? (uint16_t)val : VIRTIO_QUEUES_MAX;
        break;
    case R_QUEUE_NUM:
        virtio_set_queue_num(v, val);
        break;
    case R_QUEUE_READY:
        virtio_set_queue_ready(v, val & 1);
        break;
    case R_QUEUE_RESET:
        virtio_set_queue_reset(v, val & 1);
        break;
    case R_QUEUE_NOTIFY:
        virtio_notify(v, val);
        break;
    case R_INTERRUPT_ACK:
        virtio_ack_isr(v, (uint8_t)val);
        break;
    case R_STATUS:
        virtio_set_status(v, (uint8_t)val);
        break;
    default:
        write_queue(v, off, val);
        break;
    }
}

static void slot_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct virtio_slot *s = opaque;
    struct virtio_dev *v = s->dev;
    if (!v) {
        return;
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    if (off >= R_CONFIG) {
        virtio_config_write(v, off - R_CONFIG, val, size);
    } else if (size == 4) {
        write_register(v, off, (uint32_t)val);
    }
}

static const struct mmio_ops slot_ops = {slot_read, slot_write, 1, 8};

struct virtio_slot *virtio_slot_create(struct guest_mem *m, unsigned n, uint64_t gpa, struct irq_line irq,
                                       struct err *e)
{
    struct virtio_slot *s = g_new0(struct virtio_slot, 1);
    s->mem = m;
    s->gpa = gpa;
    s->n = n;
    s->irq = irq;
    const struct mmio_region r = {"virtio-mmio", gpa, VIRTIO_MMIO_SIZE, &slot_ops, s};
    if (mmio_add(m, &r, e) < 0) {
        g_free(s);
        return NULL;
    }
    return s;
}

void virtio_slot_destroy(struct virtio_slot *s)
{
    if (s) {
        mmio_remove(s->mem, &slot_ops, s, s->gpa);
        g_free(s);
    }
}

/* The slot a name means; NULL: none. */
static struct virtio_slot *slot_find(struct board *b, const char *bus)
{
    for (unsigned i = b->n_virtio_slots; i-- > 0;) {
        struct virtio_slot *s = b->virtio_slots[i];
        CLEANUP_FREE char *name = g_strdup_printf("virtio-mmio-bus.%u", s->n);
        if (bus ? !strcmp(bus, name) : !s->dev) {
            return s;
        }
    }
    return NULL;
}

int virtio_mmio_plug(struct device *d, struct virtio_dev *v, struct err *e)
{
    struct board *b = d->board;
    const char *bus = device_str(d, "bus");
    struct virtio_slot *s = slot_find(b, bus);
    if (!s && bus) {
        return err_set(e, ENOENT, "Bus '%s' not found; there are virtio-mmio-bus.0 to virtio-mmio-bus.%u", bus,
                       b->n_virtio_slots ? b->n_virtio_slots - 1 : 0);
    }
    if (!s) {
        return err_set(e, ENOENT, "No 'virtio-bus' bus found for device '%s': all %u slots are taken", v->name,
                       b->n_virtio_slots);
    }
    if (s->dev) {
        return err_set(e, EBUSY, "Bus '%s' is full: '%s' is on it", bus, s->dev->name);
    }
    v->irq = s->irq;
    s->dev = v;
    CLEANUP_FREE char *name = g_strdup_printf("virtio-mmio-bus.%u", s->n);
    device_settle(d, "bus", json_object_new_string(name));
    return 0;
}

uint64_t virtio_mmio_address(struct board *b, const struct virtio_dev *v)
{
    for (unsigned i = 0; i < b->n_virtio_slots; i++) {
        if (b->virtio_slots[i]->dev == v) {
            return b->virtio_slots[i]->gpa;
        }
    }
    return 0;
}

void virtio_mmio_unplug(struct board *b, struct virtio_dev *v)
{
    for (unsigned i = 0; i < b->n_virtio_slots; i++) {
        if (b->virtio_slots[i]->dev == v) {
            irq_set(&v->irq, false);
            b->virtio_slots[i]->dev = NULL;
        }
    }
}
