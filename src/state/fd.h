/* SPDX-License-Identifier: BSD-2-Clause */
/* Streams in files and pipes, for programs without a loop: the calls block. */
#pragma once

#include "state/stream.h"

struct state_fd {
    int fd;
    bool owned; /* closed at the end */
    char *name; /* for messages */
};

/* A path, or "-" for standard input. */
int state_fd_open(struct state_fd *f, const char *path, struct err *e);
/* One that is open; stays the caller's. */
void state_fd_init(struct state_fd *f, int fd, const char *name);
void state_fd_finish(struct state_fd *f);
/* From where it stands; with read_at when it is a regular file and stands at its beginning. */
struct state_source state_fd_source(struct state_fd *f);
struct state_sink state_fd_sink(struct state_fd *f);
/* Whether nothing follows. */
bool state_fd_at_end(struct state_fd *f, const struct state_reader *r);
