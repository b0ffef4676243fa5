/* SPDX-License-Identifier: BSD-2-Clause */
/* Streams: written, read from the front and at any place, changed in every byte, cut off at every byte. */
#include "world.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct state_write_options kinds[] = {
    {0},
    {.index = true},
    {.aligned = true, .index = true},
    {.aligned = true, .index = true, .zstd_level = 1},
    {.zstd_level = 3},
};

/* What the small stream's pages must be in the end. */
static void expect_page(unsigned block, uint64_t page, const uint8_t *data)
{
    bool x = (block == 0 && page == 2) || (block == 1 && (page == 0 || page == 4));
    bool noise = (block == 0 && page == 1) || (block == 1 && page == 3);
    for (unsigned i = 0; i < STATE_PAGE; i++) {
        assert_int_equal(data[i], x ? 'x' : noise ? (uint8_t)(i * 2654435761u >> 13) : 0);
    }
}

static void test_front(void **state)
{
    for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
        for (size_t step = 0; step < 8; step += 7) {
            struct memory m;
            CLEANUP_ERR struct err e = ERR_INIT;
            memory_init(&m);
            memory_write_small(&m, &kinds[k]);
            m.chunk = step;
            int rc = memory_read_all(&m, true, &e);
            if (rc) {
                fail_msg("kind %u: %s", k, err_text(&e));
            }
            assert_int_equal(m.at, m.bytes->len);
            memory_finish(&m);
        }
    }
}

static void test_pages(void **state)
{
    for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
        struct memory m;
        CLEANUP_ERR struct err e = ERR_INIT;
        uint8_t ram[2][8][STATE_PAGE];
        memset(ram, 0, sizeof(ram));
        memory_init(&m);
        memory_write_small(&m, &kinds[k]);
        struct state_source s = memory_source(&m, true);
        struct state_reader *r = state_reader_create(&s, &e);
        struct state_chunk c;
        struct state_run run;
        while (state_read_next(r, &c) > 0) {
            while (c.type == STATE_RAMP && state_read_run(r, &run) > 0) {
                uint8_t *dst = ram[run.block][run.page];
                if (run.bytes) {
                    assert_int_equal(state_read_run_data(r, dst), 0);
                } else if (run.kind == STATE_PAGES_SAME) {
                    memcpy(dst, ram[run.other_block][run.other_page], run.pages * STATE_PAGE);
                }
                if (kinds[k].aligned && run.kind == STATE_PAGES_RAW) {
                    assert_int_equal(run.offset % STATE_PAGE, 0);
                    assert_memory_equal(m.bytes->data + run.offset, dst, run.bytes);
                }
            }
        }
        struct state_totals t;
        state_reader_totals(r, &t);
        assert_int_equal(state_reader_error(r, &e), 0);
        assert_int_equal(t.pages[STATE_PAGES_RAW] + t.pages[STATE_PAGES_ZSTD], 3);
        assert_int_equal(t.pages[STATE_PAGES_ZERO], 2);
        assert_int_equal(t.pages[STATE_PAGES_SAME], 2);
        assert_true((t.pages[STATE_PAGES_ZSTD] > 0) == (kinds[k].zstd_level > 0));
        for (unsigned b = 0; b < 2; b++) {
            for (unsigned p = 0; p < state_manifest_block_pages(state_reader_manifest(r), b); p++) {
                expect_page(b, p, ram[b][p]);
            }
        }
        state_reader_destroy(r);
        memory_finish(&m);
    }
}

