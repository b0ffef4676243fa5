/* SPDX-License-Identifier: BSD-2-Clause */
/* Replies: what they look like on the wire, the queue of a connection, and the coroutine that empties it. */
#include "export/nbd/int.h"

#include "base/checked.h"
#include "base/endian.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 128, ZEROES = 4096 };

/* --- the queue ---------------------------------------------------------------------------------------------------- */

static void out_free(struct nbs_out *o)
{
    struct nbs_request *r = o->req;
    g_free(o->owned);
    if (o->fd >= 0) {
        close(o->fd);
        r->client->server->files--;
    }
    if (o != &r->first) {
        g_free(o);
    }
    nbs_request_unref(r);
}

static void out_pop(struct nbs_client *c)
{
    struct nbs_out *o = c->out_head;
    c->out_head = o->next;
    if (!c->out_head) {
        c->out_tail = &c->out_head;
    }
    out_free(o);
}

void nbs_out_drop(struct nbs_client *c)
{
    while (c->out_head) {
        out_pop(c);
    }
}

/* Takes `n` sent bytes off the heads and data in memory at the front. */
static void out_sent(struct nbs_client *c, size_t n)
{
    while (c->out_head) {
        struct nbs_out *o = c->out_head;
        size_t part = MIN(n, (size_t)(o->head_len - o->head_sent));
        o->head_sent += (unsigned)part;
        n -= part;
        if (o->fd < 0) {
            part = MIN(n, o->len - o->sent);
            o->sent += part;
            n -= part;
        }
        if (o->head_sent < o->head_len || o->sent < o->len) {
            return;
        }
        out_pop(c);
    }
}

/* The heads and data in memory at the front of the queue, up to data of a file; *file: such data follows. */
static int gather(struct nbs_client *c, struct iovec *iov, bool *file)
{
    int n = 0;
    *file = false;
    for (struct nbs_out *o = c->out_head; o && n + 2 <= BATCH; o = o->next) {
        if (o->head_sent < o->head_len) {
            iov[n++] = (struct iovec){o->head + o->head_sent, o->head_len - o->head_sent};
        }
        if (o->fd >= 0) {
            *file = true;
            return n;
        }
        if (o->sent < o->len) {
            iov[n++] = (struct iovec){(char *)(uintptr_t)o->data + o->sent, o->len - o->sent};
        }
    }
    return n;
}

/* The file at the front, whose head has been sent. One that became shorter reads as zeroes where it ended. */
static int send_file(struct nbs_client *c)
{
    static const uint8_t zeroes[ZEROES];
    struct nbs_out *o = c->out_head;
    ssize_t n = nbs_sendfile(&c->ch, o->fd, o->off + o->sent, o->len - o->sent);
    if (n == 0) {
        struct iovec iov = {(void *)(uintptr_t)zeroes, MIN(o->len - o->sent, (size_t)ZEROES)};
        n = nbs_sendv(&c->ch, &iov, 1, false);
    }
    if (n < 0) {
        return (int)n;
    }
    o->sent += (size_t)n;
    if (o->sent == o->len) {
        out_pop(c);
    }
    return 0;
}

static int send_some(struct nbs_client *c)
{
    struct iovec iov[BATCH];
    bool file;
    int n = gather(c, iov, &file);
    if (n == 0) {
        return send_file(c);
    }
    ssize_t sent = nbs_sendv(&c->ch, iov, n, file);
    if (sent < 0) {
        return (int)sent;
    }
    out_sent(c, (size_t)sent);
    return 0;
}

static void send_queue(void *opaque)
{
    struct nbs_client *c = opaque;
    while (c->out_head && !c->broken) {
        if (send_some(c) < 0) {
            c->broken = true;
            nbs_channel_shutdown(&c->ch); /* the reader learns it */
        }
    }
    nbs_out_drop(c); /* what a broken connection leaves */
    c->sending = false;
    co_queue_wake_all(&c->slot_waiters);
}

static void enqueue(struct nbs_out *o)
{
    struct nbs_client *c = o->req->client;
    *c->out_tail = o;
    c->out_tail = &o->next;
    if (!c->sending) {
        c->sending = true;
        co_start_later(c->server->loop, send_queue, c);
    }
}

static struct nbs_out *out_new(struct nbs_request *r)
{
    struct nbs_out *o = r->first_used ? g_new0(struct nbs_out, 1) : &r->first;
    r->first_used = true;
    *o = (struct nbs_out){.req = r, .fd = -1};
    nbs_request_ref(r);
    return o;
}

/* --- the wire ----------------------------------------------------------------------------------------------------- */

