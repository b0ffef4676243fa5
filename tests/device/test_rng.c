/* SPDX-License-Identifier: BSD-2-Clause */
/* The entropy device: its source, its pool, its limit, its state. */
#include "base/cleanup.h"
#include "base/objects.h"
#include "device/virtio_rng.h"
#include "world.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MS 1000000u

struct fixture {
    struct world w;
    struct object_registry *objects;
    struct device *d;
    const char *json;
    char fifo[80];
    int feed; /* the end of the pipe that the test writes */
};

static void add_object(struct fixture *f, const char *fmt, const char *file)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *text = g_strdup_printf(fmt, file);
    CLEANUP_JSON struct json_object *o = json_tokener_parse(text);
    if (object_add(f->objects, o, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
}

static void make(void *arg)
{
    struct fixture *f = arg;
    f->d = world_device(&f->w, f->json);
}

/* The source "r" is a pipe that the test feeds. */
static struct world *begin(struct fixture *f, const char *json)
{
    *f = (struct fixture){.json = json};
    world_init(&f->w);
    f->objects = object_registry_create(f->w.loop, object_kinds);
    graph_set_object_lookup(f->w.board.graph, object_registry_lookup, f->objects);
    snprintf(f->fifo, sizeof(f->fifo), "%s.fifo", f->w.disk);
    assert_int_equal(mkfifo(f->fifo, 0600), 0);
    add_object(f, "{\"qom-type\":\"rng-random\",\"id\":\"r\",\"filename\":\"%s\"}", f->fifo);
    f->feed = open(f->fifo, O_WRONLY | O_CLOEXEC);
    assert_true(f->feed >= 0);
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
    object_registry_destroy(f->objects);
    unlink(f->fifo);
    close(f->feed);
    world_finish(&f->w);
}

static void feed(struct fixture *f, char c, size_t n)
{
    CLEANUP_FREE char *bytes = g_malloc(n);
    memset(bytes, c, n);
    assert_int_equal(write(f->feed, bytes, n), (ssize_t)n);
    world_settle(&f->w);
}

static uint8_t *buffer(struct world *w)
{
    return guest_ram_ptr(w->board.mem, BUF, 0x1000);
}

/* A request for `len` bytes. */
static void ask(struct world *w, uint32_t len)
{
    memset(buffer(w), 0, len);
    drv_desc(w, 0, BUF, len, 2, 0);
    drv_post(w, 0);
    world_settle(w);
}

/* What the last request got. */
static uint32_t got(struct world *w)
{
    const uint8_t *used = guest_ram_ptr(w->board.mem, VQ_USED, 0x100);
    unsigned last = (drv_used_idx(w) - 1u) % VQ_NUM;
    uint32_t n;
    memcpy(&n, used + 8 + 8 * last, 4);
    return n;
}

static void all_are(struct world *w, char c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(buffer(w)[i], c);
    }
    assert_int_equal(buffer(w)[n], 0);
}

static void request_waits_for_the_source(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "{\"driver\":\"virtio-rng-device\",\"rng\":\"r\"}");
    drv_start(w, 0);
    ask(w, 64);
    assert_int_equal(drv_used_idx(w), 0);
    feed(&f, 'a', 10);
    assert_int_equal(drv_used_idx(w), 1);
    assert_int_equal(got(w), 10);
    all_are(w, 'a', 10);
    assert_true(w->line[0]);
    /* What came without being asked for is kept, as much as there is room for. */
    feed(&f, 'b', VIRTIO_RNG_POOL + 50);
    ask(w, 100);
    assert_int_equal(got(w), 100);
    all_are(w, 'b', 100);
    ask(w, 2048);
    assert_int_equal(got(w), VIRTIO_RNG_POOL + 50 - 100);
    assert_int_equal(drv_used_idx(w), 3);
    ask(w, 2048);
    assert_int_equal(drv_used_idx(w), 3); /* of 306 bytes 100 + 206 were had, so there is none */
    finish(&f);
}

static void no_more_than_the_limit_in_a_period(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "{\"driver\":\"virtio-rng-device\",\"rng\":\"r\",\"max-bytes\":100,\"period\":50}");
    drv_start(w, 0);
    feed(&f, 'a', 1000);
    ask(w, 60);
    assert_int_equal(got(w), 60);
    ask(w, 60);
    assert_int_equal(got(w), 40);
    ask(w, 60);
    assert_int_equal(drv_used_idx(w), 2);
    guest_clock_step(w->board.clock, 49 * MS);
    wr(w, SLOT + 0x50, 0, 4);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 2);
    guest_clock_step(w->board.clock, 1 * MS);
    wr(w, SLOT + 0x50, 0, 4);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 3);
    assert_int_equal(got(w), 60);
    finish(&f);
}

static void clock_of_the_limit_runs_by_itself(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "{\"driver\":\"virtio-rng-device\",\"rng\":\"r\",\"max-bytes\":8,\"period\":20}");
    drv_start(w, 0);
    w->board.clock->manual = false;
    guest_clock_start(w->board.clock);
    feed(&f, 'a', 100);
    ask(w, 8);
    ask(w, 8);
    for (unsigned i = 0; i < 500 && drv_used_idx(w) < 2; i++) {
        world_settle(w);
    }
    assert_int_equal(drv_used_idx(w), 2);
    assert_true(guest_clock_ns(w->board.clock) >= 20 * MS);
    guest_clock_stop(w->board.clock);
    finish(&f);
}

