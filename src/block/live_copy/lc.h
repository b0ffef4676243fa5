/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the live-copy driver share; and its laws.
 *
 * Source document: this comment. docs/live-copy-format.md says the same to those who use it.
 *
 * LAYOUT. Big-endian. Nothing is assumed about how much of a write survives a crash: what a crash may tear carries a
 * CRC-32C of its own.
 *
 *     0        HEAD, never written again after creation
 *                 0  8  "STERNALC"                 32  4  compatible features: ignored
 *                 8  4  version: 1                 36  2  length of the source's name
 *                12  4  CRC-32C of these 16384     38  2  length of the source's format
 *                       bytes, this field as zero  40  2  length of the destination's name
 *                16  8  virtual size, bytes        42  2  length of the destination's format
 *                24  4  log2(region size): 12…26   44 20  zero
 *                28  4  incompatible features: 0   64  …  these texts in this order, then zeroes
 *     16384    STATE, two copies of 4096 bytes each, the second one at 20480
 *                 0  4  "LCST"
 *                 4  4  CRC-32C of bytes 8…63
 *                 8  8  sequence number
 *                16  8  events of the source; 24 8 events of the destination
 *                32  4  flags: 1 switched, 2 detached
 *                36 28  zero
 *     24576    BITMAP: blocks of 512 bytes, in pages of 8
 *                 0  4  CRC-32C of bytes 4…511
 *                 4  4  number of the block
 *                 8 504 one bit per region, 4032 regions, lowest bit first
 *              A block that is damaged, or all zero because it was never written, has all its regions marked.
 *
 * The state that counts is the valid copy with the higher sequence number. Copy (sequence % 2) of a new state is
 * written and flushed, then the other one. A side is CURRENT when its events are no fewer than the other's: so one
 * always is. Events count up when the other side falls behind; a side that has caught up gets the other's count. A
 * destination with no events has never been complete.
 *
 * INVARIANTS of the file, at every instant a crash may come:
 *
 *  1. A side that is current holds everything that a flush has acknowledged.
 *  2. A region whose bit is clear is the same on both sides, and both are stable there.
 *  3. A region's bit is stable before either side gets a write that could leave them different there.
 *  4. While both are current, either side's contents of a marked region are right, and nothing but a crash can have
 * left them different.
 *  5. While one is current, the other lacks what the marked regions hold, and nothing else.
 *  6. A write that only one side has is acknowledged after the state says, stably, that this side alone is current.
 *  7. A side becomes current after it got all marked regions and was flushed; from before that flush on, every flush of
 *     the user's goes to it too.
 *  8. "switched" appears while the destination is current, "detached" after "switched".
 *
 * ORDER OF WRITES, of the node that is open for writing:
 *
 *     write       mark (page of the bitmap, flush; nothing when the region is marked) → live side and other side, or
 *                 live side alone → (one side failed or is away: state, flush) → acknowledged
 *     copy        read live side → write other side → region is alike in memory; its bit stays
 *     clear       both sides flushed, no write since → page of the bitmap, not flushed
 *     catch up    nothing stale: other side flushed → state, flush
 *     switch      state, flush → reads go to the destination
 *
 * LAWS of the node. A region is STALE when the side that is not live lacks it: then it is marked too, on disk.
 *
 *  a. Reads come from the live side: the one that is current; of two, the source until switched, then the destination.
 *  b. A write whose regions are all stale and not being copied goes to the live side alone. Any other write goes to
 * both: what a stale region gets early does no harm. c. Writes and copies of one range take turns, so that both sides
 * get them in one order. A copy holds a turn for no more than 1 MiB of data. d. What goes to both sides is taken from
 * the guest's memory once, as the guest may change it meanwhile. e. Discards are zeroes where these are cheap, and
 * nothing where they are not: both sides must read alike. f. A side that fails a write or a flush is out: all marked
 * regions are stale from then on, and the other one is live. So is one that fails a read that the other one can answer;
 * what could not be read is written again later. A side is never out while the other one is not current. g. A side that
 * is out or missing is opened again after a while, gets what is stale, and is current again. h. After a crash with both
 * current, one is live and what is marked is stale before the first request is served. i. Nothing is marked, nothing
 * stale: nothing runs and nothing is written.
 *
 * STATES, and who moves on:
 *
 *     copying ──lc_join──▶ in-sync ──live_copy_switch──▶ switched ──live_copy_detach──▶ detached
 *                             │ ▲                           │ ▲
 *           lc_side_failed ───▼─┴─ lc_join ── degraded ─────▼─┴
 */
#pragma once