static void put_simple(struct nbs_out *o, uint32_t error)
{
    store_be32(o->head, NBD_SIMPLE_REPLY_MAGIC);
    store_be32(o->head + 4, error);
    store_be64(o->head + 8, o->req->cookie);
    o->head_len = NBD_SIMPLE_REPLY_SIZE;
}

/* Returns where the first bytes of the payload go. */
static uint8_t *put_chunk(struct nbs_out *o, bool done, uint16_t type, uint64_t len)
{
    const struct nbs_request *r = o->req;
    bool wide = r->client->mode == NBS_EXTENDED;
    store_be32(o->head, wide ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
    store_be16(o->head + 4, done ? NBD_REPLY_FLAG_DONE : 0);
    store_be16(o->head + 6, type);
    store_be64(o->head + 8, r->cookie);
    if (wide) {
        store_be64(o->head + 16, r->off);
        store_be64(o->head + 24, len);
        o->head_len = NBD_EXTENDED_REPLY_SIZE;
    } else {
        store_be32(o->head + 16, (uint32_t)len);
        o->head_len = NBD_STRUCTURED_REPLY_SIZE;
    }
    return o->head + o->head_len;
}

void nbs_reply_done(struct nbs_request *r)
{
    struct nbs_out *o = out_new(r);
    if (r->client->mode == NBS_EXTENDED || (r->client->mode == NBS_STRUCTURED && r->type == NBD_CMD_READ)) {
        put_chunk(o, true, NBD_REPLY_TYPE_NONE, 0);
    } else {
        put_simple(o, NBD_SUCCESS);
    }
    enqueue(o);
}

void nbs_reply_error(struct nbs_request *r, int nbd_error, const char *why)
{
    struct nbs_out *o = out_new(r);
    if (r->client->mode == NBS_SIMPLE) {
        put_simple(o, (uint32_t)nbd_error);
    } else {
        size_t len = why ? MIN(strlen(why), (size_t)NBD_MAX_STRING) : 0;
        uint8_t *p = put_chunk(o, true, NBD_REPLY_TYPE_ERROR, 6 + len);
        store_be32(p, (uint32_t)nbd_error);
        store_be16(p + 4, (uint16_t)len);
        o->head_len += 6;
        o->data = o->owned = g_strndup(why ? why : "", len);
        o->len = len;
    }
    enqueue(o);
}

static struct nbs_out *data_out(struct nbs_request *r, uint64_t off, size_t len, bool done)
{
    struct nbs_out *o = out_new(r);
    if (r->client->mode == NBS_SIMPLE) {
        put_simple(o, NBD_SUCCESS);
    } else {
        store_be64(put_chunk(o, done, NBD_REPLY_TYPE_OFFSET_DATA, 8 + len), off);
        o->head_len += 8;
    }
    o->len = len;
    return o;
}

void nbs_reply_data(struct nbs_request *r, uint64_t off, const void *data, size_t len, bool done)
{
    struct nbs_out *o = data_out(r, off, len, done);
    o->data = data;
    enqueue(o);
}

void nbs_reply_file(struct nbs_request *r, uint64_t off, size_t len, int fd, uint64_t fd_off)
{
    struct nbs_out *o = data_out(r, off, len, true);
    o->fd = fd;
    o->off = fd_off;
    r->client->server->files++;
    enqueue(o);
}

void nbs_reply_hole(struct nbs_request *r, uint64_t off, uint32_t len, bool done)
{
    struct nbs_out *o = out_new(r);
    uint8_t *p = put_chunk(o, done, NBD_REPLY_TYPE_OFFSET_HOLE, 12);
    store_be64(p, off);
    store_be32(p + 8, len);
    o->head_len += 12;
    enqueue(o);
}

void nbs_reply_status(struct nbs_request *r, bool wide, void *payload, size_t len, bool done)
{
    struct nbs_out *o = out_new(r);
    put_chunk(o, done, wide ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS, len);
    o->data = o->owned = payload;
    o->len = len;
    r->bytes += len; /* until somebody reads it, it is ours to keep */
    r->client->bytes += len;
    enqueue(o);
}

int nbs_error(int rc, bool may_be_unsupported)
{
    switch (-rc) {
    case 0:
        return NBD_SUCCESS;
    case EPERM:
    case EACCES:
    case EROFS:
        return NBD_EPERM;
    case EIO:
        return NBD_EIO;
    case ENOMEM:
        return NBD_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return may_be_unsupported ? NBD_ENOTSUP : NBD_EINVAL;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EINVAL;
    }
}
