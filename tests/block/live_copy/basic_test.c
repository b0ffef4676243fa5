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

static void simple(struct world *w, struct bench *b)
{
    *w = (struct world){.seed = 3};
    world_create(w, b, &geometries[0], SIZE);
}

/* --- what it costs ------------------------------------------------------------------------------------------------ */

struct cost {
    uint64_t writes, flushes, others; /* of the live copy's own file; requests of the two sides */
};

static struct cost cost(struct world *w)
{
    const struct node_stats *m = &w->file[META]->stats, *s = &w->file[SRC]->stats, *d = &w->file[DST]->stats;
    return (struct cost){m->wr_ops, m->flush_ops,
                         s->wr_ops + d->wr_ops + s->rd_ops + d->rd_ops + s->flush_ops + d->flush_ops};
}

static void marks_cost(struct bench *b)
{
    struct world w;
    simple(&w, b);
    world_open(&w, "");
    world_sync(&w);
    struct cost idle, after = cost(&w);
    int turns = 0;
    do { /* everything is cleared some time, and then nothing more happens */
        assert_true(turns++ < 1000);
        idle = after;
        co_sleep(30000000);
        after = cost(&w);
    } while (memcmp(&idle, &after, sizeof(idle)) != 0);
    world_close(&w);

    world_open(&w, ", 'record-ms': 600000");
    struct cost before = cost(&w);
    write_some(&w, 4096, 512); /* one mark: a page and a flush */
    struct cost marked = cost(&w);
    assert_int_equal(marked.writes - before.writes, 1);
    assert_int_equal(marked.flushes - before.flushes, 1);
    for (int i = 0; i < 50; i++) { /* none while it is marked */
        write_some(&w, 4096 + (uint64_t)i * 50, 700);
        CLEANUP_FREE uint8_t *got = g_malloc(SIZE);
        assert_int_equal(edge_read_buf(w.ed, 0, SIZE, got), 0);
        assert_int_equal(edge_flush(w.ed), 0);
    }
    after = cost(&w);
    assert_int_equal(after.writes, marked.writes);
    assert_int_equal(after.flushes, marked.flushes);
    world_close(&w);
    world_finish(&w);
}

static void one_write(void *arg)
{
    struct world *w = arg;
    uint64_t off = rnd(&w->seed) % (SIZE / 4096) * 4096;
    assert_int_equal(edge_write_buf(w->ed, off, 4096, w->want + off, 0), 0);
}

static void marks_in_groups(struct bench *b)
{
    struct world w;
    simple(&w, b);
    w.disk[META].delay = 1;
    w.disk[META].slow_flush = 5;
    world_open(&w, "");
    world_sync(&w);
    world_close(&w);
    world_open(&w, ", 'record-ms': 600000");
    struct cost before = cost(&w);
    for (int i = 0; i < 40; i++) {
        spawn(b, one_write, &w, &w.running);
    }
    wait_for(&w.running);
    assert_in_range(cost(&w).flushes - before.flushes, 1, 3); /* the first; then all that waited for it */
    world_close(&w);
    world_finish(&w);
}

/* --- failing and coming back -------------------------------------------------------------------------------------- */

/* Reads go on, writes go on, and what could not be read is written again. */
static void read_error_is_repaired(struct bench *b)
{
    struct world w;
    simple(&w, b);
    world_open(&w, "");
    world_sync(&w);
    world_close(&w);
    world_open(&w, ", 'retry-ms': 0");
    w.disk[SRC].fail_kinds = FAIL_READ;
    w.disk[SRC].fail_in = 1;
    uint8_t got[100];
    assert_int_equal(edge_read_buf(w.ed, 70000, 100, got), 0);
    assert_memory_equal(got, w.want + 70000, 100);
    struct live_copy_status st = world_status(&w);
    assert_int_equal(st.state, LIVE_COPY_DEGRADED);
    assert_int_equal(st.live, LIVE_COPY_DESTINATION);
    assert_true(st.missing[SRC] && !st.current[SRC] && st.current[DST]);
    assert_int_equal(st.remaining, 4096);
    assert_int_equal(st.outages, 1);
    reads_right(&w);
    write_some(&w, 3000, 9000);
    assert_int_equal(world_status(&w).remaining, 4096 * 4);
    uint64_t before = w.file[SRC]->stats.wr_bytes;
    live_copy_retry(w.n);
    world_sync(&w);
    assert_true(w.file[SRC]->stats.wr_bytes - before < 40000); /* these regions, not everything */
    assert_int_equal(world_status(&w).live, LIVE_COPY_SOURCE);
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
}

