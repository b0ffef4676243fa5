/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stream: one format for snapshots, files and migration. Source document: this comment; docs/stream-format.md says
 * the same to those who write a reader.
 *
 * LAYOUT. Little-endian. A header, then chunks.
 *
 *     header, 32 bytes               chunk
 *      0  8  8E 'S' 'T' 'R' 'N' CR LF 1A      0  4  type, four ASCII letters
 *      8  4  version: 1                       4  4  flags: 0
 *     12  4  flags: 1 aligned                 8  8  length of the payload
 *     16  4  alignment: 4096 or 0            16  …  payload
 *     20  8  zero                             …  4  CRC-32C of all before it in the chunk
 *     28  4  CRC-32C of bytes 0…27
 *
 * The letters' case: first lower: ancillary, who does not know it skips it; second lower: a vendor's; third upper,
 * always; fourth lower: a translator that does not know it may copy it.
 *
 *     MANI  JSON text; see state/manifest.h
 *     DEVS  a device: see state/section.h
 *     RAMP  pages: block 2, zero 2, runs 4, padding 4, zero 4; the runs; `padding` zero bytes; data of the raw runs in
 *           order, data of the zstd runs in order. A run, 32 bytes: first page 8, pages 4, kind 1, zero 1, other block
 *           2, bytes of data 8, other page 8. Kind 4, between two programs only, is raw data of live pages; behind the
 *           runs stands the CRC-32C of each of these pages 4 …, and the chunk's CRC leaves their data out.
 *     rIDX  where things are: chunks 4, zero 4, runs 8; for each chunk that is not RAMP: type 4, zero 4, offset 8; for
 *           each run, 40 bytes: first page 8, pages 4, kind 1, zero 1, block 2, offset of its data 8, bytes of data 8,
 *           other block 2, zero 2, pages of the frame to skip 4; same-as: the other page stands for the offset.
 *     rCRC  CRCs of pages, for who reads by the index: number 4, zero 4; for each run of the index that has data, in
 *           its order: raw: the CRC-32C of each page 4 …, zstd: that of the whole frame 4.
 *     rFSt  pages that were used first when this machine was last loaded by and by, in that order: entries 4, zero 4;
 *           for each: first page 8, pages 4, block 2, zero 2.
 *     bMAp  bits of a dirty bitmap of a disk: length of the text 4, zero 4, JSON text, words of bits 8 …
 *     JOBS  jobs that go on where the machine goes, of a stream between two programs: JSON (move/jobs.h)
 *     STOP  chunks before it 8, bytes before it 8, offset of rIDX 8 (0: none), pages zero, raw, zstd, same-as 8 each,
 *           SHA-256 of every earlier chunk's 16-byte head and 4-byte CRC 32.
 *
 * LAWS.
 *  1. MANI comes first and once, STOP last and once; without STOP a stream is incomplete.
 *  2. A chunk can be skipped by its length alone; nothing in one says where the next one begins.
 *  3. Devices are matched by path. One path has one chunk.
 *  4. The runs of one RAMP ascend and do not overlap. A page that comes again in a later one replaces what came before.
 * Same-as runs refer to pages as they are when the other runs of their RAMP have been taken.
 *  5. In an aligned stream the data of each raw run begins at a multiple of the alignment, counted from the header.
 *  6. In the index each page is at most once, in its last form, sorted by block and page. A same-as run of it refers to
 *     what the other page is in the end; so same-as is used for pages that do not come again.
 *  7. With a parent (manifest) a page that does not come is as in the parent; without one it is zero.
 *  8. A live page may be written to while it is read, for its CRC and again for its data. When these differ it is torn,
 *     and comes once more before STOP (or another way: state_torn_mend()): who wrote to it has marked it as changed.
 *  9. No length or count from outside leads to an allocation before it was checked, and data are allocated as they
 *     arrive.
 *
 * Writer and reader have sticky errors: after the first one calls do nothing and return it. The callbacks may wait
 * (coroutines), and so may every function here that takes a writer or a reader. One thread at a time.
 */
#pragma once

#include "base/err.h"
#include "state/torn.h"

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct state_manifest;

enum {
    STATE_PAGE = 4096, /* bytes of a page of RAMP */
    STATE_HEADER_BYTES = 32,
    STATE_HEAD_BYTES = 16, /* of a chunk */
    STATE_STOP_BYTES = 88, /* its payload */
    STATE_MANIFEST_MAX = 16 << 20,
    STATE_DEVICE_MAX = 16 << 20, /* payload of DEVS */
    STATE_RAM_MAX = 32 << 20,    /* payload of RAMP */
    STATE_FIRST_MAX = 1 << 20,   /* payload of rFSt */
    STATE_BITMAP_MAX = 2 << 20,  /* payload of bMAp */
    STATE_JOBS_MAX = 64 << 20,   /* payload of JOBS */
    STATE_RUNS_MAX = 65536,      /* in one RAMP */
    STATE_RUN_PAGES_MAX = 4096,  /* in one run that has data */
    STATE_BATCH_PAGES = 256,     /* of data that state_write_page() collects in one RAMP */
};

