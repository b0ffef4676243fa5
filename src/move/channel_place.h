/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where a machine goes to, or comes from, as people say it:
 *
 *     unix:PATH  tcp:HOST:PORT     sockets; of TCP also what a SocketAddress has: tcp:HOST:PORT,to=PORT,ipv4=on,…
 *     fd:NAME                      a descriptor: of getfd, or (a number) one that the program was started with
 *     exec:COMMAND                 its input, or its output
 *     file:PATH[,offset=N]         from byte N on
 *
 * or as one MigrationChannel, whose "addr" has "transport": "socket" (a SocketAddress), "exec" or "file".
 */
#pragma once

#include "block/nbd/address.h"

enum channel_scheme { TO_SOCKET, TO_FD, TO_EXEC, TO_FILE };

/* Zero-initialised is empty. */
struct channel_place {
    enum channel_scheme scheme;
    char *name;                /* "unix:/run/x": for messages */
    struct nbd_address socket; /* TO_SOCKET: inet or unix */
    unsigned last_port;        /* up to which one that is free is looked for; 0: only that */
    char *text;                /* TO_FD: its name; TO_FILE */
    char **argv;               /* TO_EXEC */
    uint64_t offset;           /* TO_FILE */
};

/* Exactly one of `uri` and `channels` (a list of MigrationChannel, checked by the schema) must be there. */
int channel_place_read(struct channel_place *p, const char *uri, struct json_object *channels, struct err *e);
void channel_place_copy(struct channel_place *to, const struct channel_place *from);
void channel_place_finish(struct channel_place *p);
