/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks that move with their machine, through the connection that the machine moves through (move/mux.h). WANT's member
 * "disks" lists them: [{"device": NAME, "mode": "pre-copy", "size": BYTES}, …]; the i-th has sub-channel MUX_DISKS + i.
 *
 * PRE-COPY. The destination serves its own disk of the device by NBD. The source's mirror job writes to it while the
 * guest runs; when all disks are alike, RAM follows. The guest stands still: the jobs end, each having flushed the
 * copy, and the connections are closed; then the stream goes on, and REDY says that the copies are on the destination's
 * disks. Until then whatever fails ends the jobs, and the guest goes on on its own disk.
 *
 * POST-COPY. The guest stands still: the source serves its disk by NBD, the destination makes it the backing image of
 * its own empty one (move/follower.h), and only then says REDY. The guest runs there on the overlay, which is filled.
 * The source stays for as long as that takes; ALLD ends it. A broken connection is replaced as that of post-copied RAM
 * is.
 *
 * All others are on storage that both machines see (move/storage.h), or are none of ours ("none").
 *
 * Loop thread; [co] waits.
 */
#pragma once

#include "machine/vm.h"
#include "move/mux.h"

struct job_limit;
struct json_object;

/* --- the source --------------------------------------------------------------------------------------------------- */

struct disks_stats {
    uint64_t transferred, remaining, total; /* bytes */
};

struct disks_out;
/* `list`: MigrateDisk, checked by the schema; NULL: none. */
int disks_out_create(struct vm *vm, struct json_object *list, struct disks_out **out, struct err *e);
/* Whether that one is. */
bool disks_out_copies(const struct disks_out *d, const struct backend *b);
/* Whether any must be copied. */
bool disks_out_any(const struct disks_out *d);
/* WANT's member, the caller's. */
struct json_object *disks_out_want(const struct disks_out *d);
/* [co] After ANSW, the guest runs: until all copies are alike, within `limit`, which is borrowed. Ends early with
 * -ECANCELED. */
int disks_out_copy(struct disks_out *d, struct mux *m, struct job_limit *limit, const bool *cancelled, struct err *e);
void disks_out_wake(struct disks_out *d); /* `*cancelled` is set. NULL is fine */
/* Whether copying has failed meanwhile. */
int disks_out_check(const struct disks_out *d, struct err *e);
/* [co] The guest stands still: the copies are complete, and durable. */
int disks_out_finish(struct disks_out *d, struct err *e);
/* Whether any goes on to be copied when the machine is there. */
bool disks_out_follow(const struct disks_out *d);
/* Their nodes (struct node, borrowed), which are still needed here. */
GPtrArray *disks_out_stay(const struct disks_out *d);
/* [co] Those, which the guest does not use any more, are served; also anew, through another connection. */
int disks_out_serve(struct disks_out *d, struct mux *m, struct err *e);
/* Those that follow are there; or so far from it (move/disks_told.h). */
void disks_out_arrived(struct disks_out *d);
void disks_out_told(struct disks_out *d, struct json_object *left);
void disks_out_stats(const struct disks_out *d, struct disks_stats *s);
/* [co] No job, node or filter is left. What is under way is given up: break the mux first. NULL is fine. */
void disks_out_destroy(struct disks_out *d);

/* --- the destination ---------------------------------------------------------------------------------------------- */

/* Both machines have the same devices, so their names are the same. NULL: there is none. */
struct backend *disk_of_device(struct block_graph *g, const char *name);

struct disks_in;
/* [co] Judges WANT's member: each disk is there, as large, and can be written to. */
int disks_in_create(struct vm *vm, struct json_object *want, struct disks_in **out, struct err *e);
/* [co] After ANSW. */
int disks_in_begin(struct disks_in *d, struct mux *m, struct err *e);
/* [co] The stream has ended: nobody writes to them any more, and they are flushed. */
int disks_in_finish(struct disks_in *d, struct err *e);
bool disks_in_follow(const struct disks_in *d);
/* [co] The stream has ended, the guest does not run: what is left to copy is within reach. */
int disks_in_connect(struct disks_in *d, struct mux *m, struct err *e);
/* [co] The guest is about to run. What it does not ask for comes within `limit`, which is borrowed. */
void disks_in_start(struct disks_in *d, struct job_limit *limit);
/* After another connection was made. */
int disks_in_reconnect(struct disks_in *d, struct mux *m, struct err *e);
/* [co] Until all is here; an error: the connection is broken. */
int disks_in_wait(struct disks_in *d, const struct mux *m, struct err *e);
void disks_in_wake(struct disks_in *d); /* it broke. NULL is fine */
/* PROG's list, the caller's. */
struct json_object *disks_in_left(const struct disks_in *d);
/* Of those that follow. */
void disks_in_stats(const struct disks_in *d, struct disks_stats *s);
void disks_in_destroy(struct disks_in *d); /* [co] NULL is fine */
