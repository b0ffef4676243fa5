/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/nbd/client.h"

#include "base/checked.h"
#include "base/endian.h"
#include "export/nbd/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { LINGER_MS = 200, MAX_REPLY = 1 << 20, MAX_EXPORTS = 1 << 16, MAX_CONTEXTS = 1 << 12 };

void nbd_peer_export_free(void *export)
{
    struct nbd_peer_export *x = export;
    g_free(x->name);
    g_free(x->description);
    if (x->contexts) {
        g_ptr_array_unref(x->contexts);
    }
    g_free(x);
}

/* --- bytes -------------------------------------------------------------------------------------------------------- */

static int wait_for(const struct nbd_peer *p, short events)
{
    struct pollfd pfd = {.fd = p->fd, .events = events};
    int rc;
    do {
        rc = poll(&pfd, 1, -1);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static ssize_t recv_some(struct nbd_peer *p, void *buf, size_t len)
{
    if (p->tls) {
        return tls_recv(p->tls, buf, len);
    }
    ssize_t n = recv(p->fd, buf, len, 0);
    return n < 0 ? -errno : n;
}

static int read_all(struct nbd_peer *p, void *buf, size_t len, const char *what, struct err *e)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = recv_some(p, (char *)buf + got, len - got);
        if (n == 0) {
            return err_set(e, EPIPE, "Failed to read %s: Unexpected end-of-file before all data were read", what);
        }
        if (n == -EAGAIN) {
            n = wait_for(p, p->tls ? tls_events(p->tls) : POLLIN);
        } else if (n > 0) {
            got += (size_t)n;
        }
        if (n < 0 && n != -EINTR) {
            return err_set_errno(e, (int)-n, "Failed to read %s: %s", what,
                                 p->tls ? "Cannot read from TLS channel" : "Unable to read from socket");
        }
    }
    return 0;
}

static int write_all(struct nbd_peer *p, const void *buf, size_t len, struct err *e)
{
    while (len) {
        struct iovec iov = {(void *)(uintptr_t)buf, len};
        ssize_t n = p->tls ? tls_sendv(p->tls, &iov, 1) : send(p->fd, buf, len, MSG_NOSIGNAL);
        n = n < 0 && !p->tls ? -errno : n;
        if (n == -EAGAIN) {
            n = wait_for(p, p->tls ? tls_events(p->tls) : POLLOUT);
        } else if (n > 0) {
            buf = (const char *)buf + n;
            len -= (size_t)n;
        }
        if (n < 0 && n != -EINTR) {
            return err_set_errno(e, (int)-n, "Failed to send option request header: Unable to write to socket");
        }
    }
    return 0;
}

/* --- connecting --------------------------------------------------------------------------------------------------- */

static int connect_unix(struct nbd_peer *p, const char *path, struct err *e)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(un.sun_path)) {
        return err_set(e, EINVAL, "UNIX socket path '%s' is too long\nPath must be less than %zu bytes", path,
                       sizeof(un.sun_path));
    }
    memcpy(un.sun_path, path, strlen(path));
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        return err_set_errno(e, errno, "Failed to connect to '%s'", path);
    }
    return 0;
}

static int connect_inet(struct nbd_peer *p, const char *host, const char *port, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int rc = getaddrinfo(host, port, &hints, &list);
    if (rc) {
        return err_set(e, EINVAL, "address resolution failed for %s:%s: %s", host, port, gai_strerror(rc));
    }
    rc = EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a && rc; a = a->ai_next) {
        p->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        rc = p->fd >= 0 && connect(p->fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
        if (rc && p->fd >= 0) {
            close(take_fd(&p->fd));
        }
    }
    freeaddrinfo(list);
    return rc ? err_set_errno(e, rc, "Failed to connect to '%s:%s'", host, port) : 0;
}