static void check_index(struct memory *m, const struct state_source *s, struct state_reader *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct state_index *x = state_index_read(r, &e);
    if (!x) {
        fail_msg("%s", err_text(&e));
    }
    unsigned n, devices = 0;
    const struct state_chunk *c = state_index_chunks(x, &n);
    for (unsigned i = 0; i < n; i++) {
        if (c[i].type == STATE_DEVS) {
            struct toy_state st;
            g_autoptr(GByteArray) b = state_index_payload(r, &c[i], STATE_DEVICE_MAX, &e);
            assert_non_null(b);
            assert_int_equal(state_decode(state_reader_manifest(r), &toy_section, b, NULL, &st, &e), 0);
            devices++;
        }
    }
    assert_int_equal(devices, 2);
    for (unsigned b = 0; b < 2; b++) {
        for (unsigned p = 0; p < state_manifest_block_pages(state_reader_manifest(r), b); p++) {
            uint8_t page[STATE_PAGE] = {0};
            const struct state_run *run = state_index_find(x, b, p);
            if (run) {
                assert_int_equal(state_index_read_pages(s, x, run, (uint32_t)(p - run->page), 1, page), 0);
                assert_true(state_index_read_pages(s, x, run, run->pages, 1, page) == -EINVAL);
            }
            expect_page(b, p, page);
        }
    }
    assert_null(state_index_find(x, 0, 0));
    assert_null(state_index_find(x, 0, 3));
    assert_null(state_index_find(x, 1, 5));
    assert_null(state_index_find(x, 2, 0));
    state_index_destroy(x);
}

/* A byte of a page or a frame changes: whoever reads it by the index is told. */
static void test_damaged_pages(void **state)
{
    for (unsigned k = 1; k < 4; k++) {
        struct memory m;
        memory_init(&m);
        memory_write_small(&m, &kinds[k]);
        const struct state_source s = memory_source(&m, false);
        struct state_reader *r = state_reader_create(&s, NULL);
        struct state_index *x = state_index_read(r, NULL);
        uint64_t n, tried = 0;
        const struct state_run *run = state_index_runs(x, &n);
        uint8_t page[STATE_PAGE];
        assert_true(state_index_has_crcs(x));
        for (uint64_t i = 0; i < n; i++) {
            for (uint64_t at = 0; at < run[i].bytes; at += run[i].kind == STATE_PAGES_RAW ? 97 : 1) {
                bool raw = run[i].kind == STATE_PAGES_RAW;
                uint32_t hit = raw ? (uint32_t)(at / STATE_PAGE) : 0;
                m.bytes->data[run[i].offset + at] ^= 0x10;
                assert_int_equal(-EBADMSG, state_index_read_pages(&s, x, &run[i], hit, 1, page));
                for (uint32_t p = 0; raw && p < run[i].pages; p++) {
                    assert_true(p == hit || state_index_read_pages(&s, x, &run[i], p, 1, page) == 0);
                }
                m.bytes->data[run[i].offset + at] ^= 0x10;
                tried++;
            }
        }
        assert_true(tried > 10);
        state_index_destroy(x);
        state_reader_destroy(r);
        memory_finish(&m);
    }
}

/* With an index and without, and with something behind the end. */
static void test_anywhere(void **state)
{
    for (unsigned k = 0; k < 2 * G_N_ELEMENTS(kinds); k++) {
        struct memory m;
        CLEANUP_ERR struct err e = ERR_INIT;
        memory_init(&m);
        memory_write_small(&m, &kinds[k / 2]);
        if (k & 1) {
            g_byte_array_append(m.bytes, (const uint8_t *)"behind the end", 14);
        }
        struct state_source s = memory_source(&m, false);
        struct state_reader *r = state_reader_create(&s, &e);
        assert_non_null(r);
        check_index(&m, &s, r);
        state_reader_destroy(r);
        memory_finish(&m);
    }
}

