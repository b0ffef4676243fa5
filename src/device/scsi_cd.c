/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands of a CD-ROM drive (MMC-6). Every medium is one finished session with one track of data. */
#include "base/checked.h"
#include "base/endian.h"
#include "device/scsi_disk.h"

#include <string.h>

enum { LEAD_OUT = 0xaa, DATA_TRACK = 0x14, FRAMES = 75, PREGAP = 150 };
enum { PROFILE_CD_ROM = 0x08, PROFILE_DVD_ROM = 0x10, CD_BLOCKS_MAX = 80 * 60 * FRAMES };

/* --- table of contents -------------------------------------------------------------------------------------------- */

/* An address as the command wants it, in four bytes. */
static void put_address(uint8_t *d, uint64_t lba, bool msf)
{
    uint64_t frame = lba + PREGAP;
    if (!msf) {
        store_be32(d, (uint32_t)min_u64(lba, UINT32_MAX));
        return;
    }
    uint64_t minutes = frame / FRAMES / 60;
    d[0] = 0;
    d[1] = (uint8_t)(minutes > 255 ? 255 : minutes);
    d[2] = (uint8_t)(frame / FRAMES % 60);
    d[3] = (uint8_t)(frame % FRAMES);
}

static size_t put_tracks(const struct scsi_disk *s, uint8_t *d, uint8_t first, bool msf)
{
    size_t len = 4;
    d[2] = d[3] = 1;
    if (first <= 1) {
        d[len + 1] = DATA_TRACK;
        d[len + 2] = 1;
        put_address(d + len + 4, 0, msf);
        len += 8;
    }
    d[len + 1] = DATA_TRACK | 2;
    d[len + 2] = LEAD_OUT;
    put_address(d + len + 4, s->blocks, msf);
    return len + 8;
}

static size_t put_session(uint8_t *d, bool msf)
{
    d[2] = d[3] = 1;
    d[5] = DATA_TRACK;
    d[6] = 1;
    put_address(d + 8, 0, msf);
    return 12;
}

/* As they are in the lead-in: first track, last track, lead-out, track 1. */
static size_t put_raw(const struct scsi_disk *s, uint8_t *d)
{
    static const uint8_t points[] = {0xa0, 0xa1, 0xa2, 1};
    uint8_t *at = d + 4, address[4];
    d[2] = d[3] = 1;
    for (size_t i = 0; i < sizeof(points); i++, at += 11) {
        at[0] = 1;
        at[1] = DATA_TRACK;
        at[3] = points[i];
        if (i < 2) {
            at[8] = 1;
        } else {
            put_address(address, i == 2 ? s->blocks : 0, true);
            memcpy(at + 8, address + 1, 3);
        }
    }
    return (size_t)(at - d);
}

int scsi_cmd_read_toc(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[64] = {0};
    size_t len;
    bool msf = r->cdb[1] & 2;
    uint8_t format = r->cdb[2] & 0xf, first = r->cdb[6];
    format = format ? format : r->cdb[9] >> 6; /* where it used to be */
    if (format > 2 || (format == 0 && first > 1 && first != LEAD_OUT)) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    len = format == 0 ? put_tracks(s, d, first, msf) : format == 1 ? put_session(d, msf) : put_raw(s, d);
    store_be16(d, (uint16_t)(len - 2));
    return scsi_reply(r, d, len, load_be16(r->cdb + 7));
}

/* --- what it is, and what is in it -------------------------------------------------------------------------------- */

static uint16_t profile(const struct scsi_disk *s)
{
    return !scsi_disk_ready(s) ? 0 : s->blocks > CD_BLOCKS_MAX ? PROFILE_DVD_ROM : PROFILE_CD_ROM;
}

