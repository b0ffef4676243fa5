/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-nbd as a server: the image, the export, and until when. */
#include "cli/nbd/nbd.h"

#include "base/json.h"
#include "block/driver.h"
#include "block/options.h"
#include "block/overlay.h"
#include "block/snapshot.h"
#include "cli/nbd/device.h"
#include "export/nbd/nbd.h"
#include "export/nbd/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

struct server {
    struct nbd_serve *s;
    struct nbd_server *nbd;
    struct nbd_device *device;
    bool stopping;
    struct co *waiter;
    int signal_fd;
};

/* --- objects ------------------------------------------------------------------------------------------------------ */

static int find_tls(struct tool *t, const struct nbd_args *a, struct tls_creds **tls, struct err *e)
{
    if (nbd_find_credentials(t->objects, a->tls_creds, !a->list, tls, e)) {
        return err_wrap(e, "Failed to get TLS creds");
    }
    if (a->tls_authz && !object_registry_lookup(t->objects, "authz", a->tls_authz)) {
        return err_set(e, ENOENT, "Cannot find QAuthZ object ID %s", a->tls_authz);
    }
    return 0;
}

int nbd_setup_objects(struct tool *t, const struct nbd_args *a, struct tls_creds **tls, struct err *e)
{
    int rc = 0;
    for (guint i = 0; !rc && i < a->objects->len; i++) {
        rc = tool_object(t, a->objects->pdata[i], e);
    }
    return rc || !a->tls_creds ? rc : find_tls(t, a, tls, e);
}

/* --- the image ---------------------------------------------------------------------------------------------------- */

static struct json_object *image_options(const struct nbd_args *a)
{
    struct json_object *o = json_object_new_object(), *cache = json_object_new_object();
    json_object_object_add(o, "read-only", json_object_new_boolean(a->read_only || a->snapshot));
    json_object_object_add(cache, "direct", json_object_new_boolean(a->cache.direct));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(a->cache.no_flush));
    json_object_object_add(o, "cache", cache);
    if (a->fmt) {
        json_object_object_add(o, "driver", json_object_new_string(a->fmt));
    }
    if (a->discard) {
        bool unmap = !strcmp(a->discard, "unmap") || !strcmp(a->discard, "on");
        json_object_object_add(o, "discard", json_object_new_string(unmap ? "unmap" : "ignore"));
    }
    if (a->detect_zeroes) {
        json_object_object_add(o, "detect-zeroes", json_object_new_string(a->detect_zeroes));
    }
    if (a->aio && !a->image_opts) {
        options_put_aio(o, a->file, a->aio);
    }
    return o;
}

static int show_snapshot(struct node *n, const char *what, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    struct json_object *s = NULL, *id = NULL, *name = NULL;
    struct snapshot *found;
    if (!node_has_snapshots(n)) {
        return err_set(e, ENOTSUP,
                       "Block format '%s' used by device '' does not support temporarily loading internal snapshots",
                       n->drv->name);
    }
    if (g_str_has_prefix(what, "snapshot.")) {
        o = keyval_parse(what, NULL, e);
        json_object_object_get_ex(o, "snapshot", &s);
        json_object_object_get_ex(s, "id", &id);
        json_object_object_get_ex(s, "name", &name);
        found = node_snapshot_find(n, json_object_get_string(id), json_object_get_string(name));
    } else {
        found = node_snapshot_find(n, what, NULL);
        found = found ? found : node_snapshot_find(n, NULL, what);
    }
    if (!found) {
        return err_set(e, ENOENT, "Can't find snapshot");
    }
    int rc = node_snapshot_show(n, found->id, e);
    snapshot_free(found);
    return rc;
}

/* `raw` above *n from an offset on takes its place. */
static int skip_beginning(struct node **n, uint64_t offset, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("raw"));
    json_object_object_add(o, "file", json_object_new_string((*n)->name));
    json_object_object_add(o, "offset", json_object_new_uint64(offset));
    json_object_object_add(o, "read-only", json_object_new_boolean((*n)->read_only));
    struct node *top = NULL;
    int rc = node_open((*n)->graph, o, &top, e);
    node_unref(*n);
    *n = top;
    return rc;
}