int nbd_peer_connect(struct nbd_peer *p, const struct nbd_args *a, struct err *e)
{
    char port[16];
    g_snprintf(port, sizeof(port), "%d", NBD_DEFAULT_PORT);
    *p = (struct nbd_peer){.fd = -1};
    return a->socket ? connect_unix(p, a->socket, e)
                     : connect_inet(p, a->bind ? a->bind : "0.0.0.0", a->port ? a->port : port, e);
}

/* Closing with unread data would make the other side lose what we said last. */
static void linger(int fd)
{
    char buf[1024];
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    shutdown(fd, SHUT_WR);
    while (poll(&pfd, 1, LINGER_MS) > 0 && recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0) {
    }
}

static void say_goodbye(struct nbd_peer *p)
{
    uint8_t abort[NBD_OPTION_SIZE];
    store_be64(abort, NBD_OPTS_MAGIC);
    store_be32(abort + 8, NBD_OPT_ABORT);
    store_be32(abort + 12, 0);
    if (!write_all(p, abort, sizeof(abort), NULL) && p->tls) {
        tls_bye(p->tls);
    }
}

void nbd_peer_close(struct nbd_peer *p)
{
    if (p->haggling) {
        say_goodbye(p);
    }
    if (p->fd >= 0) {
        linger(p->fd);
        close(take_fd(&p->fd));
    }
    tls_session_destroy(take(p->tls));
}

/* --- options ------------------------------------------------------------------------------------------------------ */

static int send_option(struct nbd_peer *p, uint32_t opt, const GByteArray *data, struct err *e)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    uint8_t head[NBD_OPTION_SIZE];
    store_be64(head, NBD_OPTS_MAGIC);
    store_be32(head + 8, opt);
    store_be32(head + 12, data ? data->len : 0);
    g_byte_array_append(b, head, sizeof(head));
    if (data) {
        g_byte_array_append(b, data->data, data->len);
    }
    return write_all(p, b->data, b->len, e);
}

struct reply {
    uint32_t type, len;
    uint8_t *data; /* ends with a zero byte that len does not count */
};

static int read_reply(struct nbd_peer *p, uint32_t opt, struct reply *r, struct err *e)
{
    uint8_t head[NBD_OPTION_REPLY_SIZE];
    g_free(r->data);
    *r = (struct reply){0};
    int rc = read_all(p, head, sizeof(head), "option reply", e);
    if (rc) {
        return rc;
    }
    uint32_t got = load_be32(head + 8);
    if (load_be64(head) != NBD_REP_MAGIC) {
        return err_set(e, EINVAL, "Unexpected option reply magic");
    }
    if (got != opt) {
        return err_set(e, EINVAL, "Unexpected option type %u (%s), expected %u (%s)", got, nbd_opt_text(got), opt,
                       nbd_opt_text(opt));
    }
    r->type = load_be32(head + 12);
    r->len = load_be32(head + 16);
    if (r->len > MAX_REPLY) {
        return err_set(e, EINVAL, "server's answer to option %u (%s) is too long", opt, nbd_opt_text(opt));
    }
    r->data = g_malloc0((size_t)r->len + 1);
    return read_all(p, r->data, r->len, "option reply", e);
}

static const char *rep_text(uint32_t type)
{
    static const char *const good[] = {
        [NBD_REP_ACK] = "ack",
        [NBD_REP_SERVER] = "server",
        [NBD_REP_INFO] = "info",
        [NBD_REP_META_CONTEXT] = "meta context",
    };
    return type < G_N_ELEMENTS(good) && good[type] ? good[type] : "<unknown>";
}

/* Without what a terminal would take for a command. */
static char *printable(const char *text)
{
    static const char plain[] = "\"\\\n\t";
    char keep[sizeof(plain) + 128] = "";
    strcpy(keep, plain);
    for (unsigned i = 0; i < 128; i++) {
        keep[sizeof(plain) - 1 + i] = (char)(128 + i);
    }
    CLEANUP_FREE char *valid = g_utf8_make_valid(text, -1);
    return g_strescape(valid, keep);
}

