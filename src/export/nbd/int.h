/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the NBD server share; nobody else includes it.
 *
 * Each connection has one coroutine that reads (handshake, then requests), one coroutine for each request in flight,
 * and, while there is something to send, one that sends. Replies gather in a queue that the sender empties once per
 * turn of the loop, so that requests which came together are answered together.
 */
#pragma once

#include "block/io.h"
#include "export/nbd/nbd.h"
#include "export/nbd/proto.h"

enum {
    NBS_MAX_REQUESTS = 64,
    NBS_MAX_BYTES = 16 << 20,
    NBS_MAX_OPTION = 1 << 20, /* bytes of data of an option that is looked at */
    NBS_INPUT = 64 << 10,
    NBS_MAX_QUERIES = 1024, /* in one option about metadata contexts */
    NBS_MAX_BITMAPS = 1024, /* of one export */
    NBS_MAX_FILES = 256,    /* descriptors that queued replies hold, of all clients */
};

struct nbs_client;
struct nbs_request;

/* --- buffers (pool.c) --------------------------------------------------------------------------------------------- */

/* Buffers for data, kept for those who come next. */
struct nbs_pool {
    struct nbs_spare *spare[16]; /* by size: 4 KiB << i */
    size_t kept;
};
void *nbs_pool_get(struct nbs_pool *p, size_t len); /* page-aligned; NULL when memory is short */
void nbs_pool_put(struct nbs_pool *p, void *buf, size_t len);
void nbs_pool_finish(struct nbs_pool *p);

/* --- the socket (channel.c) --------------------------------------------------------------------------------------- */

struct nbs_channel {
    struct loop *loop;
    int fd;
    struct tls_session *tls; /* NULL: plain */
    bool unix_domain;
    bool try_now;      /* the last read was full: there may be more */
    unsigned in_a_row; /* reads that did not wait */
};
void nbs_channel_init(struct nbs_channel *ch, struct loop *l, int fd);
void nbs_channel_finish(struct nbs_channel *ch);
/* All [co]. Some bytes, 0 at the end of the stream, -errno. */
ssize_t nbs_recv(struct nbs_channel *ch, const struct iovec *iov, int n);
/* A beginning of the vector; `more`: more follows at once. */
ssize_t nbs_sendv(struct nbs_channel *ch, const struct iovec *iov, int n, bool more);
/* File data; -EOPNOTSUPP under TLS. Short at the end of the file, then 0. */
ssize_t nbs_sendfile(struct nbs_channel *ch, int fd, uint64_t off, size_t len);
int nbs_send_all(struct nbs_channel *ch, const void *buf, size_t len);
/* Closing with unread data makes TCP drop what the peer has not read yet: waits a moment for him to close. [co] */
void nbs_channel_linger(struct nbs_channel *ch);
/* Makes whoever waits for the socket see its end. */
void nbs_channel_shutdown(struct nbs_channel *ch);

/* --- server and exports (server.c, export.c) ---------------------------------------------------------------------- */

struct nbs_listener {
    struct nbd_server *server;
    int fd;
    struct fd_watch *watch;
};

struct nbd_server {
    struct nbd_server_options o;
    struct loop *loop;
    struct log *log;
    struct nbs_pool pool;
    GPtrArray *listeners; /* struct nbs_listener * */
    GPtrArray *clients;   /* struct nbs_client * */
    GPtrArray *exports;   /* struct nbd_export *, in order of creation */
    bool closing, accepting;
    unsigned files;     /* in the clients' queues */
    struct timer retry; /* of accept(), after it ran out of descriptors */
    struct co_queue gone_waiters;
    unsigned going; /* exports that are in no list any more, but not gone either */
};
void nbs_server_client_gone(struct nbs_client *c);

enum { NBS_CONTEXT_ALLOCATION, NBS_CONTEXT_DEPTH, NBS_CONTEXT_BITMAP };

struct nbd_export {
    struct nbd_server *server;
    char *id, *name, *description;
    struct edge *edge;
    struct backend_watch watch;
    uint64_t size;
    bool writable, writethrough, allocation_depth, removing;
    GPtrArray *bitmaps; /* struct dirty_bitmap *, busy through us */
    unsigned clients;
    struct co_queue idle_waiters;
};
uint16_t nbs_export_flags(const struct nbd_export *exp);
uint32_t nbs_export_min_block(const struct nbd_export *exp);
/* Contexts have the numbers 0 … n-1: allocation, depth (which may not be offered), then the bitmaps. */
unsigned nbs_export_contexts(const struct nbd_export *exp);
/* NULL: not offered. Valid until the next call with the same buffer. */
const char *nbs_export_context_name(const struct nbd_export *exp, unsigned id, GString *buf);
/* No one but NBD clients changes what the node reads as. */
bool nbs_export_stands_still(const struct nbd_export *exp);

