/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-state: what its files share, and what a verb is. */
#pragma once

#include "base/cleanup.h"
#include "cli/tool.h"
#include "state/fd.h"
#include "state/manifest.h"
#include "state/section.h"

/* Exit codes, as its manual page says. */
enum { STATE_OK = 0, STATE_DIFFERS = 1, STATE_USAGE = 2, STATE_FAILED = 3 };

struct state_args {
    char **operands;
    unsigned n;
    bool json, quiet, no_ram, chunks, chain, dry_run, aligned, image_opts, force_share;
    bool writes; /* to the image */
    const char *device, *compat, *machine;
    int zstd_level;
    GPtrArray *drop, *parents, *tags; /* borrowed strings; `drop` ends with NULL */
    guint next_tag;                   /* of the next image that is opened */
    struct tool *tool;
};

struct state_verb {
    const char *name, *operands, *help;
    const char *options; /* the letters of those it takes (main.c) */
    unsigned min, max;   /* operands */
    int (*run)(struct state_args *a);
};
extern const struct state_verb state_verb_info, state_verb_dump, state_verb_verify, state_verb_diff, state_verb_convert,
    state_verb_merge, state_verb_schema, state_verb_config_check, state_verb_config_seal, state_verb_config_restore,
    state_verb_events;

/* "sterna-state: text"; returns STATE_FAILED. */
int state_fail(const struct err *e);
void state_put_json(struct json_object *o);
/* Text that came from a stream, without what a terminal would obey. */
void state_put_text(const char *s);

/* An open stream, in a file or in a snapshot of an image; zeroed but for fd.fd = -1: not open. */
struct state_input {
    struct state_fd fd; /* of a snapshot: only its name */
    struct state_image *image;
    const char *path; /* of the image; borrowed */
    struct state_reader *r;
};
/* [co] A file, "-", or an image, of which the next --snapshot says what is meant; the last one is meant for all others.
 */
int state_input_open(struct state_args *a, struct state_input *in, const char *path, struct err *e);
/*
 * parents.c: [co] The states that this one is based on, the nearest first, appended to `out` as struct state_input *,
 * which frees them: those of an image's state, from there; with `files`, those of a file's one, too: --parent names
 * them, in any order, else they are where the file says.
 */
int state_input_parents(struct state_args *a, const struct state_input *in, bool files, GPtrArray *out, struct err *e);
GPtrArray *state_inputs_new(void);
void state_input_finish(struct state_input *in);
#define CLEANUP_INPUT __attribute__((cleanup(state_input_finish)))
/* Whether nothing follows. */
bool state_input_at_end(struct state_input *in);

/* --- image.c: all [co] but the first two --- */
bool state_is_stream(const char *path); /* of a file: ours */
bool state_is_image(const struct state_args *a, const char *path);
int state_image_open(struct state_args *a, struct state_input *in, const char *path, const char *tag, struct err *e);
/* The state that `in`, which has a parent and is in an image, is based on. */
int state_image_open_parent(const struct state_input *in, struct state_input *out, struct err *e);
bool state_image_ends(const struct state_image *x, uint64_t at);
struct node *state_image_node(const struct state_image *x); /* borrowed */
void state_image_close(struct state_image *x);              /* NULL is fine */
/* Prints which states there are. */
int state_image_list(const struct state_args *a, const char *path, struct err *e);

/* types.c: what a machine type's release reads; NULL: everything that this one does. Borrowed. */
int state_type_compat(const char *type, const struct state_compat **out, const char **name, struct err *e);
