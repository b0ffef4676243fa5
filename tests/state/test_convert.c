/* SPDX-License-Identifier: BSD-2-Clause */
/* Streams made into others by the schemas alone: what an older reader gets, and what it would lose. */
#include "world.h"

#include "base/cleanup.h"
#include "state/convert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct state_compat release_1[] = {{"toy", 1, (const char *const[]){"event", NULL}}, {NULL}};

/* One toy in a stream. */
static void write_toy(struct memory *m, const struct toy_state *st)
{
    struct state_sink sink = memory_sink(m);
    struct state_writer *w = state_writer_create(&sink, &(struct state_write_options){0});
    struct state_manifest *mf = state_manifest_create("virt-0.2", "0.2.0");
    state_manifest_add_ram(mf, "ram", 4 * STATE_PAGE);
    state_manifest_add_device(mf, "/toy0", &toy_section, NULL);
    state_write_manifest(w, mf);
    g_autoptr(GByteArray) b = state_encode("/toy0", &toy_section, st, NULL, NULL);
    state_write_device(w, b->data, b->len);
    assert_int_equal(state_write_stop(w, NULL), 0);
    state_writer_destroy(w);
    state_manifest_destroy(mf);
}

static int convert(struct memory *from, struct memory *to, const struct state_policy *p, GPtrArray *lost, struct err *e)
{
    struct state_source s = memory_source(from, true);
    struct state_sink sink = to ? memory_sink(to) : (struct state_sink){0};
    struct state_reader *r = state_reader_create(&s, e);
    struct state_convert c = {.policy = p, .machine = "virt-0.1", .sink = to ? &sink : NULL, .lost = lost};
    int rc = state_convert(r, &c, e);
    state_reader_destroy(r);
    return rc;
}

/* What release 1 makes of it. */
static int load_1(struct memory *m, struct toy_state *st, struct err *e)
{
    struct state_source s = memory_source(m, true);
    struct state_reader *r = state_reader_create(&s, e);
    struct state_chunk c;
    assert_int_equal(state_read_next(r, &c), 1);
    memset(st, 0, sizeof(*st));
    int rc =
        state_decode(state_reader_manifest(r), &toy_section_1, state_read_payload(r, STATE_DEVICE_MAX), NULL, st, e);
    assert_int_equal(state_read_next(r, &c), 0);
    assert_string_equal(state_manifest_machine(state_reader_manifest(r)), "virt-0.1");
    state_reader_destroy(r);
    return rc;
}

static void test_nothing_lost(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct memory a, b;
    struct toy_state st, back;
    g_autoptr(GPtrArray) lost = g_ptr_array_new_with_free_func(g_free);
    const struct state_policy p = {.compat = release_1, .reader = "virt-0.1"};
    memory_init(&a);
    memory_init(&b);
    toy_fill(&st);
    st.event = 9;
    write_toy(&a, &st);
    assert_int_equal(convert(&a, &b, &p, lost, &e), 0);
    assert_int_equal(lost->len, 0);
    assert_int_equal(load_1(&b, &back, &e), 0);
    assert_true(back.event == 9 && back.level == st.level && back.queue[0].desc == st.queue[0].desc);
    memory_finish(&a);
    memory_finish(&b);
}

static void test_losses(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct memory a, b;
    struct toy_state st, back;
    g_autoptr(GPtrArray) lost = g_ptr_array_new_with_free_func(g_free),
                         dropped = g_ptr_array_new_with_free_func(g_free);
    struct state_policy p = {.compat = release_1, .reader = "virt-0.1", .dropped = dropped};
    memory_init(&a);
    memory_init(&b);
    toy_fill(&st);
    st.mac[0] = 2;
    st.speed = 7;
    write_toy(&a, &st);
    assert_int_equal(convert(&a, NULL, &p, lost, &e), -ENOTSUP);
    assert_int_equal(lost->len, 2);
    assert_string_equal(lost->pdata[0], "/toy0: speed: a field of version 2");
    assert_string_equal(lost->pdata[1], "/toy0: acme/mac: its address");
    assert_non_null(strstr(err_text(&e), "2 things would be lost, the first is /toy0: speed"));
    err_clear(&e);
    g_ptr_array_set_size(lost, 0);
    p.force_drop = (const char *const[]){"toy:speed", "acme/mac", NULL};
    assert_int_equal(convert(&a, &b, &p, lost, &e), 0);
    assert_true(lost->len == 0 && dropped->len == 2);
    assert_int_equal(load_1(&b, &back, &e), 0);
    assert_int_equal(back.half, st.half);
    memory_finish(&a);
    memory_finish(&b);
}

static void test_device_that_is_not_there(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct memory a, b;
    struct toy_state st;
    const struct state_compat none[] = {{"toy", 0, NULL}, {NULL}};
    g_autoptr(GPtrArray) lost = g_ptr_array_new_with_free_func(g_free);
    struct state_policy p = {.compat = none, .reader = "virt-0.1"};
    memory_init(&a);
    memory_init(&b);
    toy_fill(&st);
    write_toy(&a, &st);
    assert_int_equal(convert(&a, NULL, &p, lost, &e), -ENOTSUP);
    assert_string_equal(lost->pdata[0], "/toy0: toy: the whole device");
    err_clear(&e);
    g_ptr_array_set_size(lost, 0);
    p.force_drop = (const char *const[]){"toy", NULL};
    assert_int_equal(convert(&a, &b, &p, lost, &e), 0);
    struct state_source s = memory_source(&b, true);
    struct state_reader *r = state_reader_create(&s, &e);
    struct state_chunk c;
    assert_int_equal(state_manifest_devices(state_reader_manifest(r)), 0);
    assert_int_equal(state_read_next(r, &c), 0);
    state_reader_destroy(r);
    memory_finish(&a);
    memory_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_lost),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_device_that_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
