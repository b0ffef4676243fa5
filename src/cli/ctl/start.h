/* SPDX-License-Identifier: BSD-2-Clause */
/* What the verbs that start a job have in common. */
#pragma once

#include "cli/ctl/follow.h"
#include "cli/ctl/target.h"

struct start {
    struct disk disk;
    char *job; /* its id: VERB-DISK; so is the node of its target called */
};

/* Connects, finds the disk that the first operand names, and chooses the job's id. */
int start_prepare(struct ctl *c, struct start *s, struct err *e);
void start_finish(struct start *s);
#define CLEANUP_START __attribute__((cleanup(start_finish)))
/* The arguments that all jobs take: job-id, device, speed (if given), auto-dismiss. NULL after an error. */
struct json_object *start_args(struct ctl *c, const struct start *s, struct err *e);
/* Starts the job (args is taken); with --detach prints its id, else waits for its end. An enum
 * ctl_status. `t` (may be NULL) is undone when there will be no job. */
int start_run(struct ctl *c, const struct start *s, const char *command, struct json_object *args,
              enum follow_ready on_ready, struct target *t);
/* The guest has left the disk's image for another: closes it, or says who can. */
void start_leave(struct ctl *c, const struct disk *d);
