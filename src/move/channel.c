/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/channel.h"

#include "base/cleanup.h"
#include "block/nbd/address.h"
#include "export/nbd/nbd.h"
#include "loop/co.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { LOOK_NS = 200000000 }; /* whether it was broken meanwhile */

enum kind { CH_SOCKET, CH_PIPE, CH_FILE };

struct channel {
    enum kind kind;
    int fd;
    pid_t child; /* of exec:, or 0 */
    uint64_t at; /* CH_FILE: where the next byte goes */
    bool broken;
    char *name;
};

enum scheme { TO_UNIX, TO_TCP, TO_FD, TO_EXEC, TO_FILE };

struct place {
    enum scheme scheme;
    char *text, *port; /* path, host, name, command */
    uint64_t offset;
};

static void place_finish(struct place *p)
{
    g_free(p->text);
    g_free(p->port);
}

/* --- URIs ---------------------------------------------------------------------------------------------------------
 */

static int parse_tcp(struct place *p, struct err *e)
{
    char *colon = strrchr(p->text, ':'), *host = p->text;
    if (!colon || !colon[1]) {
        return err_set(e, EINVAL, "tcp:%s: the port is missing (tcp:HOST:PORT)", p->text);
    }
    p->port = g_strdup(colon + 1);
    *colon = '\0';
    size_t n = strlen(host);
    if (n > 1 && host[0] == '[' && host[n - 1] == ']') {
        memmove(host, host + 1, n);
        host[n - 2] = '\0';
    }
    return 0;
}

static int parse_file(struct place *p, struct err *e)
{
    char *comma = strstr(p->text, ",offset="), *end;
    if (!comma) {
        return 0;
    }
    const char *number = comma + strlen(",offset=");
    errno = 0;
    p->offset = g_ascii_strtoull(number, &end, 0);
    if (errno || end == number || *end || p->offset > INT64_MAX) {
        return err_set(e, EINVAL, "file: offset '%s' is not a number of bytes", number);
    }
    *comma = '\0';
    return 0;
}

static int parse(const char *uri, struct place *p, struct err *e)
{
    static const char *const schemes[] = {"unix:", "tcp:", "fd:", "exec:", "file:"};
    for (unsigned i = 0; i < G_N_ELEMENTS(schemes); i++) {
        if (g_str_has_prefix(uri, schemes[i])) {
            *p = (struct place){.scheme = (enum scheme)i, .text = g_strdup(uri + strlen(schemes[i]))};
            int rc = !*p->text              ? err_set(e, EINVAL, "%s: says nothing behind the colon", uri)
                     : p->scheme == TO_TCP  ? parse_tcp(p, e)
                     : p->scheme == TO_FILE ? parse_file(p, e)
                                            : 0;
            if (rc) {
                place_finish(p);
            }
            return rc;
        }
    }
    return err_set(e, EINVAL, "unknown migration protocol: %s", uri);
}

int channel_check(const char *uri, struct err *e)
{
    struct place p;
    int rc = parse(uri, &p, e);
    if (!rc) {
        place_finish(&p);
    }
    return rc;
}

/* --- making -------------------------------------------------------------------------------------------------------
 */

static struct channel *wrap(enum kind kind, int fd, const char *name)
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

static int take_named(const struct place *p, const struct channel_names *names, struct err *e)
{
    int fd = names && names->take_fd ? names->take_fd(names->opaque, p->text) : -1;
    char *end;
    if (fd < 0 && g_ascii_isdigit(*p->text)) {
        long n = strtol(p->text, &end, 10);
        fd = !*end && n <= INT_MAX && fcntl((int)n, F_GETFD) >= 0 ? (int)n : -1;
    }
    return fd >= 0 ? fd : err_set(e, ENOENT, "File descriptor named '%s' has not been found", p->text);
}

static int open_fd(const struct place *p, const char *uri, const struct channel_names *names, struct channel **out,
                   struct err *e)
{
    struct stat st;
    int fd = take_named(p, names, e);
    if (fd < 0) {
        return fd;
    }
    if (fstat(fd, &st) < 0) {
        return err_set_errno(e, errno, "%s", uri);
    }
    *out = wrap(S_ISSOCK(st.st_mode) ? CH_SOCKET : S_ISREG(st.st_mode) ? CH_FILE : CH_PIPE, fd, uri);
    return 0;
}

