/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Trace points: one list, from which the constants, the switches and `-trace help` come. A name is used with
 * log_trace(log, NAME, …) (base/log.h); the third column says what a line holds.
 */
#pragma once

#include "base/err.h"

#include <stdio.h>

struct log;

#define TRACE_POINTS(X)                                                                                                \
    X(block_open, "node, driver, file name, size")                                                                     \
    X(block_close, "node")                                                                                             \
    X(block_replace, "node that leaves, node that takes its place")                                                    \
    X(block_read, "node, offset, bytes, flags")                                                                        \
    X(block_write, "node, offset, bytes, flags")                                                                       \
    X(block_copy, "node, offset, bytes that the host's kernel copies")                                                 \
    X(block_zero, "node, offset, bytes, flags")                                                                        \
    X(block_discard, "node, offset, bytes")                                                                            \
    X(block_flush, "node")                                                                                             \
    X(block_truncate, "node, new size")                                                                                \
    X(job_status, "job, its new status")                                                                               \
    X(monitor_qmp_command, "monitor, command, arguments")                                                              \
    X(monitor_qmp_respond, "monitor, answer")                                                                          \
    X(monitor_qmp_event, "monitor, event")                                                                             \
    X(virtio_blk_req_complete, "device, request type, sector, bytes, status")                                          \
    X(vm_state_notify, "running or not, run state")                                                                    \
    X(vm_reset, "who asked")                                                                                           \
    X(vm_shutdown, "who asked, exit code")

enum trace_point {
#define X(name, help) TRACE_##name,
    TRACE_POINTS(X)
#undef X
        TRACE_COUNT,
};

struct trace_point_info {
    const char *name, *help;
};
extern const struct trace_point_info trace_points[TRACE_COUNT];

/*
 * The value of -trace: "[[enable=]PATTERN][,events=FILE][,file=FILE]". A PATTERN is a glob over names; with '-' before
 * it, off again. `events` has one pattern a line, '#' begins a comment; `file` is where trace lines go. A name or
 * pattern that fits nothing is a warning, as in QEMU.
 */
int trace_option(struct log *l, const char *text, struct err *e);
/* -trace help */
void trace_print_help(FILE *f);
