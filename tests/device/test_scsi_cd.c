/* SPDX-License-Identifier: BSD-2-Clause */
/* A CD-ROM drive behind virtio-scsi: its commands, and its tray between guest and host. */
#include "scsi_driver.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/media.h"
#include "device/scsi.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <string.h>

#define SEND_(w, out, in, ...)                                                                                         \
    sd_send(w, SD_AT(0, 0), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), out, in)
#define SEND(w, ...) SEND_(w, __VA_ARGS__)
/* Sense as key << 16 | asc << 8 | ascq; 0: GOOD. */
#define EXPECT(w, want, ...)                                                                                           \
    do {                                                                                                               \
        struct sd_answer a_ = SEND(w, __VA_ARGS__);                                                                    \
        unsigned got_ = (unsigned)(a_.key << 16 | a_.asc << 8 | a_.ascq);                                              \
        if (a_.response || (a_.status != 0) != ((want) != 0) || got_ != (want)) {                                      \
            fail_msg("response %u status %u sense %06x", a_.response, a_.status, got_);                                \
        }                                                                                                              \
    } while (0)
#define READY 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0
#define EJECT 0, 0, SCSI_START_STOP_UNIT, 0, 0, 0, 2, 0
#define LOAD  0, 0, SCSI_START_STOP_UNIT, 0, 0, 0, 3, 0
#define LOCK  0, 0, SCSI_PREVENT_ALLOW, 0, 0, 0, 1, 0
#define ALLOW 0, 0, SCSI_PREVENT_ALLOW, 0, 0, 0, 0, 0
enum {
    RESET = 0x062900,
    CHANGED = 0x062800,
    TRAY_OPEN = 0x023a02,
    EMPTY = 0x023a01,
    PREVENTED = 0x055302,
    EMPTY_PREVENTED = 0x025302,
    REFUSED = 0x044400,
};

struct fixture {
    struct world w;
    struct device *adapter, *cd;
    struct backend *drive;
    const char *device;
    struct err e;
    bool force;
    int rc;
};

static void make(void *arg)
{
    struct fixture *f = arg;
    CLEANUP_JSON struct json_object *o = json_tokener_parse(f->device);
    world_open_disk(&f->w, "\"read-only\":true,", NULL);
    f->adapter = world_device(&f->w, "{\"driver\":\"virtio-scsi-device\",\"id\":\"s\",\"num_queues\":1}");
    if (device_create(&f->w.board, o, 0, &f->cd, &f->e) < 0 || device_realize(f->cd, &f->e) < 0) {
        fail_msg("%s", err_text(&f->e));
    }
    f->drive = g_ptr_array_index(graph_backends(f->w.board.graph), 0);
}

static void end(void *arg)
{
    struct fixture *f = arg;
    f->adapter->cls->pause(f->adapter);
    device_destroy(f->cd);
    device_destroy(f->adapter);
    err_clear(&f->e);
}

static struct world *begin(struct fixture *f)
{
    f->device = f->device ? f->device : "{\"driver\":\"scsi-cd\",\"id\":\"cd\",\"drive\":\"disk\"}";
    world_init(&f->w);
    world_run(&f->w, make, f);
    sd_start(&f->w, 0);
    EXPECT(&f->w, RESET, READY);
    return &f->w;
}

static void finish(struct fixture *f)
{
    world_run(&f->w, end, f);
    world_finish(&f->w);
}

/* --- what the host does ------------------------------------------------------------------------------------------- */

static void open_tray(void *arg)
{
    struct fixture *f = arg;
    err_clear(&f->e);
    f->rc = media_open_tray(f->drive, "cd", f->force, &f->e);
}

static void close_tray(void *arg)
{
    struct fixture *f = arg;
    f->rc = media_close_tray(f->drive, "cd", &f->e);
}

static void take_out(void *arg)
{
    struct fixture *f = arg;
    err_clear(&f->e);
    f->rc = media_remove(f->drive, "cd", &f->e);
}

