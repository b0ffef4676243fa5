/* SPDX-License-Identifier: BSD-2-Clause */
/* A connection from its beginning to its end. */
#include "export/nbd/int.h"

#include "base/cleanup.h"

#include <fcntl.h>

#define NS_PER_S UINT64_C(1000000000)

static void too_slow(void *opaque)
{
    struct nbs_client *c = opaque;
    c->timed_out = true;
    nbs_channel_shutdown(&c->ch);
}

static void wait_for_requests(struct nbs_client *c)
{
    while (c->in_flight || c->sending) {
        co_queue_wait(&c->slot_waiters);
    }
}

static void client_free(struct nbs_client *c)
{
    while (c->spare) {
        struct nbs_request *r = c->spare;
        c->spare = r->next;
        g_free(r);
    }
    nbs_channel_finish(&c->ch);
    g_array_free(c->contexts, true);
    g_byte_array_free(c->replies, true);
    g_free(c->in);
    g_free(c);
}

static void leave_export(struct nbs_client *c)
{
    if (c->exp && --c->exp->clients == 0) {
        co_queue_wake_all(&c->exp->idle_waiters);
    }
    c->exp = NULL;
}

static int converse(struct nbs_client *c, struct err *e)
{
    unsigned seconds = c->server->o.handshake_seconds;
    if (seconds) {
        timer_arm(&c->time_limit, loop_now_ns() + seconds * NS_PER_S);
    }
    int rc = nbs_handshake(c, e);
    timer_cancel(&c->time_limit);
    if (rc < 0) {
        if (c->timed_out) {
            return err_set(e, ETIMEDOUT, "option negotiation failed: client took too long to negotiate");
        }
        return err_is_set(e) ? err_wrap(e, "option negotiation failed") : rc;
    }
    c->negotiated = true;
    rc = nbs_transmit(c, e);
    return err_is_set(e) ? err_wrap(e, "Disconnect client, due to") : rc;
}

static void client_run(void *opaque)
{
    struct nbs_client *c = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    converse(c, &e);
    c->closing = true;
    wait_for_requests(c);
    if (err_is_set(&e) && !c->server->closing) {
        log_error(c->server->log, "%s", err_text(&e));
    }
    if (c->ch.tls && !c->broken && !err_is_set(&e)) {
        tls_bye(c->ch.tls); /* what does not go at once need not go */
    }
    leave_export(c);
    if (err_is_set(&e) && !c->server->closing) {
        nbs_channel_linger(&c->ch);
    }
    nbs_server_client_gone(c);
    client_free(c);
}

void nbs_client_start(struct nbd_server *s, int fd)
{
    struct nbs_client *c = g_new0(struct nbs_client, 1);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    c->server = s;
    nbs_channel_init(&c->ch, s->loop, fd);
    timer_init(&c->time_limit, s->loop, too_slow, c);
    c->in = g_malloc(NBS_INPUT);
    c->contexts = g_array_new(false, false, sizeof(uint32_t));
    c->replies = g_byte_array_new();
    c->out_tail = &c->out_head;
    g_ptr_array_add(s->clients, c);
    co_start_later(s->loop, client_run, c);
}
