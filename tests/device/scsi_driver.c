/* SPDX-License-Identifier: BSD-2-Clause */
#include "scsi_driver.h"

#include "base/endian.h"

#include <string.h>

enum { NEXT = 1, WRITE = 2, RESP_LEN = 12 + 96, REQ_LEN = 19 + 32 };

static uint8_t *ram(struct world *w, uint64_t gpa)
{
    return guest_ram_ptr(w->board.mem, gpa, 16);
}

uint8_t *sd_data(struct world *w)
{
    return ram(w, SD_DATA);
}

static uint64_t ring(unsigned q)
{
    return SD_RINGS + 0x4000ull * q;
}

void sd_start(struct world *w, uint64_t features)
{
    features |= VIRTIO_F_VERSION_1;
    wr(w, SLOT + 0x70, 0, 4);
    for (unsigned i = 0; i < 100000 && drv_status(w); i++) {
        loop_turn(w->loop, false);
    }
    memset(ram(w, RAM), 0, 0x30000);
    wr(w, SLOT + 0x70, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER, 4);
    for (unsigned i = 0; i < 2; i++) {
        wr(w, SLOT + 0x24, i, 4);
        wr(w, SLOT + 0x20, (uint32_t)(features >> (32 * i)), 4);
    }
    wr(w, SLOT + 0x70, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK, 4);
    for (unsigned q = 0; q < 3; q++) {
        wr(w, SLOT + 0x30, q, 4);
        wr(w, SLOT + 0x38, VQ_NUM, 4);
        wr(w, SLOT + 0x80, (uint32_t)ring(q), 4);
        wr(w, SLOT + 0x90, (uint32_t)ring(q) + 0x1000, 4);
        wr(w, SLOT + 0xa0, (uint32_t)ring(q) + 0x2000, 4);
        wr(w, SLOT + 0x44, 1, 4);
    }
    wr(w, SLOT + 0x70, 0xf, 4);
}

static void desc(struct world *w, unsigned q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags)
{
    uint8_t *d = ram(w, ring(q) + 16 * i);
    store_le64(d, addr);
    store_le32(d + 8, len);
    store_le16(d + 12, flags);
    store_le16(d + 14, (uint16_t)(i + 1));
}

static void offer(struct world *w, unsigned q, uint16_t head)
{
    uint8_t *a = ram(w, ring(q) + 0x1000);
    uint16_t idx = load_le16(a + 2);
    store_le16(a + 4 + 2 * (idx % VQ_NUM), head);
    store_le16(a + 2, (uint16_t)(idx + 1));
    wr(w, SLOT + 0x50, q, 4);
}

static bool all_used(struct world *w, unsigned q)
{
    return load_le16(ram(w, ring(q) + 0x1000) + 2) == load_le16(ram(w, ring(q) + 0x2000) + 2);
}

static void address(uint8_t *d, unsigned target, unsigned lun)
{
    memset(d, 0, 8);
    d[0] = 1;
    d[1] = (uint8_t)target;
    store_be16(d + 2, (uint16_t)(lun < 256 ? lun : lun | 0x4000));
}

void sd_post(struct world *w, unsigned at, const uint8_t *cdb, unsigned n, uint32_t out, uint32_t in)
{
    uint8_t *d = ram(w, SD_HEAD);
    memset(d, 0, REQ_LEN);
    address(d, at >> 16, at & 0xffff);
    store_le64(d + 8, 77);
    memcpy(d + 19, cdb, n);
    memset(d + 0x1000, 0xee, RESP_LEN);
    unsigned i = 0;
    desc(w, 2, i++, SD_HEAD, REQ_LEN, NEXT);
    if (out) {
        desc(w, 2, i++, SD_DATA, out, NEXT);
    }
    desc(w, 2, i++, SD_HEAD + 0x1000, RESP_LEN, WRITE | (in ? NEXT : 0));
    if (in) {
        desc(w, 2, i++, SD_DATA, in, WRITE);
    }
    offer(w, 2, 0);
}

bool sd_take(struct world *w, struct sd_answer *a)
{
    const uint8_t *d = ram(w, SD_HEAD + 0x1000);
    world_settle(w);
    if (!all_used(w, 2)) {
        return false;
    }
    *a = (struct sd_answer){load_le32(d), load_le32(d + 4), d[10], d[11]};
    if (a->sense_len) {
        a->key = d[12 + 2] & 0xf;
        a->asc = d[12 + 12];
        a->ascq = d[12 + 13];
    }
    return true;
}

struct sd_answer sd_send(struct world *w, unsigned at, const uint8_t *cdb, unsigned n, uint32_t out, uint32_t in)
{
    struct sd_answer a = {.response = 0xff};
    sd_post(w, at, cdb, n, out, in);
    sd_take(w, &a);
    return a;
}

void sd_post_task(struct world *w, uint32_t function, unsigned target, unsigned lun, uint64_t tag)
{
    uint8_t *d = ram(w, SD_HEAD + 0x2000);
    memset(d, 0, 32);
    store_le32(d + 4, function);
    address(d + 8, target, lun);
    store_le64(d + 16, tag);
    d[24] = 0xee;
    desc(w, 0, 0, SD_HEAD + 0x2000, 24, NEXT);
    desc(w, 0, 1, SD_HEAD + 0x2000 + 24, 1, WRITE);
    offer(w, 0, 0);
}

uint8_t sd_task(struct world *w, uint32_t function, unsigned target, unsigned lun, uint64_t tag)
{
    sd_post_task(w, function, target, lun, tag);
    world_settle(w);
    return *ram(w, SD_HEAD + 0x2000 + 24);
}

void sd_offer_events(struct world *w, unsigned n)
{
    unsigned idx = load_le16(ram(w, ring(1) + 0x1000) + 2);
    for (unsigned i = 0; i < n; i++) {
        unsigned at = (idx + i) % VQ_NUM;
        desc(w, 1, at, SD_EVENTS + 16 * at, 16, WRITE);
        offer(w, 1, (uint16_t)at);
    }
    world_settle(w);
}

/* What was taken is kept in a place that the device does not use. */
bool sd_event(struct world *w, uint32_t got[4])
{
    uint8_t *seen = ram(w, ring(1) + 0x3000);
    uint16_t n = load_le16(seen);
    world_settle(w);
    const uint8_t *used = ram(w, ring(1) + 0x2000);
    if (load_le16(used + 2) == n) {
        return false;
    }
    const uint8_t *d = ram(w, SD_EVENTS + 16 * load_le32(used + 4 + 8 * (n % VQ_NUM)));
    store_le16(seen, (uint16_t)(n + 1));
    got[0] = load_le32(d);
    got[1] = d[5];
    got[2] = load_be16(d + 6) & 0x3fff;
    got[3] = load_le32(d + 12);
    return true;
}