static void default_source_is_random(void **state)
{
    struct fixture f;
    uint8_t first[64];
    struct world *w = begin(&f, "{\"driver\":\"virtio-rng-device\"}");
    drv_start(w, 0);
    ask(w, 64);
    assert_int_equal(got(w), 64);
    memcpy(first, buffer(w), 64);
    ask(w, 64);
    assert_memory_not_equal(first, buffer(w), 64);
    finish(&f);
}

static void source_in_use_stays(void **state)
{
    struct fixture f;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world *w = begin(&f, "{\"driver\":\"virtio-rng-pci\",\"rng\":\"r\",\"addr\":\"2\"}");
    assert_int_not_equal(object_del(f.objects, "r", &e), 0);
    assert_non_null(strstr(err_text(&e), "is in use"));
    world_run(w, destroy, &f);
    f.d = NULL;
    assert_int_equal(object_del(f.objects, "r", NULL), 0);
    finish(&f);
}

static void source_that_ends_is_no_source(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "{\"driver\":\"virtio-rng-device\",\"rng\":\"r\"}");
    drv_start(w, 0);
    feed(&f, 'a', 3);
    ask(w, 64);
    assert_int_equal(got(w), 3);
    close(f.feed);
    world_settle(w);
    ask(w, 64);
    assert_int_equal(drv_used_idx(w), 1); /* it waits, and the loop is not kept busy */
    for (unsigned i = 0; loop_turn(w->loop, false); i++) {
        assert_true(i < 100);
    }
    f.feed = open(f.fifo, O_WRONLY | O_CLOEXEC);
    feed(&f, 'z', 1);
    wr(w, SLOT + 0x50, 0, 4);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 2);
    finish(&f);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

#define LIMITED "{\"driver\":\"virtio-rng-device\",\"rng\":\"r\",\"max-bytes\":100,\"period\":50,\"id\":\"rng\"}"

static void move(struct fixture *a, struct fixture *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct state_section *s = a->d->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    world_pause(&a->w, a->d);
    world_pause(&b->w, b->d);
    s->get(a->d, st);
    assert_int_equal(s->check(b->d, st, &e), 0);
    memcpy(guest_ram_ptr(b->w.board.mem, RAM, 0x20000), guest_ram_ptr(a->w.board.mem, RAM, 0x20000), 0x20000);
    guest_clock_set(b->w.board.clock, guest_clock_ns(a->w.board.clock));
    s->put(b->d, st);
    world_resume(&b->w, b->d);
    world_settle(&b->w);
}

static void pool_and_limit_move_along(void **state)
{
    struct fixture a, b;
    struct world *w = begin(&a, LIMITED);
    drv_start(w, 0);
    feed(&a, 'a', 90);
    guest_clock_step(w->board.clock, 7 * MS);
    ask(w, 70);
    begin(&b, LIMITED);
    move(&a, &b);
    w = &b.w;
    ask(w, 60);
    assert_int_equal(got(w), 20);
    all_are(w, 'a', 20);
    feed(&b, 'b', 100);
    ask(w, 60);
    assert_int_equal(got(w), 10);
    all_are(w, 'b', 10);
    ask(w, 60);
    assert_int_equal(drv_used_idx(w), 3);
    guest_clock_step(w->board.clock, 50 * MS);
    wr(w, SLOT + 0x50, 0, 4);
    world_settle(w);
    assert_int_equal(drv_used_idx(w), 4);
    finish(&a);
    finish(&b);
}

/* What a reader does not know of the pool it does without. */
static void pool_is_ancillary(void **state)
{
    unsigned n = 0;
    for (unsigned c = 0; c < 2; c++) {
        const struct state_section *s = c ? virtio_rng_mmio_class.state : virtio_rng_pci_class.state;
        for (const struct state_field *f = s->fields; f->name; f++) {
            bool pool = !strcmp(f->name, "pool") || !strcmp(f->name, "pool_len");
            assert_int_equal(!!(f->flags & STATE_ANCILLARY), pool);
            n += pool;
        }
    }
    assert_int_equal(n, 4);
}

static void states_that_cannot_be_are_refused(void **state)
{
    struct fixture a, b;
    CLEANUP_ERR struct err e = ERR_INIT;
    begin(&a, "{\"driver\":\"virtio-rng-device\",\"rng\":\"r\"}");
    begin(&b, LIMITED);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    s->get(a.d, st);
    assert_true(s->check(b.d, st, &e) < 0);
    assert_non_null(strstr(err_text(&e), "max-bytes"));
    err_clear(&e);
    memset(st, 0, s->size);
    s->get(b.d, st);
    for (const struct state_field *f = s->fields; f->name; f++) {
        if (!strcmp(f->name, "pool_len")) {
            *(uint32_t *)(void *)((char *)st + f->offset) = VIRTIO_RNG_POOL + 1;
        }
    }
    assert_true(s->check(b.d, st, &e) < 0);
    assert_non_null(strstr(err_text(&e), "pool"));
    finish(&a);
    finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_waits_for_the_source),
        cmocka_unit_test(no_more_than_the_limit_in_a_period),
        cmocka_unit_test(clock_of_the_limit_runs_by_itself),
        cmocka_unit_test(default_source_is_random),
        cmocka_unit_test(source_in_use_stays),
        cmocka_unit_test(source_that_ends_is_no_source),
        cmocka_unit_test(pool_and_limit_move_along),
        cmocka_unit_test(pool_is_ancillary),
        cmocka_unit_test(states_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
