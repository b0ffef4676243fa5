/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Several channels in one: what two programs say to each other about a machine, its RAM and its disks share a
 * connection. Source document: this comment; docs/migration.md says the same. All numbers are little-endian. A frame:
 *
 *     sub-channel 4; length of the payload 4 (at most 1 MiB); CRC-32C of these eight 4
 *     payload; its CRC-32C 4, but on sub-channel 0, whose chunks and messages have their own
 *
 *      0       messages (move/proto.h) and the machine's stream
 *      1       requests for pages
 *      2       pages that were asked for
 *      3       of disks that follow: how much is left of them (PROG), and their end (ALLD)
 *     16+i     the i-th disk: a connection of the NBD protocol
 *
 * A frame without payload ends its direction of the sub-channel. With the highest bit of the number set it is about the
 * sub-channel: the payload, 4 bytes, says how many bytes more may be sent on it; FFFFFFFF: any number, they are
 * dropped. 0 on number 0 asks whether the other side is there; 0 on number 1 is the answer, and comes at once.
 *
 * LAWS.
 *  1. Of each sub-channel no more is under way, or waits at the receiver, than 16 MiB (0) or 4 MiB (others) and what
 *     was allowed since: the receiver always takes what comes, so none of them can block another, and memory is
 * bounded.
 *  2. Frames of 1 to 15 go before those of 0 and 16 on, what is about a sub-channel before both. Between equals: in
 * turn.
 *  3. A frame with a wrong checksum, number or length, or one that breaks law 1, breaks the link; nothing of its
 * payload is passed on. (What number 0 carries is passed on as it comes: its readers have the checksums.)
 *  4. A broken link ends every wait of every sub-channel with an error, now and later. What came whole before can still
 *     be read.
 *  5. The link ends between two frames: each sub-channel ends.
 *  6. Who watches the link asks after a quarter of its patience in which nothing came, and breaks it (-ETIMEDOUT) when
 *     nothing came for all of it. Time in which this program itself stood still does not count.
 *
 * Loop thread; [co] waits.
 */
#pragma once

#include "move/channel.h"

enum mux_id { MUX_CONTROL = 0, MUX_PAGE_REQUESTS = 1, MUX_PAGES = 2, MUX_DISKS_END = 3, MUX_DISKS = 16, MUX_IDS = 80 };
enum { MUX_FRAME_MAX = 1 << 20 };

struct loop;
struct mux;

/* Takes the connected `link`. The other side's begins where ours does. */
struct mux *mux_create(struct loop *loop, struct channel *link);
enum { MUX_PATIENCE_MIN_MS = 2000 };
/* Law 6, from now on; less than MUX_PATIENCE_MIN_MS is taken for that. */
void mux_watch(struct mux *m, uint64_t patience_ns);
/*
 * Sub-channel `id`, once: the caller's, closed before mux_destroy(). All of channel.h works on it; one at a time reads
 * it, and one writes it. Closing says so to the other side, which reads its end then and may go on writing.
 */
struct channel *mux_open(struct mux *m, unsigned id);
/* Instead: one end of a pair of sockets, the caller's, whose other end is the sub-channel's. -errno. */
int mux_socket(struct mux *m, unsigned id, struct err *e);
int mux_error(const struct mux *m); /* what it was broken by; 0: it is not */
/* [co] All that was written before has come to the other side. An error: it is broken. */
int mux_arrive(struct mux *m);
/* Called once, when it is broken; must not wait. */
void mux_on_broken(struct mux *m, void (*fn)(void *opaque), void *opaque);
/* Law 4, by us. */
void mux_break(struct mux *m);
void mux_destroy(struct mux *m); /* [co] NULL is fine */