/* Pages written over and over, in any order: forward, by the index and in a plain copy they are the same. */
static void test_rewritten(void **state)
{
    enum { PAGES = 200, WRITES = 600 };
    static uint8_t ram[PAGES][STATE_PAGE], back[PAGES][STATE_PAGE];
    unsigned seed = 1;
    for (unsigned k = 1; k < G_N_ELEMENTS(kinds); k++) {
        struct memory m;
        struct state_manifest *mf = state_manifest_create("virt-0.1", "0.1.0");
        memory_init(&m);
        state_manifest_add_ram(mf, "ram", PAGES * STATE_PAGE);
        struct state_sink sink = memory_sink(&m);
        struct state_writer *w = state_writer_create(&sink, &kinds[k]);
        state_write_manifest(w, mf);
        memset(ram, 0, sizeof(ram));
        memset(back, 0, sizeof(back));
        for (int i = 0; i < WRITES; i++) {
            unsigned page = (seed = seed * 1103515245 + 12345) >> 16, n = 1 + (page >> 4) % 24;
            page = MIN(page % PAGES, PAGES - n);
            for (unsigned p = page; p < page + n; p++) {
                memset(ram[p], i % 5 ? i : 0, STATE_PAGE);
                if (i % 5 != 3) {
                    ram[p][p] = (uint8_t)i;
                }
                state_write_page(w, 0, p, ram[p]);
            }
        }
        state_write_stop(w, NULL);
        struct state_source s = memory_source(&m, false);
        CLEANUP_ERR struct err e = ERR_INIT;
        struct state_reader *r = state_reader_create(&s, &e);
        struct state_index *x = state_index_read(r, &e);
        assert_non_null(x);
        uint64_t n;
        const struct state_run *run = state_index_runs(x, &n);
        for (uint64_t i = 0; i < n; i++) {
            assert_true(i == 0 || run[i - 1].page + run[i - 1].pages <= run[i].page);
            assert_int_equal(state_index_read_pages(&s, x, &run[i], 0, run[i].pages, back[run[i].page]), 0);
        }
        assert_memory_equal(ram, back, sizeof(ram));
        memset(back, 1, sizeof(back));
        struct state_chunk c;
        struct state_run one;
        while (state_read_next(r, &c) > 0) {
            while (c.type == STATE_RAMP && state_read_run(r, &one) > 0) {
                if (one.bytes) {
                    state_read_run_data(r, back[one.page]);
                } else {
                    memset(back[one.page], 0, one.pages * STATE_PAGE);
                }
            }
        }
        assert_int_equal(state_reader_error(r, &e), 0);
        for (unsigned p = 0; p < PAGES; p++) {
            if (state_index_find(x, 0, p)) {
                assert_memory_equal(ram[p], back[p], STATE_PAGE);
            }
        }
        state_index_destroy(x);
        state_reader_destroy(r);
        state_writer_destroy(w);
        state_manifest_destroy(mf);
        memory_finish(&m);
    }
}

/* Every single byte changed: refused. The second time without the manifest, which is the same. */
static void test_every_byte(void **state)
{
    for (unsigned k = 1; k < 4; k += 2) {
        struct memory m;
        memory_init(&m);
        memory_write_small(&m, &kinds[k]);
        for (guint i = k == 1 ? 0 : 4096; i < m.bytes->len; i++) {
            for (unsigned x = 1; x < 256; x += i < 4096 ? 255 : 127) {
                CLEANUP_ERR struct err e = ERR_INIT;
                m.bytes->data[i] ^= (uint8_t)x;
                int rc = memory_read_all(&m, i & 1, &e);
                m.bytes->data[i] ^= (uint8_t)x;
                if (rc >= 0 || !err_is_set(&e)) {
                    fail_msg("kind %u: byte %u changed by %x: %d, %s", k, i, x, rc, err_text(&e));
                }
                i += i > 8192 && i + 1200 < m.bytes->len ? 61 : 0; /* the data of pages is all alike */
            }
        }
        memory_finish(&m);
    }
}

static void test_truncated(void **state)
{
    struct memory m;
    memory_init(&m);
    memory_write_small(&m, &kinds[1]);
    guint whole = m.bytes->len;
    for (guint n = 0; n < whole; n++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        m.bytes->len = n;
        assert_int_equal(memory_read_all(&m, true, &e), -ENODATA);
        assert_non_null(strstr(err_text(&e), "it is incomplete"));
        n += n > 8192 && n + 1200 < whole ? 61 : 0;
    }
    m.bytes->len = whole;
    memory_finish(&m);
}