static void source_error_before_the_end_is_the_users(struct bench *b)
{
    struct world w;
    simple(&w, b);
    world_open(&w, ", 'copying': false");
    w.disk[SRC].fail_in = 1;
    assert_int_equal(edge_write_buf(w.ed, 0, 100, w.want, 0), -EIO);
    w.disk[SRC].fail_kinds = FAIL_READ;
    w.disk[SRC].fail_in = 1;
    uint8_t got[100];
    assert_int_equal(edge_read_buf(w.ed, 0, 100, got), -EIO);
    reads_right(&w);
    assert_int_equal(world_status(&w).state, LIVE_COPY_COPYING);
    world_close(&w);
    world_finish(&w);
}

static void unreadable_source_is_told(struct bench *b)
{
    struct world w;
    simple(&w, b);
    world_open(&w, ", 'copying': false");
    w.disk[SRC].fail_kinds = FAIL_READ;
    w.disk[SRC].fail_in = 1;
    w.disk[SRC].fail_on = true;
    struct live_copy_options o;
    live_copy_get_options(w.n, &o);
    o.copying = true;
    live_copy_set_options(w.n, &o);
    while (!world_status(&w).passes) {
        live_copy_wait(w.n, 1000000);
    }
    struct live_copy_status st = world_status(&w);
    assert_int_equal(st.rc, -EIO);
    assert_true(st.error_is_read);
    assert_int_equal(st.state, LIVE_COPY_COPYING);
    w.disk[SRC].fail_in = 0;
    live_copy_retry(w.n);
    world_sync(&w);
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
}

static void marks_that_fail(struct bench *b)
{
    struct world w;
    simple(&w, b);
    world_open(&w, "");
    world_sync(&w);
    world_close(&w);
    world_open(&w, ", 'record-ms': 600000");
    w.disk[META].fail_in = 1;
    w.disk[META].fail_on = true;
    assert_int_equal(edge_write_buf(w.ed, 0, 100, w.want, 0), -EIO); /* not marked, not written */
    reads_right(&w);
    w.disk[META].fail_in = 0;
    write_some(&w, 0, 100);
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
}

/* --- switching ---------------------------------------------------------------------------------------------------- */

static void switches_and_detaches(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w;
    simple(&w, b);
    world_open(&w, ", 'copying': false");
    assert_int_equal(live_copy_switch(w.n, &e), -EBUSY);
    assert_string_equal(err_text(&e), "The destination of live copy 'm-meta' is not complete");
    assert_int_equal(live_copy_detach(w.n, &e), -EBUSY);
    assert_string_equal(err_text(&e), "Live copy 'm-meta' has not switched to its destination yet");
    world_close(&w);
    world_open(&w, "");
    world_sync(&w);
    assert_int_equal(live_copy_switch(w.n, NULL), 0);
    assert_int_equal(live_copy_switch(w.n, NULL), 0);
    assert_int_equal(world_status(&w).live, LIVE_COPY_DESTINATION);
    write_some(&w, 10, 5000);
    reads_right(&w);
    world_close(&w);
    both_are(&w, w.want);
    world_open(&w, "");
    assert_int_equal(world_status(&w).state, LIVE_COPY_SWITCHED);
    assert_int_equal(live_copy_detach(w.n, NULL), 0);
    assert_int_equal(live_copy_detach(w.n, NULL), 0);
    uint64_t before = w.file[SRC]->stats.wr_ops;
    write_some(&w, 20000, 50000);
    reads_right(&w);
    assert_int_equal(edge_flush(w.ed), 0);
    assert_int_equal(w.file[SRC]->stats.wr_ops, before);
    world_close(&w);
    world_unplug(&w, SRC);
    world_open(&w, "");
    assert_int_equal(world_status(&w).state, LIVE_COPY_DETACHED);
    reads_right(&w);
    world_close(&w);
    world_finish(&w);
}

/* A state that cannot be written is no switch. */
static void failed_switch(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w;
    simple(&w, b);
    world_open(&w, "");
    world_sync(&w);
    w.disk[META].fail_in = 1;
    assert_int_equal(live_copy_switch(w.n, &e), -EIO);
    assert_int_equal(world_status(&w).live, LIVE_COPY_SOURCE);
    assert_int_equal(live_copy_switch(w.n, NULL), -EBUSY); /* what is on disk is not known */
    write_some(&w, 0, 5000);
    world_sync(&w);
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
}

/* --- the file ----------------------------------------------------------------------------------------------------- */

