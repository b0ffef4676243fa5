/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_state.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <inttypes.h>

static const struct state_field queue_fields[] = {
    STATE_U64(struct virtq_state, desc, .help = "guest physical address of the descriptors"),
    STATE_U64(struct virtq_state, avail, .help = "of the driver's ring"),
    STATE_U64(struct virtq_state, used, .help = "of the device's ring"),
    STATE_U16(struct virtq_state, num, .max = VIRTIO_QUEUE_SIZE_MAX),
    STATE_BOOL(struct virtq_state, ready),
    STATE_U16(struct virtq_state, last_avail, .help = "index of the next entry to take"),
    STATE_U16(struct virtq_state, used_idx, .help = "index of the next entry to give back"),
    STATE_U16(struct virtq_state, signalled, .help = "used_idx when the driver was last told"),
    STATE_BOOL(struct virtq_state, signalled_valid),
    {0},
};
static const struct state_field parked_queue_fields[] = {
    STATE_BYTES(struct virtq_parked, heads, .help = "a bit per chain that was taken and not given back"),
    {0},
};

const struct state_field virtio_state_fields[] = {
    STATE_U64(struct virtio_state, features, .help = "offered"),
    STATE_U64(struct virtio_state, driver_features, .help = "accepted"),
    STATE_U32(struct virtio_state, feature_sel),
    STATE_U32(struct virtio_state, driver_feature_sel),
    STATE_U16(struct virtio_state, queue_sel),
    STATE_U8(struct virtio_state, status, .max = 0xcf),
    STATE_U8(struct virtio_state, isr, .max = 3),
    STATE_U8(struct virtio_state, config_generation),
    STATE_BOOL(struct virtio_state, reset_pending, .help = "a reset waits for requests under way"),
    STATE_U32(struct virtio_state, config_size, .max = VIRTIO_CONFIG_MAX),
    STATE_BYTES(struct virtio_state, config, .used = STATE_AT(struct virtio_state, config_size)),
    STATE_U16(struct virtio_state, queue_size, .max = VIRTIO_QUEUE_SIZE_MAX, .help = "the largest"),
    STATE_U32(struct virtio_state, queues, .max = VIRTIO_QUEUES_MAX),
    STATE_STRUCTS(struct virtio_state, queue, queue_fields, .used = STATE_AT(struct virtio_state, queues)),
    {0},
};
const struct state_field virtio_parked_fields[] = {
    STATE_U32(struct virtio_state, parked_queues, .max = VIRTIO_QUEUES_MAX),
    STATE_STRUCTS(struct virtio_state, parked, parked_queue_fields,
                  .used = STATE_AT(struct virtio_state, parked_queues)),
    {0},
};

const struct state_field virtio_resetting_fields[] = {
    STATE_U64(struct virtio_state, resetting, .help = "a bit per queue whose reset waits for requests under way"),
    {0},
};

bool virtio_parked_needed(const struct virtio_state *s)
{
    return s->parked_queues != 0;
}

bool virtio_resetting_needed(const struct virtio_state *s)
{
    return s->resetting != 0;
}

static bool mmio_resetting_needed(const void *st)
{
    return virtio_resetting_needed(st);
}

static bool mmio_parked_needed(const void *st)
{
    return virtio_parked_needed(st);
}

const struct state_subsection virtio_mmio_subsections[] = {
    {"parked", mmio_parked_needed, virtio_parked_fields, VIRTIO_PARKED_LOSS},
    {"queue-reset", mmio_resetting_needed, virtio_resetting_fields, VIRTIO_RESETTING_LOSS},
    {NULL},
};
const char *const virtio_mmio_derived[] = {VIRTIO_DERIVED, NULL};

/* --- get ---------------------------------------------------------------------------------------------------------- */

static bool get_heads(const struct virtq *q, struct virtq_parked *out)
{
    bool any = false;
    for (unsigned i = 0; i < sizeof(out->heads); i++) {
        out->heads[i] = q->parked[i] | q->redo[i];
        any = any || out->heads[i];
    }
    return any;
}

void virtio_state_get(struct virtio_dev *v, struct virtio_state *s)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    s->features = v->features;
    s->driver_features = v->driver_features;
    s->feature_sel = v->feature_sel;
    s->driver_feature_sel = v->driver_feature_sel;
    s->queue_sel = v->queue_sel;
    s->status = v->status;
    s->isr = v->isr;
    s->config_generation = v->config_generation;
    s->reset_pending = v->reset_pending;
    s->config_size = v->config_size;
    memcpy(s->config, v->config, v->config_size);
    s->queue_size = v->vq[0].max;
    s->queues = v->n_queues;
    bool parked = false;
    for (unsigned i = 0; i < v->n_queues; i++) {
        const struct virtq *q = &v->vq[i];
        s->queue[i] = (struct virtq_state){
            q->desc, q->avail, q->used, q->num, q->ready, q->last_avail, q->used_idx, q->signalled, q->signalled_valid};
        s->resetting |= (uint64_t)q->resetting << i;
        parked = get_heads(q, &s->parked[i]) || parked;
    }
    s->parked_queues = parked ? v->n_queues : 0;
}

/* --- check -------------------------------------------------------------------------------------------------------- */

