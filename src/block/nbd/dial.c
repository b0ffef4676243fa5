/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/nbd/address.h"

#include "base/cleanup.h"
#include "loop/co.h"

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum { BUSY_NS = 20 * 1000 * 1000 }; /* until a server with a full queue is asked again */

/* Until the socket is, or nobody wants to wait any longer. */
static int wait_ready(struct nbd_dial *d, int fd, short events)
{
    d->fd = fd;
    int rc = 0;
    while (!rc && !d->stop) {
        uint64_t now = loop_now_ns();
        rc = now >= d->deadline_ns
                 ? -ETIMEDOUT
                 : co_poll(fd, events, d->deadline_ns == UINT64_MAX ? UINT64_MAX : d->deadline_ns - now);
    }
    d->fd = -1;
    return d->stop ? -ECANCELED : MIN(rc, 0);
}

static int wait_connected(struct nbd_dial *d, int fd)
{
    int error = 0, rc = wait_ready(d, fd, POLLOUT);
    socklen_t len = sizeof(error);
    return rc < 0 ? rc : getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? -errno : -error;
}

static int connect_socket(struct nbd_dial *d, int fd, const struct sockaddr *sa, socklen_t len)
{
    for (;;) {
        if (connect(fd, sa, len) == 0 || errno == EISCONN) {
            return 0;
        }
        if (errno == EINPROGRESS || errno == EINTR) {
            return wait_connected(d, fd);
        }
        if (errno != EAGAIN) {
            return -errno;
        }
        if (d->stop) { /* a Unix socket whose server is slow to accept */
            return -ECANCELED;
        }
        if (loop_now_ns() >= d->deadline_ns) {
            return -ETIMEDOUT;
        }
        co_sleep(BUSY_NS); /* poll() does not tell when there is room in another program's backlog */
    }
}

static int connect_to(struct nbd_dial *d, int protocol, const struct sockaddr *sa, socklen_t len)
{
    CLEANUP_CLOSE int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
    int rc = fd < 0 ? -errno : connect_socket(d, fd, sa, len);
    return rc < 0 ? rc : take_fd(&fd);
}

static int connect_error(const struct nbd_address *a, int rc, struct err *e)
{
    CLEANUP_FREE char *text = nbd_address_text(a);
    return err_set_errno(e, -rc, "Failed to connect to '%s'", text);
}

/* --- each kind -------------------------------------------------------------------------------------------------- */

/* Of a name. It cannot be interrupted: a thread of its own does it, for which nobody waits who does not want to. */
struct lookup {
    char *host, *port; /* host NULL: none */
    struct addrinfo hints, *found;
    int rc;     /* of getaddrinfo() */
    int our_fd; /* the thread's; closed when it has ended */
    _Atomic bool done;
    _Atomic unsigned users;
};

static void lookup_unref(struct lookup *l)
{
    if (atomic_fetch_sub(&l->users, 1) > 1) {
        return;
    }
    if (l->found) {
        freeaddrinfo(l->found);
    }
    g_free(l->host);
    g_free(l->port);
    g_free(l);
}

static void *lookup_main(void *opaque)
{
    struct lookup *l = opaque;
    l->rc = getaddrinfo(l->host, l->port, &l->hints, &l->found);
    atomic_store(&l->done, true);
    close(l->our_fd);
    lookup_unref(l);
    return NULL;
}

static int start_lookup(struct lookup *l, int *fd)
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, old;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
        return -errno;
    }
    *fd = fds[0];
    l->our_fd = fds[1];
    atomic_fetch_add(&l->users, 1);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    int rc = pthread_create(&thread, &detached, lookup_main, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&detached);
    if (rc) {
        close(l->our_fd);
        lookup_unref(l);
    }
    return -rc;
}

/* Numbers are found at once. */
static int look_up(struct lookup *l, struct nbd_dial *d)
{
    int flags = l->hints.ai_flags;
    l->hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    l->rc = getaddrinfo(l->host, l->port, &l->hints, &l->found);
    l->hints.ai_flags = flags;
    if (l->rc != EAI_NONAME) {
        return 0;
    }
    CLEANUP_CLOSE int fd = -1;
    int rc = start_lookup(l, &fd);
    while (rc == 0 && !atomic_load(&l->done)) {
        rc = wait_ready(d, fd, POLLIN);
    }
    return rc;
}

static int lookup_error(const struct nbd_address *a, const struct lookup *l, int rc, struct err *e)
{
    return rc < 0
               ? err_set_errno(e, -rc, "address resolution failed for %s:%s", a->host, a->port)
               : err_set(e, EINVAL, "address resolution failed for %s:%s: %s", a->host, a->port, gai_strerror(l->rc));
}

