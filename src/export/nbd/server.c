/* SPDX-License-Identifier: BSD-2-Clause */
/* Listening, and who is there. */
#include "export/nbd/int.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define RETRY_NS  UINT64_C(100000000)  /* after accept() ran out of descriptors */
#define LINGER_NS UINT64_C(2000000000) /* in which clients must have read their last replies */

enum { AT_A_TIME = 16 }; /* connections accepted in one turn of the loop */

static bool may_accept(const struct nbd_server *s)
{
    return !s->closing && !timer_armed(&s->retry) && (!s->o.max_connections || s->clients->len < s->o.max_connections);
}

static void update_watches(struct nbd_server *s)
{
    for (guint i = 0; i < s->listeners->len; i++) {
        struct nbs_listener *l = g_ptr_array_index(s->listeners, i);
        fd_watch_set(l->watch, may_accept(s) ? POLLIN : 0);
    }
}

static void retry(void *opaque)
{
    update_watches(opaque);
}

static void on_connection(void *opaque, short revents)
{
    struct nbs_listener *l = opaque;
    struct nbd_server *s = l->server;
    for (unsigned i = 0; i < AT_A_TIME && may_accept(s); i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            nbs_client_start(s, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            timer_arm(&s->retry, loop_now_ns() + RETRY_NS);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            break;
        }
    }
    update_watches(s);
}

struct nbd_server *nbd_server_create(const struct nbd_server_options *o)
{
    struct nbd_server *s = g_new0(struct nbd_server, 1);
    s->o = *o;
    s->loop = graph_loop(o->graph);
    s->log = graph_log(o->graph);
    if (o->tls) {
        tls_creds_ref(o->tls);
    }
    s->o.authz = g_strdup(o->authz);
    s->listeners = g_ptr_array_new();
    s->clients = g_ptr_array_new();
    s->exports = g_ptr_array_new();
    timer_init(&s->retry, s->loop, retry, s);
    return s;
}

void nbd_server_listen(struct nbd_server *s, int fd)
{
    struct nbs_listener *l = g_new0(struct nbs_listener, 1);
    *l = (struct nbs_listener){.server = s, .fd = fd};
    l->watch = fd_watch_create(s->loop, fd, may_accept(s) ? POLLIN : 0, on_connection, l);
    g_ptr_array_add(s->listeners, l);
}

void nbd_server_adopt(struct nbd_server *s, int fd)
{
    nbs_client_start(s, fd);
    update_watches(s);
}

void nbd_server_close_listeners(struct nbd_server *s)
{
    for (guint i = 0; i < s->listeners->len; i++) {
        struct nbs_listener *l = g_ptr_array_index(s->listeners, i);
        fd_watch_destroy(l->watch);
        close(l->fd);
        g_free(l);
    }
    g_ptr_array_set_size(s->listeners, 0);
}

void nbs_server_client_gone(struct nbs_client *c)
{
    struct nbd_server *s = c->server;
    g_ptr_array_remove(s->clients, c);
    if (!s->closing) {
        update_watches(s);
    }
    if (s->o.client_gone) {
        s->o.client_gone(s->o.opaque, c->negotiated);
    }
    if (!s->clients->len) {
        co_queue_wake_all(&s->gone_waiters);
    }
}

unsigned nbd_server_connections(const struct nbd_server *s)
{
    return s->clients->len;
}

/* Who does not read what he is sent does not keep us. */
static void give_up(void *opaque)
{
    struct nbd_server *s = opaque;
    for (guint i = 0; i < s->clients->len; i++) {
        struct nbs_client *c = g_ptr_array_index(s->clients, i);
        nbs_channel_shutdown(&c->ch);
    }
}

static void dismiss_clients(struct nbd_server *s)
{
    struct timer t;
    timer_init(&t, s->loop, give_up, s);
    timer_arm(&t, loop_now_ns() + LINGER_NS);
    for (guint i = 0; i < s->clients->len; i++) {
        struct nbs_client *c = g_ptr_array_index(s->clients, i);
        shutdown(c->ch.fd, SHUT_RD); /* what has come still gets its answer */
    }
    while (s->clients->len) {
        co_queue_wait(&s->gone_waiters);
    }
    timer_cancel(&t);
}

void nbd_server_destroy(struct nbd_server *s)
{
    if (!s) {
        return;
    }
    s->closing = true;
    timer_cancel(&s->retry);
    nbd_server_close_listeners(s);
    dismiss_clients(s);
    for (guint i = s->exports->len; i-- > 0;) {
        nbd_export_shut_down(g_ptr_array_index(s->exports, i));
    }
    while (s->exports->len || s->going) { /* somebody else has begun to remove them */
        co_queue_wait(&s->gone_waiters);
    }
    nbs_pool_finish(&s->pool);
    tls_creds_unref(s->o.tls);
    g_free((char *)s->o.authz);
    g_ptr_array_unref(s->listeners);
    g_ptr_array_unref(s->clients);
    g_ptr_array_unref(s->exports);
    g_free(s);
}
