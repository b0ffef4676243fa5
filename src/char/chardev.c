/* SPDX-License-Identifier: BSD-2-Clause */
#include "char/char.h"

#include "base/cleanup.h"
#include "char/impl.h"

#include <fcntl.h>
#include <string.h>

enum { OUT_LIMIT = 64 << 10 };

static const struct chardev_driver *const drivers[] = {
    &chardev_socket_driver, &chardev_file_driver, &chardev_null_driver, &chardev_stdio_driver, &chardev_pty_driver,
};

static int find_driver(struct chardev *c, const char *name, struct err *e)
{
    g_autoptr(GString) known = g_string_new(NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (!strcmp(drivers[i]->name, name)) {
            c->driver = drivers[i];
            return 0;
        }
        g_string_append_printf(known, "%s%s", i ? ", " : "", drivers[i]->name);
    }
    return err_set(e, EINVAL, "'%s' is not a valid char driver name (valid: %s)", name, known->str);
}

static int open_log(struct chardev *c, const char *path, bool append, struct err *e)
{
    if (!path) {
        return 0;
    }
    c->log_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0666);
    return c->log_fd < 0 ? err_set_errno(e, errno, "Unable to open logfile %s", path) : 0;
}

static int setup(struct chardev *c, struct jread *r, struct err *e)
{
    c->id = g_strdup(jread_str_or(r, "id", ""));
    c->is_mux = jread_bool_or(r, "mux", false);
    jread_has(r, "monitor"); /* chardev_from_legacy()'s note to the command line */
    const char *log_path = jread_str_or(r, "logfile", NULL);
    bool append = jread_bool_or(r, "logappend", false);
    const char *backend = jread_str(r, "backend");
    if (r->rc) {
        return r->rc;
    }
    int rc = find_driver(c, backend, e);
    if (!rc) {
        rc = open_log(c, log_path, append, e);
    }
    return rc ? rc : c->driver->create(c, r, e);
}

struct chardev *chardev_create(struct loop *l, struct json_object *opts, struct err *e)
{
    struct chardev *c = g_new0(struct chardev, 1);
    c->loop = l;
    c->log_fd = -1;
    c->stream.in = -1;
    c->stream.out = -1;
    c->mux.line_start = true;
    struct jread r = jread_init(opts, NULL, e);
    int rc = setup(c, &r, e);
    int unknown = rc ? jread_end_lax(&r) : jread_end(&r);
    if (rc || unknown) {
        chardev_destroy(c);
        return NULL;
    }
    return c;
}

void chardev_destroy(struct chardev *c)
{
    if (!c) {
        return;
    }
    while (c->ports) {
        struct chardev_port *p = c->ports;
        c->ports = p->next;
        *p = (struct chardev_port){0};
    }
    stream_close(c);
    if (c->driver) {
        c->driver->destroy(c);
    }
    if (c->log_fd >= 0) {
        close(c->log_fd);
    }
    g_free(c->id);
    g_free(c);
}

const char *chardev_id(const struct chardev *c)
{
    return c->id;
}

char *chardev_filename(const struct chardev *c)
{
    return c->driver->filename ? c->driver->filename(c) : g_strdup(c->driver->name);
}

bool chardev_connected(const struct chardev *c)
{
    return c->connected;
}

bool chardev_is_mux(const struct chardev *c)
{
    return c->is_mux;
}

bool chardev_in_use(const struct chardev *c)
{
    return c->ports != NULL;
}

void chardev_on_quit(struct chardev *c, void (*fn)(void *opaque), void *opaque)
{
    c->mux.quit = fn;
    c->mux.quit_opaque = opaque;
}

/* --- ports ---------------------------------------------------------------------------------------------------- */

static void send_event(struct chardev_port *p, enum chardev_event ev)
{
    if (p->ops->event) {
        p->ops->event(p->opaque, ev);
    }
}

bool chardev_has_focus(const struct chardev_port *p)
{
    return p->c && (!p->c->is_mux || p->c->mux.focus == p);
}

int chardev_attach(struct chardev *c, struct chardev_port *p, const struct chardev_ops *ops, void *opaque,
                   struct err *e)
{
    if (p->c) {
        return err_set(e, EBUSY, "the port is attached to character device '%s' already", p->c->id);
    }
    if (c->ports && !c->is_mux) {
        return err_set(e, EBUSY, "Device '%s' is in use", c->id);
    }
    *p = (struct chardev_port){.c = c, .ops = ops, .opaque = opaque};
    struct chardev_port **tail = &c->ports;
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = p;
    if (!c->mux.focus) {
        c->mux.focus = p;
    }
    if (c->connected) {
        send_event(p, CHARDEV_OPENED);
    }
    stream_update(c);
    return 0;
}

