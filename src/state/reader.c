/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/reader.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "state/manifest.h"
#include "state/section.h"

#include <inttypes.h>
#include <string.h>

enum { STEP = 1 << 20 }; /* so much is allocated ahead of what has arrived */

/* --- errors ------------------------------------------------------------------------------------------------------- */

int state_reader_fail(struct state_reader *r, int errnum, const char *fmt, ...)
{
    if (r->rc) {
        return r->rc;
    }
    char type[5];
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    state_type_text(r->chunk.type, type);
    r->rc = r->in_chunk ? err_set(&r->err, errnum, "%s: chunk %s at offset %" PRIu64 ": %s", r->name, type,
                                  r->chunk.offset, text)
                        : err_set(&r->err, errnum, "%s: offset %" PRIu64 ": %s", r->name, r->at, text);
    return r->rc;
}

int state_reader_take(struct state_reader *r, struct err *e)
{
    state_reader_fail(r, e->code ? e->code : EINVAL, "%s", err_text(e));
    err_clear(e);
    return r->rc;
}

/* --- bytes -------------------------------------------------------------------------------------------------------- */

static int ended(struct state_reader *r)
{
    return state_reader_fail(
        r, ENODATA,
        "it ends before its STOP chunk: it is incomplete, because it was cut off or is still being "
        "written");
}

/* At least one byte into `dst`; 0: the end. */
static ssize_t from_source(struct state_reader *r, void *dst, size_t n)
{
    ssize_t got = r->src.read(r->src.opaque, dst, n);
    if (got < 0) {
        return state_reader_fail(r, (int)-got, "cannot be read: %s", g_strerror((int)-got));
    }
    return got;
}

/* Exactly n bytes; a chunk's CRC is not touched. */
static int get_raw(struct state_reader *r, uint8_t *dst, size_t n)
{
    while (n && !r->rc) {
        if (r->pos < r->fill) {
            size_t k = MIN(n, r->fill - r->pos);
            memcpy(dst, r->buf + r->pos, k);
            r->pos += k;
            r->at += k;
            dst += k;
            n -= k;
            continue;
        }
        bool large = n >= STATE_IN_BUFFER;
        ssize_t got = large ? from_source(r, dst, n) : from_source(r, r->buf, STATE_IN_BUFFER);
        if (got <= 0) {
            return got < 0 ? r->rc : ended(r);
        }
        r->pos = 0;
        r->fill = large ? 0 : (size_t)got;
        r->at += large ? (uint64_t)got : 0;
        dst += large ? got : 0;
        n -= large ? (size_t)got : 0;
    }
    return r->rc;
}

int state_reader_get(struct state_reader *r, void *dst, size_t n)
{
    uint8_t skip[4096];
    if (!r->rc && n > r->left) {
        return state_reader_fail(r, EINVAL, "it is shorter than what it holds");
    }
    while (n && !r->rc) {
        size_t k = dst ? n : MIN(n, sizeof(skip));
        uint8_t *to = dst ? dst : skip;
        if (get_raw(r, to, k) == 0) {
            r->crc = crc32c(r->crc, to, k);
            r->left -= k;
            n -= k;
        }
    }
    return r->rc;
}

int state_reader_get_unchecked(struct state_reader *r, void *dst, size_t n)
{
    if (!r->rc && n > r->left) {
        return state_reader_fail(r, EINVAL, "it is shorter than what it holds");
    }
    r->left -= r->rc ? 0 : n;
    return get_raw(r, dst, n);
}

int state_reader_collect(struct state_reader *r, GByteArray *to, uint64_t n)
{
    while (n && !r->rc) {
        guint k = (guint)min_u64(n, STEP), at = to->len;
        g_byte_array_set_size(to, at + k);
        state_reader_get(r, to->data + at, k);
        n -= k;
    }
    return r->rc;
}

