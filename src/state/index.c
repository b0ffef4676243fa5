/* SPDX-License-Identifier: BSD-2-Clause */
/* A stream read at any place. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "state/manifest.h"
#include "state/reader.h"

#include <inttypes.h>
#include <string.h>
#include <zstd.h>

enum {
    STEP = 1 << 20,
    STOP_ALL = STATE_HEAD_BYTES + STATE_STOP_BYTES + STATE_CRC_BYTES,
    STOP_DIGEST = 56,
    SAME_HOPS = 8
};

struct state_index {
    GArray *chunks;   /* struct state_chunk */
    GArray *runs;     /* struct state_run */
    GByteArray *crcs; /* payload of rCRC; NULL: there is none */
    uint8_t digest[STATE_DIGEST_BYTES];
};

void state_index_destroy(struct state_index *x)
{
    if (x) {
        g_array_unref(x->chunks);
        g_array_unref(x->runs);
        if (x->crcs) {
            g_byte_array_unref(x->crcs);
        }
        g_free(x);
    }
}

static struct state_index *new_index(void)
{
    struct state_index *x = g_new0(struct state_index, 1);
    x->chunks = g_array_new(FALSE, FALSE, sizeof(struct state_chunk));
    x->runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
    return x;
}

/* --- single chunks ------------------------------------------------------------------------------------------------ */

static int read_head(struct state_reader *r, uint64_t offset, struct state_chunk *c, struct err *e)
{
    uint8_t h[STATE_HEAD_BYTES];
    int rc = state_reader_pread(r, h, sizeof(h), offset, e);
    if (rc < 0) {
        return rc;
    }
    *c = (struct state_chunk){
        .type = load_le32(h), .flags = load_le32(h + 4), .offset = offset, .length = load_le64(h + 8)};
    uint64_t end;
    if (!state_type_ok(c->type) || c->flags || !add_ok(offset, STATE_HEAD_BYTES + STATE_CRC_BYTES, &end) ||
        !range_ok(end, c->length, r->src.size)) {
        return err_set(e, EINVAL, "%s: no chunk begins at offset %" PRIu64 ", or one that is longer than the stream",
                       r->name, offset);
    }
    return 0;
}

GByteArray *state_index_payload(struct state_reader *r, const struct state_chunk *c, uint64_t max, struct err *e)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    uint8_t h[STATE_HEAD_BYTES], le[STATE_CRC_BYTES];
    char type[5];
    state_type_text(c->type, type);
    if (c->length > max) {
        err_set(e, E2BIG, "%s: chunk %s at offset %" PRIu64 " has %" PRIu64 " bytes, more than %" PRIu64, r->name, type,
                c->offset, c->length, max);
        return NULL;
    }
    if (state_reader_pread(r, h, sizeof(h), c->offset, e) < 0) {
        return NULL;
    }
    for (uint64_t left = c->length, at = c->offset + sizeof(h); left;) {
        guint k = (guint)min_u64(left, STEP), fill = b->len;
        g_byte_array_set_size(b, fill + k);
        if (state_reader_pread(r, b->data + fill, k, at, e) < 0) {
            return NULL;
        }
        at += k;
        left -= k;
    }
    if (state_reader_pread(r, le, sizeof(le), c->offset + sizeof(h) + c->length, e) < 0) {
        return NULL;
    }
    if (crc32c(crc32c(0, h, sizeof(h)), b->data, b->len) != load_le32(le)) {
        err_set(e, EINVAL, "%s: chunk %s at offset %" PRIu64 ": its checksum does not match: it is damaged", r->name,
                type, c->offset);
        return NULL;
    }
    return take(b);
}

static bool known(uint32_t type)
{
    return type == STATE_MANI || type == STATE_DEVS || type == STATE_RAMP || type == STATE_RIDX || type == STATE_RCRC ||
           type == STATE_STOP;
}

static int add_chunk(struct state_reader *r, struct state_index *x, const struct state_chunk *c, struct err *e)
{
    char type[5];
    if (!known(c->type) && !state_type_ancillary(c->type) && !r->keep_unknown) {
        state_type_text(c->type, type);
        return err_set(e, ENOTSUP,
                       "%s: chunk %s at offset %" PRIu64 ": this program does not know the chunk, and it must not be "
                       "left out",
                       r->name, type, c->offset);
    }
    g_array_append_val(x->chunks, *c);
    return 0;
}

