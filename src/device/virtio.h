/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtio core (OASIS virtio 1.2): device status, features, split virtqueues with indirect descriptors and event
 * index, interrupt status. Transports (virtio_pci.c, virtio_mmio.c) turn register accesses into calls of the first
 * group; device types (virtio_blk.c) use the second.
 *
 *      0 → ACKNOWLEDGE → DRIVER → FEATURES_OK → DRIVER_OK        any → 0 (reset)
 *                                     └─ nonsense from the driver → NEEDS_RESET: queues stop until reset
 *
 * Threads: register accesses on a hart's thread, queues on the loop; both under `mutex`, which is never held while
 * waiting and under which no other lock is taken. A kick only sets a loop event.
 * Invariants: an element that was popped is pushed or dropped exactly once; a reset is complete (status reads 0)
 * only when none is out, so that no buffer of the driver is touched after it; while `paused` nothing is popped.
 */
#pragma once

#include "device/board.h"
#include "loop/co.h"

#include <pthread.h>
#include <sys/uio.h>

#define VIRTIO_QUEUES_MAX     64
#define VIRTIO_QUEUE_SIZE_MAX 1024
#define VIRTIO_SEGS_MAX       1024 /* descriptors in one chain */
#define VIRTIO_CONFIG_MAX     256

enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};
enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)
#define VIRTIO_F_RING_RESET    (1ull << 40)

struct virtio_dev;

/* A device type; const. */
struct virtio_type {
    const char *name;
    uint16_t id;
    /* Loop thread: something may be in queue q. Not while paused, broken or before DRIVER_OK. */
    void (*kick)(struct virtio_dev *v, unsigned q);
    /* Loop thread: the driver resets; drop (virtq_drop) what is parked. What is in flight ends by itself. May be NULL.
     */
    void (*reset)(struct virtio_dev *v);
    /* The same for one queue. NULL: VIRTIO_F_RING_RESET is not offered. */
    void (*queue_reset)(struct virtio_dev *v, unsigned q);
    /* Any thread, under the mutex: a reset is complete; `config` must be as at first. May be NULL. */
    void (*cleared)(struct virtio_dev *v);
    /* Hart's thread, under the mutex: the driver wrote [off, off + size) of `config`, which holds the new bytes; the
     * type puts back what is not writable from `old`. NULL: nothing is writable. */
    void (*config_written)(struct virtio_dev *v, unsigned off, unsigned size, const uint8_t *old);
    /* Loading: byte `off` of `config` need not be what it is here; the rest must. NULL: all must. */
    bool (*config_varies)(unsigned off);
    /* Loop thread: a state was put; what the host has of `config` may differ from it. May be NULL. */
    void (*loaded)(struct virtio_dev *v);
};

struct virtq {
    /* guest state */
    uint64_t desc, avail, used; /* guest physical */
    uint16_t num, max;
    bool ready;
    bool resetting; /* the driver resets it, and waits for what is out */
    uint16_t last_avail, used_idx;
    uint16_t signalled; /* used_idx when the driver was last told */
    bool signalled_valid;
    uint8_t parked[VIRTIO_QUEUE_SIZE_MAX / 8]; /* heads of elements that are parked: a bit each */
    uint8_t redo[VIRTIO_QUEUE_SIZE_MAX / 8];   /* heads of elements that were out when the state was saved */
    /* host state */
    unsigned out; /* elements popped and not yet given back */
    uint8_t *desc_host, *avail_host, *used_host;
};

struct virtio_dev {
    const struct virtio_type *type;
    struct board *board;
    const char *name; /* for messages; borrowed */
    struct irq_line irq;
    pthread_mutex_t mutex;
    /* guest state */
    uint64_t features; /* what is offered */
    uint64_t driver_features;
    uint32_t feature_sel, driver_feature_sel;
    uint16_t queue_sel;
    uint8_t status, isr, config_generation;
    uint8_t config[VIRTIO_CONFIG_MAX];
    unsigned config_size, n_queues;
    struct virtq *vq;
    /* host state */
    bool reset_pending, paused;
    unsigned mistakes;       /* of the driver, said in the log; only so many are */
    unsigned in_flight;      /* elements popped and not yet given back */
    unsigned n_redo;         /* bits in all `redo` */
    unsigned parked;         /* of these: wait for resume or reset, nothing happens to them */
    _Atomic uint64_t kicked; /* queues, a bit each */
    struct loop_event *kick_event;
    struct co_queue idle_waiters;
    struct iovec *scratch_iov; /* of virtq_pop */
    uint64_t *scratch_gpa;
};

