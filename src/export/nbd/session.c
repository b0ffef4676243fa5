/* SPDX-License-Identifier: BSD-2-Clause */
/* Transmission: requests are read, checked and started here; their coroutines answer them. */
#include "export/nbd/int.h"

#include "base/checked.h"
#include "base/endian.h"

#include <errno.h>

/* --- requests as objects ------------------------------------------------------------------------------------------ */

void nbs_request_ref(struct nbs_request *r)
{
    r->refs++;
}

static void request_free(struct nbs_request *r)
{
    struct nbs_client *c = r->client;
    struct nbs_pool *pool = &c->server->pool;
    nbs_pool_put(pool, r->payload, r->payload_len);
    nbs_pool_put(pool, r->buf, r->buf_len);
    c->in_flight--;
    c->bytes -= r->bytes;
    r->next = c->spare;
    c->spare = r;
    if (!co_queue_empty(&c->slot_waiters)) {
        co_queue_wake_all(&c->slot_waiters);
    }
}

void nbs_request_unref(struct nbs_request *r)
{
    if (--r->refs == 0) {
        request_free(r);
    }
}

static struct nbs_request *request_new(struct nbs_client *c)
{
    struct nbs_request *r = c->spare;
    if (r) {
        c->spare = r->next;
    } else {
        r = g_new(struct nbs_request, 1);
    }
    *r = (struct nbs_request){.client = c, .refs = 1};
    c->in_flight++;
    return r;
}

/* --- reading one -------------------------------------------------------------------------------------------------- */

static int read_header(struct nbs_client *c, struct nbs_request *r, struct err *e)
{
    bool wide = c->mode == NBS_EXTENDED;
    size_t size = wide ? NBD_EXTENDED_REQUEST_SIZE : NBD_REQUEST_SIZE;
    int rc = nbs_fill(c, size);
    if (rc < 0) {
        return rc;
    }
    const uint8_t *p = c->in + c->pos;
    uint32_t magic = load_be32(p);
    if (magic != (wide ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC)) {
        return err_set(e, EINVAL, "invalid magic (got 0x%x)", magic);
    }
    r->flags = load_be16(p + 4);
    r->type = load_be16(p + 6);
    r->cookie = load_be64(p + 8);
    r->off = load_be64(p + 16);
    r->len = wide ? load_be64(p + 24) : load_be32(p + 24);
    c->pos += size;
    return 0;
}

static void wrong(struct nbs_request *r, int error, const char *why)
{
    if (!r->error) {
        r->error = error;
        r->why = why;
    }
}

static const char *const too_long = "length is larger than the maximum of 32 MiB";

/* How many bytes follow the header; beyond the limit nobody can tell where the next request begins. */
static int payload_size(struct nbs_request *r, bool wide, struct err *e)
{
    bool payload = wide ? r->flags & NBD_CMD_FLAG_PAYLOAD_LEN : r->type == NBD_CMD_WRITE;
    if (wide && r->type == NBD_CMD_WRITE) {
        payload = true; /* also where the flag is forgotten: what else could it be? */
    }
    if (!payload) {
        return 0;
    }
    if (r->len > NBD_MAX_PAYLOAD) {
        return err_set(e, EINVAL, "len (%" G_GUINT64_FORMAT ") is larger than max len (%d)", r->len, NBD_MAX_PAYLOAD);
    }
    r->payload_len = (uint32_t)r->len;
    return 0;
}