/* --- by the index ------------------------------------------------------------------------------------------------- */

static int load_index_run(struct state_reader *r, struct state_index *x, const uint8_t *p, struct err *e)
{
    const struct state_run *last = x->runs->len ? &g_array_index(x->runs, struct state_run, x->runs->len - 1) : NULL;
    struct state_run run = {.page = load_le64(p),
                            .pages = load_le32(p + 8),
                            .kind = p[12],
                            .block = load_le16(p + 14),
                            .bytes = load_le64(p + 24),
                            .other_block = load_le16(p + 32),
                            .skip = load_le32(p + 36)};
    bool same = run.kind == STATE_PAGES_SAME;
    *(same ? &run.other_page : &run.offset) = load_le64(p + 16);
    struct state_run check = run;
    if (run.kind == STATE_PAGES_ZSTD) { /* the frame's length is that of all its pages */
        check.bytes = 1;
    }
    int rc = state_run_check(&check, r->manifest, e);
    if (rc < 0) {
        return rc;
    }
    bool frame_ok = run.kind == STATE_PAGES_ZSTD
                        ? run.bytes && run.skip < STATE_RUN_PAGES_MAX &&
                              run.bytes <= ZSTD_COMPRESSBOUND((uint64_t)STATE_RUN_PAGES_MAX * STATE_PAGE)
                        : run.skip == 0;
    bool ordered =
        !last || last->block < run.block || (last->block == run.block && last->page + last->pages <= run.page);
    if (!frame_ok || !ordered || !range_ok(run.offset, run.bytes, r->src.size)) {
        return err_set(e, EINVAL, "a run is out of order, or its data do not lie in the stream");
    }
    g_array_append_val(x->runs, run);
    return 0;
}

