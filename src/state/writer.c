/* SPDX-License-Identifier: BSD-2-Clause */
/* Writing a stream. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "state/format.h"
#include "state/manifest.h"

#include <inttypes.h>
#include <string.h>
#include <zstd.h>

enum {
    BUFFER = 64 << 10,     /* small pieces are put together */
    FRAME_PAGES = 16,      /* in one zstd frame: what a loader that needs one page has to decompress */
    BATCH_RUNS_MAX = 4096, /* for pages without data */
};

struct batch {
    unsigned block;
    GArray *runs; /* struct state_run, ascending, ZSTD not yet among them */
    uint64_t end; /* page after the last one */
    uint8_t *data;
    unsigned pages; /* in `data` */
};

struct state_writer {
    struct state_sink sink;
    struct state_write_options opt;
    const struct state_manifest *manifest;
    int rc;
    struct err err;
    uint8_t *buf;
    size_t fill;
    uint64_t at;
    uint32_t crc; /* of the chunk so far */
    uint8_t head[STATE_HEAD_BYTES];
    GChecksum *digest;
    struct state_totals totals;
    GArray *places; /* struct state_chunk: those that are not RAMP */
    GArray *runs;   /* struct state_run, for the index */
    GArray *crcs;   /* uint32_t, for rCRC: as the runs were written */
    struct batch batch;
    ZSTD_CCtx *zstd;
};

struct state_writer *state_writer_create(const struct state_sink *s, const struct state_write_options *o)
{
    struct state_writer *w = g_new0(struct state_writer, 1);
    w->sink = *s;
    w->opt = *o;
    w->buf = g_malloc(BUFFER);
    w->digest = g_checksum_new(G_CHECKSUM_SHA256);
    w->places = g_array_new(FALSE, FALSE, sizeof(struct state_chunk));
    w->runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
    w->crcs = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    w->batch.runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
    return w;
}

void state_writer_destroy(struct state_writer *w)
{
    if (!w) {
        return;
    }
    err_clear(&w->err);
    g_checksum_free(w->digest);
    g_array_unref(w->places);
    g_array_unref(w->runs);
    g_array_unref(w->crcs);
    g_array_unref(w->batch.runs);
    g_free(w->batch.data);
    g_free(w->buf);
    ZSTD_freeCCtx(w->zstd);
    g_free(w);
}

/* --- bytes and chunks --------------------------------------------------------------------------------------------- */

static void fail(struct state_writer *w, int rc)
{
    if (!w->rc && rc < 0) {
        w->rc =
            err_set_errno(&w->err, -rc, "%s: cannot write the machine's state at offset %" PRIu64, w->sink.name, w->at);
    }
}

static void send_out(struct state_writer *w, const void *p, size_t n)
{
    if (!w->rc && n) {
        fail(w, w->sink.write(w->sink.opaque, p, n));
    }
}

static void flush_buffer(struct state_writer *w)
{
    send_out(w, w->buf, w->fill);
    w->fill = 0;
}

static void put_raw(struct state_writer *w, const void *p, size_t n)
{
    w->at += n;
    if (n > BUFFER - w->fill) {
        flush_buffer(w);
    }
    if (n >= BUFFER) {
        send_out(w, p, n);
    } else if (n) {
        memcpy(w->buf + w->fill, p, n);
        w->fill += n;
    }
}

static void put(struct state_writer *w, const void *p, size_t n)
{
    w->crc = crc32c(w->crc, p, n);
    put_raw(w, p, n);
}

static void begin_chunk(struct state_writer *w, uint32_t type, uint64_t len)
{
    if (type != STATE_RAMP) {
        struct state_chunk c = {.type = type, .offset = w->at, .length = len};
        g_array_append_val(w->places, c);
    }
    store_le32(w->head, type);
    store_le32(w->head + 4, 0);
    store_le64(w->head + 8, len);
    w->crc = 0;
    put(w, w->head, sizeof(w->head));
}

