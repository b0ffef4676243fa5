/* SPDX-License-Identifier: BSD-2-Clause */
/* How far a job is: as a bar, as a line, as JSON. */
#pragma once

#include "cli/ctl/stats.h"

struct progress {
    char *job, *type, *status, *reason; /* reason: why it stands still; NULL: it does not */
    char *error;                        /* of a concluded job; NULL: none */
    uint64_t done, total, rate, eta;    /* bytes, bytes per second, seconds */
    bool has_eta;
    uint64_t pause_ns; /* how long the guest stood still at the switch */
    int64_t at_ms;
};

/* Takes over what JobInfo says; what it does not say is computed from what was known of the same job before. */
void progress_update(struct progress *p, struct json_object *info);
void progress_finish(struct progress *p);
/* At most `width` columns; g_free. `io` (may be NULL): what the guest's disks do meanwhile. */
char *progress_bar(const struct ctl *c, const struct progress *p, const struct io_rates *io, unsigned width);
char *progress_line(const struct progress *p, const struct io_rates *io);
struct json_object *progress_json(const struct progress *p, const struct io_rates *io);
/* 0 to 100, rounded down. */
unsigned progress_percent(const struct progress *p);
/* It was cancelled, as far as a concluded job's error text can say. */
bool progress_was_cancelled(const struct progress *p);
