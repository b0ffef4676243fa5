/* SPDX-License-Identifier: BSD-2-Clause */
#include "char/impl.h"

#include "base/cleanup.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum { MAX_KEPT_FDS = 16 };

static void drop_fds(struct stream *s)
{
    for (guint i = 0; s->fds && i < s->fds->len; i++) {
        close(g_array_index(s->fds, int, i));
    }
    if (s->fds) {
        g_array_free(s->fds, TRUE);
        s->fds = NULL;
    }
}

static void keep_fds(struct stream *s, struct msghdr *msg)
{
    for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m; m = CMSG_NXTHDR(msg, m)) {
        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        size_t n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(m) + i * sizeof(fd), sizeof(fd));
            if (s->fds->len < MAX_KEPT_FDS) {
                g_array_append_val(s->fds, fd);
            } else {
                close(fd);
            }
        }
    }
}

static ssize_t receive(struct stream *s, uint8_t *buf, size_t n)
{
    if (!s->is_socket) {
        return read(s->in, buf, n);
    }
    struct iovec iov = {buf, n};
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(MAX_KEPT_FDS * sizeof(int))];
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(s->in, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got > 0) {
        keep_fds(s, &msg);
    }
    return got;
}

static void readable(void *opaque, short revents)
{
    struct chardev *c = opaque;
    uint8_t buf[4096];
    size_t room = MIN(chardev_room(c), sizeof(buf));
    if (!room) {
        stream_update(c);
        return;
    }
    ssize_t n = receive(&c->stream, buf, room);
    if (n > 0) {
        chardev_input(c, buf, (size_t)n);
        stream_update(c);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        c->driver->hangup(c);
    }
}

static ssize_t transmit(struct stream *s, const uint8_t *buf, size_t n)
{
    ssize_t done;
    do {
        done = s->is_socket ? send(s->out, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) : write(s->out, buf, n);
    } while (done < 0 && errno == EINTR);
    if (done < 0 && errno != EAGAIN) {
        return (ssize_t)n; /* nobody will ever read it; the reading side reports the end */
    }
    return MAX(done, 0);
}

static void writable(void *opaque, short revents)
{
    struct chardev *c = opaque;
    struct stream *s = &c->stream;
    ssize_t n = transmit(s, s->pending->data, s->pending->len);
    g_byte_array_remove_range(s->pending, 0, (guint)n);
    if (!s->pending->len) {
        fd_watch_destroy(s->out_watch);
        s->out_watch = NULL;
        chardev_drained(c);
    }
}

void stream_open(struct chardev *c, int in, int out, bool is_socket)
{
    struct stream *s = &c->stream;
    s->in = in;
    s->out = out;
    s->is_socket = is_socket;
    s->pending = g_byte_array_new();
    s->fds = g_array_new(FALSE, FALSE, sizeof(int));
    stream_update(c);
}

void stream_close(struct chardev *c)
{
    struct stream *s = &c->stream;
    if (s->pending && s->pending->len) {
        transmit(s, s->pending->data, s->pending->len); /* what the kernel still takes */
    }
    fd_watch_destroy(s->in_watch);
    fd_watch_destroy(s->out_watch);
    if (s->pending) {
        g_byte_array_free(s->pending, TRUE);
    }
    drop_fds(s);
    *s = (struct stream){.in = -1, .out = -1};
}

void stream_update(struct chardev *c)
{
    struct stream *s = &c->stream;
    if (s->in < 0) {
        return;
    }
    bool want = chardev_room(c) > 0;
    if (want && !s->in_watch) {
        s->in_watch = fd_watch_create(c->loop, s->in, POLLIN, readable, c);
    } else if (s->in_watch) {
        fd_watch_set(s->in_watch, want ? POLLIN : 0);
    }
}

size_t stream_write(struct chardev *c, const uint8_t *buf, size_t n, size_t limit)
{
    struct stream *s = &c->stream;
    if (s->out < 0) {
        return n;
    }
    size_t done = s->pending->len ? 0 : (size_t)transmit(s, buf, n);
    size_t room = limit > s->pending->len ? limit - s->pending->len : 0;
    size_t keep = MIN(n - done, room);
    if (keep) {
        g_byte_array_append(s->pending, buf + done, (guint)keep);
    }
    if (s->pending->len && !s->out_watch) {
        s->out_watch = fd_watch_create(c->loop, s->out, POLLOUT, writable, c);
    }
    return done + keep;
}