static int open_file(const struct place *p, const char *uri, bool in, struct channel **out, struct err *e)
{
    int flags = in ? O_RDONLY : p->offset ? O_WRONLY | O_CREAT : O_WRONLY | O_CREAT | O_TRUNC;
    int fd = open(p->text, flags | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_set_errno(e, errno, "could not open '%s'", p->text);
    }
    *out = wrap(CH_FILE, fd, uri);
    (*out)->at = p->offset;
    return 0;
}

/* /bin/sh -c COMMAND with the other end of a pipe as its input, or its output. */
static int open_exec(const struct place *p, const char *uri, bool in, struct channel **out, struct err *e)
{
    char *argv[] = {(char *)(uintptr_t) "/bin/sh", (char *)(uintptr_t) "-c", p->text, NULL};
    posix_spawn_file_actions_t fa;
    int fds[2];
    pid_t child;
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_set_errno(e, errno, "%s", uri);
    }
    CLEANUP_CLOSE int mine = fds[in ? 0 : 1];
    CLEANUP_CLOSE int its = fds[in ? 1 : 0];
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, its, in ? STDOUT_FILENO : STDIN_FILENO);
    int rc = posix_spawn(&child, argv[0], &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    if (rc) {
        return err_set_errno(e, rc, "%s: /bin/sh could not be started", uri);
    }
    *out = wrap(CH_PIPE, take_fd(&mine), uri);
    (*out)->child = child;
    return 0;
}

static int dial_socket(const struct place *p, const char *uri, struct channel **out, struct err *e)
{
    const struct nbd_address a = {.type = p->scheme == TO_UNIX ? NBD_UNIX : NBD_INET,
                                  .path = p->text,
                                  .host = *p->text ? p->text : (char *)(uintptr_t) "localhost",
                                  .port = p->port};
    struct nbd_dial d = {.fd = -1, .deadline_ns = UINT64_MAX};
    int fd, rc = nbd_dial(&a, &d, &fd, e);
    if (rc == 0) {
        *out = wrap(CH_SOCKET, fd, uri);
    }
    return rc;
}

static int open_one_way(const struct place *p, const char *uri, const struct channel_names *names, bool in,
                        struct channel **out, struct err *e)
{
    return p->scheme == TO_FD     ? open_fd(p, uri, names, out, e)
           : p->scheme == TO_EXEC ? open_exec(p, uri, in, out, e)
                                  : open_file(p, uri, in, out, e);
}

int channel_dial(const char *uri, const struct channel_names *names, struct channel **out, struct err *e)
{
    struct place p;
    int rc = parse(uri, &p, e);
    if (rc) {
        return rc;
    }
    rc = p.scheme == TO_UNIX || p.scheme == TO_TCP ? dial_socket(&p, uri, out, e)
                                                   : open_one_way(&p, uri, names, false, out, e);
    place_finish(&p);
    return rc;
}

/* --- waiting for one ----------------------------------------------------------------------------------------------
 */

struct channel_door {
    char *uri;
    GArray *fds;           /* that listen */
    char *path;            /* of a unix socket, which goes with us */
    struct channel *there; /* what needs no waiting */
    bool shut;
};

