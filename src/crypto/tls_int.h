/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of TLS share; nobody else includes it. */
#pragma once

#include "crypto/tls.h"

#include <gnutls/gnutls.h>

/* What GnuTLS made of the files; behind tls_creds.gnutls. */
struct tls_keys {
    gnutls_certificate_credentials_t x509;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_anon_server_credentials_t anon_server;
    gnutls_anon_client_credentials_t anon_client;
    gnutls_dh_params_t dh;
};

/* tls_check.c: our own certificate (NULL: a client without one) and the authority's are usable, and go together. */
int tls_check_certificates(bool server, const char *ca_file, const char *cert_file, struct err *e);
/* What is wrong with a certificate whose verification gave `status`, which is not 0. */
const char *tls_status_reason(unsigned status);