/* --- life (loop thread) ---------------------------------------------------------------------------------------- */

/* The caller sets features, config and config_size afterwards. */
void virtio_init(struct virtio_dev *v, const struct virtio_type *t, struct board *b, unsigned queues,
                 unsigned queue_size);
void virtio_finish(struct virtio_dev *v);       /* nothing in flight; zero-filled is fine */
void virtio_system_reset(struct virtio_dev *v); /* paused: all that is out is parked */
void virtio_pause(struct virtio_dev *v);        /* [co] see struct device_class */
void virtio_resume(struct virtio_dev *v);
/* `config` changed by us (under the mutex): next generation and an interrupt. */
void virtio_config_changed(struct virtio_dev *v);

/* --- for device types: loop thread ------------------------------------------------------------------------------ */

/* One request of the driver: `n_out` buffers to read, then `n_in` to fill, pointing into guest RAM. */
struct virtio_elem {
    unsigned queue;
    uint16_t head;
    unsigned n_out, n_in;
    size_t out_len, in_len;
    struct iovec *iov; /* the type may change it */
    uint64_t *in_gpa;  /* where the `n_in` buffers are, for the dirty log */
    uint32_t *in_size;
};

/* NULL: nothing there (the driver will kick), or the device is paused, being reset, broken. */
struct virtio_elem *virtq_pop(struct virtio_dev *v, unsigned q);
/* Gives it back with `written` bytes at the beginning of its in-buffers; interrupts if the driver wants that. Frees it.
 */
void virtq_push(struct virtio_dev *v, struct virtio_elem *el, uint32_t written);
/* Frees it without telling the driver, who is resetting the device. */
void virtq_drop(struct virtio_dev *v, struct virtio_elem *el);
/* An element that is out stays so until resume: not counted as in flight by virtio_pause(). And back. */
void virtq_park(struct virtio_dev *v, const struct virtio_elem *el);
void virtq_unpark(struct virtio_dev *v, const struct virtio_elem *el);
/* The driver did something that has no meaning: NEEDS_RESET and a configuration interrupt. */
void virtio_broken(struct virtio_dev *v, const char *why);
bool virtio_has(struct virtio_dev *v, uint64_t feature); /* negotiated */
/* Host addresses of the rings; false when they are not all in RAM or not aligned. */
bool virtq_map(struct virtio_dev *v, struct virtq *q);

/* --- for transports: hart's thread, the mutex held ---------------------------------------------------------------- */

uint32_t virtio_get_features(const struct virtio_dev *v); /* by feature_sel */
void virtio_set_features(struct virtio_dev *v, uint32_t val);
uint8_t virtio_get_status(const struct virtio_dev *v);
void virtio_set_status(struct virtio_dev *v, uint8_t val);
struct virtq *virtio_selected(struct virtio_dev *v); /* NULL: no such queue */
void virtio_set_queue_num(struct virtio_dev *v, uint32_t num);
void virtio_set_queue_ready(struct virtio_dev *v, bool ready);
/* Of one queue, with VIRTIO_F_RING_RESET; reads 1 until it is complete. */
void virtio_set_queue_reset(struct virtio_dev *v, bool reset);
void virtio_notify(struct virtio_dev *v, unsigned q);
/* Clears `bits` of the interrupt status; what it was. */
uint8_t virtio_ack_isr(struct virtio_dev *v, uint8_t bits);
uint64_t virtio_config_read(struct virtio_dev *v, uint64_t off, unsigned size);
void virtio_config_write(struct virtio_dev *v, uint64_t off, uint64_t val, unsigned size);
