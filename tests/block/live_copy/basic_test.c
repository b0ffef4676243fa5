/* SPDX-License-Identifier: BSD-2-Clause */
/* States and transitions, one after another; what the file says; errors. */
#include "lcsupport.h"

#include "base/cleanup.h"

enum { SIZE = 256 * 1024 };

static void write_some(struct world *w, uint64_t off, uint64_t len)
{
    fill(w, w->want + off, len);
    assert_int_equal(edge_write_buf(w->ed, off, len, w->want + off, 0), 0);
}

static void reads_right(struct world *w)
{
    CLEANUP_FREE uint8_t *got = g_malloc(SIZE);
    assert_int_equal(edge_read_buf(w->ed, 0, SIZE, got), 0);
    assert_memory_equal(got, w->want, SIZE);
}

static void copies_to_the_end(struct bench *b)
{
    for (const struct geometry *g = geometries; g->name; g++) {
        struct world w = {.seed = 1};
        world_create(&w, b, g, SIZE);
        world_open(&w, ", 'copying': false");
        assert_int_equal(world_status(&w).state, LIVE_COPY_COPYING);
        assert_int_equal(world_status(&w).remaining, SIZE);
        reads_right(&w);
        write_some(&w, 5000, 30000);
        world_close(&w);
        world_open(&w, "");
        write_some(&w, 100000, 3000);
        world_sync(&w);
        assert_int_equal(world_status(&w).state, LIVE_COPY_IN_SYNC);
        write_some(&w, 0, 777);
        reads_right(&w);
        world_close(&w);
        both_are(&w, w.want);
        world_finish(&w);
    }
}

static void test_copies(void **state)
{
    bench_run(copies_to_the_end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
