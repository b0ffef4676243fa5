/* SPDX-License-Identifier: BSD-2-Clause */
/* The board's own devices, register by register. */
#include "world.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "char/char.h"
#include "device/fw_cfg.h"
#include "device/goldfish_rtc.h"
#include "device/plic.h"
#include "device/test_finisher.h"
#include "device/uart16550.h"
#include "guest/hold.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define AT   0x10000000ull
#define PLIC 0x0c000000ull

/* --- PLIC ------------------------------------------------------------------------------------------------------------
 */

struct outputs {
    bool level[2];
    unsigned changes;
};

static void output(void *opaque, unsigned hart, bool level)
{
    struct outputs *o = opaque;
    o->changes += o->level[hart] != level;
    o->level[hart] = level;
}

static void plic_claims_by_priority(void **state)
{
    struct world w;
    struct outputs out = {0};
    world_init(&w);
    struct plic *p = plic_create(w.board.mem, PLIC, 2, NULL);
    plic_connect(p, output, &out);
    struct irq_line l10 = plic_line(p, 10), l33 = plic_line(p, 33), l96 = plic_line(p, 96);
    const uint64_t enable1 = PLIC + 0x2080, ctx1 = PLIC + 0x201000;
    wr(&w, PLIC + 4 * 10, 1, 4);
    wr(&w, PLIC + 4 * 33, 7, 4);
    wr(&w, PLIC + 4 * 96, 1, 4);
    wr(&w, enable1, 1 << 10, 4);
    wr(&w, enable1 + 4, 1 << 1, 4);
    wr(&w, enable1 + 12, 0xffffffff, 4);
    assert_int_equal(rd(&w, enable1 + 12, 4), 1); /* sources beyond 96 do not exist */
    irq_set(&l10, true);
    assert_true(out.level[1]);
    assert_false(out.level[0]);
    irq_set(&l33, true);
    irq_set(&l96, true);
    assert_int_equal(rd(&w, PLIC + 0x1000, 4), 1 << 10);
    assert_int_equal(rd(&w, ctx1 + 4, 4), 33);
    assert_int_equal(rd(&w, ctx1 + 4, 4), 10); /* the lowest of equals */
    assert_int_equal(rd(&w, ctx1 + 4, 4), 96);
    assert_int_equal(rd(&w, ctx1 + 4, 4), 0);
    assert_false(out.level[1]);
    irq_set(&l33, false);
    wr(&w, ctx1 + 4, 33, 4);
    assert_false(out.level[1]);
    wr(&w, ctx1 + 4, 10, 4); /* its line is still up */
    assert_true(out.level[1]);
    wr(&w, ctx1, 1, 4); /* threshold hides priority 1 */
    assert_false(out.level[1]);
    wr(&w, ctx1, 0, 4);
    wr(&w, PLIC + 4 * 10, 0, 4); /* priority 0 never interrupts */
    assert_false(out.level[1]);
    plic_destroy(p);
    world_finish(&w);
}

/* --- UART ------------------------------------------------------------------------------------------------------------
 */

static void uart_interrupts(void **state)
{
    struct world w;
    world_init(&w);
    struct uart *u = uart_create(&w.board, AT, world_line(&w, 5), NULL);
    assert_int_equal(rd(&w, AT + 5, 1), 0x60);
    assert_int_equal(rd(&w, AT + 2, 1), 1);
    wr(&w, AT + 2, 0x81, 1); /* FIFO, trigger 8 */
    wr(&w, AT + 1, 1, 1);
    assert_int_equal(uart_can_receive(u), 16);
    uart_receive(u, (const uint8_t *)"abc", 3);
    assert_true(w.line[5]);
    assert_int_equal(rd(&w, AT + 2, 1), 0xcc); /* below the trigger: timeout */
    uart_receive(u, (const uint8_t *)"defghi", 6);
    assert_int_equal(rd(&w, AT + 2, 1), 0xc4);
    assert_int_equal(rd(&w, AT + 5, 1), 0x61);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(rd(&w, AT, 1), 'a' + (int)i);
    }
    assert_false(w.line[5]);
    assert_int_equal(rd(&w, AT + 5, 1), 0x60);
    wr(&w, AT + 1, 2, 1); /* transmitter empty interrupts when enabled */
    assert_true(w.line[5]);
    assert_int_equal(rd(&w, AT + 2, 1), 0xc2);
    assert_false(w.line[5]); /* looking cleared it */
    uart_receive(u, (const uint8_t *)"0123456789abcdefX", 17);
    assert_int_equal(uart_can_receive(u), 0);
    assert_int_equal(rd(&w, AT + 5, 1) & 2, 2); /* overrun, told once */
    assert_int_equal(rd(&w, AT + 5, 1) & 2, 0);
    wr(&w, AT + 2, 0x83, 1);
    assert_int_equal(rd(&w, AT + 5, 1), 0x60);
    uart_destroy(u);
    world_finish(&w);
}