static void end_chunk(struct state_writer *w)
{
    uint8_t le[STATE_CRC_BYTES];
    store_le32(le, w->crc);
    put_raw(w, le, sizeof(le));
    g_checksum_update(w->digest, w->head, sizeof(w->head));
    g_checksum_update(w->digest, le, sizeof(le));
    w->totals.chunks++;
}

int state_write_chunk(struct state_writer *w, uint32_t type, const void *payload, size_t len)
{
    state_write_flush(w);
    if (!w->rc) {
        begin_chunk(w, type, len);
        put(w, payload, len);
        end_chunk(w);
    }
    return w->rc;
}

int state_write_manifest(struct state_writer *w, const struct state_manifest *m)
{
    uint8_t h[STATE_HEADER_BYTES] = {0};
    size_t len;
    const char *text = json_object_to_json_string_length(state_manifest_json(m), JSON_C_TO_STRING_PLAIN, &len);
    w->manifest = m;
    if (len > STATE_MANIFEST_MAX && !w->rc) {
        w->rc = err_set(&w->err, E2BIG, "the manifest has more than %d bytes", STATE_MANIFEST_MAX);
    }
    memcpy(h, STATE_MAGIC, 8);
    store_le32(h + 8, STATE_VERSION);
    store_le32(h + 12, w->opt.aligned ? STATE_FLAG_ALIGNED : 0);
    store_le32(h + 16, w->opt.aligned ? STATE_PAGE : 0);
    store_le32(h + 28, crc32c(0, h, 28));
    put_raw(w, h, sizeof(h));
    return state_write_chunk(w, STATE_MANI, text, len);
}

int state_write_device(struct state_writer *w, const void *payload, size_t len)
{
    return state_write_chunk(w, STATE_DEVS, payload, len);
}

/* --- pages -------------------------------------------------------------------------------------------------------- */

static uint64_t data_bytes(const struct state_run *runs, unsigned n, enum state_page_kind kind)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++) {
        sum += runs[i].kind == kind ? runs[i].bytes : 0;
    }
    return sum;
}

static void add_crcs(struct state_writer *w, struct state_run *r, const uint8_t *data)
{
    size_t piece = r->kind == STATE_PAGES_RAW ? STATE_PAGE : r->bytes;
    r->crc = w->crcs->len;
    for (uint64_t at = 0; at < r->bytes; at += piece) {
        uint32_t crc = crc32c(0, data + at, piece);
        g_array_append_val(w->crcs, crc);
    }
}

static void put_data(struct state_writer *w, const struct state_run *runs, const void *const *data, unsigned n,
                     enum state_page_kind kind)
{
    for (unsigned i = 0; i < n; i++) {
        struct state_run r = runs[i];
        if (r.kind == kind) {
            r.offset = w->at;
            if (r.live) {
                put_raw(w, data[i], r.bytes);
            } else if (state_run_has_data(&r)) {
                put(w, data[i], r.bytes);
            }
            if (w->opt.index) {
                add_crcs(w, &r, data[i]);
                g_array_append_val(w->runs, r);
            }
            w->totals.pages[kind] += r.pages;
        }
    }
}

static void put_live_crcs(struct state_writer *w, const struct state_run *runs, const void *const *data, unsigned n)
{
    uint8_t le[STATE_CRC_BYTES];
    for (unsigned i = 0; i < n; i++) {
        for (uint64_t at = 0; runs[i].live && at < runs[i].bytes; at += STATE_PAGE) {
            store_le32(le, crc32c(0, (const uint8_t *)data[i] + at, STATE_PAGE));
            put(w, le, sizeof(le));
        }
    }
}

