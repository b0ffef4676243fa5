/* SPDX-License-Identifier: BSD-2-Clause */
/* The adapter as a device: properties, life, state. */
#include "base/checked.h"
#include "base/endian.h"
#include "device/virtio_mmio.h"
#include "device/virtio_scsi.h"

#include <inttypes.h>
#include <string.h>

static const struct device_prop scsi_props[] = {
    {"num_queues", PROP_INT, "4294967295", 1, UINT32_MAX, .type_name = "uint32",
     .help = "of requests; 4294967295: one per hart"},
    {"virtqueue_size", PROP_INT, "256", 4, VIRTIO_QUEUE_SIZE_MAX, .type_name = "uint32"},
    {"seg_max_adjust", PROP_BOOL, "on", .help = "on: two less than virtqueue_size; off: 126"},
    {"max_sectors", PROP_INT, "65535", 1, UINT32_MAX, .type_name = "uint32"},
    {"cmd_per_lun", PROP_INT, "128", 1, UINT32_MAX, .type_name = "uint32"},
    {"hotplug", PROP_BOOL, "on", .help = "on/off: tell the driver of logical units that come and go"},
    {"param_change", PROP_BOOL, "on", .help = "on/off: tell the driver of those that change"},
    {"iothread", PROP_STR, .type_name = "link<iothread>", .help = "must exist; all block I/O runs on the loop thread"},
    {NULL},
};

enum { SEG_MAX_FIXED = 126 };

static int check_props(const struct device *d, struct err *e)
{
    const char *thread = device_str(d, "iothread");
    int64_t queues = device_int(d, "num_queues");
    if (!is_pow2((uint64_t)device_int(d, "virtqueue_size"))) {
        return err_set(e, EINVAL, "device '%s': virtqueue_size %" PRId64 " is not a power of two", device_name(d),
                       device_int(d, "virtqueue_size"));
    }
    if (queues != UINT32_MAX && queues > VIRTIO_QUEUES_MAX - VSCSI_REQUESTS) {
        return err_set(e, EINVAL, "device '%s': num_queues %" PRId64 " is more than %d", device_name(d), queues,
                       VIRTIO_QUEUES_MAX - VSCSI_REQUESTS);
    }
    if (thread && !graph_object(d->board->graph, "iothread", thread)) {
        return err_set(e, ENOENT, "device '%s': there is no object iothread '%s'", device_name(d), thread);
    }
    return 0;
}

static void set_config(struct virtio_scsi *h, unsigned queues, unsigned size)
{
    const struct device *d = &h->proxy.dev;
    struct virtio_dev *v = &h->proxy.vdev;
    uint8_t *c = v->config;
    v->config_size = VSCSI_C_SIZE;
    store_le32(c + VSCSI_C_NUM_QUEUES, queues);
    store_le32(c + VSCSI_C_SEG_MAX, device_bool(d, "seg_max_adjust") ? size - 2 : SEG_MAX_FIXED);
    store_le32(c + VSCSI_C_MAX_SECTORS, (uint32_t)device_int(d, "max_sectors"));
    store_le32(c + VSCSI_C_CMD_PER_LUN, (uint32_t)device_int(d, "cmd_per_lun"));
    store_le32(c + VSCSI_C_EVENT_SIZE, 16);
    store_le16(c + VSCSI_C_MAX_TARGET, VSCSI_MAX_TARGET);
    store_le32(c + VSCSI_C_MAX_LUN, VSCSI_MAX_LUN);
    virtio_scsi_type.cleared(v);
    v->features |= device_bool(d, "hotplug") ? VSCSI_F_HOTPLUG : 0;
    v->features |= device_bool(d, "param_change") ? VSCSI_F_CHANGE : 0;
}

static int scsi_realize(struct device *d, struct err *e)
{
    struct virtio_scsi *h = (struct virtio_scsi *)d;
    int rc = check_props(d, e);
    if (rc < 0) {
        return rc;
    }
    unsigned queues =
        device_int(d, "num_queues") == UINT32_MAX ? d->board->harts : (unsigned)device_int(d, "num_queues");
    unsigned size = (unsigned)device_int(d, "virtqueue_size");
    queues = (unsigned)min_u64(queues ? queues : 1, VIRTIO_QUEUES_MAX - VSCSI_REQUESTS);
    h->parked_end = &h->parked;
    scsi_bus_init(&h->bus, d, &vscsi_hba_ops);
    h->bus.max_target = VSCSI_MAX_TARGET;
    h->bus.max_lun = VSCSI_MAX_LUN;
    virtio_proxy_init(&h->proxy, &virtio_scsi_type, VSCSI_REQUESTS + queues, size);
    set_config(h, queues, size);
    rc = virtio_proxy_plug(&h->proxy, 0x0100, e);
    if (rc < 0) {
        scsi_bus_finish(&h->bus);
    }
    h->was_reset = false; /* there are no units yet */
    return rc;
}

static void hurry(struct virtio_scsi *h, bool on)
{
    for (guint i = 0; i < h->bus.luns->len; i++) {
        struct scsi_lun *l = g_ptr_array_index(h->bus.luns, i);
        l->ops->hurry(l, on);
    }
}

/* Requests that wait for their limit go now. */
static void scsi_pause(struct device *d)
{
    struct virtio_scsi *h = (struct virtio_scsi *)d;
    hurry(h, true);
    virtio_proxy_pause(d);
    hurry(h, false);
    vscsi_catch_up(h);
}

