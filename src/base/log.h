/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages for people, on standard error or in the file of -D, each line beginning with the program's name.
 * One log per program; any thread.  Control-path errors travel as struct err and are printed once, by main().
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>

struct log;

/* `program` as it was called (its last path component). */
struct log *log_create(const char *program);
void log_destroy(struct log *l);
/* Lines go to `path` (appended) instead. */
int log_to_file(struct log *l, const char *path, struct err *e);
/* "PROGRAM: text". l may be NULL: nothing is printed. */
void log_error(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_warn(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* "PROGRAM: warning: text" */
void log_info(struct log *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Trace points have names ("block_read"); `pattern` is a glob as -trace takes it ("block_*", "qcow2_*"). */
void log_trace_enable(struct log *l, const char *pattern);
bool log_tracing(const struct log *l, const char *name);
void log_trace(struct log *l, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
