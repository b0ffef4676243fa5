/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/drivers.h"

#include <string.h>

const char *const prealloc_names[] = {"off", "metadata", "falloc", "full", NULL};

const struct block_driver *const block_drivers[] = {
    /* protocols */
    &file_driver,
    &host_device_driver,
    &nbd_driver,
    &null_co_driver,
    &null_aio_driver,
    /* formats */
    &raw_driver,
    &qcow2_driver,
    &luks_driver,
    &qed_driver,
    &live_copy_driver,
    /* filters */
    &blkdebug_driver,
    &blkverify_driver,
    &compress_driver,
    &copy_before_write_driver,
    &copy_on_read_driver,
    &delay_driver,
    &error_driver,
    &log_driver,
    &preallocate_driver,
    &quorum_driver,
    &snapshot_access_driver,
    &throttle_driver,
    &mirror_driver,
    NULL,
};

const struct block_driver *driver_find(const char *name)
{
    for (int i = 0; block_drivers[i]; i++) {
        if (!strcmp(block_drivers[i]->name, name)) {
            return block_drivers[i];
        }
    }
    return NULL;
}
