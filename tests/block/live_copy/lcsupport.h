/* SPDX-License-Identifier: BSD-2-Clause */
/* A live copy whose source, destination and own file are memory disks, and what its user knows of its contents. */
#pragma once

#include "block/live_copy/live_copy.h"
#include "memdisk.h"
#include "support.h"

enum { SRC = LIVE_COPY_SOURCE, DST = LIVE_COPY_DESTINATION, META, DISKS };

struct geometry {
    const char *name;
    const char *fmt[2];
    unsigned region;  /* bytes */
    const char *open; /* options of opening, beginning with a comma, or "" */
};
extern const struct geometry geometries[]; /* ends with a NULL name */

struct world {
    struct bench *b;
    const struct geometry *g;
    struct memdisk disk[DISKS];
    struct node *file[DISKS]; /* NULL: the disk is not there */
    struct node *n;
    struct edge *ed;
    uint64_t size, seed;
    uint8_t *want;
    int running;
};

/* Makes source and destination and the live copy of them; the source has contents. */
void world_create(struct world *w, struct bench *b, const struct geometry *g, uint64_t size);
int world_make(struct world *w, struct err *e); /* the live copy alone, once more */
void world_finish(struct world *w);             /* closes what is open */
/* The disks as they are, in a graph that has none of them. */
void world_plug(struct world *w, int i);
void world_unplug(struct world *w, int i);
/* `more`: options, beginning with a comma. try: false when it does not open. */
void world_open(struct world *w, const char *more);
bool world_try_open(struct world *w, const char *more, struct err *e);
void world_close(struct world *w);
struct live_copy_status world_status(struct world *w);
/* Until both are in sync; fails the test after a minute. */
void world_sync(struct world *w);
/* What one side holds, opened by itself; the live copy must be closed. g_free. */
uint8_t *side_contents(struct world *w, int i);
/* Both sides hold `want`, and nothing is marked. */
void both_are(struct world *w, const uint8_t *want);
void fill(struct world *w, uint8_t *buf, uint64_t len);