static void put_runs(struct state_writer *w, const struct state_run *runs, const void *const *data, unsigned n)
{
    uint8_t h[STATE_RAM_HEAD] = {0}, run[STATE_RUN_BYTES];
    static const uint8_t zeroes[STATE_PAGE];
    uint64_t raw = data_bytes(runs, n, STATE_PAGES_RAW), zstd = data_bytes(runs, n, STATE_PAGES_ZSTD);
    uint64_t lead = STATE_RAM_HEAD + (uint64_t)n * STATE_RUN_BYTES + state_runs_live(runs, n) * STATE_CRC_BYTES,
             from = w->at + STATE_HEAD_BYTES + lead;
    uint32_t pad = w->opt.aligned && raw ? (uint32_t)(round_up(from, STATE_PAGE) - from) : 0;
    begin_chunk(w, STATE_RAMP, lead + pad + raw + zstd);
    store_le16(h, (uint16_t)runs[0].block);
    store_le32(h + 4, n);
    store_le32(h + 8, pad);
    put(w, h, sizeof(h));
    for (unsigned i = 0; i < n; i++) {
        state_run_store(run, &runs[i]);
        put(w, run, sizeof(run));
    }
    put_live_crcs(w, runs, data, n);
    put(w, zeroes, pad);
    for (enum state_page_kind k = STATE_PAGES_RAW; k <= STATE_PAGES_SAME; k++) {
        put_data(w, runs, data, n, k);
    }
    put_data(w, runs, data, n, STATE_PAGES_ZERO);
    end_chunk(w);
}

/* The batch's raw runs in pieces of FRAME_PAGES, compressed where that saves an eighth; into `store`. */
static void compress(struct state_writer *w, GArray *runs, GPtrArray *data, GPtrArray *store)
{
    struct batch *b = &w->batch;
    const uint8_t *p = b->data;
    w->zstd = w->zstd ? w->zstd : ZSTD_createCCtx();
    for (guint i = 0; i < b->runs->len; i++) {
        struct state_run whole = g_array_index(b->runs, struct state_run, i);
        if (whole.kind != STATE_PAGES_RAW) {
            g_array_append_val(runs, whole);
            g_ptr_array_add(data, NULL);
            continue;
        }
        for (uint32_t done = 0; done < whole.pages; done += FRAME_PAGES) {
            struct state_run r = whole;
            r.page += done;
            r.pages = MIN(FRAME_PAGES, whole.pages - done);
            r.bytes = (uint64_t)r.pages * STATE_PAGE;
            void *out = g_malloc(ZSTD_compressBound(r.bytes));
            size_t n = ZSTD_compressCCtx(w->zstd, out, ZSTD_compressBound(r.bytes), p, r.bytes, w->opt.zstd_level);
            bool helps = !ZSTD_isError(n) && n <= r.bytes - r.bytes / 8;
            g_ptr_array_add(data, helps ? out : (gpointer)(uintptr_t)p);
            g_ptr_array_add(store, out);
            p += r.bytes;
            r.kind = helps ? STATE_PAGES_ZSTD : STATE_PAGES_RAW;
            r.bytes = helps ? n : r.bytes;
            g_array_append_val(runs, r);
        }
    }
}

static void write_batch(struct state_writer *w)
{
    struct batch *b = &w->batch;
    g_autoptr(GPtrArray) data = g_ptr_array_new(), store = g_ptr_array_new_with_free_func(g_free);
    if (w->opt.zstd_level && b->pages) {
        GArray *runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
        compress(w, runs, data, store);
        put_runs(w, (const struct state_run *)(void *)runs->data, (const void *const *)data->pdata, runs->len);
        g_array_unref(runs);
    } else {
        uint64_t at = 0;
        for (guint i = 0; i < b->runs->len; i++) {
            const struct state_run *r = &g_array_index(b->runs, struct state_run, i);
            g_ptr_array_add(data, r->bytes ? b->data + at : NULL);
            at += r->bytes;
        }
        put_runs(w, (const struct state_run *)(void *)b->runs->data, (const void *const *)data->pdata, b->runs->len);
    }
    g_array_set_size(b->runs, 0);
    b->pages = 0;
    b->end = 0;
}

static void end_batch(struct state_writer *w)
{
    if (!w->rc && w->batch.runs->len) {
        write_batch(w);
    }
}

