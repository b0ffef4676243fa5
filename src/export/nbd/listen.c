/* SPDX-License-Identifier: BSD-2-Clause */
#include "export/nbd/nbd.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 128 };

static int listen_addr(const struct addrinfo *a, GArray *fds)
{
    int on = 1;
    CLEANUP_CLOSE int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    }
    if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        return -errno;
    }
    int mine = take_fd(&fd);
    g_array_append_val(fds, mine);
    return 0;
}

int nbd_listen_inet(const char *host, const char *port, int family, GArray *fds, struct err *e)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_family = family, .ai_socktype = SOCK_STREAM}, *list;
    bool any = !host || !*host;
    int rc = getaddrinfo(any ? NULL : host, port, &hints, &list);
    if (rc) {
        return err_set(e, EINVAL, "address resolution failed for %s:%s: %s", any ? "" : host, port, gai_strerror(rc));
    }
    guint before = fds->len;
    rc = -EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        int r = listen_addr(a, fds);
        rc = rc == -EADDRINUSE ? rc : r;
    }
    freeaddrinfo(list);
    if (fds->len > before) {
        return 0;
    }
    return err_set_errno(e, -rc, rc == -EADDRINUSE ? "Failed to find an available port" : "Failed to bind socket");
}

int nbd_listen_fd(int fd, GArray *fds, struct err *e)
{
    CLEANUP_CLOSE int mine = fd;
    if (listen(fd, BACKLOG) < 0) {
        return err_set_errno(e, errno, "Failed to listen on socket");
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    g_array_append_val(fds, fd);
    take_fd(&mine);
    return 0;
}

static int bind_unix(const struct sockaddr_un *un, size_t len, const char *name, GArray *fds, struct err *e)
{
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_set_errno(e, errno, "Failed to create Unix socket");
    }
    if (bind(fd, (const struct sockaddr *)un, (socklen_t)len) < 0) {
        return err_set_errno(e, errno, "Failed to bind socket to %s", name);
    }
    return nbd_listen_fd(take_fd(&fd), fds, e);
}

static int set_name(struct sockaddr_un *un, size_t at, const char *name, struct err *e)
{
    size_t room = sizeof(un->sun_path) - at;
    if (strlen(name) >= room) {
        return err_set(e, EINVAL, "UNIX socket path '%s' is too long\nPath must be less than %zu bytes", name, room);
    }
    memcpy(un->sun_path + at, name, strlen(name));
    return 0;
}

int nbd_listen_unix(const char *path, GArray *fds, struct err *e)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int rc = set_name(&un, 0, path, e);
    if (rc) {
        return rc;
    }
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        unlink(path);
    }
    return bind_unix(&un, sizeof(un), path, fds, e);
}

int nbd_listen_abstract(const char *name, bool tight, GArray *fds, struct err *e)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int rc = set_name(&un, 1, name, e);
    size_t len = tight ? offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name) : sizeof(un);
    return rc ? rc : bind_unix(&un, len, name, fds, e);
}
