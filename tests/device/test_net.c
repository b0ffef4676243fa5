/* SPDX-License-Identifier: BSD-2-Clause */
/* The network card: frames both ways, what it hears, its link; and the network behind it (DHCP, a name that is taken).
 */
#include "base/cleanup.h"
#include "base/endian.h"
#include "device/virtio_net.h"
#include "device/virtio_proxy.h"
#include "net/net.h"
#include "world.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define RINGS(q) (RAM + 0x4000 * (q)) /* descriptors, avail, used: 0x1000 each */
#define DATA(q)  (BUF + 0x4000 * (q))

struct fixture {
    struct world w;
    struct device *d;
    const char *json;
    unsigned posted[3];
};

static void make(void *arg)
{
    struct fixture *f = arg;
    f->d = world_device(&f->w, f->json);
}

static int add_netdev(struct world *w, const char *text, struct err *e)
{
    return netdev_add_text(w->board.net, text, e);
}

static struct world *begin(struct fixture *f, const char *netdev, const char *json)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    *f = (struct fixture){.json = json};
    world_init(&f->w);
    if (netdev && add_netdev(&f->w, netdev, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    world_run(&f->w, make, f);
    return &f->w;
}

static void destroy(void *arg)
{
    struct fixture *f = arg;
    device_destroy(f->d);
}

static void finish(struct fixture *f)
{
    world_run(&f->w, destroy, f);
    world_finish(&f->w);
}

static void *ram(struct world *w, uint64_t gpa)
{
    return guest_ram_ptr(w->board.mem, gpa, 0x1000);
}

/* As a driver that accepts all features, with its three queues. */
static void start(struct fixture *f)
{
    struct world *w = &f->w;
    memset(guest_ram_ptr(w->board.mem, RAM, 0x10000), 0, 0x10000);
    memset(f->posted, 0, sizeof(f->posted));
    wr(w, SLOT + 0x70, 0, 4);
    wr(w, SLOT + 0x70, 3, 4);
    for (unsigned i = 0; i < 2; i++) {
        wr(w, SLOT + 0x14, i, 4);
        uint64_t offered = rd(w, SLOT + 0x10, 4);
        wr(w, SLOT + 0x24, i, 4);
        wr(w, SLOT + 0x20, i ? offered : offered & ~(uint64_t)VIRTIO_F_EVENT_IDX, 4);
    }
    wr(w, SLOT + 0x70, 11, 4);
    for (unsigned q = 0; q < 3; q++) {
        wr(w, SLOT + 0x30, q, 4);
        wr(w, SLOT + 0x38, VQ_NUM, 4);
        wr(w, SLOT + 0x80, (uint32_t)RINGS(q), 4);
        wr(w, SLOT + 0x90, (uint32_t)RINGS(q) + 0x1000, 4);
        wr(w, SLOT + 0xa0, (uint32_t)RINGS(q) + 0x2000, 4);
        wr(w, SLOT + 0x44, 1, 4);
    }
    wr(w, SLOT + 0x70, 15, 4);
    assert_int_equal(drv_status(w), 15);
}

static uint16_t used(struct world *w, unsigned q)
{
    return load_le16((uint8_t *)ram(w, RINGS(q) + 0x2000) + 2);
}

static uint32_t used_len(struct world *w, unsigned q)
{
    return load_le32((uint8_t *)ram(w, RINGS(q) + 0x2000) + 8 + 8 * ((used(w, q) - 1u) % VQ_NUM));
}

/* Descriptors 0 and 1 of the queue: `out` bytes to read at DATA(q), `in` to fill behind them. */
static void post(struct fixture *f, unsigned q, uint32_t out, uint32_t in)
{
    struct world *w = &f->w;
    uint8_t *d = ram(w, RINGS(q)), *a = ram(w, RINGS(q) + 0x1000);
    const uint32_t len[2] = {out ? out : in, in};
    for (unsigned i = 0; i < 2; i++) {
        store_le64(d + 16 * i, DATA(q) + i * out);
        store_le32(d + 16 * i + 8, len[i]);
        store_le16(d + 16 * i + 12, (uint16_t)((i == 0 && out && in ? 1 : 0) | (i || !out ? 2 : 0)));
        store_le16(d + 16 * i + 14, 1);
    }
    store_le16(a + 4 + 2 * (f->posted[q] % VQ_NUM), 0);
    store_le16(a + 2, (uint16_t)++f->posted[q]);
    wr(w, SLOT + 0x50, q, 4);
    world_settle(w);
}

static uint8_t control(struct fixture *f, uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
    uint8_t *p = ram(&f->w, DATA(2));
    p[0] = class;
    p[1] = cmd;
    memcpy(p + 2, data, len);
    p[2 + len] = 0xee;
    post(f, 2, 2 + len, 1);
    return p[2 + len];
}

/* A frame to an address arrives from the network; whether the guest heard it. */
static bool hears(struct fixture *f, const char *to)
{
    struct virtio_proxy *p = (struct virtio_proxy *)f->d;
    struct netdev *n = netdev_get(f->w.board.net, 0);
    uint8_t frame[60] = {0};
    uint16_t before = used(&f->w, 0);
    assert_non_null(p);
    memcpy(frame, to, 6);
    memset(frame + 6, 0x42, sizeof(frame) - 6);
    netdev_receive(n, frame, sizeof(frame));
    if (used(&f->w, 0) == before) {
        return false;
    }
    assert_int_equal(used_len(&f->w, 0), 12 + 60);
    assert_memory_equal((uint8_t *)ram(&f->w, DATA(0)) + 12, frame, sizeof(frame));
    assert_int_equal(((uint8_t *)ram(&f->w, DATA(0)))[10], 1);
    post(f, 0, 0, 2048);
    return true;
}

#define CARD "{\"driver\":\"virtio-net-device\",\"id\":\"card\",\"netdev\":\"n\"}"
#define MAC  "\x52\x54\x00\x12\x34\x56"

static void addresses_are_given_in_order(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "user,id=n", CARD);
    assert_string_equal(device_str(f.d, "mac"), "52:54:00:12:34:56");
    assert_int_equal(rd(w, SLOT + 0x08, 4), 1);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(rd(w, SLOT + 0x100 + i, 1), (uint8_t)MAC[i]);
    }
    assert_int_equal(rd(w, SLOT + 0x106, 2), 1);
    struct fixture g = {.w = f.w, .json = "{\"driver\":\"virtio-net-pci\"}"};
    world_run(w, make, &g);
    assert_string_equal(device_str(g.d, "mac"), "52:54:00:12:34:57");
    world_run(w, destroy, &g);
    finish(&f);
}

