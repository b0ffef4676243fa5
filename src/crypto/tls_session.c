/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "crypto/tls_int.h"

#include <gnutls/x509.h>
#include <poll.h>
#include <string.h>
#include <time.h>

enum { RECORD = 16384 }; /* what TLS puts into one record at most */

struct tls_session {
    gnutls_session_t g;
    struct tls_creds *creds;
    char *hostname;
    struct authz *authz;
    bool unsent;    /* a record is encrypted but not sent in full */
    uint8_t *stage; /* small pieces on their way into one record */
};

/* --- life --------------------------------------------------------------------------------------------------------- */

static int set_priority(struct tls_session *s, struct err *e)
{
    static const char *const extra[] = {[TLS_PSK] = ":+ECDHE-PSK:+DHE-PSK:+PSK", [TLS_ANON] = ":+ANON-ECDH:+ANON-DH"};
    const struct tls_creds *c = s->creds;
    const char *more = c->kind == TLS_X509 ? "" : extra[c->kind];
    CLEANUP_FREE char *text = g_strconcat(c->priority ? c->priority : "NORMAL", more, NULL);
    int rc = gnutls_priority_set_direct(s->g, text, NULL);
    return rc < 0 ? err_set(e, EINVAL, "Unable to set TLS session priority %s: %s", text, gnutls_strerror(rc)) : 0;
}

static int set_credentials(struct tls_session *s, struct err *e)
{
    const struct tls_keys *k = s->creds->gnutls;
    bool server = s->creds->server;
    int rc;
    switch (s->creds->kind) {
    case TLS_X509:
        rc = gnutls_credentials_set(s->g, GNUTLS_CRD_CERTIFICATE, k->x509);
        if (server && s->creds->verify_peer) {
            gnutls_certificate_server_set_request(s->g, GNUTLS_CERT_REQUEST);
        }
        break;
    case TLS_PSK:
        rc = gnutls_credentials_set(s->g, GNUTLS_CRD_PSK, server ? (void *)k->psk_server : (void *)k->psk_client);
        break;
    default:
        rc = gnutls_credentials_set(s->g, GNUTLS_CRD_ANON, server ? (void *)k->anon_server : (void *)k->anon_client);
        break;
    }
    return rc < 0 ? err_set(e, EINVAL, "Cannot set session credentials: %s", gnutls_strerror(rc)) : 0;
}

