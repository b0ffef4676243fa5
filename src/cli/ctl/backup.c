/* SPDX-License-Identifier: BSD-2-Clause */
/* `backup`: what a disk holds at this instant goes to another image. */
#include "cli/ctl/start.h"
#include "cli/ctl/target.h"
#include "cli/ctl/verbs.h"

#include <string.h>

static const char *const syncs[] = {"full", "top", "none", "incremental", "bitmap", NULL};
static const char *const modes[] = {"on-success", "never", "always", NULL};

static void add(struct json_object *o, const char *key, const char *value)
{
    if (value) {
        json_object_object_add(o, key, json_object_new_string(value));
    }
}

static int back_up(struct ctl *c, struct start *s, struct target *t, const char *sync)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct json_object *args = start_args(c, s, &e);
    if (!args) {
        target_undo(c, t);
        return ctl_fail(c, &e);
    }
    add(args, "target", t->node);
    add(args, "sync", sync);
    add(args, "bitmap", ctl_option(c, "bitmap"));
    add(args, "bitmap-mode", ctl_option(c, "bitmap-mode"));
    if (ctl_option(c, "compress")) {
        json_object_object_add(args, "compress", json_object_new_boolean(true));
    }
    return start_run(c, s, "blockdev-backup", args, FOLLOW_STAY, t);
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_START struct start s = {0};
    CLEANUP_TARGET struct target t = {0};
    const char *sync = ctl_option(c, "sync");
    if (ctl_option_choice(c, "sync", syncs, &e) || ctl_option_choice(c, "bitmap-mode", modes, &e)) {
        return ctl_usage(c, "%s", err_text(&e));
    }
    sync = sync ? sync : ctl_option(c, "bitmap") ? "incremental" : "full";
    bool needs_bitmap = !strcmp(sync, "incremental") || !strcmp(sync, "bitmap");
    if (needs_bitmap && !ctl_option(c, "bitmap")) {
        return ctl_usage(c, "--sync %s needs --bitmap NAME", sync);
    }
    struct target_spec spec = {.name = c->operands[1],
                               .format = ctl_option(c, "format"),
                               .backing = !strcmp(sync, "top") ? TARGET_OVER_BACKING : TARGET_ALONE};
    if (start_prepare(c, &s, &e)) {
        return ctl_fail(c, &e);
    }
    spec.node = s.job;
    if (target_open(c, &s.disk, &spec, &t, &e)) {
        return ctl_fail(c, &e);
    }
    return back_up(c, &s, &t, sync);
}

static const struct ctl_option options[] = {
    {"format", "FORMAT", "raw, qcow2 or qed; the disk's own without it; a TARGET that exists needs it"},
    {"sync", "WHAT", "full (by default), top, none, incremental (by default with --bitmap) or bitmap"},
    {"bitmap", "NAME", "the dirty bitmap that says what to copy"},
    {"bitmap-mode", "MODE", "when the bitmap begins anew: on-success, never or always"},
    {"compress", NULL, "writes compressed clusters"},
    {"speed", "RATE", "at most so many bytes per second"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_backup = {
    .name = "backup",
    .operands = "DISK TARGET",
    .min = 2,
    .max = 2,
    .help = "copies to an image what a disk holds now",
    .options = options,
    .waits = true,
    .run = run,
};
