/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk on the MMIO transport, driven by a model driver: good requests, hostile ones, resets. */
#include "world.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/backend.h"
#include "device/virtio_state.h"
#include "guest/hold.h"
#include "state/section.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, IOERR = 1, UNSUPP = 2 };
#define F_FLUSH   (1ull << 9)
#define F_WCE     (1ull << 11)
#define F_DISCARD (1ull << 13)
#define F_ZEROES  (1ull << 14)

struct fixture {
    struct world w;
    struct device *d;
    const char *device, *disk, *faults;
};

static void make(void *arg)
{
    struct fixture *f = arg;
    world_open_disk(&f->w, f->disk, f->faults);
    f->d = world_device(&f->w, f->device);
}

static void end(void *arg)
{
    device_destroy(((struct fixture *)arg)->d);
}

static struct world *begin_faulty(struct fixture *f, const char *device, const char *disk, const char *faults)
{
    f->faults = faults;
    world_init(&f->w);
    f->device = device ? device : "{\"driver\":\"virtio-blk-device\",\"drive\":\"disk\",\"serial\":\"tern-1\"}";
    f->disk = disk;
    world_run(&f->w, make, f);
    return &f->w;
}

static struct world *begin(struct fixture *f, const char *device, const char *disk)
{
    return begin_faulty(f, device, disk, NULL);
}

static void finish(struct fixture *f)
{
    world_run(&f->w, end, f);
    world_finish(&f->w);
}

static uint8_t *data(struct world *w)
{
    return guest_ram_ptr(w->board.mem, BUF + 0x1000, 0x1000);
}

static void reads_back_what_was_written(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    uint8_t got[512];
    drv_start(w, F_FLUSH);
    memset(data(w), 0xa5, 1024);
    assert_int_equal(drv_blk(w, 1, 3, 1024), OK);
    assert_true(w->line[0]);
    assert_int_equal(rd(w, SLOT + 0x60, 4), VIRTIO_ISR_QUEUE);
    wr(w, SLOT + 0x64, 1, 4);
    assert_false(w->line[0]);
    memset(data(w), 0, 1024);
    assert_int_equal(drv_blk(w, 0, 4, 512), OK);
    assert_int_equal(data(w)[0], 0xa5);
    assert_int_equal(data(w)[511], 0xa5);
    assert_int_equal(data(w)[512], 0);
    assert_int_equal(drv_blk(w, 4, 0, 0), OK);
    int fd = open(w->disk, O_RDONLY);
    assert_int_equal(pread(fd, got, 512, 3 * 512), 512);
    assert_int_equal(got[7], 0xa5);
    close(fd);
    assert_int_equal(drv_used_idx(w), 3);
    struct backend *b = g_ptr_array_index(graph_backends(w->board.graph), 0);
    assert_int_equal(b->stats.bytes[ACCT_WRITE], 1024);
    assert_int_equal(b->stats.ops[ACCT_READ], 1);
    finish(&f);
}

static void tells_serial_and_capacity(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, 0);
    assert_int_equal(rd(w, SLOT + 0x100, 4), 2048);
    assert_int_equal(rd(w, SLOT + 0x104, 4), 0);
    assert_int_equal(rd(w, SLOT + 0x100 + 20, 4), 512);
    assert_int_equal(rd(w, SLOT + 0x100 + 34, 2), 2);
    assert_int_equal(drv_blk(w, 8, 0, 20), OK);
    assert_string_equal((char *)data(w), "tern-1");
    finish(&f);
}

static void refuses_what_is_outside_the_disk(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 0, 2048, 512), IOERR);
    assert_int_equal(drv_blk(w, 0, 2047, 1024), IOERR);
    assert_int_equal(drv_blk(w, 1, UINT64_MAX, 512), IOERR);
    assert_int_equal(drv_blk(w, 1, UINT64_MAX / 512, 512), IOERR);
    assert_int_equal(drv_blk(w, 0, 0, 100), IOERR);
    assert_int_equal(drv_blk(w, 77, 0, 512), UNSUPP);
    assert_int_equal(drv_blk(w, 0, 2047, 512), OK);
    assert_false(drv_status(w) & VIRTIO_STATUS_NEEDS_RESET);
    finish(&f);
}

