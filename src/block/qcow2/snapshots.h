/* SPDX-License-Identifier: BSD-2-Clause */
/* What qcow2's files about internal snapshots share; the laws are in qcow2.h. */
#pragma once

#include "block/qcow2/qcow2.h"
#include "block/snapshot.h"

enum { SNAP_EXTRA = 24 }; /* bytes of extra data that we know, and write */

/* An entry of the snapshot table. */
struct q_snap {
    struct snapshot info;
    uint64_t l1_offset;
    uint32_t l1_size;     /* entries */
    uint32_t extra;       /* bytes of extra data that it has in the file */
    uint8_t *unknown;     /* extra data behind what we know: kept */
    uint32_t unknown_len; /* bytes */
};

/* --- snaptable.c --- */
struct q_snap *snap_copy(const struct q_snap *s);
GPtrArray *snaps_new(void);                                       /* frees what it holds */
struct q_snap *snaps_find(const struct qcow2 *s, const char *id); /* NULL: none */

/* When an image is opened: as snaps_load(), and its place is looked at first. */
int snaps_open(struct qcow2 *s, struct err *e);
bool snaps_place_ok(const struct qcow2 *s); /* h.snapshots_offset */
/* Where it is and how long; the texts are QEMU's. */
int snap_l1_check(const struct qcow2 *s, const struct q_snap *x, struct err *e);
/* Its L1 table in host order, x->l1_size entries; g_malloc'd. */
int snap_l1_load(struct qcow2 *s, const struct q_snap *x, uint64_t **out, struct err *e);

/* What a check makes good while it reads the table. */
struct snap_repair {
    GString *text; /* may be NULL */
    uint32_t dropped, shortened;
};
/* Reads the table into s->snapshots. `repair` NULL: whatever is over the limits is an error. */
int snaps_load(struct qcow2 *s, struct snap_repair *repair, struct err *e);
/* The table as the file has it; g_malloc'd. -EFBIG: over the limits. */
int snaps_encode(GPtrArray *snaps, uint8_t **out, uint64_t *len);

/* --- walk.c --- */
/* Gets a table's content, which it may change as it likes: it is a copy. */
typedef int l2_fn(void *opaque, uint32_t l1_index, uint64_t offset, uint8_t *data);
/* Calls fn for each L2 table that l1[0 … n) names, in this order; many are read at a time, past the cache. */
int l2_walk(struct qcow2 *s, const uint64_t *l1, uint32_t n, l2_fn *fn, void *opaque);

/* --- switch.c --- */
/*
 * A switch exchanges what the header names (active L1 table, refcount table, snapshot table, size) in one write.
 *
 *     switch_begin; switch_reserve; switch_adopt, switch_leave …; switch_commit
 *
 * or switch_abort instead of any later one, after which nothing has changed. With s->lock held all the time, and nobody
 * else using the image. With `forks` refcount blocks are not changed but copied: counters of clusters in use can then
 * change, and the new ones count when the header names the new table.
 */
struct q_switch {
    struct qcow2 *s;
    bool forks;
    struct q_header h;    /* as it will be */
    GPtrArray *snapshots; /* as they will be: struct q_snap *; shares them with s->snapshots */
    bool new_table;       /* they differ */
    uint64_t *l1;         /* the active table as it will be, h.l1_size entries; NULL: it stays */
    bool keep_l1;         /* the old one is not given up: a snapshot has it now */

    uint8_t *table; /* encoded snapshots */
    uint64_t table_len;
    struct bitmap *leaving; /* clusters that lose their last reference */
    GArray *rows, *gone;    /* struct q_free: what was allocated; tables that are given up */
    struct q_counter counter;
    struct { /* copies of L2 tables on their way to the file */
        uint8_t *buf;
        uint64_t off, expected;
        uint32_t n, used;
    } copies;
    uint64_t *old_reftable, old_rt_offset; /* what a fork began with */
    uint32_t old_rt_size;
};

int switch_begin(struct q_switch *w, struct qcow2 *s, bool forks);
/* Room for an L1 table (l1_size 0: the active one stays), w->snapshots, and the first of `copies` L2 tables, in a row.
 */
int switch_reserve(struct q_switch *w, uint32_t l1_size, uint64_t copies);
/* The first n entries of `l1` become the active image, which shares all it has with others. */
int switch_adopt(struct q_switch *w, const uint64_t *l1, uint32_t n);
/* One user of all that `l1` names is gone. */
int switch_leave(struct q_switch *w, const uint64_t *l1, uint32_t n);
/* The active image, after others have left: its L1 table as it is, or with some of the tables copied. */
int switch_reclaim(struct q_switch *w, const uint64_t *l1);
/* Of a snapshot's tables, after switch_reserve(): how many users a cluster has; a new one of so many, of one of which
 * the switch_take()n are; one less; a copy of an L2 table; an L1 table of n entries at a place that was taken. */
