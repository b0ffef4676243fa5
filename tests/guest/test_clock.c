/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

static void stands_until_started(void **state)
{
    struct guest_clock c;
    guest_clock_init(&c, false);
    assert_int_equal(0, guest_clock_ns(&c));
    usleep(1000);
    assert_int_equal(0, guest_clock_ns(&c));
    assert_true(guest_clock_host_deadline(&c, 5) == UINT64_MAX);
}

static void runs_and_keeps_its_place(void **state)
{
    struct guest_clock c;
    guest_clock_init(&c, false);
    guest_clock_set(&c, 1000);
    guest_clock_start(&c);
    usleep(2000);
    uint64_t t = guest_clock_ns(&c);
    assert_true(t >= 2001000 && t < 1000000000);
    assert_true(guest_clock_host_deadline(&c, t + 1000000) - guest_clock_host_deadline(&c, t) == 1000000);
    guest_clock_stop(&c);
    t = guest_clock_ns(&c);
    usleep(1000);
    assert_true(guest_clock_ns(&c) == t);
    guest_clock_start(&c);
    assert_true(guest_clock_ns(&c) - t < 1000000000);
    guest_clock_set(&c, 1ull << 50);
    assert_true(guest_clock_ns(&c) >= 1ull << 50);
}

static void by_hand_only_when_manual(void **state)
{
    struct guest_clock c;
    guest_clock_init(&c, true);
    guest_clock_start(&c);
    usleep(1000);
    assert_int_equal(0, guest_clock_ns(&c));
    guest_clock_step(&c, 123);
    assert_int_equal(123, guest_clock_ns(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stands_until_started),
        cmocka_unit_test(runs_and_keeps_its_place),
        cmocka_unit_test(by_hand_only_when_manual),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