static void discards_and_zeroes(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, "\"discard\":\"unmap\",");
    drv_start(w, F_DISCARD | F_ZEROES);
    memset(data(w), 0x77, 4096);
    assert_int_equal(drv_blk(w, 1, 0, 4096), OK);
    uint8_t *s = data(w);
    memset(s, 0, 16);
    store_le64(s, 1);
    store_le32(s + 8, 2);
    assert_int_equal(drv_blk(w, 13, 0, 16), OK);
    assert_int_equal(drv_blk(w, 0, 0, 4096), OK);
    assert_int_equal(data(w)[511], 0x77);
    assert_int_equal(data(w)[512], 0);
    assert_int_equal(data(w)[1535], 0);
    assert_int_equal(data(w)[1536], 0x77);
    memset(s, 0, 16);
    store_le64(s, 2040);
    store_le32(s + 8, 9);
    assert_int_equal(drv_blk(w, 11, 0, 16), IOERR);
    store_le32(s + 8, 8);
    assert_int_equal(drv_blk(w, 11, 0, 16), OK);
    store_le32(s + 12, 1);
    assert_int_equal(drv_blk(w, 11, 0, 16), UNSUPP); /* discard has no unmap flag */
    assert_int_equal(drv_blk(w, 11, 0, 8), IOERR);
    finish(&f);
}

static void discard_needs_its_feature(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "{\"driver\":\"virtio-blk-device\",\"drive\":\"disk\",\"discard\":\"off\"}", NULL);
    wr(w, SLOT + 0x14, 0, 4);
    assert_false(rd(w, SLOT + 0x10, 4) & F_DISCARD);
    drv_start(w, F_DISCARD);
    assert_false(drv_status(w) & VIRTIO_STATUS_FEATURES_OK);
    finish(&f);
}

static void read_only_disk_is_not_written(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, "\"read-only\":true,");
    wr(w, SLOT + 0x14, 0, 4);
    assert_true(rd(w, SLOT + 0x10, 4) & (1 << 5));
    drv_start(w, 1 << 5);
    assert_int_equal(drv_blk(w, 1, 0, 512), IOERR);
    assert_int_equal(drv_blk(w, 0, 0, 512), OK);
    finish(&f);
}

static void write_cache_is_the_drivers_choice(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, F_WCE);
    assert_int_equal(rd(w, SLOT + 0x100 + 32, 1), 1);
    wr(w, SLOT + 0x100 + 32, 0, 1);
    assert_int_equal(rd(w, SLOT + 0x100 + 32, 1), 0);
    wr(w, SLOT + 0x100, 0, 4); /* the capacity is not */
    assert_int_equal(rd(w, SLOT + 0x100, 4), 2048);
    assert_int_equal(drv_blk(w, 1, 0, 512), OK);
    drv_start(w, F_WCE);
    assert_int_equal(rd(w, SLOT + 0x100 + 32, 1), 1);
    finish(&f);
}

static void check_kept_mode(struct fixture *f, const char *mode)
{
    CLEANUP_JSON struct json_object *o = device_options(f->d);
    struct json_object *v = json_object_object_get(o, "write-cache");
    assert_string_equal(v ? json_object_get_string(v) : "default", mode);
}

static void write_cache_mode_is_kept_before_the_guest_goes_on(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, F_WCE);
    world_settle(w);
    unsigned changes = w->changes;
    wr(w, SLOT + 0x100 + 32, 1, 1); /* which it is */
    assert_false(guest_is_held(w->board.mem));
    wr(w, SLOT + 0x100 + 32, 0, 1);
    assert_true(guest_is_held(w->board.mem));
    world_settle(w);
    assert_false(guest_is_held(w->board.mem));
    assert_int_equal(w->changes, changes + 1);
    check_kept_mode(&f, "off");
    w->refuse_changes = true;
    wr(w, SLOT + 0x100 + 32, 1, 1);
    assert_true(guest_is_held(w->board.mem));
    world_pause(w, f.d); /* waits for it */
    assert_false(guest_is_held(w->board.mem));
    world_resume(w, f.d);
    assert_int_equal(rd(w, SLOT + 0x100 + 32, 1), 0);
    check_kept_mode(&f, "off");
    w->refuse_changes = false;
    drv_start(w, F_WCE); /* its reset takes the mode back */
    assert_false(guest_is_held(w->board.mem));
    world_settle(w);
    assert_int_equal(w->changes, changes + 3);
    check_kept_mode(&f, "default");
    wr(w, SLOT + 0x100 + 32, 0, 1);
    finish(&f);
}

