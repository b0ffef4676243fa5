/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/nbd/link.h"

#include "base/cleanup.h"

#include <libnbd.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS           (1000 * 1000ull)
#define PAUSE_MIN    (100 * MS)
#define PAUSE_MAX    (16000 * MS)
#define EARLY        (100 * MS) /* a connection that breaks within this time was not worth much */
#define EARLY_LOSSES 5
#define EXTENTS_MAX  4096 /* of one reply; the rest is asked for again */

/* --- the connection --------------------------------------------------------------------------------------------- */

static void finish(struct nbd_request *r, int rc)
{
    if (!r->done) {
        r->done = true;
        r->rc = rc;
        g_queue_unlink(&r->link->flying, &r->node);
        co_wake(r->co);
    }
}

static void start_connector(struct nbd_link *k);

static void end_patience(struct nbd_link *k)
{
    timer_cancel(&k->patience);
    k->state = NBD_FAILING;
    co_queue_wake_all(&k->waiters);
}

static uint64_t longer(uint64_t pause_ns)
{
    return pause_ns ? MIN(pause_ns * 2, PAUSE_MAX) : PAUSE_MIN;
}

/* Requests without an answer get -ENOTCONN, by libnbd or here. */
static void drop(struct nbd_link *k)
{
    fd_watch_destroy(k->watch);
    k->watch = NULL;
    nbd_close(k->h);
    k->h = NULL;
    close(k->fd);
    k->fd = -1;
    while (k->flying.head) {
        finish(k->flying.head->data, -ENOTCONN);
    }
}

static void lost(struct nbd_link *k)
{
    drop(k);
    k->lost_early = loop_now_ns() - k->since_ns < EARLY;
    k->pause_ns = k->lost_early ? longer(k->pause_ns) : 0;
    if (k->dial.stop || !k->config.reconnect_ns) {
        k->state = NBD_FAILING;
        return;
    }
    k->state = NBD_WAITING;
    timer_arm(&k->patience, loop_now_ns() + k->config.reconnect_ns);
    if (k->impatient) {
        end_patience(k);
    }
    start_connector(k);
}

/* After each call into the library: what does it wait for now? */
static void settle(struct nbd_link *k)
{
    if (nbd_aio_is_dead(k->h) || nbd_aio_is_closed(k->h)) {
        lost(k);
        return;
    }
    unsigned dir = nbd_aio_get_direction(k->h);
    short events =
        (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    if (events != k->events) {
        k->events = events;
        fd_watch_set(k->watch, events);
    }
}

static void on_socket(void *opaque, short revents)
{
    struct nbd_link *k = opaque;
    unsigned dir = nbd_aio_get_direction(k->h);
    bool broken = revents & (POLLERR | POLLHUP | POLLNVAL);
    if (dir & LIBNBD_AIO_DIRECTION_READ && (broken || revents & POLLIN)) {
        nbd_aio_notify_read(k->h);
    } else if (dir & LIBNBD_AIO_DIRECTION_WRITE && (broken || revents & POLLOUT)) {
        nbd_aio_notify_write(k->h);
    }
    settle(k);
}

static void use(struct nbd_link *k, const struct nbd_export *x)
{
    k->has_context = x->has_context;
    k->since_ns = loop_now_ns();
    k->connections++;
    k->state = NBD_CONNECTED;
    k->events = POLLIN;
    k->watch = fd_watch_create(k->loop, k->fd, POLLIN, on_socket, k);
    timer_cancel(&k->patience);
    co_queue_wake_all(&k->waiters);
}

/* --- connecting again ------------------------------------------------------------------------------------------- */

static void on_nap_end(void *opaque)
{
    struct nbd_link *k = opaque;
    co_wake(k->connector);
}

static void on_patience_end(void *opaque)
{
    end_patience(opaque);
}

void nbd_link_set_patience(struct nbd_link *k, bool patient)
{
    k->impatient += patient ? -1u : 1u;
    if (k->impatient && k->state == NBD_WAITING) {
        end_patience(k);
    }
}

static void nap(struct nbd_link *k, uint64_t until_ns)
{
    while (!k->dial.stop && loop_now_ns() < until_ns) {
        timer_arm(&k->nap, until_ns);
        co_wait();
    }
    timer_cancel(&k->nap);
}

static int check_fits(const struct nbd_export *was, const struct nbd_export *now, struct err *e)
{
    uint32_t was_min = was->min_block ? was->min_block : 1, was_max = was->max_block ? was->max_block : UINT32_MAX;
    if (now->size < was->size) {
        return err_set(e, EINVAL, "the export became smaller");
    }
    if (now->read_only && !was->read_only) {
        return err_set(e, EROFS, "the export became read-only");
    }
    if (now->min_block > was_min || (now->max_block && now->max_block < was_max)) {
        return err_set(e, EINVAL, "the export takes other sizes of blocks");
    }
    if ((was->can_flush && !now->can_flush) || (was->can_fua && !now->can_fua) || (was->can_zero && !now->can_zero) ||
        (was->can_fast_zero && !now->can_fast_zero) || (was->can_trim && !now->can_trim) ||
        (was->can_cache && !now->can_cache)) {
        return err_set(e, ENOTSUP, "the export can do less than before");
    }
    return 0;
}

static int connect_again(struct nbd_link *k)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct nbd_export x;
    int rc = nbd_link_connect(k, &x, &e);
    if (rc < 0) {
        return rc;
    }
    rc = check_fits(&k->export, &x, &e);
    if (rc < 0) {
        drop(k);
        return rc;
    }
    use(k, &x);
    return 0;
}

