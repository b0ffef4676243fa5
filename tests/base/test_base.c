/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/bitmap.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/events.h"
#include "base/id.h"
#include "base/large.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/nearest.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* --- bitmap against a plain array ------------------------------------------------------------------------------ */

struct model {
    uint64_t n;
    uint8_t *bit;
};

static uint64_t model_fill(struct model *m, uint64_t first, uint64_t n, uint8_t v)
{
    uint64_t changed = 0;
    for (uint64_t i = first; i < first + n; i++) {
        changed += m->bit[i] != v;
        m->bit[i] = v;
    }
    return changed;
}

static uint64_t model_next(const struct model *m, uint64_t from, uint64_t end, uint8_t v)
{
    while (from < end && m->bit[from] != v) {
        from++;
    }
    return MIN(from, end);
}

static void compare(const struct bitmap *b, const struct model *m)
{
    uint64_t count = 0;
    assert_int_equal(bitmap_bits(b), m->n);
    for (uint64_t i = 0; i < m->n; i++) {
        assert_int_equal(bitmap_test(b, i), m->bit[i]);
        count += m->bit[i];
    }
    assert_int_equal(bitmap_count(b), count);
    uint64_t at = 0;
    do { /* walking finds each run */
        uint64_t set = bitmap_next_set(b, at, m->n);
        assert_int_equal(set, model_next(m, at, m->n, 1));
        at = bitmap_next_clear(b, set, m->n);
        assert_int_equal(at, model_next(m, set, m->n, 0));
    } while (at < m->n);
}

static void resize_both(struct bitmap *b, struct model *m, uint64_t n)
{
    assert_true(bitmap_resize(b, n));
    m->bit = g_realloc(m->bit, n + 1);
    if (n > m->n) {
        memset(m->bit + m->n, 0, n - m->n);
    }
    m->n = n;
}

static uint64_t pick(uint64_t below)
{
    return below ? ((uint64_t)rand() << 20 ^ (uint64_t)rand()) % below : 0;
}

static void one_step(struct bitmap *b, struct model *m)
{
    uint64_t first = pick(m->n);
    uint64_t n = pick(rand() % 4 ? MIN(m->n - first, 200) + 1 : m->n - first + 1);
    uint64_t end = first + n;
    switch (rand() % 8) {
    case 0:
    case 1:
        assert_int_equal(bitmap_set(b, first, n), model_fill(m, first, n, 1));
        break;
    case 2:
    case 3:
    case 4:
        assert_int_equal(bitmap_clear(b, first, n), model_fill(m, first, n, 0));
        break;
    case 5:
        assert_int_equal(bitmap_next_set(b, first, end), model_next(m, first, end, 1));
        break;
    case 6:
        assert_int_equal(bitmap_next_clear(b, first, end), model_next(m, first, end, 0));
        break;
    default:
        if (rand() % 20 == 0) {
            resize_both(b, m, pick(20000));
        }
    }
}

static void test_bitmap_random(void **state)
{
    static const uint64_t sizes[] = {0, 1, 63, 64, 65, 4095, 4096, 4097, 20000};
    srand(42);
    for (size_t s = 0; s < G_N_ELEMENTS(sizes); s++) {
        struct bitmap *b = bitmap_create(sizes[s]);
        struct model m = {.n = sizes[s], .bit = g_malloc0(sizes[s] + 1)};
        for (int i = 0; i < 1500; i++) {
            one_step(b, &m);
            if (i % 50 == 0) {
                compare(b, &m);
            }
        }
        compare(b, &m);
        bitmap_destroy(b);
        g_free(m.bit);
    }
}

static void test_bitmap_or(void **state)
{
    struct bitmap *a = bitmap_create(10000);
    struct bitmap *b = bitmap_create(10000);
    bitmap_set(a, 10, 5000);
    bitmap_set(b, 4000, 3000);
    bitmap_set(b, 9999, 1);
    bitmap_or(a, b);
    assert_int_equal(bitmap_count(a), 6990 + 1);
    assert_int_equal(bitmap_next_set(a, 7000, 10000), 9999);
    assert_int_equal(bitmap_next_clear(a, 10, 10000), 7000);
    assert_int_equal(bitmap_count(b), 3001);
    bitmap_destroy(a);
    bitmap_destroy(b);
}

static void test_bitmap_huge_is_quick(void **state)
{
    const uint64_t n = UINT64_C(1) << 30;
    struct bitmap *b = bitmap_create(n);
    assert_non_null(b);
    for (int i = 0; i < 1000; i++) { /* seconds for each if it walked the words */
        assert_int_equal(bitmap_next_set(b, 0, n), n);
        assert_int_equal(bitmap_set(b, n - 1, 1), 1);
        assert_int_equal(bitmap_next_set(b, 0, n), n - 1);
        assert_int_equal(bitmap_next_set(b, 0, n - 1), n - 1);
        assert_int_equal(bitmap_clear(b, 0, n), 1);
    }
    bitmap_destroy(b);
    assert_null(bitmap_create((UINT64_C(1) << 40) + 1));
    bitmap_destroy(NULL);
}