#define STATE_LETTERS(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
#define STATE_MANI                STATE_LETTERS('M', 'A', 'N', 'I')
#define STATE_DEVS                STATE_LETTERS('D', 'E', 'V', 'S')
#define STATE_RAMP                STATE_LETTERS('R', 'A', 'M', 'P')
#define STATE_RIDX                STATE_LETTERS('r', 'I', 'D', 'X')
#define STATE_RCRC                STATE_LETTERS('r', 'C', 'R', 'C')
#define STATE_RFST                STATE_LETTERS('r', 'F', 'S', 't')
#define STATE_BMAP                STATE_LETTERS('b', 'M', 'A', 'p')
#define STATE_JOBS                STATE_LETTERS('J', 'O', 'B', 'S')
#define STATE_STOP                STATE_LETTERS('S', 'T', 'O', 'P')
static inline bool state_type_ancillary(uint32_t type)
{
    return type & 0x20;
}
static inline bool state_type_safe_to_copy(uint32_t type)
{
    return type >> 24 & 0x20;
}

enum state_page_kind {
    STATE_PAGES_ZERO,
    STATE_PAGES_RAW,
    STATE_PAGES_ZSTD, /* one frame for the whole run */
    STATE_PAGES_SAME, /* as the other pages, which came before */
    STATE_PAGE_KINDS,
    STATE_PAGES_LIVE = STATE_PAGE_KINDS, /* in RAMP alone: RAW with state_run's `live` */
};

/* Pages of one block that lie side by side and have one form. */
struct state_run {
    unsigned block; /* in the order of the manifest */
    enum state_page_kind kind;
    bool live;     /* RAW: law 8 */
    uint64_t page; /* first; in units of STATE_PAGE from the block's beginning */
    uint32_t pages;
    uint64_t bytes;       /* of data in the stream: RAW: pages * STATE_PAGE; ZSTD: compressed; else 0 */
    uint64_t offset;      /* of the data, from the header; 0 in what is written */
    unsigned other_block; /* SAME */
    uint64_t other_page;
    uint32_t skip; /* ZSTD, of an index: pages of the frame before this run's */
    uint64_t crc;  /* RAW, ZSTD, of an index: number of its first page's, or its frame's, CRC */
};

struct state_totals {
    uint64_t chunks, bytes;           /* before STOP */
    uint64_t pages[STATE_PAGE_KINDS]; /* that were written, the same ones again included */
    uint8_t digest[32];               /* of a writer, after STOP: state_index_digest() */
};

/* --- writing ------------------------------------------------------------------------------------------------------ */

/* Writes all of it or returns a negative errno. May wait. */
struct state_sink {
    int (*write)(void *opaque, const void *buf, size_t len);
    void *opaque;
    const char *name; /* for messages: "file 'x.st'", "node 'disk0'" */
};

struct state_write_options {
    bool aligned;   /* output that can be mapped */
    bool index;     /* write rCRC and rIDX: for output that can be read at any place */
    int zstd_level; /* 0: does not compress */
};

struct state_writer;
/* Nothing is written yet. The sink is copied. */
struct state_writer *state_writer_create(const struct state_sink *s, const struct state_write_options *o);
void state_writer_destroy(struct state_writer *w);
/* Header and manifest: the first thing to write. The manifest stays the caller's and must live as long as the writer.
 */
int state_write_manifest(struct state_writer *w, const struct state_manifest *m);
/* What state_encode() made: a DEVS chunk. */
int state_write_device(struct state_writer *w, const void *payload, size_t len);
/* Any other chunk. */
int state_write_chunk(struct state_writer *w, uint32_t type, const void *payload, size_t len);
/*
 * One page after another, in any order; best ascending. They are copied, told whether they are zero, put together into
 * runs, compressed if that is wanted and helps, and written a batch at a time: only some calls write. A page that is
 * not zero must not change during the call.
 */
int state_write_page(struct state_writer *w, unsigned block, uint64_t page, const void *data);
int state_write_zero_pages(struct state_writer *w, unsigned block, uint64_t page, uint64_t pages);
/* These pages are as those, which have been written (all of them) and will not be again. */
int state_write_same_pages(struct state_writer *w, const struct state_run *same);
/* Writes out what state_write_page() has collected. The other functions do that by themselves. */
int state_write_flush(struct state_writer *w);
/*
 * For who compresses elsewhere: one RAMP of these runs of one block, data[i] for each (NULL when there is none); raw
 * runs, then zstd runs, or in any order with the data so sorted. `bytes` of each is set. Live data are read twice.
 */
int state_write_runs(struct state_writer *w, const struct state_run *runs, const void *const *data, unsigned n);
/* Index and STOP: the stream is complete. `totals` may be NULL. */
int state_write_stop(struct state_writer *w, struct state_totals *totals);
/* So far. */
uint64_t state_writer_bytes(const struct state_writer *w);
void state_writer_totals(const struct state_writer *w, struct state_totals *out);
/* 0, or the first error and its text. */
int state_writer_error(const struct state_writer *w, struct err *e);

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct state_source {
    /* At least one byte unless at the end; 0: the end; negative errno. May wait. */
    ssize_t (*read)(void *opaque, void *buf, size_t len);
    /* The same at any place, for what is not a pipe; NULL: forward only. */
    ssize_t (*read_at)(void *opaque, void *buf, size_t len, uint64_t offset);
    uint64_t size; /* with read_at: of the stream; 0: not known */
    void *opaque;
    const char *name; /* for messages */
};

