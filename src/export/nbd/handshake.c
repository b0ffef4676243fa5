/* SPDX-License-Identifier: BSD-2-Clause */
/* Greeting and option haggling. */
#include "export/nbd/int.h"

#include "base/cleanup.h"
#include "base/endian.h"

#include <errno.h>
#include <string.h>

const char *nbd_opt_text(uint32_t option)
{
    static const char *const names[] = {
        [NBD_OPT_EXPORT_NAME] = "export name",
        [NBD_OPT_ABORT] = "abort",
        [NBD_OPT_LIST] = "list",
        [4] = "peek export",
        [NBD_OPT_STARTTLS] = "starttls",
        [NBD_OPT_INFO] = "info",
        [NBD_OPT_GO] = "go",
        [NBD_OPT_STRUCTURED_REPLY] = "structured reply",
        [NBD_OPT_LIST_META_CONTEXT] = "list meta context",
        [NBD_OPT_SET_META_CONTEXT] = "set meta context",
        [NBD_OPT_EXTENDED_HEADERS] = "extended headers",
    };
    return option < G_N_ELEMENTS(names) && names[option] ? names[option] : "<unknown>";
}

/* --- replies ------------------------------------------------------------------------------------------------------ */

void nbs_rep(struct nbs_client *c, uint32_t opt, uint32_t type, const void *data, uint32_t len)
{
    uint8_t head[NBD_OPTION_REPLY_SIZE];
    store_be64(head, NBD_REP_MAGIC);
    store_be32(head + 8, opt);
    store_be32(head + 12, type);
    store_be32(head + 16, len);
    g_byte_array_append(c->replies, head, sizeof(head));
    if (len) {
        g_byte_array_append(c->replies, data, len);
    }
}

void nbs_rep_err(struct nbs_client *c, uint32_t opt, uint32_t type, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    nbs_rep(c, opt, type, text, (uint32_t)MIN(strlen(text), (size_t)NBD_MAX_STRING));
}

void nbs_rep_absent(struct nbs_client *c, uint32_t opt, const char *name)
{
    enum { SHOWN = 80 };
    nbs_rep_err(c, opt, NBD_REP_ERR_UNKNOWN, "export '%.*s%s' not present", SHOWN, name,
                strlen(name) > SHOWN ? "..." : "");
}

static int flush_replies(struct nbs_client *c)
{
    int rc = nbs_send_all(&c->ch, c->replies->data, c->replies->len);
    g_byte_array_set_size(c->replies, 0);
    return rc;
}

/* --- entering an export ------------------------------------------------------------------------------------------- */

static void enter(struct nbs_client *c, struct nbd_export *exp)
{
    if (c->contexts_of != exp) {
        nbs_forget_contexts(c);
    }
    c->exp = exp;
    exp->clients++;
}

static uint16_t flags_for(const struct nbs_client *c, const struct nbd_export *exp)
{
    uint16_t flags = nbs_export_flags(exp);
    if (c->mode != NBS_SIMPLE) {
        flags |= NBD_FLAG_SEND_DF;
    }
    if (c->mode == NBS_EXTENDED && c->contexts_of == exp && c->contexts->len) {
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    }
    return flags;
}

static int export_name(struct nbs_client *c, const uint8_t *data, uint32_t len, struct err *e)
{
    CLEANUP_FREE char *name = g_strndup((const char *)data, len);
    if (len > NBD_MAX_STRING || strlen(name) != len) {
        return err_set(e, EINVAL, "Bad length received");
    }
    if (c->mode == NBS_EXTENDED) {
        return err_set(e, EINVAL, "Extended headers already negotiated");
    }
    struct nbd_export *exp = nbd_export_find(c->server, name);
    if (!exp) {
        return err_set(e, EINVAL, "export not found");
    }
    uint8_t buf[8 + 2 + 124] = {0};
    store_be64(buf, exp->size);
    store_be16(buf + 8, flags_for(c, exp));
    g_byte_array_append(c->replies, buf, c->no_zeroes ? 10 : sizeof(buf));
    enter(c, exp);
    return 0;
}

struct info_request {
    char *name;
    bool want_name, want_block_size;
};

