/* SPDX-License-Identifier: BSD-2-Clause */
/* The rules of a blkdebug node (QEMU docs/devel/testing/blkdebug.rst): when an event comes, change state or make
 * requests fail. */
#pragma once

#include "block/graph.h"

enum { IO_READ_OP = 1, IO_WRITE_OP = 2, IO_ZERO_OP = 4, IO_DISCARD_OP = 8, IO_FLUSH_OP = 16, IO_STATUS_OP = 32 };

enum rule_kind { RULE_INJECT, RULE_SET_STATE, RULE_SUSPEND };

struct debug_rule {
    enum rule_kind kind;
    int event; /* index in block_debug_events */
    int state; /* 0: any */
    int new_state;
    int error; /* positive errno */
    unsigned ops;
    int64_t offset; /* bytes; -1: any */
    bool once, immediately;
    bool active; /* inject: its event was the last one with a matching rule */
    char *tag;   /* suspend */
};

void debug_rule_free(void *rule);
/* Appends the rules of options "inject-error" and "set-state". */
int debug_rules_read(struct json_object *options, GPtrArray *rules, struct err *e);
/* The same from a file of [inject-error] and [set-state] sections. Blocks. */
int debug_rules_read_file(const char *path, GPtrArray *rules, struct err *e);
int debug_event_index(const char *name); /* -1: unknown */
