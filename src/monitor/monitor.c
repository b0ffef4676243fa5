/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/monitor.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "monitor/session.h"

#include <string.h>

enum { OUT_HIGH = 1 << 20, EVENT_LIMIT = 4 << 20, QUEUE_MAX = 8, READ_MAX = 4096 };

void session_flush(struct monitor *m)
{
    if (m->out->len) {
        size_t took = chardev_write(&m->port, m->out->str, m->out->len);
        /* The chardev may have noticed only now that nobody is there, and on_closed() have emptied it. */
        g_string_erase(m->out, 0, (gssize)MIN(took, m->out->len));
    }
}

void session_write(struct monitor *m, const char *s, size_t n)
{
    g_string_append_len(m->out, s, (gssize)n);
    session_flush(m);
}

bool session_choked(const struct monitor *m)
{
    return m->out->len > OUT_HIGH;
}

void session_inherit(struct monitor *m)
{
    void (*heir)(void *opaque, int fd) = m->heir;
    m->heir = NULL;
    if (heir) {
        heir(m->heir_opaque, m->out->len ? -1 : chardev_take_connection(&m->port));
    }
}

/* --- the chardev's calls -------------------------------------------------------------------------------------- */

static size_t can_read(void *opaque)
{
    struct monitor *m = opaque;
    if (session_choked(m)) {
        return 0;
    }
    if (m->mode == MONITOR_READLINE) {
        return m->busy ? 0 : 1; /* what follows a line waits until the line has run */
    }
    return m->requests.length < QUEUE_MAX ? READ_MAX : 0;
}

static void on_read(void *opaque, const uint8_t *buf, size_t n)
{
    struct monitor *m = opaque;
    if (m->mode == MONITOR_CONTROL) {
        wire_parser_feed(&m->parser, buf, n);
        qmp_session_next(m);
    } else {
        hmp_session_read(m, buf, n);
    }
}

static void on_opened(struct monitor *m)
{
    m->open = true;
    if (m->mode == MONITOR_CONTROL) {
        qmp_session_opened(m);
    } else {
        hmp_session_opened(m);
    }
}

static void close_fds(struct monitor *m)
{
    GHashTableIter it;
    gpointer fd;
    g_hash_table_iter_init(&it, m->fds);
    while (g_hash_table_iter_next(&it, NULL, &fd)) {
        close(GPOINTER_TO_INT(fd) - 1);
    }
    g_hash_table_remove_all(m->fds);
}

static void on_closed(struct monitor *m)
{
    m->open = false;
    m->generation++;
    g_string_truncate(m->out, 0);
    session_inherit(m);
    close_fds(m);
    if (m->mode == MONITOR_CONTROL) {
        qmp_session_closed(m);
    }
}

static void on_event(void *opaque, enum chardev_event ev)
{
    struct monitor *m = opaque;
    if (ev == CHARDEV_OPENED && !m->open) {
        on_opened(m);
    } else if (ev == CHARDEV_CLOSED && m->open) {
        on_closed(m);
    } else if (ev == CHARDEV_FOCUS_IN && m->mode == MONITOR_READLINE) {
        hmp_session_focus(m);
    }
}

static void on_writable(void *opaque)
{
    struct monitor *m = opaque;
    session_flush(m);
    if (m->dropped_events && m->out->len < OUT_HIGH) {
        log_warn(m->env->log, "monitor '%s': %lu events were not sent: nobody read them", chardev_id(m->chr),
                 m->dropped_events);
        m->dropped_events = 0;
    }
    if (m->mode == MONITOR_CONTROL) {
        qmp_session_next(m);
    }
    if (can_read(m)) {
        chardev_accept_input(&m->port);
    }
}

static const struct chardev_ops port_ops = {
    .can_read = can_read,
    .read = on_read,
    .event = on_event,
    .writable = on_writable,
};

bool mon_as_qemu(const struct mon_env *env)
{
    const char *program = env->program ? env->program : "", *slash = strrchr(program, '/');
    return g_str_has_prefix(slash ? slash + 1 : program, "qemu");
}

/* An event that QEMU's jobs do not have: its clients take a job's events to be all known. Where the guest stands still
 * until somebody goes on, it is told all the same. */