/* A file of the format's first days: read as ever, from the front and by the index. */
static void test_golden(void **state)
{
    struct memory m;
    CLEANUP_ERR struct err e = ERR_INIT;
    gchar *data = NULL;
    gsize len;
    CLEANUP_FREE char *path = g_build_filename(g_getenv("STERNA_SOURCE"), "tests/state/golden/small.state", NULL);
    assert_true(g_file_get_contents(path, &data, &len, NULL));
    memory_init(&m);
    g_byte_array_append(m.bytes, (const uint8_t *)data, (guint)len);
    g_free(data);
    assert_int_equal(memory_read_all(&m, true, &e), 0);
    struct state_source s = memory_source(&m, false);
    struct state_reader *r = state_reader_create(&s, &e);
    assert_non_null(r);
    check_index(&m, &s, r);
    state_reader_destroy(r);
    memory_finish(&m);
}

/* Each byte of it, whatever it is about, pages too: in one bit, in some, and in all. */
static void test_golden_damaged(void **state)
{
    static const uint8_t changes[] = {1, 0x80, 0x55, 0xff};
    struct memory m;
    gchar *data = NULL;
    gsize len;
    CLEANUP_FREE char *path = g_build_filename(g_getenv("STERNA_SOURCE"), "tests/state/golden/small.state", NULL);
    assert_true(g_file_get_contents(path, &data, &len, NULL));
    memory_init(&m);
    g_byte_array_append(m.bytes, (const uint8_t *)data, (guint)len);
    g_free(data);
    for (guint i = 0; i < m.bytes->len; i++) {
        for (unsigned k = 0; k < G_N_ELEMENTS(changes); k++) {
            CLEANUP_ERR struct err e = ERR_INIT;
            m.bytes->data[i] ^= changes[k];
            int rc = memory_read_all(&m, k & 1, &e);
            m.bytes->data[i] ^= changes[k];
            if (rc >= 0 || !err_is_set(&e)) {
                fail_msg("byte %u changed by %x: %d, %s", i, changes[k], rc, err_text(&e));
            }
        }
    }
    memory_finish(&m);
}

/* The small stream without what comes after its manifest. */
static void begin(struct memory *m)
{
    memory_init(m);
    memory_write_small(m, &kinds[0]);
    size_t len = load_le64(m->bytes->data + STATE_HEADER_BYTES + 8);
    g_byte_array_set_size(m->bytes, (guint)(STATE_HEADER_BYTES + STATE_HEAD_BYTES + len + 4));
}

static void add_chunk(struct memory *m, uint32_t type, const void *data, size_t len)
{
    uint8_t h[STATE_HEAD_BYTES] = {0}, le[4];
    store_le32(h, type);
    store_le64(h + 8, len);
    store_le32(le, crc32c(crc32c(0, h, sizeof(h)), data, len));
    g_byte_array_append(m->bytes, h, sizeof(h));
    g_byte_array_append(m->bytes, data, (guint)len);
    g_byte_array_append(m->bytes, le, 4);
}

static void expect_refused(struct memory *m, const char *part)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    int rc = memory_read_all(m, true, &e);
    if (rc >= 0 || !strstr(err_text(&e), part)) {
        fail_msg("expected '%s', got %d: %s", part, rc, err_text(&e));
    }
    memory_finish(m);
}