/* Each makes descriptor 0 a chain that no driver may make. */
static void bad_loop(struct world *w)
{
    drv_desc(w, 0, BUF, 16, 1, 1);
    drv_desc(w, 1, BUF, 16, 1, 0);
}
static void bad_next(struct world *w)
{
    drv_desc(w, 0, BUF, 16, 1, VQ_NUM);
}
static void bad_address(struct world *w)
{
    drv_desc(w, 0, RAM + RAM_SIZE - 8, 16, 0, 0);
}
static void bad_address_wrap(struct world *w)
{
    drv_desc(w, 0, UINT64_MAX - 7, 16, 0, 0);
}
static void bad_length(struct world *w)
{
    drv_desc(w, 0, BUF, UINT32_MAX, 0, 0);
}
static void bad_empty(struct world *w)
{
    drv_desc(w, 0, BUF, 0, 0, 0);
}
static void bad_order(struct world *w)
{
    drv_desc(w, 0, BUF, 16, 3, 1);
    drv_desc(w, 1, BUF, 16, 0, 0);
}
static void bad_indirect_unaligned(struct world *w)
{
    drv_desc(w, 0, BUF, 17, 4, 0);
}
static void bad_indirect_outside(struct world *w)
{
    drv_desc(w, 0, 0x1000, 32, 4, 0);
}
static void bad_indirect_nested(struct world *w)
{
    uint8_t *t = guest_ram_ptr(w->board.mem, BUF, 16);
    store_le64(t, BUF);
    store_le32(t + 8, 16);
    store_le32(t + 12, 4);
    drv_desc(w, 0, BUF, 16, 4, 0);
}
static void bad_no_header(struct world *w)
{
    drv_desc(w, 0, BUF, 8, 1, 1);
    drv_desc(w, 1, BUF, 1, 2, 0);
}
static void bad_no_status(struct world *w)
{
    drv_desc(w, 0, BUF, 16, 0, 0);
}

static void hostile_chains_break_the_device_only(void **state)
{
    static void (*const bad[])(struct world *) = {
        bad_loop,
        bad_next,
        bad_address,
        bad_address_wrap,
        bad_length,
        bad_empty,
        bad_order,
        bad_indirect_unaligned,
        bad_indirect_outside,
        bad_indirect_nested,
        bad_no_header,
        bad_no_status,
    };
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        drv_start(w, VIRTIO_F_INDIRECT_DESC);
        bad[i](w);
        drv_post(w, 0);
        world_settle(w);
        assert_true(drv_status(w) & VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(rd(w, SLOT + 0x60, 4) & VIRTIO_ISR_CONFIG, VIRTIO_ISR_CONFIG);
        assert_int_equal(drv_used_idx(w), 0);
        /* a driver that starts again finds a good device */
        drv_start(w, 0);
        assert_false(drv_status(w) & VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(drv_blk(w, 0, 0, 512), OK);
    }
    finish(&f);
}

static void hostile_rings_break_the_device_only(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    uint8_t *avail = guest_ram_ptr(w->board.mem, VQ_AVAIL, 64);
    drv_start(w, 0);
    drv_post(w, 500); /* head out of range */
    world_settle(w);
    assert_true(drv_status(w) & VIRTIO_STATUS_NEEDS_RESET);
    drv_start(w, 0);
    store_le16(avail + 2, 1000); /* more than the queue has */
    wr(w, SLOT + 0x50, 0, 4);
    world_settle(w);
    assert_true(drv_status(w) & VIRTIO_STATUS_NEEDS_RESET);
    /* rings outside RAM, misaligned, sizes that are none */
    wr(w, SLOT + 0x70, 0, 4);
    wr(w, SLOT + 0x38, 7, 4);
    wr(w, SLOT + 0x38, 65536, 4);
    wr(w, SLOT + 0x80, (uint32_t)(RAM + RAM_SIZE - 16), 4);
    wr(w, SLOT + 0x44, 1, 4);
    assert_int_equal(rd(w, SLOT + 0x44, 4), 0);
    wr(w, SLOT + 0x70, 0, 4);
    wr(w, SLOT + 0x80, (uint32_t)RAM + 1, 4);
    wr(w, SLOT + 0x44, 1, 4);
    assert_int_equal(rd(w, SLOT + 0x44, 4), 0);
    wr(w, SLOT + 0x30, 63, 4); /* no such queue */
    assert_int_equal(rd(w, SLOT + 0x34, 4), 0);
    wr(w, SLOT + 0x44, 1, 4);
    wr(w, SLOT + 0x50, 63, 4);
    wr(w, SLOT + 0x50, 0xffffffff, 4);
    world_settle(w);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 0, 0, 512), OK);
    finish(&f);
}

