/* SPDX-License-Identifier: BSD-2-Clause */
/* MODE SENSE and MODE SELECT: what can be asked and what can be set (SPC-5, 7.5; SBC-4, 6.5; MMC-6, 7). */
#include "base/checked.h"
#include "base/endian.h"
#include "device/scsi_disk.h"

#include <string.h>

enum { PAGE_ERROR = 0x01, PAGE_CACHING = 0x08, PAGE_AUDIO = 0x0e, PAGE_CAPABILITIES = 0x2a, PAGE_ALL = 0x3f };
enum { CURRENT, CHANGEABLE, DEFAULT, SAVED }; /* values that are asked for */
enum { WCE = 4, PAGE_SIZE_MAX = 2 + 0x14 };

static size_t error_page(const struct scsi_disk *s, unsigned which, uint8_t *p)
{
    if (which != CHANGEABLE) {
        p[2] = 0x80; /* the disk looks after its sectors */
        p[3] = s->cd ? 0x20 : 0;
    }
    return 2 + 10;
}

static size_t caching_page(const struct scsi_disk *s, unsigned which, uint8_t *p)
{
    bool on = which == CURRENT ? s->disk.backend->write_cache : which == CHANGEABLE ? !s->cd : s->default_wce;
    p[2] = on ? WCE : 0;
    return 2 + 0x12;
}

static size_t audio_page(const struct scsi_disk *s, unsigned which, uint8_t *p)
{
    return 2 + 14;
}

static size_t capabilities_page(const struct scsi_disk *s, unsigned which, uint8_t *p)
{
    enum { SPEED = 50 * 176, VOLUMES = 2, BUFFER_KIB = 2048 };
    if (which != CHANGEABLE) {
        p[2] = 0x0b; /* reads CD-R, CD-RW, DVD-ROM; writes nothing */
        p[4] = 0x70; /* several sessions, both forms of mode 2 */
        p[6] = (uint8_t)(0x29 | (which == CURRENT && s->disk.backend->locked ? 2 : 0)); /* a tray, eject, lock */
        store_be16(p + 8, SPEED);
        store_be16(p + 10, VOLUMES);
        store_be16(p + 12, BUFFER_KIB);
        store_be16(p + 14, SPEED);
    }
    return 2 + 0x14;
}

/* In the order in which "all" gives them. */
static const struct mode_page {
    uint8_t code;
    bool disk;
    size_t (*get)(const struct scsi_disk *s, unsigned which, uint8_t *p); /* p is zeroed; its size */
} pages[] = {
    {PAGE_ERROR, true, error_page},
    {PAGE_CACHING, true, caching_page},
    {PAGE_AUDIO, false, audio_page},
    {PAGE_CAPABILITIES, false, capabilities_page},
};

static size_t make_page(const struct scsi_disk *s, const struct mode_page *m, unsigned which, uint8_t *p)
{
    memset(p, 0, PAGE_SIZE_MAX);
    size_t len = m->get(s, which, p);
    p[0] = m->code;
    p[1] = (uint8_t)(len - 2);
    return len;
}

static const struct mode_page *find_page(const struct scsi_disk *s, uint8_t code)
{
    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        if (pages[i].code == code && (s->cd || pages[i].disk)) {
            return &pages[i];
        }
    }
    return NULL;
}

/* The head of a parameter list, and of a disk the one block descriptor that there is. */
static size_t make_head(const struct scsi_disk *s, const struct scsi_req *r, uint8_t *d)
{
    bool big = r->cdb[0] == SCSI_MODE_SENSE_10;
    size_t head = big ? 8 : 4;
    if (!s->cd) {
        d[big ? 3 : 2] = (uint8_t)((s->dpofua ? 0x10 : 0) | (scsi_disk_may_write(s) ? 0 : 0x80));
    }
    if (s->cd || (r->cdb[1] & 8) || !s->blocks) {
        return head;
    }
    d[big ? 7 : 3] = 8;
    store_be32(d + head, (uint32_t)(s->blocks > 0xffffff ? 0xffffff : s->blocks));
    store_be32(d + head + 4, s->block_size);
    return head + 8;
}

