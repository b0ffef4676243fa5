/* SPDX-License-Identifier: BSD-2-Clause */
/* RAM chunks, read from the front. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "state/reader.h"

#include <inttypes.h>
#include <string.h>

static int order(enum state_page_kind k)
{
    return k == STATE_PAGES_RAW ? 0 : k == STATE_PAGES_ZSTD ? 1 : k == STATE_PAGES_ZERO ? 2 : 3;
}

static int by_delivery(gconstpointer a, gconstpointer b)
{
    const struct state_run *x = a, *y = b;
    int d = order(x->kind) - order(y->kind);
    return d ? d : (x->page > y->page) - (x->page < y->page);
}

int state_runs_load(const uint8_t *p, uint32_t n, unsigned block, const struct state_manifest *m, GArray *out,
                    struct err *e)
{
    uint64_t end = 0;
    g_array_set_size(out, 0);
    for (uint32_t i = 0; i < n; i++) {
        struct state_run r;
        if (state_run_load(p + (size_t)i * STATE_RUN_BYTES, block, m, &r, e) < 0) {
            return err_wrap(e, "run %" PRIu32, i);
        }
        if (r.page < end) {
            return err_set(e, EINVAL, "run %" PRIu32 " does not come after the one before it", i);
        }
        end = r.page + r.pages;
        g_array_append_val(out, r);
    }
    g_array_sort(out, by_delivery);
    return 0;
}

/* Where each run's data is; returns the offset after the last. */
static uint64_t place(GArray *runs, uint64_t at)
{
    for (guint i = 0; i < runs->len; i++) {
        struct state_run *r = &g_array_index(runs, struct state_run, i);
        r->offset = state_run_has_data(r) ? at : 0;
        at += r->bytes; /* at most RUNS_MAX times a frame: no overflow */
    }
    return at;
}

/* --- live pages --------------------------------------------------------------------------------------------------- */

enum {
    LIVE_BYTES = 64 * STATE_PAGE
}; /* read at once: they are in the processor's cache when their CRCs are computed */

void state_reader_take_live(struct state_reader *r)
{
    r->take_live = true;
}

struct state_torn *state_reader_torn(struct state_reader *r)
{
    return r->torn;
}

/* What is left of the payload holds no fewer of them. */
static int open_live(struct state_reader *r, uint64_t pages)
{
    r->next_live = 0;
    g_byte_array_set_size(r->live_crcs, 0);
    return pages && !r->take_live
               ? state_reader_fail(r, ENOTSUP, "it has live pages, which are for another machine and not to be kept")
               : state_reader_collect(r, r->live_crcs, pages * STATE_CRC_BYTES);
}

static int read_live(struct state_reader *r, const struct state_run *run, uint8_t *dst)
{
    for (uint64_t at = 0, n; at < run->bytes; at += n) {
        n = MIN(run->bytes - at, LIVE_BYTES);
        if (state_reader_get_unchecked(r, dst + at, n) < 0) {
            break;
        }
        for (uint64_t k = at; k < at + n; k += STATE_PAGE, r->next_live += STATE_CRC_BYTES) {
            if (crc32c(0, dst + k, STATE_PAGE) != load_le32(r->live_crcs->data + r->next_live)) {
                state_torn_add(r->torn, run->block, run->page + k / STATE_PAGE);
            }
        }
    }
    return r->rc;
}

/* --- all of them -------------------------------------------------------------------------------------------------- */

int state_reader_open_ram(struct state_reader *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    uint8_t h[STATE_RAM_HEAD];
    g_byte_array_set_size(r->payload, 0);
    r->next_run = 0;
    r->data_left = 0;
    if (state_reader_get(r, h, sizeof(h)) < 0) {
        return r->rc;
    }
    uint32_t n = load_le32(h + 4), pad = load_le32(h + 8);
    if (!n || n > STATE_RUNS_MAX || pad >= STATE_PAGE || load_le16(h + 2) || load_le32(h + 12)) {
        return state_reader_fail(r, EINVAL, "its head has %" PRIu32 " runs and %" PRIu32 " bytes of padding", n, pad);
    }
    if (state_reader_collect(r, r->payload, (uint64_t)n * STATE_RUN_BYTES) < 0) {
        return r->rc;
    }
    if (state_runs_load(r->payload->data, n, load_le16(h), r->manifest, r->runs, &e) < 0) {
        return state_reader_take(r, &e);
    }
    const struct state_run *first = &g_array_index(r->runs, struct state_run, 0);
    uint64_t live = state_runs_live(first, n), between = live * STATE_CRC_BYTES + pad;
    uint64_t data = r->chunk.offset + STATE_HEAD_BYTES + STATE_RAM_HEAD + (uint64_t)n * STATE_RUN_BYTES + between;
    if (place(r->runs, data) - data + between != r->left) {
        return state_reader_fail(r, EINVAL, "its length is not that of its runs");
    }
    if (open_live(r, live) < 0) {
        return r->rc;
    }
    if (r->aligned && first->kind == STATE_PAGES_RAW && data % STATE_PAGE) {
        return state_reader_fail(r, EINVAL, "its pages are not aligned, which the header promises");
    }
    return state_reader_get(r, NULL, pad);
}

int state_read_run(struct state_reader *r, struct state_run *out)
{
    if (!r->rc && r->data_left) {
        state_reader_get(r, NULL, r->data_left);
        r->data_left = 0;
    }
    if (r->rc || r->next_run == r->runs->len) {
        return state_reader_end_chunk(r);
    }
    *out = g_array_index(r->runs, struct state_run, r->next_run);
    r->next_run++;
    r->data_left = out->bytes;
    state_torn_mend(r->torn, out->block, out->page, out->pages);
    return 1;
}

int state_read_run_data(struct state_reader *r, void *dst)
{
    const struct state_run *run = &g_array_index(r->runs, struct state_run, r->next_run - 1);
    CLEANUP_ERR struct err e = ERR_INIT;
    if (r->rc) {
        return r->rc;
    }
    r->data_left = 0;
    if (run->live) {
        return read_live(r, run, dst);
    }
    if (run->kind == STATE_PAGES_RAW) {
        return state_reader_get(r, dst, run->bytes);
    }
    g_byte_array_set_size(r->payload, 0);
    if (state_reader_collect(r, r->payload, run->bytes) == 0 && state_run_unpack(run, r->payload->data, dst, &e) < 0) {
        state_reader_take(r, &e);
    }
    return r->rc;
}
