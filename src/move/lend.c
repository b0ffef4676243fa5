/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/lend.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    AT_ONCE = 256 << 10, /* bytes: what the pipe holds */
    LEAST = 64 << 10,    /* less is copied sooner than it is lent */
    RANGES = 16,
};

struct lend {
    int fd, pipe[2];
    struct iovec memory[RANGES];
    unsigned ranges;
    size_t held; /* bytes in the pipe */
};

struct lend *lend_create(int fd)
{
    struct lend *l = g_new0(struct lend, 1);
    *l = (struct lend){.fd = fd, .pipe = {-1, -1}};
    if (pipe2(l->pipe, O_CLOEXEC | O_NONBLOCK) < 0 || fcntl(l->pipe[1], F_SETPIPE_SZ, AT_ONCE) < 0) {
        lend_destroy(l);
        return NULL;
    }
    return l;
}

void lend_destroy(struct lend *l)
{
    if (!l) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (l->pipe[i] >= 0) {
            close(l->pipe[i]);
        }
    }
    g_free(l);
}

void lend_add(struct lend *l, const void *memory, size_t size)
{
    if (l->ranges < RANGES) {
        l->memory[l->ranges++] = (struct iovec){(void *)(uintptr_t)memory, size};
    }
}

bool lend_takes(const struct lend *l, const void *buf, size_t len)
{
    for (unsigned i = 0; l && (l->held || len >= LEAST) && i < l->ranges; i++) {
        if ((uintptr_t)buf - (uintptr_t)l->memory[i].iov_base < l->memory[i].iov_len) {
            return true;
        }
    }
    return false;
}

ssize_t lend_send(struct lend *l, const void *buf, size_t len)
{
    if (!l->held) {
        const struct iovec iov = {(void *)(uintptr_t)buf, len};
        ssize_t n = vmsplice(l->pipe[1], &iov, 1, SPLICE_F_NONBLOCK);
        if (n < 0) {
            return -errno;
        }
        l->held = (size_t)n;
    }
    ssize_t n = splice(l->pipe[0], NULL, l->fd, NULL, l->held, SPLICE_F_NONBLOCK);
    if (n < 0) {
        return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    }
    l->held -= (size_t)n;
    return n;
}
