/* SPDX-License-Identifier: BSD-2-Clause */
/* Several channels in one connection: nothing is lost or mixed up, nobody blocks another, and a damaged link ends all.
 */
#include "move/mux.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "loop/co.h"
#include "move/proto.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

enum { MIB = 1 << 20, SOON_NS = 20000000 };
static const uint64_t LATE_NS = 60000000000; /* a slow machine may take its time */

static struct loop *the_loop(void)
{
    return co_loop();
}

static struct channel *half(int fd)
{
    return channel_of_socket(fd, "test");
}

static void make_pair(struct mux *m[2])
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    m[0] = mux_create(the_loop(), half(fds[0]));
    m[1] = mux_create(the_loop(), half(fds[1]));
}

/* One mux; the other side is our own hand. */
static struct mux *make_one(int *peer)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    *peer = fds[1];
    return mux_create(the_loop(), half(fds[0]));
}

static uint8_t byte_of(unsigned id, size_t i)
{
    return (uint8_t)((i * 2654435761u >> 13) + id * 37);
}

static uint64_t soon(uint64_t ns)
{
    return loop_now_ns() + ns;
}

/* --- a way: so many bytes through one sub-channel --- */

struct way {
    struct channel *from, *to;
    unsigned id;
    size_t len;
    int sent, got; /* 1: under way */
};

static void send_way(void *opaque)
{
    struct way *w = opaque;
    uint8_t *buf = g_malloc(w->len);
    for (size_t i = 0; i < w->len; i++) {
        buf[i] = byte_of(w->id, i);
    }
    int rc = 0;
    for (size_t at = 0, n; rc == 0 && at < w->len; at += n) {
        n = MIN(w->len - at, (at * 7919) % (3 * MIB) + 1);
        rc = channel_write(w->from, buf + at, n);
    }
    g_free(buf);
    w->sent = rc;
}

static void receive_way(void *opaque)
{
    struct way *w = opaque;
    uint8_t *buf = g_malloc(w->len);
    w->got = 1;
    int rc = channel_read_all(w->to, buf, w->len, UINT64_MAX);
    for (size_t i = 0; rc == 0 && i < w->len; i++) {
        rc = buf[i] == byte_of(w->id, i) ? 0 : -EBADMSG;
    }
    g_free(buf);
    w->got = rc;
}

static void start_way(struct way *w, struct mux *from, struct mux *to, unsigned id, size_t len)
{
    *w = (struct way){.from = mux_open(from, id), .to = mux_open(to, id), .id = id, .len = len, .sent = 1, .got = 1};
    co_start(the_loop(), send_way, w);
}

static void wait_for(const int *what)
{
    for (unsigned i = 0; *what == 1 && i < 60000; i++) {
        co_sleep(1000000);
    }
}

static void end_way(struct way *w)
{
    channel_close(w->from);
    channel_close(w->to);
}

/* --- the tests, each in a coroutine --- */

