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

int nbd_listen_inet(const char *host, const char *port, GArray *fds, struct err *e)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
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

int nbd_listen_unix(const char *path, GArray *fds, struct err *e)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(un.sun_path)) {
        return err_set(e, EINVAL, "UNIX socket path '%s' is too long\nPath must be less than %zu bytes", path,
                       sizeof(un.sun_path));
    }
    memcpy(un.sun_path, path, strlen(path));
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        unlink(path);
    }
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return err_set_errno(e, errno, "Failed to create Unix socket");
    }
    if (bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        return err_set_errno(e, errno, "Failed to bind socket to %s", path);
    }
    if (listen(fd, BACKLOG) < 0) {
        return err_set_errno(e, errno, "Failed to listen on socket");
    }
    int mine = take_fd(&fd);
    g_array_append_val(fds, mine);
    return 0;
}
