/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of this folder share. */
#pragma once

#include "base/json.h"
#include "char/char.h"

#include <glib.h>

/* A kind of chardev. */
struct chardev_driver {
    const char *name;
    /* Reads its options; the rest of the reader is checked by the caller. On error destroy is called. */
    int (*create)(struct chardev *c, struct jread *r, struct err *e);
    void (*destroy)(struct chardev *c);
    char *(*filename)(const struct chardev *c);
    /* The stream ended: read returned nothing or failed. */
    void (*hangup)(struct chardev *c);
};
extern const struct chardev_driver chardev_socket_driver, chardev_file_driver, chardev_null_driver,
    chardev_stdio_driver, chardev_pty_driver;

/* Two descriptors that carry bytes; may be the same one. Not owned. */
struct stream {
    int in, out; /* -1: that direction is closed */
    bool is_socket;
    struct fd_watch *in_watch, *out_watch;
    GByteArray *pending; /* waits for out */
    GArray *fds;         /* of int, received */
};

struct mux {
    struct chardev_port *focus;
    bool escaped;
    bool timestamps, line_start;
    void (*quit)(void *opaque);
    void *quit_opaque;
};

struct chardev {
    struct loop *loop;
    char *id;
    const struct chardev_driver *driver;
    void *state; /* the driver's */
    struct stream stream;
    bool connected;
    bool is_mux;
    struct mux mux;
    struct chardev_port *ports;
    int log_fd;
};

/* stream.c */
void stream_open(struct chardev *c, int in, int out, bool is_socket);
void stream_close(struct chardev *c);
void stream_update(struct chardev *c); /* what the front end takes may have changed */
size_t stream_write(struct chardev *c, const uint8_t *buf, size_t n, size_t limit);

/* chardev.c: driver -> front ends */
size_t chardev_room(struct chardev *c);
void chardev_input(struct chardev *c, const uint8_t *buf, size_t n);
void chardev_set_connected(struct chardev *c, bool connected);
void chardev_drained(struct chardev *c);
void chardev_event_all(struct chardev *c, enum chardev_event ev);
void chardev_output(struct chardev *c, const void *buf, size_t n); /* the mux's own words */

/* mux.c */
size_t mux_room(struct chardev *c);
void mux_input(struct chardev *c, const uint8_t *buf, size_t n);
void mux_flush(struct chardev *c);
void mux_focus(struct chardev *c, struct chardev_port *p);
/* Text with time stamps where lines begin; NULL when they are off. */
GString *mux_stamp(struct chardev *c, const uint8_t *buf, size_t n);
