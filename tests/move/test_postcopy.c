/* SPDX-License-Identifier: BSD-2-Clause */
/* Post-copy's messages and its two ends: what is damaged, impossible or a lie breaks the link and nothing else. */
#include "move/postcopy.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "guest/pages.h"
#include "loop/co.h"
#include "move/dirty.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

enum { PAGES = 300, RAM = PAGES * 4096 };

/* --- a machine that is only RAM --- */

static void nothing(struct accel *a)
{
}

static const struct accel_ops ops = {.dirty_log_changed = nothing, .pages_came = nothing};

struct world {
    struct vm vm;
    struct dirty *dirty;
    struct channel *a, *b; /* ours, the other side's */
};

static void world_init(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    int fds[2];
    *w = (struct world){.vm = {.loop = co_loop(), .mem = guest_mem_create(), .accel_ops = &ops}};
    assert_int_equal(guest_ram_add(w->vm.mem, "ram", 0x80000000, RAM, &e), 0);
    w->vm.pages = pages_create(w->vm.mem);
    assert_int_equal(dirty_create(&w->vm, &w->dirty, &e), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    w->a = channel_of_socket(fds[0], "a");
    w->b = channel_of_socket(fds[1], "b");
}

static void world_finish(struct world *w)
{
    channel_close(w->a);
    channel_close(w->b);
    dirty_destroy(w->dirty);
    pages_destroy(w->vm.pages);
    guest_mem_destroy(w->vm.mem);
}

static uint8_t *page(struct world *w, uint64_t n)
{
    return guest_ram_get(w->vm.mem, 0)->host + n * GUEST_PAGE_SIZE;
}

/* --- messages --- */

static void send_bytes(struct world *w, const void *p, size_t n)
{
    assert_int_equal(channel_write(w->b, p, n), 0);
}

static int read_one(struct world *w, enum pc_type *type)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    return pc_read(w->a, type, body);
}

static int messages(void *arg)
{
    struct world w;
    enum pc_type type;
    world_init(&w);
    assert_int_equal(pc_send(w.b, pc_begin(PC_ALLD)), 0);
    assert_int_equal(read_one(&w, &type), 0);
    assert_int_equal(type, PC_ALLD);
    uint8_t m[20] = "ALLD"; /* no length, but a wrong checksum */
    send_bytes(&w, m, sizeof(m));
    assert_int_equal(read_one(&w, &type), -EBADMSG);
    memcpy(m, "WHAT", 4);
    send_bytes(&w, m, 16);
    assert_int_equal(read_one(&w, &type), -EBADMSG);
    memcpy(m, "PAGE", 4);
    store_le64(m + 8, UINT64_C(1) << 40);
    send_bytes(&w, m, 16);
    assert_int_equal(read_one(&w, &type), -EBADMSG);
    memcpy(m, "HAVE", 4);
    store_le64(m + 8, 8);
    send_bytes(&w, m, 16);
    channel_break(w.b);
    assert_true(read_one(&w, &type) < 0);
    world_finish(&w);
    return 0;
}

static int lists(void *arg)
{
    struct world w;
    uint8_t map[PAGES], back[PAGES] = {0}, *maps[] = {map}, *backs[] = {back};
    world_init(&w);
    for (unsigned i = 0; i < PAGES; i++) {
        map[i] = i % 3 == 0 || i == PAGES - 1;
    }
    g_autoptr(GByteArray) b = g_byte_array_new();
    pc_append_left(&w.vm, b, maps);
    assert_int_equal(b->len, pc_left_bytes(&w.vm));
    assert_int_equal(pc_parse_left(&w.vm, b->data, b->len, backs), 0);
    assert_memory_equal(map, back, PAGES);
    assert_int_equal(pc_parse_left(&w.vm, b->data, b->len - 1, backs), -EBADMSG);
    b->data[8]++; /* pages */
    assert_int_equal(pc_parse_left(&w.vm, b->data, b->len, backs), -EBADMSG);
    b->data[8]--;
    b->data[0]++; /* blocks */
    assert_int_equal(pc_parse_left(&w.vm, b->data, b->len, backs), -EBADMSG);
    world_finish(&w);
    return 0;
}

static int runs(void *arg)
{
    static const struct pc_run bad[] = {{1, 1, 0},         {0, 0, 0},   {0, 1, PAGES},
                                        {0, 2, PAGES - 1}, {0, 257, 0}, {0, 1, UINT64_MAX}};
    struct world w;
    struct pc_run r;
    unsigned last;
    world_init(&w);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();
        pc_append_run(b, &bad[i], 0);
        assert_false(pc_run_at(&w.vm, b, 0, &r, &last));
    }
    g_autoptr(GByteArray) b = g_byte_array_new();
    pc_append_run(b, &(struct pc_run){0, 1, PAGES - 1}, 7);
    assert_true(pc_run_at(&w.vm, b, 0, &r, &last));
    assert_int_equal(last, 7);
    assert_false(pc_run_at(&w.vm, b, 1, &r, &last)); /* a part of one */
    world_finish(&w);
    return 0;
}

