/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/dial.h"

#include "base/cleanup.h"

#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

bool dial_is_unix(const char *address, const char **rest)
{
    if (g_str_has_prefix(address, "unix:")) {
        *rest = address + strlen("unix:");
        return true;
    }
    bool tcp = g_str_has_prefix(address, "tcp:");
    *rest = tcp ? address + strlen("tcp:") : address;
    const char *colon = strrchr(*rest, ':');
    return !tcp && (strchr(address, '/') || !colon || !colon[1] || colon == *rest);
}

/* 0 or a positive errno, ETIMEDOUT when nobody takes the connection. The socket waits for ever afterwards, as any. */
static int connect_within(int fd, const struct sockaddr *to, socklen_t n, unsigned timeout_ms)
{
    struct timeval none = {0};
    int64_t left = (int64_t)timeout_ms * 1000, end = g_get_monotonic_time() + left;
    int code;
    do {
        struct timeval limit = {.tv_sec = left / 1000000, .tv_usec = left % 1000000};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
        code = connect(fd, to, n) ? errno : 0;
        left = end - g_get_monotonic_time();
    } while (code == EINTR && left > 0); /* it was stopped, and let go on: whoever connects again waits on */
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
    return code == EAGAIN || code == EINPROGRESS || code == EINTR ? ETIMEDOUT : code;
}

static int dial_unix(const char *path, unsigned timeout_ms, struct err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa.sun_path)) {
        return err_set(e, ENOTCONN, "'%s': the path of a socket has at most %zu bytes; use a link to it", path,
                       sizeof(sa.sun_path) - 1);
    }
    strcpy(sa.sun_path, path);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int code = fd >= 0 ? connect_within(fd, (struct sockaddr *)&sa, sizeof(sa), timeout_ms) : errno;
    if (!code) {
        return take_fd(&fd);
    }
    struct stat st;
    if (code == ENOENT) {
        return err_set(e, ENOTCONN, "there is no socket '%s'; a machine makes one with -qmp unix:%s,server=on,wait=off",
                       path, path);
    }
    if (code == ECONNREFUSED) {
        bool is_socket = !stat(path, &st) && S_ISSOCK(st.st_mode);
        return err_set(e, ENOTCONN,
                       is_socket ? "nobody listens on '%s': the machine has ended" : "'%s' is not a socket", path);
    }
    if (code == ETIMEDOUT) {
        return err_set(e, ENOTCONN,
                       "'%s' is busy: other clients wait for it already; give the machine a second -qmp socket", path);
    }
    return err_set(e, ENOTCONN, "cannot connect to '%s': %s", path, g_strerror(code));
}

static int dial_tcp(const char *where, unsigned timeout_ms, struct err *e)
{
    const char *colon = strrchr(where, ':');
    if (!colon) {
        return err_set(e, ENOTCONN, "'%s' is not HOST:PORT", where);
    }
    CLEANUP_FREE char *host = g_strndup(where, (gsize)(colon - where));
    size_t n = strlen(host);
    if (n > 1 && host[0] == '[' && host[n - 1] == ']') { /* an IPv6 address */
        memmove(host, host + 1, n - 2);
        host[n - 2] = '\0';
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int rc = getaddrinfo(host, colon + 1, &hints, &list);
    if (rc) {
        return err_set(e, ENOTCONN, "cannot find '%s': %s", where, gai_strerror(rc));
    }
    int code = 0, fd = -1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        code = fd >= 0 ? connect_within(fd, a->ai_addr, a->ai_addrlen, timeout_ms) : errno;
        if (code) {
            cleanup_close(&fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd >= 0 ? fd : err_set(e, ENOTCONN, "cannot connect to '%s': %s", where, g_strerror(code));
}

int dial(const char *address, unsigned timeout_ms, struct err *e)
{
    const char *rest;
    return dial_is_unix(address, &rest) ? dial_unix(rest, timeout_ms, e) : dial_tcp(rest, timeout_ms, e);
}
