/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * block_copy: copies a device's disk to an image and switches the device to it by itself. At most one per device; the
 * last one of each device is remembered until the next. Loop thread.
 */
#pragma once

#include "block/graph.h"
#include "job/job.h"

enum { BLOCK_COPY_DOWNTIME_MS = 300 };

struct block_copy_options { /* borrowed for the call */
    const char *device;
    const char *filename; /* an existing image, opened as `format` (NULL: probed); or: */
    const char *target;   /* a node's name */
    const char *format;
    const char *commit_filename; /* NULL: none */
    bool inc, stop;
    uint64_t speed;             /* 0: no limit */
    uint64_t downtime_limit_ms; /* 0: BLOCK_COPY_DOWNTIME_MS */
};
/* [co] */
int block_copy_start(struct jobs *js, struct block_graph *g, const struct block_copy_options *o, struct err *e);
/* Returns when the guest is back on the source alone. A copy that has switched is an error that says so. [co] */
int block_copy_cancel(struct jobs *js, struct block_graph *g, const char *device, struct err *e);
/* [BlockCopyInfo], a new reference. */
struct json_object *block_copy_query(struct jobs *js);
