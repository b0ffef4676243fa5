/* SPDX-License-Identifier: BSD-2-Clause */
/* `commit`: what upper layers of a disk hold goes into a lower one. */
#include "cli/ctl/start.h"
#include "cli/ctl/verbs.h"

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_START struct start s = {0};
    if (start_prepare(c, &s, &e)) {
        return ctl_fail(c, &e);
    }
    struct json_object *args = start_args(c, &s, &e);
    if (!args) {
        return ctl_fail(c, &e);
    }
    const char *base = ctl_option(c, "base"), *top = ctl_option(c, "top");
    if (base) {
        json_object_object_add(args, disk_layer_key(&s.disk, base, "base-node", "base"), json_object_new_string(base));
    }
    if (top) {
        json_object_object_add(args, disk_layer_key(&s.disk, top, "top-node", "top"), json_object_new_string(top));
    }
    int rc = start_run(c, &s, "block-commit", args, FOLLOW_COMPLETE, NULL);
    if (!rc && !top && !ctl_option(c, "detach")) {
        start_leave(c, &s.disk);
    }
    return rc;
}

static const struct ctl_option options[] = {
    {"base", "LAYER", "the node or file to write to; the lowest without this"},
    {"top", "LAYER",
     "the highest node or file to write; without this the disk's own image, and the guest uses the base then"},
    {"speed", "RATE", "at most so many bytes per second"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_commit = {
    .name = "commit",
    .operands = "DISK",
    .min = 1,
    .max = 1,
    .help = "writes what a disk's upper layers hold into a lower one",
    .options = options,
    .waits = true,
    .run = run,
};