static void put_in(void *arg)
{
    struct fixture *f = arg;
    err_clear(&f->e);
    f->rc = media_insert(f->drive, "cd", node_find(f->w.board.graph, "disk"), &f->e);
}

static int host(struct fixture *f, void (*what)(void *arg))
{
    world_run(&f->w, what, f);
    return f->rc;
}

/* The media event, and in the byte above it the state of the tray. */
static unsigned event(struct world *w)
{
    const uint8_t *d = sd_data(w);
    EXPECT(w, 0, 0, 8, SCSI_GET_EVENT_STATUS, 1, 0, 0, 16, 0, 0, 0, 8, 0);
    assert_int_equal(d[2], 4);
    return d[4] | (unsigned)d[5] << 8;
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static void says_what_it_is(void **state)
{
    struct fixture f = {0};
    struct world *w = begin(&f);
    const uint8_t *d = sd_data(w);
    EXPECT(w, 0, 0, 36, SCSI_INQUIRY, 0, 0, 0, 36, 0);
    assert_int_equal(d[0], 5);
    assert_int_equal(d[1], 0x80);
    assert_memory_equal(d + 8, "QEMU    QEMU CD-ROM     2.5+", 28);
    EXPECT(w, 0x052400, 0, 64, SCSI_INQUIRY, 1, 0xb0, 0, 64, 0);
    EXPECT(w, 0, 0, 8, SCSI_READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(load_be32(d), 511);
    assert_int_equal(load_be32(d + 4), 2048);
    EXPECT(w, 0, 0, 64, SCSI_MODE_SENSE_10, 0, 0x2a, 0, 0, 0, 0, 0, 64, 0);
    assert_int_equal(d[8], 0x2a);
    assert_int_equal(d[8 + 6] & 2, 0);
    EXPECT(w, 0, 0, 128, SCSI_GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 128, 0);
    assert_int_equal(load_be16(d + 6), 8); /* a CD-ROM is in it */
    EXPECT(w, 0, 0, 34, SCSI_READ_DISC_INFORMATION, 0, 0, 0, 0, 0, 0, 0, 34, 0);
    assert_int_equal(d[2], 0x0e);
    EXPECT(w, 0x052000, 512, 0, SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    EXPECT(w, 0x052000, 0, 32, SCSI_SERVICE_ACTION_IN_16, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
    EXPECT(w, 0, 0, 2048, SCSI_READ_10, 0, 0, 0, 1, 255, 0, 0, 1, 0);
    EXPECT(w, 0x052100, 0, 2048, SCSI_READ_12, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0);
    finish(&f);
}

static void has_a_table_of_contents(void **state)
{
    static const uint8_t tracks[] = {0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x16, 0xaa, 0, 0, 0, 2, 0};
    static const uint8_t minutes[] = {0, 10, 1, 1, 0, 0x16, 0xaa, 0, 0, 0, 8, 62}; /* 512 + 150 frames */
    static const uint8_t session[] = {0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0};
    struct fixture f = {0};
    struct world *w = begin(&f);
    const uint8_t *d = sd_data(w);
    EXPECT(w, 0, 0, 64, SCSI_READ_TOC, 0, 0, 0, 0, 0, 0, 0, 64, 0);
    assert_memory_equal(d, tracks, sizeof(tracks));
    EXPECT(w, 0, 0, 64, SCSI_READ_TOC, 2, 0, 0, 0, 0, 0xaa, 0, 64, 0);
    assert_memory_equal(d, minutes, sizeof(minutes));
    EXPECT(w, 0, 0, 64, SCSI_READ_TOC, 0, 1, 0, 0, 0, 0, 0, 64, 0);
    assert_memory_equal(d, session, sizeof(session));
    EXPECT(w, 0, 0, 64, SCSI_READ_TOC, 0, 2, 0, 0, 0, 0, 0, 64, 0);
    assert_int_equal(load_be16(d), 46);
    EXPECT(w, 0x052400, 0, 64, SCSI_READ_TOC, 0, 5, 0, 0, 0, 0, 0, 64, 0);
    EXPECT(w, 0x052400, 0, 64, SCSI_READ_TOC, 0, 0, 0, 0, 0, 2, 0, 64, 0);
    finish(&f);
}

static void guest_opens_and_closes(void **state)
{
    struct fixture f = {0};
    struct world *w = begin(&f);
    assert_int_equal(event(w), 0x200); /* nothing happened, there is a medium */
    EXPECT(w, 0, LOCK);
    assert_int_equal(w->changes, 1);
    EXPECT(w, PREVENTED, EJECT);
    assert_int_equal(w->changes, 1);
    EXPECT(w, 0, ALLOW);
    EXPECT(w, 0, EJECT);
    assert_int_equal(w->changes, 3);
    assert_true(f.drive->tray_open);
    assert_string_equal(w->events, "DEVICE_TRAY_MOVED ");
    EXPECT(w, TRAY_OPEN, READY);
    assert_int_equal(event(w), 0x100);
    EXPECT(w, 0, 0, 8, SCSI_MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0);
    assert_int_equal(sd_data(w)[1], 0x10);
    EXPECT(w, 0, EJECT); /* it is open */
    assert_int_equal(w->changes, 3);
    EXPECT(w, 0, LOAD);
    EXPECT(w, CHANGED, READY);
    EXPECT(w, 0, READY);
    finish(&f);
}

/* What cannot be written down does not happen. */
static void guest_is_refused_what_cannot_be_kept(void **state)
{
    struct fixture f = {0};
    struct world *w = begin(&f);
    w->refuse_changes = true;
    EXPECT(w, REFUSED, LOCK);
    assert_false(f.drive->locked);
    EXPECT(w, REFUSED, EJECT);
    assert_false(f.drive->tray_open);
    assert_string_equal(w->events, "");
    EXPECT(w, 0, READY);
    w->refuse_changes = false;
    EXPECT(w, 0, EJECT);
    finish(&f);
}

static void host_asks_a_guest_that_locked(void **state)
{
    struct fixture f = {0};
    struct world *w = begin(&f);
    EXPECT(w, 0, LOCK);
    assert_int_equal(host(&f, open_tray), -EINPROGRESS);
    assert_string_equal(err_text(&f.e), "Device 'cd' is locked and force was not specified, wait for tray to open and "
                                        "try again");
    assert_int_equal(event(w), 0x201); /* eject, please */
    assert_int_equal(event(w), 0x200);
    EXPECT(w, 0, ALLOW);
    EXPECT(w, 0, EJECT);
    assert_int_equal(host(&f, open_tray), 0);
    EXPECT(w, 0, LOAD);
    EXPECT(w, CHANGED, READY);
    EXPECT(w, 0, LOCK);
    f.force = true;
    assert_int_equal(host(&f, open_tray), 0);
    assert_false(f.drive->locked);
    assert_int_equal(event(w), 0x103); /* the medium is gone */
    EXPECT(w, TRAY_OPEN, READY);
    finish(&f);
}

static void host_changes_the_medium(void **state)
{
    struct fixture f = {0};
    struct world *w = begin(&f);
    assert_int_equal(host(&f, take_out), -EINVAL);
    assert_string_equal(err_text(&f.e), "Tray of device 'cd' is not open");
    assert_int_equal(host(&f, open_tray), 0);
    assert_int_equal(host(&f, put_in), -EBUSY);
    assert_string_equal(err_text(&f.e), "There already is a medium in the device 'cd'");
    assert_int_equal(host(&f, take_out), 0);
    assert_int_equal(host(&f, take_out), 0); /* nothing to take out */
    assert_null(f.drive->root);
    assert_int_equal(event(w), 0x103);
    assert_int_equal(host(&f, close_tray), 0);
    assert_int_equal(event(w), 0x003);
    EXPECT(w, EMPTY, READY);
    EXPECT(w, EMPTY, 0, 2048, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_int_equal(host(&f, open_tray), 0);
    assert_int_equal(host(&f, put_in), 0);
    EXPECT(w, TRAY_OPEN, READY);
    assert_int_equal(host(&f, close_tray), 0);
    assert_int_equal(event(w), 0x202); /* a new one */
    EXPECT(w, CHANGED, READY);
    EXPECT(w, 0, READY);
    EXPECT(w, 0, 0, 2048, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    finish(&f);
}

static void a_drive_can_be_empty(void **state)
{
    struct fixture f = {.device = "{\"driver\":\"scsi-cd\",\"id\":\"cd\"}"};
    struct world *w = begin(&f);
    EXPECT(w, EMPTY, READY);
    assert_int_equal(event(w), 0);
    EXPECT(w, EMPTY, 0, 64, SCSI_READ_TOC, 0, 0, 0, 0, 0, 0, 0, 64, 0);
    EXPECT(w, 0, 0, 128, SCSI_GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 128, 0);
    assert_int_equal(load_be16(sd_data(w) + 6), 0);
    EXPECT(w, 0, LOCK);
    EXPECT(w, EMPTY_PREVENTED, EJECT);
    finish(&f);
}

static void a_reset_unlocks(void **state)
{
    struct fixture f = {.device = "{\"driver\":\"scsi-cd\",\"id\":\"cd\",\"tray-open\":true,\"locked\":true}"};
    struct world *w = begin(&f);
    assert_true(f.drive->tray_open);
    assert_false(f.drive->locked); /* the driver began with a reset */
    assert_int_equal(w->changes, 1);
    struct json_object *o = device_options(f.cd);
    assert_true(json_object_get_boolean(json_object_object_get(o, "tray-open")));
    assert_null(json_object_object_get(o, "locked"));
    assert_string_equal(json_object_get_string(json_object_object_get(o, "bus")), "s.0");
    json_object_put(o);
    EXPECT(w, 0, LOCK);
    EXPECT(w, 0, LOAD); /* closing is not prevented */
    o = device_options(f.cd);
    assert_true(json_object_get_boolean(json_object_object_get(o, "locked")));
    assert_null(json_object_object_get(o, "tray-open"));
    json_object_put(o);
    assert_int_equal(sd_task(w, 5, 0, 0, 0), 0);
    assert_false(f.drive->locked);
    assert_int_equal(w->changes, 4);
    finish(&f);
}

/* The tray, the lock and what the guest has not been told yet are of its state. */
static void state_has_the_tray(void **state)
{
    struct fixture f = {0}, g = {0};
    struct world *w = begin(&f), *x = begin(&g);
    const struct state_section *s = f.cd->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    EXPECT(w, 0, LOCK);
    assert_int_equal(host(&f, open_tray), -EINPROGRESS);
    s->get(f.cd, st);
    assert_int_equal(s->check(g.cd, st, &g.e), 0);
    s->put(g.cd, st);
    assert_true(g.drive->locked);
    assert_int_equal(event(x), 0x201);
    EXPECT(x, PREVENTED, EJECT);
    f.force = true;
    assert_int_equal(host(&f, open_tray), 0);
    s->get(f.cd, st);
    s->put(g.cd, st);
    assert_int_equal(event(x), 0x103);
    EXPECT(x, TRAY_OPEN, READY);
    finish(&f);
    finish(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_it_is),
        cmocka_unit_test(has_a_table_of_contents),
        cmocka_unit_test(guest_opens_and_closes),
        cmocka_unit_test(guest_is_refused_what_cannot_be_kept),
        cmocka_unit_test(host_asks_a_guest_that_locked),
        cmocka_unit_test(host_changes_the_medium),
        cmocka_unit_test(a_drive_can_be_empty),
        cmocka_unit_test(a_reset_unlocks),
        cmocka_unit_test(state_has_the_tray),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
