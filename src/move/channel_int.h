/* SPDX-License-Identifier: BSD-2-Clause */
/* What a channel is made of, between channel*.c only. */
#pragma once

#include "move/behind.h"
#include "move/channel.h"
#include "move/lend.h"

enum channel_kind { CH_SOCKET, CH_PIPE, CH_FILE, CH_OPS };

struct channel {
    enum channel_kind kind;
    int fd;
    pid_t child;           /* of exec:, or 0 */
    uint64_t at;           /* CH_FILE: where the next byte is */
    struct behind *behind; /* CH_FILE: who writes it; NULL: every write by itself */
    struct lend *lend;     /* CH_SOCKET: channel_lend() */
    bool broken;
    uint64_t patience_ns; /* of writes; 0: any */
    char *name;
    const struct channel_ops *ops; /* CH_OPS */
    void *opaque;
};

/* Takes `fd`. */
struct channel *channel_wrap(enum channel_kind kind, int fd, const char *name);