static unsigned flags_of(const struct nbs_client *c, uint16_t type)
{
    switch (type) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (c->mode != NBS_SIMPLE ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE:
        return NBD_CMD_FLAG_FUA | (c->mode == NBS_EXTENDED ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE |
               (c->mode == NBS_EXTENDED && c->contexts->len ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

static bool changes(uint16_t type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES || type == NBD_CMD_TRIM;
}

static void check_range(const struct nbs_client *c, struct nbs_request *r)
{
    bool limited = r->type == NBD_CMD_READ || r->type == NBD_CMD_CACHE;
    bool in_payload = r->type == NBD_CMD_BLOCK_STATUS && (r->flags & NBD_CMD_FLAG_PAYLOAD_LEN);
    if (limited && r->len > NBD_MAX_PAYLOAD) {
        wrong(r, NBD_EINVAL, too_long);
    }
    if (!range_ok(r->off, in_payload ? 0 : r->len, c->exp->size)) {
        bool full = r->type == NBD_CMD_WRITE || r->type == NBD_CMD_WRITE_ZEROES;
        wrong(r, full ? NBD_ENOSPC : NBD_EINVAL, "operation past EOF");
    }
    if (r->type == NBD_CMD_BLOCK_STATUS && !r->len) {
        wrong(r, NBD_EINVAL, "need non-zero length");
    }
}

/* Anything that is wrong with it but leaves the stream in order. */
static void check(const struct nbs_client *c, struct nbs_request *r)
{
    if (c->server->closing || c->exp->removing) {
        wrong(r, NBD_ESHUTDOWN, "the server is shutting down");
    }
    if (r->type > NBD_CMD_BLOCK_STATUS || r->type == NBD_CMD_DISC) {
        wrong(r, NBD_EINVAL, "invalid request type");
        return;
    }
    if (r->flags & ~flags_of(c, r->type)) {
        wrong(r, NBD_EINVAL, "unsupported flags");
    }
    if (changes(r->type) && !c->exp->writable) {
        wrong(r, NBD_EPERM, "Export is read-only");
    }
    if (r->type == NBD_CMD_BLOCK_STATUS && !c->contexts->len) {
        wrong(r, NBD_EINVAL, "CMD_BLOCK_STATUS not negotiated");
    }
    if (r->type != NBD_CMD_FLUSH) {
        check_range(c, r);
    }
}

/* The buffer for a payload that is wanted; else the payload is dropped. */
static int read_payload(struct nbs_client *c, struct nbs_request *r, struct err *e)
{
    if (!r->payload_len) {
        return 0;
    }
    uint32_t most = r->type == NBD_CMD_WRITE ? NBD_MAX_PAYLOAD : 8 + 4 * c->contexts->len;
    if (r->payload_len > most) {
        wrong(r, NBD_EINVAL, "CMD_BLOCK_STATUS payload not valid");
    }
    if (!r->error) {
        r->payload = nbs_pool_get(&c->server->pool, r->payload_len);
        if (!r->payload) {
            wrong(r, NBD_ENOMEM, "No memory");
        }
    }
    int rc = r->payload ? nbs_read(c, r->payload, r->payload_len) : nbs_skip(c, r->payload_len);
    return rc < 0 ? err_set_errno(e, -rc, "Failed to read CMD_WRITE data") : 0;
}

/* 1: the client says good-bye. */
static int read_request(struct nbs_client *c, struct nbs_request *r, struct err *e)
{
    int rc = read_header(c, r, e);
    if (rc < 0) {
        return rc;
    }
    bool wide = c->mode == NBS_EXTENDED;
    if (r->type == NBD_CMD_DISC) {
        return 1;
    }
    rc = payload_size(r, wide, e);
    if (rc < 0) {
        return rc;
    }
    check(c, r);
    return read_payload(c, r, e);
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static void wait_for_slot(struct nbs_client *c)
{
    while (c->in_flight && (c->in_flight >= NBS_MAX_REQUESTS || c->bytes >= NBS_MAX_BYTES)) {
        co_queue_wait(&c->slot_waiters);
    }
}

int nbs_transmit(struct nbs_client *c, struct err *e)
{
    for (;;) {
        wait_for_slot(c);
        struct nbs_request *r = request_new(c);
        int rc = read_request(c, r, e);
        if (rc) {
            nbs_request_unref(r);
            return rc < 0 ? rc : 0;
        }
        r->bytes = r->payload_len + (r->type == NBD_CMD_READ && !r->error ? r->len : 0);
        c->bytes += r->bytes;
        co_start(c->server->loop, nbs_request_run, r);
    }
}
