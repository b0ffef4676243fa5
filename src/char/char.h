/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices: the host's end of serial lines, consoles and monitors. Everything here is for the loop thread.
 *
 *     chardev (socket, file, stdio, pty, null)  <--  one port, or with mux=on several, of which one has the keyboard
 *
 * Options are a JSON object in the terms of QEMU's -chardev: {"id": "ser0", "backend": "socket", "path": "/x",
 * "server": "on"}.
 *
 *     socket  path= | host=, port= | fd=; server=, wait=, reconnect= (s), reconnect-ms=, nodelay=, ipv4=, ipv6=
 *     file    path=, append=, input-path=
 *     stdio   signal=
 *     pty, null
 *     all     mux=, logfile=, logappend=
 *
 * Nothing here blocks, except chardev_create() for a server with wait=on (as asked) and a client without reconnect=.
 * Whoever uses these ignores SIGPIPE.
 */
#pragma once

#include "base/err.h"
#include "loop/loop.h"

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;

enum chardev_event {
    CHARDEV_OPENED,    /* somebody is at the other end now (at once on attach, where that is so already) */
    CHARDEV_CLOSED,    /* nobody is any more */
    CHARDEV_BREAK,     /* a serial break (Ctrl-A b) */
    CHARDEV_FOCUS_IN,  /* mux: the keyboard is yours: show a prompt */
    CHARDEV_FOCUS_OUT, /* mux: it is another's */
};

/* What a front end does; called on the loop thread, never inside a coroutine. Any may be NULL except read. A callback
 * may detach its port, but not destroy the chardev. */
struct chardev_ops {
    size_t (*can_read)(void *opaque); /* how many bytes it takes now; NULL: any number */
    void (*read)(void *opaque, const uint8_t *buf, size_t n);
    void (*event)(void *opaque, enum chardev_event ev);
    void (*writable)(void *opaque); /* after a short chardev_write(): there is room again */
};

/* A front end's hold on a chardev; embed it, zero-initialised. Nobody but this module looks inside. */
struct chardev_port {
    struct chardev *c; /* NULL: not attached */
    const struct chardev_ops *ops;
    void *opaque;
    struct chardev_port *next;
    uint8_t fifo[256]; /* mux: keys typed while the front end was not ready */
    unsigned fifo_len;
    bool starved; /* a write was short */
};

/* `opts` is borrowed. NULL on error. */
struct chardev *chardev_create(struct loop *l, struct json_object *opts, struct err *e);
/* Detaches all ports first (without events). Flushes what it can without blocking, removes sockets from the file
 * system, restores the terminal. NULL is fine. */
void chardev_destroy(struct chardev *c);
const char *chardev_id(const struct chardev *c);
/* As query-chardev's "filename" says it: "unix:/x,server=on", "disconnected:tcp:…", "pty:/dev/pts/3". Caller frees. */
char *chardev_filename(const struct chardev *c);
bool chardev_connected(const struct chardev *c);
bool chardev_is_mux(const struct chardev *c);
bool chardev_in_use(const struct chardev *c); /* a port is attached */
/* Ctrl-A x on a mux calls fn instead of loop_stop(). */
void chardev_on_quit(struct chardev *c, void (*fn)(void *opaque), void *opaque);

/* -EBUSY when somebody has it and it is no mux. */
int chardev_attach(struct chardev *c, struct chardev_port *p, const struct chardev_ops *ops, void *opaque,
                   struct err *e);
void chardev_detach(struct chardev_port *p); /* legal when not attached */
/* Gives the keyboard of a mux to this port (the first that attaches has it otherwise). */
void chardev_focus(struct chardev_port *p);
/* It is the one of a mux that has the keyboard, or the chardev's only one. */
bool chardev_has_focus(const struct chardev_port *p);
/* can_read() may give more than before. */
void chardev_accept_input(struct chardev_port *p);
/* Takes what fits in a bounded buffer and returns how much that is; after a short write ops->writable is called once
 * there is room. With nobody at the other end everything is taken and dropped. */
size_t chardev_write(struct chardev_port *p, const void *buf, size_t n);
/* Takes everything, however much. For monitors, which do not read on before their answer is out. */
void chardev_write_all(struct chardev_port *p, const void *buf, size_t n);
/* Bytes taken that the other end has not read. */
size_t chardev_pending(const struct chardev_port *p);
/* Takes the connection away from a socket that is no mux, as if the other end had hung up, without closing it: the
 * caller's from now on. -1: there is none, or it has not read all that it was sent. Not from inside a coroutine. */
int chardev_take_connection(struct chardev_port *p);
bool chardev_has_connection(const struct chardev_port *p); /* there would be one to take */
/* The oldest file descriptor that came over a Unix socket (SCM_RIGHTS), now the caller's; -1 when there is none. */
int chardev_take_fd(struct chardev_port *p);

/* The short forms of -serial, -monitor, -qmp: "unix:PATH,server=on,wait=off" (also ",server,nowait"),
 * "tcp:HOST:PORT,…", "stdio", "pty", "null", "file:PATH", "fd:N", "mon:stdio" (mux, with "monitor": true besides, which
 * chardev_create() skips) -> options of chardev_create() without "id". "chardev:ID" gives {"chardev": ID}; "none" gives
 * {}. NULL on error. */
struct json_object *chardev_from_legacy(const char *spec, struct err *e);
/* -chardev's text, "socket,id=x,path=/y,server=on", where the old bare "server", "nowait" are understood too. */
struct json_object *chardev_from_option(const char *text, struct err *e);
