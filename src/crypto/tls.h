/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLS credentials (qom-types tls-creds-x509, tls-creds-psk, tls-creds-anon) and sessions over a socket, by GnuTLS.
 * Properties, file names in `dir` (ca-cert.pem, server-cert.pem, keys.psk …) and their meaning: QEMU's
 * docs/system/tls.rst.
 */
#pragma once

#include "base/objects.h"

enum tls_kind { TLS_X509, TLS_PSK, TLS_ANON };

/* What was given, for those who hand it to another library (the NBD client). Files were read and checked at creation.
 */
struct tls_creds {
    enum tls_kind kind;
    bool server;                                   /* endpoint=server; default client */
    bool verify_peer;                              /* default on */
    char *dir, *priority, *username, *password_id; /* NULL: not given */
    unsigned users;                                /* sessions and servers that hold it; object-del is refused */
    void *gnutls;                                  /* crypto/tls_creds.c's */
};

extern const struct object_kind tls_creds_x509_kind, tls_creds_psk_kind, tls_creds_anon_kind;