static void indirect_chain_is_a_request(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
    uint8_t *t = guest_ram_ptr(w->board.mem, BUF + 0x4000, 48), *head = guest_ram_ptr(w->board.mem, BUF, 32);
    const uint64_t addr[3] = {BUF, BUF + 0x1000, BUF + 16};
    const uint32_t len[3] = {16, 512, 1};
    const uint16_t flags[3] = {1, 3, 2};
    for (unsigned i = 0; i < 3; i++) {
        store_le64(t + 16 * i, addr[i]);
        store_le32(t + 16 * i + 8, len[i]);
        store_le16(t + 16 * i + 12, flags[i]);
        store_le16(t + 16 * i + 14, (uint16_t)(i + 1));
    }
    memset(head, 0, 16);
    head[16] = 0xee;
    memset(data(w), 0xcc, 512);
    drv_desc(w, 5, BUF + 0x4000, 48, 4, 0);
    drv_post(w, 5);
    world_settle(w);
    assert_int_equal(head[16], OK);
    assert_int_equal(data(w)[0], 0);
    assert_int_equal(drv_used_idx(w), 1);
    const uint8_t *used = guest_ram_ptr(w->board.mem, VQ_USED, 64);
    assert_int_equal(load_le32(used + 4), 5);
    assert_int_equal(load_le32(used + 8), 513);
    finish(&f);
}

static void adjacent_requests_are_merged(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, 0);
    uint8_t *avail = guest_ram_ptr(w->board.mem, VQ_AVAIL, 64);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *head = guest_ram_ptr(w->board.mem, BUF + 32 * i, 32);
        store_le32(head, 1);
        store_le64(head + 8, 10 + i);
        head[16] = 0xee;
        memset(data(w) + 512 * i, 0x31 + (int)i, 512);
        drv_desc(w, 3 * i, BUF + 32 * i, 16, 1, (uint16_t)(3 * i + 1));
        drv_desc(w, 3 * i + 1, BUF + 0x1000 + 512 * i, 512, 1, (uint16_t)(3 * i + 2));
        drv_desc(w, 3 * i + 2, BUF + 32 * i + 16, 1, 2, 0);
        store_le16(avail + 4 + 2 * i, (uint16_t)(3 * i));
    }
    store_le16(avail + 2, 2);
    wr(w, SLOT + 0x50, 0, 4);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 2);
    struct node *n = node_find(w->board.graph, "disk");
    struct backend *b = g_ptr_array_index(graph_backends(w->board.graph), 0);
    assert_int_equal(n->stats.wr_ops, 1);
    assert_int_equal(n->stats.wr_bytes, 1024);
    assert_int_equal(b->stats.ops[ACCT_WRITE], 2);
    assert_int_equal(b->stats.merged[ACCT_WRITE], 1);
    assert_int_equal(drv_blk(w, 0, 11, 512), OK);
    assert_int_equal(data(w)[0], 0x32);
    finish(&f);
}

