/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State of all of a machine's objects as bytes with the manifest that describes them, and back. Loop thread; where it
 * says held still: between vm_quiesce() and vm_unquiesce(), or while the machine is stopped.
 */
#pragma once

#include "machine/vm.h"
#include "state/stream.h"

struct machine_release;
struct vm_state;

/* --- out ---------------------------------------------------------------------------------------------------------- */

struct objects_out {
    struct vm *vm;
    const struct machine_release *release; /* in whose format; NULL: there is no machine */
    const char *const *force_drop;         /* borrowed */
    const char *tag;                       /* borrowed; NULL: none */
    struct state_manifest *manifest;
    GPtrArray *devices; /* GByteArray: payloads */
    GPtrArray *dropped; /* char *: what force_drop let go */
};

/* `compat`: a machine type, or NULL for the machine's own. */
int objects_out_init(struct objects_out *o, struct vm *vm, const char *compat, const char *const *force_drop,
                     struct err *e);
void objects_out_finish(struct objects_out *o);
/* As they are now; replaces what was there. Held still. */
int objects_out_get(struct objects_out *o, struct err *e);
void objects_out_forget(struct objects_out *o);
/* The manifest tells that, too: to who judges by it whether all this could come. */
void objects_out_tell(struct objects_out *o);
/* The chunks of the devices. [co] 0, or the writer's error. */
int objects_out_write(const struct objects_out *o, struct state_writer *w);

/* --- in ----------------------------------------------------------------------------------------------------------- */

struct objects_in {
    struct vm *vm;
    const char *name; /* of what they come from, for messages; borrowed */
    const char *const *state_allow, *const *force_drop;
    GPtrArray *devices;     /* GByteArray: payloads, in the order in which they came */
    GPtrArray *dropped;     /* char * */
    GPtrArray *lifted;      /* char * */
    struct vm_state *state; /* between prepare and commit */
};

/* Whether the machine has the RAM that the manifest of `name` tells of. */
int objects_check_ram(struct vm *vm, const struct state_manifest *m, const char *name, struct err *e);
void objects_in_init(struct objects_in *o, struct vm *vm, const char *name);
void objects_in_finish(struct objects_in *o);
/* Whether this machine could be that one: its type, RAM, the paths and sections of its devices. */
int objects_in_check_manifest(const struct objects_in *o, const struct state_manifest *m, struct err *e);
/* Whether the state that objects_out_tell() told of could be taken; what did not tell could. Before any payload is
 * added; held still. */
int objects_in_judge(struct objects_in *o, const struct state_manifest *m, struct err *e);
/* The payload of a DEVS chunk; copied. */
void objects_in_add(struct objects_in *o, const GByteArray *payload);
/* All is decoded and checked; can be said again. Held still. */
int objects_in_prepare(struct objects_in *o, const struct state_manifest *m, struct err *e);
/* Held still since objects_in_prepare(): the objects are so, and what was lifted or dropped is in the log. */
void objects_in_commit(struct objects_in *o);