static void filter_is_the_drivers(void **state)
{
    static const uint8_t on = 1, off = 0;
    struct fixture f;
    begin(&f, "user,id=n", CARD);
    start(&f);
    post(&f, 0, 0, 2048);
    assert_true(hears(&f, "\x02\x00\x00\x00\x00\x01"));
    assert_int_equal(control(&f, 0, 0, &off, 1), 0);
    assert_false(hears(&f, "\x02\x00\x00\x00\x00\x01"));
    assert_true(hears(&f, MAC));
    assert_true(hears(&f, "\xff\xff\xff\xff\xff\xff"));
    assert_false(hears(&f, "\x33\x33\x00\x00\x00\x01"));
    assert_int_equal(control(&f, 0, 1, &on, 1), 0);
    assert_true(hears(&f, "\x33\x33\x00\x00\x00\x01"));
    assert_int_equal(control(&f, 0, 1, &off, 1), 0);
    static const uint8_t table[] = {1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0x33, 0x33, 0, 0, 0, 1};
    assert_int_equal(control(&f, 1, 0, table, sizeof(table)), 0);
    assert_true(hears(&f, "\x02\x00\x00\x00\x00\x01"));
    assert_true(hears(&f, "\x33\x33\x00\x00\x00\x01"));
    assert_false(hears(&f, "\x33\x33\x00\x00\x00\x02"));
    assert_int_equal(control(&f, 1, 1, "\x02\x00\x00\x00\x00\x77", 6), 0);
    assert_false(hears(&f, MAC));
    assert_true(hears(&f, "\x02\x00\x00\x00\x00\x77"));
    assert_int_equal(control(&f, 0, 5, &on, 1), 0);
    assert_false(hears(&f, "\xff\xff\xff\xff\xff\xff"));
    /* Nonsense changes nothing. */
    assert_int_equal(control(&f, 1, 0, table, sizeof(table) - 1), 1);
    assert_int_equal(control(&f, 1, 0, "\xff\xff\xff\xff", 4), 1);
    assert_int_equal(control(&f, 0, 6, &on, 1), 1);
    assert_int_equal(control(&f, 7, 0, &on, 1), 1);
    assert_true(hears(&f, "\x33\x33\x00\x00\x00\x01"));
    start(&f); /* a driver that begins finds it as at first */
    post(&f, 0, 0, 2048);
    assert_true(hears(&f, "\x02\x00\x00\x00\x00\x09"));
    assert_int_equal(rd(&f.w, SLOT + 0x100, 4), 0x12005452);
    finish(&f);
}