#include "base/bitmap.h"
#include "block/driver.h"
#include "block/live_copy/live_copy.h"
#include "block/turn.h"

#define LC_MAGIC "STERNALC"
enum {
    LC_HEAD_SIZE = 16384,
    LC_STATE_AT = 16384,
    LC_STATE_STRIDE = 4096,
    LC_STATE_SIZE = 64,
    LC_BITMAP_AT = 24576,
    LC_BLOCK = 512,
    LC_BLOCK_REGIONS = 4032,
    LC_PAGE = 4096,
    LC_NAME_MAX = 4095,
    LC_FMT_MAX = 63,
    LC_MIN_BITS = 12,
    LC_MAX_BITS = 26,
    LC_MAX_REGIONS = 1 << 26,
    LC_CHUNK = 1 << 20,
    LC_MAX_PARALLEL = 16,
};
enum { LC_SWITCHED = 1, LC_DETACHED = 2 };
enum { SRC = LIVE_COPY_SOURCE, DST = LIVE_COPY_DESTINATION };
extern const char *const lc_side_names[2]; /* "source", "destination": options and edges */

struct lc_head {
    uint64_t size;
    unsigned bits;
    char *name[2], *fmt[2]; /* owned */
};

struct lc_state {
    uint64_t seq, events[2];
    uint32_t flags;
};

struct lc_side {
    struct edge *edge; /* NULL: missing */
    bool out;          /* has failed: gets no requests until it is opened again */
    unsigned users;    /* requests that may be using the edge */
    struct co_queue idle;
    char *trouble; /* why it is missing or out; owned */
};

/* A range that is being copied. */
struct lc_copy {
    struct lc *s;
    uint64_t first, count; /* regions */
    bool spoiled;          /* it will not be alike when the copy ends */
    GList link;
};

/* A change under way: its regions may differ. */
struct lc_op {
    uint64_t first, count;
    GList link;
};

struct lc {
    struct node *n;
    struct edge *file;
    struct lc_head head;
    struct live_copy_options opt;
    bool bare;      /* opened to look at the file only: no sides */
    bool detached;  /* the destination alone, and nothing to remember */
    bool one_valid; /* when opened, one of the two states was not valid */

    /* The state as it is on disk, unless a write of it failed: then it is that one or this. */
    struct lc_state state;
    bool state_known;
    struct co_mutex meta_lock; /* held by whoever writes the file */

    /* One bit per region. */
    uint64_t regions, blocks, pages, bad_blocks;
    uint8_t *image;                      /* the blocks of the bitmap as they will be on disk, but for their CRCs */
    struct bitmap *marked;               /* as in image */
    struct bitmap *pending, *committing; /* of these, not known to be on disk; committing: being written */
    struct bitmap *dirty_pages;
    struct bitmap *stale; /* the other side lacks it */
    /* Changed since the last sweep; since the one before that; being cleared by a sweep. */
    struct bitmap *recent, *older, *settling;

    /* The sides. */
    struct lc_side side[2];
    int live;
    bool joined;  /* the other side is current, or about to be: flushes go to it */
    bool no_zero; /* a side has no cheap zeroes */
    GQueue turns, ops, copies;

    /* The keeper (keeper.c), which copies, clears, and brings sides back. */
    struct co *keeper;
    bool keeper_running, stopping, sweeping;
    struct co_queue stopped, changed;
    struct timer timer;
    uint64_t sweep_at, retry_at, pace_at, again_at; /* again: after errors, another pass. 0: no such plan */
    uint64_t cursor;                                /* region */
    unsigned pass_errors;
    struct live_copy_status last; /* passes, outages and the last error */
    enum live_copy_state told;    /* by the last event */
    uint8_t *arena;               /* opt.parallel buffers of LC_CHUNK */
    unsigned arena_bufs, free_count;
    uint8_t free_bufs[LC_MAX_PARALLEL];
};

static inline struct lc *lc_of(struct node *n)
{
    return n->priv;
}
static inline int lc_other(const struct lc *s)
{
    return !s->live;
}
static inline bool lc_present(const struct lc *s, int i)
{
    return s->side[i].edge && !s->side[i].out;
}
static inline bool lc_state_current(const struct lc_state *st, int i)
{
    return st->events[i] >= st->events[!i];
}
static inline bool lc_state_both(const struct lc_state *st)
{
    return st->events[SRC] == st->events[DST];
}
/* Whether the live side may fail, because the other one holds the same. */
static inline bool lc_spare(const struct lc *s)
{
    return !s->detached && s->joined && s->state_known && lc_state_both(&s->state) && lc_present(s, lc_other(s)) &&
           !bitmap_count(s->stale);
}

