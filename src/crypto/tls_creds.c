/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "base/json.h"
#include "crypto/secret.h"
#include "crypto/tls_int.h"

#include <string.h>
#include <unistd.h>

enum { PSK_FILE_MAX = 1 << 20 };

/* --- life --------------------------------------------------------------------------------------------------------- */

static void keys_free(struct tls_keys *k)
{
    if (!k) {
        return;
    }
    if (k->x509) {
        gnutls_certificate_free_credentials(k->x509);
    }
    if (k->psk_server) {
        gnutls_psk_free_server_credentials(k->psk_server);
    }
    if (k->psk_client) {
        gnutls_psk_free_client_credentials(k->psk_client);
    }
    if (k->anon_server) {
        gnutls_anon_free_server_credentials(k->anon_server);
    }
    if (k->anon_client) {
        gnutls_anon_free_client_credentials(k->anon_client);
    }
    if (k->dh) {
        gnutls_dh_params_deinit(k->dh);
    }
    g_free(k);
}

static void creds_free(struct tls_creds *c)
{
    keys_free(c->gnutls);
    g_free(c->dir);
    g_free(c->priority);
    g_free(c->username);
    g_free(c->password_id);
    g_free(c);
}

struct tls_creds *tls_creds_ref(struct tls_creds *c)
{
    c->users++;
    return c;
}

void tls_creds_unref(struct tls_creds *c)
{
    if (c && --c->users == 0 && c->deleted) {
        creds_free(c);
    }
}

static void creds_destroy(void *impl)
{
    struct tls_creds *c = impl;
    c->deleted = true;
    if (!c->users) {
        creds_free(c);
    }
}

static bool creds_in_use(void *impl)
{
    const struct tls_creds *c = impl;
    return c->users > 0;
}

int tls_creds_check_endpoint(const struct tls_creds *c, bool server, struct err *e)
{
    return c->server == server
               ? 0
               : err_set(e, EINVAL, "Expected TLS credentials for a %s endpoint", server ? "server" : "client");
}

/* --- files -------------------------------------------------------------------------------------------------------- */

/* *out: the path, or NULL for a file that may be missing and is. */
static int find_file(const struct tls_creds *c, const char *name, bool required, char **out, struct err *e)
{
    *out = NULL;
    if (!c->dir) {
        return required ? err_set(e, EINVAL, "Missing 'dir' property value") : 0;
    }
    CLEANUP_FREE char *path = g_strdup_printf("%s/%s", c->dir, name);
    if (access(path, R_OK) < 0) {
        return errno == ENOENT && !required ? 0 : err_set_errno(e, errno, "Unable to access credentials %s", path);
    }
    *out = take(path);
    return 0;
}

/* Parameters from the file, if there is one; else those that GnuTLS knows. */
static int load_dh(const struct tls_creds *c, struct tls_keys *k, struct err *e)
{
    CLEANUP_FREE char *path = NULL;
    int rc = find_file(c, "dh-params.pem", false, &path, e);
    if (rc || !path) {
        return rc;
    }
    CLEANUP_FREE char *text = NULL;
    gsize len;
    if (!g_file_get_contents(path, &text, &len, NULL)) {
        return err_set(e, EIO, "Unable to read %s", path);
    }
    gnutls_datum_t pem = {(unsigned char *)text, (unsigned)len};
    rc = gnutls_dh_params_init(&k->dh);
    if (!rc) {
        rc = gnutls_dh_params_import_pkcs3(k->dh, &pem, GNUTLS_X509_FMT_PEM);
    }
    return rc < 0 ? err_set(e, EINVAL, "Unable to load DH parameters from %s: %s", path, gnutls_strerror(rc)) : 0;
}

/* --- x509 --------------------------------------------------------------------------------------------------------- */

struct x509_files {
    char *ca, *crl, *cert, *key, *password;
};

static void files_finish(struct x509_files *f)
{
    g_free(f->ca);
    g_free(f->crl);
    g_free(f->cert);
    g_free(f->key);
    if (f->password) {
        explicit_bzero(f->password, strlen(f->password));
        g_free(f->password);
    }
}

static int find_x509(const struct tls_creds *c, struct x509_files *f, struct err *e)
{
    bool s = c->server;
    int rc = find_file(c, "ca-cert.pem", true, &f->ca, e);
    rc = rc || !s ? rc : find_file(c, "ca-crl.pem", false, &f->crl, e);
    rc = rc ? rc : find_file(c, s ? "server-cert.pem" : "client-cert.pem", s, &f->cert, e);
    return rc ? rc : find_file(c, s ? "server-key.pem" : "client-key.pem", s, &f->key, e);
}

