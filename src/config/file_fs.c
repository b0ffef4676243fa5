/* SPDX-License-Identifier: BSD-2-Clause */
/* The host's file systems. */
#include "config/file_fs.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 65536 };

struct host_dir {
    int fd;
};

static void *host_open(void *opaque, const char *folder, int *rc)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        *rc = -errno;
        return NULL;
    }
    struct host_dir *d = g_new0(struct host_dir, 1);
    d->fd = fd;
    *rc = 0;
    return d;
}

static void host_close(void *dir)
{
    struct host_dir *d = dir;
    close(d->fd);
    g_free(d);
}

static int host_read(void *dir, const char *name, size_t most, GByteArray *to)
{
    const struct host_dir *d = dir;
    /* O_NONBLOCK: a FIFO does not wait for somebody at its other end. */
    CLEANUP_CLOSE int fd = openat(d->fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return -errno;
    }
    if (!S_ISREG(st.st_mode)) {
        return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
    }
    for (;;) {
        guint had = to->len;
        g_byte_array_set_size(to, had + PIECE);
        ssize_t n = read(fd, to->data + had, PIECE);
        int rc = n < 0 ? -errno : 0;
        g_byte_array_set_size(to, had + (n > 0 ? (guint)n : 0));
        if (to->len > most) {
            return -EFBIG;
        }
        if (n == 0 || (rc < 0 && rc != -EINTR)) {
            return rc;
        }
    }
}

static int host_create(void *dir, const char *name, const char *like)
{
    const struct host_dir *d = dir;
    struct stat st;
    bool known = like && fstatat(d->fd, like, &st, 0) == 0;
    /* What a crash left there may be somebody else's; a link is not followed. */
    if (unlinkat(d->fd, name, 0) < 0 && errno != ENOENT) {
        return -errno;
    }
    int fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, known ? 0600 : 0666);
    if (fd < 0) {
        return -errno;
    }
    if (known && (fchown(fd, st.st_uid, st.st_gid) < 0 || true) && fchmod(fd, st.st_mode & 07777) < 0) {
        int rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

static int host_append(void *dir, const char *name)
{
    const struct host_dir *d = dir;
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CLEANUP_CLOSE int fd = openat(d->fd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return -errno;
    }
    if (!S_ISREG(st.st_mode)) {
        return -EINVAL;
    }
    if (fcntl(fd, F_OFD_SETLK, &fl) < 0) {
        return errno == EACCES ? -EAGAIN : -errno;
    }
    return take_fd(&fd);
}

static int host_tail(void *dir, int file, size_t most, GByteArray *to)
{
    off_t size = lseek(file, 0, SEEK_END);
    off_t at = MAX(size - (off_t)most, 0);
    while (at < size) {
        guint had = to->len;
        g_byte_array_set_size(to, had + PIECE);
        ssize_t n = pread(file, to->data + had, MIN(PIECE, (size_t)(size - at)), at);
        int rc = n < 0 ? -errno : 0;
        g_byte_array_set_size(to, had + (n > 0 ? (guint)n : 0));
        at += n > 0 ? n : 0;
        if (n == 0 || (rc < 0 && rc != -EINTR)) {
            return rc;
        }
    }
    return size < 0 ? -errno : 0;
}

static int host_write(void *dir, int file, const void *data, size_t len)
{
    const char *p = data;
    while (len) {
        ssize_t n = write(file, p, len);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        p += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int host_sync(void *dir, int file)
{
    return fsync(file) < 0 ? -errno : 0;
}

static void host_done(void *dir, int file)
{
    close(file);
}

static int host_link(void *dir, const char *from, const char *to)
{
    const struct host_dir *d = dir;
    return linkat(d->fd, from, d->fd, to, 0) < 0 ? -errno : 0;
}

static int host_rename(void *dir, const char *from, const char *to)
{
    const struct host_dir *d = dir;
    return renameat(d->fd, from, d->fd, to) < 0 ? -errno : 0;
}

static int host_unlink(void *dir, const char *name)
{
    const struct host_dir *d = dir;
    return unlinkat(d->fd, name, 0) < 0 ? -errno : 0;
}

static int host_sync_folder(void *dir)
{
    const struct host_dir *d = dir;
    return fsync(d->fd) < 0 ? -errno : 0;
}

const struct config_fs config_host_fs = {
    .open = host_open,
    .close = host_close,
    .read = host_read,
    .create = host_create,
    .append = host_append,
    .tail = host_tail,
    .write = host_write,
    .sync = host_sync,
    .done = host_done,
    .link = host_link,
    .rename = host_rename,
    .unlink = host_unlink,
    .sync_folder = host_sync_folder,
};