/* A feature, if the command asks for it; its data, zeroed (to be thrown away if it does not). */
static uint8_t *feature(uint8_t *d, size_t *len, const struct scsi_req *r, uint16_t code, uint8_t flags, uint8_t size)
{
    enum { ALL, CURRENT_ONES, ONE };
    unsigned wanted = load_be16(r->cdb + 2), how = r->cdb[1] & 3;
    uint8_t *at = d + *len;
    bool given = how == ONE ? code == wanted : code >= wanted && (how == ALL || flags & 1);
    memset(at, 0, 4 + (size_t)size);
    store_be16(at, code);
    at[2] = flags;
    at[3] = size;
    *len += given ? 4 + (size_t)size : 0;
    return at + 4;
}

int scsi_cmd_get_configuration(struct scsi_disk *s, struct scsi_req *r)
{
    enum { PERSISTENT = 2, CURRENT = 1, PROFILES = 0, CORE = 1, REMOVABLE = 3, RANDOM_READ = 0x10 };
    uint8_t d[128] = {0}, *f;
    size_t len = 8;
    uint16_t now = profile(s);
    if ((r->cdb[1] & 3) == 3) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    f = feature(d, &len, r, PROFILES, PERSISTENT | CURRENT, 8);
    store_be16(f, PROFILE_DVD_ROM);
    f[2] = now == PROFILE_DVD_ROM;
    store_be16(f + 4, PROFILE_CD_ROM);
    f[6] = now == PROFILE_CD_ROM;
    f = feature(d, &len, r, CORE, 2 << 2 | PERSISTENT | CURRENT, 8);
    f[3] = 1; /* SCSI */
    f[4] = 1; /* tells of events at the device too */
    f = feature(d, &len, r, REMOVABLE, PERSISTENT | CURRENT, 4);
    f[0] = 0x29; /* a tray that ejects and can be locked */
    f = feature(d, &len, r, RANDOM_READ, now ? CURRENT : 0, 8);
    store_be32(f, SCSI_CD_BLOCK);
    store_be16(f + 4, 16); /* blocks that are best read together */
    store_be32(d, (uint32_t)(len - 4));
    store_be16(d + 6, now);
    return scsi_reply(r, d, len, load_be16(r->cdb + 7));
}

int scsi_cmd_read_disc_information(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[34] = {0};
    if (r->cdb[1] & 7) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    store_be16(d, sizeof(d) - 2);
    d[2] = 0x0e; /* finished, and so is the last session */
    d[3] = d[4] = d[5] = d[6] = 1;
    d[7] = 0x20; /* anybody may use it */
    memset(d + 16, 0xff, 8);
    return scsi_reply(r, d, sizeof(d), load_be16(r->cdb + 7));
}

/* --- the drive ---------------------------------------------------------------------------------------------------- */

static uint8_t media_event(struct scsi_disk *s, bool present)
{
    enum { NOTHING, EJECT_WANTED, NEW_MEDIUM, MEDIUM_GONE };
    if (s->media_event) {
        s->media_event = false;
        return present ? NEW_MEDIUM : MEDIUM_GONE;
    }
    if (s->eject_request) {
        s->eject_request = false;
        return EJECT_WANTED;
    }
    return NOTHING;
}

int scsi_cmd_get_event_status(struct scsi_disk *s, struct scsi_req *r)
{
    enum { MEDIA = 4, NONE = 0x80, TRAY_OPEN = 1, PRESENT = 2 };
    uint8_t d[8] = {0, 2, NONE, 1 << MEDIA};
    size_t len = 4;
    if (!(r->cdb[1] & 1)) { /* only asking is possible, not being told */
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (r->cdb[4] & 1 << MEDIA) {
        bool open = s->disk.backend->tray_open, present = scsi_disk_ready(s);
        d[1] = 6;
        d[2] = MEDIA;
        d[4] = media_event(s, present);
        d[5] = (uint8_t)((open ? TRAY_OPEN : 0) | (present ? PRESENT : 0));
        len = 8;
    }
    return scsi_reply(r, d, len, load_be16(r->cdb + 7));
}

int scsi_cmd_mechanism_status(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[8] = {0};
    d[1] = s->disk.backend->tray_open ? 0x10 : 0;
    d[5] = 1; /* slots */
    return scsi_reply(r, d, sizeof(d), load_be16(r->cdb + 8));
}