/* What the server cannot or will not do is no error where we can do without. */
enum need { NEEDED, IF_KNOWN, IF_ALLOWED };

/* An error reply in words, or in *lacking (may be NULL where it is needed). */
static int check_reply(uint32_t opt, const struct reply *r, enum need need, bool *lacking, struct err *e)
{
    static const char *const texts[] = {
        [1] = "Server lacks support for option %u (%s)",
        [2] = "Denied by server for option %u (%s)",
        [3] = "Invalid parameters for option %u (%s)",
        [4] = "Server lacks support for option %u (%s)",
        [5] = "TLS negotiation required before option %u (%s)\nDid you forget a valid tls-creds?",
        [6] = "Requested export not available",
        [7] = "Server shutting down before option %u (%s)",
        [8] = "Server requires INFO_BLOCK_SIZE for option %u (%s)",
    };
    if (!(r->type & NBD_REP_ERR(0))) {
        return 0;
    }
    uint32_t n = r->type & ~NBD_REP_ERR(0);
    if (need == IF_ALLOWED || (need == IF_KNOWN && r->type == NBD_REP_ERR_UNSUP)) {
        *lacking = true;
        return 0;
    }
    g_autoptr(GString) s = g_string_new(NULL);
    const char *fmt =
        n < G_N_ELEMENTS(texts) && texts[n] ? texts[n] : "Unknown error code when asking for option %u (%s)";
    const char *number = strstr(fmt, "%u (%s)");
    g_string_append_len(s, fmt, number ? number - fmt : (gssize)strlen(fmt));
    if (number) {
        g_string_append_printf(s, "%u (%s)%s", opt, nbd_opt_text(opt), number + strlen("%u (%s)"));
    }
    if (r->len) {
        CLEANUP_FREE char *clean = printable((const char *)r->data);
        g_string_append_printf(s, "\nserver reported: %s", clean);
    }
    return err_set(e, EINVAL, "%s", s->str);
}

/* For options whose only good answer is ACK. */
static int simple_option(struct nbd_peer *p, uint32_t opt, enum need need, bool *lacking, struct err *e)
{
    struct reply r = {0};
    int rc = send_option(p, opt, NULL, e);
    rc = rc ? rc : read_reply(p, opt, &r, e);
    rc = rc ? rc : check_reply(opt, &r, need, lacking, e);
    if (!rc && !(r.type & NBD_REP_ERR(0))) {
        if (r.len) {
            rc = err_set(e, EINVAL, "Option %u ('%s') response length is %u (it should be zero)", opt,
                         nbd_opt_text(opt), r.len);
        } else if (r.type != NBD_REP_ACK) {
            rc = err_set(e, EINVAL, "Server answered option %u (%s) with unexpected reply %u (%s)", opt,
                         nbd_opt_text(opt), r.type, rep_text(r.type));
        }
    }
    g_free(r.data);
    return rc;
}

/* --- the greeting ------------------------------------------------------------------------------------------------- */

static int start_tls(struct nbd_peer *p, struct tls_creds *tls, const char *hostname, struct err *e)
{
    int rc = simple_option(p, NBD_OPT_STARTTLS, NEEDED, NULL, e);
    if (rc) {
        return rc;
    }
    fcntl(p->fd, F_SETFL, fcntl(p->fd, F_GETFL) | O_NONBLOCK);
    p->tls = tls_session_create(tls, p->fd, hostname, NULL, e);
    if (!p->tls) {
        return -EINVAL;
    }
    p->haggling = false; /* unless the server is who he should be */
    while ((rc = tls_handshake(p->tls, e)) == -EAGAIN) {
        rc = wait_for(p, tls_events(p->tls));
        if (rc) {
            return rc;
        }
    }
    p->haggling = rc == 0;
    return rc;
}