static int load_x509(const struct x509_files *f, struct tls_keys *k, struct err *e)
{
    int rc = gnutls_certificate_allocate_credentials(&k->x509);
    if (rc < 0) {
        return err_set(e, ENOMEM, "Cannot allocate credentials: %s", gnutls_strerror(rc));
    }
    rc = gnutls_certificate_set_x509_trust_file(k->x509, f->ca, GNUTLS_X509_FMT_PEM);
    if (rc < 0) {
        return err_set(e, EINVAL, "Cannot load CA certificate '%s': %s", f->ca, gnutls_strerror(rc));
    }
    if (f->cert && f->key) {
        rc = gnutls_certificate_set_x509_key_file2(k->x509, f->cert, f->key, GNUTLS_X509_FMT_PEM, f->password, 0);
        if (rc < 0) {
            return err_set(e, EINVAL, "Cannot load certificate '%s' & key '%s': %s", f->cert, f->key,
                           gnutls_strerror(rc));
        }
    }
    if (f->crl) {
        rc = gnutls_certificate_set_x509_crl_file(k->x509, f->crl, GNUTLS_X509_FMT_PEM);
        if (rc < 0) {
            return err_set(e, EINVAL, "Cannot load CRL '%s': %s", f->crl, gnutls_strerror(rc));
        }
    }
    return 0;
}

static int find_password(struct object_make *m, const struct tls_creds *c, struct x509_files *f, struct err *e)
{
    if (!c->password_id) {
        return 0;
    }
    const struct secret *s = object_registry_lookup(m->registry, "secret", c->password_id);
    if (!s) {
        return err_set(e, ENOENT, "No secret with id '%s'", c->password_id);
    }
    f->password = g_strndup((const char *)s->data, s->len);
    return 0;
}

static int x509_load(struct object_make *m, struct tls_creds *c, struct tls_keys *k, bool sanity, struct err *e)
{
    struct x509_files f = {0};
    int rc = find_x509(c, &f, e);
    rc = rc || !sanity ? rc : tls_check_certificates(c->server, f.ca, f.cert, e);
    rc = rc ? rc : find_password(m, c, &f, e);
    rc = rc ? rc : load_x509(&f, k, e);
    files_finish(&f);
    if (!rc && c->server) {
        rc = load_dh(c, k, e);
        if (k->dh) {
            gnutls_certificate_set_dh_params(k->x509, k->dh);
        } else {
            gnutls_certificate_set_known_dh_params(k->x509, GNUTLS_SEC_PARAM_MEDIUM);
        }
    }
    return rc;
}

/* --- psk, anon ---------------------------------------------------------------------------------------------------- */

