/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Standard input and output, as a raw terminal when they are one.
 *
 * The terminal has to be put back however this process ends. A small process of its own sees to that: it waits for the
 * end of a pipe whose other end dies with us, be it by SIGKILL.
 */
#include "base/cleanup.h"
#include "char/impl.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>

struct stdio {
    int out; /* a description of our own, so that O_NONBLOCK does not bother whoever else has the terminal */
    bool raw;
    struct termios before;
    pid_t guard;
    int guard_pipe;
};

/* Runs in the child, with all signals blocked; only async-signal-safe calls. */
static void guard_main(int pipe_fd, const struct termios *before)
{
    const int end = 3;
    const int tty = 4;
    dup2(pipe_fd, end);
    dup2(STDIN_FILENO, tty);
    close_range(0, 2, 0); /* whoever reads our output must see its end when the parent is gone */
    close_range(5, ~0U, 0);
    char byte;
    ssize_t n;
    do {
        n = read(end, &byte, 1);
    } while (n < 0 && errno == EINTR);
    /* A byte: it has been put back already. Another group in front: the shell has the terminal and set it as it likes.
     */
    pid_t front = tcgetpgrp(tty);
    if (n == 0 && (front < 0 || front == getpgrp())) {
        tcsetattr(tty, TCSANOW, before);
    }
    _exit(0);
}

static int start_guard(struct stdio *s)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC)) {
        return -errno;
    }
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* for the child: Ctrl-C is not for it, and SIGTTOU would stop it */
    s->guard = fork();
    if (s->guard == 0) {
        close(fds[1]);
        guard_main(fds[0], &s->before);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    close(fds[0]);
    s->guard_pipe = fds[1];
    return s->guard < 0 ? -EAGAIN : 0;
}

static void end_guard(struct stdio *s)
{
    if (s->guard_pipe >= 0) {
        ssize_t n = write(s->guard_pipe, "", 1);
        (void)n;
        close(s->guard_pipe);
    }
    if (s->guard > 0) {
        while (waitpid(s->guard, NULL, 0) < 0 && errno == EINTR) {
        }
    }
}

static int make_raw(struct stdio *s, bool signals, struct err *e)
{
    if (tcgetattr(STDIN_FILENO, &s->before)) {
        return 0; /* no terminal */
    }
    int rc = start_guard(s);
    if (rc) {
        return err_set_errno(e, -rc, "cannot watch over the terminal");
    }
    struct termios t = s->before;
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_oflag |= OPOST;
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals) {
        t.c_lflag &= ~(tcflag_t)ISIG;
    }
    t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    s->raw = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
    return 0;
}

/* A terminal or pipe can be opened once more by its name in /proc; files never block and sockets have MSG_DONTWAIT. */
static int open_output(void)
{
    struct stat st;
    int fd = -1;
    if (fstat(STDOUT_FILENO, &st) == 0 && (S_ISCHR(st.st_mode) || S_ISFIFO(st.st_mode))) {
        fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    return fd >= 0 ? fd : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
}

static bool is_socket(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static int stdio_create(struct chardev *c, struct jread *r, struct err *e)
{
    struct stdio *s = g_new0(struct stdio, 1);
    *s = (struct stdio){.out = -1, .guard_pipe = -1};
    c->state = s;
    bool signals = jread_bool_or(r, "signal", true);
    if (r->rc) {
        return r->rc;
    }
    int rc = make_raw(s, signals, e);
    if (rc) {
        return rc;
    }
    s->out = open_output();
    if (s->out < 0) {
        return err_set_errno(e, errno, "cannot use standard output");
    }
    stream_open(c, STDIN_FILENO, s->out, is_socket(STDIN_FILENO) && is_socket(s->out));
    chardev_set_connected(c, true);
    return 0;
}

static void stdio_destroy(struct chardev *c)
{
    struct stdio *s = c->state;
    if (!s) {
        return;
    }
    if (s->raw) {
        tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
    }
    end_guard(s);
    if (s->out >= 0) {
        close(s->out);
    }
    g_free(s);
}

/* No more input; output goes on (a VM whose input is /dev/null still talks). */
static void stdio_hangup(struct chardev *c)
{
    fd_watch_destroy(c->stream.in_watch);
    c->stream.in_watch = NULL;
    c->stream.in = -1;
}

const struct chardev_driver chardev_stdio_driver = {
    .name = "stdio",
    .create = stdio_create,
    .destroy = stdio_destroy,
    .hangup = stdio_hangup,
};
