/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-scsi with disks, driven by a model driver: commands, errors, task management, events, state. */
#include "scsi_driver.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/backend.h"
#include "block/driver.h"
#include "device/scsi.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <string.h>

#define F_HOTPLUG (1ull << 1)
#define F_CHANGE  (1ull << 2)
#define ADAPTER   "{\"driver\":\"virtio-scsi-device\",\"id\":\"s\",\"num_queues\":1}"
#define DISK      "{\"driver\":\"scsi-hd\",\"id\":\"hd\",\"drive\":\"disk\",\"serial\":\"tern-1\"}"

enum { OK = 0, OVERRUN = 1, ABORTED = 2, BAD_TARGET = 3, RESET = 4, SUCCEEDED = 10, REJECTED = 11, INCORRECT_LUN = 12 };

struct fixture {
    struct world w;
    struct device *adapter, *disk, *more;
    const char *device, *options, *faults, *another;
};

static struct device *add(struct world *w, const char *json)
{
    struct err e = ERR_INIT;
    struct device *d = NULL;
    CLEANUP_JSON struct json_object *o = json_tokener_parse(json);
    int rc = device_create(&w->board, o, 0, &d, &e);
    rc = rc < 0 ? rc : device_realize(d, &e);
    if (rc < 0) {
        fail_msg("%s: %s", json, err_text(&e));
    }
    return d;
}

static void make(void *arg)
{
    struct fixture *f = arg;
    world_open_disk(&f->w, f->options, f->faults);
    f->adapter = world_device(&f->w, ADAPTER);
    f->disk = f->device ? add(&f->w, f->device) : NULL;
}

static void hold(void *adapter)
{
    struct device *d = adapter;
    d->cls->pause(d);
}

static void go_on(void *adapter)
{
    struct device *d = adapter;
    d->cls->resume(d);
}

/* As vm_device_add() does. */
static void plug_more(void *arg)
{
    struct fixture *f = arg;
    hold(f->adapter);
    f->more = add(&f->w, f->another);
    go_on(f->adapter);
}

static void unplug(struct fixture *f, struct device **d)
{
    hold(f->adapter);
    device_destroy(take(*d));
    go_on(f->adapter);
}

static void unplug_disk(void *arg)
{
    struct fixture *f = arg;
    unplug(f, &f->disk);
}

static void unplug_more(void *arg)
{
    struct fixture *f = arg;
    unplug(f, &f->more);
}

static void end(void *arg)
{
    struct fixture *f = arg;
    hold(f->adapter);
    device_destroy(f->more);
    device_destroy(f->disk);
    device_destroy(f->adapter);
}

/* The fixture's other members are set before. */
static struct world *begin(struct fixture *f)
{
    world_init(&f->w);
    world_run(&f->w, make, f);
    sd_start(&f->w, F_HOTPLUG | F_CHANGE);
    return &f->w;
}

static void finish(struct fixture *f)
{
    world_run(&f->w, end, f);
    world_finish(&f->w);
}

#define SEND(w, out, in, ...)                                                                                          \
    sd_send(w, SD_AT(0, 0), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), out, in)
#define GOOD(w, out, in, ...)                                                                                          \
    do {                                                                                                               \
        struct sd_answer a_ = SEND(w, out, in, __VA_ARGS__);                                                           \
        if (a_.response != OK || a_.status != 0) {                                                                     \
            fail_msg("response %u status %u sense %x/%x/%x", a_.response, a_.status, a_.key, a_.asc, a_.ascq);         \
        }                                                                                                              \
    } while (0)
/* CHECK CONDITION with this sense. */
#define BAD(w, k, a, q, out, in, ...)                                                                                  \
    do {                                                                                                               \
        struct sd_answer a_ = SEND(w, out, in, __VA_ARGS__);                                                           \
        if (a_.response != OK || a_.status != 2 || a_.key != (k) || a_.asc != (a) || a_.ascq != (q)) {                 \
            fail_msg("response %u status %u sense %x/%x/%x", a_.response, a_.status, a_.key, a_.asc, a_.ascq);         \
        }                                                                                                              \
    } while (0)