static int open_image(struct tool *t, const struct nbd_args *a, struct node **n, struct err *e)
{
    if (a->image_opts && a->fmt) {
        return err_set(e, EINVAL, "--image-opts and -f are mutually exclusive");
    }
    CLEANUP_JSON struct json_object *o = image_options(a);
    int rc = tool_open(t, a->file, a->image_opts, o, n, e);
    if (rc) {
        return err_wrap(e, "Failed to blk_new_open '%s'", a->file);
    }
    if (a->load_snapshot && (rc = show_snapshot(*n, a->load_snapshot, e))) {
        return err_wrap(e, "Failed to load snapshot");
    }
    if (a->snapshot) {
        struct node *top = NULL;
        rc = node_open_temp_overlay(*n, NULL, &top, e);
        node_unref(*n);
        *n = top;
    }
    return rc || !a->offset_set || !a->offset ? rc : skip_beginning(n, a->offset, e);
}

/* --- sockets ------------------------------------------------------------------------------------------------------ */

/* The label of sockets that this thread makes; NULL: as the policy has it. */
static int set_socket_label(const char *label)
{
    CLEANUP_CLOSE int fd = open("/proc/thread-self/attr/sockcreate", O_WRONLY | O_CLOEXEC);
    size_t len = label ? strlen(label) + 1 : 0;
    return fd < 0 || write(fd, label ? label : "", len) < 0 ? -errno : 0;
}

static int listen_unix(const struct nbd_args *a, GArray *fds, struct err *e)
{
    int rc = a->selinux_label ? set_socket_label(a->selinux_label) : 0;
    if (rc) {
        return err_set_errno(e, -rc, "Cannot set SELinux socket create context to %s", a->selinux_label);
    }
    rc = nbd_listen_unix(a->socket, fds, e);
    int back = a->selinux_label ? set_socket_label(NULL) : 0;
    return rc || !back ? rc : err_set_errno(e, -back, "Cannot clear SELinux socket create context");
}

static int take_activated(int n, GArray *fds, struct err *e)
{
    for (int fd = 3; fd < 3 + n; fd++) {
        int on = 0;
        socklen_t len = sizeof(on);
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0) {
            return err_set_errno(e, errno, "Failed to use socket activation: Unable to query remote socket address");
        }
        if (!on) {
            return err_set(e, EINVAL, "Failed to use socket activation: descriptor %d does not listen", fd);
        }
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        g_array_append_val(fds, fd);
    }
    return 0;
}

static int open_sockets(const struct nbd_serve *s, GArray *fds, struct err *e)
{
    const struct nbd_args *a = s->args;
    char port[16];
    g_snprintf(port, sizeof(port), "%d", NBD_DEFAULT_PORT);
    if (s->activated) {
        return take_activated(s->activated, fds, e);
    }
    if (a->device && !a->socket) { /* the kernel gets its own pair */
        return 0;
    }
    return a->socket ? listen_unix(a, fds, e)
                     : nbd_listen_inet(a->bind ? a->bind : "0.0.0.0", a->port ? a->port : port, AF_UNSPEC, fds, e);
}

/* --- until when --------------------------------------------------------------------------------------------------- */

static void stop(struct server *v)
{
    v->stopping = true;
    if (v->waiter) {
        co_wake(v->waiter);
    }
}

static void client_gone(void *opaque, bool negotiated)
{
    struct server *v = opaque;
    if (negotiated && !v->s->args->persistent && !nbd_server_connections(v->nbd)) {
        stop(v);
    }
}

static void device_gone(void *opaque)
{
    stop(opaque);
}

