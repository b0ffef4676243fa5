/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest/mem.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define BASE 0x80000000ull
#define SIZE (16 * GUEST_PAGE_SIZE)

struct regs {
    uint64_t value;
    uint64_t off;
    unsigned size, reads;
    struct guest_mem *move_in; /* a write moves the window, as a BAR does */
};

static uint64_t regs_read(void *opaque, uint64_t off, unsigned size)
{
    struct regs *r = opaque;
    r->off = off;
    r->size = size;
    r->reads++;
    return r->value;
}

static void regs_write(void *opaque, uint64_t off, uint64_t val, unsigned size);
static const struct mmio_ops regs_ops = {.read = regs_read, .write = regs_write};
static const struct mmio_ops word_ops = {.read = regs_read, .write = regs_write, .min_size = 4, .max_size = 4};

static void regs_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct regs *r = opaque;
    r->value = val;
    r->off = off;
    r->size = size;
    if (r->move_in) {
        mmio_remove(r->move_in, &regs_ops, r, 0x1000);
        assert_int_equal(0, mmio_add(r->move_in, &(struct mmio_region){"moved", 0x2000, 0x100, &regs_ops, r}, NULL));
    }
}

static int setup(void **state)
{
    struct guest_mem *m = guest_mem_create();
    *state = m;
    return guest_ram_add(m, "low", BASE, SIZE, NULL) || guest_ram_add(m, "high", BASE + SIZE, SIZE, NULL);
}

static int teardown(void **state)
{
    guest_mem_destroy(*state);
    return 0;
}

static void ram_is_found_and_zero(void **state)
{
    struct guest_mem *m = *state;
    assert_string_equal("low", guest_ram_get(m, 0)->name);
    assert_string_equal("high", guest_ram_get(m, 1)->name);
    assert_null(guest_ram_get(m, 2));
    assert_ptr_equal(guest_ram_get(m, 1), guest_ram_find(m, BASE + SIZE));
    assert_null(guest_ram_find(m, BASE - 1));
    assert_null(guest_ram_find(m, BASE + 2 * SIZE));
    uint8_t *p = guest_ram_ptr(m, BASE + SIZE - 1, 1);
    assert_non_null(p);
    assert_int_equal(0, *p);
    assert_null(guest_ram_ptr(m, BASE + SIZE - 1, 2)); /* two blocks */
    assert_null(guest_ram_ptr(m, BASE, UINT64_MAX));
}

static void bad_ram_is_refused(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(-EINVAL, guest_ram_add(*state, "odd", 0x1001, 0x1000, &e));
    assert_int_equal(-EINVAL, guest_ram_add(*state, "none", 0x1000, 0, &e));
    assert_int_equal(-EINVAL, guest_ram_add(*state, "wraps", UINT64_MAX - 0xfff, 0x2000, &e));
    assert_int_equal(-EEXIST, guest_ram_add(*state, "over", BASE - 0x1000, 0x2000, &e));
    assert_string_equal("RAM 'over' overlaps 'low'", err_text(&e));
}

static void copies_span_blocks(void **state)
{
    struct guest_mem *m = *state;
    char out[8] = "";
    assert_int_equal(0, guest_mem_write(m, BASE + SIZE - 4, "abcdefgh", 8));
    assert_int_equal(0, guest_mem_read(m, BASE + SIZE - 4, out, 8));
    assert_memory_equal("abcdefgh", out, 8);
    assert_memory_equal("efgh", guest_ram_ptr(m, BASE + SIZE, 4), 4);
}

static void copies_beyond_ram_do_nothing(void **state)
{
    struct guest_mem *m = *state;
    char out[8] = "unharmed";
    assert_int_equal(-EFAULT, guest_mem_write(m, BASE + 2 * SIZE - 4, "abcdefgh", 8));
    assert_int_equal(0, *(uint8_t *)guest_ram_ptr(m, BASE + 2 * SIZE - 4, 1));
    assert_int_equal(-EFAULT, guest_mem_read(m, BASE + 2 * SIZE - 4, out, 8));
    assert_memory_equal("unharmed", out, 8);
    assert_int_equal(-EFAULT, guest_mem_read(m, UINT64_MAX - 3, out, 8));
}

static void writes_mark_dirt(void **state)
{
    struct guest_mem *m = *state;
    assert_null(guest_ram_get(m, 0)->dirty);
    assert_int_equal(0, guest_dirty_log_start(m, DIRTY_MOVE, NULL));
    guest_mem_write(m, BASE + 2 * GUEST_PAGE_SIZE - 1, "ab", 2);
    const uint8_t *d = guest_ram_get(m, 0)->dirty;
    assert_int_equal(0, d[0]);
    assert_int_equal(GUEST_DIRTY, d[1]);
    assert_int_equal(GUEST_DIRTY, d[2]);
    assert_int_equal(0, d[3]);
    guest_mem_mark_written(m, BASE + SIZE - 1, 2); /* into the next block */
    assert_int_equal(GUEST_DIRTY, d[15]);
    assert_int_equal(GUEST_DIRTY, ((const uint8_t *)guest_ram_get(m, 1)->dirty)[0]);
    assert_int_equal(0, guest_dirty_log_start(m, DIRTY_SINCE_A, NULL)); /* his bits alone */
    assert_int_equal(GUEST_DIRTY & ~DIRTY_SINCE_A, d[1]);
    assert_int_equal(GUEST_DIRTY & ~DIRTY_SINCE_A, d[15]);
    guest_mem_write(m, BASE + GUEST_PAGE_SIZE, "a", 1);
    assert_int_equal(GUEST_DIRTY, d[1]);
    guest_dirty_log_stop(m, DIRTY_MOVE);
    assert_int_equal(GUEST_DIRTY, d[1]);
    guest_dirty_log_stop(m, DIRTY_SINCE_A);
    assert_null(guest_ram_get(m, 0)->dirty);
    assert_int_equal(0, guest_dirty_log_start(m, DIRTY_MOVE, NULL));
    assert_int_equal(0, ((const uint8_t *)guest_ram_get(m, 0)->dirty)[1] & DIRTY_MOVE);
}

