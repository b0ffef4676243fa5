/* SPDX-License-Identifier: BSD-2-Clause */
/* "Creating" an image on what is there and cannot be made: a device, an export. */
#pragma once

#include "block/driver.h"

/* A driver's `create`: opens it, sees that it is large enough and clears its first sector, so that nothing that was
 * there is recognised any more. [co] */
int block_create_on_existing(struct block_graph *g, const struct block_driver *drv, struct json_object *opts,
                             struct err *e);
extern const struct create_option existing_create_options[];
