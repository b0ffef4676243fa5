/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The other side of a handshake, for --list and for the kernel's client: plain calls that block, on a socket of their
 * own. The server is not trusted: every length has a limit. Messages are those of QEMU's client.
 */
#pragma once

#include "cli/nbd/nbd.h"
#include "crypto/tls.h"

struct nbd_peer {
    int fd;
    struct tls_session *tls;
    bool fixed, no_zeroes, structured;
    bool haggling; /* an option may be sent */
    bool oldstyle; /* has one export, which is in size and flags */
    uint64_t size;
    uint16_t flags;
};

/* Zero is "not told" throughout. */
struct nbd_peer_export {
    char *name, *description; /* "" when there is none */
    bool known;               /* the server told more than the name */
    uint64_t size;
    uint16_t flags;
    uint32_t min_block, preferred_block, max_block;
    GPtrArray *contexts; /* names */
};
void nbd_peer_export_free(void *export);

/* To what the command line says (-k, or -b and -p). */
int nbd_peer_connect(struct nbd_peer *p, const struct nbd_args *a, struct err *e);
/* Greeting, and TLS when there are credentials; `structured`: asks for structured replies too. */
int nbd_peer_hello(struct nbd_peer *p, struct tls_creds *tls, const char *hostname, bool structured, struct err *e);
/* Appends struct nbd_peer_export *, with all that the server tells. */
int nbd_peer_list(struct nbd_peer *p, GPtrArray *exports, struct err *e);
/* Enters transmission: size, flags and min_block of x. */
int nbd_peer_go(struct nbd_peer *p, const char *name, struct nbd_peer_export *x, struct err *e);
void nbd_peer_close(struct nbd_peer *p); /* says good-bye if it can */
