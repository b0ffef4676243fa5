/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/channel.h"

#include "base/cleanup.h"
#include "loop/co.h"
#include "move/channel_child.h"
#include "move/channel_int.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LOOK_NS = 200000000 }; /* whether it was broken meanwhile */

struct channel *channel_wrap(enum channel_kind kind, int fd, const char *name)
{
    struct channel *ch = g_new0(struct channel, 1);
    *ch = (struct channel){.kind = kind, .fd = fd, .name = g_strdup(name)};
    if (kind != CH_FILE) {
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (kind == CH_SOCKET) { /* fails where it means nothing */
        int on = 1, size = 4 << 20;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    }
    return ch;
}

struct channel *channel_of_socket(int fd, const char *name)
{
    return channel_wrap(CH_SOCKET, fd, name);
}

struct channel *channel_of_ops(const struct channel_ops *ops, void *opaque, const char *name)
{
    struct channel *ch = g_new0(struct channel, 1);
    *ch = (struct channel){.kind = CH_OPS, .fd = -1, .name = g_strdup(name), .ops = ops, .opaque = opaque};
    return ch;
}

/* --- bytes --------------------------------------------------------------------------------------------------------
 */

const char *channel_name(const struct channel *ch)
{
    return ch->name;
}

bool channel_answers(const struct channel *ch)
{
    return ch->kind == CH_SOCKET || ch->kind == CH_OPS;
}

static ssize_t write_some(struct channel *ch, struct iovec *iov, int n)
{
    size_t copied = 1;
    while (copied < (size_t)n && !lend_takes(ch->lend, iov[copied].iov_base, iov[copied].iov_len)) {
        copied++;
    }
    const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = copied};
    ssize_t done;
    switch (ch->kind) {
    case CH_OPS:
        done = ch->ops->write(ch->opaque, iov->iov_base, iov->iov_len);
        return done < 0 ? done : (ssize_t)iov->iov_len;
    case CH_FILE:
        if (ch->behind) {
            done = behind_write(ch->behind, iov->iov_base, iov->iov_len);
            return done < 0 ? done : (ssize_t)iov->iov_len;
        }
        done = co_pwritev(ch->fd, iov, n, ch->at, 0);
        ch->at += done > 0 ? (uint64_t)done : 0;
        return done;
    case CH_SOCKET:
        if (lend_takes(ch->lend, iov->iov_base, iov->iov_len)) {
            return lend_send(ch->lend, iov->iov_base, iov->iov_len);
        }
        done = sendmsg(ch->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    case CH_PIPE:
    default:
        done = writev(ch->fd, iov, n);
    }
    return done < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : done;
}

/* Not TCP's own way: over loopback packets of pages cost more than their copies. */
static bool lends(const struct channel *ch)
{
    int domain;
    socklen_t len = sizeof(domain);
    return ch->kind == CH_SOCKET && getsockopt(ch->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

bool channel_take_live(struct channel *ch, const void *memory, size_t size)
{
    if (!ch->lend && lends(ch)) {
        ch->lend = lend_create(ch->fd);
    }
    if (ch->lend) {
        lend_add(ch->lend, memory, size);
    }
    return ch->kind == CH_SOCKET;
}

void channel_set_patience(struct channel *ch, uint64_t ns)
{
    ch->patience_ns = ns;
}

/* Looks are counted, not time: that in which this program itself stood still is nobody's fault. */
static int wait_for_room(struct channel *ch, uint64_t *looks)
{
    int rc = co_poll(ch->fd, POLLOUT, LOOK_NS);
    if (rc != -ETIMEDOUT) {
        return rc < 0 ? rc : 0;
    }
    return ch->patience_ns && ++*looks * LOOK_NS >= ch->patience_ns ? -ETIMEDOUT : 0;
}

int channel_writev(struct channel *ch, struct iovec *iov, int n)
{
    uint64_t looks = 0;
    while (n) {
        ssize_t done = ch->broken ? -EPIPE : !iov->iov_len ? 0 : write_some(ch, iov, n);
        if (done == -EAGAIN) {
            done = wait_for_room(ch, &looks);
        } else if (done > 0) {
            looks = 0;
        }
        if (done < 0 && done != -EINTR) {
            return (int)done;
        }
        size_t used = done > 0 ? (size_t)done : 0;
        for (; n && used >= iov->iov_len; iov++, n--) {
            used -= iov->iov_len;
        }
        if (n) {
            iov->iov_base = (char *)iov->iov_base + used;
            iov->iov_len -= used;
        }
    }
    return 0;
}

int channel_write(struct channel *ch, const void *buf, size_t len)
{
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    return channel_writev(ch, &iov, 1);
}

static ssize_t read_some(struct channel *ch, void *buf, size_t len)
{
    if (ch->kind == CH_FILE) {
        struct iovec iov = {buf, len};
        ssize_t n = co_preadv(ch->fd, &iov, 1, ch->at);
        ch->at += n > 0 ? (uint64_t)n : 0;
        return n;
    }
    ssize_t n = read(ch->fd, buf, len);
    return n < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : n;
}

ssize_t channel_read_until(struct channel *ch, void *buf, size_t len, uint64_t deadline_ns)
{
    if (ch->kind == CH_OPS) {
        return ch->ops->read(ch->opaque, buf, len, deadline_ns);
    }
    for (;;) {
        ssize_t n = ch->broken ? -EPIPE : read_some(ch, buf, len);
        if (n == -EAGAIN) {
            uint64_t now = loop_now_ns();
            if (deadline_ns <= now) {
                return -ETIMEDOUT;
            }
            n = co_poll(ch->fd, POLLIN, MIN(deadline_ns - now, LOOK_NS));
            if (n < 0 && n != -ETIMEDOUT) {
                return n;
            }
        } else if (n != -EINTR) {
            return n;
        }
    }
}

int channel_peek(struct channel *ch, uint64_t deadline_ns)
{
    for (;;) {
        uint8_t first;
        ssize_t n = ch->broken ? 0 : recv(ch->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
        if (n >= 0) {
            return n ? first : -ENODATA;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            return -errno;
        }
        uint64_t now = loop_now_ns();
        if (deadline_ns <= now) {
            return -ETIMEDOUT;
        }
        int rc = co_poll(ch->fd, POLLIN, MIN(deadline_ns - now, LOOK_NS));
        if (rc < 0 && rc != -ETIMEDOUT) {
            return rc;
        }
    }
}

ssize_t channel_read(struct channel *ch, void *buf, size_t len)
{
    return channel_read_until(ch, buf, len, UINT64_MAX);
}

bool channel_await(struct channel *ch)
{
    while (ch->kind == CH_SOCKET && !ch->broken && co_poll(ch->fd, POLLIN, LOOK_NS) == -ETIMEDOUT) {
    }
    return ch->kind == CH_SOCKET;
}

int channel_read_all(struct channel *ch, void *buf, size_t len, uint64_t deadline_ns)
{
    while (len) {
        ssize_t n = channel_read_until(ch, buf, len, deadline_ns);
        if (n <= 0) {
            return n < 0 ? (int)n : -ENODATA;
        }
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return 0;
}

/* --- the end ------------------------------------------------------------------------------------------------------
 */

int channel_finish(struct channel *ch, struct err *e)
{
    int rc = 0;
    if (ch->kind == CH_FILE) {
        rc = ch->behind ? behind_finish(ch->behind) : 0;
        rc = rc < 0 ? rc : co_fdatasync(ch->fd);
        lseek(ch->fd, (off_t)ch->at, SEEK_SET); /* who gave it goes on behind what was written */
    } else if (ch->kind == CH_PIPE) {
        close(ch->fd);
        ch->fd = -1;
    }
    int status = ch->child ? channel_await_child(ch) : 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        return WIFEXITED(status)
                   ? err_set(e, EIO, "%s: the command ended with exit code %d", ch->name, WEXITSTATUS(status))
                   : err_set(e, EIO, "%s: the command was killed by signal %d", ch->name, WTERMSIG(status));
    }
    return rc < 0 ? err_set_errno(e, -rc, "%s", ch->name) : 0;
}

void channel_break(struct channel *ch)
{
    ch->broken = true;
    if (ch->kind == CH_OPS) {
        ch->ops->break_(ch->opaque);
    } else if (ch->kind == CH_SOCKET) {
        shutdown(ch->fd, SHUT_RDWR);
    } else if (ch->child) { /* whoever waits for the pipe finds its other end closed */
        kill(ch->child, SIGTERM);
    }
}

void channel_close(struct channel *ch)
{
    if (!ch) {
        return;
    }
    if (ch->kind == CH_OPS) {
        ch->ops->close(ch->opaque);
    }
    behind_destroy(ch->behind);
    lend_destroy(ch->lend);
    if (ch->fd >= 0) {
        close(ch->fd);
    }
    if (ch->child) {
        channel_break(ch);
        channel_await_child(ch);
    }
    g_free(ch->name);
    g_free(ch);
}
