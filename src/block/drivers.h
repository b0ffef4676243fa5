/* SPDX-License-Identifier: BSD-2-Clause */
/* The drivers that the table in drivers.c names; each is defined at the end of its own file. */
#pragma once

#include "block/driver.h"

extern const struct block_driver file_driver;
extern const struct block_driver host_device_driver;
extern const struct block_driver raw_driver;
extern const struct block_driver qcow2_driver;
extern const struct block_driver luks_driver;
extern const struct block_driver qed_driver;
extern const struct block_driver live_copy_driver;
extern const struct block_driver nbd_driver;
extern const struct block_driver null_co_driver;
extern const struct block_driver null_aio_driver;
extern const struct block_driver blkdebug_driver;
extern const struct block_driver blkverify_driver;
extern const struct block_driver compress_driver;
extern const struct block_driver copy_before_write_driver;
extern const struct block_driver copy_on_read_driver;
extern const struct block_driver delay_driver;
extern const struct block_driver error_driver;
extern const struct block_driver log_driver;
extern const struct block_driver mirror_driver;
extern const struct block_driver preallocate_driver;
extern const struct block_driver quorum_driver;
extern const struct block_driver snapshot_access_driver;
extern const struct block_driver throttle_driver;