static void nothing_moves_while_paused(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    drv_start(w, 0);
    world_pause(w, f.d);
    assert_int_equal(drv_blk(w, 0, 0, 512), 0xee);
    assert_int_equal(drv_used_idx(w), 0);
    world_resume(w, f.d);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 1);
    finish(&f);
}

#define WRITE_FAILS_ONCE "{\"event\":\"write_aio\",\"errno\":28,\"once\":true}"
#define READ_FAILS_ONCE  "{\"event\":\"read_aio\",\"errno\":5,\"once\":true}"

static void full_disk_stops_and_tries_again(void **state)
{
    struct fixture f;
    struct world *w = begin_faulty(&f, NULL, NULL, WRITE_FAILS_ONCE);
    struct backend *b = g_ptr_array_index(graph_backends(w->board.graph), 0);
    drv_start(w, 0);
    memset(data(w), 0x42, 512);
    assert_int_equal(drv_blk(w, 1, 5, 512), 0xee); /* no answer: werror is enospc by default */
    assert_int_equal(w->io_errors, 1);
    assert_non_null(strstr(w->events, "BLOCK_IO_ERROR"));
    assert_string_equal(b->io_status, "nospace");
    world_pause(w, f.d); /* what the machine does then; must not wait for the parked one */
    world_resume(w, f.d);
    world_settle(w);
    assert_int_equal(((uint8_t *)guest_ram_ptr(w->board.mem, BUF, 32))[16], OK);
    assert_string_equal(b->io_status, "ok");
    memset(data(w), 0, 512);
    assert_int_equal(drv_blk(w, 0, 5, 512), OK);
    assert_int_equal(data(w)[0], 0x42);
    finish(&f);
}

struct moved {
    struct fixture *from, *to;
    void *st;
};

static void put_it(void *arg)
{
    struct moved *m = arg;
    const struct state_section *s = m->from->d->cls->state;
    CLEANUP_ERR struct err e = ERR_INIT;
    m->from->d->cls->pause(m->from->d);
    m->to->d->cls->pause(m->to->d);
    s->get(m->from->d, m->st);
    assert_true(s->subsections[0].needed(m->st));
    memcpy(guest_ram_ptr(m->to->w.board.mem, RAM, RAM_SIZE), guest_ram_ptr(m->from->w.board.mem, RAM, RAM_SIZE),
           RAM_SIZE);
    if (s->check(m->to->d, m->st, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    s->put(m->to->d, m->st);
}

/* By what is said of it: between the values lies whatever the compiler left there. */
static void assert_same_state(const struct state_section *s, const void *a, const void *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct state_policy p = {0};
    g_autoptr(GByteArray) x = state_encode("/d", s, a, &p, &e), y = state_encode("/d", s, b, &p, &e);
    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(x->len, y->len);
    assert_memory_equal(x->data, y->data, x->len);
}

/* A request that waited for the disk when the state was saved is done where that is loaded, once. */
static void parked_request_moves_along(void **state)
{
    struct fixture a, b;
    struct world *w = begin_faulty(&a, NULL, NULL, WRITE_FAILS_ONCE), *x = begin(&b, NULL, NULL);
    drv_start(w, VIRTIO_F_EVENT_IDX);
    memset(data(w), 0x42, 512);
    assert_int_equal(drv_blk(w, 1, 5, 512), 0xee);
    const struct state_section *s = a.d->cls->state;
    struct moved m = {&a, &b, g_malloc0(s->size)};
    CLEANUP_FREE uint8_t *again = g_malloc0(s->size);
    world_run(w, put_it, &m);
    s->get(b.d, again); /* not resumed yet: it still waits, and is saved again */
    assert_same_state(s, again, m.st);
    assert_int_equal(drv_used_idx(x), 0);
    wr(x, SLOT + 0x30, 0, 4);
    wr(x, SLOT + 0x44, 0, 4);
    assert_int_equal(rd(x, SLOT + 0x44, 4), 1); /* a queue with something out stays */
    b.d->cls->resume(b.d);
    world_settle(x);
    assert_int_equal(((uint8_t *)guest_ram_ptr(x->board.mem, BUF, 32))[16], OK);
    assert_int_equal(drv_used_idx(x), 1);
    memset(data(x), 0, 512);
    assert_int_equal(drv_blk(x, 0, 5, 512), OK);
    assert_int_equal(data(x)[0], 0x42);
    assert_int_equal(drv_used_idx(x), 2);
    g_free(m.st);
    finish(&a);
    finish(&b);
}

/* The same state into the very device whose request is parked: it is dropped, and done again by its head. */
static void parked_request_is_not_done_twice(void **state)
{
    struct fixture a;
    struct world *w = begin_faulty(&a, NULL, NULL, WRITE_FAILS_ONCE);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 1, 5, 512), 0xee);
    world_pause(w, a.d);
    s->get(a.d, st);
    s->put(a.d, st);
    world_resume(w, a.d);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 1);
    finish(&a);
}

