/* SPDX-License-Identifier: BSD-2-Clause */
/* What the `device` arguments of commands about disks name: a device, or a node. */
#pragma once

#include "block/backend.h"
#include "monitor/command.h"

struct device_arg {
    struct backend *backend; /* that has the node as its medium; NULL: none */
    struct node *node;
    const char *name; /* of the device, which is the default of a job's name; NULL: it has none */
};

/* Borrowed. Error as QEMU's: "Cannot find device='x' nor node-name='x'". */
int device_arg_find(struct mon_ctx *c, const char *device, struct device_arg *out, struct err *e);
/* The medium of the device `device`, or the node `node_name`. One may be NULL; both may be the same name. */
struct node *device_arg_node(struct mon_ctx *c, const char *device, const char *node_name, struct err *e);