/* --- small things --------------------------------------------------------------------------------------------- */

static void test_crc32c(void **state)
{
    uint8_t buf[32]; /* RFC 3720, appendix B.4 */
    assert_int_equal(crc32c(0, "", 0), 0);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    memset(buf, 0, sizeof(buf));
    assert_int_equal(crc32c(0, buf, 32), 0x8a9136aa);
    memset(buf, 0xff, sizeof(buf));
    assert_int_equal(crc32c(0, buf, 32), 0x62a8ab43);
    for (unsigned i = 0; i < 32; i++) {
        buf[i] = (uint8_t)i;
    }
    assert_int_equal(crc32c(0, buf, 32), 0x46dd794e);
    for (size_t cut = 0; cut <= 32; cut++) {
        assert_int_equal(crc32c(crc32c(0, buf, cut), buf + cut, 32 - cut), 0x46dd794e);
    }
}

/* What is summed in streams side by side is what its bytes one by one give. */
static void test_crc32c_long(void **state)
{
    enum { LONG = 3 * 4096 + 77 };
    CLEANUP_FREE uint8_t *buf = g_malloc(LONG);
    CLEANUP_FREE uint32_t *sums = g_new0(uint32_t, LONG + 1);
    uint32_t x = 1;
    for (unsigned i = 0; i < LONG; i++) {
        x = x * 1664525 + 1013904223;
        buf[i] = (uint8_t)(x >> 24);
        sums[i + 1] = crc32c(sums[i], buf + i, 1);
    }
    for (unsigned from = 0; from < 9; from++) {
        for (unsigned to = from; to <= LONG; to += to % 4096 > 4070 || to % 4096 < 30 ? 1 : 61) {
            assert_int_equal(crc32c(sums[from], buf + from, to - from), sums[to]);
        }
    }
}

static void test_checked(void **state)
{
    uint64_t v;
    assert_true(add_ok(UINT64_MAX - 1, 1, &v));
    assert_int_equal(v, UINT64_MAX);
    assert_false(add_ok(UINT64_MAX, 1, &v));
    assert_false(mul_ok(UINT64_C(1) << 32, UINT64_C(1) << 32, &v));
    assert_true(range_ok(10, 0, 10));
    assert_true(range_ok(0, 10, 10));
    assert_false(range_ok(1, 10, 10));
    assert_false(range_ok(11, 0, 10));
    assert_false(range_ok(5, UINT64_MAX, 10));
    assert_true(ranges_overlap(0, 10, 9, 1));
    assert_false(ranges_overlap(0, 10, 10, 1));
    assert_int_equal(round_up(4097, 4096), 8192);
    assert_int_equal(round_down(4097, 4096), 4096);
    assert_int_equal(div_round_up(UINT64_MAX, 2), UINT64_C(1) << 63);
    assert_int_equal(log2_floor(4097), 12);
    assert_false(is_pow2(0));
    assert_true(is_pow2(UINT64_C(1) << 63));
}

static void test_endian(void **state)
{
    uint8_t b[9] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    assert_int_equal(load_be32(b + 1), 0x01020304);
    assert_int_equal(load_le64(b + 1), UINT64_C(0x0807060504030201));
    store_be16(b + 1, 0xabcd);
    assert_int_equal(b[1], 0xab);
    store_le32(b + 3, 0x11223344);
    assert_int_equal(b[3], 0x44);
}

static void test_err(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_false(err_is_set(&e));
    assert_string_equal(err_text(&e), "unknown error");
    assert_int_equal(err_set(&e, EINVAL, "disk '%s'", "d0"), -EINVAL);
    assert_int_equal(err_wrap(&e, "start"), -EINVAL);
    assert_string_equal(err_text(&e), "start: disk 'd0'");
    assert_int_equal(err_set_errno(&e, ENOENT, "open"), -ENOENT);
    assert_string_equal(err_text(&e), "open: No such file or directory");
    assert_int_equal(err_set_class(NULL, ERR_DEVICE_NOT_FOUND, ENODEV, "x"), -ENODEV);
    struct err other = ERR_INIT;
    err_set_class(&other, ERR_DEVICE_NOT_FOUND, ENODEV, "gone");
    err_move(&e, &other);
    assert_false(err_is_set(&other));
    assert_string_equal(err_class_name(e.cls), "DeviceNotFound");
}

struct listener {
    struct event_bus *bus;
    unsigned got;
    bool leave;
};