static void rings_outside_ram_are_refused(void **state)
{
    struct fixture a;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world *w = begin(&a, NULL, NULL);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE struct virtio_state *st = g_malloc0(s->size);
    drv_start(w, 0);
    world_pause(w, a.d);
    s->get(a.d, st);
    assert_int_equal(s->check(a.d, st, &e), 0);
    struct virtio_state bad[6];
    for (unsigned i = 0; i < 6; i++) {
        bad[i] = *st;
    }
    bad[0].queue[0].used = RAM + RAM_SIZE - 8;
    bad[1].queue[0].num = 0;
    bad[2].features ^= 1u << 9;
    bad[3].config[20] ^= 0xff; /* the block size */
    bad[4].parked_queues = st->queues;
    bad[4].parked[0].heads[1] = 1; /* the queue has 8 entries */
    bad[5].status = 0xff;
    for (unsigned i = 0; i < 6; i++) {
        err_clear(&e);
        if (s->check(a.d, &bad[i], &e) == 0) {
            fail_msg("%u was taken", i);
        }
    }
    world_resume(w, a.d);
    finish(&a);
}

static void guest_hears_of_another_capacity(void **state)
{
    struct fixture a;
    struct world *w = begin(&a, NULL, NULL);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE struct virtio_state *st = g_malloc0(s->size);
    drv_start(w, 0);
    world_pause(w, a.d);
    s->get(a.d, st);
    st->config[1] = 1; /* of 2048 sectors 256 */
    s->put(a.d, st);
    world_resume(w, a.d);
    assert_int_equal(rd(w, SLOT + 0x100, 4), 2048);
    assert_true(rd(w, SLOT + 0x60, 4) & VIRTIO_ISR_CONFIG);
    assert_true(w->line[0]);
    finish(&a);
}

#define RESET (SLOT + 0xc0)
#define READY (SLOT + 0x44)

/* One queue is reset while a request of it is parked. */
static void one_queue_is_reset(void **state)
{
    struct fixture a, b;
    struct world *w = begin_faulty(&a, NULL, NULL, WRITE_FAILS_ONCE);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    drv_start(w, VIRTIO_F_RING_RESET);
    assert_int_equal(drv_blk(w, 1, 5, 512), 0xee);
    wr(w, RESET, 1, 4);
    assert_int_equal(rd(w, RESET, 4), 1);
    assert_int_equal(rd(w, READY, 4), 1);
    s->get(a.d, st);
    assert_true(s->subsections[1].needed(st));
    world_settle(w);
    assert_int_equal(rd(w, RESET, 4), 0);
    assert_int_equal(rd(w, READY, 4), 0);
    assert_int_equal(drv_used_idx(w), 0);
    assert_int_equal(drv_status(w), 15); /* the device itself was not */
    struct world *x = begin(&b, NULL, NULL);
    drv_start(x, VIRTIO_F_RING_RESET);
    world_pause(x, b.d);
    assert_int_equal(s->check(b.d, st, NULL), 0);
    s->put(b.d, st); /* nothing is out there: the reset is complete */
    world_resume(x, b.d);
    world_settle(x);
    assert_int_equal(rd(x, RESET, 4), 0);
    assert_int_equal(rd(x, READY, 4), 0);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 1, 5, 512), OK);
    wr(w, SLOT + 0x30, 0, 4);
    wr(w, RESET, 1, 4); /* not what this driver has accepted */
    assert_int_equal(rd(w, READY, 4), 1);
    finish(&a);
    finish(&b);
}

