/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as a machine's state: read from the front and by the index, its devices taken over, printed, converted. The
 * first byte says whether the checksums are put right before, as otherwise little would get past them, and whether it
 * is read as by a machine, which takes live pages, too.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "state/convert.h"
#include "state/dump.h"
#include "state/format.h"

#include "../state/world.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW = 1, PIPE = 2, COMPRESS = 4, OLDER = 8, LIVE = 16 };

/* What a chunk's checksum is of: of a RAMP that is one run of live pages, all but these. */
static size_t checked(const uint8_t *chunk, size_t len)
{
    const uint8_t *run = chunk + STATE_HEAD_BYTES + STATE_RAM_HEAD;
    bool live = load_le32(chunk) == STATE_RAMP && len >= STATE_HEAD_BYTES + STATE_RAM_HEAD + STATE_RUN_BYTES &&
                load_le32(chunk + STATE_HEAD_BYTES + 4) == 1 && run[12] == STATE_PAGES_LIVE;
    size_t most = STATE_HEAD_BYTES + STATE_RAM_HEAD + STATE_RUN_BYTES;
    return live ? MIN(len, most + (size_t)load_le32(run + 8) * STATE_CRC_BYTES) : len;
}

/* Checksums, counts and digest as they should be, as far as the chunks' lengths make sense. */
static void put_right(GByteArray *b)
{
    g_autoptr(GChecksum) digest = g_checksum_new(G_CHECKSUM_SHA256);
    uint8_t *p = b->data;
    uint64_t at = STATE_HEADER_BYTES, chunks = 0, index = 0;
    if (b->len >= STATE_HEADER_BYTES) {
        store_le32(p + 28, crc32c(0, p, 28));
    }
    while (b->len >= STATE_HEAD_BYTES && at <= b->len - STATE_HEAD_BYTES) {
        uint64_t len = load_le64(p + at + 8), end = at + STATE_HEAD_BYTES;
        if (!range_ok(end, len, b->len) || b->len - end - len < STATE_CRC_BYTES) {
            return;
        }
        if (load_le32(p + at) == STATE_STOP && len == STATE_STOP_BYTES) {
            gsize n = STATE_DIGEST_BYTES;
            store_le64(p + end, chunks);
            store_le64(p + end + 8, at);
            store_le64(p + end + 16, index);
            g_autoptr(GChecksum) copy = g_checksum_copy(digest);
            g_checksum_get_digest(copy, p + end + 56, &n);
        }
        index = load_le32(p + at) == STATE_RIDX ? at : index;
        store_le32(p + end + len, crc32c(0, p + at, checked(p + at, STATE_HEAD_BYTES + len)));
        g_checksum_update(digest, p + at, STATE_HEAD_BYTES);
        g_checksum_update(digest, p + end + len, STATE_CRC_BYTES);
        chunks++;
        at = end + len + STATE_CRC_BYTES;
    }
}

static void must_say_why(const void *result, struct err *e)
{
    if (!result && !err_is_set(e)) {
        abort();
    }
    err_clear(e);
}

static void by_index(struct memory *m, struct state_reader *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_source s = *state_reader_source(r);
    struct state_index *x = state_index_read(r, &e);
    must_say_why(x, &e);
    uint64_t n = 0;
    const struct state_run *run = x ? state_index_runs(x, &n) : NULL;
    uint8_t page[STATE_PAGE];
    for (uint64_t i = 0; i < n && i < 100; i++) {
        state_index_read_pages(&s, x, &run[i], run[i].pages - 1, 1, page);
        if (state_index_find(x, run[i].block, run[i].page) != &run[i]) {
            abort();
        }
    }
    state_index_destroy(x);
}

static void dump(struct memory *m, bool pipe)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_source s = memory_source(m, pipe);
    struct state_reader *r = state_reader_create(&s, &e);
    must_say_why(r, &e);
    if (!r) {
        return;
    }
    CLEANUP_JSON struct json_object *o = state_dump(r, &e);
    must_say_why(o, &e);
    if (o) {
        json_object_to_json_string(o);
    }
    if (!pipe) {
        by_index(m, r);
    }
    state_reader_destroy(r);
}

/* A page that is torn in the end is an error. */
static void as_a_machine(struct memory *m)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_source s = memory_source(m, true);
    struct state_reader *r = state_reader_create(&s, &e);
    struct state_chunk c;
    struct state_run run;
    unsigned block;
    uint64_t page;
    if (!r) {
        return;
    }
    state_reader_take_live(r);
    g_autoptr(GByteArray) ram = g_byte_array_new();
    int rc;
    while ((rc = state_read_next(r, &c)) > 0) {
        while (c.type == STATE_RAMP && state_read_run(r, &run) > 0) {
            if (state_run_has_data(&run)) {
                g_byte_array_set_size(ram, run.pages * STATE_PAGE);
                state_read_run_data(r, ram->data);
            }
        }
    }
    if (rc == 0 && state_torn_any(state_reader_torn(r), &block, &page)) {
        abort();
    }
    state_reader_destroy(r);
}

static bool can_be_read(struct memory *m, struct err *e)
{
    struct state_source s = memory_source(m, false);
    struct state_reader *r = state_reader_create(&s, e);
    struct state_walk w = {.check_values = true, .check_pages = true};
    bool well = r && state_walk(r, &w, e) == 0;
    state_reader_destroy(r);
    return well;
}

/* What was converted can be read if it could be before: a critical chunk that is not known may be copied, but not
 * loaded. */
static void convert(struct memory *m, unsigned flags)
{
    static const struct state_compat older[] = {{"toy", 1, NULL}, {NULL}};
    CLEANUP_ERR struct err e = ERR_INIT;
    struct memory out;
    memory_init(&out);
    struct state_source s = memory_source(m, flags & PIPE);
    struct state_sink sink = memory_sink(&out);
    struct state_reader *r = state_reader_create(&s, &e);
    g_autoptr(GPtrArray) lost = g_ptr_array_new_with_free_func(g_free);
    struct state_policy p = {.compat = older};
    struct state_convert c = {.policy = flags & OLDER ? &p : NULL,
                              .write = {.aligned = flags & COMPRESS, .index = true, .zstd_level = flags & COMPRESS},
                              .sink = &sink,
                              .lost = lost};
    bool done = r && state_convert(r, &c, &e) == 0;
    must_say_why(done ? &done : NULL, &e);
    if (done) {
        CLEANUP_ERR struct err before = ERR_INIT;
        if (!can_be_read(&out, &e) && can_be_read(m, &before)) {
            abort();
        }
        err_clear(&e);
        struct state_source again = memory_source(&out, false);
        struct state_reader *b = state_reader_create(&again, &e);
        must_say_why(b, &e);
        by_index(&out, b);
        state_reader_destroy(b);
    }
    state_reader_destroy(r);
    memory_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) {
        return 0;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    struct memory m;
    memory_init(&m);
    g_byte_array_append(m.bytes, data + 1, (guint)size - 1);
    if (!(data[0] & RAW)) {
        put_right(m.bytes);
    }
    memory_read_all(&m, data[0] & PIPE, &e);
    if (data[0] & LIVE) {
        as_a_machine(&m);
    }
    dump(&m, data[0] & PIPE);
    convert(&m, data[0]);
    memory_finish(&m);
    return 0;
}
