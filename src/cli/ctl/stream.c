/* SPDX-License-Identifier: BSD-2-Clause */
/* `stream`: what lies below a disk's image is brought into it. */
#include "cli/ctl/start.h"
#include "cli/ctl/verbs.h"

#include <string.h>

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_START struct start s = {0};
    const char *base = ctl_option(c, "base"), *grace = ctl_option(c, "idle-grace");
    if (grace && (!grace[0] || strlen(grace) > 9 || strspn(grace, "0123456789") != strlen(grace))) {
        return ctl_usage(c, "--idle-grace '%s' is no number of milliseconds", grace);
    }
    if (start_prepare(c, &s, &e)) {
        return ctl_fail(c, &e);
    }
    struct json_object *args = start_args(c, &s, &e);
    if (!args) {
        return ctl_fail(c, &e);
    }
    if (base) {
        json_object_object_add(args, disk_layer_key(&s.disk, base, "base-node", "base"), json_object_new_string(base));
    }
    if (grace) {
        json_object_object_add(args, "idle-grace", ctl_new_int(g_ascii_strtoull(grace, NULL, 10)));
    }
    return start_run(c, &s, "block-stream", args, FOLLOW_STAY, NULL);
}

static const struct ctl_option options[] = {
    {"base", "LAYER", "the node or file that stays below it; none does without this"},
    {"idle-grace", "MS", "works only while the guest has left the disk alone for so many milliseconds"},
    {"speed", "RATE", "at most so many bytes per second"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_stream = {
    .name = "stream",
    .operands = "DISK",
    .min = 1,
    .max = 1,
    .help = "brings what backing images hold into a disk's own image",
    .options = options,
    .waits = true,
    .run = run,
};