static void connector(void *opaque)
{
    struct nbd_link *k = opaque;
    k->connector = co_self();
    nap(k, k->pause_ns ? loop_now_ns() + k->pause_ns : 0);
    while (!k->dial.stop && connect_again(k) < 0) {
        k->pause_ns = longer(k->pause_ns);
        nap(k, loop_now_ns() + k->pause_ns);
    }
    k->connector = NULL;
    co_queue_wake_all(&k->stopped);
}

static void start_connector(struct nbd_link *k)
{
    bool again = k->config.address.type != NBD_FD || k->config.reconnect_ns; /* another socket may be put there */
    if (!k->connector && !k->dial.stop && again) {
        co_start(k->loop, connector, k);
    }
}

/* --- opening and closing ---------------------------------------------------------------------------------------- */

void nbd_config_finish(struct nbd_config *c)
{
    nbd_address_finish(&c->address);
    g_free(c->export_name);
    g_free(c->context);
    g_free(c->tls_hostname);
    tls_creds_unref(c->creds);
    *c = (struct nbd_config){0};
}

static int first_connection(struct nbd_link *k, struct err *e)
{
    uint64_t wait = k->config.open_timeout_ns, now = loop_now_ns();
    uint64_t end = wait ? (now + wait < now ? UINT64_MAX : now + wait) : now;
    k->dial.deadline_ns = wait ? end : UINT64_MAX;
    for (;;) {
        int rc = nbd_link_connect(k, &k->export, e);
        now = loop_now_ns();
        if (rc == 0 && e) {
            err_clear(e); /* of attempts before this one */
        }
        if (rc == 0 || now >= end) {
            return rc;
        }
        k->pause_ns = longer(k->pause_ns);
        nap(k, MIN(end, now + k->pause_ns));
    }
}

int nbd_link_open(struct nbd_link *k, struct loop *l, struct nbd_config *config, struct err *e)
{
    *k = (struct nbd_link){.loop = l, .config = *config, .fd = -1, .dial = {.fd = -1}};
    *config = (struct nbd_config){0};
    timer_init(&k->nap, l, on_nap_end, k);
    timer_init(&k->patience, l, on_patience_end, k);
    k->connector = co_self();
    int rc = first_connection(k, e);
    k->connector = NULL;
    k->dial.deadline_ns = UINT64_MAX;
    k->pause_ns = 0;
    if (rc < 0) {
        nbd_config_finish(&k->config);
        g_free(k->server_said);
        g_free(k->go_text);
        return rc;
    }
    use(k, &k->export);
    return 0;
}

/* Says good-bye if that can be done at once. */
static void disconnect(struct nbd_link *k)
{
    if (k->h && nbd_aio_is_ready(k->h)) {
        nbd_aio_disconnect(k->h, 0);
    }
    if (k->h) {
        drop(k);
    }
}

