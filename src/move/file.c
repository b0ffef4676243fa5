/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "loop/co.h"
#include "move/behind.h"
#include "move/move.h"
#include "state/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct move_file {
    int fd;
    char *path, *beside;   /* beside: where a created one is until the commit; NULL afterwards */
    struct behind *behind; /* of one that is created; NULL afterwards */
    uint64_t size;
};

static struct move_file *new_file(const char *path)
{
    struct move_file *f = g_new0(struct move_file, 1);
    f->fd = -1;
    f->path = g_strdup(path);
    return f;
}

int move_file_create(const char *path, struct move_file **out, struct err *e)
{
    struct move_file *f = new_file(path);
    f->beside = g_strdup_printf("%s.XXXXXX", path);
    f->fd = g_mkstemp_full(f->beside, O_WRONLY | O_CLOEXEC, 0600);
    if (f->fd < 0) {
        int rc = err_set_errno(e, errno, "could not create '%s'", path);
        g_free(take(f->beside));
        move_file_close(f);
        return rc;
    }
    f->behind = behind_create(co_loop(), f->fd, open(f->beside, O_WRONLY | O_DIRECT | O_CLOEXEC), 0);
    *out = f;
    return 0;
}

int move_file_open(const char *path, struct move_file **out, struct err *e)
{
    struct move_file *f = new_file(path);
    struct stat st;
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
    int rc = f->fd < 0 || fstat(f->fd, &st) < 0 ? err_set_errno(e, errno, "could not open '%s'", path)
             : !S_ISREG(st.st_mode)             ? err_set(e, EINVAL, "'%s' is not a regular file", path)
                                                : 0;
    if (rc < 0) {
        move_file_close(f);
        return rc;
    }
    f->size = (uint64_t)st.st_size;
    *out = f;
    return 0;
}

/* In order. */
static int file_write(void *opaque, uint64_t off, const void *buf, size_t len)
{
    const struct move_file *f = opaque;
    return behind_write(f->behind, buf, len);
}

static int file_read(void *opaque, uint64_t off, void *buf, size_t len)
{
    const struct move_file *f = opaque;
    while (len) {
        const struct iovec v = {buf, len};
        ssize_t n = co_preadv(f->fd, &v, 1, off);
        if (n <= 0) {
            return n < 0 ? (int)n : -EIO;
        }
        buf = (uint8_t *)buf + n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int file_read_now(void *opaque, uint64_t off, void *buf, size_t len)
{
    const struct move_file *f = opaque;
    while (len) {
        ssize_t n = pread(f->fd, buf, len, (off_t)off);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        buf = (uint8_t *)buf + n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

void move_file_sink(struct move_file *f, struct move_sink *to)
{
    *to = (struct move_sink){.opaque = f, .name = f->path, .write = file_write};
}

static void close_parent(void *opaque)
{
    move_file_close(opaque);
}

/* As an image names its backing file: from its own folder. */
static int open_parent(void *opaque, const struct state_manifest *child, struct move_source *out, struct err *e)
{
    const struct move_file *f = opaque;
    const char *name = state_manifest_parent_file(child);
    if (!name) {
        return err_set(e, ENOENT, "it does not say in which file that is");
    }
    CLEANUP_FREE char *folder = g_path_get_dirname(f->path);
    CLEANUP_FREE char *path = g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(folder, name, NULL);
    struct move_file *parent;
    int rc = move_file_open(path, &parent, e);
    if (rc == 0) {
        move_file_source(parent, out);
        out->close = close_parent;
    }
    return rc;
}

void move_file_source(struct move_file *f, struct move_source *from)
{
    *from = (struct move_source){.opaque = f,
                                 .size = f->size,
                                 .name = f->path,
                                 .read = file_read,
                                 .read_now = file_read_now,
                                 .fd = &f->fd,
                                 .open_parent = open_parent};
}

char *move_file_seen_from(const char *parent, const char *child)
{
    CLEANUP_FREE char *a = g_canonicalize_filename(parent, NULL), *b = g_canonicalize_filename(child, NULL);
    CLEANUP_FREE char *there = g_path_get_dirname(a), *here = g_path_get_dirname(b);
    return strcmp(there, here) ? g_strdup(a) : g_path_get_basename(a);
}

static int sync_folder(void *opaque)
{
    const struct move_file *f = opaque;
    CLEANUP_FREE char *folder = g_path_get_dirname(f->path);
    CLEANUP_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int move_file_commit(struct move_file *f, struct err *e)
{
    int rc = behind_finish(f->behind);
    rc = rc < 0 ? rc : co_fdatasync(f->fd);
    if (rc == 0 && rename(f->beside, f->path) < 0) {
        rc = -errno;
    }
    if (rc == 0) {
        g_free(take(f->beside));
        rc = co_work(sync_folder, f);
    }
    return rc < 0 ? err_set(e, -rc, "could not write '%s': %s", f->path, g_strerror(-rc)) : 0;
}

void move_file_close(struct move_file *f)
{
    if (!f) {
        return;
    }
    behind_destroy(f->behind);
    if (f->beside) {
        unlink(f->beside);
    }
    if (f->fd >= 0) {
        close(f->fd);
    }
    g_free(f->beside);
    g_free(f->path);
    g_free(f);
}
