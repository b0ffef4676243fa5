/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A link to an NBD server: one connection at a time, made again when it breaks. The protocol is libnbd's; its functions
 * are called by the loop thread alone (but for one that looks a name up, before the handle is in use), never from its
 * callbacks, which only note a result and wake a coroutine.
 *
 *              nbd_link_open()
 *                    │            connection breaks, reconnect-delay > 0
 *                    ▼        ┌───────────────────────────────────────────┐
 *               CONNECTED ────┤                                           ▼
 *                 ▲   ▲       │ no reconnect-delay                     WAITING: requests wait
 *                 │   │       ▼                                           │
 *                 │   └──── FAILING: requests get -EIO  ◄─────────────────┤ reconnect-delay is over
 *                 └───────────────────────────────────────────────────────┘ connected again
 *
 * 1. A request that had no answer when the connection broke is sent again on the next one: the server may see it twice.
 *    That is right for reads, writes, zeroes, trims and flushes, which all may be done twice: whoever asked has not
 * been answered yet and so cannot have sent anything that must come after it.
 * 2. What a server acknowledged before the connection broke is not sent again. If the server itself lost it (its
 * machine went down before a flush), so have we: like a disk whose cable was pulled, not like one whose power was cut.
 * 3. A new connection is used only if its export can still do what was promised of the first one (nbd_link_fits).
 * 4. Attempts go on until one succeeds, further and further apart (100 ms to 16 s), also in FAILING once a request
 * came.
 * 5. A server that accepts us and drops the connection at once is given 5 chances by each request, then it fails.
 */
#pragma once

#include "block/io.h"
#include "block/nbd/address.h"
#include "crypto/tls.h"
#include "loop/co.h"

#include <glib.h>

struct nbd_handle;

struct nbd_config {
    struct nbd_address address;
    char *export_name;       /* NULL: not given, like "" */
    char *context;           /* metadata context whose extents are asked for */
    char *tls_hostname;      /* the name that the server's certificate must have; NULL: none is known */
    bool tls;                /* the name asks for it: there are credentials */
    struct tls_creds *creds; /* held; NULL: no TLS */
    uint64_t reconnect_ns, open_timeout_ns;
};

/* What the server said of the export. */
struct nbd_export {
    uint64_t size;
    uint32_t min_block, opt_block, max_block; /* bytes; 0: not said */
    bool read_only, can_flush, can_fua, can_trim, can_zero, can_fast_zero, can_cache;
    bool has_context;
};

enum nbd_op { NBD_OP_READ, NBD_OP_WRITE, NBD_OP_ZERO, NBD_OP_TRIM, NBD_OP_FLUSH, NBD_OP_CACHE, NBD_OP_STATUS };

struct nbd_extent {
    uint64_t len;
    uint32_t flags;
};

struct nbd_request {
    enum nbd_op op;
    uint32_t flags; /* LIBNBD_CMD_FLAG_* */
    uint64_t off, len;
    void *buf;       /* read, write */
    GArray *extents; /* status: struct nbd_extent, appended; neighbours with the same flags become one */

    /* The link's own. */
    GList node; /* in link->flying */
    struct nbd_link *link;
    struct co *co;
    int rc;
    bool done;
    bool full; /* no more extents: the list is long enough, or one was nonsense */
};

enum nbd_state { NBD_CONNECTED, NBD_WAITING, NBD_FAILING };

struct fd_watch;

struct nbd_link {
    struct loop *loop;
    struct nbd_config config;
    struct nbd_export export; /* of the first connection: what we have promised */
    enum nbd_state state;

    /* The connection. */
    struct nbd_handle *h; /* NULL: none */
    int fd;               /* a duplicate of its socket, so that the watch outlives it; -1 */
    struct fd_watch *watch;
    short events;
    bool has_context; /* this connection's */
    uint64_t since_ns;
    unsigned connections; /* how many there were */
    bool lost_early;      /* the last one broke soon after it was made */
    GQueue flying;

    /* Making one. */
    struct nbd_dial dial;
    struct co *connector;       /* the coroutine that makes connections; NULL: none runs */
    uint64_t pause_ns;          /* before the next attempt */
    struct timer nap, patience; /* ends a pause; ends WAITING */
    struct co_queue waiters;    /* requests in WAITING */
    unsigned impatient;         /* so many who do not want requests to wait for a connection */
    struct co_queue stopped;    /* nbd_link_close() */
    char doing[64];             /* in the handshake, the library's state */
    char *server_said;          /* in the handshake, what a refused option was answered with */
    bool went;                  /* NBD_OPT_GO has been answered, with this: */
    int go_error;
    char *go_text; /* the library's words for it */
};

/* Connects, within open_timeout_ns. Takes over the config, also on failure. [co] */
int nbd_link_open(struct nbd_link *k, struct loop *l, struct nbd_config *config, struct err *e);
/* No request may be under way. [co] */
void nbd_link_close(struct nbd_link *k);
/* Does it, on as many connections as it takes. 0 or negative errno. [co] */
int nbd_link_do(struct nbd_link *k, struct nbd_request *r);
/* Taken away, requests that wait for a connection, or would have to, end with -EIO; attempts go on. Given back as often
 * as it was taken. */
void nbd_link_set_patience(struct nbd_link *k, bool patient);
void nbd_config_finish(struct nbd_config *c);

/* connect.c: one attempt at a connection. On success k->h and k->fd are set and `x` tells what the server said. [co] */
int nbd_link_connect(struct nbd_link *k, struct nbd_export *x, struct err *e);
