/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One connection: the socket, the handle, the handshake. Texts of errors are those that people know from QEMU, as far
 * as libnbd tells enough; what the server itself said is taken from libnbd's debug messages, and left out if they
 * change.
 */
#include "block/nbd/link.h"

#include "base/cleanup.h"

#include <libnbd.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#define PSK_USER "qemu"

/* --- the handle ------------------------------------------------------------------------------------------------- */

static int on_debug(void *opaque, const char *context, const char *text)
{
    static const char mark[] = "server error message: ", moves[] = "transition: ", to[] = " -> ";
    struct nbd_link *k = opaque;
    const char *said = strstr(text, mark);
    const char *state = g_str_has_prefix(text, moves) ? strstr(text, to) : NULL;
    if (state && !g_str_has_suffix(state, "DEAD")) {
        g_strlcpy(k->doing, state + sizeof(to) - 1, sizeof(k->doing));
    }
    if (said) {
        g_free(k->server_said);
        k->server_said = g_utf8_make_valid(said + sizeof(mark) - 1, -1);
    }
    return 0;
}

/* What the library says, without the name of the function, which says nothing to anybody. */
static int text_error(struct err *e, int code, const char *what, const char *text)
{
    const char *colon = text ? strstr(text, ": ") : NULL;
    if (colon && g_str_has_prefix(text, "nbd_")) {
        text = colon + 2;
    }
    return err_set(e, code ? code : EIO, "%s: %s", what, text ? text : "unknown error");
}

static int library_error(struct err *e, const char *what)
{
    return text_error(e, nbd_get_errno(), what, nbd_get_error());
}

/* What the library was waiting for. */
static const char *awaited(const char *state)
{
    return g_str_has_prefix(state, "MAGIC")                      ? "initial magic"
           : !strcmp(state, "NEWSTYLE.RECV_GFLAGS")              ? "server flags"
           : g_str_has_prefix(state, "OLDSTYLE")                 ? "export length"
           : g_str_has_prefix(state, "NEWSTYLE.OPT_EXPORT_NAME") ? "export length"
                                                                 : "option reply";
}

/* "…TEXT (code/code)" of the TLS library, for which there are words that people know. */
static int handshake_failed(const struct nbd_link *k, int code, const char *text, struct err *e)
{
    static const char tls[] = "gnutls_handshake: ", channel[] = "gnutls_record_recv: ";
    const char *found;
    if (text && strstr(text, "recv: server disconnected unexpectedly")) {
        return err_set(e, EPIPE, "Failed to read %s: Unexpected end-of-file before all data were read",
                       awaited(k->doing));
    }
    if (text && strstr(text, "recv: ") && code) {
        return err_set_errno(e, code, "Failed to read %s: Unable to read from socket", awaited(k->doing));
    }
    if (text && (found = strstr(text, tls))) {
        found += sizeof(tls) - 1;
        const char *codes = strstr(found, " (");
        int len = codes ? (int)(codes - found) : (int)strlen(found);
        return err_set(e, EINVAL, "TLS handshake failed: %.*s", len, found);
    }
    if (text && (found = strstr(text, channel))) {
        bool ended = strstr(found, "non-properly terminated") != NULL;
        return err_set(e, EINVAL, "Failed to read option reply: Cannot read from TLS channel: %s",
                       ended ? g_strerror(ECONNABORTED) : found + sizeof(channel) - 1);
    }
    return text_error(e, code, "Failed to negotiate with the NBD server", text);
}

static int handshake_error(const struct nbd_link *k, struct err *e)
{
    return handshake_failed(k, nbd_get_errno(), nbd_get_error(), e);
}

/* Without an authority in the folder libnbd would take the system's, and older versions would then check nothing. */
static int check_authority(const struct tls_creds *t, struct err *e)
{
    CLEANUP_FREE char *file = g_build_filename(t->dir ? t->dir : "", "ca-cert.pem", NULL);
    return access(file, R_OK) < 0 ? err_set_errno(e, errno, "Cannot read the certificate authority '%s'", file) : 0;
}

static int set_tls(struct nbd_link *k, struct nbd_handle *h, struct err *e)
{
    const struct tls_creds *t = k->config.creds;
    if (!t) {
        return 0;
    }
    int rc = nbd_set_tls(h, LIBNBD_TLS_REQUIRE);
    if (rc == 0 && t->kind == TLS_PSK) {
        CLEANUP_FREE char *file = g_build_filename(t->dir ? t->dir : ".", "keys.psk", NULL);
        rc = nbd_set_tls_psk_file(h, file);
        rc = rc ? rc : nbd_set_tls_username(h, t->username ? t->username : PSK_USER);
    } else if (rc == 0) {
        if (check_authority(t, e) < 0) {
            return -EINVAL;
        }
        rc = nbd_set_tls_certificates(h, t->dir);
        rc = rc ? rc : nbd_set_tls_verify_peer(h, t->verify_peer);
    }
    return rc ? library_error(e, "Could not set up TLS") : 0;
}