static int load_index(struct state_reader *r, struct state_index *x, const GByteArray *b, struct err *e)
{
    uint64_t chunks = b->len >= STATE_INDEX_HEAD ? load_le32(b->data) : 0, runs = chunks ? load_le64(b->data + 8) : 0;
    if (!chunks || runs > b->len || b->len != STATE_INDEX_HEAD + chunks * STATE_INDEX_CHUNK + runs * STATE_INDEX_RUN) {
        return err_set(e, EINVAL, "its length is not what it says");
    }
    const uint8_t *p = b->data + STATE_INDEX_HEAD;
    for (uint64_t i = 0; i < chunks; i++, p += STATE_INDEX_CHUNK) {
        struct state_chunk c;
        int rc = read_head(r, load_le64(p + 8), &c, e);
        if (rc == 0 && (c.type != load_le32(p) || c.type == STATE_RAMP)) {
            rc = err_set(e, EINVAL, "another chunk is at offset %" PRIu64, c.offset);
        }
        rc = rc < 0 ? rc : add_chunk(r, x, &c, e);
        if (rc < 0) {
            return rc;
        }
    }
    for (uint64_t i = 0; i < runs; i++, p += STATE_INDEX_RUN) {
        int rc = load_index_run(r, x, p, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Whether STOP lies at the end, and where the index is. */
static bool find_index(struct state_reader *r, struct state_index *x, uint64_t *out)
{
    uint8_t p[STOP_ALL];
    if (r->src.size < sizeof(p) || state_reader_pread(r, p, sizeof(p), r->src.size - sizeof(p), NULL) < 0) {
        return false;
    }
    *out = load_le64(p + STATE_HEAD_BYTES + 16);
    memcpy(x->digest, p + STATE_HEAD_BYTES + STOP_DIGEST, sizeof(x->digest));
    return load_le32(p) == STATE_STOP && load_le64(p + 8) == STATE_STOP_BYTES &&
           load_le32(p + sizeof(p) - STATE_CRC_BYTES) == crc32c(0, p, sizeof(p) - STATE_CRC_BYTES) &&
           load_le64(p + STATE_HEAD_BYTES + 8) == r->src.size - sizeof(p) && *out;
}

/* --- without one -------------------------------------------------------------------------------------------------- */

static int scan_ram(struct state_reader *r, struct state_index *x, const struct state_chunk *c, struct err *e)
{
    uint8_t h[STATE_RAM_HEAD];
    int rc = state_reader_pread(r, h, sizeof(h), c->offset + STATE_HEAD_BYTES, e);
    if (rc < 0) {
        return rc;
    }
    uint32_t n = load_le32(h + 4), pad = load_le32(h + 8);
    uint64_t lead = STATE_RAM_HEAD + (uint64_t)n * STATE_RUN_BYTES + pad, sum = lead;
    if (!n || n > STATE_RUNS_MAX || pad >= STATE_PAGE || lead > c->length) {
        return err_set(e, EINVAL, "its head has %" PRIu32 " runs and %" PRIu32 " bytes of padding", n, pad);
    }
    CLEANUP_FREE uint8_t *table = g_malloc((size_t)n * STATE_RUN_BYTES);
    GArray *runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
    rc = state_reader_pread(r, table, (size_t)n * STATE_RUN_BYTES, c->offset + STATE_HEAD_BYTES + STATE_RAM_HEAD, e);
    rc = rc < 0 ? rc : state_runs_load(table, n, load_le16(h), r->manifest, runs, e);
    if (rc == 0 && state_runs_live((const struct state_run *)(void *)runs->data, runs->len)) {
        rc = err_set(e, ENOTSUP, "live pages, which are for another machine and not to be kept");
    }
    for (guint i = 0; i < runs->len && rc == 0; i++) {
        struct state_run *run = &g_array_index(runs, struct state_run, i);
        run->offset = state_run_has_data(run) ? c->offset + STATE_HEAD_BYTES + sum : 0;
        sum += run->bytes;
        g_array_append_val(x->runs, *run);
    }
    if (rc == 0 && sum != c->length) {
        rc = err_set(e, EINVAL, "its length is not that of its runs");
    }
    g_array_unref(runs);
    return rc;
}

static int scan(struct state_reader *r, struct state_index *x, struct err *e)
{
    struct state_chunk c = {0};
    for (uint64_t at = STATE_HEADER_BYTES; c.type != STATE_STOP;) {
        int rc = read_head(r, at, &c, e);
        if (rc == 0 && c.type == STATE_RAMP) {
            rc = c.length > STATE_RAM_MAX ? err_set(e, E2BIG, "it is longer than what is allowed")
                                          : scan_ram(r, x, &c, e);
            if (rc < 0) {
                err_wrap(e, "%s: chunk RAMP at offset %" PRIu64, r->name, at);
            }
        } else if (rc == 0 && c.type != STATE_STOP) {
            rc = add_chunk(r, x, &c, e);
        }
        if (rc < 0) {
            return rc;
        }
        at += STATE_HEAD_BYTES + c.length + STATE_CRC_BYTES; /* within the size: read_head() has seen to it */
    }
    g_autoptr(GByteArray) stop = state_index_payload(r, &c, STATE_STOP_BYTES, e);
    if (!stop) {
        return -EINVAL;
    }
    if (stop->len != STATE_STOP_BYTES || load_le64(stop->data + 8) != c.offset) {
        return err_set(e, EINVAL, "%s: the STOP chunk at offset %" PRIu64 " counts other bytes before it", r->name,
                       c.offset);
    }
    memcpy(x->digest, stop->data + STOP_DIGEST, sizeof(x->digest));
    state_runs_settle(x->runs);
    return 0;
}

/* After the index, which says which there are. */
static int load_crcs(struct state_reader *r, struct state_index *x, const struct state_chunk *c, struct err *e)
{
    uint64_t n = 0;
    for (guint i = 0; i < x->runs->len; i++) {
        struct state_run *run = &g_array_index(x->runs, struct state_run, i);
        run->crc = n;
        n += state_run_crcs(run);
    }
    if (x->crcs || c->length != STATE_CRCS_HEAD + n * STATE_CRC_BYTES) {
        return err_set(e, EINVAL, "%s: chunk rCRC at offset %" PRIu64 ": %s", r->name, c->offset,
                       x->crcs ? "there is another one" : "it does not have as many CRCs as the index asks for");
    }
    x->crcs = state_index_payload(r, c, c->length, e);
    return !x->crcs ? -EINVAL
           : load_le32(x->crcs->data) == (uint32_t)n && !load_le32(x->crcs->data + 4)
               ? 0
               : err_set(e, EINVAL, "%s: chunk rCRC at offset %" PRIu64 ": its number of CRCs is wrong", r->name,
                         c->offset);
}

/* --- both --------------------------------------------------------------------------------------------------------- */

static int build(struct state_reader *r, struct state_index *x, struct err *e)
{
    uint64_t at = 0;
    if (!find_index(r, x, &at)) {
        return scan(r, x, e);
    }
    struct state_chunk c;
    int rc = read_head(r, at, &c, e);
    if (rc < 0 || c.type != STATE_RIDX) {
        return rc < 0 ? rc : err_set(e, EINVAL, "%s: there is no index at offset %" PRIu64, r->name, at);
    }
    g_autoptr(GByteArray) b = state_index_payload(r, &c, r->src.size, e);
    if (!b) {
        return -EINVAL;
    }
    rc = load_index(r, x, b, e);
    if (rc < 0) {
        return err_wrap(e, "%s: chunk rIDX at offset %" PRIu64, r->name, at);
    }
    for (guint i = 0; i < x->chunks->len && rc == 0; i++) {
        const struct state_chunk crcs = g_array_index(x->chunks, struct state_chunk, i);
        rc = crcs.type == STATE_RCRC ? load_crcs(r, x, &crcs, e) : 0;
    }
    return rc;
}

struct state_index *state_index_read(struct state_reader *r, struct err *e)
{
    if (!r->src.read_at || !r->src.size) {
        err_set(e, ESPIPE, "%s: it can only be read from the front", r->name);
        return NULL;
    }
    struct state_index *x = new_index();
    int rc = build(r, x, e);
    unsigned devices = 0;
    for (guint i = 0; i < x->chunks->len && rc == 0; i++) {
        devices += g_array_index(x->chunks, struct state_chunk, i).type == STATE_DEVS;
    }
    if (rc == 0 && devices != state_manifest_devices(r->manifest)) {
        rc = err_set(e, EINVAL, "%s: the manifest announces %u devices, %u are there", r->name,
                     state_manifest_devices(r->manifest), devices);
    }
    if (rc < 0) {
        state_index_destroy(take(x));
    }
    return x;
}

bool state_index_has_crcs(const struct state_index *x)
{
    return x->crcs != NULL;
}

const uint8_t *state_index_digest(const struct state_index *x)
{
    return x->digest;
}

int state_index_check_parent(const struct state_index *x, const struct state_manifest *child, const char *name,
                             struct err *e)
{
    const char *want = state_manifest_parent_digest(child);
    for (unsigned i = 0; want && i < sizeof(x->digest); i++) {
        if (g_ascii_xdigit_value(want[2 * i]) << 4 != (x->digest[i] & 0xf0) ||
            g_ascii_xdigit_value(want[2 * i + 1]) != (x->digest[i] & 15)) {
            return err_set(e, EINVAL,
                           "%s is not the '%s' that the other state is based on, but a later one of that name", name,
                           state_manifest_parent(child) ? state_manifest_parent(child) : "");
        }
    }
    return 0;
}

const struct state_chunk *state_index_chunks(const struct state_index *x, unsigned *n)
{
    *n = x->chunks->len;
    return (const struct state_chunk *)(void *)x->chunks->data;
}

const struct state_run *state_index_runs(const struct state_index *x, uint64_t *n)
{
    *n = x->runs->len;
    return (const struct state_run *)(void *)x->runs->data;
}

const struct state_run *state_index_next(const struct state_index *x, unsigned block, uint64_t page)
{
    guint lo = 0, hi = x->runs->len;
    while (lo < hi) {
        guint mid = lo + (hi - lo) / 2;
        const struct state_run *r = &g_array_index(x->runs, struct state_run, mid);
        if (r->block < block || (r->block == block && r->page + r->pages <= page)) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    const struct state_run *r = lo < x->runs->len ? &g_array_index(x->runs, struct state_run, lo) : NULL;
    return r && r->block == block ? r : NULL;
}

const struct state_run *state_index_find(const struct state_index *x, unsigned block, uint64_t page)
{
    const struct state_run *r = state_index_next(x, block, page);
    return r && r->page <= page ? r : NULL;
}

static int read_all(const struct state_source *s, void *dst, size_t n, uint64_t offset)
{
    while (n) {
        ssize_t got = s->read_at(s->opaque, dst, n, offset);
        if (got <= 0) {
            return got < 0 ? (int)got : -ENODATA;
        }
        dst = (uint8_t *)dst + got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

/* Of a page or a frame, the `i`th of the run. */
static int check_crc(const struct state_index *x, const struct state_run *run, uint32_t i, const void *data, size_t len)
{
    const uint8_t *crc = x->crcs ? x->crcs->data + STATE_CRCS_HEAD + (run->crc + i) * STATE_CRC_BYTES : NULL;
    return !crc || load_le32(crc) == crc32c(0, data, len) ? 0 : -EBADMSG;
}

static int read_raw(const struct state_source *s, const struct state_index *x, const struct state_run *run,
                    const uint32_t range[2], uint8_t *dst)
{
    uint32_t first = range[0], n = range[1];
    int rc = read_all(s, dst, (size_t)n * STATE_PAGE, run->offset + (uint64_t)first * STATE_PAGE);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = check_crc(x, run, first + i, dst + (size_t)i * STATE_PAGE, STATE_PAGE);
    }
    return rc;
}

static int read_frame(const struct state_source *s, const struct state_index *x, const struct state_run *run,
                      const uint32_t range[2], void *dst)
{
    uint32_t first = range[0], n = range[1];
    CLEANUP_FREE void *frame = g_malloc(run->bytes);
    int rc = read_all(s, frame, run->bytes, run->offset);
    rc = rc < 0 ? rc : check_crc(x, run, 0, frame, run->bytes);
    if (rc < 0) {
        return rc;
    }
    int64_t pages = state_frame_pages(frame, run->bytes);
    if (pages < 0 || !range_ok(run->skip, run->pages, (uint64_t)pages)) {
        return -EINVAL;
    }
    struct state_run whole = {.kind = STATE_PAGES_ZSTD, .pages = (uint32_t)pages, .bytes = run->bytes};
    if (n == pages) {
        return state_run_unpack(&whole, frame, dst, NULL);
    }
    CLEANUP_FREE uint8_t *all = g_malloc((size_t)pages * STATE_PAGE);
    rc = state_run_unpack(&whole, frame, all, NULL);
    if (rc == 0) {
        memcpy(dst, all + (size_t)(run->skip + first) * STATE_PAGE, (size_t)n * STATE_PAGE);
    }
    return rc;
}

static int read_pages(const struct state_source *s, const struct state_index *x, const struct state_run *run,
                      const uint32_t range[2], uint8_t *dst, unsigned hops)
{
    uint32_t first = range[0], n = range[1];
    switch (run->kind) {
    case STATE_PAGES_RAW:
        return read_raw(s, x, run, range, dst);
    case STATE_PAGES_ZSTD:
        return read_frame(s, x, run, range, dst);
    case STATE_PAGES_ZERO:
        memset(dst, 0, (size_t)n * STATE_PAGE);
        return 0;
    default:
        break;
    }
    for (uint32_t i = 0; i < n; i++, dst += STATE_PAGE) {
        uint64_t page = run->other_page + first + i;
        const struct state_run *o = state_index_find(x, run->other_block, page);
        uint32_t one[2] = {o ? (uint32_t)(page - o->page) : 0, 1};
        int rc = o && hops ? read_pages(s, x, o, one, dst, hops - 1) : -EINVAL;
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int state_index_read_pages(const struct state_source *s, const struct state_index *x, const struct state_run *run,
                           uint32_t first, uint32_t n, void *dst)
{
    return range_ok(first, n, run->pages) ? read_pages(s, x, run, (uint32_t[]){first, n}, dst, SAME_HOPS) : -EINVAL;
}
