/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A folder in memory that keeps a log of what was done to it, so that every crash can be tried: what was synced is
 * there, of the rest any part. Of an unsynced write any of its 512-byte sectors may be there; names that were given or
 * taken away since the folder was synced may be so or not, each by itself, also the two that a rename changes.
 */
#pragma once

#include "config/file_fs.h"

#include <stdbool.h>
#include <stdint.h>

enum model_kind { MODEL_WRITE, MODEL_SYNC, MODEL_NAME, MODEL_UNNAME, MODEL_SYNC_FOLDER };

struct model_op {
    enum model_kind kind;
    unsigned inode; /* all but UNNAME and SYNC_FOLDER */
    size_t off;     /* WRITE */
    GBytes *data;   /* WRITE */
    char *name;     /* NAME, UNNAME */
};

struct model {
    GArray *log;       /* struct model_op; NULL: not kept */
    GPtrArray *inodes; /* GByteArray */
    GHashTable *names; /* to the number of an inode + 1 */
    unsigned fail_in;  /* the so manieth change or sync from now fails; 0: none */
    unsigned fail_for; /* and so many after it */
    int fail_rc;
    unsigned syncs, folder_syncs, failed;
    bool no_links;
};

void model_init(struct model *m, bool log);
void model_finish(struct model *m);
/* What a writer gets. */
struct config_fs model_fs(struct model *m);
/* Borrowed; NULL: there is no such file. */
const GByteArray *model_file(const struct model *m, const char *name);

/* `at`: the crash came behind so many entries of m's log. `image` is the callee's to change until it returns. */
typedef void model_crash_fn(void *opaque, struct model *image, unsigned at);
/* Every crash of what m's log tells, which began with nothing; or a sample where too much is unsynced. */
unsigned long model_crashes(const struct model *m, uint64_t seed, model_crash_fn *fn, void *opaque);
