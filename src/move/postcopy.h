/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The two ends of post-copy: RAM that follows a machine which already runs elsewhere. What is said is in
 * move/postcopy_wire.h. Loop thread; [co] waits.
 */
#pragma once

#include "move/postcopy_wire.h"

struct dirty;

/* How long who needed a page waited for it. */
struct pc_latency {
    uint64_t count, sum_ns, max_ns;
    uint64_t bucket[32]; /* of 2^i microseconds and less than twice as long; the first one: also less */
};
/* How long harts waited for pages, in nanoseconds: each, and all of them at once. */
struct pc_blocked {
    unsigned harts;
    uint64_t all_ns, hart_ns[8];
};
/* So many of a hundred waited no longer: to the next power of two microseconds. */
uint64_t pc_latency_percentile(const struct pc_latency *l, unsigned percent);

/* --- the source ---------------------------------------------------------------------------------------------------
 */

struct pc_out_options {
    const uint64_t *bandwidth; /* bytes a second of what nobody asked for; 0: no limit */
    bool release;              /* RAM that is there is given up here, once the machine runs there */
};
struct pc_out_stats {
    uint64_t left;       /* pages that the other side is not known to have */
    uint64_t requests;   /* pages that were asked for */
    uint64_t bytes;      /* that were sent */
    uint64_t data, zero; /* pages */
};

struct pc_out;
/* What is dirty as it is now, the guest stopped for good. */
struct pc_out *pc_out_create(struct vm *vm, const struct dirty *d, const struct pc_out_options *o);
void pc_out_destroy(struct pc_out *p); /* NULL is fine */
/* Body of LEFT: the caller's. */
GByteArray *pc_out_left(struct pc_out *p);
/* After a new connection: what the other side says it lacks. An error: it lacks what it once had. */
int pc_out_set_left(struct pc_out *p, const GByteArray *left, struct err *e);
/* [co] The machine runs there. Serves and sends until the other side has all: 0; else the link is broken and may be
 * replaced. */
int pc_out_run(struct pc_out *p, const struct pc_link *link, struct err *e);
/* Who waits because of it looks again. */
void pc_out_limit_changed(struct pc_out *p);
struct pc_out_stats pc_out_stats(const struct pc_out *p);
/* The memory of all of RAM goes: the machine runs there, and has it. */
void pc_give_up_all(struct vm *vm);

/* --- the destination ----------------------------------------------------------------------------------------------
 */

struct pc_in;
/* An error: this host cannot. Asked before any page. */
int pc_in_check(struct vm *vm, struct err *e);
/* LEFT has come. */
struct pc_in *pc_in_create(struct vm *vm, const GByteArray *left, struct err *e);
/* Before pc_in_begin(): the page is one of those that follow. */
bool pc_in_lacks(const struct pc_in *p, unsigned block, uint64_t page);
/* The machine held still, all other RAM in its place: from now on who touches a missing page waits. */
int pc_in_begin(struct pc_in *p, struct err *e);
/* NULL is fine. Pages that did not come are zeroes: the machine must not run again. */
void pc_in_destroy(struct pc_in *p);
/* What is missing now, as the body of LEFT: the caller's. */
GByteArray *pc_in_left(struct pc_in *p);
/* [co] Until all is there: 0; else the link is broken and may be replaced. */
int pc_in_run(struct pc_in *p, const struct pc_link *link, struct err *e);
uint64_t pc_in_missing(const struct pc_in *p); /* pages */
const struct pc_latency *pc_in_latency(const struct pc_in *p);
void pc_in_blocked(const struct pc_in *p, struct pc_blocked *out);
