/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Jobs that move with their machine: made again at the destination with the parameters that they have here, where what
 * is left of them goes on, before the guest runs there (job/rest.h).
 *
 *     WANT      "jobs": [{"id": ID, "values": {"command": NAME, …}}, …]   those that could go, as of the handshake
 *     ANSW      "jobs-left-out": [{"id": ID, "why": TEXT}, …]             in "features": those that cannot go on there
 *     JOBS      [{"id": ID, "values": {…}, "done": BYTES,                 a chunk of the stream, when all rest
 *               "left": BITS, "since": BITS}, …]      {"granularity": BYTES, "bits": N, "words": BASE64 of 64 bits
 * each, little-endian}; since: of one that sets a bitmap back in the end
 *               "told": "complete" | "cancel",          of one that waits for others: it does the same there
 *               "group": ID}, …]                        of the first of those that end together, in WANT, too
 *
 * Those of a group (a transaction's, completion-mode=grouped) go together or not at all, and only to a destination that
 * says in "jobs-know" that it knows of groups; when one cannot go on there, the others are cancelled there.
 *
 * All others have to end before the switch; but one that is ready, whose copy holds all that the disk does, stays here
 * and may be ended when the machine has left. A command names nodes, which the destination has under the same names, as
 * it has the disks of the machine on shared storage; those on a disk that is copied do not go. A command that names a
 * file (drive-mirror, drive-backup, block_copy) goes when that is the same file there: when it is judged, the source
 * has it open and locked, which the destination sees. It is opened again there when the job goes on.
 *
 * Loop thread; [co] waits.
 */
#pragma once

#include "machine/vm.h"
#include "move/disks.h"
#include "state/stream.h"

#define JOBS_FILES  "jobs.files"  /* machine_release_says() */
#define JOBS_NONE   "jobs.none"   /* sync=none */
#define JOBS_GROUPS "jobs.groups" /* in ANSW's "jobs-know", too */

struct machine_release;
/* Whether jobs of such a command can go, in what that release knew. */
bool jobs_command_moves(struct json_object *values, const struct machine_release *r);
extern const char *const jobs_told_names[]; /* enum job_told; NULL-terminated */
/* What such a command's `disk`, a device or a node, is; NULL: there is none. */
struct node *jobs_node(struct block_graph *g, const char *disk);
/* The file that the command opens; NULL: all that it names are nodes. */
const char *jobs_command_file(struct json_object *values);

/* --- the source --------------------------------------------------------------------------------------------------- */

struct jobs_out;
/* `bitmaps`: all move under their own names. Borrows both. */
struct jobs_out *jobs_out_create(struct vm *vm, const struct disks_out *disks, bool bitmaps);
void jobs_out_destroy(struct jobs_out *o); /* NULL is fine */
/* WANT's member, the caller's; NULL: none could go, or nobody answers. */
struct json_object *jobs_out_want(struct jobs_out *o, bool answers);
/* ANSW's features; what does not go is logged. */
void jobs_out_answer(struct jobs_out *o, struct json_object *features);
/* Whether it need not end before the switch. */
bool jobs_out_may_rest(const struct jobs_out *o, struct job *j);
/* [co] They rest: the chunk, if there are any that go. */
int jobs_out_write(struct jobs_out *o, struct state_writer *w);
/* As query-migrate's "jobs", the caller's; NULL: there are none. */
struct json_object *jobs_out_describe(const struct jobs_out *o);
/* [co] jobs_moved(). Those that go are added to `*went`, the caller's, as jobs_out_describe() has them. */
void jobs_out_leave(struct jobs *js, struct json_object **went);

/* --- the destination ---------------------------------------------------------------------------------------------- */

struct jobs_in;
struct jobs_in *jobs_in_create(struct vm *vm);
void jobs_in_destroy(struct jobs_in *j); /* NULL is fine */
/* [co] WANT's member, while the source has all that they use. */
int jobs_in_judge(struct jobs_in *j, struct json_object *want, struct json_object *features, struct err *e);
/* The payload of JOBS. */
int jobs_in_take(struct jobs_in *j, const GByteArray *payload, struct err *e);
/* [co] The disks are the machine's, and its guest does not run yet: they go on. */
void jobs_in_start(struct jobs_in *j);