int state_write_flush(struct state_writer *w)
{
    end_batch(w);
    flush_buffer(w);
    return w->rc;
}

int state_write_runs(struct state_writer *w, const struct state_run *runs, const void *const *data, unsigned n)
{
    end_batch(w);
    for (unsigned i = 0; i < n && !w->rc; i++) {
        bool order = i == 0 || (runs[i].block == runs[0].block && runs[i].page >= runs[i - 1].page + runs[i - 1].pages);
        if (!order || n > STATE_RUNS_MAX || (runs[i].live && w->opt.index) ||
            state_run_check(&runs[i], w->manifest, NULL) < 0) {
            w->rc = err_set(&w->err, EINVAL, "%s: run %u of RAM block %u cannot be written", w->sink.name, i,
                            runs[i].block);
        }
    }
    if (!w->rc && n) {
        put_runs(w, runs, data, n);
    }
    return w->rc;
}

/* Room in the batch for pages of this block from this page on; false: an error came, now or before. */
static bool prepare(struct state_writer *w, const struct state_run *r)
{
    struct batch *b = &w->batch;
    if (!w->rc && state_run_check(r, w->manifest, &w->err) < 0) {
        w->rc = err_wrap(&w->err, "%s", w->sink.name);
    }
    bool full = b->pages >= STATE_BATCH_PAGES || b->runs->len >= BATCH_RUNS_MAX;
    if (!w->rc && b->runs->len && (full || b->block != r->block || r->page < b->end)) {
        write_batch(w);
    }
    b->block = r->block;
    return !w->rc;
}

static void append(struct batch *b, const struct state_run *r)
{
    struct state_run *last = b->runs->len ? &g_array_index(b->runs, struct state_run, b->runs->len - 1) : NULL;
    bool joins = last && last->kind == r->kind && last->page + last->pages == r->page &&
                 r->pages <= UINT32_MAX - last->pages && r->kind != STATE_PAGES_SAME;
    if (joins) {
        last->pages += r->pages;
        last->bytes += r->bytes;
    } else {
        g_array_append_val(b->runs, *r);
    }
    b->end = r->page + r->pages;
}

int state_write_page(struct state_writer *w, unsigned block, uint64_t page, const void *data)
{
    if (buf_is_zero(data, STATE_PAGE)) {
        return state_write_zero_pages(w, block, page, 1);
    }
    struct state_run r = {.block = block, .kind = STATE_PAGES_RAW, .page = page, .pages = 1, .bytes = STATE_PAGE};
    if (prepare(w, &r)) {
        struct batch *b = &w->batch;
        b->data = b->data ? b->data : g_malloc((size_t)STATE_BATCH_PAGES * STATE_PAGE);
        memcpy(b->data + (size_t)b->pages++ * STATE_PAGE, data, STATE_PAGE);
        append(b, &r);
    }
    return w->rc;
}

int state_write_zero_pages(struct state_writer *w, unsigned block, uint64_t page, uint64_t pages)
{
    while (pages && !w->rc) {
        struct state_run r = {
            .block = block, .kind = STATE_PAGES_ZERO, .page = page, .pages = (uint32_t)min_u64(pages, 1 << 30)};
        if (prepare(w, &r)) {
            append(&w->batch, &r);
        }
        page += r.pages;
        pages -= r.pages;
    }
    return w->rc;
}

