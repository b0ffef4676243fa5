/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/kept.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/options.h"

#include <errno.h>
#include <string.h>

#define COMMAND "copy-before-write"

struct cbw *kept_of(struct node *n)
{
    struct cbw *c = n->drv == &copy_before_write_driver && !n->owner ? n->priv : NULL;
    return c && !c->detached ? c : NULL;
}

char *kept_id(const struct cbw *c)
{
    return g_strconcat("node:", c->node->name, NULL);
}

struct json_object *kept_values(const struct cbw *c)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "command", json_object_new_string(COMMAND));
    json_object_object_add(o, "node-name", json_object_new_string(c->node->name));
    json_object_object_add(o, "target", json_object_new_string(c->target->child->name));
    json_object_object_add(o, "granularity", json_object_new_uint64(c->granularity));
    json_object_object_add(o, "bytes", json_object_new_uint64(c->node->size));
    json_object_object_add(o, "broken", json_object_new_boolean(c->broken != 0));
    return o;
}

bool kept_is(struct json_object *values)
{
    return !g_strcmp0(json_get_str(values, "command"), COMMAND);
}

struct cbw *kept_read_by(struct node *n, bool (*goes)(void *opaque, struct cbw *c), void *opaque)
{
    struct cbw *found = NULL;
    g_autoptr(GPtrArray) all = graph_nodes(n->graph);
    for (guint i = 0; i < all->len && !found; i++) {
        struct node *x = g_ptr_array_index(all, i);
        struct cbw *c = node_is_snapshot_access(x) && node_reaches(n, x) ? kept_of(x->file->child) : NULL;
        found = c && !goes(opaque, c) ? c : NULL;
    }
    return found;
}

/* --- there ------------------------------------------------------------------------------------------------------- */

int kept_find(struct block_graph *g, struct json_object *values, struct cbw **out, struct err *e)
{
    struct jread r = jread_init(values, NULL, e);
    const char *name = jread_str(&r, "node-name"), *target = jread_str(&r, "target");
    uint64_t granularity = jread_size(&r, "granularity"), bytes = jread_size(&r, "bytes");
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    struct node *n = node_find(g, name);
    struct cbw *c = n ? kept_of(n) : NULL;
    if (!c) {
        return err_set(e, ENOENT, "the destination has no copy-before-write filter '%s'", name);
    }
    if (strcmp(c->target->child->name, target) != 0 || c->granularity != granularity || n->size != bytes) {
        return err_set(e, EINVAL, "the destination's filter '%s' is of another kind: target, granularity or size",
                       name);
    }
    *out = c;
    return 0;
}

int kept_take(struct block_graph *g, struct json_object *values, const struct bitmap *todo, const struct bitmap *access,
              struct err *e)
{
    struct cbw *c;
    int rc = kept_find(g, values, &c, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t bits = bitmap_bits(c->todo);
    if (!todo || bitmap_bits(todo) != bits || (access && bitmap_bits(access) != bits)) {
        c->broken = -EIO; /* rather than to show something else */
        return err_set(e, EINVAL, "what filter '%s' keeps makes no sense", c->node->name);
    }
    return cbw_keep(c, todo, access, json_object_get_boolean(json_object_object_get(values, "broken")), e);
}