static int all_arrives(void *arg)
{
    struct mux *m[2];
    struct way w[4];
    make_pair(m);
    start_way(&w[0], m[0], m[1], MUX_CONTROL, 40 * MIB + 3);
    start_way(&w[1], m[1], m[0], MUX_PAGE_REQUESTS, 100001);
    start_way(&w[2], m[0], m[1], MUX_DISKS, 9 * MIB);
    start_way(&w[3], m[1], m[0], MUX_DISKS + 1, 9 * MIB);
    for (unsigned i = 0; i < 4; i++) {
        co_start(the_loop(), receive_way, &w[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        wait_for(&w[i].got);
        wait_for(&w[i].sent);
        assert_int_equal(w[i].sent, 0);
        assert_int_equal(w[i].got, 0);
        end_way(&w[i]);
    }
    mux_destroy(m[0]);
    mux_destroy(m[1]);
    return 0;
}

/* Law 1: what nobody reads waits at the sender, and the others go on. */
static int nobody_blocks(void *arg)
{
    struct mux *m[2];
    struct way stuck, free_way;
    make_pair(m);
    start_way(&stuck, m[0], m[1], MUX_DISKS, 8 * MIB);
    start_way(&free_way, m[0], m[1], MUX_CONTROL, 20 * MIB);
    co_start(the_loop(), receive_way, &free_way);
    wait_for(&free_way.got);
    assert_int_equal(free_way.got, 0);
    assert_int_equal(stuck.sent, 1);
    co_start(the_loop(), receive_way, &stuck);
    wait_for(&stuck.got);
    assert_int_equal(stuck.got, 0);
    end_way(&stuck);
    end_way(&free_way);
    mux_destroy(m[0]);
    mux_destroy(m[1]);
    return 0;
}

/* Closing is read as an end after what was written; the other direction goes nowhere, but does not wait. */
static int closing_is_an_end(void *arg)
{
    struct mux *m[2];
    char buf[8];
    make_pair(m);
    struct channel *a = mux_open(m[0], MUX_DISKS), *b = mux_open(m[1], MUX_DISKS);
    assert_int_equal(channel_write(a, "tern", 4), 0);
    channel_close(a);
    assert_int_equal(channel_read_all(b, buf, 4, soon(LATE_NS)), 0);
    assert_memory_equal(buf, "tern", 4);
    assert_int_equal(channel_read(b, buf, 4), 0);
    uint8_t *lots = g_malloc0(9 * MIB);
    assert_int_equal(channel_write(b, lots, 9 * MIB), 0);
    g_free(lots);
    channel_close(b);
    mux_destroy(m[0]);
    mux_destroy(m[1]);
    return 0;
}

static int deadlines_hold(void *arg)
{
    struct mux *m[2];
    char buf[4];
    make_pair(m);
    struct channel *a = mux_open(m[0], MUX_CONTROL), *b = mux_open(m[1], MUX_CONTROL);
    assert_int_equal(channel_read_all(b, buf, 4, soon(SOON_NS)), -ETIMEDOUT);
    assert_int_equal(channel_write(a, "tern", 4), 0);
    assert_int_equal(channel_read_all(b, buf, 4, soon(LATE_NS)), 0);
    channel_close(a);
    channel_close(b);
    mux_destroy(m[0]);
    mux_destroy(m[1]);
    return 0;
}

/* Whoever waits for that finds all he wrote at the other side, and nobody waits for a link that is broken. */
static int arrival_is_known(void *arg)
{
    struct mux *m[2];
    make_pair(m);
    struct channel *a = mux_open(m[0], MUX_CONTROL), *b = mux_open(m[1], MUX_CONTROL);
    uint8_t *lots = g_malloc0(5 * MIB);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(channel_write(a, lots, 5 * MIB), 0);
        assert_int_equal(mux_arrive(m[0]), 0);
        assert_int_equal(channel_read_all(b, lots, 5 * MIB, 0), 0); /* without waiting */
    }
    g_free(lots);
    mux_break(m[0]);
    assert_int_equal(mux_arrive(m[0]), -EPIPE);
    channel_close(a);
    channel_close(b);
    mux_destroy(m[0]);
    mux_destroy(m[1]);
    return 0;
}

/* --- wires --- */

/* What comes goes straight to who waits, unless he has left. */
static int who_left_is_let_alone(void *arg)
{
    char buf[5] = "....";
    uint8_t head[12];
    int peer;
    struct mux *m = make_one(&peer);
    struct channel *ch = mux_open(m, MUX_CONTROL);
    store_le32(head, MUX_CONTROL);
    store_le32(head + 4, 6);
    store_le32(head + 8, crc32c(0, head, 8));
    assert_int_equal(write(peer, head, 12), 12);
    assert_int_equal(channel_read_until(ch, buf, 4, soon(SOON_NS)), -ETIMEDOUT);
    assert_int_equal(write(peer, "te", 2), 2);
    co_sleep(SOON_NS);
    assert_string_equal(buf, "....");
    assert_int_equal(write(peer, "rn!!", 4), 4);
    assert_int_equal(channel_read_all(ch, buf, 4, soon(LATE_NS)), 0);
    assert_string_equal(buf, "tern");
    assert_int_equal(channel_read_all(ch, buf, 2, soon(LATE_NS)), 0);
    assert_string_equal(buf, "!!rn");
    channel_close(ch);
    mux_destroy(m);
    close(peer);
    return 0;
}

static void put_frame(int fd, uint32_t id, const void *payload, uint32_t len, size_t flip)
{
    uint8_t b[64];
    size_t n = 12 + len;
    store_le32(b, id);
    store_le32(b + 4, len);
    store_le32(b + 8, crc32c(0, b, 8));
    memcpy(b + 12, payload, len);
    if (id && len) {
        store_le32(b + n, crc32c(0, payload, len));
        n += 4;
    }
    if (flip < n && flip < sizeof(b)) {
        b[flip] ^= 0x20;
    }
    assert_int_equal(write(fd, b, n), n);
}

/* Law 3: a bit flipped anywhere in a disk's frame. */
static int damage_breaks(void *arg)
{
    for (size_t flip = 0; flip <= 20; flip++) {
        char buf[4];
        int peer;
        struct mux *m = make_one(&peer);
        struct channel *disk = mux_open(m, MUX_DISKS), *other = mux_open(m, MUX_CONTROL);
        put_frame(peer, MUX_DISKS, "tern", 4, flip);
        int rc = channel_read_all(disk, buf, 4, soon(LATE_NS));
        assert_int_equal(rc, flip < 20 ? -EBADMSG : 0);
        rc = channel_read_all(other, buf, 1, soon(flip < 20 ? LATE_NS : SOON_NS));
        assert_int_equal(rc, flip < 20 ? -EBADMSG : -ETIMEDOUT);
        assert_int_equal(channel_write(other, "x", 1), flip < 20 ? -EBADMSG : 0);
        channel_close(disk);
        channel_close(other);
        mux_destroy(m);
        close(peer);
    }
    return 0;
}

/* Laws 4 and 5. */
static int ends_are_told_apart(void *arg)
{
    for (unsigned cut = 0; cut < 2; cut++) {
        char buf[4];
        int peer;
        struct mux *m = make_one(&peer);
        struct channel *disk = mux_open(m, MUX_DISKS);
        put_frame(peer, MUX_DISKS, "tern", 4, 99);
        if (cut) {
            assert_int_equal(write(peer, "\x10\0\0", 3), 3);
        }
        close(peer);
        assert_int_equal(channel_read_all(disk, buf, 4, soon(LATE_NS)), 0);
        assert_memory_equal(buf, "tern", 4);
        assert_int_equal(channel_read(disk, buf, 1), cut ? -ENODATA : 0);
        assert_true(channel_write(disk, "x", 1) < 0);
        channel_close(disk);
        mux_destroy(m);
    }
    return 0;
}

/* A peer that sends more than it may, or about what there is not. */
static int greed_breaks(void *arg)
{
    static const struct {
        uint32_t id;
        unsigned len, times;
    } bad[] = {
        {MUX_DISKS, 32, (4 * MIB) / 32 + 1}, {MUX_IDS, 4, 1}, {UINT32_C(1) << 31 | MUX_IDS, 4, 1}, {1u << 31, 3, 1}};
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        static const uint8_t zero[32];
        char buf[4];
        int peer;
        struct mux *m = make_one(&peer);
        struct channel *control = mux_open(m, MUX_CONTROL);
        for (unsigned j = 0; j < bad[i].times; j++) {
            put_frame(peer, bad[i].id, zero, bad[i].len, 99);
            if (j % 256 == 0) {
                co_sleep(1);
            }
        }
        assert_int_equal(channel_read_all(control, buf, 1, soon(LATE_NS)), -EPROTO);
        channel_close(control);
        mux_destroy(m);
        close(peer);
    }
    return 0;
}