static void uart_registers(void **state)
{
    struct world w;
    world_init(&w);
    struct uart *u = uart_create(&w.board, AT, world_line(&w, 5), NULL);
    wr(&w, AT + 3, 0x83, 1);
    wr(&w, AT, 0x34, 1);
    wr(&w, AT + 1, 0x12, 1);
    assert_int_equal(rd(&w, AT, 1), 0x34);
    assert_int_equal(rd(&w, AT + 1, 1), 0x12);
    wr(&w, AT + 3, 3, 1);
    wr(&w, AT + 1, 0xff, 1);
    assert_int_equal(rd(&w, AT + 1, 1), 0x0f);
    wr(&w, AT + 1, 0, 1);
    wr(&w, AT + 7, 0x5a, 1);
    assert_int_equal(rd(&w, AT + 7, 1), 0x5a);
    assert_int_equal(rd(&w, AT + 6, 1) & 0xf0, 0xb0);
    wr(&w, AT + 4, 0x1a, 1); /* loopback: RTS and OUT2 come back as CTS and DCD */
    assert_int_equal(rd(&w, AT + 6, 1) & 0xf0, 0x90);
    wr(&w, AT, 'z', 1);
    assert_int_equal(rd(&w, AT, 1), 'z');
    uart_destroy(u);
    world_finish(&w);
}

static struct chardev *file_chardev(struct world *w, const char *path)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "id", json_object_new_string("f"));
    json_object_object_add(o, "backend", json_object_new_string("file"));
    json_object_object_add(o, "path", json_object_new_string(path));
    return chardev_create(w->loop, o, NULL);
}

/* What the guest has sent and nobody has taken comes out where the state is loaded, once. */
static void uart_state_keeps_what_was_sent(void **state)
{
    struct world w, x;
    char path[] = "/tmp/sterna-uart-XXXXXX", got[64] = "";
    int fd = mkstemp(path);
    world_init(&w);
    world_init(&x);
    struct uart *u = uart_create(&w.board, AT, world_line(&w, 5), NULL);
    struct uart *v = uart_create(&x.board, AT, world_line(&x, 5), NULL);
    struct chardev *c = file_chardev(&x, path);
    CLEANUP_FREE void *st = g_malloc0(uart_state.size), *again = g_malloc0(uart_state.size);
    assert_int_equal(uart_connect(v, c, NULL), 0);
    wr(&w, AT + 2, 1, 1);
    wr(&w, AT + 1, 1, 1);
    uart_receive(u, (const uint8_t *)"xyz", 3);
    assert_int_equal(rd(&w, AT, 1), 'x');
    for (const char *s = "tern"; *s; s++) {
        wr(&w, AT, (uint8_t)*s, 1);
    }
    uart_state.get(u, st);
    assert_int_equal(uart_state.check(v, st, NULL), 0);
    uart_state.put(v, st);
    uart_state.get(v, again);
    assert_memory_equal(st, again, uart_state.size);
    world_settle(&x);
    assert_int_equal(pread(fd, got, sizeof(got), 0), 4);
    assert_memory_equal(got, "tern", 4);
    assert_true(x.line[5]);
    assert_int_equal(rd(&x, AT, 1), 'y');
    assert_int_equal(rd(&x, AT, 1), 'z');
    assert_false(x.line[5]);
    uart_destroy(u);
    uart_destroy(v);
    chardev_destroy(c);
    close(fd);
    unlink(path);
    world_finish(&w);
    world_finish(&x);
}

