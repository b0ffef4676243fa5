/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a machine moves through: a connected socket, which answers come back by, or something that only takes, or only
 * gives. Loop thread; [co] waits.
 */
#pragma once

#include "move/channel_place.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct channel;

/* How fd:NAME is looked up: the descriptor, from now on the caller's, or -1. */
struct channel_names {
    int (*take_fd)(void *opaque, const char *name);
    void *opaque;
};

/* [co] To send a machine. A socket's connection is given up by `d`. */
int channel_dial(const struct channel_place *p, const struct channel_names *names, struct nbd_dial *d,
                 struct channel **out, struct err *e);

/* Takes a connected socket. */
struct channel *channel_of_socket(int fd, const char *name);

/* One that is something else; it answers. The functions mean what those of the channel do. */
struct channel_ops {
    int (*write)(void *opaque, const void *buf, size_t len);
    ssize_t (*read)(void *opaque, void *buf, size_t len, uint64_t deadline_ns);
    void (*break_)(void *opaque);
    void (*close)(void *opaque);
};
struct channel *channel_of_ops(const struct channel_ops *ops, void *opaque, const char *name);

/* Where a machine is waited for. Sockets listen at once. */
struct channel_door;
int channel_door_open(const struct channel_place *p, const struct channel_names *names, struct channel_door **out,
                      struct err *e);
/* Sockets' own addresses, with the port that was free: a list of SocketAddress, the caller's. */
struct json_object *channel_door_addresses(const struct channel_door *d);
bool channel_door_listens(const struct channel_door *d); /* more than one can come */
/* [co] Until somebody is there; -ECANCELED after channel_door_close() by somebody else. Once. */
int channel_door_wait(struct channel_door *d, struct channel **out, struct err *e);
/* Nobody comes any more. */
void channel_door_shut(struct channel_door *d);
void channel_door_close(struct channel_door *d); /* NULL is fine; not while somebody waits */

const char *channel_name(const struct channel *ch); /* "unix:/run/x": for messages */
bool channel_answers(const struct channel *ch);     /* both ways */
/* [co] The next byte that comes, which stays where it is; -ENODATA, -ETIMEDOUT. Of sockets. */
int channel_peek(struct channel *ch, uint64_t deadline_ns);
/* [co] All of it, or a negative errno: -EPIPE when the other side is gone. */
int channel_write(struct channel *ch, const void *buf, size_t len);
/* [co] The same of several pieces; `iov` is used up. */
int channel_writev(struct channel *ch, struct iovec *iov, int n);
/* [co] At least one byte; 0: the end. */
ssize_t channel_read(struct channel *ch, void *buf, size_t len);
/* [co] The same until `deadline_ns` (CLOCK_MONOTONIC; UINT64_MAX: none): then -ETIMEDOUT. */
ssize_t channel_read_until(struct channel *ch, void *buf, size_t len, uint64_t deadline_ns);
/* [co] Until a socket has something to read, or is at its end. False: of something else this cannot be told. */
bool channel_await(struct channel *ch);
/* [co] Exactly so many; -ENODATA: it ended before. */
int channel_read_all(struct channel *ch, void *buf, size_t len, uint64_t deadline_ns);
/* From now on a write of which for so long nothing goes fails with -ETIMEDOUT. Not of channel_of_ops(). */
void channel_set_patience(struct channel *ch, uint64_t ns);
/* Somebody may write to this memory while it is sent: each byte is looked at once, and a unix socket takes whole pages
 * without a copy (move/lend.h). False: this channel looks more than once, or keeps what it has sent. */
bool channel_take_live(struct channel *ch, const void *memory, size_t size);
/* [co] All has been written: -errno when it did not get there, a command's exit code included. */
int channel_finish(struct channel *ch, struct err *e);
/* Whoever waits for it gets an error, now and later. */
void channel_break(struct channel *ch);
void channel_close(struct channel *ch); /* [co] of a file or a command; NULL is fine; not while somebody waits */
