/* SPDX-License-Identifier: BSD-2-Clause */
/* Images that commands make for themselves: drive-mirror, drive-backup, blockdev-snapshot-sync. */
#pragma once

#include "block/graph.h"
#include "monitor/command.h"

struct new_image {
    const char *file;      /* its name */
    const char *format;    /* NULL: a new one has that of `like`, an existing one is probed */
    bool exists;           /* mode=existing: only opened */
    struct node *like;     /* whose size and cache mode it has */
    struct node *backing;  /* what a new one's header names; NULL: nothing */
    const char *node_name; /* NULL: made up */
    bool alone;            /* opened without its backing image */
};

/* The caller gets a reference. *made: the file if it is one that was not there before, g_malloc'd, else NULL; `made`
 * may be NULL. Nothing is left of it after an error. Error texts are QEMU's. [co] */
int new_image_open(const struct mon_env *env, const struct new_image *i, struct node **out, char **made, struct err *e);