static void uart_sends_all_with_backpressure(void **state)
{
    struct world w;
    char path[] = "/tmp/sterna-uart-XXXXXX", got[8192] = "";
    int fd = mkstemp(path);
    world_init(&w);
    struct uart *u = uart_create(&w.board, AT, world_line(&w, 5), NULL);
    struct chardev *c = file_chardev(&w, path);
    assert_non_null(c);
    assert_int_equal(uart_connect(u, c, NULL), 0);
    unsigned sent = 0;
    while (rd(&w, AT + 5, 1) & 0x20) { /* nobody takes them: the transmitter gets busy at last */
        wr(&w, AT, 'a' + sent++ % 26, 1);
        assert_in_range(sent, 1, 5000);
    }
    world_settle(&w);
    assert_int_equal(rd(&w, AT + 5, 1) & 0x20, 0x20);
    wr(&w, AT, '!', 1);
    world_settle(&w);
    assert_int_equal(pread(fd, got, sizeof(got), 0), sent + 1);
    assert_int_equal(got[sent - 1], 'a' + (int)(sent - 1) % 26);
    assert_int_equal(got[sent], '!');
    uart_destroy(u);
    chardev_destroy(c);
    close(fd);
    unlink(path);
    world_finish(&w);
}

/* --- RTC, finisher, fw_cfg -------------------------------------------------------------------------------------------
 */

static uint64_t rtc_now(struct world *w)
{
    uint64_t low = rd(w, AT, 4);
    return rd(w, AT + 4, 4) << 32 | low;
}

static void rtc_keeps_the_guests_time(void **state)
{
    struct world w;
    world_init(&w);
    struct goldfish_rtc *r = goldfish_rtc_create(&w.board, AT, world_line(&w, 5), NULL);
    int64_t off = (int64_t)(rtc_now(&w) / 1000000000) - (int64_t)time(NULL);
    assert_in_range(off + 2, 0, 4);
    uint64_t before = rtc_now(&w);
    guest_clock_step(w.board.clock, 5000000000u);
    assert_int_equal(rtc_now(&w) - before, 5000000000u);
    wr(&w, AT + 4, 0x123, 4);
    wr(&w, AT, 0x456, 4);
    assert_int_equal(rtc_now(&w), 0x12300000456ull);
    wr(&w, AT + 0x10, 1, 4);
    wr(&w, AT + 0xc, 0x123, 4);
    wr(&w, AT + 8, 0x456 + 1000, 4);
    world_settle(&w);
    assert_int_equal(rd(&w, AT + 0x18, 4), 1);
    assert_false(w.line[5]);
    guest_clock_step(w.board.clock, 1000);
    goldfish_rtc_clock_changed(r);
    assert_true(w.line[5]);
    assert_int_equal(rd(&w, AT + 0x18, 4), 0);
    wr(&w, AT + 0x1c, 1, 4);
    assert_false(w.line[5]);
    goldfish_rtc_destroy(r);
    world_finish(&w);
}

static void destroy_rtc(void *r)
{
    goldfish_rtc_destroy(r);
}

static void setting_the_time_is_kept_before_the_guest_goes_on(void **state)
{
    const uint64_t hour = 3600000000000u;
    struct world w;
    world_init(&w);
    struct goldfish_rtc *r = goldfish_rtc_create(&w.board, AT, world_line(&w, 5), NULL);
    uint64_t t = rtc_now(&w) + hour;
    assert_int_equal(goldfish_rtc_ahead(r), 0);
    wr(&w, AT + 4, t >> 32, 4);
    assert_false(guest_is_held(w.board.mem));
    wr(&w, AT, t & 0xffffffff, 4);
    assert_true(guest_is_held(w.board.mem));
    world_settle(&w);
    assert_false(guest_is_held(w.board.mem));
    assert_int_equal(w.changes, 1);
    int64_t ahead = goldfish_rtc_ahead(r);
    assert_in_range(ahead, hour - 10000000000u, hour);
    assert_string_equal(w.events, "RTC_CHANGE ");
    w.refuse_changes = true;
    wr(&w, AT + 4, 0, 4);
    wr(&w, AT, 1000, 4);
    world_settle(&w);
    assert_false(guest_is_held(w.board.mem));
    assert_int_equal(rtc_now(&w), t);
    assert_int_equal(goldfish_rtc_ahead(r), ahead);
    assert_string_equal(w.events, "RTC_CHANGE ");
    wr(&w, AT, 1000, 4);
    world_run(&w, destroy_rtc, r);
    world_finish(&w);
}

