/* SPDX-License-Identifier: BSD-2-Clause */
/* Live pages (state/stream.h, law 8): torn ones come once more, or the stream is refused. */
#include "world.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { PAGES = 8, FIRST = 2, LIVE = 3, TORN = FIRST + 1 }; /* pages of the block */

static const struct state_write_options plain = {0}, with_index = {.index = true};

struct world {
    struct memory m;
    struct state_manifest *mf;
    struct state_writer *w;
    uint8_t ram[PAGES][STATE_PAGE];
};

/* The header, and zero, live and raw pages in one chunk. */
static void begin(struct world *x, const struct state_write_options *o)
{
    const struct state_run runs[] = {
        {.kind = STATE_PAGES_ZERO, .page = 0, .pages = 2},
        {.kind = STATE_PAGES_RAW, .live = true, .page = FIRST, .pages = LIVE, .bytes = LIVE * STATE_PAGE},
        {.kind = STATE_PAGES_RAW, .page = 6, .pages = 1, .bytes = STATE_PAGE},
    };
    memset(x->ram, 0, sizeof(x->ram));
    for (unsigned i = FIRST; i < 7; i++) {
        memset(x->ram[i], i == FIRST + LIVE ? 0 : 'a' + i, STATE_PAGE);
    }
    memory_init(&x->m);
    struct state_sink sink = memory_sink(&x->m);
    x->w = state_writer_create(&sink, o);
    x->mf = state_manifest_create("virt-0.1", "0.1.0");
    state_manifest_add_ram(x->mf, "ram", PAGES * STATE_PAGE);
    state_write_manifest(x->w, x->mf);
    state_write_runs(x->w, runs, (const void *const[]){NULL, x->ram[FIRST], x->ram[6]}, 3);
}

static void end(struct world *x)
{
    state_write_stop(x->w, NULL);
    assert_int_equal(state_writer_error(x->w, NULL), 0);
}

static void finish(struct world *x)
{
    state_writer_destroy(x->w);
    state_manifest_destroy(x->mf);
    memory_finish(&x->m);
}

/* Somebody wrote to the page when its CRC had been computed. */
static void tear(struct world *x)
{
    uint8_t *p = memmem(x->m.bytes->data, x->m.bytes->len, x->ram[TORN], STATE_PAGE);
    assert_non_null(p);
    p[17] ^= 1;
}

/* All of it; a torn page comes another way, if `elsewhere`. 0 or the error. */
static int read_all(struct world *x, uint8_t ram[PAGES][STATE_PAGE], bool elsewhere, struct err *e)
{
    struct state_source s = memory_source(&x->m, true);
    struct state_reader *r = state_reader_create(&s, e);
    struct state_chunk c;
    struct state_run run;
    struct state_totals t;
    if (!r) {
        return -EINVAL;
    }
    state_reader_take_live(r);
    x->m.chunk = 5000;
    while (state_read_next(r, &c) > 0) {
        while (c.type == STATE_RAMP && state_read_run(r, &run) > 0) {
            if (run.bytes) {
                state_read_run_data(r, ram[run.page]);
            } else {
                memset(ram[run.page], 0, run.pages * STATE_PAGE);
            }
        }
        unsigned block;
        uint64_t page;
        if (elsewhere && state_torn_any(state_reader_torn(r), &block, &page)) {
            assert_int_equal(block, 0);
            assert_int_equal(page, TORN);
            state_torn_mend(state_reader_torn(r), block, page, 1);
            assert_false(state_torn_any(state_reader_torn(r), &block, &page));
        }
    }
    state_reader_totals(r, &t);
    int rc = state_reader_error(r, e);
    assert_true(rc < 0 || t.pages[STATE_PAGES_RAW] >= LIVE + 1);
    state_reader_destroy(r);
    return rc;
}

static void expect(struct world *x, bool elsewhere, const char *text)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    uint8_t ram[PAGES][STATE_PAGE];
    memset(ram, 0, sizeof(ram));
    x->m.at = 0;
    int rc = read_all(x, ram, elsewhere, &e);
    if (text) {
        assert_true(rc < 0);
        assert_non_null(strstr(err_text(&e), text));
    } else {
        assert_int_equal(rc, 0);
        assert_true(elsewhere || memcmp(ram, x->ram, sizeof(ram)) == 0);
    }
}

static void test_whole_pages(void **state)
{
    struct world x;
    begin(&x, &plain);
    end(&x);
    expect(&x, false, NULL);
    finish(&x);
}

static void test_a_torn_page_is_asked_for(void **state)
{
    struct world x;
    begin(&x, &plain);
    end(&x);
    tear(&x);
    expect(&x, false, "page 3 of RAM block 'ram' came damaged, and not once more");
    expect(&x, true, NULL);
    finish(&x);
}

/* As data, as zeroes, live; and torn once more. */
static void test_a_torn_page_comes_again(void **state)
{
    for (unsigned k = 0; k < 4; k++) {
        struct world x;
        begin(&x, &plain);
        state_write_flush(x.w);
        tear(&x);
        struct state_run run = {.kind = STATE_PAGES_RAW, .live = k >= 2, .page = TORN, .pages = 1, .bytes = STATE_PAGE};
        memset(x.ram[TORN], k == 1 ? 0 : 'n', STATE_PAGE);
        if (k == 1) {
            state_write_zero_pages(x.w, 0, TORN, 1);
        } else {
            state_write_runs(x.w, &run, (const void *const[]){x.ram[TORN]}, 1);
        }
        end(&x);
        if (k == 3) {
            tear(&x);
        }
        expect(&x, false, k == 3 ? "page 3 of RAM block 'ram'" : NULL);
        finish(&x);
    }
}

static void test_who_keeps_streams_refuses_them(void **state)
{
    struct world x;
    CLEANUP_ERR struct err e = ERR_INIT, other = ERR_INIT;
    begin(&x, &plain);
    end(&x);
    assert_true(memory_read_all(&x.m, true, &e) < 0);
    assert_non_null(strstr(err_text(&e), "it has live pages, which are for another machine and not to be kept"));
    x.m.at = 0;
    struct state_source s = memory_source(&x.m, false);
    struct state_reader *r = state_reader_create(&s, &other);
    assert_null(state_index_read(r, &other));
    assert_non_null(strstr(err_text(&other), "live pages"));
    state_reader_destroy(r);
    finish(&x);
    begin(&x, &with_index);
    assert_int_equal(state_writer_error(x.w, NULL), -EINVAL);
    finish(&x);
}

/* Any bit but those that nobody looks at: there are none. */
static void test_every_byte_changed(void **state)
{
    struct world x;
    begin(&x, &plain);
    end(&x);
    for (size_t i = 0; i < x.m.bytes->len; i++) {
        x.m.bytes->data[i] ^= (uint8_t)(1 << i % 8);
        expect(&x, false, "");
        x.m.bytes->data[i] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t len = x.m.bytes->len; len-- > 0;) {
        g_byte_array_set_size(x.m.bytes, (guint)len);
        expect(&x, false, "");
    }
    finish(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_pages),
        cmocka_unit_test(test_a_torn_page_is_asked_for),
        cmocka_unit_test(test_a_torn_page_comes_again),
        cmocka_unit_test(test_who_keeps_streams_refuses_them),
        cmocka_unit_test(test_every_byte_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
