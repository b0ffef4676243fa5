/* SPDX-License-Identifier: BSD-2-Clause */
/* Jobs that make images, and that change what open ones are. QEMU's types "create" and "amend"; both stay until they
 * are dismissed. */
#pragma once

#include "block/driver.h"
#include "job/job.h"

/* A driver that can. opts: BlockdevCreateOptions without "driver", in which text names nodes that are there. Copied. */
int create_start(struct jobs *js, struct block_graph *g, const char *id, const struct block_driver *drv,
                 struct json_object *opts, struct err *e);

struct amend_options {
    const char *id;
    struct node *node;
    struct json_object *opts; /* BlockdevAmendOptions without "driver"; copied */
    bool force;
};
int amend_start(struct jobs *js, const struct amend_options *o, struct err *e);