static int make_handle(struct nbd_link *k, struct nbd_handle **out, struct err *e)
{
    struct nbd_handle *h = nbd_create();
    if (!h) {
        return library_error(e, "Could not set up an NBD connection");
    }
    nbd_debug_callback debug = {.callback = on_debug, .user_data = k};
    const char *name = k->config.export_name ? k->config.export_name : "";
    int rc = nbd_set_debug_callback(h, debug) | nbd_set_debug(h, true) | nbd_set_opt_mode(h, true) |
             nbd_set_export_name(h, name) | nbd_add_meta_context(h, k->config.context) |
             nbd_set_pread_initialize(h, false);
    rc = rc ? library_error(e, "Could not set up an NBD connection") : set_tls(k, h, e);
    if (rc < 0) {
        nbd_close(h);
        return rc;
    }
    *out = h;
    return 0;
}

#ifndef LIBNBD_HAVE_NBD_SET_TLS_HOSTNAME
/*
 * libnbd checks certificates against the name that it was told to connect to, and older versions have no other way to
 * be told. So it is told to connect to a port that cannot be: nothing is looked up or sent, the name stays.
 */
static int nbd_set_tls_hostname(struct nbd_handle *h, const char *name)
{
    return nbd_aio_connect_tcp(h, name, "no such port") < 0 && nbd_aio_is_created(h) ? 0 : -1;
}
#endif

struct name_call {
    struct nbd_handle *h;
    const char *name;
};

static int set_name_blocking(void *arg)
{
    const struct name_call *c = arg;
    return nbd_set_tls_hostname(c->h, c->name);
}

static int set_hostname(struct nbd_link *k, struct nbd_handle *h, struct err *e)
{
    struct name_call c = {h, k->config.tls_hostname};
    if (!k->config.creds || !c.name || co_work(set_name_blocking, &c) == 0) {
        return 0;
    }
    return err_set(e, ENOTSUP, "This version of libnbd cannot check certificates for '%s'", c.name);
}

/* --- the handshake ---------------------------------------------------------------------------------------------- */

static int with_server_text(struct nbd_link *k, int errnum, struct err *e, const char *text)
{
    if (k->server_said) {
        return err_set(e, errnum, "%s\nserver reported: %s", text, k->server_said);
    }
    return err_set(e, errnum, "%s", text);
}

static int go_error(struct nbd_link *k, int errnum, struct err *e)
{
    const char *why = k->go_text ? k->go_text : "";
    if (strstr(why, "policy prevents")) {
        return with_server_text(k, EINVAL, e, "Denied by server for option 7 (go)");
    }
    if (strstr(why, "block size")) {
        return with_server_text(k, EINVAL, e, "Server requires INFO_BLOCK_SIZE for option 7 (go)");
    }
    switch (errnum) {
    case ENOENT:
        return with_server_text(k, ENOENT, e, "Requested export not available");
    case ENOTSUP:
        if (!k->config.creds) {
            return with_server_text(k, EINVAL, e,
                                    "TLS negotiation required before option 7 (go)\nDid you forget a valid tls-creds?");
        }
        return with_server_text(k, EINVAL, e, "Denied by server for option 7 (go)");
    case ESHUTDOWN:
        return with_server_text(k, ESHUTDOWN, e, "Server shutting down before option 7 (go)");
    default:
        return with_server_text(k, errnum ? errnum : EINVAL, e, "Invalid parameters for option 7 (go)");
    }
}

/* One step of libnbd's state machine as soon as the socket allows it. */
static int step(struct nbd_link *k, struct nbd_handle *h, struct err *e)
{
    unsigned dir = nbd_aio_get_direction(h);
    short events =
        (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) | (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    uint64_t now = loop_now_ns();
    int rc = -ETIMEDOUT;
    if (now < k->dial.deadline_ns) {
        k->dial.fd = k->fd;
        rc = co_poll(k->fd, events, k->dial.deadline_ns == UINT64_MAX ? UINT64_MAX : k->dial.deadline_ns - now);
        k->dial.fd = -1;
    }
    if (k->dial.stop || rc < 0) {
        return err_set_errno(e, k->dial.stop ? ECANCELED : -rc, "Failed to negotiate with the NBD server");
    }
    if (dir & LIBNBD_AIO_DIRECTION_READ && (rc & POLLIN || !(rc & POLLOUT))) {
        rc = nbd_aio_notify_read(h);
    } else {
        rc = nbd_aio_notify_write(h);
    }
    return rc < 0 ? handshake_error(k, e) : 0;
}

static int greet(struct nbd_link *k, struct nbd_handle *h, struct err *e)
{
    while (nbd_aio_is_connecting(h)) {
        int rc = step(k, h, e);
        if (rc < 0) {
            return rc;
        }
    }
    if (nbd_aio_is_negotiating(h) || nbd_aio_is_ready(h)) {
        return 0;
    }
    if (k->config.creds && nbd_aio_is_closed(h)) { /* not dead: the library hung up by itself */
        return with_server_text(k, EINVAL, e, "Denied by server for option 5 (starttls)");
    }
    return err_set(e, EINVAL, "Failed to negotiate with the NBD server: it closed the connection");
}

static int on_go(void *opaque, int *error)
{
    struct nbd_link *k = opaque;
    k->went = true;
    k->go_error = *error;
    k->go_text = *error ? g_strdup(nbd_get_error()) : NULL;
    return 1;
}

static int ask_for_export(struct nbd_link *k, struct nbd_handle *h, struct err *e)
{
    nbd_completion_callback cb = {.callback = on_go, .user_data = k};
    k->went = false;
    k->go_error = 0;
    g_clear_pointer(&k->server_said, g_free);
    g_clear_pointer(&k->go_text, g_free);
    if (nbd_aio_opt_go(h, cb) < 0) {
        return handshake_error(k, e);
    }
    while (!k->went && nbd_aio_is_connecting(h)) {
        int rc = step(k, h, e);
        if (rc < 0) {
            return rc;
        }
    }
    if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h) || !k->went) {
        const char *text = k->go_text ? k->go_text : "recv: server disconnected unexpectedly";
        return handshake_failed(k, k->go_error, text, e);
    }
    if (k->go_error) {
        return go_error(k, k->go_error, e);
    }
    return 0;
}