static struct check_result check(struct world *w, unsigned fix)
{
    struct node *n =
        must_open(w->b, jsonf("{'driver': 'live-copy', 'file': 'm-meta', 'backing': null, 'read-only': %s}",
                              fix ? "false" : "true"));
    struct check_result r = {.text = g_string_new(NULL)};
    CLEANUP_ERR struct err e = ERR_INIT;
    if (n->drv->check(n, &r, fix, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    node_unref(n);
    return r;
}

static void damage_is_found(struct bench *b)
{
    struct world w;
    simple(&w, b);
    world_open(&w, "");
    world_sync(&w);
    world_close(&w);
    struct check_result r = check(&w, 0);
    assert_int_equal(r.leaks, 0);
    assert_string_equal(r.text->str, "");
    g_string_free(r.text, TRUE);
    w.disk[META].data[24576 + 100] ^= 4; /* a block of the bitmap */
    w.disk[META].data[16384 + 20] ^= 1;  /* one of the states */
    r = check(&w, 0);
    assert_int_equal(r.corruptions, 0);
    assert_int_equal(r.leaks, 2 + SIZE / 4096);
    assert_non_null(strstr(r.text->str, "One of the two copies"));
    assert_non_null(strstr(r.text->str, "1 blocks of the bitmap are damaged"));
    assert_non_null(strstr(r.text->str, "64 regions may differ"));
    g_string_free(r.text, TRUE);
    r = check(&w, CHECK_FIX_LEAKS);
    assert_int_equal(r.leaks_fixed, 2 + SIZE / 4096);
    g_string_free(r.text, TRUE);
    r = check(&w, 0);
    assert_int_equal(r.leaks, 0);
    g_string_free(r.text, TRUE);
    both_are(&w, w.want);
    world_finish(&w);
}

static void refuses(struct world *w, const char *what)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (world_try_open(w, "", &e)) {
        fail_msg("opened, though: %s", what);
    }
    if (!strstr(err_text(&e), what)) {
        fail_msg("'%s', not '%s'", err_text(&e), what);
    }
}

static void broken_files_are_refused(struct bench *b)
{
    struct world w;
    simple(&w, b);
    struct memdisk *m = &w.disk[META];
    CLEANUP_FREE uint8_t *good = g_memdup2(m->data, m->size);
    m->data[100] ^= 1;
    refuses(&w, "Its head is damaged");
    memcpy(m->data, good, m->size);
    m->data[11] = 2;
    refuses(&w, "Unsupported version 2 of the live-copy format");
    memcpy(m->data, good, m->size);
    m->data[3] = 'x';
    refuses(&w, "Image is not in live-copy format");
    memcpy(m->data, good, m->size);
    m->data[16384 + 10] ^= 1;
    m->data[20480 + 10] ^= 1;
    refuses(&w, "Both copies of its state are damaged");
    memcpy(m->data, good, m->size);
    uint64_t size = m->size;
    world_unplug(&w, META);
    m->size = size - 1;
    world_plug(&w, META);
    refuses(&w, "Image is cut short: it has 28671 bytes instead of 28672");
    world_unplug(&w, META);
    m->size = size;
    world_plug(&w, META);
    world_unplug(&w, SRC);
    refuses(&w, "Only the source of live copy 'm-meta' is up to date: Cannot use the source");
    w.disk[SRC].size += 512;
    world_plug(&w, SRC);
    refuses(&w, "It has 262656 bytes, but the disk that is copied has 262144");
    world_finish(&w);
}

/* To look at the file only: there is no disk to read or to write, and nothing happens to the file. */
static void without_sides(struct bench *b)
{
    struct world w;
    simple(&w, b);
    CLEANUP_FREE uint8_t *before = g_memdup2(w.disk[META].data, w.disk[META].size);
    world_open(&w, ", 'backing': null");
    uint8_t buf[512] = {0};
    assert_false(live_copy_of_node(w.n));
    assert_int_equal(edge_read_buf(w.ed, 0, 512, buf), -EIO);
    assert_int_equal(edge_write_buf(w.ed, 0, 512, buf, 0), -EIO);
    assert_int_equal(edge_zero(w.ed, 0, 512, 0), -EIO);
    assert_int_equal(edge_discard(w.ed, 0, 65536), -EIO);
    assert_int_equal(edge_flush(w.ed), 0);
    world_close(&w);
    assert_memory_equal(before, w.disk[META].data, w.disk[META].size);
    world_finish(&w);
}

/* It will do until somebody wants to write. */
static void read_only_source(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct edge *ed;
    struct world w;
    simple(&w, b);
    struct node *n =
        must_open(b, jsonf("{'driver': 'live-copy', 'node-name': 'lc', 'file': 'm-meta', 'source': {'driver': 'raw', "
                           "'file': 'm-source', 'read-only': true}}"));
    assert_int_equal(edge_open(n, &(struct edge_spec){"root", PERM_READ | PERM_WRITE, PERM_ALL}, &ed, &e), -EACCES);
    assert_string_equal(err_text(&e), "Node 'lc' cannot be written to: its source 'm-source' is read-only");
    w.n = n;
    w.ed = must_edge(n, PERM_READ, PERM_ALL);
    world_sync(&w);
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
}

static void options_are_checked(struct bench *b)
{
    static const char *const wrong[][2] = {
        {"'parallel': 17", "Parameter 'parallel' expects a number from 1 to 16"},
        {"'piece-size': 5000", "Parameter 'piece-size' expects a power of two between 4k and 1M"},
        {"'record-ms': 0", "Parameter 'record-ms' expects milliseconds, at most 4294967295"},
        {"'retry-ms': -1", "Parameter 'retry-ms' expects milliseconds, at most 4294967295"},
    };
    struct world w;
    simple(&w, b);
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        assert_string_equal(must_fail(b, jsonf("{'driver': 'live-copy', 'file': 'm-meta', %s}", wrong[i][0])),
                            wrong[i][1]);
    }
    world_finish(&w);
}

