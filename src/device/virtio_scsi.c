/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_scsi.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <string.h>

/* struct virtio_scsi_req_cmd before its CDB; struct virtio_scsi_resp_cmd before its sense. */
enum { REQ_LUN = 0, REQ_TAG = 8, REQ_CDB = 19, RESP_SENSE = 12 };
enum { CDB_SIZE_MAX = 256, SENSE_SIZE_MAX = 65535 };

bool vscsi_address(const uint8_t lun[VSCSI_LUN_LEN], unsigned *target, unsigned *number)
{
    unsigned l = load_be16(lun + 2);
    *target = lun[1];
    *number = l & 0x3fff;
    return lun[0] == 1 && (l < 256 || l >> 14 == 1); /* peripheral or flat */
}

static uint32_t config_word(struct virtio_scsi *h, unsigned off)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&h->proxy.vdev.mutex);
    return load_le32(h->proxy.vdev.config + off);
}

/* --- the end of a request ----------------------------------------------------------------------------------------- */

static void answer(struct vscsi_req *r, enum vscsi_response response)
{
    const struct scsi_req *q = &r->req;
    uint8_t d[RESP_SENSE + SCSI_SENSE_LEN] = {0};
    size_t room = r->answer.size - RESP_SENSE, sense = 0;
    if (response == VSCSI_OK && q->status == SCSI_CHECK_CONDITION) {
        scsi_sense_bytes(q->sense, d + RESP_SENSE);
        sense = min_u64(SCSI_SENSE_LEN, room);
    }
    size_t buffers = q->in.size ? q->in.size : q->out.size, moved = response == VSCSI_OK ? q->moved : 0;
    store_le32(d, (uint32_t)sense);
    store_le32(d + 4, (uint32_t)(buffers - moved));
    d[10] = q->status;
    d[11] = (uint8_t)response;
    iovs_from_buf(&r->answer, 0, d, min_u64(sizeof(d), r->answer.size));
    iovs_finish(&r->answer);
    virtq_push(&r->h->proxy.vdev, r->el, (uint32_t)(RESP_SENSE + room + (q->in.size ? moved : 0)));
    g_free(r);
}

static void park(struct vscsi_req *r)
{
    struct virtio_scsi *h = r->h;
    r->next = NULL;
    *h->parked_end = r;
    h->parked_end = &r->next;
    virtq_park(&h->proxy.vdev, r->el);
}

static void leave(struct vscsi_req *r)
{
    *r->at = r->next;
    if (r->next) {
        r->next->at = r->at;
    }
    co_queue_wake_all(&r->h->enders);
}

static void enter(struct vscsi_req *r)
{
    struct virtio_scsi *h = r->h;
    r->next = h->running;
    r->at = &h->running;
    if (r->next) {
        r->next->at = &r->next;
    }
    h->running = r;
}

static void run(void *arg)
{
    struct vscsi_req *r = arg;
    struct virtio_scsi *h = r->h;
    unsigned target, lun;
    enum scsi_outcome o = SCSI_NO_TARGET;
    enter(r);
    if (vscsi_address(r->lun, &target, &lun)) {
        o = scsi_bus_run(&h->bus, target, lun, &r->req);
    }
    leave(r);
    if (r->ended_by) {
        answer(r, r->ended_by);
    } else if (o == SCSI_AGAIN) {
        park(r);
    } else {
        answer(r, o == SCSI_NO_TARGET ? VSCSI_BAD_TARGET : r->req.overrun ? VSCSI_OVERRUN : VSCSI_OK);
    }
}

/* --- taking requests from the driver ------------------------------------------------------------------------------ */

/* false: the chain cannot be a request. */
static bool parse(struct vscsi_req *r)
{
    struct virtio_elem *el = r->el;
    uint32_t cdb = config_word(r->h, VSCSI_C_CDB_SIZE), sense = config_word(r->h, VSCSI_C_SENSE_SIZE);
    uint8_t head[REQ_CDB + CDB_SIZE_MAX];
    r->req.out = (struct iovs){el->iov, (int)el->n_out, el->out_len};
    r->req.in = (struct iovs){el->iov + el->n_out, (int)el->n_in, el->in_len};
    if (el->out_len < REQ_CDB + cdb || el->in_len < RESP_SENSE + sense) {
        return false;
    }
    iovs_to_buf(&r->req.out, 0, head, REQ_CDB + cdb);
    iovs_skip(&r->req.out, REQ_CDB + cdb);
    memcpy(r->lun, head + REQ_LUN, sizeof(r->lun));
    r->tag = load_le64(head + REQ_TAG);
    memcpy(r->req.cdb, head + REQ_CDB, min_u64(cdb, SCSI_CDB_MAX));
    iovs_slice(&r->answer, &r->req.in, 0, RESP_SENSE + sense);
    iovs_skip(&r->req.in, RESP_SENSE + sense);
    r->req.start_ns = loop_now_ns();
    return true;
}