/* Chunks that no writer makes, with right checksums. */
static void test_hostile(void **state)
{
    struct memory m;
    uint8_t ram[80] = {0}; /* head and two runs */
    begin(&m);
    store_le32(ram + 4, 1);
    store_le64(ram + 16, 7); /* page 7 of 8, two pages */
    store_le32(ram + 24, 2);
    add_chunk(&m, STATE_RAMP, ram, 48);
    expect_refused(&m, "chunk RAMP at offset");
    begin(&m);
    store_le16(ram, 2);
    add_chunk(&m, STATE_RAMP, ram, 48);
    expect_refused(&m, "there is no RAM block 2");
    begin(&m);
    store_le16(ram, 0);
    store_le32(ram + 4, UINT32_MAX);
    add_chunk(&m, STATE_RAMP, ram, 48);
    expect_refused(&m, "its head has 4294967295 runs");
    begin(&m);
    store_le32(ram + 4, 60000);
    add_chunk(&m, STATE_RAMP, ram, 48);
    expect_refused(&m, "it is shorter than what it holds");
    begin(&m);
    store_le32(ram + 4, 2);
    store_le64(ram + 16, 1);
    store_le32(ram + 24, 1);
    store_le64(ram + 48, 1);
    store_le32(ram + 56, 1);
    add_chunk(&m, STATE_RAMP, ram, 80);
    expect_refused(&m, "run 1 does not come after the one before it");
    begin(&m);
    store_le64(ram + 48, 2);
    ram[60] = STATE_PAGES_ZSTD;
    store_le64(ram + 64, UINT64_MAX);
    add_chunk(&m, STATE_RAMP, ram, 80);
    expect_refused(&m, "run 1: a run of 1 pages of kind 2 with 18446744073709551615 bytes");
    begin(&m);
    store_le64(ram + 64, 4);
    add_chunk(&m, STATE_RAMP, ram, 80);
    expect_refused(&m, "its length is not that of its runs");
    begin(&m);
    ram[60] = STATE_PAGES_SAME;
    store_le32(ram + 56, 2);
    store_le64(ram + 64, 0);
    store_le64(ram + 72, 1);
    add_chunk(&m, STATE_RAMP, ram, 80);
    expect_refused(&m, "run 1: pages 2 and on are said to be like themselves");
    begin(&m);
    add_chunk(&m, STATE_MANI, "{}", 2);
    expect_refused(&m, "a second manifest");
    begin(&m);
    add_chunk(&m, STATE_DEVS, "\x03\0abc", 5);
    expect_refused(&m, "device 'abc' is not in the manifest");
    begin(&m);
    add_chunk(&m, STATE_DEVS, "\xff\xff", 2);
    expect_refused(&m, "does not begin with a path");
    begin(&m);
    add_chunk(&m, STATE_LETTERS('N', 'E', 'W', 'S'), "x", 1);
    expect_refused(&m, "chunk NEWS at offset");
    begin(&m);
    add_chunk(&m, STATE_LETTERS('n', 'E', 'w', 'S'), "x", 1);
    expect_refused(&m, "no chunk begins here");
    begin(&m);
    add_chunk(&m, STATE_LETTERS('n', 'e', 'W', 's'), "x", 1); /* ancillary: skipped */
    expect_refused(&m, "it is incomplete");
    begin(&m);
    store_le64(m.bytes->data + STATE_HEADER_BYTES + 8, 1ull << 62);
    expect_refused(&m, "it claims 4611686018427387904 bytes, more than the 16777216 that are allowed");
}

static void test_missing_device(void **state)
{
    struct memory m;
    memory_init(&m);
    struct state_sink sink = memory_sink(&m);
    struct state_writer *w = state_writer_create(&sink, &kinds[0]);
    struct state_manifest *mf = state_manifest_create("virt-0.1", "0.1.0");
    state_manifest_add_device(mf, "/toy0", &toy_section, NULL);
    state_write_manifest(w, mf);
    state_write_stop(w, NULL);
    state_writer_destroy(w);
    state_manifest_destroy(mf);
    expect_refused(&m, "the manifest announces device '/toy0', which has not come");
}

