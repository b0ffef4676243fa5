/* SPDX-License-Identifier: BSD-2-Clause */
/* Which nodes a snapshot is about, and what stands in its way. Texts are QEMU's, with the node's name. All [co]. */
#pragma once

#include "move/snapshot.h"

/* A job's options and the nodes they mean; held from snapshot_nodes_find() until snapshot_nodes_finish(). */
struct snapshot_nodes {
    struct job *job;
    struct vm *vm;
    char *tag, *vmstate_name, *file;
    char **names;     /* NULL: all that are written to */
    GPtrArray *edges; /* struct edge *, to the images of the nodes below, so that they stay */
    GPtrArray *nodes; /* struct node *, as they were named */
    struct node *vmstate;
};

void snapshot_nodes_init(struct snapshot_nodes *s, struct job *j, struct vm *vm, const struct snapshot_options *o);
void snapshot_nodes_finish(struct snapshot_nodes *s);
/* As if none had been found yet. */
void snapshot_nodes_release(struct snapshot_nodes *s);
/* Finds them, and checks that each can have snapshots. `writes`: the images are written to while the job runs.
 * `with_state`: s->vmstate too. */
int snapshot_nodes_find(struct snapshot_nodes *s, bool writes, bool with_state, struct err *e);
int snapshot_nodes_check_absent(struct snapshot_nodes *s, struct err *e);  /* none has the tag */
int snapshot_nodes_check_present(struct snapshot_nodes *s, struct err *e); /* all have it */
/* No other job works on them. */
int snapshot_nodes_check_idle(struct snapshot_nodes *s, struct err *e);
/* Nobody else writes to them; and again. */
void snapshot_nodes_drain(struct snapshot_nodes *s);
void snapshot_nodes_undrain(struct snapshot_nodes *s);
/* A move_progress_fn for a struct job. */
void snapshot_progressed(void *job, uint64_t done, uint64_t total);
/* What a save or a load left out, for query-jobs; NULL: nothing. */
struct json_object *snapshot_dropped(const GPtrArray *names);
/* All that are written to: struct node *, borrowed. */
GPtrArray *snapshot_written_nodes(struct block_graph *g);
/* The first of them that can hold a machine's state. */
struct node *snapshot_default_vmstate(GPtrArray *nodes, struct err *e);
