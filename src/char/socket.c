/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Unix and TCP sockets. States of a server: listening (the listener is watched) <-> connected (the next client waits in
 * the backlog). Of a client: connected -> gone, or with reconnect= waiting (timer) -> connecting -> connected ->
 * waiting.
 */
#include "base/cleanup.h"
#include "char/impl.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

struct sock {
    /* configuration */
    bool server, wait, nodelay, unlink_path;
    char *path, *host, *port;
    uint64_t reconnect_ns;
    struct sockaddr_storage addr;
    socklen_t addr_len;
    /* state */
    int listen_fd, fd;
    struct fd_watch *watch; /* of the listener, or of a connection being made */
    struct timer retry;
};

/* --- names ---------------------------------------------------------------------------------------------------- */

static char *addr_text(const struct sockaddr_storage *a, socklen_t len)
{
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    if (getnameinfo((const struct sockaddr *)a, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV)) {
        return g_strdup("?");
    }
    return strchr(host, ':') ? g_strdup_printf("[%s]:%s", host, port) : g_strdup_printf("%s:%s", host, port);
}

static char *own_name(const struct sock *s)
{
    int fd = s->listen_fd >= 0 ? s->listen_fd : s->fd;
    const char *role = s->server ? ",server=on" : "";
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);
    if (s->path) {
        return g_strdup_printf("unix:%s%s", s->path, role);
    }
    if (fd < 0) {
        return g_strdup_printf("tcp:%s:%s%s", s->host, s->port, role);
    }
    if (getsockname(fd, (struct sockaddr *)&a, &len)) {
        return g_strdup("?");
    }
    if (a.ss_family == AF_UNIX) {
        const struct sockaddr_un *u = (const struct sockaddr_un *)&a;
        size_t n = len > offsetof(struct sockaddr_un, sun_path) ? len - offsetof(struct sockaddr_un, sun_path) : 0;
        return g_strdup_printf("unix:%.*s%s", (int)strnlen(u->sun_path, n), u->sun_path, role);
    }
    CLEANUP_FREE char *where = addr_text(&a, len);
    return g_strdup_printf("tcp:%s%s", where, role);
}

static char *socket_filename(const struct chardev *c)
{
    const struct sock *s = c->state;
    CLEANUP_FREE char *own = own_name(s);
    if (!c->connected) {
        return g_strconcat("disconnected:", own, NULL);
    }
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);
    if (getpeername(s->fd, (struct sockaddr *)&a, &len) || a.ss_family == AF_UNIX) {
        return g_steal_pointer(&own);
    }
    CLEANUP_FREE char *peer = addr_text(&a, len);
    return g_strconcat(own, " <-> ", peer, NULL);
}

/* --- connections ---------------------------------------------------------------------------------------------- */

static void connected(struct chardev *c, int fd)
{
    struct sock *s = c->state;
    fd_watch_destroy(s->watch);
    s->watch = NULL;
    s->fd = fd;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    if (s->nodelay) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* not TCP: no harm */
    }
    stream_open(c, fd, fd, true);
    chardev_set_connected(c, true);
}

static void acceptable(void *opaque, short revents)
{
    struct chardev *c = opaque;
    struct sock *s = c->state;
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        connected(c, fd);
    }
}

static void watch_listener(struct chardev *c)
{
    struct sock *s = c->state;
    s->watch = fd_watch_create(c->loop, s->listen_fd, POLLIN, acceptable, c);
}

static void try_later(struct chardev *c)
{
    struct sock *s = c->state;
    if (s->reconnect_ns) {
        timer_arm(&s->retry, loop_now_ns() + s->reconnect_ns);
    }
}

static void connect_failed(struct chardev *c)
{
    struct sock *s = c->state;
    fd_watch_destroy(s->watch);
    s->watch = NULL;
    close(take_fd(&s->fd));
    try_later(c);
}

static void connect_ended(void *opaque, short revents)
{
    struct chardev *c = opaque;
    struct sock *s = c->state;
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) || error) {
        connect_failed(c);
    } else {
        connected(c, s->fd);
    }
}