int scsi_cmd_mode_sense(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[8 + 8 + G_N_ELEMENTS(pages) * PAGE_SIZE_MAX] = {0};
    bool big = r->cdb[0] == SCSI_MODE_SENSE_10;
    uint8_t code = r->cdb[2] & 0x3f;
    unsigned which = r->cdb[2] >> 6;
    if (which == SAVED) {
        return scsi_fail(r, SENSE_SAVING_NOT_SUPPORTED);
    }
    if ((code != PAGE_ALL && !find_page(s, code)) || (r->cdb[3] && !(code == PAGE_ALL && r->cdb[3] == 0xff))) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    size_t len = make_head(s, r, d);
    for (size_t i = 0; i < G_N_ELEMENTS(pages); i++) {
        if ((s->cd || pages[i].disk) && (code == PAGE_ALL || code == pages[i].code)) {
            len += make_page(s, &pages[i], which, d + len);
        }
    }
    if (big) {
        store_be16(d, (uint16_t)(len - 2));
    } else {
        d[0] = (uint8_t)(len - 1);
    }
    return scsi_reply(r, d, len, big ? load_be16(r->cdb + 7) : r->cdb[4]);
}

/* --- select ------------------------------------------------------------------------------------------------------- */

/* One page that the guest sends: only what is changeable may differ from what is. */
static bool page_is_good(const struct scsi_disk *s, const uint8_t *p, size_t left)
{
    uint8_t now[PAGE_SIZE_MAX], mask[PAGE_SIZE_MAX];
    const struct mode_page *m = left >= 2 ? find_page(s, p[0] & 0x3f) : NULL;
    if (!m || p[0] & 0x40) {
        return false;
    }
    size_t len = make_page(s, m, CURRENT, now);
    make_page(s, m, CHANGEABLE, mask);
    if (p[1] != len - 2 || left < len) {
        return false;
    }
    for (size_t i = 2; i < len; i++) {
        if ((p[i] ^ now[i]) & ~mask[i]) {
            return false;
        }
    }
    return true;
}

static int set_write_cache(struct scsi_disk *s, struct scsi_req *r, bool on)
{
    struct backend *b = s->disk.backend;
    if (b->write_cache == on) {
        return 0;
    }
    b->write_cache = on;
    /* What the cache still holds is to be as durable as what follows. */
    int rc = !on && b->root ? edge_flush(b->root) : 0;
    if (rc == 0 && scsi_disk_settle(s) == 0) {
        return 0;
    }
    b->write_cache = !on;
    return rc < 0 ? rc : scsi_fail(r, SENSE_TARGET_FAILURE);
}

/* All is looked at before anything is changed. */
static int select_pages(struct scsi_disk *s, struct scsi_req *r, const uint8_t *p, size_t len)
{
    int wce = -1;
    for (size_t at = 0; at < len; at += 2 + (size_t)p[at + 1]) {
        if (!page_is_good(s, p + at, len - at)) {
            return scsi_fail(r, SENSE_INVALID_PARAM);
        }
        if ((p[at] & 0x3f) == PAGE_CACHING && !s->cd) {
            wce = (p[at + 2] & WCE) != 0;
        }
    }
    return wce < 0 ? 0 : set_write_cache(s, r, wce);
}

int scsi_cmd_mode_select(struct scsi_disk *s, struct scsi_req *r)
{
    enum { LIST_MAX = 512 };
    uint8_t d[LIST_MAX];
    bool big = r->cdb[0] == SCSI_MODE_SELECT_10;
    size_t len = big ? load_be16(r->cdb + 7) : r->cdb[4], head = big ? 8 : 4;
    if ((r->cdb[1] & 0x11) != 0x10) { /* pages as the standards have them; not to be saved */
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!len) {
        return 0;
    }
    if (len < head || len > sizeof(d)) {
        return scsi_fail(r, SENSE_LIST_LENGTH);
    }
    if (!scsi_fetch(r, d, len)) {
        return 0;
    }
    size_t descriptors = big ? load_be16(d + 6) : d[3];
    if (descriptors > len - head) {
        return scsi_fail(r, SENSE_LIST_LENGTH);
    }
    /* Blocks have the size that they have. */
    if (descriptors && (descriptors != 8 || (load_be32(d + head + 4) & 0xffffff) != s->block_size)) {
        return scsi_fail(r, SENSE_INVALID_PARAM);
    }
    return select_pages(s, r, d + head + descriptors, len - head - descriptors);
}
