/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/channel_tls.h"

#include "base/cleanup.h"
#include "loop/co.h"
#include "move/channel_int.h"

#include <errno.h>

enum { LOOK_NS = 200000000 }; /* whether it was broken meanwhile */

struct under_tls {
    struct channel *raw, *self; /* the socket; what is above */
    struct tls_session *session;
    bool up;
};

/* For what the last call would have waited. */
static int wait_for(struct under_tls *t, uint64_t deadline_ns)
{
    uint64_t now = loop_now_ns();
    if (deadline_ns <= now) {
        return -ETIMEDOUT;
    }
    int rc = co_poll(t->raw->fd, tls_events(t->session), MIN(deadline_ns - now, LOOK_NS));
    return t->raw->broken ? -EPIPE : rc < 0 && rc != -ETIMEDOUT ? rc : 0;
}

/* As channel_writev() does. */
static int wait_for_room(struct under_tls *t, uint64_t *looks)
{
    int rc = co_poll(t->raw->fd, tls_events(t->session), LOOK_NS);
    if (t->raw->broken) {
        return -EPIPE;
    }
    if (rc != -ETIMEDOUT) {
        return rc < 0 ? rc : 0;
    }
    uint64_t patience = t->self->patience_ns;
    return patience && ++*looks * LOOK_NS >= patience ? -ETIMEDOUT : 0;
}

static int write_all(void *opaque, const void *buf, size_t len)
{
    struct under_tls *t = opaque;
    uint64_t looks = 0;
    int rc = t->raw->broken || !t->up ? -EPIPE : 0;
    while (len && rc == 0) {
        const struct iovec iov = {(void *)(uintptr_t)buf, len};
        ssize_t n = tls_sendv(t->session, &iov, 1);
        if (n == -EAGAIN) {
            rc = wait_for_room(t, &looks);
        } else if (n < 0) {
            rc = (int)n;
        } else {
            buf = (const char *)buf + n;
            len -= (size_t)n;
            looks = 0;
        }
    }
    return rc;
}

/* Where the stream ends it says itself: a connection that goes without a good-bye is at its end. */
static ssize_t read_some(void *opaque, void *buf, size_t len, uint64_t deadline_ns)
{
    struct under_tls *t = opaque;
    int rc = t->raw->broken || !t->up ? -EPIPE : 0;
    while (rc == 0) {
        ssize_t n = tls_recv(t->session, buf, len);
        if (n != -EAGAIN) {
            return n == -ECONNABORTED ? 0 : n;
        }
        rc = wait_for(t, deadline_ns);
    }
    return rc;
}

static void break_(void *opaque)
{
    channel_break(((struct under_tls *)opaque)->raw);
}

static void close_(void *opaque)
{
    struct under_tls *t = opaque;
    if (t->up && !t->raw->broken) {
        tls_bye(t->session);
    }
    tls_session_destroy(t->session);
    channel_close(t->raw);
    g_free(t);
}

static const struct channel_ops under_tls_ops = {write_all, read_some, break_, close_};

int channel_start_tls(struct channel **ch, struct tls_creds *creds, const char *hostname, struct authz *authz,
                      uint64_t deadline_ns, struct err *e)
{
    struct tls_session *s = tls_session_create(creds, (*ch)->fd, hostname, authz, e);
    if (!s) {
        return -EINVAL;
    }
    struct under_tls *t = g_new0(struct under_tls, 1);
    t->raw = *ch;
    t->session = s;
    *ch = t->self = channel_of_ops(&under_tls_ops, t, channel_name(t->raw));
    int rc;
    while ((rc = tls_handshake(s, e)) == -EAGAIN) {
        rc = wait_for(t, deadline_ns);
        if (rc < 0) {
            return err_set_errno(e, -rc, "TLS handshake failed");
        }
    }
    t->up = rc == 0 || (rc == -EPERM && creds->server); /* who may not come can be told so */
    return rc;
}