static void on_signal(void *opaque, short revents)
{
    struct server *v = opaque;
    struct signalfd_siginfo info;
    if (read(v->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        stop(v);
    }
}

static int add_export(struct server *v, struct node *n, struct err *e)
{
    const struct nbd_args *a = v->s->args;
    g_autofree struct nbd_bitmap_ref *bitmaps = g_new0(struct nbd_bitmap_ref, a->bitmaps->len + 1);
    for (guint i = 0; i < a->bitmaps->len; i++) { /* the last one is the first to be listed, as everybody is used to */
        bitmaps[i].name = a->bitmaps->pdata[a->bitmaps->len - 1 - i];
    }
    struct nbd_export_options o = {.id = "qemu-nbd-export",
                                   .node = n,
                                   .name = a->export_name ? a->export_name : "",
                                   .description = a->description,
                                   .writable = !a->read_only,
                                   .writethrough = a->cache.writethrough,
                                   .allocation_depth = a->allocation_depth,
                                   .bitmaps = bitmaps,
                                   .n_bitmaps = a->bitmaps->len};
    return nbd_export_add(v->nbd, &o, NULL, e);
}

static int start(struct server *v, struct node *n, struct tls_creds *tls, GArray *fds, struct err *e)
{
    struct nbd_serve *s = v->s;
    const struct nbd_args *a = s->args;
    v->nbd = nbd_server_create(&(struct nbd_server_options){.graph = s->tool->graph,
                                                            .tls = tls,
                                                            .tls_optional = a->unencrypted,
                                                            .authz = a->tls_authz,
                                                            .max_connections = a->shared,
                                                            .handshake_seconds = a->handshake_seconds,
                                                            .client_gone = client_gone,
                                                            .opaque = v});
    int rc = add_export(v, n, e);
    for (guint i = 0; !rc && i < fds->len; i++) {
        nbd_server_listen(v->nbd, g_array_index(fds, int, i));
        g_array_index(fds, int, i) = -1;
    }
    rc = rc || !a->pid_file ? rc : nbd_write_pid_file(a->pid_file, e);
    if (!rc && a->device) {
        rc = nbd_device_connect(v->nbd, a, &(struct nbd_device_user){device_gone, v}, &v->device, e);
    }
    return rc;
}

static void wait_for_end(struct server *v)
{
    struct fd_watch *w = fd_watch_create(v->s->tool->loop, v->signal_fd, POLLIN, on_signal, v);
    v->waiter = co_self();
    while (!v->stopping) {
        co_wait();
    }
    v->waiter = NULL;
    fd_watch_destroy(w);
}

static int run(struct server *v, struct tls_creds *tls, GArray *fds, struct err *e)
{
    struct tool *t = v->s->tool;
    struct node *n = NULL;
    int rc = open_sockets(v->s, fds, e);
    rc = rc ? rc : open_image(t, v->s->args, &n, e);
    rc = rc ? rc : start(v, n, tls, fds, e);
    if (!rc) {
        nbd_daemon_ready(v->s->daemon, v->s->args);
        wait_for_end(v);
    }
    nbd_device_disconnect(v->device);
    nbd_server_destroy(v->nbd);
    if (!rc && n && !n->read_only && (rc = node_flush(n)) < 0) {
        err_set_errno(e, -rc, "Could not flush '%s'", v->s->args->file);
    }
    node_unref(n);
    return rc;
}

static void close_fds(GArray *fds)
{
    for (guint i = 0; i < fds->len; i++) {
        if (g_array_index(fds, int, i) >= 0) {
            close(g_array_index(fds, int, i));
        }
    }
    g_array_free(fds, true);
}

int nbd_serve(void *serve)
{
    struct nbd_serve *s = serve;
    struct server v = {.s = s};
    struct tls_creds *tls = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    v.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    GArray *fds = g_array_new(false, false, sizeof(int));
    int rc = nbd_setup_objects(s->tool, s->args, &tls, &e);
    bool own_socket = false;
    if (!rc) {
        rc = run(&v, tls, fds, &e);
        own_socket = s->args->socket && fds->len && !s->activated;
    }
    if (own_socket) {
        unlink(s->args->socket);
    }
    close_fds(fds);
    if (v.signal_fd >= 0) {
        close(v.signal_fd);
    }
    return err_is_set(&e) ? tool_fail(s->tool, "%s", err_text(&e)) : rc < 0;
}
