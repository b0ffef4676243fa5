/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A scripted session on one image, with a model of what it holds, recorded down to each write of the file below; and
 * the judge of what an image may hold after a crash.
 *
 * Steps run one after another. A step that ended with a flush (or that promises durability by itself: snapshots,
 * resizes, bitmaps) is a MARK: from then on its result must survive. What was written since the last mark may be there
 * or not, byte by byte; a step under way when the crash came has happened or not, as a whole.
 */
#pragma once

#include "replay.h"
#include "support.h"

struct world;

struct snap {
    char *name;
    uint64_t size;
    uint8_t *data;
    bool vm; /* with a machine's state: VM_SIZE bytes that the name decides */
};

/* What the image holds. */
struct model_state {
    uint64_t size;
    uint8_t *data;
    GPtrArray *snaps;  /* struct snap * */
    char *bitmap;      /* the name of the persistent bitmap; NULL: none */
    GByteArray *dirty; /* per granule of the bitmap: must be set */
};

struct mark {
    unsigned begin, end; /* length of the log when the step began and ended */
    struct model_state *after;
    const char *step;
};
struct put {
    unsigned begin;
    uint64_t off, len;
    uint8_t *data;
    bool or_zero; /* a discard: zeroes are as good */
};

struct session {
    const char *name;
    void (*script)(struct world *w);
    bool snapshots, compression, shrinking, bitmaps, zeroes; /* what a format needs for it */
    bool widths, versions, emptying;
};
struct geometry {
    const char *name, *format;
    const char *opts; /* create options as JSON members, with ' for " */
    const char *open; /* options of opening, beginning with a comma, or "" */
    const char *need; /* those without which it does not open, likewise; NULL: none */
    bool snapshots, compression, shrinking, bitmaps, zeroes;
    bool widths, versions;     /* of refcounts; of the format */
    bool fixed_with_snapshots; /* no resize while there are any */
    bool lazy;                 /* refcounts may be wrong after a crash: opening repairs them */
    bool encrypted;
    bool grows_by_anything;        /* not by zeroes */
    bool backed;                   /* the node "below" shows through */
    bool data_file, raw_data_file; /* guest data are in a file of their own, which can be read by itself */
    bool ours;                     /* the peer's tool has nothing to say of it */
};

struct world {
    struct bench *b;
    const struct geometry *g;
    const struct session *s;
    struct memdisk disk, data, below; /* the image, its data file, its backing file */
    struct memdisk start[2];          /* the first two when the session began */
    struct node *file[3], *n;
    struct edge *ed;
    struct model_state *now;
    GArray *marks, *puts;
    uint64_t seed;
    unsigned peer_every; /* every so many crashes the peer's check is asked too; 0: never */
    unsigned long judged, asked;
    unsigned made; /* snapshots, by chance */
    uint64_t kept; /* below this a failed shrinking never reached */
    bool faulty;   /* requests may fail: a failed step has happened or not */
};

enum { FAIL_MEMORY = 1 << 16 };

struct fault {
    const char *name;
    unsigned kinds; /* FAIL_* of the memory disk, or FAIL_MEMORY */
    int rc;
    bool lasting;
};

enum { WORLD_SIZE = 192 * 1024, BITMAP_GRANULARITY = 4096, VM_SIZE = 10000 };

/* --- steps of a script --- */
void step_writes(struct world *w, unsigned count, uint64_t max); /* several at once */
void step_write(struct world *w, uint64_t off, uint64_t len);
void step_zero(struct world *w, uint64_t off, uint64_t len, unsigned flags);
void step_discard(struct world *w, uint64_t off, uint64_t len);
void step_compressed(struct world *w, uint64_t cluster);
void step_flush(struct world *w);
void step_resize(struct world *w, uint64_t size);
void step_snapshot(struct world *w, const char *name);
void step_snapshot_vm(struct world *w, const char *name); /* with a machine's state */
void step_replace(struct world *w, const char *name);     /* that state is written again, to another place */
void step_apply(struct world *w, const char *name);
void step_delete(struct world *w, const char *name);
void step_bitmap_add(struct world *w, const char *name);
void step_bitmap_remove(struct world *w);
void step_bitmap_clear(struct world *w);
void step_reopen(struct world *w);
/* Options as JSON members, with ' for ". `loses_bitmaps`: the image has none afterwards. */
void step_amend(struct world *w, const char *options, bool loses_bitmaps);

/* Only where the driver can. The last is for worlds with faults: others know the image by its name. */
void step_repair(struct world *w);
void step_empty(struct world *w);
void step_relink(struct world *w, const char *to);

/* Whether the geometry has what the session needs. */
bool session_fits(const struct session *s, const struct geometry *g);

void random_step(struct world *w); /* any of these, as w->seed has it */

/* The image whose file is the node `file`, and its data file that with "-data" behind. `more`: options, beginning with
 * a comma. */
struct node *world_open(struct world *w, const char *file, const char *more);
struct json_object *world_options(const struct world *w, const char *file, const char *more);
/* The disks, as they are, as nodes "disk", "disk-data" and "below" where the geometry has them. */
void world_files_open(struct world *w);
void world_files_close(struct world *w); /* the disks too */
int world_make(struct world *w, struct err *e);
/* What is there once the image holds nothing at `off`. */
bool is_cut(const struct world *w, uint64_t off, uint8_t byte);
void snap_vm(const char *name, uint8_t vm[VM_SIZE]); /* the machine's state of the snapshot of that name */

extern const struct session sessions[];
extern const struct geometry geometries[];
/* Records the session, replays its crashes: returns how many. `most`: as struct replay. w: b, g, s, seed, peer_every.
 */
unsigned long world_crashes(struct world *w, unsigned most);
/* The session with the n-th request of that kind failing; false: there were fewer than n. w as above. */
bool world_fault(struct world *w, const struct fault *f, unsigned n);
/* So many random steps; reads everything now and then. w as above. */
void world_random(struct world *w, unsigned steps);
