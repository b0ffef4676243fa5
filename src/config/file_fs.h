/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The few things that the state file's and the event log's writers ask of a file system, within one folder: a seam, so
 * that tests can put a model in its place that loses what was not synced. Everything blocks, may be called on any
 * thread, and returns a negative errno on failure.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

struct config_fs {
    /* A handle on the folder; NULL with *rc. */
    void *(*open)(void *opaque, const char *folder, int *rc);
    void (*close)(void *dir);
    /* The whole file, but not more than `most` bytes (-EFBIG). A file that is not regular: -EINVAL. */
    int (*read)(void *dir, const char *name, size_t most, GByteArray *to);
    /* A new file or an emptied one, for writing from its start; a handle. `like` (may be NULL): the file whose
     * permissions and owner it gets, as far as that is allowed. */
    int (*create)(void *dir, const char *name, const char *like);
    /* An existing or new file, for writing at its end, by one process at a time: -EAGAIN. */
    int (*append)(void *dir, const char *name);
    /* The last bytes of such a file, at most so many. */
    int (*tail)(void *dir, int file, size_t most, GByteArray *to);
    int (*write)(void *dir, int file, const void *data, size_t len);
    int (*sync)(void *dir, int file);
    void (*done)(void *dir, int file);
    /* -EEXIST if `to` is there; -EPERM or -EOPNOTSUPP where there are no hard links. */
    int (*link)(void *dir, const char *from, const char *to);
    int (*rename)(void *dir, const char *from, const char *to);
    int (*unlink)(void *dir, const char *name);
    int (*sync_folder)(void *dir);
    void *opaque;
};

extern const struct config_fs config_host_fs;