static void error_is_reported_or_ignored(void **state)
{
    struct fixture f;
    struct world *w = begin_faulty(&f, NULL, NULL, READ_FAILS_ONCE);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 0, 0, 512), IOERR);
    assert_int_equal(w->io_errors, 0);
    assert_int_equal(drv_blk(w, 0, 0, 512), OK);
    finish(&f);
    w = begin_faulty(&f, "{\"driver\":\"virtio-blk-device\",\"drive\":\"disk\",\"werror\":\"ignore\"}", NULL,
                     WRITE_FAILS_ONCE);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 1, 0, 512), OK);
    assert_int_equal(w->io_errors, 0);
    finish(&f);
}

static void reset_forgets_parked_requests(void **state)
{
    struct fixture f;
    struct world *w = begin_faulty(&f, NULL, NULL, WRITE_FAILS_ONCE);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 1, 5, 512), 0xee);
    wr(w, SLOT + 0x70, 0, 4);
    assert_int_not_equal(drv_status(w), 0); /* until the loop has let go of the request */
    world_settle(w);
    assert_int_equal(drv_status(w), 0);
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 1, 5, 512), OK);
    finish(&f);
}

static void resets_while_requests_are_under_way(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    for (unsigned i = 0; i < 50; i++) {
        drv_start(w, 0);
        drv_desc(w, 0, BUF, 16, 1, 1);
        drv_desc(w, 1, BUF + 0x1000, 4096, 3, 2);
        drv_desc(w, 2, BUF + 16, 1, 2, 0);
        memset(guest_ram_ptr(w->board.mem, BUF, 16), 0, 16);
        drv_post(w, 0);
        for (unsigned turn = 0; turn < i % 4; turn++) {
            loop_turn(w->loop, false);
        }
        wr(w, SLOT + 0x70, 0, 4); /* the reset comes while it is where it may be */
        wr(w, SLOT + 0x50, 0, 4); /* and a kick during it */
        world_settle(w);
        assert_int_equal(drv_status(w), 0);
        assert_int_equal(rd(w, SLOT + 0x44, 4), 0);
        assert_false(w->line[0]);
    }
    drv_start(w, 0);
    assert_int_equal(drv_blk(w, 0, 0, 512), OK);
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_back_what_was_written),
        cmocka_unit_test(tells_serial_and_capacity),
        cmocka_unit_test(refuses_what_is_outside_the_disk),
        cmocka_unit_test(discards_and_zeroes),
        cmocka_unit_test(discard_needs_its_feature),
        cmocka_unit_test(read_only_disk_is_not_written),
        cmocka_unit_test(write_cache_is_the_drivers_choice),
        cmocka_unit_test(write_cache_mode_is_kept_before_the_guest_goes_on),
        cmocka_unit_test(hostile_chains_break_the_device_only),
        cmocka_unit_test(hostile_rings_break_the_device_only),
        cmocka_unit_test(indirect_chain_is_a_request),
        cmocka_unit_test(adjacent_requests_are_merged),
        cmocka_unit_test(nothing_moves_while_paused),
        cmocka_unit_test(full_disk_stops_and_tries_again),
        cmocka_unit_test(error_is_reported_or_ignored),
        cmocka_unit_test(one_queue_is_reset),
        cmocka_unit_test(parked_request_moves_along),
        cmocka_unit_test(parked_request_is_not_done_twice),
        cmocka_unit_test(rings_outside_ram_are_refused),
        cmocka_unit_test(guest_hears_of_another_capacity),
        cmocka_unit_test(reset_forgets_parked_requests),
        cmocka_unit_test(resets_while_requests_are_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
