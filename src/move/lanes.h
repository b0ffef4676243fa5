/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * RAM over several connections at once, beside the one that everything else goes through. Source document: this
 * comment; docs/migration.md says the same. All numbers are little-endian.
 *
 * WANT has "multifd": {"channels": N, "id": TEXT}. After ANSW the source connects N times more. On each it says HELLO
 * with flag 4 and JOIN {"id": TEXT} (move/proto.h), then frames, 24 bytes and data:
 *
 *      0  1  'P' pages; 'S' the end of a round; 'E' the end
 *      1  1  kind: of enum state_page_kind, zero, raw, zstd or live
 *      2  2  block        4  4  pages        8  8  first page        16  4  bytes of data
 *     20  4  CRC-32C of bytes 0…19 and the data; of live pages, of bytes 0…19 and what stands between this frame and
 * the data: the CRC-32C of each page 4 …
 *
 * With "answers": true in WANT's "multifd", and {"multifd": {"answers": true}} in ANSW's features, the destination
 * answers each 'S' on the same connection, with such a frame of type 'A' and nothing else in it. With "live": true
 * there it takes live pages (state/stream.h, law 8).
 *
 * LAWS.
 *  1. Once they are there all of RAM comes over these connections, and of the stream only what is no RAM.
 *  2. A page comes at most once in a round. What comes behind 'S' is taken when all connections have come to theirs; so
 *     a page that comes again is never overtaken by what it replaces.
 *  3. READY is said when all connections have come to 'E'.
 *  4. 'A' is said when all before 'S' has been taken in. The source ends a round when all connections have said it:
 * what comes when the guest stands still does not wait behind what sockets hold. None for 'answer-timeout' is the end.
 *  5. A page that is torn comes in a later round, or is one of those that follow, before READY.
 *  6. A connection that breaks, or carries a damaged frame, fails the migration: the source runs on.
 *
 * Loop thread; [co] waits. Scanning, checksums of live pages, compressing and decompressing is the worker pool's.
 */
#pragma once

#include "move/migrate.h"
#include "move/ram_in.h"

enum { LANES_MAX = 16, LANE_FRAME = 24, LANE_CRC = 4 };
enum lane_frame { LANE_PAGES = 'P', LANE_SYNC = 'S', LANE_END = 'E', LANE_ANSWER = 'A' };

#define LANE_ANSWERS "multifd.answers" /* machine_release_says() */
#define LANE_LIVE    "multifd.live"    /* likewise */

struct migration;

/* --- the source ----------------------------------------------------------------------------------------------------
 */

struct lanes_out;
/* What WANT says; the caller's. */
struct lanes_out *lanes_out_create(struct migration *m, unsigned n);
struct json_object *lanes_out_want(const struct lanes_out *l);
/* ANSW's. */
void lanes_out_features(struct lanes_out *l, struct json_object *features);
/* [co] Connects. */
int lanes_out_open(struct lanes_out *l, const struct channel_place *p, struct err *e);
unsigned lanes_out_count(const struct lanes_out *l);
/* Live pages can go: the other side takes them, and no connection looks at them twice. */
bool lanes_out_live(const struct lanes_out *l);
/* What goes over a connection at once. */
struct lane_load {
    const struct state_run *runs;
    const void *const *data; /* of each of them */
    const uint8_t *crcs;     /* of the pages of those that are live, as they go */
    unsigned n;
};
/* [co] Over connection `i`, one at a time; -errno. */
int lanes_out_put(struct lanes_out *l, unsigned i, const struct lane_load *load);
/* [co] The end of a round, or (`last`) of all. */
int lanes_out_round(struct lanes_out *l, bool last);
/* Whether the other side says that it has a round; then [co] until it has. */
bool lanes_out_answers(const struct lanes_out *l);
int lanes_out_arrive(struct lanes_out *l);
uint64_t lanes_out_bytes(const struct lanes_out *l);
uint64_t lanes_out_pages(const struct lanes_out *l, bool zero);
void lanes_out_break(struct lanes_out *l);   /* NULL is fine */
void lanes_out_destroy(struct lanes_out *l); /* NULL is fine */

/* --- the destination -----------------------------------------------------------------------------------------------
 */

struct lanes_in;
/* Refuses what cannot be. `want`: of WANT; ANSW's `features` get what the source must know of it. */
int lanes_in_create(struct migration *m, struct json_object *want, struct json_object *features, struct lanes_in **out,
                    struct err *e);
/* Lets them come, at m->door, and fill `ram`. */
void lanes_in_begin(struct lanes_in *l, struct ram_in *ram);
/* [co] Until all of RAM is there. */
int lanes_in_wait(struct lanes_in *l, struct err *e);
/* Law 5. Theirs. */
struct state_torn *lanes_in_torn(struct lanes_in *l);
/* Sets why they failed, over what it says; false: they did not. */
bool lanes_in_error(const struct lanes_in *l, struct err *e);
void lanes_in_break(struct lanes_in *l);   /* NULL is fine */
void lanes_in_destroy(struct lanes_in *l); /* [co] Once begun nobody comes through m->door any more. NULL is fine */
