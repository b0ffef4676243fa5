/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void state_fd_init(struct state_fd *f, int fd, const char *name)
{
    *f = (struct state_fd){.fd = fd, .name = g_strdup(name)};
}

int state_fd_open(struct state_fd *f, const char *path, struct err *e)
{
    if (!strcmp(path, "-")) {
        state_fd_init(f, STDIN_FILENO, "standard input");
        return 0;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *f = (struct state_fd){.fd = -1};
    if (fd < 0) {
        return err_set_errno(e, errno, "'%s' cannot be opened", path);
    }
    state_fd_init(f, fd, path);
    f->owned = true;
    return 0;
}

void state_fd_finish(struct state_fd *f)
{
    if (f->owned && f->fd >= 0) {
        close(f->fd);
    }
    g_free(f->name);
    *f = (struct state_fd){.fd = -1};
}

static ssize_t read_some(void *opaque, void *buf, size_t len)
{
    struct state_fd *f = opaque;
    ssize_t n;
    do {
        n = read(f->fd, buf, len);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t read_at(void *opaque, void *buf, size_t len, uint64_t offset)
{
    struct state_fd *f = opaque;
    ssize_t n;
    do {
        n = pread(f->fd, buf, len, (off_t)offset);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int write_all(void *opaque, const void *buf, size_t len)
{
    struct state_fd *f = opaque;
    for (const char *p = buf; len;) {
        ssize_t n = write(f->fd, p, len);
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        p += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

struct state_source state_fd_source(struct state_fd *f)
{
    struct state_source s = {.read = read_some, .opaque = f, .name = f->name};
    struct stat st;
    if (fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode) && lseek(f->fd, 0, SEEK_CUR) == 0) {
        s.read_at = read_at;
        s.size = (uint64_t)st.st_size;
    }
    return s;
}

struct state_sink state_fd_sink(struct state_fd *f)
{
    return (struct state_sink){.write = write_all, .opaque = f, .name = f->name};
}

bool state_fd_at_end(struct state_fd *f, const struct state_reader *r)
{
    char c;
    return !state_reader_buffered(r) && read_some(f, &c, 1) <= 0;
}
