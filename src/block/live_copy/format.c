/* SPDX-License-Identifier: BSD-2-Clause */
/* Head and state of the file, read, checked and written. */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"

#include <stdlib.h>

enum { VERSION = 1, TEXTS_AT = 64 };
#define STATE_MAGIC "LCST"

/* --- head --------------------------------------------------------------------------------------------------------- */

uint64_t lc_regions(const struct lc_head *h)
{
    return max_u64(1, div_round_up(h->size, UINT64_C(1) << h->bits));
}

uint64_t lc_file_size(const struct lc_head *h)
{
    return LC_BITMAP_AT + round_up(div_round_up(lc_regions(h), LC_BLOCK_REGIONS) * LC_BLOCK, LC_PAGE);
}

static int check_text(const char *what, const char *text, size_t max, struct err *e)
{
    size_t len = strlen(text);
    if (len > max) {
        return err_set(e, EINVAL, "The %s is too long: at most %zu bytes", what, max);
    }
    return len ? 0 : err_set(e, EINVAL, "The %s is missing", what);
}

int lc_head_check(const struct lc_head *h, struct err *e)
{
    if (h->bits < LC_MIN_BITS || h->bits > LC_MAX_BITS) {
        return err_set(e, EINVAL, "Region size must be a power of two between 4k and 64M");
    }
    if (h->size > INT64_MAX / 2 || lc_regions(h) > LC_MAX_REGIONS) {
        return err_set(e, EFBIG, "A disk of %" PRIu64 " bytes has too many regions of %u bytes: use larger ones",
                       h->size, 1u << h->bits);
    }
    for (int i = SRC; i <= DST; i++) {
        CLEANUP_FREE char *name = g_strdup_printf("name of the %s", lc_side_names[i]);
        CLEANUP_FREE char *fmt = g_strdup_printf("format of the %s", lc_side_names[i]);
        int rc = check_text(name, h->name[i], LC_NAME_MAX, e);
        rc = rc ? rc : check_text(fmt, h->fmt[i], LC_FMT_MAX, e);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

void lc_head_finish(struct lc_head *h)
{
    for (int i = SRC; i <= DST; i++) {
        g_clear_pointer(&h->name[i], g_free);
        g_clear_pointer(&h->fmt[i], g_free);
    }
}

static uint32_t head_crc(uint8_t *buf)
{
    uint32_t kept = load_be32(buf + 12);
    store_be32(buf + 12, 0);
    uint32_t crc = crc32c(0, buf, LC_HEAD_SIZE);
    store_be32(buf + 12, kept);
    return crc;
}

void lc_head_encode(const struct lc_head *h, uint8_t *buf)
{
    const char *texts[4] = {h->name[SRC], h->fmt[SRC], h->name[DST], h->fmt[DST]};
    memcpy(buf, LC_MAGIC, 8);
    store_be32(buf + 8, VERSION);
    store_be64(buf + 16, h->size);
    store_be32(buf + 24, h->bits);
    size_t at = TEXTS_AT;
    for (int i = 0; i < 4; i++) {
        size_t len = strlen(texts[i]);
        store_be16(buf + 36 + 2 * i, (uint16_t)len);
        memcpy(buf + at, texts[i], len);
        at += len;
    }
    store_be32(buf + 12, head_crc(buf));
}

static int decode_texts(struct lc_head *h, const uint8_t *buf, struct err *e)
{
    char **texts[4] = {&h->name[SRC], &h->fmt[SRC], &h->name[DST], &h->fmt[DST]};
    size_t at = TEXTS_AT;
    for (int i = 0; i < 4; i++) {
        size_t len = load_be16(buf + 36 + 2 * i);
        if (len > LC_HEAD_SIZE - at || memchr(buf + at, 0, len)) {
            return err_set(e, EINVAL, "The names in its head are damaged");
        }
        *texts[i] = g_strndup((const char *)buf + at, len);
        at += len;
    }
    return 0;
}

static int head_decode(struct lc_head *h, uint8_t *buf, struct err *e)
{
    if (memcmp(buf, LC_MAGIC, 8) != 0) {
        return err_set(e, EINVAL, "Image is not in live-copy format");
    }
    if (load_be32(buf + 8) != VERSION) {
        return err_set(e, ENOTSUP, "Unsupported version %u of the live-copy format", load_be32(buf + 8));
    }
    if (head_crc(buf) != load_be32(buf + 12)) {
        return err_set(e, EINVAL, "Its head is damaged: the checksum does not match");
    }
    if (load_be32(buf + 28)) {
        return err_set(e, ENOTSUP, "Unsupported live-copy features: %#x", load_be32(buf + 28));
    }
    h->size = load_be64(buf + 16);
    h->bits = load_be32(buf + 24);
    int rc = decode_texts(h, buf, e);
    return rc ? rc : lc_head_check(h, e);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

void lc_state_encode(const struct lc_state *st, uint8_t *buf)
{
    memcpy(buf, STATE_MAGIC, 4);
    store_be64(buf + 8, st->seq);
    store_be64(buf + 16, st->events[SRC]);
    store_be64(buf + 24, st->events[DST]);
    store_be32(buf + 32, st->flags);
    store_be32(buf + 4, crc32c(0, buf + 8, LC_STATE_SIZE - 8));
}

static bool state_decode(struct lc_state *st, const uint8_t *buf)
{
    if (memcmp(buf, STATE_MAGIC, 4) != 0 || crc32c(0, buf + 8, LC_STATE_SIZE - 8) != load_be32(buf + 4)) {
        return false;
    }
    *st = (struct lc_state){load_be64(buf + 8), {load_be64(buf + 16), load_be64(buf + 24)}, load_be32(buf + 32)};
    bool known = !(st->flags & ~(uint32_t)(LC_SWITCHED | LC_DETACHED));
    bool sound = st->events[SRC] && st->events[SRC] < UINT64_MAX / 2 && st->events[DST] < UINT64_MAX / 2;
    if (st->flags & LC_DETACHED) {
        sound = sound && (st->flags & LC_SWITCHED) && lc_state_current(st, DST);
    }
    return known && sound && st->seq < UINT64_MAX / 2;
}

static int states_decode(struct lc *s, const uint8_t *buf, struct err *e)
{
    struct lc_state st[2];
    bool ok[2];
    for (unsigned i = 0; i < 2; i++) {
        ok[i] = state_decode(&st[i], buf + i * LC_STATE_STRIDE);
    }
    if (!ok[0] && !ok[1]) {
        return err_set(e, EINVAL,
                       "Both copies of its state are damaged: which side is current is not known; make a new live "
                       "copy from the side that you know to be");
    }
    s->state = st[!ok[0] || (ok[1] && st[1].seq > st[0].seq)];
    s->state_known = true;
    s->one_valid = !ok[0] || !ok[1];
    return 0;
}

int lc_format_read(struct lc *s, struct err *e)
{
    CLEANUP_FREE uint8_t *buf = g_malloc0(LC_BITMAP_AT);
    if (edge_size(s->file) < LC_BITMAP_AT) {
        return err_set(e, EINVAL, "Image is not in live-copy format, or cut short");
    }
    int rc = edge_read_buf(s->file, 0, LC_BITMAP_AT, buf);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not read the head of the live copy");
    }
    rc = head_decode(&s->head, buf, e);
    rc = rc ? rc : states_decode(s, buf + LC_STATE_AT, e);
    if (rc) {
        return rc;
    }
    if (edge_size(s->file) < lc_file_size(&s->head)) {
        return err_set(e, EINVAL, "Image is cut short: it has %" PRIu64 " bytes instead of %" PRIu64,
                       edge_size(s->file), lc_file_size(&s->head));
    }
    return 0;
}

static int write_copy(struct lc *s, uint64_t which, const uint8_t *buf)
{
    return edge_write_buf(s->file, LC_STATE_AT + which % 2 * LC_STATE_STRIDE, LC_STATE_SIZE, buf, 0);
}

/*
 * The copy that is written first alternates, so that the other one is the last state's first, stable since then. It
 * follows without a flush: it is for the day on which the first one has rotted.
 */
int lc_state_write(struct lc *s, struct lc_state want)
{
    uint8_t buf[LC_STATE_SIZE] = {0};
    want.seq = s->state.seq + 1;
    lc_state_encode(&want, buf);
    s->state_known = false;
    int rc = write_copy(s, want.seq, buf);
    rc = rc < 0 ? rc : edge_flush(s->file);
    if (rc < 0) {
        return rc;
    }
    s->state = want;
    s->state_known = true;
    write_copy(s, want.seq + 1, buf); /* when it fails, that copy is as old as it was, or not valid */
    return 0;
}

int lc_state_single(struct lc *s)
{
    int rc = 0;
    if (s->state_known && !lc_state_current(&s->state, lc_other(s))) {
        return 0;
    }
    co_lock(&s->meta_lock);
    if (!s->state_known || lc_state_current(&s->state, lc_other(s))) {
        struct lc_state want = s->state;
        want.events[s->live] = max_u64(want.events[SRC], want.events[DST]) + 1;
        rc = lc_state_write(s, want);
    }
    co_unlock(&s->meta_lock);
    if (rc == 0) {
        lc_changed(s);
    }
    return rc;
}

const char *const live_copy_state_names[] = {"copying", "in-sync", "switched", "degraded", "detached", NULL};

enum live_copy_state lc_state_now(const struct lc *s)
{
    const struct lc_state *st = &s->state;
    if (st->flags & LC_DETACHED) {
        return LIVE_COPY_DETACHED;
    }
    if (!st->events[DST]) {
        return LIVE_COPY_COPYING;
    }
    if (!lc_state_both(st)) {
        return LIVE_COPY_DEGRADED;
    }
    return st->flags & LC_SWITCHED ? LIVE_COPY_SWITCHED : LIVE_COPY_IN_SYNC;
}
