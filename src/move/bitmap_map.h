/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The parameter block-bitmap-mapping: which dirty bitmaps move with their machine, and what they are called on the way
 * and at the other side. A list of BitmapMigrationNodeAlias, which the schema has checked; NULL: all move under their
 * own names.
 */
#pragma once

#include "base/err.h"

#include <json-c/json.h>
#include <stdbool.h>

struct bitmap_alias {
    const char *node, *name; /* borrowed */
    int persistent;          /* what becomes of it: 1 or 0; -1: as it was */
};

/* That each name and each alias is one that can be, and stands there once. */
int bitmap_map_check(struct json_object *map, struct err *e);
/* On the way out; false: it stays behind. */
bool bitmap_map_out(struct json_object *map, const char *node, const char *name, struct bitmap_alias *out);
/* Of what comes in; an error: it is left out, and why. */
int bitmap_map_in(struct json_object *map, const char *node, const char *name, struct bitmap_alias *out, struct err *e);