int state_write_same_pages(struct state_writer *w, const struct state_run *same)
{
    struct state_run r = *same;
    r.kind = STATE_PAGES_SAME;
    r.bytes = r.offset = r.skip = 0;
    if (prepare(w, &r)) {
        append(&w->batch, &r);
    }
    return w->rc;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static void put_index_run(struct state_writer *w, const struct state_run *r)
{
    uint8_t p[STATE_INDEX_RUN] = {0};
    bool same = r->kind == STATE_PAGES_SAME;
    store_le64(p, r->page);
    store_le32(p + 8, r->pages);
    p[12] = (uint8_t)r->kind;
    store_le16(p + 14, (uint16_t)r->block);
    store_le64(p + 16, same ? r->other_page : r->kind == STATE_PAGES_ZERO ? 0 : r->offset);
    store_le64(p + 24, r->bytes);
    store_le16(p + 32, (uint16_t)r->other_block);
    store_le32(p + 36, r->skip);
    put(w, p, sizeof(p));
}

/* In the order of the index. */
static void put_crcs(struct state_writer *w)
{
    uint8_t le[STATE_CRCS_HEAD] = {0};
    uint64_t n = 0;
    for (guint i = 0; i < w->runs->len; i++) {
        n += state_run_crcs(&g_array_index(w->runs, struct state_run, i));
    }
    store_le32(le, (uint32_t)n);
    begin_chunk(w, STATE_RCRC, sizeof(le) + n * STATE_CRC_BYTES);
    put(w, le, sizeof(le));
    for (guint i = 0; i < w->runs->len; i++) {
        const struct state_run *r = &g_array_index(w->runs, struct state_run, i);
        for (uint32_t k = 0; k < state_run_crcs(r); k++) {
            store_le32(le, g_array_index(w->crcs, uint32_t, r->crc + k));
            put(w, le, STATE_CRC_BYTES);
        }
    }
    end_chunk(w);
}

static uint64_t put_index(struct state_writer *w)
{
    state_runs_settle(w->runs);
    put_crcs(w);
    uint64_t at = w->at;
    uint8_t p[STATE_INDEX_HEAD] = {0};
    guint chunks = w->places->len;
    store_le32(p, chunks);
    store_le64(p + 8, w->runs->len);
    begin_chunk(w, STATE_RIDX,
                STATE_INDEX_HEAD + (uint64_t)chunks * STATE_INDEX_CHUNK + (uint64_t)w->runs->len * STATE_INDEX_RUN);
    put(w, p, sizeof(p));
    for (guint i = 0; i < chunks; i++) {
        const struct state_chunk *c = &g_array_index(w->places, struct state_chunk, i);
        uint8_t e[STATE_INDEX_CHUNK] = {0};
        store_le32(e, c->type);
        store_le64(e + 8, c->offset);
        put(w, e, sizeof(e));
    }
    for (guint i = 0; i < w->runs->len; i++) {
        put_index_run(w, &g_array_index(w->runs, struct state_run, i));
    }
    end_chunk(w);
    return at;
}

int state_write_stop(struct state_writer *w, struct state_totals *totals)
{
    state_write_flush(w);
    if (w->rc) {
        return w->rc;
    }
    uint64_t index = w->opt.index ? put_index(w) : 0;
    uint8_t p[STATE_STOP_BYTES] = {0};
    gsize n = STATE_DIGEST_BYTES;
    w->totals.bytes = w->at;
    store_le64(p, w->totals.chunks);
    store_le64(p + 8, w->at);
    store_le64(p + 16, index);
    for (int k = 0; k < STATE_PAGE_KINDS; k++) {
        store_le64(p + 24 + 8 * k, w->totals.pages[k]);
    }
    g_checksum_get_digest(w->digest, p + 56, &n);
    if (totals) {
        *totals = w->totals;
        memcpy(totals->digest, p + 56, sizeof(totals->digest));
    }
    begin_chunk(w, STATE_STOP, sizeof(p));
    put(w, p, sizeof(p));
    uint8_t le[STATE_CRC_BYTES];
    store_le32(le, w->crc);
    put_raw(w, le, sizeof(le));
    flush_buffer(w);
    return w->rc;
}

uint64_t state_writer_bytes(const struct state_writer *w)
{
    return w->at;
}

void state_writer_totals(const struct state_writer *w, struct state_totals *out)
{
    *out = w->totals;
    out->bytes = w->at;
}

int state_writer_error(const struct state_writer *w, struct err *e)
{
    return w->rc ? err_set(e, -w->rc, "%s", err_text(&w->err)) : 0;
}
