/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_blk_props.h"

#include "base/checked.h"
#include "block/graph.h"
#include "device/disk.h"
#include "device/virtio.h"

#include <inttypes.h>
#include <string.h>

const struct device_prop virtio_blk_props[] = {
    {"serial", PROP_STR},
    {"num-queues", PROP_INT, "65535", 1, 65535, .type_name = "uint16", .help = "65535: one per hart"},
    {"queue-size", PROP_INT, "512", 2, VIRTIO_QUEUE_SIZE_MAX, .type_name = "uint16"},
    {"discard", PROP_BOOL, "on", .help = "on/off"},
    {"write-zeroes", PROP_BOOL, "on", .help = "on/off"},
    {"max-discard-sectors", PROP_INT, "4194303", 1, 4194303, .type_name = "uint32"},
    {"max-write-zeroes-sectors", PROP_INT, "4194303", 1, 4194303, .type_name = "uint32"},
    {"config-wce", PROP_BOOL, "on", .help = "on/off"},
    {"iothread", PROP_STR, .type_name = "link<iothread>", .help = "must exist; all block I/O runs on the loop thread"},
    {"indirect_desc", PROP_BOOL, "on", .help = "on/off"},
    {"event_idx", PROP_BOOL, "on", .help = "on/off"},
    {"queue_reset", PROP_BOOL, "on", .help = "on/off"},
    {"request-merging", PROP_BOOL, "on", .help = "on/off"},
    {NULL},
};

int virtio_blk_check_props(struct device *d, struct err *e)
{
    const char *thread = device_str(d, "iothread"), *serial = device_str(d, "serial");
    int rc = disk_check_sizes(d, e);
    if (rc < 0) {
        return rc;
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