/* --- the source, lied to --- */

struct serving {
    struct pc_out *out;
    struct pc_link link;
    int rc; /* 1: under way */
};

static void serve(void *opaque)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct serving *s = opaque;
    s->rc = pc_out_run(s->out, &s->link, &e);
}

/* What the source makes of one message; what it sends is not read. */
static int answer_to(struct world *w, struct pc_out *out, GByteArray *message)
{
    struct serving s = {.out = out, .link = {w->a, w->a, w->a}, .rc = 1};
    co_start(w->vm.loop, serve, &s);
    assert_int_equal(pc_send(w->b, message), 0);
    while (s.rc == 1) {
        co_sleep(1000000);
    }
    return s.rc;
}

static GByteArray *have(uint32_t answers, uint32_t bulk)
{
    uint8_t b[8];
    store_le32(b, answers);
    store_le32(b + 4, bulk);
    return g_byte_array_append(pc_begin(PC_HAVE), b, sizeof(b));
}

static GByteArray *need(const struct pc_run *r)
{
    GByteArray *b = pc_begin(PC_NEED);
    pc_append_run(b, r, 0);
    return b;
}

static int lies(void *arg)
{
    static const uint64_t no_limit = 0;
    GByteArray *const told[] = {have(0, 1000000),
                                need(&(struct pc_run){3, 1, 0}),
                                need(&(struct pc_run){0, 1, PAGES}),
                                pc_begin(PC_NEED),
                                pc_begin(PC_HAVE),
                                pc_begin(PC_PAGE)};
    for (unsigned i = 0; i < G_N_ELEMENTS(told); i++) {
        struct world w;
        world_init(&w);
        struct pc_out *out = pc_out_create(&w.vm, w.dirty, &(struct pc_out_options){&no_limit, false});
        assert_int_equal(answer_to(&w, out, told[i]), -EPROTO);
        pc_out_destroy(out);
        world_finish(&w);
    }
    return 0;
}

/* Who once said that a page is there cannot lack it later: its memory may be gone. */
static int forgetful(void *arg)
{
    static const uint64_t no_limit = 0;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w;
    world_init(&w);
    memset(page(&w, 7), 1, GUEST_PAGE_SIZE);
    struct pc_out *out = pc_out_create(&w.vm, w.dirty, &(struct pc_out_options){&no_limit, true});
    g_autoptr(GByteArray) all = pc_out_left(out);
    assert_int_equal(pc_out_set_left(out, all, &e), 0);
    assert_int_equal(pc_out_stats(out).left, PAGES);
    struct serving s = {.out = out, .link = {w.a, w.a, w.a}, .rc = 1};
    co_start(w.vm.loop, serve, &s);
    assert_int_equal(pc_send(w.b, have(0, 2)), 0);
    for (unsigned i = 0; i < 60000 && (pc_out_stats(out).left == PAGES || *page(&w, 7)); i++) {
        co_sleep(1000000);
    }
    assert_true(pc_out_stats(out).left < PAGES);
    assert_int_equal(*page(&w, 7), 0); /* given up */
    channel_break(w.b);
    while (s.rc == 1) {
        co_sleep(1000000);
    }
    assert_int_equal(pc_out_set_left(out, all, &e), -EPROTO);
    pc_out_destroy(out);
    world_finish(&w);
    return 0;
}

/* --- waiting --- */

static void percentiles(void **state)
{
    struct pc_latency l = {.count = 100, .max_ns = 5000000};
    l.bucket[3] = 98;
    l.bucket[12] = 2;
    assert_int_equal(pc_latency_percentile(&l, 50), 16000);
    assert_int_equal(pc_latency_percentile(&l, 98), 16000);
    assert_int_equal(pc_latency_percentile(&l, 99), 5000000); /* no more than the longest */
    assert_int_equal(pc_latency_percentile(&(struct pc_latency){0}, 99), 0);
}

static int (*const in_loop[])(void *) = {messages, lists, runs, lies, forgetful};

static void in_a_loop(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    for (unsigned i = 0; i < G_N_ELEMENTS(in_loop); i++) {
        struct loop *l = loop_create(LOOP_AUTO, &e);
        assert_non_null(l);
        assert_int_equal(co_run(l, in_loop[i], NULL), 0);
        loop_destroy(l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(percentiles), cmocka_unit_test(in_a_loop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
