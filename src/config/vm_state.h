/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state file of a running machine: what it is made of, found out by looking at it. Nothing records commands: the
 * sections (docs/state-file.md) are derived from the block graph, the devices, the jobs, each time that something may
 * have changed, and what differs from the file is written. So whoever changes the make-up, a command, a job's end, the
 * guest, only has to call vm_state_update() before it tells anybody that it is done.
 *
 * Loop thread. There is always one: without -state its file is nowhere, and nothing is derived until somebody asks.
 */
#pragma once

#include "base/objects.h"
#include "config/file.h"
#include "machine/vm.h"

struct nbd_server;
struct vm_state;

struct vm_state_options {
    const char *path; /* NULL: no -state */
    bool snapshot;
    const char *release;
    struct vm *vm;
    struct object_registry *objects;
    struct nbd_server *const *nbd; /* where the program keeps its NBD server */
    const struct config_fs *fs;    /* NULL: the host's; see config_options */
};

/* Opens, locks and reads the file; the machine is not touched. */
int vm_state_open(const struct vm_state_options *o, struct vm_state **out, struct err *e);
/* [co] Waits for what is being written. NULL is fine. */
void vm_state_close(struct vm_state *s);
struct config_file *vm_state_file(struct vm_state *s);
/* The machine is set up: from now on its sections are derived. [co] */
int vm_state_begin(struct vm_state *s, struct err *e);
/* -state was given, and the machine is set up: changes are written. */
bool vm_state_is_live(const struct vm_state *s);

/*
 * Makes the file say what the machine is made of now, and waits until that is durable; 0 at once when it says so, or
 * when there is no file. Those who call it while the disk is busy share the next generation. On failure the file says
 * what it said before. [co]
 */
int vm_state_update(struct vm_state *s, struct err *e);
/* The same before an answer about the sections, with or without a file. [co] */
int vm_state_refresh(struct vm_state *s, struct err *e);

/*
 * What cannot be seen from outside: with which values `kind` `name` was made (a chardev, an export, a job, "machine",
 * "serial", "monitor"). Forgotten when there is no such object any more. NULL: forget it now. `values` is copied.
 */
void vm_state_note(struct vm_state *s, const char *kind, const char *name, struct json_object *values);
struct json_object *vm_state_noted(const struct vm_state *s, const char *kind, const char *name); /* borrowed; NULL */
/* A member of a job's note: it is told, but is not written into the file. */
#define VM_STATE_NOT_KEPT "not-kept"
struct job;
/* With which values it would be made now, the caller's: its section, and those of jobs that have none. NULL: they are
 * not known, or it is about to end. */
struct json_object *vm_state_job(struct vm_state *s, const struct job *j);

/*
 * The machine has not come yet: the file says so, and nobody takes it for one that could be started. Said before
 * vm_state_begin(); that it is here is in the file with the next update.
 */
void vm_state_set_arriving(struct vm_state *s, bool arriving);
/* The sections as they are now: [{"kind": …, "name": …, "values": {…}}, …], the caller's. Nothing is written. */
struct json_object *vm_state_describe(struct vm_state *s);

/* The kinds of sections and their keys, for whoever reads such a file. */
extern const struct config_kind vm_state_kinds[];