int switch_users(struct q_switch *w, uint64_t cluster, uint64_t *out);
int switch_set_users(struct q_switch *w, uint64_t cluster, uint64_t users);
int switch_lose(struct q_switch *w, uint64_t cluster);
int switch_copy_table(struct q_switch *w, const uint8_t *data, uint64_t *off);
int switch_write_l1(struct q_switch *w, uint64_t off, const uint64_t *l1, uint32_t n);
/* Clusters in a row; also before switch_reserve(). */
int switch_take(struct q_switch *w, uint64_t clusters, uint64_t *off);
/* A table that nobody uses afterwards. */
void switch_give_up(struct q_switch *w, uint64_t off, uint64_t len, int kind);
/* Whatever it returns: s is as the file is, or will be before anything else is written (s->unsure). Releases w. */
int switch_commit(struct q_switch *w);
void switch_abort(struct q_switch *w);

/* Of a cluster, as often. */
int switch_lose_times(struct q_switch *w, uint64_t off, uint64_t users);

/* --- rewrite.c --- */
struct q_rewrite {
    bool states; /* those of machines' states, too */
    /* Whether a table of guest offsets from `first` on has something to be changed; data NULL: there is none. */
    bool (*wants)(struct q_rewrite *x, uint64_t first, const uint8_t *data);
    /* Changes it; so many use the table, and so what it names. */
    int (*change)(struct q_rewrite *x, uint64_t first, uint8_t *data, uint64_t users);
    struct q_switch w;
    GHashTable *tables; /* that it wants: offset → that of the copy, NULL: not made yet */
    uint64_t missing;   /* tables that are to be made */
    uint64_t *l1;       /* of the snapshot at hand, as it will be */
};
/* [lock] Changes tables of all snapshots that have some to be changed; nobody else uses the image. */
int snapshots_rewrite(struct qcow2 *s, struct q_rewrite *x);

/* --- fill.c --- */
extern const struct snapshot_fill_ops qcow2_fill_ops;

/* --- state.c --- */
/* Clusters are taken that nothing names yet: until the last who said so is done, whoever opens the image looks for
 * them. A failure to begin changes nothing. */
int making_begin(struct qcow2 *s);
void making_end(struct qcow2 *s);
struct q_state;
/* The snapshot, from begin until finish or cancel; NULL: it is only read. */
const struct q_snap *state_snapshot(const struct q_state *v);
/* One that is being made has that name, or one that is being read that id. */
bool states_make(const struct qcow2 *s, const char *name);
/* One has been taken that nothing names yet: its tables are not among those of s->snapshots. */
bool states_begun(const struct qcow2 *s);
bool states_read(const struct qcow2 *s, const char *id);
extern const struct snapshot_state_ops qcow2_state_ops;

/* --- snapshot.c, vmstate.c: callbacks of the driver --- */
int qcow2_snapshot_list(struct node *n, GPtrArray *out);
/* What stands in the way of another snapshot. */
int snapshot_check_new(struct qcow2 *s, const struct snapshot *info, struct err *e);
char *snapshot_next_id(const struct qcow2 *s);
/* [lock] Takes it; `named`: it is in the table, too. x gets its L1 table. */
int snapshot_take(struct qcow2 *s, struct q_snap *x, bool named);
/* The active image becomes as it was. */
int snapshot_put_back(struct qcow2 *s, const struct q_snap *x, struct err *e);
/* [lock] Gives back all that `l1`, of x, has. */
int snapshot_give_back(struct qcow2 *s, struct q_snap *x, const uint64_t *l1);
int qcow2_snapshot_create(struct node *n, struct snapshot *info, struct err *e);
int qcow2_snapshot_apply(struct node *n, const char *id, struct err *e);
int qcow2_snapshot_delete(struct node *n, const char *id, struct err *e);
int qcow2_snapshot_show(struct node *n, const char *id, struct err *e);
int qcow2_vmstate_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
int qcow2_vmstate_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
uint64_t vmstate_offset(const struct qcow2 *s);
/* Forgets VM state that the active image has: before the disk's end moves. [co] */
int vmstate_drop(struct qcow2 *s);
/* [lock] The check's repair: writes the table anew. */
int snaps_rewrite(struct qcow2 *s);
