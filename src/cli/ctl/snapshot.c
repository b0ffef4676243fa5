/* SPDX-License-Identifier: BSD-2-Clause */
/* `snapshot`: a new image goes on top of a disk's, which stays as it is from then on. */
#include "cli/ctl/target.h"
#include "cli/ctl/verbs.h"

#include <string.h>

/* 1: the machine has the command; 0: not; or an error. */
static int knows(struct ctl *c, const char *command, struct err *e)
{
    CLEANUP_JSON struct json_object *all = NULL;
    int rc = ctl_call(c, "query-commands", &all, e, NULL);
    for (size_t i = 0; !rc && i < json_object_array_length(all); i++) {
        if (!strcmp(ctl_str(json_object_array_get_idx(all, i), "name"), command)) {
            return 1;
        }
    }
    return rc;
}

static int snapshot(struct ctl *c, const struct disk *d, struct target *t, struct err *e)
{
    int rc = knows(c, "blockdev-snapshot", e);
    if (rc == 0) {
        return err_set(e, ENOSYS, "this machine cannot take snapshots: it has no command 'blockdev-snapshot'");
    }
    CLEANUP_FREE char *node = disk_free_name(d, "snap", NULL);
    struct target_spec spec = {
        .name = c->operands[1], .format = ctl_option(c, "format"), .node = node, .backing = TARGET_OVERLAY};
    rc = rc < 0 ? rc : target_open(c, d, &spec, t, e);
    if (rc < 0) {
        return rc;
    }
    rc = ctl_call(c, "blockdev-snapshot", NULL, e, "node", ctl_new_str(d->node), "overlay", ctl_new_str(t->node), NULL);
    if (rc) {
        target_undo(c, t);
    }
    return rc;
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_DISK struct disk d = {0};
    CLEANUP_TARGET struct target t = {0};
    if (ctl_connect(c, &e) || disk_find(c, c->operands[0], &d, &e) || snapshot(c, &d, &t, &e)) {
        return ctl_fail(c, &e);
    }
    const char *below = ctl_str(ctl_get(d.image, "image"), "filename"), *file = t.path ? t.path : c->operands[1];
    if (c->json) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "disk", json_object_new_string(d.name));
        json_object_object_add(o, "node-name", json_object_new_string(t.node));
        json_object_object_add(o, "filename", json_object_new_string(file));
        json_object_object_add(o, "backing", json_object_new_string(below));
        ctl_put_json(o);
    }
    ctl_say(c, "%s writes to %s now; %s stays as it is", d.name, file, below);
    return CTL_OK;
}

static const struct ctl_option options[] = {
    {"format", "FORMAT", "qcow2 or qed; the disk's own without it, or qcow2; a FILE that exists needs it"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_snapshot = {
    .name = "snapshot",
    .operands = "DISK FILE",
    .min = 2,
    .max = 2,
    .help = "puts a new image on top of a disk's; the old one stays as it is",
    .options = options,
    .run = run,
};
