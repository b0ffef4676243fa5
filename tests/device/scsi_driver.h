/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A model of a virtio-scsi driver on the MMIO slot of the device tests' world: queues 0 (control), 1 (events) and 2
 * (requests), each a split ring of 8; one request at a time.
 */
#pragma once

#include "world.h"

#define SD_RINGS           RAM             /* of queue q: 0x4000 * q further on */
#define SD_HEAD            (RAM + 0x20000) /* request and response */
#define SD_DATA            (RAM + 0x30000) /* 1 MiB: what a command sends or gets */
#define SD_EVENTS          (RAM + 0x28000) /* 16 bytes each */

#define SD_AT(target, lun) ((unsigned)(target) << 16 | (lun))

struct sd_answer {
    uint32_t sense_len, residual;
    uint8_t status, response;
    uint8_t key, asc, ascq; /* of the sense; 0: none */
};

/* reset … DRIVER_OK with `features` (VERSION_1 is added). */
void sd_start(struct world *w, uint64_t features);
/* A CDB of `n` bytes to the unit at SD_AT(), with `out` bytes of SD_DATA to send or room there for `in`; settles. */
struct sd_answer sd_send(struct world *w, unsigned at, const uint8_t *cdb, unsigned n, uint32_t out, uint32_t in);
/* The same without waiting; sd_take() waits for and gives the answer. */
void sd_post(struct world *w, unsigned at, const uint8_t *cdb, unsigned n, uint32_t out, uint32_t in);
bool sd_take(struct world *w, struct sd_answer *a);
/* A task management function; its response. The other does not wait for it. */
void sd_post_task(struct world *w, uint32_t function, unsigned target, unsigned lun, uint64_t tag);
uint8_t sd_task(struct world *w, uint32_t function, unsigned target, unsigned lun, uint64_t tag);
/* Makes `n` buffers for events available. */
void sd_offer_events(struct world *w, unsigned n);
/* The next event that was told: event, target, lun, reason; false: none. */
bool sd_event(struct world *w, uint32_t got[4]);
uint8_t *sd_data(struct world *w);
