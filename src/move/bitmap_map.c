/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/bitmap_map.h"

#include "base/id.h"
#include "block/dirty.h"

#include <errno.h>
#include <string.h>

enum { ALIAS_MAX = 255 };

static struct json_object *member(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;
    json_object_object_get_ex(o, key, &v);
    return v;
}

static const char *text(struct json_object *o, const char *key)
{
    return json_object_get_string(member(o, key));
}

/* The first before `end` whose `key` is `value`. */
static struct json_object *find(struct json_object *list, size_t end, const char *key, const char *value)
{
    for (size_t i = 0; i < end; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        if (!strcmp(text(o, key), value)) {
            return o;
        }
    }
    return NULL;
}

/* --- is it one? --------------------------------------------------------------------------------------------------- */

static int check_bitmap(struct json_object *node, struct json_object *list, size_t i, struct err *e)
{
    struct json_object *o = json_object_array_get_idx(list, i);
    const char *name = text(o, "name"), *alias = text(o, "alias");
    if (strlen(alias) > ALIAS_MAX) {
        return err_set(e, EINVAL, "The bitmap alias '%s' is longer than %d bytes", alias, ALIAS_MAX);
    }
    if (strlen(name) > DIRTY_BITMAP_MAX_NAME) {
        return err_set(e, EINVAL, "The bitmap name '%s' is longer than %d bytes", name, DIRTY_BITMAP_MAX_NAME);
    }
    if (find(list, i, "name", name)) {
        return err_set(e, EINVAL, "The bitmap '%s'/'%s' is mapped twice", text(node, "node-name"), name);
    }
    if (find(list, i, "alias", alias)) {
        return err_set(e, EINVAL, "The bitmap alias '%s'/'%s' is used twice", text(node, "alias"), alias);
    }
    return 0;
}

static int check_node(struct json_object *map, size_t i, struct err *e)
{
    struct json_object *o = json_object_array_get_idx(map, i), *bitmaps = member(o, "bitmaps");
    const char *name = text(o, "node-name"), *alias = text(o, "alias");
    if (!id_wellformed(alias)) {
        return err_set(e, EINVAL, "The node alias '%s' is not well-formed", alias);
    }
    if (strlen(alias) > ALIAS_MAX) {
        return err_set(e, EINVAL, "The node alias '%s' is longer than %d bytes", alias, ALIAS_MAX);
    }
    if (strlen(name) > NODE_NAME_MAX) {
        return err_set(e, EINVAL, "The node name '%s' is longer than %d bytes", name, NODE_NAME_MAX);
    }
    if (find(map, i, "node-name", name)) {
        return err_set(e, EINVAL, "The node name '%s' is mapped twice", name);
    }
    if (find(map, i, "alias", alias)) {
        return err_set(e, EINVAL, "The node alias '%s' is used twice", alias);
    }
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < json_object_array_length(bitmaps); k++) {
        rc = check_bitmap(o, bitmaps, k, e);
    }
    return rc;
}

int bitmap_map_check(struct json_object *map, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < json_object_array_length(map); i++) {
        rc = check_node(map, i, e);
    }
    return rc < 0 ? err_wrap(e, "Invalid mapping given for block-bitmap-mapping") : 0;
}

/* --- what it says ------------------------------------------------------------------------------------------------- */

static int becomes_persistent(struct json_object *bitmap)
{
    struct json_object *p = member(member(bitmap, "transform"), "persistent");
    return p ? json_object_get_boolean(p) : -1;
}

static struct json_object *find_in(struct json_object *list, const char *key, const char *value)
{
    return list ? find(list, json_object_array_length(list), key, value) : NULL;
}

bool bitmap_map_out(struct json_object *map, const char *node, const char *name, struct bitmap_alias *out)
{
    struct json_object *n = find_in(map, "node-name", node), *b = find_in(member(n, "bitmaps"), "name", name);
    if (b) {
        *out = (struct bitmap_alias){text(n, "alias"), text(b, "alias"), becomes_persistent(b)};
    }
    return b;
}

int bitmap_map_in(struct json_object *map, const char *node, const char *name, struct bitmap_alias *out, struct err *e)
{
    struct json_object *n = find_in(map, "alias", node), *b = find_in(member(n, "bitmaps"), "alias", name);
    if (!n) {
        return err_set(e, ENOENT, "Unknown node alias '%s'", node);
    }
    if (!b) {
        return err_set(e, ENOENT, "Unknown bitmap alias '%s' on node '%s' (alias '%s')", name, text(n, "node-name"),
                       node);
    }
    *out = (struct bitmap_alias){text(n, "node-name"), text(b, "name"), becomes_persistent(b)};
    return 0;
}
