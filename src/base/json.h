/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading json-c objects with a sticky error: many gets, one check.
 *
 *     struct jread r = jread_init(opts, "blockdev 'd0'", e);
 *     const char *driver = jread_str(&r, "driver");          required
 *     bool ro = jread_bool_or(&r, "read-only", false);       optional
 *     return jread_end(&r);                                  unknown keys are an error here
 *
 * `what`, when given, stands before each message ("blockdev 'd0': Parameter …"). A failed jread_str() returns "".
 * Every get marks its key as known; the first problem (missing, wrong type, out of range) is kept in `e`
 * and the following gets return their default.  Texts follow QEMU's:
 * "Parameter 'driver' is missing", "Invalid parameter type for 'x', expected: integer",
 * "Parameter 'x' is unexpected".
 * Strings "on"/"off"/"true"/"false" are taken as booleans and decimal strings with K M G T suffixes as sizes, since the
 * command line gives strings; values of the JSON type are taken as they are.
 */
#pragma once

#include "base/err.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct jread {
    struct json_object *obj; /* borrowed */
    const char *what;        /* borrowed; for messages; may be NULL */
    struct err *e;
    int rc;                   /* 0 or the first error */
    struct json_object *seen; /* set of keys read so far */
};

struct jread jread_init(struct json_object *obj, const char *what, struct err *e);
bool jread_has(struct jread *r, const char *key);
/* Borrowed from the object. */
const char *jread_str(struct jread *r, const char *key);
const char *jread_str_or(struct jread *r, const char *key, const char *dflt);
bool jread_bool_or(struct jread *r, const char *key, bool dflt);
int64_t jread_int(struct jread *r, const char *key);
int64_t jread_int_or(struct jread *r, const char *key, int64_t dflt);
uint64_t jread_size(struct jread *r, const char *key);
uint64_t jread_size_or(struct jread *r, const char *key, uint64_t dflt);
/* Index into the NULL-terminated list `names`. */
int jread_enum_or(struct jread *r, const char *key, const char *const *names, int dflt);
/* Any type; borrowed; NULL when absent. */
struct json_object *jread_any(struct jread *r, const char *key);
/* Frees what the reader holds. Returns 0 or the first error; keys never asked for are an error. */
int jread_end(struct jread *r);
/* The same without the check for unknown keys (when somebody else reads the rest). */
int jread_end_lax(struct jread *r);

/* "1.5G", "64k", "512": bytes with suffix b k K M G T P E (powers of 1024). -EINVAL / -ERANGE. */
int parse_size(const char *s, uint64_t *out);
/* The strings of an array, borrowed, with NULL behind them; of NULL: none. The list is g_malloc'd. */
const char **json_strings(struct json_object *array);
/* A deep copy; NULL for NULL. */
struct json_object *json_clone(struct json_object *o);
/* The names of an object's members, borrowed, in the order in which QEMU lists them: scripts compare texts. */
GPtrArray *json_keys(struct json_object *o);
/* One line in that order, spaced as there: {"a": 1, "b": [2, 3]}. g_malloc'd. */
char *json_text(struct json_object *o);
/*
 * "driver=qcow2,file.filename=/x,,y,read-only=on" -> {"driver": "qcow2", "file": {"filename": "/x,y"}, …}: QEMU's
 * dotted keyval syntax; all-digit keys below one parent make an array; a text that begins with '{' is parsed as JSON.
 * `implied` (may be NULL) names the key of a first part without '='.
 */
struct json_object *keyval_parse(const char *text, const char *implied, struct err *e);

/* For people, as QEMU lays out what it knows of a format: "label: value" lines, what is nested four columns deeper. */
void json_describe(struct json_object *v, int level, GString *out);