/* --- format.c: head and state ------------------------------------------------------------------------------------ */

/* Reads head and states, checks them. `what` names the image in errors. [co] */
int lc_format_read(struct lc *s, struct err *e);
void lc_head_finish(struct lc_head *h);
/* Writes head (LC_HEAD_SIZE bytes) and state (LC_STATE_SIZE) into zeroed buffers. */
void lc_head_encode(const struct lc_head *h, uint8_t *buf);
void lc_state_encode(const struct lc_state *st, uint8_t *buf);
/* Limits on sizes and names; the error names the remedy. */
int lc_head_check(const struct lc_head *h, struct err *e);
uint64_t lc_regions(const struct lc_head *h);
uint64_t lc_file_size(const struct lc_head *h);
/* Writes the next state, stably; seq is filled in. With meta_lock held. [co] */
int lc_state_write(struct lc *s, struct lc_state want);
/* The live side alone is current, stably, if not so already. [co] */
int lc_state_single(struct lc *s);
enum live_copy_state lc_state_now(const struct lc *s);

/* --- marks.c: the bitmap ----------------------------------------------------------------------------------------- */

int lc_marks_open(struct lc *s, struct err *e);
void lc_marks_close(struct lc *s);
/* The regions of a range; none of an empty one. */
void lc_range(const struct lc *s, uint64_t off, uint64_t len, uint64_t *first, uint64_t *count);
/* On return these regions are marked on disk. [co] */
int lc_mark(struct lc *s, uint64_t first, uint64_t count);
/* In memory; lc_marks_write() brings it to disk. */
void lc_unmark(struct lc *s, uint64_t region);
/* Writes what has changed of the bitmap; with `stable`, flushes. With meta_lock held. [co] */
int lc_marks_write(struct lc *s, bool stable);
/* Everything is to be written again, as nothing on disk is to be trusted. */
void lc_marks_rewrite(struct lc *s);
/* They may differ and will have to be cleared some day. */
void lc_touch(struct lc *s, uint64_t first, uint64_t count);
/* One round of clearing. [co] */
void lc_sweep(struct lc *s);
/* The node is being closed: all that is alike is cleared. [co] */
void lc_sweep_all(struct lc *s);

/* --- sides.c ------------------------------------------------------------------------------------------------------ */

/* Opens both, chooses the live one, decides what is stale. [co] */
int lc_sides_open(struct lc *s, struct err *e);
/* Of a node that may write: the state becomes true of them. [co] */
int lc_sides_settle(struct lc *s, struct err *e);
void lc_sides_close(struct lc *s);
/* One side, which must be missing. [co] */
int lc_side_open(struct lc *s, int i, struct err *e);
/* The edge to use, or NULL when there is none; put it back afterwards. */
struct edge *lc_side_get(struct lc *s, int i);
void lc_side_put(struct lc *s, int i);
/* Law f. The caller sees to lc_state_single() before it acknowledges anything. `rc` is for the message. */
void lc_side_failed(struct lc *s, int i, int rc);
/* Closes what is left of a side that nobody may use any more. [co] */
void lc_side_drop(struct lc *s, int i);
/* Opens the side that is out or missing again. [co] */
void lc_side_return(struct lc *s);
/* These regions differ now (marked already). */
void lc_make_stale(struct lc *s, uint64_t first, uint64_t count);
bool lc_being_copied(const struct lc *s, uint64_t first, uint64_t count);
/* The other side has everything: it becomes current. [co] */
void lc_join(struct lc *s);
void lc_changed(struct lc *s); /* tells those who wait for the status, and the event bus */

/* --- request.c ---------------------------------------------------------------------------------------------------- */

int lc_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int lc_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
int lc_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags);
int lc_discard(struct node *n, uint64_t off, uint64_t len);
int lc_flush(struct node *n);
int lc_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out);
/* What is current is flushed; with `all`, the other side too if it is only on its way there. [co] */
int lc_flush_sides(struct lc *s, bool all);

/* --- keeper.c ----------------------------------------------------------------------------------------------------- */

void lc_keeper_start(struct lc *s);
void lc_keeper_stop(struct lc *s); /* [co] */
void lc_keeper_wake(struct lc *s);
/* It looks again at that time, if not earlier. */
void lc_keeper_alarm(struct lc *s, uint64_t at_ns);

/* --- create.c, look.c --------------------------------------------------------------------------------------------- */

extern const struct create_option lc_create_options[];
int lc_create(struct block_graph *g, struct json_object *opts, struct err *e);
struct json_object *lc_specific_info(struct node *n);
int lc_check(struct node *n, struct check_result *r, unsigned fix, struct err *e);