/* Law 2: what is urgent passes what waits. The link is full and its other end read by hand. */
static int urgent_goes_first(void *arg)
{
    struct way w[2];
    int peer;
    struct mux *m = make_one(&peer);
    w[0] = (struct way){.from = mux_open(m, MUX_CONTROL), .id = 0, .len = 12 * MIB, .sent = 1};
    w[1] = (struct way){.from = mux_open(m, MUX_DISKS), .id = 1, .len = 4 * MIB, .sent = 1};
    struct channel *pages = mux_open(m, MUX_PAGES), *link = half(peer);
    for (unsigned i = 0; i < 2; i++) {
        co_start(the_loop(), send_way, &w[i]);
    }
    co_sleep(SOON_NS);
    struct way page = {.from = pages, .id = MUX_PAGES, .len = 4096, .sent = 1};
    co_start(the_loop(), send_way, &page);
    size_t in_link = 0, before;
    uint8_t head[12], *body = g_malloc(MUX_FRAME_MAX + 4);
    for (bool found = false; !found;) {
        assert_int_equal(channel_read_all(link, head, 12, soon(LATE_NS)), 0);
        uint32_t id = load_le32(head), len = load_le32(head + 4);
        assert_int_equal(channel_read_all(link, body, len + (id ? 4 : 0), soon(LATE_NS)), 0);
        before = in_link;
        in_link += len;
        found = id == MUX_PAGES;
    }
    assert_true(before <= 9 * MIB); /* what the socket held, and a frame; not all of 16 */
    mux_break(m);
    wait_for(&w[0].sent);
    wait_for(&w[1].sent);
    assert_int_equal(w[0].sent, -EPIPE);
    g_free(body);
    channel_close(link);
    channel_close(w[0].from);
    channel_close(w[1].from);
    channel_close(pages);
    mux_destroy(m);
    return 0;
}

