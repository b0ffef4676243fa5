/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty bitmaps that move with their machine.
 *
 *                                 persistent          others
 *     of disks that are copied    always              with the capability dirty-bitmaps
 *     of all other nodes          with it             with it
 *
 * Without it the persistent ones of a shared disk come by its image alone; with it, too, and what is sent of them finds
 * them there. The parameter block-bitmap-mapping names those that move, and what they are called (move/bitmap_map.h).
 * Else one is sought by the name of the device that was copied, of the -drive, or of the node.
 *
 * WANT's member "dirty-bitmaps" lists them as they are at the handshake: [{"device" or "node": NAME, "name": NAME,
 * "granularity": BYTES, "persistent": BOOL}, …], so that a destination which cannot have them says so before any page.
 * Those of which it knows no node, or that its mapping leaves out, do not come; "features" tells which:
 * "dirty-bitmaps-left-out": [TEXT, …]. Their bits come when the guest stands still, in bMAp chunks (state/stream.h),
 * and are in place before REDY. One that is to be persistent is in the image before the guest runs, too, unless the
 * image is the source's until OKGO: then right after.
 *
 * Loop thread; [co] waits.
 */
#pragma once

#include "machine/vm.h"
#include "move/disks.h"
#include "state/stream.h"

/* --- the source --------------------------------------------------------------------------------------------------- */

struct bitmaps_out {
    struct vm *vm;
    const struct disks_out *disks;
    bool all;                /* the capability */
    struct json_object *map; /* block-bitmap-mapping; NULL: none */
};

/* WANT's member, the caller's; NULL: there are none. */
int bitmaps_out_want(const struct bitmaps_out *o, struct json_object **out, struct err *e);
/* [co] The guest stands still. *e is set for what is not the writer's error. */
int bitmaps_out_write(const struct bitmaps_out *o, struct state_writer *w, struct err *e);

/* --- the destination ---------------------------------------------------------------------------------------------- */

struct bitmaps_in;
/* `map`: block-bitmap-mapping; NULL: none. */
struct bitmaps_in *bitmaps_in_create(struct vm *vm, struct json_object *map);
/* WANT's member; `features` is told what stays behind. */
int bitmaps_in_judge(struct bitmaps_in *b, struct json_object *want, struct json_object *features, struct err *e);
/* The payload of a bMAp chunk. */
int bitmaps_in_add(struct bitmaps_in *b, const GByteArray *payload, struct err *e);
/* [co] All have come, and all disks are as they will be: they are on their nodes. */
int bitmaps_in_prepare(struct bitmaps_in *b, struct err *e);
/* [co] The machine is here, and its disks are its own: they stay. */
void bitmaps_in_commit(struct bitmaps_in *b);
/* [co] Those that do not stay are removed. NULL is fine. */
void bitmaps_in_destroy(struct bitmaps_in *b);
