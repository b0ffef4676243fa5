/* SPDX-License-Identifier: BSD-2-Clause */
/* Making channels: sockets, descriptors, commands, files. */
#include "move/channel_int.h"

#include "base/cleanup.h"
#include "export/nbd/nbd.h"
#include "loop/co.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

static int take_named(const char *name, const struct channel_names *names, struct err *e)
{
    int fd = names && names->take_fd ? names->take_fd(names->opaque, name) : -1;
    char *end;
    if (fd < 0 && g_ascii_isdigit(*name)) {
        long n = strtol(name, &end, 10);
        fd = !*end && n <= INT_MAX && fcntl((int)n, F_GETFD) >= 0 ? (int)n : -1;
    }
    return fd >= 0 ? fd : err_set(e, ENOENT, "File descriptor named '%s' has not been found", name);
}

static int open_fd(const struct channel_place *p, const struct channel_names *names, struct channel **out,
                   struct err *e)
{
    struct stat st;
    int fd = take_named(p->text, names, e);
    if (fd < 0) {
        return fd;
    }
    if (fstat(fd, &st) < 0) {
        return err_set_errno(e, errno, "%s", p->name);
    }
    off_t at = S_ISREG(st.st_mode) ? lseek(fd, 0, SEEK_CUR) : 0; /* what lies before is somebody else's */
    *out = channel_wrap(S_ISSOCK(st.st_mode) ? CH_SOCKET : S_ISREG(st.st_mode) ? CH_FILE : CH_PIPE, fd, p->name);
    (*out)->at = at > 0 ? (uint64_t)at : 0;
    return 0;
}

/* What an earlier, longer stream left behind the offset goes. */
static int open_file(const struct channel_place *p, bool in, struct channel **out, struct err *e)
{
    CLEANUP_CLOSE int fd = open(p->text, (in ? O_RDONLY : O_WRONLY | O_CREAT) | O_CLOEXEC, 0600);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return err_set_errno(e, errno, in ? "Could not open '%s'" : "Could not create '%s'", p->text);
    }
    if (!in && S_ISREG(st.st_mode) && ftruncate(fd, (off_t)p->offset) < 0) {
        return err_set_errno(e, errno, "could not cut '%s' to %" PRIu64 " bytes", p->text, p->offset);
    }
    *out = channel_wrap(CH_FILE, take_fd(&fd), p->name);
    (*out)->at = p->offset;
    if (!in && S_ISREG(st.st_mode)) {
        (*out)->behind =
            behind_create(co_loop(), (*out)->fd, open(p->text, O_WRONLY | O_DIRECT | O_CLOEXEC), p->offset);
    }
    return 0;
}

/* With the other end of a pipe as its input, or its output. */
static int open_exec(const struct channel_place *p, bool in, struct channel **out, struct err *e)
{
    posix_spawn_file_actions_t fa;
    int fds[2];
    pid_t child;
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_set_errno(e, errno, "%s", p->name);
    }
    CLEANUP_CLOSE int mine = fds[in ? 0 : 1];
    CLEANUP_CLOSE int its = fds[in ? 1 : 0];
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, its, in ? STDOUT_FILENO : STDIN_FILENO);
    int rc = posix_spawnp(&child, p->argv[0], &fa, NULL, p->argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    if (rc) {
        return err_set_errno(e, rc, "%s: '%s' could not be started", p->name, p->argv[0]);
    }
    *out = channel_wrap(CH_PIPE, take_fd(&mine), p->name);
    (*out)->child = child;
    return 0;
}

static int dial_socket(const struct channel_place *p, struct nbd_dial *d, struct channel **out, struct err *e)
{
    int fd, rc = nbd_dial(&p->socket, d, &fd, e);
    if (rc == 0) {
        *out = channel_wrap(CH_SOCKET, fd, p->name);
    }
    return rc;
}

static int open_here(const struct channel_place *p, const struct channel_names *names, bool in, struct channel **out,
                     struct err *e)
{
    return p->scheme == TO_FD     ? open_fd(p, names, out, e)
           : p->scheme == TO_EXEC ? open_exec(p, in, out, e)
                                  : open_file(p, in, out, e);
}

int channel_dial(const struct channel_place *p, const struct channel_names *names, struct nbd_dial *d,
                 struct channel **out, struct err *e)
{
    return p->scheme == TO_SOCKET ? dial_socket(p, d, out, e) : open_here(p, names, false, out, e);
}

/* --- waiting for one ----------------------------------------------------------------------------------------------
 */

struct channel_door {
    char *name;
    GArray *fds;           /* that listen */
    char *path;            /* of a unix socket, which goes with us */
    struct channel *there; /* what needs no waiting */
    bool own;              /* nobody else has them */
    bool shut;
    struct co_queue waiter;
};

static int listen_inet(const struct channel_place *p, GArray *fds, struct err *e)
{
    const struct nbd_address *a = &p->socket;
    char *end;
    unsigned long port = strtoul(a->port, &end, 10);
    if (!p->last_port) {
        return nbd_listen_inet(a->host, a->port, a->family, fds, e);
    }
    if (*end || port > p->last_port) {
        return err_set(e, EINVAL, "%s: 'to' must not be lower than 'port', a number", p->name);
    }
    int rc = -EADDRINUSE;
    for (; rc == -EADDRINUSE && port <= p->last_port; port++) {
        char number[16];
        g_snprintf(number, sizeof(number), "%lu", port);
        err_clear(e);
        rc = nbd_listen_inet(a->host, number, a->family, fds, e);
    }
    return rc;
}