static void no_new_size(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w;
    simple(&w, b);
    world_open(&w, ", 'copying': false");
    struct edge *ed = must_edge(w.n, PERM_RESIZE, PERM_ALL);
    assert_int_equal(edge_truncate(ed, SIZE * 2, false, PREALLOC_OFF, &e), -ENOTSUP);
    assert_non_null(strstr(err_text(&e), "cannot change its size"));
    edge_close(ed);
    world_close(&w);
    world_finish(&w);
}

/* --- holding still ------------------------------------------------------------------------------------------------ */

static void drains_hold_the_copy(struct bench *b)
{
    struct world w;
    simple(&w, b);
    w.disk[DST].delay = 2;
    world_open(&w, ", 'copying': false");
    node_drain_begin(w.file[DST]); /* of a node below */
    struct live_copy_options o = {.copying = true, .parallel = 4, .piece = 4096, .record_ms = 1, .retry_ms = 1};
    live_copy_set_options(w.n, &o);
    struct cost before = cost(&w);
    co_sleep(20000000);
    struct cost after = cost(&w);
    assert_memory_equal(&before, &after, sizeof(before));
    node_drain_end(w.file[DST]);
    world_sync(&w);
    world_close(&w);
    world_finish(&w);
}

static void speed_is_kept(struct bench *b)
{
    struct world w;
    simple(&w, b);
    memset(w.want, 1, SIZE); /* no holes */
    memset(w.disk[SRC].data, 1, SIZE);
    world_open(&w, ", 'speed': 2621440, 'piece-size': 4096"); /* a tenth of a second */
    uint64_t t0 = loop_now_ns();
    world_sync(&w);
    assert_in_range(loop_now_ns() - t0, 90000000, UINT64_C(20000000000));
    world_close(&w);
    both_are(&w, w.want);
    world_finish(&w);
}

#define RUN(fn)                                                                                                        \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        bench_run(fn);                                                                                                 \
    }
RUN(copies_to_the_end)
RUN(marks_cost)
RUN(marks_in_groups)
RUN(read_error_is_repaired)
RUN(source_error_before_the_end_is_the_users)
RUN(unreadable_source_is_told)
RUN(marks_that_fail)
RUN(switches_and_detaches)
RUN(failed_switch)
RUN(damage_is_found)
RUN(broken_files_are_refused)
RUN(without_sides)
RUN(read_only_source)
RUN(options_are_checked)
RUN(no_new_size)
RUN(drains_hold_the_copy)
RUN(speed_is_kept)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies_to_the_end),
        cmocka_unit_test(test_marks_cost),
        cmocka_unit_test(test_marks_in_groups),
        cmocka_unit_test(test_read_error_is_repaired),
        cmocka_unit_test(test_source_error_before_the_end_is_the_users),
        cmocka_unit_test(test_unreadable_source_is_told),
        cmocka_unit_test(test_marks_that_fail),
        cmocka_unit_test(test_switches_and_detaches),
        cmocka_unit_test(test_failed_switch),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_broken_files_are_refused),
        cmocka_unit_test(test_without_sides),
        cmocka_unit_test(test_read_only_source),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_no_new_size),
        cmocka_unit_test(test_drains_hold_the_copy),
        cmocka_unit_test(test_speed_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
