/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-state: what its files share, and what a verb is. */
#pragma once

#include "base/cleanup.h"
#include "state/fd.h"
#include "state/manifest.h"
#include "state/section.h"

/* Exit codes, as its manual page says. */
enum { STATE_OK = 0, STATE_DIFFERS = 1, STATE_USAGE = 2, STATE_FAILED = 3 };

struct state_args {
    char **operands;
    unsigned n;
    bool json, quiet, no_ram, chunks, dry_run, aligned, index;
    const char *device, *compat, *machine;
    int zstd_level;
    GPtrArray *drop, *parents; /* borrowed strings; `drop` ends with NULL */
};

struct state_verb {
    const char *name, *operands, *help;
    const char *options; /* the letters of those it takes (main.c) */
    unsigned min, max;   /* operands */
    int (*run)(struct state_args *a);
};
extern const struct state_verb state_verb_info, state_verb_dump, state_verb_verify, state_verb_diff, state_verb_convert,
    state_verb_schema, state_verb_config_check, state_verb_config_seal, state_verb_config_restore, state_verb_events;

/* "sterna-state: text"; returns STATE_FAILED. */
int state_fail(const struct err *e);
void state_put_json(struct json_object *o);
/* Text that came from a stream, without what a terminal would obey. */
void state_put_text(const char *s);

/* An open stream; zeroed: not open. */
struct state_input {
    struct state_fd fd;
    struct state_reader *r;
};
int state_input_open(struct state_input *in, const char *path, struct err *e);
void state_input_finish(struct state_input *in);
#define CLEANUP_INPUT __attribute__((cleanup(state_input_finish)))

/* types.c: what a machine type's release reads; NULL: everything that this one does. Borrowed. */
int state_type_compat(const char *type, const struct state_compat **out, const char **name, struct err *e);
