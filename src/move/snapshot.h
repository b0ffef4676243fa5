/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots of a system: its disks' contents and its machine's state, all at one instant. Jobs of QEMU's types
 * "snapshot-save", "snapshot-load" and "snapshot-delete"; errors are the jobs', texts are QEMU's with the node named.
 *
 * A save, in its order:
 *
 *     guest runs    names and nodes are checked; each node makes ready (vmstate_create), the machine too
 *     the instant   machine quiesced, nodes drained: state of the devices copied, RAM frozen
 *     guest runs    its requests to these nodes wait: each disk's snapshot is begun (vmstate_begin)
 *     guest runs    RAM and state go into the vmstate node's snapshot; then the snapshots are completed, that of the
 *                   vmstate node last: it is there when all of it is
 *
 * A load reads and checks everything before the machine is quiesced; disks and machine then become as they were, or,
 * when one disk cannot, stay as they are. Loop thread; [co]: may wait.
 */
#pragma once

#include "job/job.h"
#include "machine/vm.h"

struct snapshot;

struct snapshot_options {
    const char *job_id;            /* NULL: internal */
    const char *tag;               /* all strings are copied */
    const char *vmstate;           /* node for the machine's state; NULL: the first that can */
    const char *const *devices;    /* nodes, ends with NULL; NULL: all that are written to */
    const char *file;              /* the state is there and no disk is touched; NULL: in `vmstate` */
    const char *parent;            /* save: only what changed since that snapshot of `vmstate`, or that file; or NULL */
    bool map;                      /* load, from a file: RAM is mapped */
    bool lazy;                     /* load: RAM comes when it is needed */
    bool compress;                 /* save: RAM by zstd */
    const char *compat;            /* save: in the format of this machine type; NULL: of the one that runs */
    const char *const *force_drop; /* what that, or a load, may lose; ends with NULL; NULL: nothing */
    const char *const *state_allow; /* load: names of block lists' entries that are lifted; likewise */
    unsigned flags;                 /* JOB_* */
};

/* The jobs are started; whoever wants to wait refers to *out, which may be NULL. [co] */
int snapshot_save_start(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e);
int snapshot_load_start(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e);
int snapshot_delete_start(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e);
/* Starts a load and returns when the machine is the saved one (RAM may still come, lazily), or its error. [co] */
int snapshot_load_begin(struct vm *vm, const struct snapshot_options *o, struct err *e);
/* Runs one of them to its end, as a command that waits: its error. [co] */
typedef int snapshot_start_fn(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e);
int snapshot_run(snapshot_start_fn *start, struct vm *vm, const struct snapshot_options *o, struct err *e);

/* --- a save whose instant others share ---------------------------------------------------------------------------
 *
 * snapshot_save_create, snapshot_save_instant, snapshot_save_disks, then job_start() or, at any time before,
 * job_discard().
 */
/* The job is there and not started; checks everything. Refuses while the machine is saved or loaded. [co] */
int snapshot_save_create(struct vm *vm, const struct snapshot_options *o, struct job **out, struct err *e);
/* What must be drained from the instant until snapshot_save_disks: struct node *, borrowed. */
GPtrArray *snapshot_save_nodes(struct job *j);
/* With the machine quiesced and the nodes drained. [co] */
int snapshot_save_instant(struct job *j, struct err *e);
/* The guest may run. [co] */
int snapshot_save_disks(struct job *j, struct err *e);
void snapshot_save_paused(struct job *j, uint64_t pause_ns); /* so long the guest stood still */

/* --- for people --------------------------------------------------------------------------------------------------- */

/* The disk's name, else the node's: as QEMU's texts have it. Borrowed. */
const char *snapshot_name_of(const struct node *n);
struct snapshot_listed {
    struct node *node;         /* borrowed; NULL: it is on all nodes, and can be loaded */
    struct snapshot *snapshot; /* block/snapshot.h */
};
/* Those on all nodes that are written to come first. struct snapshot_listed *; NULL with *e set. [co] */
GPtrArray *snapshot_list_all(struct block_graph *g, struct err *e);
