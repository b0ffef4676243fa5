/* SPDX-License-Identifier: BSD-2-Clause */
/* The arguments `bitmap` and `bitmap-mode` of jobs that copy a disk. */
#pragma once

#include "block/dirty.h"
#include "monitor/command.h"

struct bitmap_arg {
    int sync;         /* enum qmp_MirrorSyncMode */
    const char *name; /* NULL: none was given */
    bool has_mode;
    int mode; /* enum qmp_BitmapSyncMode */
};

/* *out: the source's bitmap, NULL: none; a->mode: what is to become of it. Error texts are QEMU's. */
int bitmap_arg_find(struct bitmap_arg *a, struct node *source, struct dirty_bitmap **out, struct err *e);
