/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What copy-before-write filters keep (block/filter/copy_before_write.h): those that a user has put above a disk. Which
 * granules are on the target, and which are part of the snapshot, goes with the machine, in the lists of its jobs
 * (move/jobs.h), for whatever reads it there: a job of a snapshot-access node, an export.
 *
 *     "id": "node:NAME", "values": {"command": "copy-before-write", "node-name": NAME, "target": NAME,
 *                                   "granularity": BYTES, "bytes": BYTES, "broken": BOOL}
 *     "left": what the disk still holds as it was; "since": what is part of the snapshot, absent: all
 *
 * To a destination that does not know of it this is a job of a command that cannot come. Loop thread.
 */
#pragma once

#include "base/bitmap.h"
#include "block/filter/copy_before_write.h"

#include <json-c/json.h>

#define JOBS_KEPT "jobs.kept" /* machine_release_says() */

/* Of a user, at work; NULL: n is none. */
struct cbw *kept_of(struct node *n);
/* "node:NAME", g_malloc'd: no job is called so. */
char *kept_id(const struct cbw *c);
/* The caller's. */
struct json_object *kept_values(const struct cbw *c);
bool kept_is(struct json_object *values);
/* One that whoever reads node n reads from, and that does not go; NULL: there is none. */
struct cbw *kept_read_by(struct node *n, bool (*goes)(void *opaque, struct cbw *c), void *opaque);

/* The destination's, of which `values` speak. */
int kept_find(struct block_graph *g, struct json_object *values, struct cbw **out, struct err *e);
/* From now on it keeps what the other one did; nobody has written to the disk since. `access` NULL: all of it. */
int kept_take(struct block_graph *g, struct json_object *values, const struct bitmap *todo, const struct bitmap *access,
              struct err *e);