static void scsi_resume(struct device *d)
{
    vscsi_redo_parked((struct virtio_scsi *)d);
    virtio_proxy_resume(d);
}

static void scsi_unrealize(struct device *d)
{
    struct virtio_scsi *h = (struct virtio_scsi *)d;
    virtio_proxy_unplug(&h->proxy);
    scsi_bus_finish(&h->bus);
}

static void scsi_reset(struct device *d)
{
    struct virtio_scsi *h = (struct virtio_scsi *)d;
    virtio_proxy_reset(d);
    h->was_reset = h->missed = false; /* the units have resets of their own */
    h->events = 0;
}

char *vscsi_boot_path(struct device *hba)
{
    struct virtio_proxy *p = (struct virtio_proxy *)hba;
    const struct pci_fn *f = &p->pci.fn;
    if (!virtio_proxy_on_pci(p)) {
        return g_strdup_printf("/virtio-mmio@%016" PRIx64, virtio_mmio_address(hba->board, &p->vdev));
    }
    return f->devfn % 8 ? g_strdup_printf("%s/scsi@%x,%x", hba->board->pci_boot_path, f->devfn / 8, f->devfn % 8)
                        : g_strdup_printf("%s/scsi@%x", hba->board->pci_boot_path, f->devfn / 8);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

struct scsi_state {
    struct virtio_pci_state bus;
    uint32_t events;
    struct vscsi_event event[VSCSI_EVENTS_MAX];
    bool missed;
};

static const struct state_field event_fields[] = {
    STATE_U32(struct vscsi_event, event),
    STATE_U32(struct vscsi_event, reason),
    STATE_BYTES(struct vscsi_event, lun),
    {0},
};

#define OWN_FIELDS                                                                                                     \
    STATE_U32(struct scsi_state, events, .max = VSCSI_EVENTS_MAX),                                                     \
        STATE_STRUCTS(struct scsi_state, event, event_fields, .used = STATE_AT(struct scsi_state, events),             \
                      .help = "what the driver is told as soon as it has a buffer for it"),                            \
        STATE_BOOL(struct scsi_state, missed, .help = "there were more"),                                              \
    {                                                                                                                  \
        0                                                                                                              \
    }

static const struct state_field pci_fields[] = {VIRTIO_PCI_FIELDS(struct scsi_state, bus), OWN_FIELDS};
static const struct state_field mmio_fields[] = {VIRTIO_MMIO_FIELDS(struct scsi_state, bus), OWN_FIELDS};

static void state_get(void *object, void *st)
{
    struct virtio_scsi *h = object;
    struct scsi_state *s = st;
    virtio_proxy_state_get(&h->proxy, &s->bus);
    s->events = h->events;
    memcpy(s->event, h->event, h->events * sizeof(h->event[0]));
    s->missed = h->missed;
}

static int state_check(void *object, const void *st, struct err *e)
{
    struct virtio_scsi *h = object;
    const struct scsi_state *s = st;
    if (s->events > VSCSI_EVENTS_MAX) {
        return err_set(e, EINVAL, "%u events cannot wait for its driver", s->events);
    }
    return virtio_proxy_state_check(&h->proxy, &s->bus, e);
}

static void state_put(void *object, const void *st)
{
    struct virtio_scsi *h = object;
    const struct scsi_state *s = st;
    virtio_proxy_state_put(&h->proxy, &s->bus);
    vscsi_catch_up(h); /* of the reset that this was */
    h->events = s->events;
    memcpy(h->event, s->event, s->events * sizeof(h->event[0]));
    h->missed = s->missed;
}

static const char *const derived[] = {VIRTIO_DERIVED, "pci.intx", "pci.status.interrupt", "was_reset", NULL};

static const struct state_section pci_state = {
    VIRTIO_PROXY_SECTION("virtio-scsi-pci", struct scsi_state, pci_fields),
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

static const struct state_section mmio_state = {
    VIRTIO_PROXY_SECTION("virtio-scsi-mmio", struct scsi_state, mmio_fields),
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

/* --- classes ------------------------------------------------------------------------------------------------------ */

static const struct device_prop *const pci_tables[] = {scsi_props, virtio_proxy_props, virtio_pci_props, NULL};
static const struct device_prop *const mmio_tables[] = {scsi_props, virtio_proxy_props, virtio_proxy_mmio_props, NULL};

const struct device_class virtio_scsi_pci_class = {
    .name = "virtio-scsi-pci",
    .alias = "virtio-scsi",
    VIRTIO_PROXY_PCI_CLASS(struct virtio_scsi, pci_tables),
    .category = "storage",
    .realize = scsi_realize,
    .unrealize = scsi_unrealize,
    .reset = scsi_reset,
    .pause = scsi_pause,
    .resume = scsi_resume,
    .state = &pci_state,
};

const struct device_class virtio_scsi_mmio_class = {
    .name = "virtio-scsi-device",
    VIRTIO_PROXY_MMIO_CLASS(struct virtio_scsi, mmio_tables),
    .category = "storage",
    .realize = scsi_realize,
    .unrealize = scsi_unrealize,
    .reset = scsi_reset,
    .pause = scsi_pause,
    .resume = scsi_resume,
    .state = &mmio_state,
};
