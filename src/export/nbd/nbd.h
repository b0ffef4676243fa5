/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server: listening sockets, exports, clients. What is on the wire is in export/nbd/proto.h.
 *
 * A server offers its exports to whoever connects; an export is a node of the block graph under a name. Both may come
 * and go while clients are there. Loop thread; several servers may live beside each other.
 */
#pragma once

#include "block/backend.h"
#include "crypto/tls.h"

struct nbd_server;
struct nbd_export;

enum { NBD_HANDSHAKE_SECONDS = 10, NBD_MAX_CONNECTIONS = 100 };

struct nbd_server_options {
    struct block_graph *graph;
    struct tls_creds *tls; /* NULL: no TLS; else nobody gets in without. Held */
    bool tls_optional;     /* but those who do not ask for it do; not together with `authz` */
    /* The object that says who may come, looked up for each client: without it nobody gets in. NULL: everybody who
     * passes TLS. Copied. */
    const char *authz;
    unsigned max_connections;   /* 0: no limit. More wait in the sockets' backlog */
    unsigned handshake_seconds; /* in which a client must have chosen an export; 0: no limit */
    /* After a client is gone; `negotiated`: it had entered an export. May be NULL. */
    void (*client_gone)(void *opaque, bool negotiated);
    void *opaque;
};

struct nbd_server *nbd_server_create(const struct nbd_server_options *o);
/* Takes a listening socket. */
void nbd_server_listen(struct nbd_server *s, int fd);
/* Takes a connected socket. */
void nbd_server_adopt(struct nbd_server *s, int fd);
/* Accepts nobody any more; those who are there stay. */
void nbd_server_close_listeners(struct nbd_server *s);
/* Clients' requests in flight end, every further one gets ESHUTDOWN; then exports and sockets are closed. [co] NULL is
 * fine. */
void nbd_server_destroy(struct nbd_server *s);
unsigned nbd_server_connections(const struct nbd_server *s);

/* --- exports ------------------------------------------------------------------------------------------------------ */

/* A dirty bitmap of `node`, or (NULL) of the first image of the export's chain that has one of the name. */
struct nbd_bitmap_ref {
    const char *node, *name;
};

struct nbd_export_options {
    const char *id; /* for BLOCK_EXPORT_DELETED and nbd_export_find_id(); NULL: the export name */
    struct node *node;
    struct backend *backend; /* the export ends when its medium goes; NULL: none */
    const char *name;        /* "" is the default export */
    const char *description; /* NULL: none */
    bool writable;
    bool writethrough;     /* each write is durable before it is answered */
    bool allocation_depth; /* offers qemu:allocation-depth */
    const struct nbd_bitmap_ref *bitmaps;
    size_t n_bitmaps; /* each offers qemu:dirty-bitmap:NAME, and is busy as long */
};

/* Nobody may resize the node while it is exported. [co] */
int nbd_export_add(struct nbd_server *s, const struct nbd_export_options *o, struct nbd_export **out, struct err *e);
/*
 * Removes it, and emits BLOCK_EXPORT_DELETED {"id"}. With clients: `hard` disconnects them, as soon as their requests
 * in flight have ended; else it is refused: "export 'x' still in use". [co]
 */
int nbd_export_remove(struct nbd_export *exp, bool hard, struct err *e);
/* The same, hard, without waiting for the end: nbd_export_shutting_down(). Said again, nothing happens. */
void nbd_export_shut_down(struct nbd_export *exp);
struct nbd_export *nbd_export_find(struct nbd_server *s, const char *name);
struct nbd_export *nbd_export_find_id(struct nbd_server *s, const char *id);
/* The i-th in order of creation; NULL: no more. */
struct nbd_export *nbd_server_export(struct nbd_server *s, unsigned i);
const char *nbd_export_id(const struct nbd_export *exp);
const char *nbd_export_name(const struct nbd_export *exp);
struct node *nbd_export_node(const struct nbd_export *exp);
bool nbd_export_shutting_down(const struct nbd_export *exp);

/* --- sockets to listen on ----------------------------------------------------------------------------------------- */

/* All addresses of `family` (AF_UNSPEC: any) that `host` (NULL or "": any) and `port` (a number or a service's name)
 * stand for; appends descriptors. */
int nbd_listen_inet(const char *host, const char *port, int family, GArray *fds, struct err *e);
/* A socket that lies there already is replaced. */
int nbd_listen_unix(const char *path, GArray *fds, struct err *e);
int nbd_listen_abstract(const char *name, bool tight, GArray *fds, struct err *e);
/* Takes a bound socket; closes it when it cannot be listened on. */
int nbd_listen_fd(int fd, GArray *fds, struct err *e);

/* --- credentials -------------------------------------------------------------------------------------------------- */

struct object_registry;
/* Those of the object `id`, for a server or a client. Borrowed. */
int nbd_find_credentials(struct object_registry *r, const char *id, bool server, struct tls_creds **out, struct err *e);