/* --- as sockets, and messages --- */

static int sockets_are_joined(void *arg)
{
    struct mux *m[2];
    char buf[8];
    make_pair(m);
    int a = mux_socket(m[0], MUX_DISKS + 3, NULL), b = mux_socket(m[1], MUX_DISKS + 3, NULL);
    assert_true(a >= 0 && b >= 0);
    struct channel *ca = half(a), *cb = half(b);
    struct way there = {.from = ca, .to = cb, .id = 5, .len = 20 * MIB, .sent = 1, .got = 1};
    struct way back = {.from = cb, .to = ca, .id = 6, .len = 20 * MIB, .sent = 1, .got = 1};
    co_start(the_loop(), send_way, &there);
    co_start(the_loop(), send_way, &back);
    co_start(the_loop(), receive_way, &there);
    co_start(the_loop(), receive_way, &back);
    wait_for(&there.got);
    wait_for(&back.got);
    assert_int_equal(there.got, 0);
    assert_int_equal(back.got, 0);
    channel_close(ca);
    assert_int_equal(channel_read(cb, buf, 1), 0);
    channel_close(cb);
    /* one that is still in use when its connection goes */
    a = mux_socket(m[0], MUX_DISKS + 4, NULL);
    ca = half(a);
    mux_destroy(m[0]);
    assert_true(channel_read(ca, buf, 1) <= 0);
    channel_close(ca);
    mux_destroy(m[1]);
    return 0;
}

static int messages_go_through(void *arg)
{
    struct mux *m[2];
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = NULL, *go = json_object_new_object();
    make_pair(m);
    struct channel *a = mux_open(m[0], MUX_CONTROL), *b = mux_open(m[1], MUX_CONTROL);
    json_object_object_add(go, "run", json_object_new_boolean(true));
    assert_int_equal(proto_send(a, PROTO_OKGO, take(go)), 0);
    assert_int_equal(proto_read(b, PROTO_OKGO, soon(LATE_NS), &o, &e), 0);
    assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), "{\"run\":true}");
    mux_break(m[0]);
    assert_true(proto_read(b, PROTO_REDY, soon(LATE_NS), NULL, &e) < 0);
    assert_string_equal(err_text(&e), "test: the other side closed the connection");
    channel_close(a);
    channel_close(b);
    mux_destroy(m[0]);
    mux_destroy(m[1]);
    return 0;
}

static void in_coroutine(void **state)
{
    struct loop *l = loop_create(LOOP_AUTO, NULL);
    int (*fn)(void *arg) = *(int (**)(void *)) * state;
    assert_int_equal(co_run(l, fn, NULL), 0);
    loop_destroy(l);
}

int main(void)
{
    static int (*const tests[])(void *) = {all_arrives,           nobody_blocks,       closing_is_an_end,
                                           deadlines_hold,        arrival_is_known,    damage_breaks,
                                           who_left_is_let_alone, ends_are_told_apart, greed_breaks,
                                           urgent_goes_first,     sockets_are_joined,  messages_go_through};
    static const char *const names[] = {"all arrives",           "nobody blocks",       "closing is an end",
                                        "deadlines hold",        "arrival is known",    "damage breaks",
                                        "who left is let alone", "ends are told apart", "greed breaks",
                                        "urgent goes first",     "sockets are joined",  "messages go through"};
    struct CMUnitTest all[G_N_ELEMENTS(tests)];
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        all[i] = (struct CMUnitTest){
            .name = names[i], .test_func = in_coroutine, .initial_state = (void *)(uintptr_t)&tests[i]};
    }
    return cmocka_run_group_tests(all, NULL, NULL);
}
