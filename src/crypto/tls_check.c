/* SPDX-License-Identifier: BSD-2-Clause */
/* Checks of our own certificates before anybody connects, so that a mistake in them is named here and not by the peer.
 */
#include "base/cleanup.h"
#include "crypto/tls_int.h"

#include <gnutls/x509.h>
#include <string.h>
#include <time.h>

enum { MAX_CERTS = 16, FILE_MAX = 1 << 20 };

struct certs {
    gnutls_x509_crt_t crt[MAX_CERTS];
    unsigned n;
};

static void certs_finish(struct certs *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        gnutls_x509_crt_deinit(c->crt[i]);
    }
    c->n = 0;
}

static int read_pem(const char *file, gnutls_datum_t *out, struct err *e)
{
    gchar *text;
    gsize len;
    GError *error = NULL;
    if (!g_file_get_contents(file, &text, &len, &error)) {
        int rc = err_set(e, ENOENT, "%s", error->message);
        g_error_free(error);
        return rc;
    }
    *out = (gnutls_datum_t){(unsigned char *)text, (unsigned)len};
    return 0;
}

static int load_certs(struct certs *c, bool server, bool is_ca, const char *file, struct err *e)
{
    gnutls_datum_t pem;
    int rc = read_pem(file, &pem, e);
    if (rc) {
        return rc;
    }
    c->n = MAX_CERTS;
    rc = gnutls_x509_crt_list_import(c->crt, &c->n, &pem, GNUTLS_X509_FMT_PEM, 0);
    g_free(pem.data);
    if (rc >= 0) {
        c->n = (unsigned)rc;
        return 0;
    }
    c->n = 0;
    if (is_ca) {
        return err_set(e, EINVAL, "Unable to import CA certificate list %s", file);
    }
    return err_set(e, EINVAL, "Unable to import %s certificate %s: %s", server ? "server" : "client", file,
                   gnutls_strerror(rc));
}

static int check_times(gnutls_x509_crt_t crt, bool server, bool is_ca, const char *file, struct err *e)
{
    const char *whose = is_ca ? "CA" : server ? "server" : "client";
    time_t now = time(NULL);
    if (gnutls_x509_crt_get_expiration_time(crt) < now) {
        return err_set(e, EINVAL, "The %s certificate %s has expired", whose, file);
    }
    if (gnutls_x509_crt_get_activation_time(crt) > now) {
        return err_set(e, EINVAL, "The %s certificate %s is not yet active", whose, file);
    }
    return 0;
}

static int check_constraints(gnutls_x509_crt_t crt, bool server, bool is_ca, const char *file, struct err *e)
{
    int rc = gnutls_x509_crt_get_basic_constraints(crt, NULL, NULL, NULL);
    if (rc > 0 && !is_ca) {
        return err_set(e, EINVAL, "The certificate %s basic constraints show a CA, but we need one for a %s", file,
                       server ? "server" : "client");
    }
    if (rc == 0 && is_ca) {
        return err_set(e, EINVAL, "The certificate %s basic constraints do not show a CA", file);
    }
    if (rc == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
        return is_ca ? err_set(e, EINVAL, "The certificate %s is missing basic constraints for a CA", file) : 0;
    }
    if (rc < 0) {
        return err_set(e, EINVAL, "Unable to query certificate %s basic constraints: %s", file, gnutls_strerror(rc));
    }
    return 0;
}

static int check_usage(gnutls_x509_crt_t crt, bool is_ca, const char *file, struct err *e)
{
    unsigned usage = 0, critical = 0;
    int rc = gnutls_x509_crt_get_key_usage(crt, &usage, &critical);
    if (rc == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
        return 0;
    }
    if (rc < 0) {
        return err_set(e, EINVAL, "Unable to query certificate %s key usage: %s", file, gnutls_strerror(rc));
    }
    if (is_ca && critical && !(usage & GNUTLS_KEY_KEY_CERT_SIGN)) {
        return err_set(e, EINVAL, "Certificate %s usage does not permit certificate signing", file);
    }
    if (!is_ca && critical && !(usage & GNUTLS_KEY_DIGITAL_SIGNATURE)) {
        return err_set(e, EINVAL, "Certificate %s usage does not permit digital signature", file);
    }
    return 0;
}

