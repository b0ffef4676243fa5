/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Internal snapshots: states of a disk (and of the machine) kept inside its image. Each function looks through filters,
 * and through "raw" and the like, for the node whose driver knows them. All [co]; create, apply, delete and show drain
 * it.
 *
 * Error texts are those of QEMU's block/snapshot.c and its tools.
 */
#pragma once

#include "block/graph.h"

struct snapshot {
    char *id, *name;        /* as stored; owned; never NULL */
    uint64_t vm_state_size; /* bytes; 0: of the disk alone */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t icount;    /* UINT64_MAX: not recorded */
    uint64_t disk_size; /* bytes, when it was made */
};
struct snapshot *snapshot_copy(const struct snapshot *s);
void snapshot_free(struct snapshot *s);

/* The node that knows them: n or one below it. NULL: none does. */
struct node *node_snapshot_target(struct node *n);
bool node_has_snapshots(struct node *n); /* the driver knows them and the image can have them */
/* struct snapshot *, in the image's order; g_ptr_array_unref frees all. NULL with *e set. */
GPtrArray *node_snapshots(struct node *n, struct err *e);
/* The same as SnapshotInfo objects (qapi/block-core.json), an array; NULL: there are none. */
struct json_object *node_snapshots_info(struct node *n);
struct json_object *snapshot_info(const struct snapshot *s); /* SnapshotInfo */
/* By id if `id` is given, by name if `name` is; both: both must match. A copy, to free; NULL: none (no error text). */
struct snapshot *node_snapshot_find(struct node *n, const char *id, const char *name);
/* `s->id` empty: the next free number, which is put into s->id. s->disk_size is filled in. */
int node_snapshot_create(struct node *n, struct snapshot *s, struct err *e);
/* Disk and VM state become as they were, the disk's size too. Dirty bitmaps have everything dirty afterwards. */
int node_snapshot_apply(struct node *n, const char *id, struct err *e);
int node_snapshot_delete(struct node *n, const char *id, struct err *e);
/* A node opened read-only shows the snapshot's contents, and has its size, from now on (convert -l). */
int node_snapshot_show(struct node *n, const char *id, struct err *e);

/* --- with the machine's state -------------------------------------------------------------------------------------
 *
 * Making one, while the guest runs but for the instant of vmstate_begin():
 *
 *     vmstate_create → vmstate_begin → vmstate_write … → vmstate_finish;  vmstate_destroy at any time
 *
 * Until vmstate_finish() has succeeded there is no such snapshot, whatever happens; one that was begun and is destroyed
 * without has left nothing. Meanwhile the image stays writable: other snapshots of it may be made, applied and deleted.
 * With a size of 0 it is a snapshot of the disk alone. All [co].
 */
struct vmstate;
/* What can be done beforehand, for s->name (s is copied; its id is given at the end). Texts name the node. */
int vmstate_create(struct node *n, const struct snapshot *s, struct vmstate **out, struct err *e);
/* The instant: what the disk holds now is what the snapshot has. `vm_clock_nsec`, the date: as they are now. */
int vmstate_begin(struct vmstate *v, uint64_t vm_clock_nsec, struct err *e);
/* Positions in the state. Several at a time. -errno. */
int vmstate_write(struct vmstate *v, uint64_t off, uint64_t len, const void *buf);
/* The snapshot is there, with `size` bytes of state, durably. */
int vmstate_finish(struct vmstate *v, uint64_t size, struct err *e);
/* Another state for a snapshot that is there, and cannot be deleted meanwhile. It is what it was until
 * vmstate_finish(), and its disk stays. No vmstate_begin(). */
int vmstate_replace(struct node *n, const char *id, struct vmstate **out, struct err *e);
/* Undoes what happened to the disk since vmstate_begin(): `n` is the node that it was created for. */
int vmstate_revert(struct vmstate *v, struct node *n, struct err *e);
/* To read the state of a snapshot, which cannot be deleted meanwhile; the guest may run, and the snapshot be applied.
 */
int vmstate_open(struct node *n, const char *id, struct vmstate **out, struct err *e);
int vmstate_read(struct vmstate *v, uint64_t off, uint64_t len, void *buf);
/* Where the first `size` bytes of a state that is read are: struct vmstate_range, in order, without gaps; in the host's
 * file *fd, borrowed. -ENOTSUP: encrypted, compressed or not in a file. */
#define VMSTATE_ZERO UINT64_MAX
struct vmstate_range {
    uint64_t off, len, host; /* host VMSTATE_ZERO: zeroes */
};
int vmstate_map(struct vmstate *v, uint64_t size, GArray *out, int *fd);
/* The same as something to read from, from any thread and without the loop, as long as v is open. NULL: not possible.
 */
struct vmstate_direct;
struct vmstate_direct *vmstate_direct_open(struct vmstate *v, uint64_t size);
int vmstate_direct_read(const struct vmstate_direct *d, uint64_t off, uint64_t len, void *buf); /* does not wait */
void vmstate_direct_close(struct vmstate_direct *d);
/* NULL is fine. */
void vmstate_destroy(struct vmstate *v);
/* Whether there can be such snapshots of it; the reason names it. */
int node_check_vmstate(struct node *n, struct err *e);
/* --- without the images below -------------------------------------------------------------------------------------
 *
 * Snapshots inside of n get clusters of their own for what they read from below, while the guest goes on:
 *
 *     snapshot_fill_create → snapshot_fill_next, _write … → snapshot_fill_commit;  snapshot_fill_destroy at any time
 *
 * Until the commit, and when it fails, they are as they were. Those that are taken meanwhile do not count. None may be
 * in the making when it begins. All [co].
 */
struct snapshot_fill;
/* `end`: behind that nothing is asked for. */
int snapshot_fill_create(struct node *n, uint64_t end, struct snapshot_fill **out, struct err *e);
/* The next range at or after *off that one of them reads from below: whole clusters; false: there is none. */
bool snapshot_fill_next(struct snapshot_fill *f, uint64_t *off, uint64_t *len);
/* What is to be seen there, whole clusters (zeroes behind the disk's end), each once. -errno. */
int snapshot_fill_write(struct snapshot_fill *f, uint64_t off, uint64_t len, const void *buf);
/* They have it, durably. Drains. -EBUSY while a snapshot of n is in the making: may be tried again. -EAGAIN: one was
 * taken, and all must be done again. */
int snapshot_fill_commit(struct snapshot_fill *f, struct err *e);
void snapshot_fill_destroy(struct snapshot_fill *f); /* NULL is fine */

/*
 * Jobs that take away what a snapshot inside of an image needs of those below it, streams into it and commits of it,
 * give it that before; so they and snapshots go side by side. A commit that has nothing left but its end says so by
 * chain_set_ending(): from then on until it is over no snapshot can be taken.
 */
/* Whether there is such a job at n: -EBUSY, an error that names it. */
int node_check_snapshot_jobs(struct node *n, struct err *e);
/* Before the images below n go, or change: an error that names a snapshot inside of it, if there is one. */
int node_check_no_snapshots(struct node *n, struct err *e);
/* The machine's state: bytes behind the disk, kept by the next snapshot_create with vm_state_size. -ENOTSUP, -errno. */
int node_vmstate_read(struct node *n, uint64_t off, uint64_t len, void *buf);
int node_vmstate_write(struct node *n, uint64_t off, uint64_t len, const void *buf);
