/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the programs without a guest (sterna-img, sterna-io, sterna-nbd) have in common: name, loop, block graph,
 * objects. Loop thread.
 */
#pragma once

#include "base/err.h"
#include "base/log.h"
#include "base/objects.h"
#include "block/graph.h"
#include "loop/loop.h"

#define STERNA_VERSION "0.1.0"
#define QEMU_VERSION   "10.0.0" /* what clients are told that we are like */

struct tool {
    const char *prog; /* as it was called, last component: begins every message */
    bool as_qemu;     /* called by the name of the tool that it replaces ("qemu-img") */
    const char *own_name;
    struct loop *loop;
    struct log *log;
    struct block_graph *graph;
    struct object_registry *objects;
};

/* From main(): `own_name` "sterna-img", `peer_name` "qemu-img". Ignores SIGPIPE. False after a message. */
bool tool_init(struct tool *t, const char *argv0, const char *own_name, const char *peer_name);
/* fn(arg) as a coroutine on the tool's loop; then closes every node. Returns what fn returned. */
int tool_run(struct tool *t, int (*fn)(void *arg), void *arg);
/* Returns rc, or 1 after a message when standard output could not be written. */
int tool_finish(struct tool *t, int rc);
/* "qemu-img version …" as the peer says it, or our own. */
void tool_print_version(const struct tool *t);
/* --object TEXT: "secret,id=s,data=…" or JSON. */
int tool_object(struct tool *t, const char *text, struct err *e);
/* -T TEXT; "help" prints the list and sets *done. */
int tool_trace(struct tool *t, const char *text, bool *done, struct err *e);
/* "PROG: text" on standard error; returns 1. */
int tool_fail(struct tool *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tool_warn(struct tool *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct tool_cache {
    bool direct, no_flush, writethrough;
};
/* "none", "writeback", …; false: unknown, no message. */
bool tool_parse_cache(const char *mode, struct tool_cache *out);
/*
 * Opens an image as tools do: a file name, or with `image_opts` driver options (keyval or JSON). `opts` (may be NULL):
 * common options that lie under what the name says (driver, read-only, force-share, cache, discard …). [co]
 */
int tool_open(struct tool *t, const char *name, bool image_opts, struct json_object *opts, struct node **out,
              struct err *e);
/* From nested options alone, which are changed; a file's name without "driver" has its format probed. [co] */
int tool_open_options(struct tool *t, struct json_object *options, struct node **out, struct err *e);
