/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/lend.h"

#include "base/large.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    PARTS = 8,
    SIZE = PARTS * LEND_PART, /* one large page, if the kernel has one: neighbours go as one piece */
};

struct lend {
    int fd, pipe[2];
    uint8_t *memory;
    unsigned next;        /* part */
    uint64_t sent;        /* bytes of this memory */
    uint64_t upto[PARTS]; /* `sent` when the part's last byte had gone; 0: none has */
    size_t held;          /* bytes in the pipe */
};

struct lend *lend_create(int fd)
{
    struct lend *l = g_new0(struct lend, 1);
    *l = (struct lend){.fd = fd, .pipe = {-1, -1}, .memory = large_map(SIZE, 0, PROT_READ | PROT_WRITE)};
    int queue = SIZE / 4; /* of which the kernel makes twice as much: less than the ring */
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &queue, sizeof(queue));
    if (!l->memory || pipe2(l->pipe, O_CLOEXEC | O_NONBLOCK) < 0 || fcntl(l->pipe[1], F_SETPIPE_SZ, LEND_PART) < 0) {
        lend_destroy(l);
        return NULL;
    }
    madvise(l->memory, SIZE, MADV_HUGEPAGE);
    return l;
}

void lend_destroy(struct lend *l)
{
    if (!l) {
        return;
    }
    if (l->memory) {
        munmap(l->memory, SIZE); /* the kernel keeps what the socket holds */
    }
    for (unsigned i = 0; i < 2; i++) {
        if (l->pipe[i] >= 0) {
            close(l->pipe[i]);
        }
    }
    g_free(l);
}

uint8_t *lend_room(struct lend *l)
{
    int unread;
    if (l->upto[l->next] && (ioctl(l->fd, SIOCOUTQ, &unread) < 0 || (uint64_t)unread > l->sent - l->upto[l->next])) {
        return NULL;
    }
    uint8_t *p = l->memory + (size_t)l->next * LEND_PART;
    l->next = (l->next + 1) % PARTS;
    return p;
}

bool lend_has(const struct lend *l, const void *buf)
{
    return l && (uintptr_t)buf - (uintptr_t)l->memory < SIZE;
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
    l->sent += (uint64_t)n;
    l->upto[((const uint8_t *)buf - l->memory) / LEND_PART] = l->sent;
    return n;
}
