/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * block_copy's commit file: one line "DEVICE IMAGE\n" that says which image a restarted VM must use. It is there in
 * full or not at all, whatever crashes. The functions block: call them through co_work().
 */
#pragma once

struct commit_file {
    const char *path, *device, *image; /* borrowed */
};
/* Temporary file in the same folder, fsync, rename, fsync of the folder. 0 or negative errno; nothing is left behind.
 */
int commit_file_write(void *commit_file);
/* Removes it durably; one that is not there is fine. */
int commit_file_remove(void *commit_file);