int state_reader_pread(struct state_reader *r, void *dst, size_t n, uint64_t offset, struct err *e)
{
    while (n) {
        ssize_t got = r->src.read_at(r->src.opaque, dst, n, offset);
        if (got <= 0) {
            return got < 0 ? err_set_errno(e, (int)-got, "%s: offset %" PRIu64, r->name, offset)
                           : err_set(e, ENODATA, "%s: it ends at offset %" PRIu64 ", before what it should hold",
                                     r->name, offset);
        }
        dst = (uint8_t *)dst + got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

/* --- chunks ------------------------------------------------------------------------------------------------------- */

int state_reader_end_chunk(struct state_reader *r)
{
    uint8_t le[STATE_CRC_BYTES];
    if (!r->in_chunk || r->rc) {
        return r->rc;
    }
    while (r->left && !r->rc) {
        state_reader_get(r, NULL, (size_t)min_u64(r->left, STEP));
    }
    if (get_raw(r, le, sizeof(le)) < 0) {
        return r->rc;
    }
    if (load_le32(le) != r->crc) {
        return state_reader_fail(r, EINVAL, "its checksum is %08x where %08x is computed: it is damaged", load_le32(le),
                                 r->crc);
    }
    if (r->chunk.type != STATE_STOP) {
        g_checksum_update(r->digest, r->head, sizeof(r->head));
        g_checksum_update(r->digest, le, sizeof(le));
        r->totals.chunks++;
        r->totals.bytes = r->at;
    }
    r->in_chunk = false;
    return 0;
}

static uint64_t limit_of(uint32_t type)
{
    return type == STATE_MANI   ? STATE_MANIFEST_MAX
           : type == STATE_DEVS ? STATE_DEVICE_MAX
           : type == STATE_RAMP ? STATE_RAM_MAX
           : type == STATE_STOP ? STATE_STOP_BYTES
                                : INT64_MAX; /* it is skipped */
}

static int begin_chunk(struct state_reader *r)
{
    uint64_t offset = r->at;
    if (get_raw(r, r->head, sizeof(r->head)) < 0) {
        return r->rc;
    }
    r->crc = crc32c(0, r->head, sizeof(r->head));
    r->chunk = (struct state_chunk){.type = load_le32(r->head),
                                    .flags = load_le32(r->head + 4),
                                    .offset = offset,
                                    .length = load_le64(r->head + 8)};
    r->left = r->chunk.length;
    r->in_chunk = true;
    if (!state_type_ok(r->chunk.type)) {
        return state_reader_fail(r, EINVAL, "no chunk begins here: what comes before may be damaged");
    }
    if (r->chunk.flags) {
        return state_reader_fail(r, ENOTSUP, "it has flags %08x, which this program does not know", r->chunk.flags);
    }
    if (r->chunk.length > limit_of(r->chunk.type)) {
        return state_reader_fail(r, E2BIG, "it claims %" PRIu64 " bytes, more than the %" PRIu64 " that are allowed",
                                 r->chunk.length, limit_of(r->chunk.type));
    }
    return 0;
}

static int open_device(struct state_reader *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    g_byte_array_set_size(r->payload, 0);
    if (state_reader_collect(r, r->payload, r->left) < 0 || state_reader_end_chunk(r) < 0) {
        return r->rc;
    }
    r->in_chunk = true; /* for messages */
    CLEANUP_FREE char *path = state_device_path(r->payload->data, r->payload->len, &e);
    if (!path) {
        return state_reader_take(r, &e);
    }
    if (!state_manifest_schema(r->manifest, path)) {
        return state_reader_fail(r, EINVAL, "device '%s' is not in the manifest", path);
    }
    if (!g_hash_table_add(r->seen, take(path))) {
        return state_reader_fail(r, EINVAL, "a device comes for the second time");
    }
    r->in_chunk = false;
    return 0;
}

/* Law 8. */
static int check_torn(struct state_reader *r)
{
    unsigned block;
    uint64_t page;
    return state_torn_any(r->torn, &block, &page)
               ? state_reader_fail(r, EINVAL, "page %" PRIu64 " of RAM block '%s' came damaged, and not once more",
                                   page, state_manifest_block_name(r->manifest, block))
               : 0;
}

static int check_stop(struct state_reader *r)
{
    uint8_t p[STATE_STOP_BYTES], digest[STATE_DIGEST_BYTES];
    gsize n = sizeof(digest);
    if (check_torn(r) < 0) {
        return r->rc;
    }
    if (r->left != sizeof(p)) {
        return state_reader_fail(r, EINVAL, "it has %" PRIu64 " bytes instead of %d", r->left, STATE_STOP_BYTES);
    }
    if (state_reader_get(r, p, sizeof(p)) < 0 || state_reader_end_chunk(r) < 0) {
        return r->rc;
    }
    r->in_chunk = true;
    g_checksum_get_digest(r->digest, digest, &n);
    if (load_le64(p) != r->totals.chunks || load_le64(p + 8) != r->totals.bytes) {
        return state_reader_fail(
            r, EINVAL, "%" PRIu64 " chunks in %" PRIu64 " bytes come before it, it counts %" PRIu64 " in %" PRIu64,
            r->totals.chunks, r->totals.bytes, load_le64(p), load_le64(p + 8));
    }
    if (load_le64(p + 16) != r->index_at) {
        return state_reader_fail(r, EINVAL, "the index is not where it says");
    }
    if (memcmp(p + 56, digest, sizeof(digest)) != 0) {
        return state_reader_fail(r, EINVAL, "its digest of all chunks does not match: some were exchanged");
    }
    for (int k = 0; k < STATE_PAGE_KINDS; k++) {
        r->totals.pages[k] = load_le64(p + 24 + 8 * k);
    }
    for (unsigned i = 0; i < state_manifest_devices(r->manifest); i++) {
        const char *path = state_manifest_device_path(r->manifest, i);
        if (!g_hash_table_contains(r->seen, path)) {
            return state_reader_fail(r, EINVAL, "the manifest announces device '%s', which has not come", path);
        }
    }
    r->in_chunk = false;
    r->done = true;
    return 0;
}

/* 1: for the caller; 0: not; negative. */
static int open_chunk(struct state_reader *r)
{
    switch (r->chunk.type) {
    case STATE_DEVS:
        return open_device(r) < 0 ? r->rc : 1;
    case STATE_RAMP:
        return state_reader_open_ram(r) < 0 ? r->rc : 1;
    case STATE_STOP:
        return check_stop(r);
    case STATE_MANI:
        return state_reader_fail(r, EINVAL, "a second manifest");
    case STATE_RIDX:
        if (r->index_at) {
            return state_reader_fail(r, EINVAL, "a second index");
        }
        r->index_at = r->chunk.offset;
        return r->keep_unknown;
    default:
        if (!state_type_ancillary(r->chunk.type) && !r->keep_unknown) {
            return state_reader_fail(
                r, ENOTSUP,
                "this program does not know the chunk, and it must not be left out: a newer release "
                "can load it, or save it for this one (compat=)");
        }
        return r->keep_unknown;
    }
}

int state_read_next(struct state_reader *r, struct state_chunk *out)
{
    while (!r->rc && !r->done) {
        if (state_reader_end_chunk(r) < 0 || begin_chunk(r) < 0) {
            break;
        }
        int rc = open_chunk(r);
        if (rc > 0) {
            *out = r->chunk;
        }
        if (rc != 0) {
            return rc;
        }
    }
    return r->rc;
}

const GByteArray *state_read_payload(struct state_reader *r, uint64_t max)
{
    if (!r->rc && r->chunk.type != STATE_DEVS) {
        g_byte_array_set_size(r->payload, 0);
        if (r->left > max) {
            state_reader_fail(r, E2BIG, "it has %" PRIu64 " bytes, more than %" PRIu64, r->left, max);
            return NULL;
        }
        if (state_reader_collect(r, r->payload, r->left) == 0) {
            state_reader_end_chunk(r);
        }
    }
    return r->rc ? NULL : r->payload;
}

/* --- beginning and end -------------------------------------------------------------------------------------------- */

static int read_header(struct state_reader *r)
{
    uint8_t h[STATE_HEADER_BYTES];
    if (get_raw(r, h, 8) < 0) {
        return r->rc;
    }
    if (memcmp(h, STATE_MAGIC, 8) != 0) {
        r->at = 0;
        return state_reader_fail(r, EINVAL, "this is no saved state and no migration stream of Sterna's");
    }
    if (get_raw(r, h + 8, sizeof(h) - 8) < 0) {
        return r->rc;
    }
    uint32_t version = load_le32(h + 8), flags = load_le32(h + 12), align = load_le32(h + 16);
    if (load_le32(h + 28) != crc32c(0, h, 28)) {
        return state_reader_fail(r, EINVAL, "the checksum of the header does not match: it is damaged");
    }
    if (version != STATE_VERSION || (flags & ~(uint32_t)STATE_FLAG_ALIGNED)) {
        return state_reader_fail(r, ENOTSUP, "the stream is of version %u with flags %x, this program reads version %d",
                                 version, flags, STATE_VERSION);
    }
    r->aligned = flags & STATE_FLAG_ALIGNED;
    return align == (r->aligned ? STATE_PAGE : 0) && !load_le64(h + 20)
               ? 0
               : state_reader_fail(r, EINVAL, "the header asks for an alignment of %u", align);
}

static int read_manifest(struct state_reader *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (begin_chunk(r) < 0) {
        return r->rc;
    }
    if (r->chunk.type != STATE_MANI) {
        return state_reader_fail(r, EINVAL, "the first chunk is not the manifest");
    }
    if (state_reader_collect(r, r->payload, r->left) < 0 || state_reader_end_chunk(r) < 0) {
        return r->rc;
    }
    r->manifest = state_manifest_parse((const char *)r->payload->data, r->payload->len, &e);
    r->in_chunk = !r->manifest;
    return r->manifest ? 0 : state_reader_take(r, &e);
}

struct state_reader *state_reader_create(const struct state_source *s, struct err *e)
{
    struct state_reader *r = g_new0(struct state_reader, 1);
    r->src = *s;
    r->name = g_strdup(s->name ? s->name : "the stream");
    r->buf = g_malloc(STATE_IN_BUFFER);
    r->digest = g_checksum_new(G_CHECKSUM_SHA256);
    r->payload = g_byte_array_new();
    r->seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    r->runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
    r->live_crcs = g_byte_array_new();
    r->torn = state_torn_create();
    if (read_header(r) < 0 || read_manifest(r) < 0) {
        state_reader_error(r, e);
        state_reader_destroy(r);
        return NULL;
    }
    return r;
}

void state_reader_destroy(struct state_reader *r)
{
    if (!r) {
        return;
    }
    state_manifest_destroy(r->manifest);
    g_array_unref(r->runs);
    g_byte_array_unref(r->live_crcs);
    state_torn_destroy(r->torn);
    g_hash_table_unref(r->seen);
    g_byte_array_unref(r->payload);
    g_checksum_free(r->digest);
    err_clear(&r->err);
    g_free(r->buf);
    g_free(r->name);
    g_free(r);
}

const struct state_manifest *state_reader_manifest(const struct state_reader *r)
{
    return r->manifest;
}

const struct state_source *state_reader_source(const struct state_reader *r)
{
    return &r->src;
}

bool state_reader_aligned(const struct state_reader *r)
{
    return r->aligned;
}

void state_reader_keep_unknown(struct state_reader *r)
{
    r->keep_unknown = true;
}

void state_reader_totals(const struct state_reader *r, struct state_totals *out)
{
    *out = r->totals;
}

size_t state_reader_buffered(const struct state_reader *r)
{
    return r->fill - r->pos;
}

uint64_t state_reader_bytes(const struct state_reader *r)
{
    return r->at;
}

int state_reader_error(const struct state_reader *r, struct err *e)
{
    return r->rc ? err_set(e, -r->rc, "%s", err_text(&r->err)) : 0;
}