static void tune_tcp(int fd, bool keep_alive)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (keep_alive) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
}

static int dial_inet(const struct nbd_address *a, struct nbd_dial *d, struct err *e)
{
    struct lookup *l = g_new0(struct lookup, 1);
    *l = (struct lookup){
        .host = *a->host ? g_strdup(a->host) : NULL,
        .port = g_strdup(a->port),
        .hints = {.ai_family = a->family, .ai_socktype = SOCK_STREAM, .ai_flags = a->numeric ? AI_NUMERICHOST : 0},
        .users = 1};
    int rc = look_up(l, d);
    if (rc < 0 || l->rc) {
        rc = lookup_error(a, l, rc, e);
        lookup_unref(l);
        return rc;
    }
    rc = -ECONNREFUSED;
    for (const struct addrinfo *i = l->found; i && !d->stop; i = i->ai_next) {
        rc = connect_to(d, a->mptcp ? IPPROTO_MPTCP : i->ai_protocol, i->ai_addr, i->ai_addrlen);
        if (rc >= 0) {
            tune_tcp(rc, a->keep_alive);
            break;
        }
    }
    lookup_unref(l);
    return rc < 0 ? connect_error(a, rc, e) : rc;
}

static int dial_unix(const struct nbd_address *a, struct nbd_dial *d, struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    size_t len = strlen(a->path), lead = a->abstract ? 1 : 0; /* an abstract name begins with a zero byte */
    if (len + lead > sizeof(sa.sun_path) - (a->abstract ? 0 : 1)) {
        return err_set(e, ENAMETOOLONG, "UNIX socket path '%s' is too long\nPath must be less than %zu bytes", a->path,
                       sizeof(sa.sun_path));
    }
    memcpy(sa.sun_path + lead, a->path, len);
    socklen_t salen = a->abstract && a->tight ? (socklen_t)(offsetof(struct sockaddr_un, sun_path) + lead + len)
                                              : (socklen_t)sizeof(sa);
    int rc = connect_to(d, 0, (struct sockaddr *)&sa, salen);
    return rc < 0 ? connect_error(a, rc, e) : rc;
}

static bool read_number(const char *text, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(text, &end, 10);
    *out = (unsigned)n;
    return g_ascii_isdigit(*text) && !*end && !errno && n <= UINT32_MAX;
}

struct vsock_call {
    int fd;
    struct sockaddr_vm sa;
};

static int vsock_blocking(void *arg)
{
    struct vsock_call *c = arg;
    return connect(c->fd, (struct sockaddr *)&c->sa, sizeof(c->sa)) < 0 ? -errno : 0;
}

/* The kernel gives up after 2 seconds by itself. */
static int dial_vsock(const struct nbd_address *a, struct err *e)
{
    struct vsock_call c = {.sa = {.svm_family = AF_VSOCK}};
    if (!read_number(a->host, &c.sa.svm_cid)) {
        return err_set(e, EINVAL, "Failed to parse cid '%s'", a->host);
    }
    if (!read_number(a->port, &c.sa.svm_port)) {
        return err_set(e, EINVAL, "Failed to parse port '%s'", a->port);
    }
    CLEANUP_CLOSE int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c.fd = fd;
    int rc = fd < 0 ? -errno : co_work(vsock_blocking, &c);
    return rc < 0 ? connect_error(a, rc, e) : take_fd(&fd);
}

/* A copy: whoever gave it to us may still close his. */
static int dial_fd(const struct nbd_address *a, struct err *e)
{
    unsigned n;
    int type = 0;
    socklen_t len = sizeof(type);
    if (!read_number(a->fd, &n) || n > INT_MAX || getsockopt((int)n, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
        type != SOCK_STREAM) {
        return err_set(e, EINVAL, "File descriptor '%s' is not a socket", a->fd);
    }
    CLEANUP_CLOSE int fd = fcntl((int)n, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 || fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
        return err_set_errno(e, errno, "Failed to duplicate file descriptor '%s'", a->fd);
    }
    return take_fd(&fd);
}

int nbd_dial(const struct nbd_address *a, struct nbd_dial *d, int *fd, struct err *e)
{
    int rc;
    switch (a->type) {
    case NBD_INET:
        rc = dial_inet(a, d, e);
        break;
    case NBD_UNIX:
        rc = dial_unix(a, d, e);
        break;
    case NBD_VSOCK:
        rc = dial_vsock(a, e);
        break;
    default:
        rc = dial_fd(a, e);
    }
    *fd = rc;
    return rc < 0 ? rc : 0;
}

void nbd_dial_stop(struct nbd_dial *d)
{
    d->stop = true;
    if (d->fd >= 0) {
        shutdown(d->fd, SHUT_RDWR);
    }
}
