/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A connection to a QMP monitor, on a Unix socket or over TCP. Commands are sent one at a time and waited for; events
 * that come meanwhile are kept. Whatever means that there is no connection (any more) sets an error with the code
 * ENOTCONN.
 *
 * The peer is not trusted: messages beyond a limit, or that are no JSON objects, end the connection.
 */
#pragma once

#include "base/err.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct client;

/* `address`: the path of a Unix socket ("unix:PATH" too), or HOST:PORT ("tcp:HOST:PORT" too). Copied. */
struct client *client_create(const char *address);
void client_destroy(struct client *cl); /* NULL is fine */
const char *client_address(const struct client *cl);
bool client_is_local(const struct client *cl); /* over a Unix socket: both see the same files */

/* Connects, waits at most `timeout_ms` for the greeting, and negotiates. Events of a connection before are dropped. */
int client_connect(struct client *cl, unsigned timeout_ms, struct err *e);
/*
 * The command's result in *ret (owned by the caller; ret may be NULL). `args` is taken, NULL: none. Errors: what the
 * command answered, as "COMMAND: text" with its class; ENOTCONN; EINTR when wake_fd got ready first (the answer is
 * dropped when it comes).
 */
int client_call(struct client *cl, const char *command, struct json_object *args, struct json_object **ret,
                struct err *e);
/* The oldest event that is kept, which is the caller's; NULL: none. */
struct json_object *client_event(struct client *cl);
/* Waits for an event, wake_fd, or `timeout_ms` (-1: for ever). 0, or ENOTCONN. */
int client_wait(struct client *cl, int timeout_ms, struct err *e);
/* A descriptor that ends waiting when it can be read; -1: none. */
void client_set_wake_fd(struct client *cl, int fd);
/* The peer's process, or 0 where it cannot be known. */
int client_peer(const struct client *cl);
/* The folder in which the peer on a Unix socket runs, so that its relative file names make sense here; g_free; NULL:
 * it cannot be known. */
char *client_peer_folder(const struct client *cl);

/* CLOCK_MONOTONIC in milliseconds. */
int64_t client_now_ms(void);