static void heard(void *opaque, const char *name, struct json_object *data)
{
    struct listener *l = opaque;
    assert_string_equal(name, "RESUME");
    l->got++;
    if (l->leave) {
        event_unsubscribe(l->bus, l);
    }
}

static void test_events(void **state)
{
    struct event_bus *bus = event_bus_create();
    struct listener a = {.bus = bus, .leave = true};
    struct listener b = {.bus = bus};
    event_subscribe(bus, heard, &a);
    event_subscribe(bus, heard, &b);
    event_emit(bus, "RESUME", NULL);
    event_emit(bus, "RESUME", json_object_new_object());
    assert_int_equal(a.got, 1);
    assert_int_equal(b.got, 2);
    event_unsubscribe(bus, &b);
    event_emit(bus, "RESUME", NULL);
    assert_int_equal(b.got, 2);
    event_bus_destroy(bus);
    event_bus_destroy(NULL);
}

static void test_log(void **state)
{
    char name[] = "/tmp/sterna-test-XXXXXX";
    close(mkstemp(name));
    struct log *l = log_create("/usr/bin/sterna");
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(log_to_file(l, "/nonexistent/x", &e), -ENOENT);
    assert_int_equal(log_to_file(l, name, NULL), 0);
    log_error(l, "no %s", "disk");
    log_warn(l, "slow");
    assert_false(log_tracing(l, block_read));
    assert_true(log_trace_enable(l, "block_*", true) > 3);
    assert_int_equal(log_trace_enable(l, "block_write", false), 1);
    assert_int_equal(log_trace_enable(l, "nosuch", true), 0);
    assert_true(log_tracing(l, block_read));
    assert_false(log_tracing(l, block_write));
    assert_false(log_tracing(NULL, block_read));
    log_trace(l, block_read, "off %d", 5);
    log_trace(l, block_write, "off %d", 6);
    log_error(NULL, "nobody hears");
    log_destroy(l);
    CLEANUP_FREE char *text = NULL;
    assert_true(g_file_get_contents(name, &text, NULL, NULL));
    assert_string_equal(text, "sterna: no disk\nsterna: warning: slow\nblock_read off 5\n");
    unlink(name);
}

static void test_nearest_word(void **state)
{
    static const char *const words[] = {"qcow2", "raw", "throttle", NULL};
    assert_string_equal(nearest_word("qcwo2", words), "qcow2");
    assert_string_equal(nearest_word("Throtle", words), "throttle");
    assert_null(nearest_word("vmdk", words));
    CLEANUP_ERR struct err e = ERR_INIT;
    err_set(&e, ENOENT, "Unknown driver 'rwa'");
    assert_int_equal(err_suggest(&e, "rwa", words), -ENOENT);
    assert_string_equal(err_text(&e), "Unknown driver 'rwa'; did you mean 'raw'?");
    err_set(&e, EINVAL, "Unknown driver 'nbd'");
    assert_int_equal(err_suggest(&e, "nbd", words), -EINVAL);
    assert_string_equal(err_text(&e), "Unknown driver 'nbd'");
    assert_int_equal(err_suggest(NULL, "nbd", words), -EINVAL);
}

static void test_id_wellformed(void **state)
{
    assert_true(id_wellformed("d") && id_wellformed("disk-0.a_B"));
    assert_false(id_wellformed("") || id_wellformed("0d") || id_wellformed("#d") || id_wellformed("a b"));
    assert_false(id_wellformed("a/b") || id_wellformed("\xc3\xa9"));
}

static void test_memory(void **state)
{
    const struct memory_policy p = {.reserve = true, .merge = true, .no_dump = true, .prealloc = true, .threads = 3};
    enum { SIZE = 40 * LARGE_PAGE, PAGE = 4096 };
    static unsigned char there[SIZE / PAGE];
    uint8_t *m = memory_map(&p, SIZE, PAGE);
    assert_non_null(m);
    m[SIZE - 1] = 7;
    assert_int_equal(mincore(m, SIZE, there), 0);
    assert_null(memchr(there, 1, sizeof(there) - LARGE_PAGE / PAGE));
    assert_int_equal(memory_populate(&p, m, SIZE), 0);
    assert_int_equal(mincore(m, SIZE, there), 0);
    assert_null(memchr(there, 0, sizeof(there)));
    assert_int_equal(m[SIZE - 1], 7);
    munmap(m + SIZE / 2, PAGE);
    assert_int_equal(memory_populate(&p, m, SIZE), -ENOMEM);
    munmap(m - PAGE, SIZE + 2 * PAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bitmap_random),
        cmocka_unit_test(test_bitmap_or),
        cmocka_unit_test(test_bitmap_huge_is_quick),
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test(test_crc32c_long),
        cmocka_unit_test(test_checked),
        cmocka_unit_test(test_endian),
        cmocka_unit_test(test_err),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_nearest_word),
        cmocka_unit_test(test_id_wellformed),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
