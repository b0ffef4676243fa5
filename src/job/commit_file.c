/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/commit_file.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static int sync_folder(const char *path)
{
    CLEANUP_FREE char *folder = g_path_get_dirname(path);
    CLEANUP_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        return -errno;
    }
    return 0;
}

static int write_all(int fd, const char *p, size_t len)
{
    while (len) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        p += n;
        len -= (size_t)n;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

int commit_file_write(void *commit_file)
{
    const struct commit_file *c = commit_file;
    CLEANUP_FREE char *tmp = g_strdup_printf("%s.XXXXXX", c->path);
    CLEANUP_FREE char *line = g_strdup_printf("%s %s\n", c->device, c->image);
    CLEANUP_CLOSE int fd = g_mkstemp_full(tmp, O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) {
        return -errno;
    }
    int rc = write_all(fd, line, strlen(line));
    if (rc == 0 && rename(tmp, c->path) < 0) {
        rc = -errno;
    }
    if (rc) {
        unlink(tmp);
        return rc;
    }
    rc = sync_folder(c->path);
    if (rc) {
        unlink(c->path);
    }
    return rc;
}

int commit_file_remove(void *commit_file)
{
    const struct commit_file *c = commit_file;
    if (unlink(c->path) < 0 && errno != ENOENT) {
        return -errno;
    }
    return sync_folder(c->path);
}
