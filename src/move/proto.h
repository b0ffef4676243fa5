/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What two programs say to each other around the stream (state/stream.h) when one moves a machine to the other. Source
 * document: this comment; docs/migration.md says the same to those who write the other side.
 *
 *     source                              destination
 *     HELLO, WANT {…}, header, MANI →
 *                                   ←     ANSW {"version": 1, "features": {…}}, or {"error": TEXT}: the end
 *     RAMP …, DEVS …, STOP          →     (or at any time FAIL {"error": TEXT}: the end)
 *                                   ←     REDY {}: everything is loaded and checked, nothing can fail here any more
 *     OKGO {"run": BOOL, …}         →     from the first byte of it on the source will not run this machine again
 *                                   ←     RUNS {}: it is taken over; or FAIL {"error": TEXT, "runs": false}: it is not,
 *                                         and will not be
 *                                   ←     PROG {…}, ALLD {}: disks that follow (move/disks_told.h)
 *
 * HELLO, 32 bytes, little-endian: 8E 'S' 'T' 'M' 'O' 'V' 'E' 1A; highest version 4; lowest version 4; flags 4 (1: only
 * the answer is wanted; 2: a post-copy that was cut goes on, see move/postcopy_wire.h; 4: one more connection of a move
 * that is under way, see move/lanes.h); zero 8; CRC-32C of bytes
 * 0…27 4. The answer's version is one that both know.
 *
 * The others are framed as a chunk of the stream: type 4, flags 4 (0), length 8, JSON text, CRC-32C of all before it 4.
 *
 * After ANSW everything goes through sub-channels of the connection (move/mux.h): this on number 0.
 *
 * WANT says what the move needs from the destination beyond taking a machine; each member is one such thing, and who
 * does not know it, or cannot do it, says so in ANSW's place. "features" has what the source needs to know of each.
 * Members: migrate_wants[] in move/migrate_in.c.
 *
 * A transport that gives no answers carries the stream alone.
 *
 * LAWS.
 *  1. Before OKGO was sent the source may run the machine, and does when anything fails.
 *  2. After OKGO was sent it never does by itself, but when a FAIL with "runs" false has come; without that and RUNS
 * its status says that it does not know.
 *  3. The destination runs the machine after OKGO has come whole, and not before. Once it has said "runs" false it does
 *     not take OKGO any more.
 */
#pragma once

#include "move/channel.h"

#include <json-c/json.h>

enum { PROTO_VERSION = 1, PROTO_HELLO_BYTES = 32, PROTO_TEXT_MAX = 1 << 20 };
enum proto_flag { PROTO_DRY_RUN = 1, PROTO_RESUME = 2, PROTO_LANE = 4 };

enum proto_type {
    PROTO_WANT,
    PROTO_ANSW,
    PROTO_FAIL,
    PROTO_REDY,
    PROTO_OKGO,
    PROTO_RUNS,
    PROTO_JOIN,
    PROTO_ALLD,
    PROTO_PROG,
    PROTO_TYPES
};

enum { PROTO_FIRST_BYTE = 0x8e, PROTO_TLS_FIRST_BYTE = 0x16 }; /* of HELLO, and of what comes in its place under TLS */
/* [co] */
int proto_send_hello(struct channel *ch, unsigned flags);
/* [co] Its flags. -ENOTSUP: it came from a source that speaks other versions. */
int proto_read_hello(struct channel *ch, uint64_t deadline_ns, unsigned *flags, struct err *e);
/* [co] Takes over the reference. */
int proto_send(struct channel *ch, enum proto_type type, struct json_object *body);
/*
 * [co] The next message, which must be `want`; *body may be NULL, else the caller's. FAIL, and an answer with an error,
 * are errors with that text: -EREMOTEIO, or -ECONNREFUSED when it says "runs" false.
 */
int proto_read(struct channel *ch, enum proto_type want, uint64_t deadline_ns, struct json_object **body,
               struct err *e);
/* [co] The same of one of two: *type. */
int proto_read_either(struct channel *ch, const enum proto_type may[2], uint64_t deadline_ns, enum proto_type *type,
                      struct json_object **body, struct err *e);
