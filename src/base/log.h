/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages for people, on standard error, each line beginning with the program's name; and traces, there or in the file
 * of -D. One log per program; any thread. Control-path errors travel as struct err and are printed once, by main().
 */
#pragma once

#include "base/err.h"
#include "base/trace.h"

#include <stdatomic.h>
#include <stdbool.h>

struct log;

/* `program` as it was called (its last path component). */
struct log *log_create(const char *program);
void log_destroy(struct log *l);
/* Messages and traces go to `path` (appended) instead of standard error. */
int log_to_file(struct log *l, const char *path, struct err *e);
/* Traces alone go to `path` (emptied first, as QEMU does). */
int log_traces_to_file(struct log *l, const char *path, struct err *e);
/* Messages begin with the time (ISO 8601, UTC), traces with "PID@SECONDS.MICROSECONDS:". */
void log_timestamps(struct log *l, bool on);
/* Messages begin with "NAME " (after the time); NULL: no more. */
void log_guest_name(struct log *l, const char *name);
/* "PROGRAM: text". l may be NULL: nothing is printed. */
void log_error(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_warn(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* "PROGRAM: warning: text" */
void log_info(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "PROGRAM: text": what is neither wrong nor asked for ("terminating on signal …"). */
void log_note(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The text alone, for one of several lines that says by itself what it is. */
void log_bare(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Switches the trace points whose names match the glob `pattern`; returns how many those are. */
unsigned log_trace_enable(struct log *l, const char *pattern, bool on);

/* What log_trace_on() sees of a log: its first member. */
struct log_switches {
    atomic_bool on[TRACE_COUNT];
};
static inline bool log_trace_on(const struct log *l, enum trace_point t)
{
    return l && atomic_load_explicit(&((const struct log_switches *)(const void *)l)->on[t], memory_order_relaxed);
}
void log_trace_line(struct log *l, enum trace_point t, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define log_tracing(l, name) __builtin_expect(log_trace_on((l), TRACE_##name), 0)
/* log_trace(log, block_flush, "node %s", …): "block_flush node …". The arguments are evaluated only when it is on. */
#define log_trace(l, name, ...)                                                                                        \
    do {                                                                                                               \
        if (log_tracing((l), name)) {                                                                                  \
            log_trace_line((l), TRACE_##name, __VA_ARGS__);                                                            \
        }                                                                                                              \
    } while (0)