static void count_code(void *opaque, uint64_t gpa, uint64_t len)
{
    uint64_t *last = opaque;
    *last = gpa;
}

static void writes_report_code(void **state)
{
    struct guest_mem *m = *state;
    uint64_t last = 0;
    guest_mem_set_code_hook(m, count_code, &last);
    guest_mem_write(m, BASE, "x", 1);
    assert_int_equal(0, last);
    guest_ram_get(m, 0)->code[3] = 1;
    guest_mem_write(m, BASE + 3 * GUEST_PAGE_SIZE + 5, "x", 1);
    assert_int_equal(BASE + 3 * GUEST_PAGE_SIZE, last);
}

static void windows_answer(void **state)
{
    struct guest_mem *m = *state;
    struct regs a = {.value = 0x1122334455667788}, b = {0};
    uint64_t v;
    assert_int_equal(0, mmio_add(m, &(struct mmio_region){"b", 0x3000, 0x10, &word_ops, &b}, NULL));
    assert_int_equal(0, mmio_add(m, &(struct mmio_region){"a", 0x1000, 0x100, &regs_ops, &a}, NULL));
    assert_true(mmio_read(m, 0x1010, 2, &v));
    assert_int_equal(0x7788, v); /* no more than was asked for */
    assert_int_equal(0x10, a.off);
    assert_int_equal(2, a.size);
    assert_true(mmio_write(m, 0x1000, 1, 0x1ff));
    assert_int_equal(0xff, a.value);
    assert_false(mmio_read(m, 0xfff, 1, &v));
    assert_false(mmio_read(m, 0x1100, 1, &v));
    assert_false(mmio_read(m, 0x1001, 2, &v)); /* not aligned */
    assert_false(mmio_read(m, 0x1000, 3, &v));
    assert_false(mmio_read(m, 0x3000, 8, &v)); /* larger than it takes */
    assert_false(mmio_read(m, 0x3000, 1, &v));
    assert_true(mmio_read(m, 0x300c, 4, &v));
}

static void windows_must_not_overlap(void **state)
{
    struct guest_mem *m = *state;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct regs a = {0};
    assert_int_equal(0, mmio_add(m, &(struct mmio_region){"a", 0x1000, 0x100, &regs_ops, &a}, &e));
    assert_int_equal(-EEXIST, mmio_add(m, &(struct mmio_region){"b", 0x10ff, 0x100, &regs_ops, &a}, &e));
    assert_string_equal("registers of 'b' overlap those of 'a'", err_text(&e));
    assert_int_equal(-EEXIST, mmio_add(m, &(struct mmio_region){"b", BASE - 1, 2, &regs_ops, &a}, &e));
    assert_int_equal(-EINVAL, mmio_add(m, &(struct mmio_region){"b", UINT64_MAX, 2, &regs_ops, &a}, &e));
}

static void a_window_may_move_itself(void **state)
{
    struct guest_mem *m = *state;
    struct regs a = {.move_in = m};
    uint64_t v;
    assert_int_equal(0, mmio_add(m, &(struct mmio_region){"a", 0x1000, 0x100, &regs_ops, &a}, NULL));
    assert_true(mmio_write(m, 0x1000, 4, 5));
    assert_false(mmio_read(m, 0x1000, 4, &v));
    assert_true(mmio_read(m, 0x2000, 4, &v));
    assert_int_equal(5, v);
}

struct churn {
    struct guest_mem *m;
    struct regs regs;
    _Atomic bool stop;
};

static void *churn_reader(void *opaque)
{
    struct churn *c = opaque;
    uint64_t v, good = 0;
    while (!c->stop) {
        assert_true(mmio_read(c->m, 0x9000, 4, &v)); /* the one that stays */
        assert_int_equal(7, v);
        good++;
    }
    return (void *)(uintptr_t)(good != 0);
}

static void readers_and_writers_meet(void **state)
{
    struct churn c = {.m = *state, .regs.value = 7};
    struct regs other = {0};
    pthread_t t[2];
    assert_int_equal(0, mmio_add(c.m, &(struct mmio_region){"stays", 0x9000, 8, &regs_ops, &c.regs}, NULL));
    for (unsigned i = 0; i < 2; i++) {
        pthread_create(&t[i], NULL, churn_reader, &c);
    }
    for (unsigned i = 0; i < 20000; i++) {
        assert_int_equal(0, mmio_add(c.m, &(struct mmio_region){"x", 0x1000, 8, &regs_ops, &other}, NULL));
        mmio_remove(c.m, &regs_ops, &other, 0x1000);
    }
    c.stop = true;
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ram_is_found_and_zero, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_ram_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_span_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(copies_beyond_ram_do_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_mark_dirt, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_report_code, setup, teardown),
        cmocka_unit_test_setup_teardown(windows_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(windows_must_not_overlap, setup, teardown),
        cmocka_unit_test_setup_teardown(a_window_may_move_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(readers_and_writers_meet, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
