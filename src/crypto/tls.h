/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLS credentials (qom-types tls-creds-x509, tls-creds-psk, tls-creds-anon) and sessions over a socket, by GnuTLS.
 * Properties, file names in `dir` (ca-cert.pem, server-cert.pem, keys.psk …), checks and messages: QEMU's
 * docs/system/tls.rst.
 *
 * A session never waits: what would have to says -EAGAIN, and tls_events() then tells what to wait for. Loop thread.
 */
#pragma once

#include "base/objects.h"
#include "crypto/authz.h"

#include <sys/types.h>
#include <sys/uio.h>

enum tls_kind { TLS_X509, TLS_PSK, TLS_ANON };

/* What was given, for those who hand it to another library (the NBD client). Files were read and checked at creation.
 */
struct tls_creds {
    enum tls_kind kind;
    bool server;                                   /* endpoint=server; default client */
    bool verify_peer;                              /* default on */
    char *dir, *priority, *username, *password_id; /* NULL: not given */
    unsigned users;                                /* sessions and servers that hold it; object-del is refused */
    bool deleted;                                  /* the object is gone: the last user frees */
    void *gnutls;                                  /* crypto/tls_creds.c's */
};

extern const struct object_kind tls_creds_x509_kind, tls_creds_psk_kind, tls_creds_anon_kind;

/* The object of that id, held until tls_creds_unref(); `server` says which endpoint it must be for. `lookup` is
 * graph_object() or the like, called with "tls-creds". */
struct tls_creds *tls_creds_ref(struct tls_creds *c);
void tls_creds_unref(struct tls_creds *c); /* NULL is fine */
/* "Expected TLS credentials for a server endpoint". */
int tls_creds_check_endpoint(const struct tls_creds *c, bool server, struct err *e);

/* --- sessions ----------------------------------------------------------------------------------------------------- */

struct tls_session;

/* `fd` is a non-blocking socket and stays the caller's. `hostname`: what a client expects in the server's certificate.
 * `authz`: who may connect to a server; held. Both may be NULL. */
struct tls_session *tls_session_create(struct tls_creds *c, int fd, const char *hostname, struct authz *authz,
                                       struct err *e);
void tls_session_destroy(struct tls_session *s); /* does not close fd; NULL is fine */
/* 0: done, and the peer is who it must be. -EAGAIN: call again when tls_events() are there. Else *e says why not. */
int tls_handshake(struct tls_session *s, struct err *e);
/* POLLIN or POLLOUT: what the call that gave -EAGAIN waits for. */
short tls_events(const struct tls_session *s);
/* Bytes; 0: the peer has said good-bye; -EAGAIN; -ECONNABORTED: the connection ended without that; -errno. */
ssize_t tls_recv(struct tls_session *s, void *buf, size_t len);
/* Sends a beginning of the vector: its length, or -EAGAIN (then the same bytes must come first next time), -errno. */
ssize_t tls_sendv(struct tls_session *s, const struct iovec *iov, int n);
/* Bytes that tls_recv() has without looking at the socket. */
size_t tls_pending(const struct tls_session *s);
/* Says good-bye, without waiting for an answer. 0, -EAGAIN, -errno. */
int tls_bye(struct tls_session *s);
