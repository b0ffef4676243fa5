/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What two programs say to each other in post-copy: the machine runs at the destination, and RAM that is not there yet
 * follows. Source document: this comment; docs/migration.md says the same to those who write the other side.
 *
 *     source                              destination
 *     LEFT, a chunk of the stream   →           before REDY: the pages that are still to come; the others are there
 *                                   ←     NEED  pages that somebody waits for
 *     PAGE                          →           pages, each once; those asked for before others
 *                                   ←     HAVE  how many PAGE have been taken in: their RAM may be given up
 *                                   ←     ALLD  everything is there: the end
 *
 * Framed as the messages of move/proto.h: type 4, zero 4, length 8, body, CRC-32C of all before it 4; little-endian.
 *
 *     LEFT  blocks 4, zero 4; for each block, in the order of the manifest: pages 8, a bit for each page (1: still to
 *           come; the lowest bit of a byte first), zero bits up to a whole number of 8 bytes
 *     NEED  one or more of: first page 8, pages 4, block 2, zero 2
 *     PAGE  first page 8, pages 4 (1…PC_PAGES_MAX), block 2, kind 2 (0: zero, 1: data); data of the pages
 *     HAVE  PAGE messages taken in since the last HAVE: of the answers' sub-channel 4, of the other 4
 *     ALLD  nothing
 *
 * LAWS (with those of move/proto.h).
 *  4. A page is sent once; again only after a new connection, when the destination says that it has not come.
 *  5. The source gives up a page only after a HAVE that counts it.
 *  6. The destination replaces no page that is there.
 */
#pragma once

#include "machine/vm.h"
#include "move/channel.h"
#include "state/stream.h"

#include <glib.h>

/* As a chunk of the stream. */
#define STATE_LEFT STATE_LETTERS('L', 'E', 'F', 'T')

enum { PC_HEAD = 16, PC_ENTRY = 16, PC_PAGES_MAX = 256, PC_NEEDS_MAX = 4096, PC_BLOCKS_MAX = 16 };
enum pc_type { PC_PAGE, PC_NEED, PC_HAVE, PC_LEFT, PC_ALLD, PC_TYPES };
enum pc_kind { PC_ZERO, PC_DATA };

/* Sub-channels of one connection; they may be the same. */
struct pc_link {
    struct channel *bulk;     /* source → destination */
    struct channel *answers;  /* source → destination: goes before `bulk` */
    struct channel *requests; /* destination → source */
};

struct pc_run {
    unsigned block;
    uint32_t pages;
    uint64_t first;
};

/* A message that is being made: begin, append, send. */
GByteArray *pc_begin(enum pc_type type);
void pc_append_run(GByteArray *b, const struct pc_run *r, unsigned last); /* `last`: its bytes 14 and 15 */
/* [co] Frees it. Nobody else writes to `ch` meanwhile. */
int pc_send(struct channel *ch, GByteArray *b);

/* [co] The next one; *body is the caller's buffer, made larger as needed. -EBADMSG: damaged, or none. */
int pc_read(struct channel *ch, enum pc_type *type, GByteArray *body);
/* Entry `i` of NEED or PAGE; false: not within this machine's RAM. */
bool pc_run_at(struct vm *vm, const GByteArray *body, size_t off, struct pc_run *r, unsigned *last);

/* LEFT of maps of one byte a page, nonzero: to come. */
void pc_append_left(struct vm *vm, GByteArray *b, uint8_t *const *map);
/* And back: into maps that are large enough; -EBADMSG: it is not of this machine. */
int pc_parse_left(struct vm *vm, const uint8_t *body, size_t len, uint8_t *const *map);
/* What LEFT takes for this machine. */
size_t pc_left_bytes(struct vm *vm);
