/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sessions: a chardev at whose other end a program speaks QMP, or a person the human monitor. Loop thread.
 *
 * QMP: greeting, qmp_capabilities, then commands, which run one after the other in the order in which they came; those
 * sent by "exec-oob" at once. At most 8 wait; then input is not read until there is room, nor while more than 1 MiB of
 * output has not been taken. Each event goes to every session that has negotiated; a session that has 4 MiB untaken
 * misses events until it reads again (a warning is logged). When the other end goes away, what waits is dropped, a
 * command that runs goes on to its end unheard, and whoever comes next starts with a greeting.
 */
#pragma once

#include "char/char.h"
#include "monitor/command.h"

/* What query-version and the greeting say. */
#define MONITOR_QEMU_MAJOR 10
#define MONITOR_QEMU_MINOR 0
#define MONITOR_QEMU_MICRO 0
#define MONITOR_VERSION    "0.1.0"
#define MONITOR_PACKAGE    "Sterna " MONITOR_VERSION

enum monitor_mode { MONITOR_READLINE, MONITOR_CONTROL };

/* `env` outlives the session and every command that it started. `pretty`: QMP with line breaks. The chardev stays the
 * caller's; it fails when that is in use. Not from inside a coroutine. */
int monitor_create(struct mon_env *env, struct chardev *c, enum monitor_mode mode, bool pretty, struct monitor **out,
                   struct err *e);
/* Answers that are ready are handed to the chardev first. Before the chardev goes. NULL is fine. */
void monitor_destroy(struct monitor *m);
/* Whether the session is a program's. */
bool monitor_is_qmp(const struct monitor *m);
struct chardev *monitor_chardev(const struct monitor *m);

/*
 * For a command of a QMP session over a socket: once its answer is out, the connection is no session's any more and
 * fn gets it (-1: it is gone, or nobody reads the answer). Whoever connects next starts with a greeting. Fails where
 * that cannot be, or when other commands wait already. fn NULL: only finds out.
 */
int monitor_give_away(struct monitor *m, void (*fn)(void *opaque, int fd), void *opaque, struct err *e);
/* The file descriptor that `getfd` named, now the caller's; -1 when there is none. */
int monitor_take_fd(struct monitor *m, const char *name);