/* The hexadecimal key of "username:key". */
static int find_key(const char *path, const char *username, char **key, struct err *e)
{
    CLEANUP_FREE char *text = NULL;
    gsize len;
    GError *error = NULL;
    if (!g_file_get_contents(path, &text, &len, &error)) {
        int rc = err_set(e, ENOENT, "Cannot read PSK file %s: %s", path, error->message);
        g_error_free(error);
        return rc;
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    size_t n = strlen(username);
    for (char **l = lines; *l; l++) {
        if (!strncmp(*l, username, n) && (*l)[n] == ':') {
            *key = g_strstrip(g_strdup(*l + n + 1));
            return 0;
        }
    }
    return err_set(e, ENOENT, "Username %s not found in PSK file %s", username, path);
}

static int psk_client(const struct tls_creds *c, struct tls_keys *k, const char *path, struct err *e)
{
    const char *username = c->username ? c->username : "qemu";
    CLEANUP_FREE char *key = NULL;
    int rc = find_key(path, username, &key, e);
    if (rc) {
        return rc;
    }
    gnutls_datum_t datum = {(unsigned char *)key, (unsigned)strlen(key)};
    rc = gnutls_psk_allocate_client_credentials(&k->psk_client);
    if (!rc) {
        rc = gnutls_psk_set_client_credentials(k->psk_client, username, &datum, GNUTLS_PSK_KEY_HEX);
    }
    explicit_bzero(key, strlen(key));
    return rc < 0 ? err_set(e, EINVAL, "Cannot set PSK client credentials: %s", gnutls_strerror(rc)) : 0;
}

static int psk_server(const struct tls_creds *c, struct tls_keys *k, const char *path, struct err *e)
{
    int rc = gnutls_psk_allocate_server_credentials(&k->psk_server);
    if (!rc) {
        rc = gnutls_psk_set_server_credentials_file(k->psk_server, path);
    }
    if (rc < 0) {
        return err_set(e, EINVAL, "Cannot set PSK server credentials: %s", gnutls_strerror(rc));
    }
    rc = load_dh(c, k, e);
    if (k->dh) {
        gnutls_psk_set_server_dh_params(k->psk_server, k->dh);
    } else {
        gnutls_psk_set_server_known_dh_params(k->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return rc;
}

static int psk_load(const struct tls_creds *c, struct tls_keys *k, struct err *e)
{
    CLEANUP_FREE char *path = NULL;
    if (c->server && c->username) {
        return err_set(e, EINVAL, "username should not be set when endpoint=server");
    }
    int rc = find_file(c, "keys.psk", true, &path, e);
    return rc ? rc : c->server ? psk_server(c, k, path, e) : psk_client(c, k, path, e);
}

static int anon_load(const struct tls_creds *c, struct tls_keys *k, struct err *e)
{
    if (!c->server) {
        int rc = gnutls_anon_allocate_client_credentials(&k->anon_client);
        return rc < 0 ? err_set(e, ENOMEM, "Cannot allocate credentials: %s", gnutls_strerror(rc)) : 0;
    }
    int rc = gnutls_anon_allocate_server_credentials(&k->anon_server);
    if (rc < 0) {
        return err_set(e, ENOMEM, "Cannot allocate credentials: %s", gnutls_strerror(rc));
    }
    rc = load_dh(c, k, e);
    if (k->dh) {
        gnutls_anon_set_server_dh_params(k->anon_server, k->dh);
    } else {
        gnutls_anon_set_server_known_dh_params(k->anon_server, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return rc;
}

/* --- kinds -------------------------------------------------------------------------------------------------------- */

static int creds_create(struct object_make *m, enum tls_kind kind, void **impl, struct err *e)
{
    static const char *const endpoints[] = {"client", "server", NULL};
    struct tls_creds *c = g_new0(struct tls_creds, 1);
    struct tls_keys *k = g_new0(struct tls_keys, 1);
    struct jread r = jread_init(m->props, NULL, e);
    c->kind = kind;
    c->gnutls = k;
    c->server = jread_enum_or(&r, "endpoint", endpoints, 0) == 1;
    c->verify_peer = jread_bool_or(&r, "verify-peer", true);
    c->dir = g_strdup(jread_str_or(&r, "dir", NULL));
    c->priority = g_strdup(jread_str_or(&r, "priority", NULL));
    c->username = g_strdup(jread_str_or(&r, "username", NULL));
    c->password_id = g_strdup(jread_str_or(&r, "passwordid", NULL));
    bool sanity = jread_bool_or(&r, "sanity-check", true);
    int rc = jread_end_lax(&r);
    if (!rc) {
        rc = kind == TLS_X509  ? x509_load(m, c, k, sanity, e)
             : kind == TLS_PSK ? psk_load(c, k, e)
                               : anon_load(c, k, e);
    }
    if (rc) {
        creds_free(c);
        return rc;
    }
    *impl = c;
    return 0;
}

static int x509_create(struct object_make *m, void **impl, struct err *e)
{
    return creds_create(m, TLS_X509, impl, e);
}

static int psk_create(struct object_make *m, void **impl, struct err *e)
{
    return creds_create(m, TLS_PSK, impl, e);
}

static int anon_create(struct object_make *m, void **impl, struct err *e)
{
    return creds_create(m, TLS_ANON, impl, e);
}

static const char *const x509_props[] = {"dir",          "endpoint",    "passwordid", "priority",
                                         "sanity-check", "verify-peer", NULL};
static const char *const psk_props[] = {"dir", "endpoint", "priority", "username", "verify-peer", NULL};
static const char *const anon_props[] = {"dir", "endpoint", "priority", "verify-peer", NULL};

const struct object_kind tls_creds_x509_kind = {
    .name = "tls-creds-x509",
    .props = x509_props,
    .create = x509_create,
    .destroy = creds_destroy,
    .in_use = creds_in_use,
};
const struct object_kind tls_creds_psk_kind = {
    .name = "tls-creds-psk",
    .props = psk_props,
    .create = psk_create,
    .destroy = creds_destroy,
    .in_use = creds_in_use,
};
const struct object_kind tls_creds_anon_kind = {
    .name = "tls-creds-anon",
    .props = anon_props,
    .create = anon_create,
    .destroy = creds_destroy,
    .in_use = creds_in_use,
};