struct ends {
    int shutdowns, resets;
    unsigned code;
};

static void on_shutdown(void *opaque, unsigned code)
{
    ((struct ends *)opaque)->shutdowns++;
    ((struct ends *)opaque)->code = code;
}

static void on_reset(void *opaque)
{
    ((struct ends *)opaque)->resets++;
}

static void finisher_ends(void **state)
{
    struct world w;
    struct ends n = {0};
    const struct finisher_host h = {&n, on_shutdown, on_reset};
    world_init(&w);
    struct finisher *f = finisher_create(w.board.mem, AT, &h, NULL);
    wr(&w, AT, 0x1234, 4);
    wr(&w, AT + 4, 0x5555, 4);
    assert_int_equal(n.shutdowns + n.resets, 0);
    wr(&w, AT, 0x5555, 4);
    assert_int_equal(n.shutdowns, 1);
    wr(&w, AT, 0x73333, 4);
    assert_int_equal(n.code, 7);
    wr(&w, AT, 0x7777, 4);
    assert_int_equal(n.resets, 1);
    finisher_destroy(f);
    world_finish(&w);
}

static void fw_cfg_reads(void **state)
{
    struct world w;
    world_init(&w);
    struct fw_cfg *f = fw_cfg_create(w.board.mem, AT, NULL);
    assert_true(fw_cfg_set_file(f, "opt/test", "hello", 5));
    assert_false(fw_cfg_set_file(f, "a name that is much longer than the fifty-five bytes it may have", "x", 1));
    wr(&w, AT + 8, htobe16(FW_CFG_SIGNATURE), 2);
    assert_int_equal(rd(&w, AT, 4), 0x554d4551);
    assert_int_equal(rd(&w, AT, 8), 0); /* past the end */
    assert_true(be64toh(rd(&w, AT + 16, 8)) == 0x51454d5520434647ull);
    wr(&w, AT + 8, htobe16(FW_CFG_FILE_DIR), 2);
    assert_int_equal(be32toh((uint32_t)rd(&w, AT, 4)), 1);
    assert_int_equal(be32toh((uint32_t)rd(&w, AT, 4)), 5);
    uint16_t key = be16toh((uint16_t)rd(&w, AT, 2));
    uint8_t *d = guest_ram_ptr(w.board.mem, RAM, 64);
    store_be32(d, (uint32_t)key << 16 | 8 | 2);
    store_be32(d + 4, 7);
    store_be64(d + 8, RAM + 32);
    memset(d + 32, 0xff, 16);
    wr(&w, AT + 16, htobe64(RAM), 8);
    assert_int_equal(load_be32(d), 0);
    assert_memory_equal(d + 32, "hello\0\0\xff", 8);
    store_be32(d, 2); /* to where no RAM is */
    store_be64(d + 8, UINT64_MAX - 3);
    wr(&w, AT + 16, htobe64(RAM), 8);
    assert_int_equal(load_be32(d), 1);
    store_be32(d, 16); /* items are read-only */
    wr(&w, AT + 16, htobe64(RAM), 8);
    assert_int_equal(load_be32(d), 1);
    wr(&w, AT + 16, htobe64(UINT64_MAX), 8); /* survives */
    wr(&w, AT + 8, htobe16(0x3fff), 2);
    assert_int_equal(rd(&w, AT, 8), 0);
    fw_cfg_destroy(f);
    world_finish(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plic_claims_by_priority),
        cmocka_unit_test(uart_interrupts),
        cmocka_unit_test(uart_registers),
        cmocka_unit_test(uart_state_keeps_what_was_sent),
        cmocka_unit_test(uart_sends_all_with_backpressure),
        cmocka_unit_test(rtc_keeps_the_guests_time),
        cmocka_unit_test(setting_the_time_is_kept_before_the_guest_goes_on),
        cmocka_unit_test(finisher_ends),
        cmocka_unit_test(fw_cfg_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
