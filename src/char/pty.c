/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pseudo-terminal. The master side hangs up while nobody has the other side open, and the kernel does not say when
 * that changes, so inotify watches the device file (or, where there are no inotify instances left, a timer looks once a
 * second).
 */
#include "base/cleanup.h"
#include "char/impl.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <termios.h>

struct pty {
    int master, notify;
    char *path;
    struct fd_watch *notify_watch;
    struct timer look;
};

static void look(struct chardev *c)
{
    struct pty *p = c->state;
    struct pollfd f = {.fd = p->master, .events = POLLOUT};
    if (!c->connected && poll(&f, 1, 0) >= 0 && !(f.revents & POLLHUP)) {
        stream_open(c, p->master, p->master, false);
        chardev_set_connected(c, true);
    }
}

static void notified(void *opaque, short revents)
{
    struct chardev *c = opaque;
    struct pty *p = c->state;
    _Alignas(struct inotify_event) char events[4096];
    ssize_t n = read(p->notify, events, sizeof(events));
    (void)n; /* that something happened is all we need to know */
    look(c);
}

static void look_again(void *opaque)
{
    struct chardev *c = opaque;
    struct pty *p = c->state;
    look(c);
    timer_arm(&p->look, loop_now_ns() + UINT64_C(1000000000));
}

static void watch_for_open(struct chardev *c)
{
    struct pty *p = c->state;
    p->notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (p->notify >= 0 && inotify_add_watch(p->notify, p->path, IN_OPEN) >= 0) {
        p->notify_watch = fd_watch_create(c->loop, p->notify, POLLIN, notified, c);
    } else {
        look_again(c);
    }
}

static int pty_create(struct chardev *c, struct jread *r, struct err *e)
{
    struct pty *p = g_new0(struct pty, 1);
    p->master = p->notify = -1;
    timer_init(&p->look, c->loop, look_again, c);
    c->state = p;
    CLEANUP_CLOSE int slave = -1;
    if (openpty(&p->master, &slave, NULL, NULL, NULL)) {
        return err_set_errno(e, errno, "Failed to create PTY");
    }
    fcntl(p->master, F_SETFD, FD_CLOEXEC);
    fcntl(p->master, F_SETFL, O_NONBLOCK);
    struct termios t;
    tcgetattr(slave, &t);
    cfmakeraw(&t);
    tcsetattr(slave, TCSAFLUSH, &t);
    char name[64];
    if (ptsname_r(p->master, name, sizeof(name))) {
        return err_set_errno(e, errno, "Failed to create PTY");
    }
    p->path = g_strdup(name);
    /* It hangs up only once it has been open, which openpty() did: the state at the start is "closed". */
    watch_for_open(c); /* before anybody knows its name */
    return 0;
}

static void pty_destroy(struct chardev *c)
{
    struct pty *p = c->state;
    if (!p) {
        return;
    }
    timer_cancel(&p->look);
    fd_watch_destroy(p->notify_watch);
    if (p->notify >= 0) {
        close(p->notify);
    }
    if (p->master >= 0) {
        close(p->master);
    }
    g_free(p->path);
    g_free(p);
}

static char *pty_filename(const struct chardev *c)
{
    const struct pty *p = c->state;
    return g_strdup_printf("pty:%s", p->path);
}

static void pty_hangup(struct chardev *c)
{
    stream_close(c);
    chardev_set_connected(c, false);
}

const struct chardev_driver chardev_pty_driver = {
    .name = "pty",
    .create = pty_create,
    .destroy = pty_destroy,
    .filename = pty_filename,
    .hangup = pty_hangup,
};