void nbd_link_close(struct nbd_link *k)
{
    nbd_dial_stop(&k->dial);
    timer_cancel(&k->patience);
    if (timer_armed(&k->nap)) {
        co_wake(k->connector);
    }
    while (k->connector) {
        co_queue_wait(&k->stopped);
    }
    disconnect(k);
    nbd_config_finish(&k->config);
    g_clear_pointer(&k->server_said, g_free);
    g_clear_pointer(&k->go_text, g_free);
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static int on_done(void *opaque, int *error)
{
    finish(opaque, -*error);
    return 1;
}

/* False: no more of them. */
static bool add_extent(GArray *list, uint64_t len, uint32_t flags)
{
    struct nbd_extent *last = list->len ? &g_array_index(list, struct nbd_extent, list->len - 1) : NULL;
    if (last && last->flags == flags) {
        last->len += len;
    } else if (len && list->len < EXTENTS_MAX) {
        struct nbd_extent x = {len, flags};
        g_array_append_val(list, x);
    } else {
        return false;
    }
    return true;
}

static int on_extents(void *opaque, const char *context, uint64_t off, uint32_t *entries, size_t n, int *error)
{
    struct nbd_request *r = opaque;
    bool ours = strcmp(context, r->link->config.context) == 0;
    for (size_t i = 0; ours && !r->full && i + 1 < n; i += 2) {
        r->full = !add_extent(r->extents, entries[i], entries[i + 1]);
    }
    return 0;
}

/* The library's request: its cookie, or -1. */
static int64_t send_request(struct nbd_handle *h, struct nbd_request *r)
{
    nbd_completion_callback cb = {.callback = on_done, .user_data = r};
    nbd_extent_callback extents = {.callback = on_extents, .user_data = r};
    switch (r->op) {
    case NBD_OP_READ:
        return nbd_aio_pread(h, r->buf, r->len, r->off, cb, r->flags);
    case NBD_OP_WRITE:
        return nbd_aio_pwrite(h, r->buf, r->len, r->off, cb, r->flags);
    case NBD_OP_ZERO:
        return nbd_aio_zero(h, r->len, r->off, cb, r->flags);
    case NBD_OP_TRIM:
        return nbd_aio_trim(h, r->len, r->off, cb, r->flags);
    case NBD_OP_FLUSH:
        return nbd_aio_flush(h, cb, r->flags);
    case NBD_OP_CACHE:
        return nbd_aio_cache(h, r->len, r->off, cb, r->flags);
    default:
        g_array_set_size(r->extents, 0);
        r->full = false;
        return nbd_aio_block_status(h, r->len, r->off, extents, cb, r->flags);
    }
}

/* -ENOTCONN: the connection broke first. */
static int try_once(struct nbd_link *k, struct nbd_request *r)
{
    r->link = k;
    r->co = co_self();
    r->done = false;
    r->node = (GList){.data = r};
    g_queue_push_tail_link(&k->flying, &r->node);
    if (send_request(k->h, r) < 0) {
        int errnum = nbd_get_errno();
        bool broken = nbd_aio_is_dead(k->h) || nbd_aio_is_closed(k->h);
        finish(r, broken ? -ENOTCONN : errnum ? -errnum : -EIO);
    }
    settle(k);
    while (!r->done) {
        co_wait();
    }
    return r->rc;
}

static int wait_connected(struct nbd_link *k)
{
    while (k->state == NBD_WAITING) {
        co_queue_wait(&k->waiters);
    }
    if (k->state == NBD_FAILING) {
        start_connector(k); /* for those who come later */
    }
    return k->state == NBD_CONNECTED ? 0 : -EIO;
}

int nbd_link_do(struct nbd_link *k, struct nbd_request *r)
{
    for (unsigned early = 0; early < EARLY_LOSSES; early += k->lost_early) {
        int rc = wait_connected(k);
        if (rc < 0) {
            return rc;
        }
        unsigned connection = k->connections;
        rc = try_once(k, r);
        bool leaving = rc == -ESHUTDOWN && k->config.reconnect_ns; /* this server goes; the next one may do it */
        if (leaving && k->h && connection == k->connections) {
            lost(k);
        }
        if (rc != -ENOTCONN && !leaving) {
            return rc;
        }
    }
    return -EIO;
}
