/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Waiting for a job, whatever happens to the connection, and showing how far it is.
 *
 *     connected → look at the job ⇄ wait for events, Ctrl-C or the time to look again
 *         ↑            ↓ concluded, or gone                      ↓ the connection breaks
 *         └──────── the result, from the job or its events ←── connect again, or give up
 */
#pragma once

#include "cli/ctl/progress.h"

enum follow_ready {
    FOLLOW_STAY,     /* say how to complete it, and go on waiting */
    FOLLOW_RETURN,   /* that is all: CTL_OK */
    FOLLOW_COMPLETE, /* job-complete: switch */
    FOLLOW_END,      /* end it well without switching */
};

struct follow_spec {
    const char *job;
    const struct disk *disk; /* whose guest's latencies are shown; NULL: of all */
    enum follow_ready on_ready;
    bool quiet; /* shows nothing unless it fails: a step on the way */
};

/* Until the job has ended: its result is printed, and the job dismissed. An enum ctl_status. */
int follow_job(struct ctl *c, const struct follow_spec *s);

/* "there is no job 'x'; jobs: …", with the nearest that there is; negative. */
int follow_no_such_job(struct json_object *jobs, const char *id, struct err *e);
/* The job of that id, borrowed; NULL: none. */
struct json_object *follow_find_job(struct json_object *jobs, const char *id);

/* --- for verbs that watch more than one thing ------------------------------------------------------------------ */

/* Ctrl-C becomes readable on the descriptor that is returned (and wakes the client), until follow_release(). */
int follow_catch_interrupt(struct ctl *c);
bool follow_interrupted(int fd);
void follow_release(struct ctl *c, int fd);
/* Drops the events that have come; the reason of a SHUTDOWN among them becomes *ended, which is the caller's. */
void follow_drop_events(struct ctl *c, char **ended);
/*
 * After ENOTCONN: connects again for as long as --reconnect allows, with messages on standard error. `ended` (may be
 * NULL): the reason of a SHUTDOWN event, with which there is nothing to wait for. CTL_OK, CTL_LOST, CTL_LEFT.
 */
int follow_reconnect(struct ctl *c, int interrupt_fd, const char *ended, const struct err *why);
