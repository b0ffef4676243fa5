/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_pci.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#define VIRTIO_BAR    4
#define PART_SIZE     0x1000u
#define NOTIFY_FACTOR 4
#define NO_VECTOR     0xffff

enum { PART_COMMON, PART_ISR, PART_DEVICE, PART_NOTIFY, PARTS };
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI_CFG };

/* struct virtio_pci_common_cfg */
enum {
    C_DEVICE_FEATURE_SEL = 0,
    C_DEVICE_FEATURE = 4,
    C_DRIVER_FEATURE_SEL = 8,
    C_DRIVER_FEATURE = 12,
    C_CONFIG_VECTOR = 16,
    C_NUM_QUEUES = 18,
    C_STATUS = 20,
    C_CONFIG_GENERATION = 21,
    C_QUEUE_SEL = 22,
    C_QUEUE_SIZE = 24,
    C_QUEUE_VECTOR = 26,
    C_QUEUE_ENABLE = 28,
    C_QUEUE_NOTIFY_OFF = 30,
    C_QUEUE_DESC = 32,
    C_QUEUE_DRIVER = 40,
    C_QUEUE_DEVICE = 48,
    C_QUEUE_RESET = 58,
};

static const char *const on_off_auto[] = {"on", "off", "auto", NULL};

const struct device_prop virtio_pci_props[] = {
    {"addr", PROP_PCI_ADDR, NULL, .help = "Slot and optional function number, example: 06.0 or 06"},
    {"bus", PROP_STR, NULL, .help = "Bus to plug into (default: \"pcie.0\")"},
    {"multifunction", PROP_BOOL, "off", .help = "on/off"},
    {"disable-legacy", PROP_ENUM, "auto", .values = on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"disable-modern", PROP_BOOL, "off"},
    {"vectors", PROP_INT, "0", .max = 0xffffffff, .type_name = "uint32", .help = "MSI-X vectors; the board has no MSI"},
    {"romfile", PROP_STR, NULL, .help = "option ROM: must be empty"},
    {NULL},
};

static uint64_t common_read_queue(struct virtio_dev *v, uint64_t off)
{
    const struct virtq *q = virtio_selected(v);
    if (!q) {
        return 0;
    }
    switch (off) {
    case C_QUEUE_SIZE:
        return q->num;
    case C_QUEUE_ENABLE:
        return q->ready;
    case C_QUEUE_RESET:
        return q->resetting;
    case C_QUEUE_NOTIFY_OFF:
        return v->queue_sel;
    case C_QUEUE_DESC:
        return (uint32_t)q->desc;
    case C_QUEUE_DESC + 4:
        return q->desc >> 32;
    case C_QUEUE_DRIVER:
        return (uint32_t)q->avail;
    case C_QUEUE_DRIVER + 4:
        return q->avail >> 32;
    case C_QUEUE_DEVICE:
        return (uint32_t)q->used;
    case C_QUEUE_DEVICE + 4:
        return q->used >> 32;
    default:
        return 0;
    }
}

static uint64_t common_read(struct virtio_dev *v, uint64_t off)
{
    switch (off) {
    case C_DEVICE_FEATURE_SEL:
        return v->feature_sel;
    case C_DEVICE_FEATURE:
        return virtio_get_features(v);
    case C_DRIVER_FEATURE_SEL:
        return v->driver_feature_sel;
    case C_DRIVER_FEATURE:
        return v->driver_feature_sel > 1 ? 0 : (uint32_t)(v->driver_features >> (32 * v->driver_feature_sel));
    case C_CONFIG_VECTOR:
    case C_QUEUE_VECTOR:
        return NO_VECTOR;
    case C_NUM_QUEUES:
        return v->n_queues;
    case C_STATUS:
        return virtio_get_status(v);
    case C_CONFIG_GENERATION:
        return v->config_generation;
    case C_QUEUE_SEL:
        return v->queue_sel;
    default:
        return common_read_queue(v, off);
    }
}