static int check_purpose(gnutls_x509_crt_t crt, bool server, const char *file, struct err *e)
{
    bool any = false, good = false, must = false;
    for (unsigned i = 0;; i++) {
        char oid[128];
        size_t size = sizeof(oid);
        unsigned critical = 0;
        int rc = gnutls_x509_crt_get_key_purpose_oid(crt, i, oid, &size, &critical);
        if (rc == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            break;
        }
        if (rc < 0) {
            return err_set(e, EINVAL, "Unable to query certificate %s key purpose: %s", file, gnutls_strerror(rc));
        }
        any = true;
        must |= critical != 0;
        good |=
            !strcmp(oid, server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT) || !strcmp(oid, GNUTLS_KP_ANY);
    }
    if (any && must && !good) {
        return err_set(e, EINVAL, "Certificate %s purpose does not allow use with a TLS %s", file,
                       server ? "server" : "client");
    }
    return 0;
}

static int check_one(gnutls_x509_crt_t crt, bool server, bool is_ca, const char *file, struct err *e)
{
    int rc = check_times(crt, server, is_ca, file, e);
    rc = rc ? rc : check_constraints(crt, server, is_ca, file, e);
    rc = rc ? rc : check_usage(crt, is_ca, file, e);
    return rc || is_ca ? rc : check_purpose(crt, server, file, e);
}

const char *tls_status_reason(unsigned status)
{
    if (status & GNUTLS_CERT_INSECURE_ALGORITHM) {
        return "The certificate uses an insecure algorithm";
    }
    if (status & GNUTLS_CERT_REVOKED) {
        return "The certificate has been revoked";
    }
    if (status & GNUTLS_CERT_SIGNER_NOT_FOUND) {
        return "The certificate hasn't got a known issuer";
    }
    return status & GNUTLS_CERT_INVALID ? "The certificate is not trusted" : "Invalid certificate";
}

struct pair {
    const char *ca_file, *cert_file;
    struct certs ca, cert;
};

static int check_pair(struct pair *p, bool server, struct err *e)
{
    unsigned status = 0;
    int rc = gnutls_x509_crt_list_verify(p->cert.crt, (int)p->cert.n, p->ca.crt, (int)p->ca.n, NULL, 0, 0, &status);
    if (rc < 0) {
        return err_set(e, EINVAL, "Unable to verify %s certificate %s against CA certificate %s",
                       server ? "server" : "client", p->cert_file, p->ca_file);
    }
    if (status) {
        return err_set(e, EINVAL, "Our own certificate %s failed validation against %s: %s", p->cert_file, p->ca_file,
                       tls_status_reason(status));
    }
    return 0;
}

static int check_files(struct pair *p, bool server, struct err *e)
{
    int rc = p->cert_file ? load_certs(&p->cert, server, false, p->cert_file, e) : 0;
    rc = rc ? rc : load_certs(&p->ca, server, true, p->ca_file, e);
    if (!rc && p->cert.n) { /* those that follow it in the file are its issuers */
        rc = check_one(p->cert.crt[0], server, false, p->cert_file, e);
    }
    for (unsigned i = 0; !rc && i < p->ca.n; i++) {
        rc = check_one(p->ca.crt[i], server, true, p->ca_file, e);
    }
    return rc || !p->cert.n ? rc : check_pair(p, server, e);
}

int tls_check_certificates(bool server, const char *ca_file, const char *cert_file, struct err *e)
{
    struct pair p = {.ca_file = ca_file, .cert_file = cert_file};
    int rc = check_files(&p, server, e);
    certs_finish(&p.ca);
    certs_finish(&p.cert);
    return rc;
}