/* The timer's: a connection in the background. */
static void reconnect(void *opaque)
{
    struct chardev *c = opaque;
    struct sock *s = c->state;
    s->fd = socket(s->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0) {
        try_later(c);
    } else if (!connect(s->fd, (struct sockaddr *)&s->addr, s->addr_len)) {
        connected(c, s->fd);
    } else if (errno == EINPROGRESS) {
        s->watch = fd_watch_create(c->loop, s->fd, POLLOUT, connect_ended, c);
    } else {
        connect_failed(c);
    }
}

static void socket_hangup(struct chardev *c)
{
    struct sock *s = c->state;
    stream_close(c);
    close(take_fd(&s->fd));
    chardev_set_connected(c, false);
    if (s->listen_fd >= 0) {
        watch_listener(c);
    } else {
        try_later(c);
    }
}

/* --- set-up --------------------------------------------------------------------------------------------------- */

static int unix_addr(struct sock *s, struct err *e)
{
    struct sockaddr_un *u = (struct sockaddr_un *)&s->addr;
    if (strlen(s->path) >= sizeof(u->sun_path)) {
        return err_set(e, EINVAL, "UNIX socket path '%s' is too long: at most %zu bytes", s->path,
                       sizeof(u->sun_path) - 1);
    }
    u->sun_family = AF_UNIX;
    strcpy(u->sun_path, s->path);
    s->addr_len = sizeof(*u);
    return 0;
}

static int tcp_addr(struct sock *s, int family, struct err *e)
{
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = s->server ? AI_PASSIVE : 0};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(*s->host ? s->host : NULL, s->port, &hints, &found);
    if (rc) {
        return err_set(e, EINVAL, "address resolution failed for %s:%s: %s", s->host, s->port, gai_strerror(rc));
    }
    memcpy(&s->addr, found->ai_addr, found->ai_addrlen);
    s->addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static int remove_stale(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st)) {
        return 0;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return err_set(e, EEXIST, "'%s' exists and is not a socket", path);
    }
    if (unlink(path) && errno != ENOENT) {
        return err_set_errno(e, errno, "Failed to unlink socket %s", path);
    }
    return 0;
}

static int start_listening(struct sock *s, struct err *e)
{
    CLEANUP_FREE char *where = own_name(s);
    int rc = s->path ? remove_stale(s->path, e) : 0;
    if (rc) {
        return rc;
    }
    s->listen_fd = socket(s->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;
    if (s->listen_fd < 0) {
        return err_set_errno(e, errno, "Failed to create socket");
    }
    setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(s->listen_fd, (struct sockaddr *)&s->addr, s->addr_len)) {
        return err_set_errno(e, errno, "Failed to bind socket to %s", where);
    }
    s->unlink_path = s->path != NULL;
    if (listen(s->listen_fd, 1)) {
        return err_set_errno(e, errno, "Failed to listen on %s", where);
    }
    return 0;
}

static int start_server(struct chardev *c, struct err *e)
{
    struct sock *s = c->state;
    if (s->listen_fd < 0) {
        int rc = start_listening(s, e);
        if (rc) {
            return rc;
        }
    }
    fcntl(s->listen_fd, F_SETFL, fcntl(s->listen_fd, F_GETFL) | O_NONBLOCK);
    if (!s->wait) {
        watch_listener(c);
        return 0;
    }
    CLEANUP_FREE char *where = own_name(s);
    fprintf(stderr, "waiting for connection on: %s\n", where);
    for (;;) {
        struct pollfd p = {.fd = s->listen_fd, .events = POLLIN};
        if (poll(&p, 1, -1) < 0) {
            return err_set_errno(e, errno, "waiting for a connection on %s", where);
        }
        int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            connected(c, fd);
            return 0;
        }
    }
}