/* --- what the export is like ------------------------------------------------------------------------------------ */

static uint32_t block_size(struct nbd_handle *h, int which)
{
    int64_t size = nbd_get_block_size(h, which);
    return size > 0 && size <= UINT32_MAX ? (uint32_t)size : 0;
}

static int read_export(struct nbd_link *k, struct nbd_handle *h, struct nbd_export *x, struct err *e)
{
    int64_t size = nbd_get_size(h);
    if (size < 0) {
        return size == -1 ? err_set(e, EINVAL, "broken server omitted NBD_INFO_EXPORT")
                          : err_set(e, EFBIG, "export length %" PRIu64 " is too large", (uint64_t)size);
    }
    *x = (struct nbd_export){.size = (uint64_t)size,
                             .min_block = block_size(h, LIBNBD_SIZE_MINIMUM),
                             .opt_block = block_size(h, LIBNBD_SIZE_PREFERRED),
                             .max_block = block_size(h, LIBNBD_SIZE_MAXIMUM),
                             .read_only = nbd_is_read_only(h) > 0,
                             .can_flush = nbd_can_flush(h) > 0,
                             .can_fua = nbd_can_fua(h) > 0,
                             .can_trim = nbd_can_trim(h) > 0,
                             .can_zero = nbd_can_zero(h) > 0,
                             .can_fast_zero = nbd_can_fast_zero(h) > 0,
                             .can_cache = nbd_can_cache(h) > 0,
                             .has_context = nbd_can_meta_context(h, k->config.context) > 0};
    const char *protocol = nbd_get_protocol(h);
    if (protocol && !strcmp(protocol, "oldstyle") && k->config.export_name && *k->config.export_name) {
        return err_set(e, EINVAL, "Server does not support non-empty export names");
    }
    if (x->min_block && x->size % x->min_block) {
        return err_set(e, EINVAL, "export length %" PRIu64 " is not multiple of minimum block size %u", x->size,
                       x->min_block);
    }
    return 0;
}

static int shake_hands(struct nbd_link *k, struct nbd_handle *h, int fd, struct nbd_export *x, struct err *e)
{
    int rc = set_hostname(k, h, e);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    k->fd = dup(fd);
    if (k->fd < 0 || nbd_aio_connect_socket(h, fd) < 0) {
        rc = k->fd < 0 ? err_set_errno(e, errno, "Could not duplicate a socket") : handshake_error(k, e);
        return rc;
    }
    rc = greet(k, h, e);
    if (!rc && !nbd_aio_is_ready(h)) { /* an old server has told everything by now */
        rc = ask_for_export(k, h, e);
    }
    return rc ? rc : read_export(k, h, x, e);
}

/* A server that is left while it waits for an option would report that as a failure. */
static void take_leave(struct nbd_link *k, struct nbd_handle *h)
{
    if (nbd_aio_is_negotiating(h) && nbd_aio_opt_abort(h) == 0) {
        while (nbd_aio_is_connecting(h) && step(k, h, NULL) == 0) {
        }
    }
}

int nbd_link_connect(struct nbd_link *k, struct nbd_export *x, struct err *e)
{
    struct nbd_handle *h = NULL;
    int fd, rc = make_handle(k, &h, e);
    if (rc < 0) {
        return rc;
    }
    g_clear_pointer(&k->server_said, g_free);
    g_strlcpy(k->doing, "MAGIC", sizeof(k->doing));
    rc = nbd_dial(&k->config.address, &k->dial, &fd, e);
    rc = rc ? rc : shake_hands(k, h, fd, x, e);
    nbd_set_debug(h, false);
    if (rc < 0) {
        take_leave(k, h);
        nbd_close(h);
        if (k->fd >= 0) {
            close(k->fd);
            k->fd = -1;
        }
        return rc;
    }
    k->h = h;
    return 0;
}
