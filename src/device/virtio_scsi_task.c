/* SPDX-License-Identifier: BSD-2-Clause */
/* The control queue (task management) and the event queue. */
#include "base/checked.h"
#include "base/endian.h"
#include "device/virtio_scsi.h"

#include <string.h>

/* --- control ------------------------------------------------------------------------------------------------------ */

enum { T_TASK_MANAGEMENT = 0, T_ASYNC_QUERY = 1, T_ASYNC_SUBSCRIBE = 2 };
enum {
    ABORT_TASK,
    ABORT_TASK_SET,
    CLEAR_ACA,
    CLEAR_TASK_SET,
    I_T_NEXUS_RESET,
    LOGICAL_UNIT_RESET,
    QUERY_TASK,
    QUERY_TASK_SET,
};
enum { TASK_LEN = 24, ASYNC_LEN = 16, ASYNC_ANSWER_LEN = 5 };

struct task {
    struct virtio_scsi *h;
    struct virtio_elem *el;
    uint32_t function;
    unsigned target, lun;
    uint64_t tag;
};

static bool concerns(const struct vscsi_req *r, const void *how)
{
    const struct task *t = how;
    unsigned target, lun;
    if (!vscsi_address(r->lun, &target, &lun) || target != t->target) {
        return false;
    }
    if (t->function == I_T_NEXUS_RESET) {
        return true;
    }
    bool one = t->function == ABORT_TASK || t->function == QUERY_TASK;
    return lun == t->lun && (!one || r->tag == t->tag);
}

static bool any_concerned(const struct task *t)
{
    for (const struct vscsi_req *r = t->h->running; r; r = r->next) {
        if (concerns(r, t)) {
            return true;
        }
    }
    for (const struct vscsi_req *r = t->h->parked; r; r = r->next) {
        if (concerns(r, t)) {
            return true;
        }
    }
    return false;
}

/* What is under way cannot be called back: it ends by itself, and then says that it was ended. */
static void end_all(struct task *t, enum vscsi_response response)
{
    vscsi_end_parked(t->h, concerns, t, response);
    for (struct vscsi_req *r = t->h->running; r; r = r->next) {
        if (concerns(r, t)) {
            r->ended_by = response;
        }
    }
    while (any_concerned(t)) {
        co_queue_wait(&t->h->enders);
    }
}

static enum vscsi_response reset_units(struct task *t)
{
    struct virtio_scsi *h = t->h;
    end_all(t, VSCSI_RESET);
    for (guint i = 0; i < h->bus.luns->len; i++) {
        struct scsi_lun *l = g_ptr_array_index(h->bus.luns, i);
        if (l->target == t->target && (t->function == I_T_NEXUS_RESET || l->lun == t->lun)) {
            l->ops->reset(l);
        }
    }
    return VSCSI_OK; /* function complete */
}

static enum vscsi_response manage(struct task *t)
{
    const struct scsi_bus *b = &t->h->bus;
    if (!scsi_bus_has_target(b, t->target)) {
        return VSCSI_BAD_TARGET;
    }
    if (t->function == I_T_NEXUS_RESET) {
        return reset_units(t);
    }
    if (t->function > QUERY_TASK_SET || t->function == CLEAR_ACA) {
        return VSCSI_FUNCTION_REJECTED;
    }
    if (!scsi_bus_find(b, t->target, t->lun)) {
        return VSCSI_INCORRECT_LUN;
    }
    switch (t->function) {
    case LOGICAL_UNIT_RESET:
        return reset_units(t);
    case QUERY_TASK:
    case QUERY_TASK_SET:
        return any_concerned(t) ? VSCSI_FUNCTION_SUCCEEDED : VSCSI_OK;
    default:
        end_all(t, VSCSI_ABORTED);
        return VSCSI_OK;
    }
}

static void run_task(void *arg)
{
    struct task *t = arg;
    struct virtio_elem *el = t->el;
    struct iovs in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
    uint8_t response = (uint8_t)manage(t);
    iovs_from_buf(&in, 0, &response, 1);
    virtq_push(&t->h->proxy.vdev, el, 1);
    g_free(t);
}

/* Asynchronous notifications: there are none to be had. */
static void answer_async(struct virtio_scsi *h, struct virtio_elem *el)
{
    struct iovs in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
    const uint8_t d[ASYNC_ANSWER_LEN] = {0, 0, 0, 0, VSCSI_OK};
    iovs_from_buf(&in, 0, d, sizeof(d));
    virtq_push(&h->proxy.vdev, el, sizeof(d));
}

