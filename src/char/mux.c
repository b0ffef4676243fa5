/* SPDX-License-Identifier: BSD-2-Clause */
/* Several front ends on one terminal: Ctrl-A is the prefix of the keys that are ours. */
#include "char/impl.h"

#include <string.h>
#include <time.h>

enum { ESCAPE = 0x01 };

static size_t port_room(struct chardev_port *p)
{
    return p->ops->can_read ? p->ops->can_read(p->opaque) : SIZE_MAX;
}

/* One byte may go to the front end, to its fifo, or be a key of ours. */
size_t mux_room(struct chardev *c)
{
    struct chardev_port *p = c->mux.focus;
    return p ? sizeof(p->fifo) - p->fifo_len : 0;
}

/* Hands one port what it takes now; false: none takes anything. */
static bool flush_one(struct chardev *c)
{
    for (struct chardev_port *p = c->ports; p; p = p->next) {
        size_t n = p->fifo_len ? MIN(p->fifo_len, port_room(p)) : 0;
        if (n) {
            uint8_t keys[sizeof(p->fifo)];
            memcpy(keys, p->fifo, n);
            p->fifo_len -= (unsigned)n;
            memmove(p->fifo, p->fifo + n, p->fifo_len);
            p->ops->read(p->opaque, keys, n);
            return true;
        }
    }
    return false;
}

void mux_flush(struct chardev *c)
{
    while (flush_one(c)) { /* from the start each time: a front end may go while it reads */
    }
}

void mux_focus(struct chardev *c, struct chardev_port *p)
{
    struct chardev_port *old = c->mux.focus;
    if (old == p) {
        return;
    }
    c->mux.focus = p;
    if (old && old->ops->event) {
        old->ops->event(old->opaque, CHARDEV_FOCUS_OUT);
    }
    if (c->mux.focus == p && p->ops->event) {
        p->ops->event(p->opaque, CHARDEV_FOCUS_IN);
    }
}

static void help(struct chardev *c)
{
    static const char text[] = "\n\r"
                               "C-a h    print this help\n\r"
                               "C-a x    exit emulator\n\r"
                               "C-a t    toggle console timestamps\n\r"
                               "C-a b    send break (magic sysrq)\n\r"
                               "C-a c    switch between console and monitor\n\r"
                               "C-a C-a  sends C-a\n\r";
    chardev_output(c, text, sizeof(text) - 1);
}

static void quit(struct chardev *c)
{
    static const char text[] = "Sterna: Terminated\n\r";
    chardev_output(c, text, sizeof(text) - 1);
    if (c->mux.quit) {
        c->mux.quit(c->mux.quit_opaque);
    } else {
        loop_stop(c->loop);
    }
}

static void escaped_key(struct chardev *c, uint8_t key)
{
    struct chardev_port *p = c->mux.focus;
    switch (key) {
    case 'h':
    case '?':
        help(c);
        break;
    case 'x':
        quit(c);
        break;
    case 't':
        c->mux.timestamps = !c->mux.timestamps;
        c->mux.line_start = true;
        break;
    case 'b':
        if (p && p->ops->event) {
            p->ops->event(p->opaque, CHARDEV_BREAK);
        }
        break;
    case 'c':
        if (c->ports) {
            mux_focus(c, p && p->next ? p->next : c->ports);
        }
        break;
    default:
        break;
    }
}

static void plain_key(struct chardev *c, uint8_t key)
{
    struct chardev_port *p = c->mux.focus;
    if (p && p->fifo_len < sizeof(p->fifo)) {
        p->fifo[p->fifo_len++] = key;
    }
}

void mux_input(struct chardev *c, const uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!c->mux.escaped && buf[i] == ESCAPE) {
            c->mux.escaped = true;
            continue;
        }
        if (!c->mux.escaped || buf[i] == ESCAPE) {
            plain_key(c, buf[i]);
        } else {
            mux_flush(c); /* what was typed before goes where the keyboard was */
            escaped_key(c, buf[i]);
        }
        c->mux.escaped = false;
    }
    mux_flush(c);
}

GString *mux_stamp(struct chardev *c, const uint8_t *buf, size_t n)
{
    GString *text = g_string_new(NULL);
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    struct tm tm;
    localtime_r(&ts.tv_sec, &tm);
    for (size_t i = 0; i < n; i++) {
        if (c->mux.line_start) {
            g_string_append_printf(text, "[%02d:%02d:%02d.%03d] ", tm.tm_hour, tm.tm_min, tm.tm_sec,
                                   (int)(ts.tv_nsec / 1000000));
        }
        g_string_append_c(text, (char)buf[i]);
        c->mux.line_start = buf[i] == '\n';
    }
    return text;
}