static void frames_wait_for_a_buffer(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "user,id=n", CARD);
    struct netdev *n = netdev_get(w->board.net, 0);
    uint8_t frame[100] = MAC;
    start(&f);
    for (unsigned i = 0; i < 3; i++) {
        frame[50] = (uint8_t)i;
        netdev_receive(n, frame, sizeof(frame));
    }
    assert_int_equal(used(w, 0), 0);
    for (unsigned i = 0; i < 3; i++) {
        post(&f, 0, 0, 2048);
        assert_int_equal(used(w, 0), i + 1);
        assert_int_equal(((uint8_t *)ram(w, DATA(0)))[12 + 50], i);
    }
    post(&f, 0, 0, 40); /* too short: the frame is lost, the buffer given back */
    netdev_receive(n, frame, sizeof(frame));
    assert_int_equal(used(w, 0), 4);
    assert_int_equal(used_len(w, 0), 0);
    finish(&f);
}

static void link_goes_down_and_up(void **state)
{
    struct fixture f;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world *w = begin(&f, "user,id=n", CARD);
    start(&f);
    post(&f, 0, 0, 2048);
    assert_int_equal(net_set_link(w->board.net, "card", false, &e), 0);
    assert_int_equal(rd(w, SLOT + 0x106, 2), 0);
    assert_int_equal(rd(w, SLOT + 0x60, 4) & 2, 2); /* the configuration has changed */
    assert_false(hears(&f, MAC));
    assert_int_equal(net_set_link(w->board.net, "n", true, &e), 0);
    assert_int_equal(rd(w, SLOT + 0x106, 2), 1);
    assert_true(hears(&f, MAC));
    assert_int_not_equal(net_set_link(w->board.net, "nope", true, &e), 0);
    assert_string_equal(err_text(&e), "Device 'nope' not found");
    assert_int_equal(netdev_del(w->board.net, "n", NULL), 0);
    assert_int_equal(rd(w, SLOT + 0x106, 2), 0);
    memset(ram(w, DATA(1)), 0, 100);
    post(&f, 1, 100, 0); /* goes nowhere */
    assert_int_equal(used(w, 1), 1);
    finish(&f);
}

/* A request for an address, as a guest sends it, and what comes back. */
static void network_answers_dhcp(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "user,id=n,net=192.168.77.0/24,dhcpstart=192.168.77.9", CARD);
    uint8_t *p = (uint8_t *)ram(w, DATA(1)) + 12;
    start(&f);
    post(&f, 0, 0, 2048);
    memset(ram(w, DATA(1)), 0, 400);
    memset(p, 0xff, 6);
    memcpy(p + 6, MAC, 6);
    store_be16(p + 12, 0x0800);
    uint8_t *ip = p + 14, *udp = ip + 20, *bootp = udp + 8;
    ip[0] = 0x45;
    store_be16(ip + 2, 20 + 8 + 300);
    ip[8] = 64;
    ip[9] = 17;
    memset(ip + 16, 0xff, 4);
    uint32_t sum = 0;
    for (unsigned i = 0; i < 20; i += 2) {
        sum += load_be16(ip + i);
    }
    store_be16(ip + 10, (uint16_t) ~(sum + (sum >> 16)));
    store_be16(udp, 68);
    store_be16(udp + 2, 67);
    store_be16(udp + 4, 8 + 300);
    bootp[0] = bootp[1] = 1;
    bootp[2] = 6;
    store_be32(bootp + 4, 0x1234);
    memcpy(bootp + 28, MAC, 6);
    memcpy(bootp + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8); /* DISCOVER */
    post(&f, 1, 12 + 14 + 20 + 8 + 300, 0);
    assert_int_equal(used(w, 1), 1);
    assert_int_equal(used(w, 0), 1);
    const uint8_t *offer = (const uint8_t *)ram(w, DATA(0)) + 12 + 14 + 20 + 8;
    assert_int_equal(offer[0], 2);
    assert_int_equal(load_be32(offer + 4), 0x1234);
    assert_int_equal(load_be32(offer + 16), 0xc0a84d09);
    finish(&f);
}