static void set_half(uint64_t *reg, bool high, uint32_t val)
{
    unsigned shift = high ? 32 : 0;
    *reg = (*reg & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

static void common_write_queue(struct virtio_dev *v, uint64_t off, uint32_t val)
{
    struct virtq *q = virtio_selected(v);
    if (!q || q->ready) {
        return;
    }
    switch (off & ~4ull) {
    case C_QUEUE_DESC:
        set_half(&q->desc, off & 4, val);
        break;
    case C_QUEUE_DRIVER:
        set_half(&q->avail, off & 4, val);
        break;
    case C_QUEUE_DEVICE:
        set_half(&q->used, off & 4, val);
        break;
    default:
        break;
    }
}

static void common_write(struct virtio_dev *v, uint64_t off, uint32_t val)
{
    switch (off) {
    case C_DEVICE_FEATURE_SEL:
        v->feature_sel = val;
        break;
    case C_DRIVER_FEATURE_SEL:
        v->driver_feature_sel = val;
        break;
    case C_DRIVER_FEATURE:
        virtio_set_features(v, val);
        break;
    case C_STATUS:
        virtio_set_status(v, (uint8_t)val);
        break;
    case C_QUEUE_SEL:
        v->queue_sel = (uint16_t)val;
        break;
    case C_QUEUE_SIZE:
        virtio_set_queue_num(v, val & 0xffff);
        break;
    case C_QUEUE_ENABLE:
        if (val & 1) {
            virtio_set_queue_ready(v, true);
        }
        break;
    case C_QUEUE_RESET:
        virtio_set_queue_reset(v, val & 1);
        break;
    default:
        if (off >= C_QUEUE_DESC) {
            common_write_queue(v, off, val);
        }
        break;
    }
}

static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
    struct virtio_pci *p = opaque;
    struct virtio_dev *v = p->dev;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    uint64_t at = off % PART_SIZE;
    switch (off / PART_SIZE) {
    case PART_COMMON:
        return size == 8 ? common_read(v, at) | common_read(v, at + 4) << 32 : common_read(v, at);
    case PART_ISR:
        return at == 0 ? virtio_ack_isr(v, 0xff) : 0;
    case PART_DEVICE:
        return virtio_config_read(v, at, size);
    default:
        return 0;
    }
}

static void bar_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct virtio_pci *p = opaque;
    struct virtio_dev *v = p->dev;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    uint64_t at = off % PART_SIZE;
    switch (off / PART_SIZE) {
    case PART_COMMON:
        common_write(v, at, (uint32_t)val);
        if (size == 8) {
            common_write(v, at + 4, (uint32_t)(val >> 32));
        }
        break;
    case PART_DEVICE:
        virtio_config_write(v, at, val, size);
        break;
    case PART_NOTIFY:
        virtio_notify(v, (unsigned)(at / NOTIFY_FACTOR));
        break;
    default:
        break;
    }
}

static const struct mmio_ops bar_ops = {bar_read, bar_write, 1, 8};

/* --- capabilities --------------------------------------------------------------------------------------------------
 */

static unsigned add_cap(struct virtio_pci *p, uint8_t type, unsigned part, unsigned len)
{
    unsigned at = pci_fn_add_cap(&p->fn, PCI_CAP_VENDOR, len);
    uint8_t *c = p->fn.config + at;
    c[2] = (uint8_t)len;
    c[3] = type;
    c[4] = type == CAP_PCI_CFG ? 0 : VIRTIO_BAR;
    if (type != CAP_PCI_CFG) {
        store_le32(c + 8, part * PART_SIZE);
        store_le32(c + 12, PART_SIZE);
    }
    return at;
}

/* The window into the BAR through configuration space: bar, offset, length and data at 4, 8, 12, 16 of the capability.
 */
static bool cfg_window(struct virtio_pci *p, unsigned off, unsigned size, uint32_t *bar_off, uint32_t *len)
{
    const uint8_t *c = p->fn.config + p->cfg_cap;
    *bar_off = load_le32(c + 8);
    *len = load_le32(c + 12);
    return ranges_overlap(off, size, p->cfg_cap + 16, 4) && c[4] == VIRTIO_BAR &&
           (*len == 1 || *len == 2 || *len == 4) && *bar_off % *len == 0 && range_ok(*bar_off, *len, PARTS * PART_SIZE);
}

static void config_read(struct pci_fn *f, unsigned off, unsigned size)
{
    struct virtio_pci *p = f->opaque;
    uint32_t at, len;
    if (cfg_window(p, off, size, &at, &len)) {
        store_le32(f->config + p->cfg_cap + 16, (uint32_t)bar_read(p, at, len));
    }
}

static void config_written(struct pci_fn *f, unsigned off, unsigned size)
{
    struct virtio_pci *p = f->opaque;
    uint32_t at, len;
    if (cfg_window(p, off, size, &at, &len)) {
        bar_write(p, at, load_le32(f->config + p->cfg_cap + 16), len);
    }
}

static void make_function(struct virtio_pci *p, struct virtio_dev *v, uint16_t class_code)
{
    struct pci_fn *f = &p->fn;
    pci_fn_set_ids(f, 0x1af4, (uint16_t)(0x1040 + v->type->id), (uint32_t)class_code << 16 | 1);
    store_le16(f->config + PCI_SUBSYSTEM_VENDOR, 0x1af4);
    store_le16(f->config + PCI_SUBSYSTEM_ID, 0x1100);
    f->config[PCI_INT_PIN] = 1;
    pci_fn_add_bar(f, VIRTIO_BAR, PARTS * PART_SIZE, PCI_BAR_MEM64 | PCI_BAR_PREFETCH, &bar_ops);
    add_cap(p, CAP_COMMON, PART_COMMON, 16);
    add_cap(p, CAP_ISR, PART_ISR, 16);
    add_cap(p, CAP_DEVICE, PART_DEVICE, 16);
    unsigned at = add_cap(p, CAP_NOTIFY, PART_NOTIFY, 20);
    store_le32(f->config + at + 16, NOTIFY_FACTOR);
    p->cfg_cap = add_cap(p, CAP_PCI_CFG, 0, 20);
    f->writable[p->cfg_cap + 4] = 0xff;
    memset(f->writable + p->cfg_cap + 8, 0xff, 12);
    f->config_read = config_read;
    f->config_written = config_written;
}