static void take_requests(struct virtio_scsi *h, unsigned q)
{
    struct virtio_dev *v = &h->proxy.vdev;
    struct virtio_elem *el;
    while ((el = virtq_pop(v, q))) {
        struct vscsi_req *r = g_new0(struct vscsi_req, 1);
        r->h = h;
        r->el = el;
        if (!parse(r)) {
            virtio_broken(v, "a request without header or room for the response");
            virtq_drop(v, el);
            g_free(r);
            break;
        }
        if (r->req.in.size && r->req.out.size) { /* in both directions: not offered */
            answer(r, VSCSI_FAILURE);
        } else {
            co_start(v->board->loop, run, r);
        }
    }
}

static void on_kick(struct virtio_dev *v, unsigned q)
{
    struct virtio_scsi *h = vscsi_of(v);
    vscsi_catch_up(h);
    if (q == VSCSI_CONTROL) {
        vscsi_control(h);
    } else if (q == VSCSI_EVENTS) {
        vscsi_tell_events(h);
    } else {
        take_requests(h, q);
    }
}

/* --- those that wait for the machine to go on --------------------------------------------------------------------- */

static struct vscsi_req *take_parked(struct virtio_scsi *h)
{
    struct vscsi_req *r = take(h->parked);
    h->parked_end = &h->parked;
    return r;
}

void vscsi_redo_parked(struct virtio_scsi *h)
{
    for (guint i = 0; h->parked && i < h->bus.luns->len; i++) {
        struct scsi_lun *l = g_ptr_array_index(h->bus.luns, i);
        l->ops->machine_goes_on(l);
    }
    for (struct vscsi_req *r = take_parked(h), *next; r; r = next) {
        next = r->next;
        virtq_unpark(&h->proxy.vdev, r->el);
        r->req.start_ns = loop_now_ns();
        co_start(h->proxy.vdev.board->loop, run, r);
    }
}

void vscsi_end_parked(struct virtio_scsi *h, bool (*pick)(const struct vscsi_req *r, const void *how), const void *how,
                      enum vscsi_response response)
{
    for (struct vscsi_req *r = take_parked(h), *next; r; r = next) {
        next = r->next;
        virtq_unpark(&h->proxy.vdev, r->el);
        if (pick(r, how)) {
            answer(r, response);
        } else {
            park(r);
        }
    }
}

/* Without an answer: the driver does not look any more. */
static void drop_parked(struct virtio_scsi *h, int queue)
{
    for (struct vscsi_req *r = take_parked(h), *next; r; r = next) {
        next = r->next;
        if (queue >= 0 && r->el->queue != (unsigned)queue) {
            r->next = NULL;
            *h->parked_end = r;
            h->parked_end = &r->next;
            continue;
        }
        virtq_unpark(&h->proxy.vdev, r->el);
        virtq_drop(&h->proxy.vdev, r->el);
        iovs_finish(&r->answer);
        g_free(r);
    }
}

/* --- resets ------------------------------------------------------------------------------------------------------- */

static void on_reset(struct virtio_dev *v)
{
    drop_parked(vscsi_of(v), -1);
}

static void on_queue_reset(struct virtio_dev *v, unsigned q)
{
    drop_parked(vscsi_of(v), (int)q);
}

static void on_cleared(struct virtio_dev *v)
{
    store_le32(v->config + VSCSI_C_SENSE_SIZE, 96);
    store_le32(v->config + VSCSI_C_CDB_SIZE, 32);
    vscsi_of(v)->was_reset = true;
}

void vscsi_catch_up(struct virtio_scsi *h)
{
    if (atomic_exchange(&h->was_reset, false)) {
        h->events = 0;
        h->missed = false;
        scsi_bus_reset(&h->bus);
    }
}

static void on_config_written(struct virtio_dev *v, unsigned off, unsigned size, const uint8_t *old)
{
    uint32_t sense = load_le32(v->config + VSCSI_C_SENSE_SIZE), cdb = load_le32(v->config + VSCSI_C_CDB_SIZE);
    memcpy(v->config, old, v->config_size);
    if (sense <= SENSE_SIZE_MAX && cdb <= CDB_SIZE_MAX) {
        store_le32(v->config + VSCSI_C_SENSE_SIZE, sense);
        store_le32(v->config + VSCSI_C_CDB_SIZE, cdb);
    }
}

static bool config_varies(unsigned off)
{
    return off >= VSCSI_C_SENSE_SIZE && off < VSCSI_C_CDB_SIZE + 4;
}

const struct virtio_type virtio_scsi_type = {
    .name = "virtio-scsi",
    .id = 8,
    .kick = on_kick,
    .reset = on_reset,
    .queue_reset = on_queue_reset,
    .cleared = on_cleared,
    .config_written = on_config_written,
    .config_varies = config_varies,
};