/* A disk that has said that it was reset. */
static struct world *begin_ready(struct fixture *f)
{
    f->device = f->device ? f->device : DISK;
    struct world *w = begin(f);
    BAD(w, 6, 0x29, 0, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    return w;
}

/* --- what it is --------------------------------------------------------------------------------------------------- */

static void says_what_it_is(void **state)
{
    struct fixture f = {.device = "{\"driver\":\"scsi-hd\",\"drive\":\"disk\",\"serial\":\"tern-1\",\"wwn\":"
                                  "\"0x5000c50015ea71ac\",\"rotation_rate\":1,\"vendor\":\"V\"}"};
    struct world *w = begin_ready(&f);
    const uint8_t *d = sd_data(w);
    GOOD(w, 0, 36, SCSI_INQUIRY, 0, 0, 0, 36, 0);
    assert_int_equal(d[0], 0);
    assert_int_equal(d[1], 0);
    assert_memory_equal(d + 8, "V       QEMU HARDDISK   2.5+", 28);
    GOOD(w, 0, 64, SCSI_INQUIRY, 1, 0, 0, 64, 0);
    assert_memory_equal(d, ((const uint8_t[]){0, 0, 0, 6, 0, 0x80, 0x83, 0xb0, 0xb1, 0xb2}), 10);
    GOOD(w, 0, 64, SCSI_INQUIRY, 1, 0x80, 0, 64, 0);
    assert_memory_equal(d, "\0\x80\0\6tern-1", 10);
    GOOD(w, 0, 64, SCSI_INQUIRY, 1, 0x83, 0, 64, 0);
    assert_memory_equal(d, "\0\x83\0\x16\2\0\0\6tern-1\1\3\0\x8\x50\0\xc5\0\x15\xea\x71\xac", 26);
    GOOD(w, 0, 64, SCSI_INQUIRY, 1, 0xb0, 0, 64, 0);
    assert_int_equal(load_be32(d + 20), 2097152); /* blocks in one UNMAP */
    assert_int_equal(load_be32(d + 28), 8);
    GOOD(w, 0, 64, SCSI_INQUIRY, 1, 0xb1, 0, 64, 0);
    assert_int_equal(load_be16(d + 4), 1);
    GOOD(w, 0, 64, SCSI_INQUIRY, 1, 0xb2, 0, 64, 0);
    assert_int_equal(d[5], 0xe0);
    BAD(w, 5, 0x24, 0, 0, 64, SCSI_INQUIRY, 1, 0xc0, 0, 64, 0);
    BAD(w, 5, 0x24, 0, 0, 64, SCSI_INQUIRY, 0, 0x80, 0, 64, 0);
    BAD(w, 5, 0x20, 0, 0, 0, 0xff, 0, 0, 0, 0, 0);
    struct sd_answer a = SEND(w, 0, 64, SCSI_INQUIRY, 0, 0, 0, 5, 0);
    assert_int_equal(a.residual, 59);
    finish(&f);
}

static void tells_capacity(void **state)
{
    struct fixture f = {.device = "{\"driver\":\"scsi-hd\",\"drive\":\"disk\",\"logical_block_size\":1024,"
                                  "\"physical_block_size\":4096}"};
    struct world *w = begin_ready(&f);
    const uint8_t *d = sd_data(w);
    GOOD(w, 0, 8, SCSI_READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(load_be32(d), 1023);
    assert_int_equal(load_be32(d + 4), 1024);
    GOOD(w, 0, 32, SCSI_SERVICE_ACTION_IN_16, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
    assert_int_equal(load_be64(d), 1023);
    assert_int_equal(load_be32(d + 8), 1024);
    assert_int_equal(d[13], 2);
    assert_int_equal(d[14], 0x80);
    finish(&f);
}

static void answers_for_who_is_not_there(void **state)
{
    struct fixture f = {.device = "{\"driver\":\"scsi-hd\",\"drive\":\"disk\",\"scsi-id\":3,\"lun\":300}"};
    struct world *w = begin(&f);
    const uint8_t *d = sd_data(w), inquiry[6] = {SCSI_INQUIRY, 0, 0, 0, 36}, ready[6] = {0};
    const uint8_t report[12] = {SCSI_REPORT_LUNS, 0, 0, 0, 0, 0, 0, 0, 0, 64};
    assert_int_equal(sd_send(w, SD_AT(0, 0), inquiry, 6, 0, 36).response, BAD_TARGET);
    assert_int_equal(sd_send(w, SD_AT(3, 0), inquiry, 6, 0, 36).response, OK);
    assert_int_equal(d[0], 0x3f);
    assert_int_equal(sd_send(w, SD_AT(3, 7), inquiry, 6, 0, 36).response, OK);
    assert_int_equal(d[0], 0x7f);
    assert_int_equal(sd_send(w, SD_AT(3, 7), ready, 6, 0, 0).asc, 0x25);
    assert_int_equal(sd_send(w, SD_AT(3, 0), report, 12, 0, 64).response, OK);
    assert_int_equal(load_be32(d), 16);
    assert_int_equal(load_be16(d + 8), 0);
    assert_int_equal(load_be16(d + 16), 0x4000 | 300);
    assert_int_equal(sd_send(w, SD_AT(3, 300), inquiry, 6, 0, 36).response, OK);
    assert_int_equal(d[0], 0);
    finish(&f);
}

/* --- data --------------------------------------------------------------------------------------------------------- */

static void reads_back_what_was_written(void **state)
{
    struct fixture f = {0};
    struct world *w = begin_ready(&f);
    uint8_t *d = sd_data(w);
    for (unsigned i = 0; i < 4; i++) {
        memset(d, 0x10 + (int)i, 1024);
        uint8_t lba = (uint8_t)(2 * i);
        if (i == 0) {
            GOOD(w, 1024, 0, SCSI_WRITE_6, 0, 0, lba, 2, 0);
        } else if (i == 1) {
            GOOD(w, 1024, 0, SCSI_WRITE_10, 8, 0, 0, 0, lba, 0, 0, 2, 0);
        } else if (i == 2) {
            GOOD(w, 1024, 0, SCSI_WRITE_12, 0, 0, 0, 0, lba, 0, 0, 0, 2, 0, 0);
        } else {
            GOOD(w, 1024, 0, SCSI_WRITE_16, 0, 0, 0, 0, 0, 0, 0, 0, lba, 0, 0, 0, 2, 0, 0);
        }
    }
    GOOD(w, 0, 0, SCSI_SYNCHRONIZE_CACHE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    memset(d, 0, 4096);
    GOOD(w, 0, 4096, SCSI_READ_16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(d[1024 * i], 0x10 + i);
        assert_int_equal(d[1024 * i + 1023], 0x10 + i);
    }
    GOOD(w, 0, 1024, SCSI_READ_6, 0, 0, 2, 2, 0);
    assert_int_equal(d[0], 0x11);
    GOOD(w, 0, 1024, SCSI_READ_12, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0);
    assert_int_equal(d[0], 0x12);
    GOOD(w, 0, 256 * 512, SCSI_READ_6, 0, 0, 0, 0, 0); /* 0 blocks are 256 */
    struct backend *b = g_ptr_array_index(graph_backends(w->board.graph), 0);
    assert_int_equal(b->stats.bytes[ACCT_WRITE], 4096);
    assert_int_equal(b->stats.ops[ACCT_FLUSH], 1);
    finish(&f);
}

static void refuses_what_is_outside(void **state)
{
    struct fixture f = {0};
    struct world *w = begin_ready(&f);
    BAD(w, 5, 0x21, 0, 0, 1024, SCSI_READ_10, 0, 0, 0, 7, 255, 0, 0, 2, 0);
    BAD(w, 5, 0x21, 0, 512, 0, SCSI_WRITE_10, 0, 255, 255, 255, 255, 0, 0, 1, 0);
    BAD(w, 5, 0x21, 0, 0, 512, SCSI_READ_16, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 1, 0, 0);
    GOOD(w, 0, 512, SCSI_READ_10, 0, 0, 0, 7, 255, 0, 0, 1, 0);
    GOOD(w, 0, 0, SCSI_READ_10, 0, 0, 0, 8, 0, 0, 0, 0, 0);
    assert_int_equal(SEND(w, 0, 512, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 2, 0).response, OVERRUN);
    assert_int_equal(SEND(w, 512, 0, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0).response, OVERRUN);
    finish(&f);
}

static void unmaps_and_writes_same(void **state)
{
    struct fixture f = {.options = "\"discard\":\"unmap\","};
    struct world *w = begin_ready(&f);
    uint8_t *d = sd_data(w);
    memset(d, 0x77, 8192);
    GOOD(w, 8192, 0, SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 16, 0);
    memset(d, 0, 24);
    store_be16(d, 22);
    store_be16(d + 2, 16);
    store_be64(d + 8, 8);
    store_be32(d + 16, 8);
    GOOD(w, 24, 0, SCSI_UNMAP, 0, 0, 0, 0, 0, 0, 0, 24, 0);
    store_be64(d + 8, 2045);
    BAD(w, 5, 0x21, 0, 24, 0, SCSI_UNMAP, 0, 0, 0, 0, 0, 0, 0, 24, 0);
    store_be16(d + 2, 160);
    BAD(w, 5, 0x26, 0, 24, 0, SCSI_UNMAP, 0, 0, 0, 0, 0, 0, 0, 24, 0);
    BAD(w, 5, 0x1a, 0, 24, 0, SCSI_UNMAP, 0, 0, 0, 0, 0, 0, 0, 7, 0);
    memset(d, 0x55, 512);
    GOOD(w, 512, 0, SCSI_WRITE_SAME_10, 0, 0, 0, 0, 1, 0, 0, 2, 0);
    GOOD(w, 0, 0, SCSI_WRITE_SAME_16, 1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0); /* no data: zeroes */
    BAD(w, 5, 0x24, 0, 512, 0, SCSI_WRITE_SAME_10, 0, 0, 0, 0, 1, 0, 0, 0, 0);
    GOOD(w, 0, 8192, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 16, 0);
    static const uint8_t want[] = {0x77, 0x55, 0x55, 0x77, 0x77, 0, 0x77, 0x77};
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(d[512 * i], want[i]);
        assert_int_equal(d[512 * i + 511], want[i]);
    }
    finish(&f);
}

static void verifies(void **state)
{
    struct fixture f = {0};
    struct world *w = begin_ready(&f);
    uint8_t *d = sd_data(w);
    memset(d, 0x31, 1024);
    GOOD(w, 1024, 0, SCSI_WRITE_VERIFY_10, 0, 0, 0, 0, 0, 0, 0, 2, 0);
    GOOD(w, 0, 0, SCSI_VERIFY_10, 0, 0, 0, 0, 0, 0, 0, 2, 0);
    GOOD(w, 1024, 0, SCSI_VERIFY_10, 2, 0, 0, 0, 0, 0, 0, 2, 0);
    d[1023] = 0;
    BAD(w, 0xe, 0x1d, 0, 1024, 0, SCSI_VERIFY_16, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0);
    finish(&f);
}

static void read_only_disk_is_not_written(void **state)
{
    struct fixture f = {.options = "\"read-only\":true,"};
    struct world *w = begin_ready(&f);
    BAD(w, 7, 0x27, 0, 512, 0, SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    GOOD(w, 0, 64, SCSI_MODE_SENSE_6, 0, 0x3f, 0, 64, 0);
    assert_int_equal(sd_data(w)[2] & 0x80, 0x80);
    GOOD(w, 0, 512, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    finish(&f);
}

static void write_cache_is_the_guests_choice(void **state)
{
    struct fixture f = {0};
    struct world *w = begin_ready(&f);
    uint8_t *d = sd_data(w);
    const struct backend *b = g_ptr_array_index(graph_backends(w->board.graph), 0);
    GOOD(w, 0, 64, SCSI_MODE_SENSE_6, 8, 8, 0, 64, 0);
    assert_int_equal(d[4 + 2], 4);
    d[0] = 0;
    d[4 + 2] = 0;
    GOOD(w, 24, 0, SCSI_MODE_SELECT_6, 0x10, 0, 0, 24, 0);
    assert_false(b->write_cache);
    GOOD(w, 0, 64, SCSI_MODE_SENSE_10, 8, 8, 0, 0, 0, 0, 0, 64, 0);
    assert_int_equal(d[8 + 2], 0);
    GOOD(w, 0, 64, SCSI_MODE_SENSE_10, 8, 0x88, 0, 0, 0, 0, 0, 64, 0); /* by default */
    assert_int_equal(d[8 + 2], 4);
    memset(d, 0, 8);
    d[8 + 3] = 1; /* what cannot be changed */
    BAD(w, 5, 0x26, 0, 28, 0, SCSI_MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, 28, 0);
    assert_false(b->write_cache);
    d[8 + 3] = 0;
    GOOD(w, 28, 0, SCSI_MODE_SELECT_10, 0x10, 0, 0, 0, 0, 0, 0, 28, 0);
    assert_true(b->write_cache);
    BAD(w, 5, 0x24, 0, 28, 0, SCSI_MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, 0, 28, 0);
    BAD(w, 5, 0x39, 0, 0, 64, SCSI_MODE_SENSE_6, 8, 0xc8, 0, 64, 0);
    BAD(w, 5, 0x24, 0, 0, 64, SCSI_MODE_SENSE_6, 8, 0x2a, 0, 64, 0);
    finish(&f);
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

static void errors_have_sense(void **state)
{
    struct fixture f = {.faults = "{\"event\":\"write_aio\",\"errno\":5}"};
    struct world *w = begin_ready(&f);
    BAD(w, 0xb, 0, 6, 512, 0, SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_non_null(strstr(w->events, "BLOCK_IO_ERROR"));
    assert_int_equal(w->io_errors, 0);
    finish(&f);
}

static void full_disk_stops_the_machine(void **state)
{
    struct fixture f = {.faults = "{\"event\":\"write_aio\",\"errno\":28,\"once\":true}"};
    struct world *w = begin_ready(&f);
    const uint8_t write[10] = {SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1};
    struct sd_answer a;
    memset(sd_data(w), 0x44, 512);
    sd_post(w, SD_AT(0, 0), write, 10, 512, 0);
    assert_false(sd_take(w, &a));
    assert_int_equal(w->io_errors, 1);
    world_run(w, hold, f.adapter); /* as the machine stops; and goes on */
    world_run(w, go_on, f.adapter);
    assert_true(sd_take(w, &a));
    assert_int_equal(a.status, 0);
    GOOD(w, 0, 512, SCSI_READ_10, 0, 0, 0, 0, 0, 0, 0, 1, 0);
    assert_int_equal(sd_data(w)[0], 0x44);
    finish(&f);
}

static void a_disk_goes_with_a_request_that_waits(void **state)
{
    struct fixture f = {.faults = "{\"event\":\"write_aio\",\"errno\":28}"};
    struct world *w = begin_ready(&f);
    const uint8_t write[10] = {SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1};
    struct sd_answer a;
    sd_post(w, SD_AT(0, 0), write, 10, 512, 0);
    assert_false(sd_take(w, &a));
    world_run(w, unplug_disk, &f);
    assert_true(sd_take(w, &a));
    assert_int_equal(a.response, BAD_TARGET);
    finish(&f);
}

/* --- task management ---------------------------------------------------------------------------------------------- */

static void requests_that_wait_can_be_aborted(void **state)
{
    struct fixture f = {.faults = "{\"event\":\"write_aio\",\"errno\":28}"};
    struct world *w = begin_ready(&f);
    const uint8_t write[10] = {SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1};
    struct sd_answer a;
    sd_post(w, SD_AT(0, 0), write, 10, 512, 0);
    assert_false(sd_take(w, &a));
    assert_int_equal(sd_task(w, 6, 0, 0, 77), SUCCEEDED); /* it is there */
    assert_int_equal(sd_task(w, 6, 0, 0, 78), OK);
    assert_int_equal(sd_task(w, 0, 0, 0, 78), OK);
    assert_false(sd_take(w, &a));
    assert_int_equal(sd_task(w, 0, 0, 0, 77), OK);
    assert_true(sd_take(w, &a));
    assert_int_equal(a.response, ABORTED);
    sd_post(w, SD_AT(0, 0), write, 10, 512, 0);
    assert_false(sd_take(w, &a));
    assert_int_equal(sd_task(w, 5, 0, 0, 0), OK); /* logical unit reset */
    assert_true(sd_take(w, &a));
    assert_int_equal(a.response, RESET);
    BAD(w, 6, 0x29, 0, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    assert_int_equal(sd_task(w, 4, 0, 0, 0), OK); /* nexus reset */
    BAD(w, 6, 0x29, 0, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    assert_int_equal(sd_task(w, 2, 0, 0, 0), REJECTED);
    assert_int_equal(sd_task(w, 99, 0, 0, 0), REJECTED);
    assert_int_equal(sd_task(w, 5, 0, 9, 0), INCORRECT_LUN);
    assert_int_equal(sd_task(w, 5, 9, 0, 0), BAD_TARGET);
    finish(&f);
}

static void driver_reset_resets_the_bus(void **state)
{
    struct fixture f = {0};
    struct world *w = begin_ready(&f);
    GOOD(w, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    wr(w, SLOT + 0x100 + 20, 18, 4);
    wr(w, SLOT + 0x100 + 0, 9, 4); /* not to be written */
    assert_int_equal(rd(w, SLOT + 0x100 + 20, 4), 18);
    assert_int_equal(rd(w, SLOT + 0x100, 4), 1);
    wr(w, SLOT + 0x100 + 24, 4096, 4); /* more than there can be */
    assert_int_equal(rd(w, SLOT + 0x100 + 24, 4), 32);
    sd_start(w, F_HOTPLUG);
    assert_int_equal(rd(w, SLOT + 0x100 + 20, 4), 96);
    BAD(w, 6, 0x29, 0, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    GOOD(w, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    finish(&f);
}

static void request_sense_tells_what_is_to_be_told(void **state)
{
    struct fixture f = {.device = DISK};
    struct world *w = begin(&f);
    const uint8_t *d = sd_data(w);
    GOOD(w, 0, 18, SCSI_REQUEST_SENSE, 0, 0, 0, 18, 0);
    assert_int_equal(d[2], 6);
    assert_int_equal(d[12], 0x29);
    GOOD(w, 0, 18, SCSI_REQUEST_SENSE, 0, 0, 0, 18, 0);
    assert_int_equal(d[2], 0);
    GOOD(w, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    finish(&f);
}

/* --- coming and going --------------------------------------------------------------------------------------------- */

static void driver_hears_of_what_comes_and_goes(void **state)
{
    struct fixture f = {.another = "{\"driver\":\"scsi-cd\",\"id\":\"cd\",\"scsi-id\":0,\"lun\":5}"};
    struct world *w = begin_ready(&f);
    uint32_t ev[4];
    sd_offer_events(w, 3);
    assert_false(sd_event(w, ev));
    world_run(w, plug_more, &f);
    assert_true(sd_event(w, ev));
    assert_memory_equal(ev, ((const uint32_t[]){1, 0, 5, 1}), sizeof(ev));
    BAD(w, 6, 0x3f, 0x0e, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    GOOD(w, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    world_run(w, unplug_more, &f);
    assert_true(sd_event(w, ev));
    assert_memory_equal(ev, ((const uint32_t[]){1, 0, 5, 2}), sizeof(ev));
    assert_false(sd_event(w, ev));
    finish(&f);
}

static void events_wait_for_buffers(void **state)
{
    struct fixture f = {.another = "{\"driver\":\"scsi-cd\",\"id\":\"cd\",\"scsi-id\":1,\"lun\":0}"};
    struct world *w = begin_ready(&f);
    uint32_t ev[4];
    for (unsigned i = 0; i < 9; i++) { /* two more than are kept */
        world_run(w, plug_more, &f);
        world_run(w, unplug_more, &f);
    }
    unsigned n = 0, missed = 0;
    for (unsigned i = 0; i < 20; i++) {
        sd_offer_events(w, 1);
        while (sd_event(w, ev)) {
            n++;
            missed += ev[0] >> 31;
        }
    }
    assert_int_equal(n, 16);
    assert_int_equal(missed, 1);
    finish(&f);
}

static void grow(void *arg)
{
    struct fixture *f = arg;
    struct edge *ed;
    struct err e = ERR_INIT;
    struct node *n = node_find(f->w.board.graph, "disk");
    assert_int_equal(edge_open(n, &(struct edge_spec){"resize", PERM_RESIZE, PERM_ALL}, &ed, &e), 0);
    assert_int_equal(edge_truncate(ed, 2 << 20, false, PREALLOC_OFF, &e), 0);
    edge_close(ed);
}

static void driver_hears_of_a_new_size(void **state)
{
    struct fixture f = {0};
    struct world *w = begin_ready(&f);
    uint32_t ev[4];
    sd_offer_events(w, 2);
    world_run(w, grow, &f);
    assert_true(sd_event(w, ev));
    assert_memory_equal(ev, ((const uint32_t[]){3, 0, 0, 0x092a}), sizeof(ev));
    BAD(w, 6, 0x2a, 9, 0, 0, SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0);
    GOOD(w, 0, 8, SCSI_READ_CAPACITY_10, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_int_equal(load_be32(sd_data(w)), 4095);
    finish(&f);
}

static const char *realize_error(struct world *w, const char *json, struct err *e)
{
    struct device *d = NULL;
    CLEANUP_JSON struct json_object *o = json_tokener_parse(json);
    int rc = device_create(&w->board, o, 0, &d, e);
    rc = rc < 0 ? rc : device_realize(d, e);
    device_destroy(d);
    return rc < 0 ? err_text(e) : "";
}

static void try_places(void *arg)
{
    static const char *const bad[][2] = {
        {"\"bus\":\"nowhere\"", "Bus 'nowhere' not found"},
        {"\"scsi-id\":256", "bad scsi device id: 256"},
        {"\"lun\":16384", "bad scsi device lun: 16384"},
        {"\"channel\":1", "bad scsi channel id: 1"},
        {"\"scsi-id\":0,\"lun\":0", "lun already used by 'hd'"},
        {"\"drive\":\"disk\"", "in use"},
        {"\"drive\":\"x\"", "Property 'scsi-cd.drive' can't find value 'x'"},
        {"\"serial\":\"1234567890123456789012345678901234567\"", "serial is longer than 36"},
    };
    struct fixture *f = arg;
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        CLEANUP_FREE char *text = g_strdup_printf("{\"driver\":\"scsi-cd\",%s}", bad[i][0]);
        const char *got = realize_error(&f->w, text, &e);
        if (i != 5 && !strstr(got, bad[i][1])) { /* a CD only reads: that may be shared */
            fail_msg("%s: '%s'", bad[i][0], got);
        }
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_string_equal(realize_error(&f->w, "{\"driver\":\"scsi-hd\"}", &e), "drive property not set");
}

static void bad_places_are_refused(void **state)
{
    struct fixture f = {0};
    begin_ready(&f);
    world_run(&f.w, try_places, &f);
    finish(&f);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

struct saved {
    struct fixture *f;
    void *adapter, *disk;
};

static void save(void *arg)
{
    struct saved *s = arg;
    const struct state_section *a = s->f->adapter->cls->state, *d = s->f->disk->cls->state;
    s->adapter = g_malloc0(a->size);
    s->disk = g_malloc0(d->size);
    hold(s->f->adapter);
    a->get(s->f->adapter, s->adapter);
    d->get(s->f->disk, s->disk);
}

static void load(void *arg)
{
    struct saved *s = arg;
    struct err e = ERR_INIT;
    const struct state_section *a = s->f->adapter->cls->state, *d = s->f->disk->cls->state;
    hold(s->f->adapter);
    if (a->check(s->f->adapter, s->adapter, &e) < 0 || d->check(s->f->disk, s->disk, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    a->put(s->f->adapter, s->adapter);
    d->put(s->f->disk, s->disk);
    go_on(s->f->adapter);
}

/* A request that waits for a full disk, an event, an attention and a mode: the second machine goes on with all of it.
 */
static void a_second_machine_goes_on(void **state)
{
    struct fixture f = {.faults = "{\"event\":\"write_aio\",\"errno\":28}",
                        .another = "{\"driver\":\"scsi-cd\",\"id\":\"cd\",\"scsi-id\":0,\"lun\":5}"};
    struct fixture g = {0};
    struct world *w = begin_ready(&f), *x = begin_ready(&g);
    const uint8_t write[10] = {SCSI_WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1};
    struct sd_answer a;
    uint32_t ev[4];
    GOOD(w, 0, 64, SCSI_MODE_SENSE_6, 8, 8, 0, 64, 0);
    sd_data(w)[0] = sd_data(w)[4 + 2] = 0;
    GOOD(w, 24, 0, SCSI_MODE_SELECT_6, 0x10, 0, 0, 24, 0);
    memset(sd_data(w), 0x66, 512);
    sd_post(w, SD_AT(0, 0), write, 10, 512, 0);
    assert_false(sd_take(w, &a));
    world_run(w, plug_more, &f);
    struct saved s = {.f = &f};
    world_run(w, save, &s);
    memcpy(guest_ram_ptr(x->board.mem, RAM, RAM_SIZE), guest_ram_ptr(w->board.mem, RAM, RAM_SIZE), RAM_SIZE);
    s.f = &g;
    world_run(x, load, &s);
    assert_true(sd_take(x, &a));
    assert_int_equal(a.status, 2); /* the attention comes first, as it would there */
    assert_int_equal(a.asc, 0x3f);
    sd_offer_events(x, 1);
    assert_true(sd_event(x, ev));
    assert_int_equal(ev[2], 5);
    sd_post(x, SD_AT(0, 0), write, 10, 512, 0);
    assert_true(sd_take(x, &a));
    assert_int_equal(a.status, 0);
    GOOD(x, 0, 64, SCSI_MODE_SENSE_6, 8, 8, 0, 64, 0);
    assert_int_equal(sd_data(x)[4 + 2], 0);
    g_free(s.adapter);
    g_free(s.disk);
    finish(&f);
    finish(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_it_is),
        cmocka_unit_test(tells_capacity),
        cmocka_unit_test(answers_for_who_is_not_there),
        cmocka_unit_test(reads_back_what_was_written),
        cmocka_unit_test(refuses_what_is_outside),
        cmocka_unit_test(unmaps_and_writes_same),
        cmocka_unit_test(verifies),
        cmocka_unit_test(read_only_disk_is_not_written),
        cmocka_unit_test(write_cache_is_the_guests_choice),
        cmocka_unit_test(errors_have_sense),
        cmocka_unit_test(full_disk_stops_the_machine),
        cmocka_unit_test(a_disk_goes_with_a_request_that_waits),
        cmocka_unit_test(requests_that_wait_can_be_aborted),
        cmocka_unit_test(driver_reset_resets_the_bus),
        cmocka_unit_test(request_sense_tells_what_is_to_be_told),
        cmocka_unit_test(driver_hears_of_what_comes_and_goes),
        cmocka_unit_test(events_wait_for_buffers),
        cmocka_unit_test(driver_hears_of_a_new_size),
        cmocka_unit_test(bad_places_are_refused),
        cmocka_unit_test(a_second_machine_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
