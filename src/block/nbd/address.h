/* SPDX-License-Identifier: BSD-2-Clause */
/* Where an NBD server is: options and file names that say so, and a connected socket to it. */
#pragma once

#include "base/err.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum nbd_address_type { NBD_INET, NBD_UNIX, NBD_VSOCK, NBD_FD };

/* A SocketAddress. Zero-initialised is empty. */
struct nbd_address {
    enum nbd_address_type type;
    char *host, *port; /* inet; vsock: the context and the port */
    char *path;        /* unix */
    char *fd;          /* fd: a descriptor's number */
    bool abstract, tight, numeric, keep_alive, mptcp;
    int family; /* inet: AF_UNSPEC, AF_INET or AF_INET6 */
};

/* From the options of a node: "server", or the older "host" and "port", or "path". */
int nbd_address_read(struct nbd_address *a, struct json_object *options, struct err *e);
void nbd_address_finish(struct nbd_address *a);
/* "127.0.0.1:10809", "/run/x": for messages; g_free. */
char *nbd_address_text(const struct nbd_address *a);
/* The name that opens this export again ("nbd://host:port/export"); NULL when no name can. g_free. */
char *nbd_address_filename(const struct nbd_address *a, const char *export_name, bool tls);

/*
 * A parse_filename: "nbd://host:port/export", "nbd+unix:///export?socket=path", with "nbds" both under TLS, and the
 * older "nbd:host:port:exportname=x" and "nbd:unix:path:exportname=x". Sets "server", "export" and "tls".
 */
int nbd_parse_filename(const char *filename, struct json_object *options, struct err *e);

/* What somebody who does not want to wait any longer needs to know about a connection in the making. */
struct nbd_dial {
    bool stop;            /* give up: nbd_dial_stop() */
    int fd;               /* the socket that is being waited for; -1 */
    uint64_t deadline_ns; /* UINT64_MAX: none */
};
/* A connected, non-blocking stream socket. `d` is set up by the caller, and used during the call only. [co] */
int nbd_dial(const struct nbd_address *a, struct nbd_dial *d, int *fd, struct err *e);
/* Who dials, or will, gives up: -ECANCELED. */
void nbd_dial_stop(struct nbd_dial *d);