static void wrong_networks_are_refused(void **state)
{
    static const char *const bad[][2] = {
        {"user", "'id' is missing"},
        {"tap,id=n", "does not accept value 'tap'"},
        {"user,id=1", "expects an identifier"},
        {"user,id=n,nett=1", "'nett' is unexpected"},
        {"user,id=n,net=10.0.0.0/99", "ADDRESS/BITS"},
        {"user,id=n,net=elephant", "not 'elephant'"},
        {"user,id=n,host=1.2.3.4", "outside of the network"},
        {"user,id=n,hostfwd=tcp::1", "Invalid host forwarding rule"},
        {"user,id=n,hostfwd=tcp::1-:99999", "Invalid host forwarding rule"},
        {"user,id=n,hostfwd=icmp::1-:2", "Invalid host forwarding rule"},
        {"user,id=n,ipv4=off,ipv6=off", "IPv4 and IPv6 disabled"},
        {"user,id=n,restrict=perhaps", "restrict"},
    };
    struct world w;
    CLEANUP_ERR struct err e = ERR_INIT;
    world_init(&w);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_true(add_netdev(&w, bad[i][0], &e) < 0);
        if (!strstr(err_text(&e), bad[i][1])) {
            fail_msg("%s: %s", bad[i][0], err_text(&e));
        }
        err_clear(&e);
    }
    assert_int_equal(add_netdev(&w, "user,id=n", &e), 0);
    assert_true(add_netdev(&w, "user,id=n", &e) < 0);
    assert_non_null(strstr(err_text(&e), "Duplicate ID 'n'"));
    world_finish(&w);
}

static char *kept_address(struct fixture *f)
{
    CLEANUP_JSON struct json_object *o = device_options(f->d);
    return g_strdup(json_object_get_string(json_object_object_get(o, "mac")));
}

static void address_is_kept_before_the_guest_hears_of_it(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "user,id=n", CARD);
    static const uint8_t off = 0;
    start(&f);
    post(&f, 0, 0, 2048);
    assert_int_equal(control(&f, 0, 0, &off, 1), 0);
    unsigned changes = w->changes;
    assert_int_equal(control(&f, 1, 1, "\x02\x00\x00\x00\x00\x77", 6), 0);
    assert_int_equal(w->changes, changes + 1);
    CLEANUP_FREE char *kept = kept_address(&f);
    assert_string_equal(kept, "02:00:00:00:00:77");
    w->refuse_changes = true;
    assert_int_equal(control(&f, 1, 1, "\x02\x00\x00\x00\x00\x78", 6), 1);
    assert_int_equal(rd(w, SLOT + 0x105, 1), 0x77);
    w->refuse_changes = false;
    assert_int_equal(control(&f, 1, 1, "\x03\x00\x00\x00\x00\x77", 6), 1); /* a group's: no card could have it */
    assert_int_equal(rd(w, SLOT + 0x100, 1), 0x02);
    assert_true(hears(&f, "\x02\x00\x00\x00\x00\x77"));
    changes = w->changes;
    start(&f); /* resets first, which takes the address away */
    world_settle(w);
    assert_int_equal(w->changes, changes + 1);
    CLEANUP_FREE char *own = kept_address(&f);
    assert_string_equal(own, "52:54:00:12:34:56");
    finish(&f);
}

static void state_moves_along(void **state)
{
    struct fixture a, b;
    CLEANUP_ERR struct err e = ERR_INIT;
    static const uint8_t off = 0;
    begin(&a, "user,id=n", CARD);
    start(&a);
    post(&a, 0, 0, 2048);
    assert_int_equal(control(&a, 0, 0, &off, 1), 0);
    assert_int_equal(control(&a, 1, 1, "\x02\x00\x00\x00\x00\x77", 6), 0);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    world_pause(&a.w, a.d);
    s->get(a.d, st);
    begin(&b, "user,id=n", "{\"driver\":\"virtio-net-device\",\"netdev\":\"n\",\"mac\":\"02:00:00:00:00:55\"}");
    world_pause(&b.w, b.d);
    memcpy(guest_ram_ptr(b.w.board.mem, RAM, 0x20000), guest_ram_ptr(a.w.board.mem, RAM, 0x20000), 0x20000);
    assert_int_equal(net_set_link(b.w.board.net, "n", false, &e), 0);
    assert_int_equal(s->check(b.d, st, &e), 0);
    s->put(b.d, st);
    memcpy(b.posted, a.posted, sizeof(b.posted));
    world_resume(&b.w, b.d);
    assert_int_equal(rd(&b.w, SLOT + 0x106, 2), 0); /* the guest is told of the link that is here */
    assert_int_equal(net_set_link(b.w.board.net, "n", true, &e), 0);
    assert_false(hears(&b, "\x02\x00\x00\x00\x00\x55"));
    assert_true(hears(&b, "\x02\x00\x00\x00\x00\x77"));
    assert_false(hears(&b, MAC));
    finish(&a);
    finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_given_in_order),
        cmocka_unit_test(filter_is_the_drivers),
        cmocka_unit_test(frames_wait_for_a_buffer),
        cmocka_unit_test(link_goes_down_and_up),
        cmocka_unit_test(network_answers_dhcp),
        cmocka_unit_test(wrong_networks_are_refused),
        cmocka_unit_test(address_is_kept_before_the_guest_hears_of_it),
        cmocka_unit_test(state_moves_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