/* NULL, or what is wrong. */
static const char *parse_info(const uint8_t *data, uint32_t len, struct info_request *q)
{
    if (len < 4 + 2 || load_be32(data) > len - 4 - 2) {
        return "Inconsistent lengths";
    }
    uint32_t n = load_be32(data);
    uint16_t items = load_be16(data + 4 + n);
    if (n > NBD_MAX_STRING || len != 4 + n + 2 + 2 * (uint32_t)items) {
        return "Inconsistent lengths";
    }
    if (memchr(data + 4, 0, n)) {
        return "Unexpected embedded NUL";
    }
    for (const uint8_t *p = data + 4 + n + 2; p < data + len; p += 2) {
        q->want_name |= load_be16(p) == NBD_INFO_NAME;
        q->want_block_size |= load_be16(p) == NBD_INFO_BLOCK_SIZE;
    }
    q->name = g_strndup((const char *)data + 4, n);
    return NULL;
}

static void put_info_text(struct nbs_client *c, uint32_t opt, uint16_t type, const char *text)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    uint8_t head[2];
    store_be16(head, type);
    g_byte_array_append(b, head, sizeof(head));
    g_byte_array_append(b, (const guint8 *)text, (guint)strlen(text));
    nbs_rep(c, opt, NBD_REP_INFO, b->data, b->len);
}

static void put_info(struct nbs_client *c, uint32_t opt, const struct nbd_export *exp, const struct info_request *q)
{
    if (q->want_name) {
        put_info_text(c, opt, NBD_INFO_NAME, exp->name);
    }
    if (exp->description) {
        put_info_text(c, opt, NBD_INFO_DESCRIPTION, exp->description);
    }
    /* Who does not ask may send requests of any alignment: so that is what he is told. */
    uint32_t align = opt == NBD_OPT_INFO || q->want_block_size ? nbs_export_min_block(exp) : 1;
    uint8_t buf[14];
    store_be16(buf, NBD_INFO_BLOCK_SIZE);
    store_be32(buf + 2, align);
    store_be32(buf + 6, MAX(4096u, align));
    store_be32(buf + 10, NBD_MAX_PAYLOAD);
    nbs_rep(c, opt, NBD_REP_INFO, buf, 14);
    store_be16(buf, NBD_INFO_EXPORT);
    store_be64(buf + 2, exp->size);
    store_be16(buf + 10, flags_for(c, exp));
    nbs_rep(c, opt, NBD_REP_INFO, buf, 12);
}

static void info_or_go(struct nbs_client *c, uint32_t opt, const uint8_t *data, uint32_t len)
{
    struct info_request q = {0};
    const char *bad = parse_info(data, len, &q);
    struct nbd_export *exp = bad ? NULL : nbd_export_find(c->server, q.name);
    if (bad) {
        nbs_rep_err(c, opt, NBD_REP_ERR_INVALID, "%s in option %s", bad, nbd_opt_text(opt));
    } else if (!exp) {
        nbs_rep_absent(c, opt, q.name);
    } else {
        put_info(c, opt, exp, &q);
        if (opt == NBD_OPT_INFO && !q.want_block_size && nbs_export_min_block(exp) > 1) {
            nbs_rep_err(c, opt, NBD_REP_ERR_BLOCK_SIZE_REQD, "request NBD_INFO_BLOCK_SIZE to use this export");
        } else {
            nbs_rep(c, opt, NBD_REP_ACK, NULL, 0);
            if (opt == NBD_OPT_GO) {
                enter(c, exp);
            }
        }
    }
    g_free(q.name);
}

/* --- the other options -------------------------------------------------------------------------------------------- */