int channel_door_open(const char *uri, const struct channel_names *names, struct channel_door **out, struct err *e)
{
    struct channel_door *d = g_new0(struct channel_door, 1);
    struct place p;
    int rc = parse(uri, &p, e);
    d->fds = g_array_new(false, false, sizeof(int));
    d->uri = g_strdup(uri);
    if (rc == 0) {
        rc = p.scheme == TO_UNIX  ? nbd_listen_unix(p.text, d->fds, e)
             : p.scheme == TO_TCP ? nbd_listen_inet(p.text, p.port, AF_UNSPEC, d->fds, e)
                                  : open_one_way(&p, uri, names, true, &d->there, e);
        d->path = rc == 0 && p.scheme == TO_UNIX ? g_strdup(p.text) : NULL;
        place_finish(&p);
    }
    if (rc) {
        channel_door_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

static int accept_one(struct channel_door *d, struct channel **out, struct err *e)
{
    while (!d->shut) {
        for (guint i = 0; i < d->fds->len; i++) {
            int fd = accept4(g_array_index(d->fds, int, i), NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd >= 0) {
                *out = wrap(CH_SOCKET, fd, d->uri);
                return 0;
            }
        }
        co_poll(g_array_index(d->fds, int, 0), POLLIN, LOOK_NS);
    }
    return err_set(e, ECANCELED, "%s: nobody is waited for any more", d->uri);
}

int channel_door_wait(struct channel_door *d, struct channel **out, struct err *e)
{
    if (d->there) {
        *out = take(d->there);
        return 0;
    }
    return accept_one(d, out, e);
}

void channel_door_shut(struct channel_door *d)
{
    d->shut = true;
}

void channel_door_close(struct channel_door *d)
{
    if (!d) {
        return;
    }
    for (guint i = 0; i < d->fds->len; i++) {
        close(g_array_index(d->fds, int, i));
    }
    if (d->path) {
        unlink(d->path);
    }
    channel_close(d->there);
    g_array_unref(d->fds);
    g_free(d->path);
    g_free(d->uri);
    g_free(d);
}

/* --- bytes --------------------------------------------------------------------------------------------------------
 */

const char *channel_name(const struct channel *ch)
{
    return ch->name;
}

bool channel_answers(const struct channel *ch)
{
    return ch->kind == CH_SOCKET;
}

static ssize_t write_some(struct channel *ch, const void *buf, size_t len)
{
    if (ch->kind == CH_FILE) {
        struct iovec iov = {(void *)(uintptr_t)buf, len};
        ssize_t n = co_pwritev(ch->fd, &iov, 1, ch->at, 0);
        ch->at += n > 0 ? (uint64_t)n : 0;
        return n;
    }
    ssize_t n = ch->kind == CH_SOCKET ? send(ch->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) : write(ch->fd, buf, len);
    return n < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : n;
}

int channel_write(struct channel *ch, const void *buf, size_t len)
{
    while (len) {
        ssize_t n = ch->broken ? -EPIPE : write_some(ch, buf, len);
        if (n == -EAGAIN) {
            n = co_poll(ch->fd, POLLOUT, LOOK_NS);
            n = n < 0 && n != -ETIMEDOUT ? n : 0;
        }
        if (n < 0 && n != -EINTR) {
            return (int)n;
        }
        if (n > 0) {
            buf = (const char *)buf + n;
            len -= (size_t)n;
        }
    }
    return 0;
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

static ssize_t read_until(struct channel *ch, void *buf, size_t len, uint64_t deadline_ns)
{
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

ssize_t channel_read(struct channel *ch, void *buf, size_t len)
{
    return read_until(ch, buf, len, UINT64_MAX);
}

int channel_read_all(struct channel *ch, void *buf, size_t len, uint64_t deadline_ns)
{
    while (len) {
        ssize_t n = read_until(ch, buf, len, deadline_ns);
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

struct waiting {
    pid_t pid;
    int status;
};

static int wait_child(void *opaque)
{
    struct waiting *w = opaque;
    while (waitpid(w->pid, &w->status, 0) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int channel_finish(struct channel *ch, struct err *e)
{
    struct waiting w = {.pid = ch->child};
    int rc = 0;
    if (ch->kind == CH_FILE) {
        rc = co_fdatasync(ch->fd);
    } else if (ch->kind == CH_PIPE) {
        close(ch->fd);
        ch->fd = -1;
    }
    if (ch->child) {
        ch->child = 0;
        rc = co_work(wait_child, &w);
        if (rc == 0 && (!WIFEXITED(w.status) || WEXITSTATUS(w.status))) {
            return WIFEXITED(w.status)
                       ? err_set(e, EIO, "%s: the command ended with exit code %d", ch->name, WEXITSTATUS(w.status))
                       : err_set(e, EIO, "%s: the command was killed by signal %d", ch->name, WTERMSIG(w.status));
        }
    }
    return rc < 0 ? err_set_errno(e, -rc, "%s", ch->name) : 0;
}

void channel_break(struct channel *ch)
{
    ch->broken = true;
    if (ch->kind == CH_SOCKET) {
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
    if (ch->fd >= 0) {
        close(ch->fd);
    }
    if (ch->child) {
        kill(ch->child, SIGTERM);
        waitpid(ch->child, NULL, 0);
    }
    g_free(ch->name);
    g_free(ch);
}
