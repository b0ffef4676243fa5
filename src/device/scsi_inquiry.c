/* SPDX-License-Identifier: BSD-2-Clause */
/* INQUIRY: what it is (SPC-5, 6.7 and 7.7; SBC-4, 6.6). */
#include "base/checked.h"
#include "base/endian.h"
#include "device/scsi_disk.h"

#include <string.h>

enum {
    PAGE_SUPPORTED = 0x00,
    PAGE_SERIAL = 0x80,
    PAGE_IDENTIFICATION = 0x83,
    PAGE_LIMITS = 0xb0,
    PAGE_CHARACTERISTICS = 0xb1,
    PAGE_PROVISIONING = 0xb2,
    PAGE_MAX = 255,
};

/* A page being made: `d` has room for its head and PAGE_MAX bytes; `len` counts what is behind the head. */
struct page {
    uint8_t d[4 + PAGE_MAX];
    size_t len;
};

static uint8_t *append(struct page *p, size_t n)
{
    uint8_t *at = p->d + 4 + p->len;
    p->len += n;
    return at;
}

static void supported(const struct scsi_disk *s, struct page *p)
{
    static const uint8_t of_disks[] = {PAGE_LIMITS, PAGE_CHARACTERISTICS, PAGE_PROVISIONING};
    *append(p, 1) = PAGE_SUPPORTED;
    if (s->serial) {
        *append(p, 1) = PAGE_SERIAL;
    }
    *append(p, 1) = PAGE_IDENTIFICATION;
    if (!s->cd) {
        memcpy(append(p, sizeof(of_disks)), of_disks, sizeof(of_disks));
    }
}

static void name(struct page *p, uint8_t code_set, uint8_t kind, const void *text, size_t len)
{
    uint8_t *at = append(p, 4 + len);
    at[0] = code_set;
    at[1] = kind;
    at[3] = (uint8_t)len;
    memcpy(at + 4, text, len);
}

static void identification(const struct scsi_disk *s, struct page *p)
{
    enum { BINARY = 1, ASCII = 2, NAA = 3, PORT_NAA = 0x93, PORT_NUMBER = 0x94 };
    uint8_t number[8];
    if (s->device_id) {
        name(p, ASCII, 0, s->device_id, strlen(s->device_id));
    }
    if (device_int(&s->dev, "wwn")) {
        store_be64(number, (uint64_t)device_int(&s->dev, "wwn"));
        name(p, BINARY, NAA, number, 8);
    }
    if (device_int(&s->dev, "port_wwn")) {
        store_be64(number, (uint64_t)device_int(&s->dev, "port_wwn"));
        name(p, 0x60 | BINARY, PORT_NAA, number, 8);
    }
    if (device_int(&s->dev, "port_index")) {
        store_be32(number, (uint32_t)device_int(&s->dev, "port_index"));
        name(p, 0x60 | BINARY, PORT_NUMBER, number, 4);
    }
}

/* Granularity and lengths in logical blocks. */
static void limits(const struct scsi_disk *s, struct page *p)
{
    uint8_t *d = append(p, 0x3c) - 4;
    uint32_t bs = s->block_size;
    uint64_t gran = (uint64_t)device_int(&s->dev, "discard_granularity");
    gran = gran == UINT32_MAX ? max_u64(bs, 4096) : gran;
    d[4] = 1; /* WRITE SAME of no blocks is not "all" */
    store_be16(d + 6, (uint16_t)((uint64_t)device_int(&s->dev, "min_io_size") / bs));
    store_be32(d + 8, (uint32_t)min_u64((uint64_t)device_int(&s->dev, "max_io_size") / bs, UINT32_MAX));
    store_be32(d + 12, (uint32_t)((uint64_t)device_int(&s->dev, "opt_io_size") / bs));
    store_be32(d + 20, (uint32_t)min_u64((uint64_t)device_int(&s->dev, "max_unmap_size") / bs, UINT32_MAX));
    store_be32(d + 24, 255); /* descriptors of an UNMAP */
    store_be32(d + 28, (uint32_t)(gran / bs));
}

static void characteristics(const struct scsi_disk *s, struct page *p)
{
    store_be16(append(p, 0x3c), (uint16_t)device_int(&s->dev, "rotation_rate"));
}

static void provisioning(const struct scsi_disk *s, struct page *p)
{
    bool thin = device_int(&s->dev, "discard_granularity") != 0;
    uint8_t *d = append(p, 4);
    d[1] = thin ? 0xe0 : 0; /* UNMAP and both WRITE SAME do it */
    d[2] = thin ? 2 : 1;
}

static int vital(const struct scsi_disk *s, struct scsi_req *r, size_t alloc)
{
    struct page p = {.d = {s->cd ? SCSI_TYPE_CD : SCSI_TYPE_DISK, r->cdb[2]}};
    uint8_t page = r->cdb[2];
    if (page == PAGE_SUPPORTED) {
        supported(s, &p);
    } else if (page == PAGE_SERIAL && s->serial) {
        memcpy(append(&p, strlen(s->serial)), s->serial, strlen(s->serial));
    } else if (page == PAGE_IDENTIFICATION) {
        identification(s, &p);
    } else if (page == PAGE_LIMITS && !s->cd) {
        limits(s, &p);
    } else if (page == PAGE_CHARACTERISTICS && !s->cd) {
        characteristics(s, &p);
    } else if (page == PAGE_PROVISIONING && !s->cd) {
        provisioning(s, &p);
    } else {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    store_be16(p.d + 2, (uint16_t)p.len);
    return scsi_reply(r, p.d, 4 + p.len, alloc);
}

int scsi_cmd_inquiry(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[36] = {0};
    size_t alloc = load_be16(r->cdb + 3);
    if (r->cdb[1] & 1) {
        return vital(s, r, alloc);
    }
    if (r->cdb[2] || r->cdb[1] & 2) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    d[0] = s->cd ? SCSI_TYPE_CD : SCSI_TYPE_DISK;
    d[1] = s->removable ? 0x80 : 0;
    d[2] = 5; /* SPC-3 */
    d[3] = 0x12;
    d[4] = sizeof(d) - 5;
    d[7] = 0x12; /* several commands at a time */
    scsi_text(d + 8, device_str(&s->dev, "vendor"), 8);
    scsi_text(d + 16, device_str(&s->dev, "product"), 16);
    scsi_text(d + 32, device_str(&s->dev, "ver"), 4);
    return scsi_reply(r, d, sizeof(d), alloc);
}