static void list(struct nbs_client *c)
{
    struct nbd_export *exp;
    for (unsigned i = 0; (exp = nbd_server_export(c->server, i)); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();
        uint8_t head[4];
        store_be32(head, (uint32_t)strlen(exp->name));
        g_byte_array_append(b, head, sizeof(head));
        g_byte_array_append(b, (const guint8 *)exp->name, (guint)strlen(exp->name));
        if (exp->description) {
            g_byte_array_append(b, (const guint8 *)exp->description, (guint)strlen(exp->description));
        }
        nbs_rep(c, NBD_OPT_LIST, NBD_REP_SERVER, b->data, b->len);
    }
    nbs_rep(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static void choose_mode(struct nbs_client *c, uint32_t opt)
{
    if (c->mode == NBS_EXTENDED) {
        nbs_rep_err(c, opt, opt == NBD_OPT_EXTENDED_HEADERS ? NBD_REP_ERR_INVALID : NBD_REP_ERR_EXT_HEADER_REQD,
                    "extended headers already negotiated");
    } else if (c->mode == NBS_STRUCTURED && opt == NBD_OPT_STRUCTURED_REPLY) {
        nbs_rep_err(c, opt, NBD_REP_ERR_INVALID, "structured reply already negotiated");
    } else {
        c->mode = opt == NBD_OPT_EXTENDED_HEADERS ? NBS_EXTENDED : NBS_STRUCTURED;
        nbs_rep(c, opt, NBD_REP_ACK, NULL, 0);
    }
}

static int tls_up(struct nbs_client *c, struct err *e)
{
    if (c->pos != c->end) { /* somebody in between could have put it there */
        return err_set(e, EPROTO, "data behind the request to start TLS");
    }
    struct nbd_server_options *o = &c->server->o;
    struct authz *authz = o->authz ? graph_object(o->graph, "authz", o->authz) : NULL;
    if (o->authz && !authz) {
        return err_set(e, EPERM, "nobody may connect: there is no authorization object '%s'", o->authz);
    }
    c->ch.tls = tls_session_create(o->tls, c->ch.fd, NULL, authz, e);
    if (!c->ch.tls) {
        return -EINVAL;
    }
    int rc;
    while ((rc = tls_handshake(c->ch.tls, e)) == -EAGAIN) {
        rc = co_poll(c->ch.fd, tls_events(c->ch.tls), UINT64_MAX);
        if (rc < 0) {
            return rc;
        }
    }
    c->mode = NBS_SIMPLE;
    nbs_forget_contexts(c);
    return rc;
}

static int starttls(struct nbs_client *c, struct err *e)
{
    if (c->ch.tls) {
        nbs_rep_err(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "TLS already enabled");
        return 0;
    }
    if (!c->server->o.tls) {
        nbs_rep_err(c, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "TLS not configured");
        return 0;
    }
    nbs_rep(c, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    int rc = flush_replies(c);
    return rc < 0 ? rc : tls_up(c, e);
}

static bool has_no_data(uint32_t opt)
{
    return opt == NBD_OPT_LIST || opt == NBD_OPT_STARTTLS || opt == NBD_OPT_STRUCTURED_REPLY ||
           opt == NBD_OPT_EXTENDED_HEADERS;
}

static int handle(struct nbs_client *c, uint32_t opt, const uint8_t *data, uint32_t len, struct err *e)
{
    switch (opt) {
    case NBD_OPT_EXPORT_NAME:
        return export_name(c, data, len, e);
    case NBD_OPT_LIST:
        list(c);
        break;
    case NBD_OPT_STARTTLS:
        return starttls(c, e);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        info_or_go(c, opt, data, len);
        break;
    case NBD_OPT_STRUCTURED_REPLY:
    case NBD_OPT_EXTENDED_HEADERS:
        choose_mode(c, opt);
        break;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        nbs_meta_context(c, opt, data, len);
        break;
    default:
        nbs_rep_err(c, opt, NBD_REP_ERR_UNSUP, "Unsupported option %u (%s)", opt, nbd_opt_text(opt));
        break;
    }
    return 0;
}

/* What the option gets without being looked at; 0: it is looked at. */
static uint32_t refusal(const struct nbs_client *c, uint32_t opt, uint32_t len)
{
    if (c->server->closing) {
        return NBD_REP_ERR_SHUTDOWN;
    }
    const struct nbd_server_options *o = &c->server->o;
    if (o->tls && !o->tls_optional && !c->ch.tls && opt != NBD_OPT_STARTTLS) {
        return NBD_REP_ERR_TLS_REQD;
    }
    if (has_no_data(opt) && len) {
        return NBD_REP_ERR_INVALID;
    }
    return len > NBS_MAX_OPTION ? NBD_REP_ERR_TOO_BIG : 0;
}

static int refuse(struct nbs_client *c, uint32_t opt, uint32_t type, struct err *e)
{
    const char *text = type == NBD_REP_ERR_SHUTDOWN  ? "the server is shutting down"
                       : type == NBD_REP_ERR_TOO_BIG ? "option payload too big"
                                                     : NULL;
    CLEANUP_FREE char *own = type == NBD_REP_ERR_TLS_REQD
                                 ? g_strdup_printf("Option 0x%x not permitted before TLS", opt)
                                 : g_strdup_printf("option '%s' has unexpected length", nbd_opt_text(opt));
    if (opt == NBD_OPT_EXPORT_NAME) { /* has no error replies */
        return err_set(e, EINVAL, "%s", text ? text : own);
    }
    if (opt == NBD_OPT_SET_META_CONTEXT) { /* also one that fails takes the place of the one before */
        nbs_forget_contexts(c);
    }
    nbs_rep_err(c, opt, type, "%s", text ? text : own);
    return 0;
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static int read_error(struct err *e, int rc, const char *what)
{
    switch (rc) {
    case -EPIPE:
        return err_set(e, EPIPE, "Failed to read %s: Unexpected end-of-file before all data were read", what);
    case -ECONNABORTED:
        return err_set_errno(e, ECONNABORTED, "Failed to read %s: Cannot read from TLS channel", what);
    default:
        return err_set_errno(e, -rc, "Failed to read %s: Unable to read from socket", what);
    }
}

/* One option; 1: ABORT. */
static int one_option(struct nbs_client *c, struct err *e)
{
    int rc = nbs_fill(c, NBD_OPTION_SIZE);
    if (rc < 0) {
        return read_error(e, rc, "opts magic");
    }
    const uint8_t *p = c->in + c->pos;
    uint64_t magic = load_be64(p);
    uint32_t opt = load_be32(p + 8), len = load_be32(p + 12);
    c->pos += NBD_OPTION_SIZE;
    if (magic != NBD_OPTS_MAGIC) {
        return err_set(e, EINVAL, "Bad magic received");
    }
    if (len > NBD_MAX_PAYLOAD) {
        return err_set(e, EINVAL, "len (%u) is larger than max len (%u)", len, NBD_MAX_PAYLOAD);
    }
    if (!c->fixed && opt != NBD_OPT_EXPORT_NAME) {
        return err_set(e, EINVAL, "Unsupported option %u (%s)", opt, nbd_opt_text(opt));
    }
    bool abort = opt == NBD_OPT_ABORT;
    uint32_t no = abort ? 0 : refusal(c, opt, len);
    if (abort || no) {
        rc = nbs_skip(c, len);
        if (!rc && abort) {
            nbs_rep(c, opt, NBD_REP_ACK, NULL, 0);
            flush_replies(c);
            return 1;
        }
        rc = rc ? rc : refuse(c, opt, no, e);
    } else {
        CLEANUP_FREE uint8_t *data = g_malloc(MAX(len, 1));
        rc = nbs_read(c, data, len);
        rc = rc ? rc : handle(c, opt, data, len, e);
    }
    return rc ? rc : flush_replies(c);
}

int nbs_handshake(struct nbs_client *c, struct err *e)
{
    uint8_t hello[18];
    store_be64(hello, NBD_INIT_MAGIC);
    store_be64(hello + 8, NBD_OPTS_MAGIC);
    store_be16(hello + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    int rc = nbs_send_all(&c->ch, hello, sizeof(hello));
    if (rc < 0) {
        return err_set_errno(e, -rc, "write failed");
    }
    rc = nbs_fill(c, 4);
    if (rc < 0) {
        return read_error(e, rc, "flags");
    }
    uint32_t flags = load_be32(c->in + c->pos);
    c->pos += 4;
    if (flags & ~(uint32_t)(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
        return err_set(e, EINVAL, "Unknown client flags 0x%x received", flags);
    }
    c->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    while (!c->exp) {
        rc = one_option(c, e);
        if (rc) {
            return rc < 0 ? rc : -EPIPE;
        }
        co_yield (); /* who haggles without end is not alone here */
    }
    return 0;
}
