/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state file: what a machine is made of, in text, durable. docs/state-file.md describes it for people; the laws
 * that its writer keeps stand at the top of file_write.c.
 *
 * In memory it is a list of sections, each a kind, a name (but for kinds that exist once) and a JSON object:
 *
 *     [blockdev "disk0"]                  {"driver": "qcow2", "read-only": false,
 *     driver = qcow2                       "file": {"driver": "file", "filename": "/vm/disk 0.qcow2"}}
 *     read-only = false
 *     file.driver = file                  Nested options are QEMU's dotted keys, arrays are numbered from 0. Booleans,
 *     file.filename = "/vm/disk 0.qcow2"  numbers, strings and null keep their type; empty ones are {} and [].
 *
 * Changes come in groups: those of a group are durable together or not at all.
 *
 *     struct config_change *c = config_change_begin(f);
 *     config_change_set(c, "device", "cd0", options);
 *     config_change_delete(c, "device", "cd1");
 *     rc = config_change_commit(c, &generation, e);       [co] waits until it is safe on the disk
 *
 * What is safe on the disk is the machine as of one *generation*, a number that only grows. Groups that are committed
 * while the disk is busy with an earlier one share the next generation, and its one pair of fsyncs (of the file and of
 * its folder). The loop never waits: a worker thread makes the system calls.
 *
 * Loop thread only, but for config_file_open() and config_file_read(), which block and are for start-up and tools.
 */
#pragma once

#include "base/err.h"
#include "base/log.h"
#include "loop/loop.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct config_file;
struct config_change;
struct config_fs;

/* --- what may stand in it ----------------------------------------------------------------------------------- */

enum config_type { CONFIG_ANY, CONFIG_STRING, CONFIG_BOOL, CONFIG_INT, CONFIG_SIZE, CONFIG_NUMBER };

/* A table of these ends with a NULL name. A SIZE is a number or a string like "4G". */
struct config_key {
    const char *name; /* dotted ("file.filename"); one that ends with ".*" is everything below */
    enum config_type type;
    bool required;
};

struct config_kind {
    const char *name;              /* NULL: the end of the table */
    bool single;                   /* a section without a name, once */
    bool open;                     /* keys beyond the table are judged by whoever uses the section */
    const struct config_key *keys; /* NULL: none */
    /* May be NULL. Judges a section's values when the file is read: 0, or an error whose text has the key in '': the
     * line of that key is put before it. */
    int (*check)(struct json_object *values, struct err *e);
};

/* --- opening and closing ------------------------------------------------------------------------------------ */

/* What a generation changed; borrowed. */
struct config_ref {
    const char *kind, *name; /* name: NULL where the kind has none */
    bool deleted;
};

struct config_options {
    const char *path;                /* NULL: nothing is read or written, changes are done at once (no -state) */
    bool snapshot;                   /* snapshot=on: changes stay in memory */
    const char *release;             /* of this program: written, and named where a file is from a newer one */
    const struct config_kind *kinds; /* NULL: any */
    struct log *log;                 /* for warnings; may be NULL */
    struct loop *loop;
    const struct config_fs *fs; /* NULL: the host's (tests put a model in its place, see file_fs.h) */
};

/*
 * Reads and locks the file; one that does not exist or is empty is a machine of nothing, and is made by the first
 * change. A file that is damaged, ends early, was edited without saying so, is of a newer format, or holds what `kinds`
 * does not know is refused: the error names file, line and key, says what to do, and names the previous generation if
 * that is whole. -EAGAIN: another process uses it, named.
 */
int config_file_open(const struct config_options *o, struct config_file **out, struct err *e);
/* Nothing may be under way (config_file_drain()). NULL is fine. */
void config_file_close(struct config_file *f);
/* [co] Until every committed change has ended. */
void config_file_drain(struct config_file *f);
/* After each generation, in order, on the loop, before the commits that it holds return. One watcher; NULL ends it. */
typedef void config_changed_fn(void *opaque, uint64_t generation, const struct config_ref *changed, unsigned n);
void config_file_watch(struct config_file *f, config_changed_fn *fn, void *opaque);

/* --- reading ------------------------------------------------------------------------------------------------ */

/* The generation that the sections below are; 0: nothing was ever written. */
uint64_t config_file_generation(const struct config_file *f);
/* As opened, absolute; NULL without one. */
const char *config_file_path(const struct config_file *f);
bool config_file_is_snapshot(const struct config_file *f);

struct config_section {
    const char *kind, *name;    /* name: NULL where the kind has none */
    struct json_object *values; /* nested; never NULL */
};
/* In the file's order; those of one kind are in the order in which they were added. Borrowed until the next change
 * ends: code that waits in between takes copies or references. NULL: beyond the last. */
const struct config_section *config_file_section(const struct config_file *f, unsigned i);
const struct config_section *config_file_find(const struct config_file *f, const char *kind, const char *name);
/* For errors of whoever uses a section's values: puts "FILE:LINE: [kind "name"]: " before the text. The line is that of
 * the first key that the text has in '' or else the section's. Returns the error's code, negative. */
int config_file_blame(const struct config_file *f, const struct config_section *s, struct err *e);
/* As it would stand in a file, for people. g_malloc'd; "" when it could not. */
char *config_section_print(const struct config_section *s);
/* {"format": 1, "release": …, "generation": N, "sections": [{"kind": …, "name": …, "values": {…}}, …]}, a new object.
 */
struct json_object *config_file_json(const struct config_file *f);

/* --- changing ----------------------------------------------------------------------------------------------- */

/* Nothing happens before the commit. Freed by commit or abort. */
struct config_change *config_change_begin(struct config_file *f);
/* The section's values become exactly these (copied); it is added if it is not there. Keys that stay keep their place,
 * their comments and, if the value is the same, the way in which somebody wrote them. */
void config_change_set(struct config_change *c, const char *kind, const char *name, struct json_object *values);
/* Fine if it is not there. */
void config_change_delete(struct config_change *c, const char *kind, const char *name);
void config_change_abort(struct config_change *c);
/*
 * [co] Returns when it is durable (0, and *generation, which may be NULL), or has failed: then the sections are as they
 * were and the file holds an earlier generation. A group that changes nothing costs nothing. Applied in the order of
 * these calls. Before the loop runs it may be called outside of coroutines: it blocks then.
 */
int config_change_commit(struct config_change *c, uint64_t *generation, struct err *e);
/* [co] The sections as they are now to another file, which must not exist yet or be empty; f goes on with its own. */
int config_file_save_as(struct config_file *f, const char *path, struct err *e);

/* --- for tools ---------------------------------------------------------------------------------------------- */

/* Reads without a lock or a loop. `kinds` as above. Close it with config_file_close(). */
int config_file_read(const char *path, const struct config_kind *kinds, struct config_file **out, struct err *e);
/* Whether it was edited by hand, and says so in its last line. */
bool config_file_is_edited(const struct config_file *f);
/* Locks the file, checks it, and gives an edited one a new generation with a right last line. */
int config_file_seal(const char *path, const struct config_kind *kinds, uint64_t *generation, struct err *e);
/* Locks the file and goes back to the previous generation, as a new one. What was there is kept as FILE.refused. */
int config_file_restore(const char *path, uint64_t *generation, struct err *e);
