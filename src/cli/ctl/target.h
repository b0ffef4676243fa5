/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The image that a disk is copied, backed up or snapshotted to, as a node of the machine: opened, or made like the disk
 * first.
 *
 * A file that exists is written over only when its format is given (--format): nothing is probed. An export of an NBD
 * server always exists; without --format it gets the disk as it is (raw).
 */
#pragma once

#include "cli/ctl/disk.h"

enum target_backing {
    TARGET_ALONE,        /* the whole disk; an image that exists brings its own chain along */
    TARGET_OVER_BACKING, /* over what lies below the disk's image */
    TARGET_OVERLAY,      /* over the disk's image, for blockdev-snapshot, which puts it there: no backing node yet */
};

struct target_spec {
    const char *name;   /* a file, an export's URI, or node:NAME */
    const char *format; /* NULL: not given */
    const char *node;   /* what its node shall be called, and NAME-file that of its file; a job's id, or free as one */
    enum target_backing backing;
    bool must_exist; /* it holds already what is not going to be written */
};

struct target {
    char *node;
    char *file_node; /* NULL: the node was there before */
    char *path;
    bool made; /* the file, too */
};

int target_open(struct ctl *c, const struct disk *d, const struct target_spec *s, struct target *t, struct err *e);
/* Takes away what was made: nodes, and the file where nothing is in it yet. */
void target_undo(struct ctl *c, struct target *t);
/* The job of that name has ended: closes its target, unless somebody uses it or it was not opened here. */
void target_release(struct ctl *c, const char *job);
/* Frees what is in it, and leaves the nodes where they are. */
void target_finish(struct target *t);
#define CLEANUP_TARGET __attribute__((cleanup(target_finish)))