static int listen_at(struct channel_door *d, const struct channel_place *p, struct err *e)
{
    const struct nbd_address *a = &p->socket;
    if (a->type == NBD_INET) {
        return listen_inet(p, d->fds, e);
    }
    if (a->abstract) {
        return nbd_listen_abstract(a->path, a->tight, d->fds, e);
    }
    int rc = nbd_listen_unix(a->path, d->fds, e);
    d->path = rc == 0 ? g_strdup(a->path) : NULL;
    return rc;
}

/* A socket of somebody else's may listen, or be connected already. */
static void listen_if_it_does(struct channel_door *d)
{
    int listens = 0;
    socklen_t len = sizeof(listens);
    if (d->there->kind == CH_SOCKET && getsockopt(d->there->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0 &&
        listens) {
        int fd = take_fd(&d->there->fd);
        g_array_append_val(d->fds, fd);
        channel_close(take(d->there));
    }
}

int channel_door_open(const struct channel_place *p, const struct channel_names *names, struct channel_door **out,
                      struct err *e)
{
    struct channel_door *d = g_new0(struct channel_door, 1);
    d->fds = g_array_new(false, false, sizeof(int));
    d->name = g_strdup(p->name);
    d->own = p->scheme == TO_SOCKET;
    int rc = p->scheme == TO_SOCKET ? listen_at(d, p, e) : open_here(p, names, true, &d->there, e);
    if (rc) {
        channel_door_close(d);
        return rc;
    }
    if (d->there) {
        listen_if_it_does(d);
    }
    *out = d;
    return 0;
}

static struct json_object *inet_address(const struct sockaddr *sa, socklen_t len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    struct json_object *o = json_object_new_object();
    getnameinfo(sa, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    json_object_object_add(o, "type", json_object_new_string("inet"));
    json_object_object_add(o, "host", json_object_new_string(host));
    json_object_object_add(o, "port", json_object_new_string(port));
    json_object_object_add(o, sa->sa_family == AF_INET6 ? "ipv6" : "ipv4", json_object_new_boolean(true));
    return o;
}

static struct json_object *unix_address(const struct sockaddr_un *un, socklen_t len)
{
    struct json_object *o = json_object_new_object();
    bool abstract = len > offsetof(struct sockaddr_un, sun_path) && !un->sun_path[0];
    size_t lead = abstract ? 1 : 0, room = len - offsetof(struct sockaddr_un, sun_path) - lead;
    json_object_object_add(o, "type", json_object_new_string("unix"));
    json_object_object_add(o, "path",
                           json_object_new_string_len(un->sun_path + lead, (int)strnlen(un->sun_path + lead, room)));
    if (abstract) {
        json_object_object_add(o, "abstract", json_object_new_boolean(true));
    }
    return o;
}

struct json_object *channel_door_addresses(const struct channel_door *d)
{
    struct json_object *list = json_object_new_array();
    for (guint i = 0; i < d->fds->len; i++) {
        struct sockaddr_storage ss = {0};
        socklen_t len = sizeof(ss);
        if (getsockname(g_array_index(d->fds, int, i), (struct sockaddr *)&ss, &len) == 0) {
            json_object_array_add(list, ss.ss_family == AF_UNIX ? unix_address((const struct sockaddr_un *)&ss, len)
                                                                : inet_address((const struct sockaddr *)&ss, len));
        }
    }
    return list;
}

bool channel_door_listens(const struct channel_door *d)
{
    return d->fds->len > 0;
}

static void knock(void *opaque, short revents)
{
    co_queue_wake_all(opaque);
}

/* Until somebody is at one of the places, or nobody is waited for any more. */
static void wait_at(struct channel_door *d)
{
    g_autoptr(GPtrArray) watches = g_ptr_array_new_with_free_func((GDestroyNotify)fd_watch_destroy);
    for (guint i = 0; i < d->fds->len; i++) {
        g_ptr_array_add(watches, fd_watch_create(co_loop(), g_array_index(d->fds, int, i), POLLIN, knock, &d->waiter));
    }
    co_queue_wait(&d->waiter);
}

static int accept_one(struct channel_door *d, struct channel **out, struct err *e)
{
    while (!d->shut) {
        if (!d->fds->len) {
            return err_set(e, ENOTCONN, "%s: it was the only connection", d->name);
        }
        for (guint i = 0; i < d->fds->len; i++) {
            int fd = accept4(g_array_index(d->fds, int, i), NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd >= 0) {
                *out = channel_wrap(CH_SOCKET, fd, d->name);
                return 0;
            }
        }
        wait_at(d);
    }
    return err_set(e, ECANCELED, "%s: nobody is waited for any more", d->name);
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
    co_queue_wake_all(&d->waiter);
    for (guint i = 0; d->own && i < d->fds->len; i++) { /* who comes now hears of it */
        shutdown(g_array_index(d->fds, int, i), SHUT_RDWR);
    }
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
    g_free(d->name);
    g_free(d);
}
