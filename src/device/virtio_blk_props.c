/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_blk_props.h"

#include "base/checked.h"
#include "block/graph.h"
#include "device/virtio.h"

#include <inttypes.h>
#include <string.h>

static const char *const on_off_auto[] = {"on", "off", "auto", NULL};
/* In the order of enum io_error_action. */
static const char *const on_error[] = {"report", "ignore", "enospc", "stop", "auto", NULL};
#define BLOCK_SIZE_HELP "A power of two between 512 B and 2 MiB"

const struct device_prop virtio_blk_props[] = {
    {"drive", PROP_DRIVE, .help = "Node name or ID of a block device to use as a backend"},
    {"serial", PROP_STR},
    {"bootindex", PROP_INT, .max = INT32_MAX},
    {"logical_block_size", PROP_SIZE, "512", 512, 2 << 20, .help = BLOCK_SIZE_HELP},
    {"physical_block_size", PROP_SIZE, "512", 512, 2 << 20, .help = BLOCK_SIZE_HELP},
    {"min_io_size", PROP_SIZE, "0", 0, 0xffff * 512ll},
    {"opt_io_size", PROP_SIZE, "0", 0, 0xffffffffll},
    {"discard_granularity", PROP_SIZE, "4294967295", 0, 0xffffffffll},
    {"num-queues", PROP_INT, "65535", 1, 65535, .type_name = "uint16", .help = "65535: one per hart"},
    {"queue-size", PROP_INT, "512", 2, VIRTIO_QUEUE_SIZE_MAX, .type_name = "uint16"},
    {"discard", PROP_BOOL, "on", .help = "on/off"},
    {"write-zeroes", PROP_BOOL, "on", .help = "on/off"},
    {"max-discard-sectors", PROP_INT, "4194303", 1, 4194303, .type_name = "uint32"},
    {"max-write-zeroes-sectors", PROP_INT, "4194303", 1, 4194303, .type_name = "uint32"},
    {"config-wce", PROP_BOOL, "on", .help = "on/off"},
    {"write-cache", PROP_ENUM, "auto", .values = on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"share-rw", PROP_BOOL, "off"},
    {"rerror", PROP_ENUM, "auto", .values = on_error, .type_name = "BlockdevOnError",
     .help = "Error handling policy, report/ignore/enospc/stop/auto"},
    {"werror", PROP_ENUM, "auto", .values = on_error, .type_name = "BlockdevOnError",
     .help = "Error handling policy, report/ignore/enospc/stop/auto"},
    {"account-invalid", PROP_ENUM, "auto", .values = on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"account-failed", PROP_ENUM, "auto", .values = on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"stats-intervals", PROP_UINTS, .help = "Seconds over which query-blockstats shows latencies: a list"},
    {"iothread", PROP_STR, .type_name = "link<iothread>", .help = "must exist; all block I/O runs on the loop thread"},
    {"indirect_desc", PROP_BOOL, "on", .help = "on/off"},
    {"event_idx", PROP_BOOL, "on", .help = "on/off"},
    {"queue_reset", PROP_BOOL, "on", .help = "on/off"},
    {"request-merging", PROP_BOOL, "on", .help = "on/off"},
    {NULL},
};

int virtio_blk_check_props(struct device *d, struct err *e)
{
    int64_t lbs = device_int(d, "logical_block_size"), pbs = device_int(d, "physical_block_size");
    const char *thread = device_str(d, "iothread"), *serial = device_str(d, "serial");
    if (!device_str(d, "drive")) {
        return err_set(e, EINVAL, "drive property not set");
    }
    if (!is_pow2((uint64_t)lbs) || !is_pow2((uint64_t)pbs)) {
        return err_set(e, EINVAL, "device '%s': block sizes must be powers of two, between 512 B and 2 MiB",
                       device_name(d));
    }
    if (!is_pow2((uint64_t)device_int(d, "queue-size"))) {
        return err_set(e, EINVAL, "device '%s': queue-size %" PRId64 " is not a power of two", device_name(d),
                       device_int(d, "queue-size"));
    }
    if (device_int(d, "num-queues") > VIRTIO_QUEUES_MAX && device_int(d, "num-queues") != 65535) {
        return err_set(e, EINVAL, "device '%s': num-queues %" PRId64 " is more than %d", device_name(d),
                       device_int(d, "num-queues"), VIRTIO_QUEUES_MAX);
    }
    if (thread && !graph_object(d->board->graph, "iothread", thread)) {
        return err_set(e, ENOENT, "device '%s': there is no object iothread '%s'", device_name(d), thread);
    }
    if (serial && strlen(serial) > VIRTIO_BLK_SERIAL_LEN) {
        return err_set(e, EINVAL, "device '%s': serial is longer than %d bytes", device_name(d), VIRTIO_BLK_SERIAL_LEN);
    }
    return 0;
}