/* It is the same device, with the same properties. */
static int check_identity(struct virtio_dev *v, const struct virtio_state *s, struct err *e)
{
    if (s->features != v->features) {
        return err_set(e, EINVAL,
                       "it offers the features 0x%" PRIx64 " there and 0x%" PRIx64 " here; give it the same properties",
                       s->features, v->features);
    }
    if (s->queues != v->n_queues || s->queue_size != v->vq[0].max) {
        return err_set(e, EINVAL, "it has %u queues of %u there and %u of %u here; see num-queues and queue-size",
                       s->queues, s->queue_size, v->n_queues, v->vq[0].max);
    }
    if (s->config_size != v->config_size) {
        return err_set(e, EINVAL, "its configuration has %u bytes there and %u here", s->config_size, v->config_size);
    }
    for (unsigned i = 0; i < s->config_size; i++) {
        if (s->config[i] != v->config[i] && !(v->type->config_varies && v->type->config_varies(i))) {
            return err_set(e, EINVAL,
                           "byte %u of its configuration is 0x%02x there and 0x%02x here; give it the same properties",
                           i, s->config[i], v->config[i]);
        }
    }
    return 0;
}

static int check_registers(const struct virtio_state *s, struct err *e)
{
    if (s->status & ~0xcf) {
        return err_set(e, EINVAL, "status cannot be 0x%02x", s->status);
    }
    if (s->isr & ~(VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG)) {
        return err_set(e, EINVAL, "interrupt status cannot be 0x%02x", s->isr);
    }
    if ((s->status & VIRTIO_STATUS_FEATURES_OK) &&
        ((s->driver_features & ~s->features) || !(s->driver_features & VIRTIO_F_VERSION_1))) {
        return err_set(e, EINVAL, "its driver cannot have accepted the features 0x%" PRIx64, s->driver_features);
    }
    return 0;
}

static int check_queue(struct virtio_dev *v, const struct virtio_state *s, unsigned i, struct err *e)
{
    const struct virtq_state *q = &s->queue[i];
    struct virtq t = {.desc = q->desc, .avail = q->avail, .used = q->used, .num = q->num};
    if (!is_pow2(q->num) || q->num > v->vq[i].max) {
        return err_set(e, EINVAL, "queue %u cannot have %u entries", i, q->num);
    }
    if (q->ready && !virtq_map(v, &t)) {
        return err_set(e, EINVAL, "queue %u lies outside RAM", i);
    }
    for (unsigned n = 0; n < VIRTIO_QUEUE_SIZE_MAX && s->parked_queues; n++) {
        if ((s->parked[i].heads[n / 8] >> n % 8 & 1) && (!q->ready || n >= q->num)) {
            return err_set(e, EINVAL, "queue %u cannot have a request at descriptor %u", i, n);
        }
    }
    return 0;
}

int virtio_state_check(struct virtio_dev *v, const struct virtio_state *s, struct err *e)
{
    int rc = check_identity(v, s, e);
    rc = rc < 0 ? rc : check_registers(s, e);
    if (rc == 0 && s->parked_queues && s->parked_queues != s->queues) {
        rc = err_set(e, EINVAL, "requests of %u queues, of which there are %u", s->parked_queues, s->queues);
    }
    if (rc == 0 && s->resetting && !(s->driver_features & VIRTIO_F_RING_RESET)) {
        rc = err_set(e, EINVAL, "its driver has not accepted that queues can be reset, and resets 0x%" PRIx64,
                     s->resetting);
    }
    for (unsigned i = 0; rc == 0 && i < s->queues; i++) {
        rc = check_queue(v, s, i, e);
    }
    return rc;
}

/* --- put ---------------------------------------------------------------------------------------------------------- */

static void put_queue(struct virtio_dev *v, const struct virtio_state *s, unsigned i)
{
    const struct virtq_state *from = &s->queue[i];
    struct virtq *q = &v->vq[i];
    if (s->resetting >> i & 1) {
        return; /* nothing is out here, so it is complete */
    }
    *q = (struct virtq){
        .desc = from->desc,
        .avail = from->avail,
        .used = from->used,
        .num = from->num,
        .max = q->max,
        .last_avail = from->last_avail,
        .used_idx = from->used_idx,
        .signalled = from->signalled,
        .signalled_valid = from->signalled_valid,
    };
    q->ready = from->ready && virtq_map(v, q);
    for (unsigned n = 0; n < sizeof(q->redo) && q->ready && s->parked_queues; n++) {
        q->redo[n] = s->parked[i].heads[n];
        v->n_redo += (unsigned)__builtin_popcount(q->redo[n]);
    }
}

static void put_registers(struct virtio_dev *v, const struct virtio_state *s)
{
    v->driver_features = s->driver_features;
    v->feature_sel = s->feature_sel;
    v->driver_feature_sel = s->driver_feature_sel;
    v->queue_sel = s->queue_sel;
    v->status = s->status;
    v->config_generation = s->config_generation;
    v->reset_pending = false;
    memcpy(v->config, s->config, v->config_size);
    v->n_redo = 0;
    for (unsigned i = 0; i < v->n_queues; i++) {
        put_queue(v, s, i);
    }
    v->isr = s->isr;
    irq_set(&v->irq, v->isr != 0);
}

void virtio_state_put(struct virtio_dev *v, const struct virtio_state *s)
{
    virtio_system_reset(v); /* drops what is parked */
    if (!s->reset_pending) {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
        put_registers(v, s);
    }
    if (v->type->loaded) {
        v->type->loaded(v);
    }
}
