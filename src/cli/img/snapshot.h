/* SPDX-License-Identifier: BSD-2-Clause */
/* What the verbs that show or use internal snapshots share. */
#pragma once

#include "block/snapshot.h"
#include "cli/img/img.h"

/* SnapshotInfo objects as a table for people; nothing when there are none. */
void img_print_snapshots(struct json_object *list);

/* Which snapshot is meant. Zero-initialised: none. */
struct img_snapshot_param {
    char *id, *name; /* both must fit, those that are given */
    char *any;       /* an id or a name */
};
/* "snapshot.id=…,snapshot.name=…", or an id or a name; what was there before is replaced. False after a message. */
bool img_snapshot_parse(struct tool *img, struct img_snapshot_param *p, const char *text);
void img_snapshot_param_finish(struct img_snapshot_param *p);
static inline bool img_snapshot_given(const struct img_snapshot_param *p)
{
    return p->id || p->name || p->any;
}
/* The disk, open to be read, shows the snapshot from now on; nothing if none is meant. Nonzero after a message. [co] */
int img_snapshot_show(struct tool *img, struct img_disk *d, const struct img_snapshot_param *p);
