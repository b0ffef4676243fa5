/* SPDX-License-Identifier: BSD-2-Clause */
/* `copy`: a disk goes to another image, and the guest with it. */
#include "cli/ctl/start.h"
#include "cli/ctl/target.h"
#include "cli/ctl/verbs.h"

#include <string.h>

static const char *const syncs[] = {"full", "top", "none", NULL};

static int copy_to(struct ctl *c, struct start *s, struct target *t, const char *sync)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct json_object *args = start_args(c, s, &e);
    if (!args) {
        target_undo(c, t);
        return ctl_fail(c, &e);
    }
    json_object_object_add(args, "target", json_object_new_string(t->node));
    json_object_object_add(args, "sync", json_object_new_string(sync));
    bool stays = ctl_option(c, "no-switch"), detach = ctl_option(c, "detach");
    int rc = start_run(c, s, "blockdev-mirror", args, stays ? FOLLOW_END : FOLLOW_COMPLETE, t);
    if (!rc && !stays && !detach) {
        start_leave(c, &s->disk);
    }
    return rc;
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_START struct start s = {0};
    CLEANUP_TARGET struct target t = {0};
    const char *sync = ctl_option(c, "sync") ? ctl_option(c, "sync") : "full";
    bool both = ctl_option(c, "switch") && ctl_option(c, "no-switch");
    if (both || (ctl_option(c, "detach") && (ctl_option(c, "switch") || ctl_option(c, "no-switch")))) {
        return ctl_usage(c, "%s",
                         both ? "--switch and --no-switch contradict each other"
                              : "with --detach nobody is there to switch; 'sternactl jobs complete' does, later");
    }
    if (ctl_option_choice(c, "sync", syncs, &e)) {
        return ctl_usage(c, "%s", err_text(&e));
    }
    struct target_spec spec = {.name = c->operands[1],
                               .format = ctl_option(c, "format"),
                               .backing = !strcmp(sync, "top") ? TARGET_OVER_BACKING : TARGET_ALONE,
                               .must_exist = !strcmp(sync, "none")};
    if (start_prepare(c, &s, &e)) {
        return ctl_fail(c, &e);
    }
    spec.node = s.job;
    if (target_open(c, &s.disk, &spec, &t, &e)) {
        return ctl_fail(c, &e);
    }
    return copy_to(c, &s, &t, sync);
}

static const struct ctl_option options[] = {
    {"format", "FORMAT", "raw, qcow2 or qed; the disk's own without it; a TARGET that exists needs it"},
    {"sync", "WHAT",
     "full (the whole disk, by default), top (its top layer) or none (what is written from now on; TARGET holds the "
     "rest)"},
    {"switch", NULL, "the guest uses the copy as soon as both are alike (by default)"},
    {"no-switch", NULL, "the guest stays; TARGET is the disk as it was when both were alike"},
    {"speed", "RATE", "at most so many bytes per second"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_copy = {
    .name = "copy",
    .operands = "DISK TARGET",
    .min = 2,
    .max = 2,
    .help = "copies a disk to an image, and switches the guest over",
    .options = options,
    .waits = true,
    .run = run,
};
