/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Types of the schema as data, and the check of a JSON value against one. The tables are generated (scripts/schema.py);
 * the order of checks and the texts are those of QEMU's input visitor, nested names with dots: "Parameter
 * 'file.filename' is missing".
 */
#pragma once

#include "base/err.h"

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum schema_kind {
    SCHEMA_STR,
    SCHEMA_BOOL,
    SCHEMA_INT,
    SCHEMA_NUMBER,
    SCHEMA_NULL,
    SCHEMA_ANY,
    SCHEMA_ENUM,
    SCHEMA_ARRAY,
    SCHEMA_OBJECT,
    SCHEMA_ALTERNATE,
};

struct schema_member {
    const char *name; /* NULL ends a list */
    const struct schema_type *type;
    bool optional;
};
struct schema_variant {
    const char *value; /* NULL ends a list */
    const struct schema_type *type;
};
struct schema_type {
    enum schema_kind kind;
    const char *name;                              /* "BlockdevRef" */
    int64_t min;                                   /* INT */
    uint64_t max;                                  /* INT */
    const char *const *values;                     /* ENUM; ends with NULL */
    const struct schema_type *element;             /* ARRAY */
    const struct schema_type *const *alternatives; /* ALTERNATE; ends with NULL */
    const struct schema_member *members;           /* OBJECT, those of its base too */
    const char *tag;                               /* OBJECT: the member that chooses the variant; NULL: no union */
    const struct schema_variant *variants;
    bool open; /* OBJECT: other members are allowed, unchecked */
};

/* NULL counts as the empty object. */
int schema_check(const struct schema_type *t, struct json_object *o, struct err *e);

/* Members of a checked object; absent: false, 0, NULL. Borrowed. */
bool schema_has(struct json_object *o, const char *name);
const char *schema_str(struct json_object *o, const char *name);
bool schema_bool(struct json_object *o, const char *name);
int64_t schema_int(struct json_object *o, const char *name);
uint64_t schema_uint(struct json_object *o, const char *name);
double schema_number(struct json_object *o, const char *name);
int schema_enum(struct json_object *o, const char *name, const struct schema_type *t);
struct json_object *schema_any(struct json_object *o, const char *name);
