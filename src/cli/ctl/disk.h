/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's disks, and finding the one that a person named. */
#pragma once

#include "cli/ctl/ctl.h"

struct disk {
    const char *name;          /* for people: the device's id, else the back end's name, else the node */
    const char *node;          /* the image's node: what commands call it by */
    char *device;              /* the device's id; NULL: it has none */
    struct json_object *info;  /* BlockInfo; of a node without a device an empty object */
    struct json_object *nodes; /* BlockDeviceInfo of all nodes */
    struct json_object *image; /* borrowed from nodes: that of the image, filters on top passed by; NULL: no medium */
};

/* Frees what is in it. */
void disk_finish(struct disk *d);
#define CLEANUP_DISK __attribute__((cleanup(disk_finish)))
/* All that the guest has, in a GPtrArray of struct disk * that owns them; NULL after an error. */
GPtrArray *disk_list(struct ctl *c, struct err *e);
/* By the id of a device, the name of a back end, or a node's name. `d` may be finished whatever happens. */
int disk_find(struct ctl *c, const char *name, struct disk *d, struct err *e);

/* One of all nodes, borrowed; NULL: there is none. */
struct json_object *disk_node(struct json_object *nodes, const char *name);
/* The node below `node` by that name ("file", "backing"), borrowed; NULL: none. */
struct json_object *disk_child(struct json_object *nodes, struct json_object *node, const char *child);
/* "STEM-DISK", "STEM-DISK-2", …: what neither a job nor a node is called by; g_free. `jobs` may be NULL. */
char *disk_free_name(const struct disk *d, const char *stem, struct json_object *jobs);
/* A job that carries this disk's name, as those that sternactl starts do. */
bool disk_has_job(const struct disk *d, const char *job);
/* What a person named a layer by decides which argument of a command it is: a node's name, else that of a file. */
const char *disk_layer_key(const struct disk *d, const char *name, const char *node_key, const char *file_key);