struct state_chunk {
    uint32_t type, flags;
    uint64_t offset; /* of its head, from the header */
    uint64_t length; /* of the payload */
};

struct state_reader;
/* Reads header and manifest. NULL and an error: not a stream, or none that we read. */
struct state_reader *state_reader_create(const struct state_source *s, struct err *e);
void state_reader_destroy(struct state_reader *r);
/* Belongs to the reader. */
const struct state_manifest *state_reader_manifest(const struct state_reader *r);
/* Borrowed: the reader's copy. */
const struct state_source *state_reader_source(const struct state_reader *r);
bool state_reader_aligned(const struct state_reader *r);
/*
 * The next chunk of a type in this file's list, or any with state_reader_keep_unknown(); ancillary chunks of other
 * types are skipped, critical ones refused. What was left of the chunk before is skipped, its CRC checked. 1: there is
 * one; 0: STOP has been read and all it says is true; negative: error (-ENODATA: ended before STOP).
 */
int state_read_next(struct state_reader *r, struct state_chunk *out);
void state_reader_keep_unknown(struct state_reader *r);
/* The whole payload, its CRC checked: valid until the next call. Not for RAMP. `max` limits the length. NULL: error. */
const GByteArray *state_read_payload(struct state_reader *r, uint64_t max);
/*
 * Of a RAMP chunk: its next run. 1; 0: there is none left, and the chunk's CRC was right; negative. The runs that have
 * data come in the order of the data. Their pages are within the block.
 */
int state_read_run(struct state_reader *r, struct state_run *out);
/* The data of the run just returned (RAW, ZSTD) to `dst`, pages * STATE_PAGE bytes. Not called: they are skipped.
 * What came is only known to be good when state_read_run() or state_read_next() has returned without an error. */
int state_read_run_data(struct state_reader *r, void *dst);
/* From now on live pages are taken; else they are refused. The data of such a run must be read. */
void state_reader_take_live(struct state_reader *r);
/* Those of law 8: the reader's. */
struct state_torn *state_reader_torn(struct state_reader *r);
/* Of the whole stream, once state_read_next() has returned 0. */
void state_reader_totals(const struct state_reader *r, struct state_totals *out);
/* Bytes that were got from the source and are not consumed: those that follow STOP. */
size_t state_reader_buffered(const struct state_reader *r);
/* Bytes consumed so far. */
uint64_t state_reader_bytes(const struct state_reader *r);
/* 0, or the first error and its text. */
int state_reader_error(const struct state_reader *r, struct err *e);

/* --- reading at any place ----------------------------------------------------------------------------------------- */

/* Where everything is, from the index at the end or, where there is none, by reading the heads of all chunks. */
struct state_index;
/*
 * Of a reader whose source has read_at and a size. NULL and an error: incomplete, damaged. The source is asked for
 * STOP, the index and no more: that RAM's data are undamaged is not looked at. Does not move the reader.
 */
struct state_index *state_index_read(struct state_reader *r, struct err *e);
void state_index_destroy(struct state_index *x);
/* The digest that STOP has, of 32 bytes: what tells this stream from any other. */
const uint8_t *state_index_digest(const struct state_index *x);
/* Whether this is the stream that `child` is based on: an error that names it, `name`, if its manifest says another. */
int state_index_check_parent(const struct state_index *x, const struct state_manifest *child, const char *name,
                             struct err *e);
/* Whether each page is checked by a CRC when it is read by the index. */
bool state_index_has_crcs(const struct state_index *x);
/* Chunks other than RAMP, in the stream's order. */
const struct state_chunk *state_index_chunks(const struct state_index *x, unsigned *n);
/* The payload of one of them, CRC checked; NULL and an error. */
GByteArray *state_index_payload(struct state_reader *r, const struct state_chunk *c, uint64_t max, struct err *e);
/* All runs of all blocks, checked against the manifest, sorted by block and page, no page twice. */
const struct state_run *state_index_runs(const struct state_index *x, uint64_t *n);
/* The run that holds the page; NULL: not in this stream (zero, or the parent's). */
const struct state_run *state_index_find(const struct state_index *x, unsigned block, uint64_t page);
/* The first run of the block that ends after the page; NULL: none. */
const struct state_run *state_index_next(const struct state_index *x, unsigned block, uint64_t page);
/*
 * `n` pages of a run, from its page `first` on, to `dst`: whatever its kind. Negative errno. From any thread, several
 * at a time, by any source of that stream: an index does not change. -EBADMSG: the data are not what was written;
 * without state_index_has_crcs() what is read this way is as good as the medium.
 */
int state_index_read_pages(const struct state_source *s, const struct state_index *x, const struct state_run *run,
                           uint32_t first, uint32_t n, void *dst);