struct tls_session *tls_session_create(struct tls_creds *c, int fd, const char *hostname, struct authz *authz,
                                       struct err *e)
{
    struct tls_session *s = g_new0(struct tls_session, 1);
    s->creds = tls_creds_ref(c);
    s->hostname = g_strdup(hostname);
    s->authz = authz ? authz_ref(authz) : NULL;
    int rc = gnutls_init(&s->g, (c->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
    if (rc < 0) {
        s->g = NULL;
        err_set(e, ENOMEM, "Cannot initialize TLS session: %s", gnutls_strerror(rc));
    } else if (!set_priority(s, e) && !set_credentials(s, e)) {
        gnutls_transport_set_int(s->g, fd);
        s->stage = g_malloc(RECORD);
        return s;
    }
    tls_session_destroy(s);
    return NULL;
}

void tls_session_destroy(struct tls_session *s)
{
    if (!s) {
        return;
    }
    if (s->g) {
        gnutls_deinit(s->g);
    }
    tls_creds_unref(s->creds);
    authz_unref(s->authz);
    g_free(s->hostname);
    g_free(s->stage);
    g_free(s);
}

/* --- who is there? ------------------------------------------------------------------------------------------------ */

static int check_name(struct tls_session *s, gnutls_x509_crt_t crt, struct err *e)
{
    if (s->authz) {
        gnutls_datum_t dn = {0};
        if (gnutls_x509_crt_get_dn2(crt, &dn) < 0) {
            return err_set(e, EPERM, "Cannot get the name of the client's certificate");
        }
        CLEANUP_FREE char *name = g_strndup((const char *)dn.data, dn.size);
        gnutls_free(dn.data);
        if (!authz_is_allowed(s->authz, name)) {
            return err_set(e, EPERM, "TLS x509 authz check for %s is denied", name);
        }
    }
    if (s->creds->server) {
        return 0;
    }
    if (!s->hostname) {
        return err_set(e, EINVAL, "No hostname for certificate validation");
    }
    return gnutls_x509_crt_check_hostname(crt, s->hostname)
               ? 0
               : err_set(e, EPERM, "Certificate does not match the hostname %s", s->hostname);
}

static int check_certificate(struct tls_session *s, const gnutls_datum_t *der, bool first, struct err *e)
{
    gnutls_x509_crt_t crt;
    int rc = gnutls_x509_crt_init(&crt);
    if (rc < 0) {
        return err_set(e, ENOMEM, "Cannot initialize certificate: %s", gnutls_strerror(rc));
    }
    rc = gnutls_x509_crt_import(crt, der, GNUTLS_X509_FMT_DER);
    time_t now = time(NULL);
    if (rc < 0) {
        rc = err_set(e, EINVAL, "Cannot import certificate: %s", gnutls_strerror(rc));
    } else if (gnutls_x509_crt_get_expiration_time(crt) < now) {
        rc = err_set(e, EPERM, "The certificate has expired");
    } else if (gnutls_x509_crt_get_activation_time(crt) > now) {
        rc = err_set(e, EPERM, "The certificate is not yet activated");
    } else {
        rc = first ? check_name(s, crt, e) : 0;
    }
    gnutls_x509_crt_deinit(crt);
    return rc;
}

static int check_x509(struct tls_session *s, struct err *e)
{
    if (!s->creds->verify_peer) {
        return s->authz ? err_set(e, EPERM, "TLS authorization needs verify-peer=on") : 0;
    }
    unsigned status = 0, n = 0;
    int rc = gnutls_certificate_verify_peers2(s->g, &status);
    if (rc < 0) {
        return err_set(e, EPERM, "Verify failed: %s", gnutls_strerror(rc));
    }
    if (status) {
        return err_set(e, EPERM, "%s", tls_status_reason(status));
    }
    const gnutls_datum_t *certs = gnutls_certificate_get_peers(s->g, &n);
    if (!certs || !n) {
        return err_set(e, EPERM, "No certificate peers");
    }
    for (unsigned i = 0; i < n && !rc; i++) {
        rc = check_certificate(s, &certs[i], i == 0, e);
    }
    return rc;
}

static int check_peer(struct tls_session *s, struct err *e)
{
    if (s->creds->kind == TLS_X509) {
        return check_x509(s, e);
    }
    if (!s->authz) {
        return 0;
    }
    const char *user = s->creds->kind == TLS_PSK && s->creds->server ? gnutls_psk_server_get_username(s->g) : NULL;
    if (!user || !authz_is_allowed(s->authz, user)) {
        return err_set(e, EPERM, "TLS authz check for %s is denied", user ? user : "an anonymous peer");
    }
    return 0;
}

/* --- the session -------------------------------------------------------------------------------------------------- */

static bool must_wait(int rc)
{
    return rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED;
}

int tls_handshake(struct tls_session *s, struct err *e)
{
    int rc;
    do {
        rc = gnutls_handshake(s->g);
    } while (rc == GNUTLS_E_INTERRUPTED || (rc < 0 && !must_wait(rc) && !gnutls_error_is_fatal(rc)));
    if (must_wait(rc)) {
        return -EAGAIN;
    }
    if (rc < 0) {
        return err_set(e, EPROTO, "TLS handshake failed: %s", gnutls_strerror(rc));
    }
    return check_peer(s, e);
}

short tls_events(const struct tls_session *s)
{
    return gnutls_record_get_direction(s->g) ? POLLOUT : POLLIN;
}

ssize_t tls_recv(struct tls_session *s, void *buf, size_t len)
{
    ssize_t n;
    do {
        n = gnutls_record_recv(s->g, buf, len);
    } while (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_WARNING_ALERT_RECEIVED);
    if (n >= 0) {
        return n;
    }
    if (n == GNUTLS_E_AGAIN) {
        return -EAGAIN;
    }
    return n == GNUTLS_E_PREMATURE_TERMINATION ? -ECONNABORTED : -EIO;
}

static ssize_t send_result(struct tls_session *s, ssize_t n)
{
    s->unsent = n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED;
    if (n >= 0) {
        return n;
    }
    return s->unsent ? -EAGAIN : n == GNUTLS_E_PUSH_ERROR ? -EPIPE : -EIO;
}

ssize_t tls_sendv(struct tls_session *s, const struct iovec *iov, int n)
{
    if (s->unsent) { /* what follows lies in GnuTLS's own buffer */
        return send_result(s, gnutls_record_send(s->g, NULL, 0));
    }
    if (n == 1 || iov[0].iov_len >= RECORD) {
        return send_result(s, gnutls_record_send(s->g, iov[0].iov_base, iov[0].iov_len));
    }
    size_t len = 0;
    for (int i = 0; i < n && len < RECORD; i++) {
        size_t part = MIN(iov[i].iov_len, RECORD - len);
        memcpy(s->stage + len, iov[i].iov_base, part);
        len += part;
    }
    return send_result(s, gnutls_record_send(s->g, s->stage, len));
}

size_t tls_pending(const struct tls_session *s)
{
    return gnutls_record_check_pending(s->g);
}

int tls_bye(struct tls_session *s)
{
    int rc = gnutls_bye(s->g, GNUTLS_SHUT_WR);
    return must_wait(rc) ? -EAGAIN : rc < 0 ? -EIO : 0;
}