/* --- a connection ------------------------------------------------------------------------------------------------- */

enum nbs_mode { NBS_SIMPLE, NBS_STRUCTURED, NBS_EXTENDED };

/* Something to send: a head, then data in memory or of a file. */
struct nbs_out {
    struct nbs_out *next;
    struct nbs_request *req;
    uint8_t head[56];
    unsigned head_len, head_sent;
    const void *data;
    size_t len, sent;
    void *owned; /* freed with it */
    int fd;      /* >= 0: `len` bytes at `off` of it; closed with it */
    uint64_t off;
};

struct nbs_request {
    struct nbs_client *client;
    struct nbs_request *next; /* spare ones */
    uint16_t flags, type;
    uint64_t cookie, off, len;
    uint32_t payload_len; /* bytes behind the header */
    uint8_t *payload;     /* from the pool */
    uint8_t *buf;         /* data to be read; from the pool */
    size_t buf_len;
    size_t bytes;    /* what it counts against NBS_MAX_BYTES */
    unsigned refs;   /* its coroutine, and what it has in the queue */
    int error;       /* NBD_E…: found when it was parsed */
    const char *why; /* in words */
    struct nbs_out first;
    bool first_used;
};

struct nbs_client {
    struct nbd_server *server;
    struct nbs_channel ch;
    struct timer time_limit;
    bool timed_out;

    /* what was received and not yet used: [pos, end) of in[] */
    uint8_t *in;
    size_t pos, end;

    /* haggling */
    bool fixed, no_zeroes, negotiated;
    enum nbs_mode mode;
    struct nbd_export *contexts_of; /* for which SET_META_CONTEXT was; compared, never followed */
    GArray *contexts;               /* uint32_t ids, selected */
    GByteArray *replies;            /* to the option at hand */

    /* transmission */
    struct nbd_export *exp;
    unsigned in_flight;
    size_t bytes;
    bool closing, broken;
    struct nbs_request *spare;
    struct co_queue slot_waiters; /* the reader; the end */
    struct nbs_out *out_head, **out_tail;
    bool sending;
};

/* input.c: waits until `need` (at most NBS_INPUT) bytes lie at in + pos. 0; -EPIPE at the end of the stream; -errno. */
int nbs_fill(struct nbs_client *c, size_t need);
int nbs_read(struct nbs_client *c, void *buf, size_t len);
int nbs_skip(struct nbs_client *c, uint64_t len);

/* handshake.c: to the end of haggling: 0 with c->exp set, or an error; without text the client has just gone. [co] */
int nbs_handshake(struct nbs_client *c, struct err *e);
/* Gathers replies to an option; they are sent when it has been dealt with, so that nothing waits meanwhile. */
void nbs_rep(struct nbs_client *c, uint32_t opt, uint32_t type, const void *data, uint32_t len);
void nbs_rep_err(struct nbs_client *c, uint32_t opt, uint32_t type, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* There is no such export; of a long name only the beginning is repeated. */
void nbs_rep_absent(struct nbs_client *c, uint32_t opt, const char *name);
/* meta.c: LIST_META_CONTEXT and SET_META_CONTEXT. */
void nbs_meta_context(struct nbs_client *c, uint32_t opt, const uint8_t *data, uint32_t len);
void nbs_forget_contexts(struct nbs_client *c);

/* client.c */
void nbs_client_start(struct nbd_server *s, int fd);

/* session.c: requests until the client goes. [co] */
int nbs_transmit(struct nbs_client *c, struct err *e);
void nbs_request_ref(struct nbs_request *r);
void nbs_request_unref(struct nbs_request *r);

/* reply.c: `done`: the last of this request. What is sent may be borrowed from the request (payload, buf). */
void nbs_reply_done(struct nbs_request *r);
void nbs_reply_error(struct nbs_request *r, int nbd_error, const char *why);
void nbs_reply_data(struct nbs_request *r, uint64_t off, const void *data, size_t len, bool done);
void nbs_reply_file(struct nbs_request *r, uint64_t off, size_t len, int fd, uint64_t fd_off);
void nbs_reply_hole(struct nbs_request *r, uint64_t off, uint32_t len, bool done);
/* Takes `payload` (g_malloc'd). */
void nbs_reply_status(struct nbs_request *r, bool wide, void *payload, size_t len, bool done);
/* The queue is dropped: nobody reads it any more. */
void nbs_out_drop(struct nbs_client *c);
/* -EIO and the like as the wire has it. */
int nbs_error(int rc, bool may_be_unsupported);

/* commands.c: the coroutine of a request. */
void nbs_request_run(void *request);
/* status.c */
void nbs_block_status(struct nbs_request *r);
