/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * -event-log FILE: what happened, for a manager that was away and wants the history. One line of JSON an event:
 *
 *     {"seq": 12, "generation": 17, "timestamp": {"seconds": …, "microseconds": …}, "event": "DEVICE_TRAY_MOVED",
 *      "data": {…}, "crc32c": "1a2b3c4d"}
 *
 * Laws: lines are only ever appended. `seq` grows by one with each event, over all runs. `generation` is the state
 * file's when the event came. `crc32c`, always last, is CRC-32C of all that stands before its comma. Events reach the
 * disk soon after they come, in order, those that come while it is busy with one fsync together. After a crash the last
 * ones may be missing or torn: a line whose checksum is wrong is nobody's, and what is appended later begins a line of
 * its own. So a reader skips such lines, and sees by `seq` whether any is missing in between.
 *
 * Loop thread.
 */
#pragma once

#include "base/err.h"
#include "base/events.h"
#include "base/log.h"
#include "loop/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct config_file;
struct config_fs;
struct event_log;

struct event_log_options {
    const char *path;
    const struct config_file *state; /* whose generation is told; NULL: 0 */
    struct event_bus *bus;
    struct loop *loop;
    struct log *log;
    const struct config_fs *fs; /* NULL: the host's */
};

/* Makes the file if need be, locks it against other writers, and listens to the bus from now on. Blocks: for start-up.
 */
int event_log_open(const struct event_log_options *o, struct event_log **out, struct err *e);
/* [co] Until everything that came so far is durable, or lost: a full disk costs events (a warning says so), never the
 * guest. */
void event_log_sync(struct event_log *l);
/* Listens no longer. Nothing may be under way: event_log_sync(). NULL is fine. */
void event_log_close(struct event_log *l);

/* Each whole line, in order, as an object (borrowed); false ends it. *bad: how many lines were skipped. For tools. */
typedef bool event_log_fn(void *opaque, struct json_object *event);
int event_log_read(const char *path, event_log_fn *fn, void *opaque, unsigned long *bad, struct err *e);