/* Zeroes follow, which nobody needs. */
static int hello_old(struct nbd_peer *p, struct err *e)
{
    uint8_t buf[8 + 4];
    p->oldstyle = true;
    int rc = read_all(p, buf, 8, "export length", e);
    rc = rc ? rc : read_all(p, buf + 8, 4, "export flags", e);
    uint32_t flags = load_be32(buf + 8);
    p->size = load_be64(buf);
    p->flags = (uint16_t)flags;
    return rc || flags <= UINT16_MAX ? rc : err_set(e, EINVAL, "Unexpected export flags %xx", flags);
}

int nbd_peer_hello(struct nbd_peer *p, struct tls_creds *tls, const char *hostname, bool structured, struct err *e)
{
    uint8_t buf[8];
    int rc = read_all(p, buf, 8, "initial magic", e);
    if (!rc && load_be64(buf) != NBD_INIT_MAGIC) {
        return err_set(e, EINVAL, "Bad initial magic received: 0x%" G_GINT64_MODIFIER "x", load_be64(buf));
    }
    rc = rc ? rc : read_all(p, buf, 8, "server magic", e);
    if (rc) {
        return rc;
    }
    if (load_be64(buf) == NBD_OLDSTYLE_MAGIC) {
        return tls ? err_set(e, EINVAL, "Server does not support STARTTLS") : hello_old(p, e);
    }
    if (load_be64(buf) != NBD_OPTS_MAGIC) {
        return err_set(e, EINVAL, "Bad server magic received: 0x%" G_GINT64_MODIFIER "x", load_be64(buf));
    }
    rc = read_all(p, buf, 2, "server flags", e);
    if (rc) {
        return rc;
    }
    uint32_t flags = load_be16(buf) & (NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    p->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    p->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    store_be32(buf, flags);
    rc = write_all(p, buf, 4, e);
    p->haggling = rc == 0;
    if (!rc && tls && !p->fixed) {
        return err_set(e, EINVAL, "Server don't support STARTTLS option");
    }
    rc = rc || !tls ? rc : start_tls(p, tls, hostname, e);
    if (!rc && structured && p->fixed) {
        bool lacking = false;
        rc = simple_option(p, NBD_OPT_STRUCTURED_REPLY, IF_ALLOWED, &lacking, e);
        p->structured = !rc && !lacking;
    }
    return rc;
}

/* --- asking about exports ----------------------------------------------------------------------------------------- */

static void put_string(GByteArray *b, const char *s)
{
    uint8_t len[4];
    store_be32(len, (uint32_t)strlen(s));
    g_byte_array_append(b, len, 4);
    g_byte_array_append(b, (const guint8 *)s, (guint)strlen(s));
}

static int take_name(const struct reply *r, GPtrArray *exports, struct err *e)
{
    if (r->type != NBD_REP_SERVER) {
        return err_set(e, EINVAL, "Unexpected reply type %u (%s), expected %u (%s)", r->type, rep_text(r->type),
                       NBD_REP_SERVER, rep_text(NBD_REP_SERVER));
    }
    if (r->len < 4) {
        return err_set(e, EINVAL, "incorrect option length %u", r->len);
    }
    uint32_t len = load_be32(r->data);
    if (len > NBD_MAX_STRING || len > r->len - 4) {
        return err_set(e, EINVAL, "incorrect name length in server's list response");
    }
    if (r->len - 4 - len > NBD_MAX_STRING) {
        return err_set(e, EINVAL, "incorrect description length in server's list response");
    }
    if (exports->len == MAX_EXPORTS) {
        return err_set(e, EINVAL, "the server's list has more than %d exports", MAX_EXPORTS);
    }
    struct nbd_peer_export *x = g_new0(struct nbd_peer_export, 1);
    x->name = g_strndup((const char *)r->data + 4, len);
    x->description = g_strndup((const char *)r->data + 4 + len, r->len - 4 - len);
    x->contexts = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(exports, x);
    return 0;
}

static int read_names(struct nbd_peer *p, GPtrArray *exports, struct reply *r, struct err *e)
{
    for (;;) {
        bool lacking = false;
        int rc = read_reply(p, NBD_OPT_LIST, r, e);
        rc = rc ? rc : check_reply(NBD_OPT_LIST, r, IF_KNOWN, &lacking, e);
        if (!rc && r->type == NBD_REP_ACK && r->len) {
            rc = err_set(e, EINVAL, "length too long for option end");
        }
        if (rc || lacking || r->type == NBD_REP_ACK) {
            return rc;
        }
        rc = take_name(r, exports, e);
        if (rc) {
            return rc;
        }
    }
}

static int check_blocks(const struct nbd_peer_export *x, struct err *e)
{
    if (!is_pow2(x->min_block)) {
        return err_set(e, EINVAL, "server minimum block size %u is not a power of two", x->min_block);
    }
    if (!is_pow2(x->preferred_block) || x->preferred_block < x->min_block) {
        return err_set(e, EINVAL, "server preferred block size %u is not valid", x->preferred_block);
    }
    return x->max_block < x->min_block ? err_set(e, EINVAL, "server maximum block size %u is not valid", x->max_block)
                                       : 0;
}

static int take_info(const struct reply *r, struct nbd_peer_export *x, struct err *e)
{
    if (r->type != NBD_REP_INFO) {
        return err_set(e, EINVAL, "unexpected reply type %u (%s), expected %u (%s)", r->type, rep_text(r->type),
                       NBD_REP_INFO, rep_text(NBD_REP_INFO));
    }
    if (r->len < 2) {
        return err_set(e, EINVAL, "NBD_REP_INFO length %u is too short", r->len);
    }
    const uint8_t *p = r->data + 2;
    uint16_t type = load_be16(r->data);
    if ((type == NBD_INFO_EXPORT && r->len != 12) || (type == NBD_INFO_BLOCK_SIZE && r->len != 14)) {
        return err_set(e, EINVAL, "remaining export info len %u is unexpected size", r->len - 2);
    }
    if (type == NBD_INFO_EXPORT) {
        x->size = load_be64(p);
        x->flags = load_be16(p + 8);
        x->known = x->flags != 0;
    } else if (type == NBD_INFO_BLOCK_SIZE) {
        x->min_block = load_be32(p);
        x->preferred_block = load_be32(p + 4);
        x->max_block = load_be32(p + 8);
        return check_blocks(x, e);
    }
    return 0;
}

/* INFO or GO. */
static int ask_info(struct nbd_peer *p, uint32_t opt, const char *name, struct nbd_peer_export *x, bool *lacking,
                    struct err *e)
{
    struct reply r = {0};
    g_autoptr(GByteArray) b = g_byte_array_new();
    static const uint8_t requests[4] = {0, 1, 0, NBD_INFO_BLOCK_SIZE};
    put_string(b, name);
    g_byte_array_append(b, requests, sizeof(requests));
    int rc = send_option(p, opt, b, e);
    while (!rc && !*lacking) {
        rc = read_reply(p, opt, &r, e);
        rc = rc ? rc : check_reply(opt, &r, opt == NBD_OPT_INFO ? IF_KNOWN : NEEDED, lacking, e);
        if (!rc && r.type == NBD_REP_ACK && r.len) {
            rc = err_set(e, EINVAL, "server sent invalid NBD_REP_ACK");
        }
        if (rc || *lacking || r.type == NBD_REP_ACK) {
            break;
        }
        rc = take_info(&r, x, e);
    }
    g_free(r.data);
    return rc || x->known || *lacking ? rc : err_set(e, EINVAL, "broken server omitted NBD_INFO_EXPORT");
}

static int take_context(const struct reply *r, struct nbd_peer_export *x, struct err *e)
{
    if (r->type != NBD_REP_META_CONTEXT) {
        return err_set(e, EINVAL, "Unexpected reply type %u (%s), expected %u (%s)", r->type, rep_text(r->type),
                       NBD_REP_META_CONTEXT, rep_text(NBD_REP_META_CONTEXT));
    }
    if (r->len <= 4 || x->contexts->len == MAX_CONTEXTS) {
        return err_set(e, EINVAL, "Failed to negotiate meta context, server answered with unexpected length %u",
                       r->len);
    }
    g_ptr_array_add(x->contexts, g_strndup((const char *)r->data + 4, r->len - 4));
    return 0;
}

/* `query` NULL: all of them. */
static int ask_contexts(struct nbd_peer *p, struct nbd_peer_export *x, const char *query, struct err *e)
{
    struct reply r = {0};
    g_autoptr(GByteArray) b = g_byte_array_new();
    bool lacking = false;
    uint8_t n[4];
    store_be32(n, query ? 1 : 0);
    put_string(b, x->name);
    g_byte_array_append(b, n, sizeof(n));
    if (query) {
        put_string(b, query);
    }
    int rc = send_option(p, NBD_OPT_LIST_META_CONTEXT, b, e);
    while (!rc) {
        rc = read_reply(p, NBD_OPT_LIST_META_CONTEXT, &r, e);
        rc = rc ? rc : check_reply(NBD_OPT_LIST_META_CONTEXT, &r, IF_ALLOWED, &lacking, e);
        if (!rc && r.type == NBD_REP_ACK && r.len) {
            rc = err_set(e, EINVAL, "Unexpected length to ACK response");
        }
        if (rc || lacking || r.type == NBD_REP_ACK) {
            break;
        }
        rc = take_context(&r, x, e);
    }
    g_free(r.data);
    return rc;
}

/* QEMU 3.0 forgets its own when asked for all. */
static int ask_all_contexts(struct nbd_peer *p, struct nbd_peer_export *x, struct err *e)
{
    int rc = ask_contexts(p, x, NULL, e);
    bool qemu = false;
    for (guint i = 0; i < x->contexts->len; i++) {
        qemu |= g_str_has_prefix(x->contexts->pdata[i], "qemu:");
    }
    return rc || qemu || !x->contexts->len ? rc : ask_contexts(p, x, "qemu:", e);
}

static int list_old(struct nbd_peer *p, GPtrArray *exports)
{
    struct nbd_peer_export *x = g_new0(struct nbd_peer_export, 1);
    *x = (struct nbd_peer_export){.name = g_strdup(""),
                                  .description = g_strdup(""),
                                  .known = true,
                                  .size = p->size,
                                  .flags = p->flags,
                                  .contexts = g_ptr_array_new_with_free_func(g_free)};
    g_ptr_array_add(exports, x);
    return 0;
}

int nbd_peer_list(struct nbd_peer *p, GPtrArray *exports, struct err *e)
{
    struct reply r = {0};
    if (p->oldstyle) {
        return list_old(p, exports);
    }
    if (!p->fixed) {
        return err_set(e, EINVAL, "Server does not support export lists");
    }
    int rc = send_option(p, NBD_OPT_LIST, NULL, e);
    rc = rc ? rc : read_names(p, exports, &r, e);
    g_free(r.data);
    bool lacking = false; /* such a server knows nothing of contexts either */
    for (guint i = 0; !rc && !lacking && i < exports->len; i++) {
        struct nbd_peer_export *x = g_ptr_array_index(exports, i);
        rc = ask_info(p, NBD_OPT_INFO, x->name, x, &lacking, e);
        if (!rc && !lacking && p->structured) {
            rc = ask_all_contexts(p, x, e);
        }
    }
    return rc;
}

int nbd_peer_go(struct nbd_peer *p, const char *name, struct nbd_peer_export *x, struct err *e)
{
    bool lacking = false;
    int rc = p->fixed ? ask_info(p, NBD_OPT_GO, name, x, &lacking, e)
                      : err_set(e, EINVAL, "Server does not support option go");
    p->haggling = rc != 0;
    return rc;
}
