/* SPDX-License-Identifier: BSD-2-Clause */
/* NBD servers for the tests of the client: nbdkit as a process of its own, or bytes from a socket pair. */
#pragma once

#include "support.h"

#include <sys/types.h>

/* Zero-initialised. */
struct server {
    pid_t pid; /* 0: none */
    char socket[96];
};

/* False after a message: there is no nbdkit here. */
bool have_nbdkit(void);
/* Gives it a socket in the bench's folder, unless it has one. */
void server_name(struct server *s, struct bench *b);
/* nbdkit with these arguments on that socket; it listens on return. */
void server_start(struct server *s, struct bench *b, const char *args);
void server_stop(struct server *s, int sig);
/* Opens it: `extra` is more options (",'x':1"), or "". */
struct node *open_export(struct bench *b, const struct server *s, const char *extra);
