/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files that write and read streams share; the laws stand in state/stream.h. */
#pragma once

#include "state/stream.h"

#include <glib.h>

#define STATE_MAGIC "\x8eSTRN\r\n\x1a"

enum {
    STATE_VERSION = 1,
    STATE_FLAG_ALIGNED = 1,
    STATE_RAM_HEAD = 16, /* of RAMP's payload */
    STATE_RUN_BYTES = 32,
    STATE_INDEX_HEAD = 16, /* of rIDX's */
    STATE_INDEX_CHUNK = 16,
    STATE_INDEX_RUN = 40,
    STATE_DIGEST_BYTES = 32,
    STATE_CRC_BYTES = 4,
    STATE_CRCS_HEAD = 8, /* of rCRC's */
};

/* "RAMP"; what is no letter is shown as '?'. */
void state_type_text(uint32_t type, char out[5]);
/* Four letters, the third upper. */
bool state_type_ok(uint32_t type);
/* A run as it stands in RAMP. */
void state_run_store(uint8_t *p, const struct state_run *r);
/* The reverse, and everything about it that can be checked by itself and with the manifest. */
int state_run_load(const uint8_t *p, unsigned block, const struct state_manifest *m, struct state_run *r,
                   struct err *e);
/* Whether its pages lie in the block, and what it refers to too. */
int state_run_check(const struct state_run *r, const struct state_manifest *m, struct err *e);
static inline bool state_run_has_data(const struct state_run *r)
{
    return r->kind == STATE_PAGES_RAW || r->kind == STATE_PAGES_ZSTD;
}
/* How many CRCs of rCRC are the run's. */
static inline uint32_t state_run_crcs(const struct state_run *r)
{
    return r->kind == STATE_PAGES_RAW ? r->pages : r->kind == STATE_PAGES_ZSTD ? 1 : 0;
}
/*
 * Runs in the order in which they came become runs sorted by block and page, where each page is once, as it came last.
 */
void state_runs_settle(GArray *runs);
/* How many of their pages are live. */
uint64_t state_runs_live(const struct state_run *runs, unsigned n);
/* Decompresses a run's frame: all its pages. */
int state_run_unpack(const struct state_run *r, const void *frame, void *dst, struct err *e);
/* The frame's pages: of an index, where a run may be a part of its frame. Negative: it does not say, or too many. */
int64_t state_frame_pages(const void *frame, size_t len);
