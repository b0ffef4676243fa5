/* SPDX-License-Identifier: BSD-2-Clause */
/* The socket of a connection, with or without TLS, as coroutines use it. */
#include "export/nbd/int.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINGER_NS UINT64_C(200000000)

enum { IN_A_ROW = 8 };

void nbs_channel_init(struct nbs_channel *ch, struct loop *l, int fd)
{
    *ch = (struct nbs_channel){.loop = l, .fd = fd};
    int domain = AF_UNIX, on = 1, size = 4 << 20;
    socklen_t len = sizeof(domain);
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
    ch->unix_domain = domain == AF_UNIX;
    if (!ch->unix_domain) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    } else { /* the kernel's default stops a sender after 200 KiB; TCP adapts by itself */
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    }
}

void nbs_channel_finish(struct nbs_channel *ch)
{
    tls_session_destroy(ch->tls);
    ch->tls = NULL;
    if (ch->fd >= 0) {
        close(ch->fd);
    }
    ch->fd = -1;
}

void nbs_channel_shutdown(struct nbs_channel *ch)
{
    shutdown(ch->fd, SHUT_RDWR);
}

static int wait_for(struct nbs_channel *ch, short events)
{
    int rc = co_poll(ch->fd, events, UINT64_MAX);
    return rc < 0 ? rc : 0;
}

static void give_up(void *opaque)
{
    nbs_channel_shutdown(opaque);
}

void nbs_channel_linger(struct nbs_channel *ch)
{
    char buf[4096];
    struct timer t;
    if (ch->unix_domain) {
        return;
    }
    shutdown(ch->fd, SHUT_WR);
    timer_init(&t, ch->loop, give_up, ch);
    timer_arm(&t, loop_now_ns() + LINGER_NS);
    ssize_t n;
    do {
        n = wait_for(ch, POLLIN) < 0 ? -1 : recv(ch->fd, buf, sizeof(buf), MSG_DONTWAIT);
    } while (n > 0);
    timer_cancel(&t);
}

static ssize_t recv_once(struct nbs_channel *ch, const struct iovec *iov, int n, size_t *asked)
{
    if (ch->tls) {
        *asked = iov[0].iov_len;
        return tls_recv(ch->tls, iov[0].iov_base, iov[0].iov_len);
    }
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    *asked = 0;
    for (int i = 0; i < n; i++) {
        *asked += iov[i].iov_len;
    }
    ssize_t got = recvmsg(ch->fd, &m, MSG_DONTWAIT);
    return got < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : got;
}

ssize_t nbs_recv(struct nbs_channel *ch, const struct iovec *iov, int n)
{
    if (!ch->try_now && !ch->tls) { /* GnuTLS may hold what the socket does not show any more */
        int rc = wait_for(ch, POLLIN);
        if (rc < 0) {
            return rc;
        }
    } else if (++ch->in_a_row == IN_A_ROW) { /* who sends without end is not alone here */
        ch->in_a_row = 0;
        co_yield ();
    }
    for (;;) {
        size_t asked;
        ssize_t got = recv_once(ch, iov, n, &asked);
        if (got == -EINTR) {
            continue;
        }
        if (got != -EAGAIN) {
            ch->try_now = got > 0 && (size_t)got == asked;
            return got;
        }
        int rc = wait_for(ch, ch->tls ? tls_events(ch->tls) : POLLIN);
        if (rc < 0) {
            return rc;
        }
    }
}

static ssize_t send_once(struct nbs_channel *ch, const struct iovec *iov, int n, bool more)
{
    if (ch->tls) {
        return tls_sendv(ch->tls, iov, n);
    }
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    ssize_t sent = sendmsg(ch->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
    return sent < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : sent;
}

ssize_t nbs_sendv(struct nbs_channel *ch, const struct iovec *iov, int n, bool more)
{
    for (;;) {
        ssize_t sent = send_once(ch, iov, n, more);
        if (sent != -EAGAIN && sent != -EINTR) {
            return sent;
        }
        int rc = sent == -EINTR ? 0 : wait_for(ch, ch->tls ? tls_events(ch->tls) : POLLOUT);
        if (rc < 0) {
            return rc;
        }
    }
}

ssize_t nbs_sendfile(struct nbs_channel *ch, int fd, uint64_t off, size_t len)
{
    if (ch->tls) {
        return -EOPNOTSUPP;
    }
    for (;;) {
        off_t at = (off_t)off;
        ssize_t sent = sendfile(ch->fd, fd, &at, len);
        int rc = errno;
        if (sent >= 0 || (rc != EAGAIN && rc != EINTR)) {
            return sent < 0 ? -rc : sent;
        }
        rc = rc == EINTR ? 0 : wait_for(ch, POLLOUT);
        if (rc < 0) {
            return rc;
        }
    }
}

int nbs_send_all(struct nbs_channel *ch, const void *buf, size_t len)
{
    while (len) {
        struct iovec iov = {(void *)(uintptr_t)buf, len};
        ssize_t n = nbs_sendv(ch, &iov, 1, false);
        if (n < 0) {
            return (int)n;
        }
        buf = (const char *)buf + n;
        len -= (size_t)n;
    }
    return 0;
}
