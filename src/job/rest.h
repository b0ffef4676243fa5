/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Jobs of a machine that goes elsewhere. They rest while its disks are somebody else's (block/inactive.h): they stand
 * still, keep their places in the graph, and go on when the disks are here again, as if nothing had been. Or another
 * program has gone on with them: made with the same parameters there, and given what was left here, before anybody has
 * written to the disks. Loop thread; [co] waits.
 *
 *     here                       there
 *     rest → describe (left)     hold → made → job_go_on() → wake
 *          → wake, or moved
 */
#pragma once

#include "job/job.h"

/* Why it cannot go on elsewhere; NULL: it can. As it is now: it may end first. */
const char *job_why_stays(const struct job *j);
/* The first of those that end together (completion-mode=grouped), the oldest; NULL: it ends by itself. */
struct job *job_group(const struct job *j);
/* Its copy holds all that the disk does, and gets each write: it can rest, and end, with disks that are away. */
bool job_is_in_step(struct job *j);
/* Nothing is known: granularity 0. */
struct job_left job_left(struct job *j);

/* [co] Until one of them has another status, or waits for something; false: none until then. */
bool jobs_await_step(struct jobs *js, uint64_t deadline_ns);
/* [co] All that are not over, until jobs_wake(): none does anything any more. Which of them does not stand still by
 * then, or NULL. */
const struct job *jobs_rest(struct jobs *js, uint64_t deadline_ns);
void jobs_wake(struct jobs *js);
/* [co] Those with `moves` are gone, the others wake: disks stay away. */
void jobs_moved(struct jobs *js);

/* Those that are made from now on rest before their first step. */
void jobs_hold(struct jobs *js, bool hold);
/* It was made so: and ends together with `first` and the others of that one's group. */
void job_join(struct job *j, struct job *first);
/* It was made so. `done`: bytes of progress that it has made elsewhere. */
int job_go_on(struct job *j, const struct job_left *left, uint64_t done, struct err *e);
