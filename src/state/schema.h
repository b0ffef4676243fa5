/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A section's schema: its table without the offsets, so that it can travel and values can be read by those who do not
 * have the table. As JSON:
 *
 *     {"section": "uart16550", "version": 2, "min-version": 1,
 *      "fields": [{"name": "ier", "type": "u8", "max": 15},
 *                 {"name": "rx", "type": "bytes", "count": 16, "used": "rx_len"}, …],
 *      "subsections": [{"name": "event-idx", "loss": "…", "fields": […]}]}
 *
 * Of a field: name, type (bool u8 u16 u32 u64 i64 bytes struct); count (absent: 1, and not an array), used, since,
 * min and max, default, ancillary, fields (of struct), help: absent when they say nothing.
 *
 * Values, as JSON: an object with a member for each field: booleans, numbers, hexadecimal text, arrays, objects.
 */
#pragma once

#include "base/err.h"
#include "state/field.h"

#include <glib.h>
#include <json-c/json.h>

enum {
    STATE_FIELDS_MAX = 4096,   /* of a schema, inner ones included */
    STATE_COUNT_MAX = 1 << 24, /* of one field */
    STATE_DEPTH_MAX = 8,       /* structs in structs */
    STATE_VALUES_MAX = 1 << 17 /* in one device; BYTES is one */
};

struct state_schema_field {
    char *name;
    enum state_type type;
    unsigned count;
    bool is_array;
    int used; /* index of the field beside it that says how many; -1: none */
    unsigned since, flags;
    uint64_t min, max, dflt;
    struct state_schema_field *sub; /* STRUCT */
    unsigned nsub;
};

/* The section's own fields, or a subsection's. */
struct state_schema_part {
    char *name;
    char *loss; /* may be NULL */
    struct state_schema_field *fields;
    unsigned n;
};

struct state_schema {
    unsigned version, min_version;
    struct state_schema_part base; /* the section */
    struct state_schema_part *subs;
    unsigned nsubs;
};

/*
 * Of a table as it is written at `version` (0: the newest) for a reader that knows `subsections` (NULL: all). The
 * caller's reference.
 */
struct json_object *state_schema_json(const struct state_section *s, unsigned version, const char *const *subsections);
/* NULL and an error: not a schema, or beyond the limits. */
struct state_schema *state_schema_parse(struct json_object *o, struct err *e);
void state_schema_destroy(struct state_schema *s);
const struct state_schema_part *state_schema_subsection(const struct state_schema *s, const char *name);
/*
 * 64 hexadecimal digits of a SHA-256 of everything but helps, losses and ancillary fields: the same when both read each
 * other. g_malloc'd.
 */
char *state_schema_hash(const struct state_section *s);
/* Of the table as state_schema_json() writes it. */
char *state_schema_hash_as(const struct state_section *s, unsigned version, const char *const *subsections);

/* Bytes of a part to values: NULL and an error when they are too many, too few, or out of range. */
struct json_object *state_values_read(const struct state_schema_part *p, const void *data, size_t len, struct err *e);
/* Appends the bytes that the values are. They must be there and fit. */
int state_values_write(const struct state_schema_part *p, struct json_object *values, GByteArray *out, struct err *e);