static int check_props(struct device *d, struct err *e)
{
    const char *bus = device_str(d, "bus"), *rom = device_str(d, "romfile");
    if (!d->board->pci) {
        return err_set(e, ENOENT, "No 'PCI' bus found for device '%s'", d->cls->name);
    }
    if (bus && strcmp(bus, "pcie.0") != 0) {
        return err_set(e, ENOENT, "Bus '%s' not found; the PCI bus is pcie.0", bus);
    }
    if (device_bool(d, "disable-modern") || device_enum(d, "disable-legacy") == 1) {
        return err_set(e, ENOTSUP,
                       "device '%s': only the modern virtio interface is there: disable-legacy=off and "
                       "disable-modern=on cannot be had",
                       device_name(d));
    }
    if (rom && *rom) {
        return err_set(e, ENOTSUP, "device '%s': option ROMs are not for this machine; leave romfile empty",
                       device_name(d));
    }
    return 0;
}

int virtio_pci_plug(struct virtio_pci *p, struct virtio_dev *v, struct device *d, uint16_t class_code, struct err *e)
{
    int rc = check_props(d, e);
    if (rc < 0) {
        return rc;
    }
    int64_t addr = device_int(d, "addr");
    int slot = addr < 0 ? pci_bus_free_slot(d->board->pci) : 0;
    if (slot < 0) {
        return err_set(e, ENOSPC, "PCI: no slot/function available for %s, all in use", d->cls->name);
    }
    p->dev = v;
    pci_fn_init(&p->fn, device_name(d), p);
    make_function(p, v, class_code);
    if (device_bool(d, "multifunction")) {
        p->fn.config[PCI_HEADER_TYPE] |= 0x80;
    }
    v->irq = pci_intx_line(&p->fn);
    rc = pci_fn_plug(&p->fn, d->board->pci, addr < 0 ? (unsigned)slot * 8 : (unsigned)addr, e);
    if (rc < 0) {
        pci_fn_finish(&p->fn);
        return rc;
    }
    device_settle(d, "addr", json_object_new_int((int)p->fn.devfn));
    return 0;
}

void virtio_pci_unplug(struct virtio_pci *p)
{
    pci_fn_unplug(&p->fn);
    pci_fn_finish(&p->fn);
}

void virtio_pci_reset(struct virtio_pci *p)
{
    pci_fn_reset(&p->fn);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

const struct state_field virtio_pci_state_fields[] = {
    STATE_ONE_(STATE_TYPE_STRUCT, struct virtio_pci_state, pci, .sub = pci_fn_state_fields),
    STATE_ONE_(STATE_TYPE_STRUCT, struct virtio_pci_state, virtio, .sub = virtio_state_fields),
    {0},
};
static const struct state_field parked_fields[] = {
    STATE_ONE_(STATE_TYPE_STRUCT, struct virtio_pci_state, virtio, .sub = virtio_parked_fields),
    {0},
};

static const struct state_field resetting_fields[] = {
    STATE_ONE_(STATE_TYPE_STRUCT, struct virtio_pci_state, virtio, .sub = virtio_resetting_fields),
    {0},
};

static bool resetting_needed(const void *st)
{
    return virtio_resetting_needed(&((const struct virtio_pci_state *)st)->virtio);
}

static bool parked_needed(const void *st)
{
    return virtio_parked_needed(&((const struct virtio_pci_state *)st)->virtio);
}

const struct state_subsection virtio_pci_subsections[] = {
    {"parked", parked_needed, parked_fields, VIRTIO_PARKED_LOSS},
    {"queue-reset", resetting_needed, resetting_fields, VIRTIO_RESETTING_LOSS},
    {NULL},
};
const char *const virtio_pci_derived[] = {VIRTIO_DERIVED, "pci.intx", "pci.status.interrupt", NULL};

void virtio_pci_state_get(struct virtio_pci *p, struct virtio_pci_state *s)
{
    pci_fn_state_get(&p->fn, &s->pci);
    virtio_state_get(p->dev, &s->virtio);
}

int virtio_pci_state_check(struct virtio_pci *p, const struct virtio_pci_state *s, struct err *e)
{
    int rc = pci_fn_state_check(&p->fn, &s->pci, e);
    return rc < 0 ? rc : virtio_state_check(p->dev, &s->virtio, e);
}

void virtio_pci_state_put(struct virtio_pci *p, const struct virtio_pci_state *s)
{
    pci_fn_state_put(&p->fn, &s->pci);
    virtio_state_put(p->dev, &s->virtio);
}
