/* SPDX-License-Identifier: BSD-2-Clause */
/* The connection of a migration, under TLS where that is asked for. */
#include "base/cleanup.h"
#include "move/channel_tls.h"
#include "move/migration.h"
#include "move/proto.h"

#include <errno.h>

#define HELLO_MS UINT64_C(10000)

uint64_t migration_deadline(const struct migration *m)
{
    return loop_now_ns() + m->params.answer_ms * 1000000;
}

uint64_t migration_hello_deadline(const struct migration *m)
{
    return loop_now_ns() + MIN(m->params.answer_ms, HELLO_MS) * 1000000;
}

static bool is_given(const char *text)
{
    return text && *text;
}

static int find_creds(struct migration *m, bool server, struct tls_creds **out, struct err *e)
{
    const char *id = m->params.tls_creds;
    *out = is_given(id) ? graph_object(m->vm->graph, "tls-creds", id) : NULL;
    if (!is_given(id)) {
        return 0;
    }
    if (!*out) {
        return err_set(e, ENOENT, "No TLS credentials with id '%s'", id);
    }
    int rc = tls_creds_check_endpoint(*out, server, e);
    return rc ? err_wrap(e, "TLS credentials '%s'", id), rc : 0;
}

/* What the destination's certificate must say; *out is borrowed, NULL: nothing. */
static int find_hostname(struct migration *m, const struct tls_creds *c, const struct channel_place *p,
                         const char **out, struct err *e)
{
    *out = is_given(m->params.tls_hostname)                       ? m->params.tls_hostname
           : p->scheme == TO_SOCKET && p->socket.type == NBD_INET ? p->socket.host
                                                                  : NULL;
    return !is_given(*out) && c->kind == TLS_X509 && c->verify_peer
               ? err_set(e, EINVAL,
                         "TLS credentials '%s' check the destination's name, which %s does not say: set 'tls-hostname'",
                         m->params.tls_creds, p->name)
               : 0;
}

/* After the handshake: who came can be told. */
static int check_authz(const struct migration *m, const struct authz *found, struct err *e)
{
    const char *id = m->params.tls_authz;
    return is_given(id) && !found
               ? err_set(e, EPERM, "nobody may move a machine here: there is no authorization object '%s'", id)
               : 0;
}

int migration_check_tls(struct migration *m, const struct channel_place *p, bool server, struct err *e)
{
    struct tls_creds *c;
    const char *hostname;
    int rc = find_creds(m, server, &c, e);
    if (rc || !c) {
        return rc;
    }
    if (p->scheme == TO_EXEC || p->scheme == TO_FILE) {
        return err_set(e, EINVAL, "%s gives no answer, which TLS (credentials '%s') needs: use a socket", p->name,
                       m->params.tls_creds);
    }
    return server ? 0 : find_hostname(m, c, p, &hostname, e);
}

static int start_tls(struct migration *m, struct channel **ch, const struct channel_place *p, struct err *e)
{
    uint64_t deadline = migration_deadline(m);
    const char *hostname = NULL;
    struct authz *authz = NULL;
    struct tls_creds *c;
    int rc = find_creds(m, !p, &c, e);
    if (rc || !c) {
        return rc;
    }
    if (!channel_answers(*ch)) {
        return err_set(e, EINVAL, "%s is no socket, which TLS (credentials '%s') needs", channel_name(*ch),
                       m->params.tls_creds);
    }
    if (!p && channel_peek(*ch, migration_hello_deadline(m)) == PROTO_FIRST_BYTE) {
        return err_set(
            e, EPERM,
            "%s: the destination takes machines under TLS (credentials '%s'), and the source speaks none: set "
            "'tls-creds' at the source, or unset it here",
            channel_name(*ch), m->params.tls_creds);
    }
    if (!p && is_given(m->params.tls_authz)) {
        authz = graph_object(m->vm->graph, "authz", m->params.tls_authz);
    }
    rc = p ? find_hostname(m, c, p, &hostname, e) : 0;
    if (rc) {
        return rc;
    }
    rc = channel_start_tls(ch, c, hostname, authz, deadline, e);
    rc = rc || p ? rc : check_authz(m, authz, e);
    if (rc && p && g_str_has_prefix(err_text(e), "TLS handshake failed")) {
        CLEANUP_FREE char *why = g_strdup(err_text(e));
        err_clear(e);
        err_set(e, EPROTO, "%s; the destination needs 'tls-creds', too, that fit these, before its 'migrate-incoming'",
                why);
    }
    return rc ? err_wrap(e, "%s: TLS credentials '%s'", channel_name(*ch), m->params.tls_creds), rc : 0;
}

int migration_dial(struct migration *m, const struct channel_place *p, const struct channel_names *names,
                   struct channel **out, struct err *e)
{
    int rc = m->dial.stop ? err_set(e, ECANCELED, "%s: given up", p->name) : channel_dial(p, names, &m->dial, out, e);
    return rc < 0 ? rc : start_tls(m, out, p, e);
}

int migration_secure(struct migration *m, struct channel **ch, struct err *e)
{
    return start_tls(m, ch, NULL, e);
}