static bool is_ours_alone(struct monitor *m, const char *name, struct json_object *data)
{
    return !strcmp(name, "BLOCK_JOB_SWITCHED") && mon_as_qemu(m->env) &&
           !json_object_get_boolean(json_object_object_get(data, "stopped"));
}

static void on_vm_event(void *opaque, const char *name, struct json_object *data)
{
    struct monitor *m = opaque;
    if (!m->open || !m->negotiated || is_ours_alone(m, name, data)) {
        return;
    }
    if (m->out->len > EVENT_LIMIT) {
        m->dropped_events++;
        return;
    }
    qmp_session_event(m, name, data);
}

/* Coroutines have ended. */
static void on_done(void *opaque)
{
    struct monitor *m = opaque;
    if (m->mode == MONITOR_CONTROL) {
        qmp_session_done(m);
        qmp_session_next(m);
    } else {
        hmp_session_done(m);
    }
    if (can_read(m)) {
        chardev_accept_input(&m->port);
    }
}

/* --- life ------------------------------------------------------------------------------------------------------- */

int monitor_create(struct mon_env *env, struct chardev *c, enum monitor_mode mode, bool pretty, struct monitor **out,
                   struct err *e)
{
    struct monitor *m = g_new0(struct monitor, 1);
    *out = NULL;
    m->env = env;
    m->chr = c;
    m->mode = mode;
    m->pretty = pretty;
    m->out = g_string_new(NULL);
    m->fds = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_queue_init(&m->requests);
    g_queue_init(&m->done);
    wire_parser_init(&m->parser, qmp_message, m);
    m->done_event = loop_event_create(env->loop, on_done, m);
    int rc = mode == MONITOR_READLINE ? hmp_session_init(m, e) : 0;
    if (rc == 0) {
        rc = chardev_attach(c, &m->port, &port_ops, m, e);
    }
    if (rc) {
        monitor_destroy(m);
        return rc;
    }
    if (mode == MONITOR_CONTROL && env->bus) {
        event_subscribe(env->bus, on_vm_event, m);
    }
    if (chardev_connected(c) && !m->open) {
        on_opened(m);
    }
    *out = m;
    return 0;
}

void session_free(struct monitor *m)
{
    g_string_free(m->out, TRUE);
    close_fds(m);
    g_hash_table_destroy(m->fds);
    wire_parser_finish(&m->parser);
    hmp_session_finish(m);
    g_free(m);
}

void monitor_destroy(struct monitor *m)
{
    if (!m) {
        return;
    }
    if (m->mode == MONITOR_CONTROL) {
        qmp_session_done(m);
        if (m->env->bus) {
            event_unsubscribe(m->env->bus, m);
        }
        qmp_session_closed(m);
    } else {
        hmp_session_done(m);
    }
    session_inherit(m);
    if (m->out->len && m->port.c) {
        chardev_write_all(&m->port, m->out->str, m->out->len);
        g_string_truncate(m->out, 0);
    }
    chardev_detach(&m->port);
    loop_event_destroy(m->done_event);
    m->done_event = NULL;
    m->generation++;
    m->dead = true;
    if (!m->active) {
        session_free(m);
    }
}

int monitor_give_away(struct monitor *m, void (*fn)(void *opaque, int fd), void *opaque, struct err *e)
{
    if (!m || m->mode != MONITOR_CONTROL || !chardev_has_connection(&m->port)) {
        return err_set(e, ENOTSUP, "this monitor is not a connection of its own over a socket");
    }
    if (m->requests.length || m->heir) {
        return err_set(e, EINVAL, "there are other commands behind this one, which must be the last");
    }
    m->heir = fn;
    m->heir_opaque = opaque;
    return 0;
}

bool monitor_is_qmp(const struct monitor *m)
{
    return m->mode == MONITOR_CONTROL;
}

struct chardev *monitor_chardev(const struct monitor *m)
{
    return m->chr;
}

int monitor_take_fd(struct monitor *m, const char *name)
{
    int fd = m ? GPOINTER_TO_INT(g_hash_table_lookup(m->fds, name)) - 1 : -1;
    if (fd >= 0) {
        g_hash_table_remove(m->fds, name);
    }
    return fd;
}