void chardev_detach(struct chardev_port *p)
{
    struct chardev *c = p->c;
    if (!c) {
        return;
    }
    for (struct chardev_port **q = &c->ports; *q; q = &(*q)->next) {
        if (*q == p) {
            *q = p->next;
            break;
        }
    }
    if (c->mux.focus == p) {
        c->mux.focus = c->ports;
        if (c->is_mux && c->ports) {
            send_event(c->ports, CHARDEV_FOCUS_IN);
        }
    }
    *p = (struct chardev_port){0};
    stream_update(c);
}

void chardev_focus(struct chardev_port *p)
{
    if (p->c) {
        mux_focus(p->c, p);
    }
}

void chardev_accept_input(struct chardev_port *p)
{
    struct chardev *c = p->c;
    if (!c) {
        return;
    }
    if (c->is_mux) {
        mux_flush(c);
    }
    stream_update(c);
}

static void log_output(struct chardev *c, const void *buf, size_t n)
{
    if (c->log_fd >= 0 && n) {
        ssize_t done = write(c->log_fd, buf, n);
        (void)done; /* a full disk must not stop the guest's console */
    }
}

static size_t put(struct chardev *c, const void *buf, size_t n, size_t limit)
{
    size_t took = c->connected ? stream_write(c, buf, n, limit) : n;
    log_output(c, buf, took);
    return took;
}

size_t chardev_write(struct chardev_port *p, const void *buf, size_t n)
{
    struct chardev *c = p->c;
    if (!c) {
        return n;
    }
    if (c->is_mux && c->mux.timestamps) {
        g_autoptr(GString) text = mux_stamp(c, buf, n);
        put(c, text->str, text->len, SIZE_MAX);
        return n;
    }
    size_t took = put(c, buf, n, OUT_LIMIT);
    p->starved = took < n;
    return took;
}

void chardev_output(struct chardev *c, const void *buf, size_t n)
{
    put(c, buf, n, SIZE_MAX);
}

void chardev_write_all(struct chardev_port *p, const void *buf, size_t n)
{
    if (p->c) {
        put(p->c, buf, n, SIZE_MAX);
    }
}

size_t chardev_pending(const struct chardev_port *p)
{
    return p->c && p->c->stream.pending ? p->c->stream.pending->len : 0;
}

bool chardev_has_connection(const struct chardev_port *p)
{
    return p->c && p->c->driver == &chardev_socket_driver && !p->c->is_mux && p->c->connected;
}

int chardev_take_connection(struct chardev_port *p)
{
    if (!chardev_has_connection(p) || chardev_pending(p)) {
        return -1;
    }
    int fd = fcntl(p->c->stream.in, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0) {
        p->c->driver->hangup(p->c);
    }
    return fd;
}

int chardev_take_fd(struct chardev_port *p)
{
    GArray *fds = p->c ? p->c->stream.fds : NULL;
    if (!fds || !fds->len) {
        return -1;
    }
    int fd = g_array_index(fds, int, 0);
    g_array_remove_index(fds, 0);
    return fd;
}

/* --- driver -> front ends ------------------------------------------------------------------------------------- */

size_t chardev_room(struct chardev *c)
{
    if (c->is_mux) {
        return mux_room(c);
    }
    struct chardev_port *p = c->ports;
    if (!p) {
        return 0;
    }
    return p->ops->can_read ? p->ops->can_read(p->opaque) : SIZE_MAX;
}

void chardev_input(struct chardev *c, const uint8_t *buf, size_t n)
{
    if (c->is_mux) {
        mux_input(c, buf, n);
    } else if (c->ports) {
        c->ports->ops->read(c->ports->opaque, buf, n);
    }
}

void chardev_event_all(struct chardev *c, enum chardev_event ev)
{
    struct chardev_port *next;
    for (struct chardev_port *p = c->ports; p; p = next) {
        next = p->next;
        send_event(p, ev);
    }
}

void chardev_drained(struct chardev *c)
{
    struct chardev_port *next;
    for (struct chardev_port *p = c->ports; p; p = next) {
        next = p->next;
        if (p->starved) {
            p->starved = false;
            if (p->ops->writable) {
                p->ops->writable(p->opaque);
            }
        }
    }
}

void chardev_set_connected(struct chardev *c, bool connected)
{
    if (c->connected != connected) {
        c->connected = connected;
        chardev_event_all(c, connected ? CHARDEV_OPENED : CHARDEV_CLOSED);
        if (!connected) {
            chardev_drained(c); /* from now on all is taken */
        }
    }
}