/* false: it makes no sense. */
static bool serve(struct virtio_scsi *h, struct virtio_elem *el)
{
    struct iovs out = {el->iov, (int)el->n_out, el->out_len};
    uint8_t d[TASK_LEN] = {0};
    size_t n = iovs_to_buf(&out, 0, d, min_u64(sizeof(d), el->out_len));
    uint32_t type = n >= 4 ? load_le32(d) : UINT32_MAX;
    if (type == T_TASK_MANAGEMENT && n == TASK_LEN && el->in_len >= 1) {
        struct task *t = g_new0(struct task, 1);
        *t = (struct task){.h = h, .el = el, .function = load_le32(d + 4), .tag = load_le64(d + 16)};
        if (!vscsi_address(d + 8, &t->target, &t->lun)) {
            t->target = UINT32_MAX; /* nobody */
        }
        co_start(h->proxy.vdev.board->loop, run_task, t);
        return true;
    }
    if ((type == T_ASYNC_QUERY || type == T_ASYNC_SUBSCRIBE) && n >= ASYNC_LEN && el->in_len >= ASYNC_ANSWER_LEN) {
        answer_async(h, el);
        return true;
    }
    return false;
}

void vscsi_control(struct virtio_scsi *h)
{
    struct virtio_dev *v = &h->proxy.vdev;
    struct virtio_elem *el;
    while ((el = virtq_pop(v, VSCSI_CONTROL))) {
        if (!serve(h, el)) {
            virtio_broken(v, "a request that the control queue does not know");
            virtq_drop(v, el);
            break;
        }
    }
}

/* --- events ------------------------------------------------------------------------------------------------------- */

enum { EVENT_NONE = 0, EVENT_TRANSPORT_RESET = 1, EVENT_PARAM_CHANGE = 3 };
enum { REASON_RESCAN = 1, REASON_REMOVED = 2 };
enum { EVENT_LEN = 16 };
#define EVENTS_MISSED 0x80000000u

/* One event into one buffer; false: there is none. */
static bool tell(struct virtio_scsi *h, const struct vscsi_event *ev)
{
    struct virtio_dev *v = &h->proxy.vdev;
    struct virtio_elem *el = virtq_pop(v, VSCSI_EVENTS);
    uint8_t d[EVENT_LEN];
    if (!el) {
        return false;
    }
    if (el->in_len < EVENT_LEN) {
        virtio_broken(v, "a buffer too small for an event");
        virtq_drop(v, el);
        return false;
    }
    struct iovs in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
    store_le32(d, ev->event | (h->missed ? EVENTS_MISSED : 0));
    memcpy(d + 4, ev->lun, VSCSI_LUN_LEN);
    store_le32(d + 12, ev->reason);
    iovs_from_buf(&in, 0, d, sizeof(d));
    virtq_push(v, el, EVENT_LEN);
    h->missed = false;
    return true;
}

void vscsi_tell_events(struct virtio_scsi *h)
{
    static const struct vscsi_event nothing = {.event = EVENT_NONE};
    while (h->events && tell(h, &h->event[0])) {
        memmove(&h->event[0], &h->event[1], --h->events * sizeof(h->event[0]));
    }
    if (h->missed && !h->events) {
        tell(h, &nothing);
    }
}

/* The driver hears of it as soon as it has a buffer there; one that is not there yet looks by itself. */
static void push(struct virtio_scsi *h, uint64_t feature, struct vscsi_event ev, const struct scsi_lun *l)
{
    struct virtio_dev *v = &h->proxy.vdev;
    vscsi_catch_up(h);
    if (!virtio_proxy_busy(&h->proxy.dev) || !virtio_has(v, feature)) {
        return;
    }
    ev.lun[0] = 1;
    ev.lun[1] = (uint8_t)l->target;
    store_be16(ev.lun + 2, (uint16_t)(l->lun < 256 ? l->lun : l->lun | 0x4000));
    if (h->events == VSCSI_EVENTS_MAX) {
        h->missed = true;
    } else {
        h->event[h->events++] = ev;
    }
    vscsi_tell_events(h);
}

static struct virtio_scsi *adapter_of(struct scsi_bus *b)
{
    return (struct virtio_scsi *)(void *)((char *)b - offsetof(struct virtio_scsi, bus));
}

static void on_plugged(struct scsi_bus *b, struct scsi_lun *l)
{
    push(adapter_of(b), VSCSI_F_HOTPLUG, (struct vscsi_event){EVENT_TRANSPORT_RESET, REASON_RESCAN}, l);
}

static void on_unplugged(struct scsi_bus *b, struct scsi_lun *l)
{
    push(adapter_of(b), VSCSI_F_HOTPLUG, (struct vscsi_event){EVENT_TRANSPORT_RESET, REASON_REMOVED}, l);
}

static void on_changed(struct scsi_bus *b, struct scsi_lun *l, struct scsi_sense what)
{
    push(adapter_of(b), VSCSI_F_CHANGE, (struct vscsi_event){EVENT_PARAM_CHANGE, (uint32_t)(what.asc | what.ascq << 8)},
         l);
}

const struct scsi_hba_ops vscsi_hba_ops = {
    .plugged = on_plugged, .unplugged = on_unplugged, .changed = on_changed, .boot_path = vscsi_boot_path};