static int start_client(struct chardev *c, struct err *e)
{
    struct sock *s = c->state;
    if (s->reconnect_ns) {
        reconnect(c);
        return 0;
    }
    CLEANUP_FREE char *where = own_name(s);
    s->fd = socket(s->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || connect(s->fd, (struct sockaddr *)&s->addr, s->addr_len)) {
        return err_set_errno(e, errno, "Failed to connect to '%s'", where);
    }
    connected(c, s->fd);
    return 0;
}

/* A socket that was passed to us: it knows itself whether it listens. */
static int use_fd(struct chardev *c, int fd, struct err *e)
{
    struct sock *s = c->state;
    int listening = 0;
    socklen_t len = sizeof(listening);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len)) {
        return err_set_errno(e, errno, "File descriptor %d is not a socket", fd);
    }
    s->server = listening;
    if (listening) {
        s->listen_fd = fd;
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        return start_server(c, e);
    }
    connected(c, fd);
    return 0;
}

static int read_options(struct sock *s, struct jread *r, int64_t *fd, int *family)
{
    s->path = g_strdup(jread_str_or(r, "path", NULL));
    s->host = g_strdup(jread_str_or(r, "host", NULL));
    if (json_object_is_type(jread_any(r, "port"), json_type_int)) {
        s->port = g_strdup_printf("%" G_GINT64_FORMAT, jread_int(r, "port"));
    } else {
        s->port = g_strdup(jread_str_or(r, "port", NULL));
    }
    *fd = jread_int_or(r, "fd", -1);
    s->server = jread_bool_or(r, "server", false);
    s->wait = jread_bool_or(r, "wait", s->server) && s->server;
    s->nodelay = jread_bool_or(r, "nodelay", false);
    int64_t ms = jread_int_or(r, "reconnect-ms", jread_int_or(r, "reconnect", 0) * 1000);
    s->reconnect_ns = ms > 0 && ms < INT64_C(1) << 40 ? (uint64_t)ms * 1000000 : 0;
    bool v4 = jread_bool_or(r, "ipv4", false);
    bool v6 = jread_bool_or(r, "ipv6", false);
    *family = v4 == v6 ? AF_UNSPEC : v4 ? AF_INET : AF_INET6;
    return r->rc;
}

static int socket_create(struct chardev *c, struct jread *r, struct err *e)
{
    struct sock *s = g_new0(struct sock, 1);
    s->fd = s->listen_fd = -1;
    timer_init(&s->retry, c->loop, reconnect, c);
    c->state = s;
    int64_t fd;
    int family;
    int rc = read_options(s, r, &fd, &family);
    if (rc) {
        return rc;
    }
    if ((s->path != NULL) + (s->port != NULL) + (fd >= 0) != 1) {
        return err_set(e, EINVAL, "chardev '%s': a socket needs one of 'path', 'port' and 'fd'", c->id);
    }
    if (s->server && s->reconnect_ns) {
        return err_set(e, EINVAL, "chardev '%s': 'reconnect' is for clients, not with 'server'", c->id);
    }
    if (fd >= 0) {
        return use_fd(c, (int)fd, e);
    }
    if (!s->path && !s->host) {
        s->host = g_strdup(s->server ? "" : "localhost");
    }
    rc = s->path ? unix_addr(s, e) : tcp_addr(s, family, e);
    if (rc) {
        return rc;
    }
    return s->server ? start_server(c, e) : start_client(c, e);
}

static void socket_destroy(struct chardev *c)
{
    struct sock *s = c->state;
    if (!s) {
        return;
    }
    timer_cancel(&s->retry);
    fd_watch_destroy(s->watch);
    if (s->fd >= 0) {
        close(s->fd);
    }
    if (s->listen_fd >= 0) {
        close(s->listen_fd);
    }
    if (s->unlink_path) {
        unlink(s->path);
    }
    g_free(s->path);
    g_free(s->host);
    g_free(s->port);
    g_free(s);
}

const struct chardev_driver chardev_socket_driver = {
    .name = "socket",
    .create = socket_create,
    .destroy = socket_destroy,
    .filename = socket_filename,
    .hangup = socket_hangup,
};