static void test_sticky(void **state)
{
    for (size_t at = 1; at < 3000; at += 97) {
        struct memory m;
        CLEANUP_ERR struct err e = ERR_INIT;
        memory_init(&m);
        m.fail_at = at;
        struct state_sink sink = memory_sink(&m);
        struct state_writer *w = state_writer_create(&sink, &kinds[1]);
        struct state_manifest *mf = state_manifest_create("virt-0.1", "0.1.0");
        state_manifest_add_ram(mf, "ram", 8 * STATE_PAGE);
        state_write_manifest(w, mf);
        uint8_t page[STATE_PAGE];
        memset(page, 1, sizeof(page));
        state_write_page(w, 0, 0, page);
        assert_int_equal(state_write_stop(w, NULL), -ENOSPC);
        assert_int_equal(state_write_page(w, 0, 1, page), -ENOSPC);
        assert_int_equal(state_writer_error(w, &e), -ENOSPC);
        assert_non_null(strstr(err_text(&e), "memory: cannot write the machine's state"));
        state_writer_destroy(w);
        state_manifest_destroy(mf);
        memory_finish(&m);
    }
    struct memory m;
    CLEANUP_ERR struct err e = ERR_INIT;
    memory_init(&m);
    struct state_sink sink = memory_sink(&m);
    struct state_writer *w = state_writer_create(&sink, &kinds[1]);
    struct state_manifest *mf = state_manifest_create("virt-0.1", "0.1.0");
    state_write_manifest(w, mf);
    uint8_t page[STATE_PAGE] = {1};
    assert_int_equal(state_write_page(w, 0, 0, page), -EINVAL);
    state_writer_error(w, &e);
    assert_string_equal(err_text(&e), "memory: there is no RAM block 0");
    state_writer_destroy(w);
    state_manifest_destroy(mf);
    memory_finish(&m);
}

static void expect_manifest(const char *text, const char *part)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_null(state_manifest_parse(text, strlen(text), &e));
    if (!strstr(err_text(&e), part)) {
        fail_msg("expected '%s', got: %s", part, err_text(&e));
    }
}

#define FRONT "{\"machine\":\"m\",\"release\":\"r\",\"page-size\":4096,"

static void test_manifests(void **state)
{
    expect_manifest("", "is not a JSON object");
    expect_manifest("[]", "is not a JSON object");
    expect_manifest("{} x", "is not a JSON object");
    expect_manifest("{}", "there is no 'machine' or no 'release'");
    expect_manifest("{\"machine\":\"m\",\"release\":\"r\",\"page-size\":8192}", "'page-size' is not 4096");
    expect_manifest(FRONT "\"ram\":1}", "there is no list 'ram'");
    expect_manifest(FRONT "\"ram\":[{\"name\":\"a\",\"size\":4097}]}", "no size in whole pages");
    expect_manifest(FRONT "\"ram\":[{\"name\":\"a\",\"size\":4096},{\"name\":\"a\",\"size\":4096}]}",
                    "RAM block 'a' is there twice");
    expect_manifest(FRONT "\"ram\":[],\"schemas\":{},\"devices\":[{\"path\":\"/a\",\"section\":\"s\"}]}",
                    "device '/a': there is no schema of its section 's'");
    expect_manifest(FRONT
                    "\"ram\":[],\"schemas\":{\"s\":{\"section\":\"t\",\"version\":1,\"fields\":[]}},\"devices\":[]}",
                    "schema 's' says that it is of section 't'");
    expect_manifest(FRONT "\"ram\":[],\"tag\":7,\"schemas\":{},\"devices\":[]}", "'tag' is not a text");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_front),          cmocka_unit_test(test_pages),     cmocka_unit_test(test_anywhere),
        cmocka_unit_test(test_damaged_pages),  cmocka_unit_test(test_rewritten), cmocka_unit_test(test_every_byte),
        cmocka_unit_test(test_truncated),      cmocka_unit_test(test_hostile),   cmocka_unit_test(test_missing_device),
        cmocka_unit_test(test_sticky),         cmocka_unit_test(test_manifests), cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
