/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/dirty.h"
#include "move/bitmap_map.h"
#include "move/bitmaps.h"

#include <errno.h>
#include <string.h>

enum { PART_WORDS = 1 << 17 }; /* of bits in a chunk */

struct moving {
    struct dirty_bitmap *b;
    const char *where; /* as the other side knows it */
    const char *key;   /* what `where` is the name of: "device", "node" */
    const char *name;
    bool persistent;
};

/* --- which -------------------------------------------------------------------------------------------------------- */

static const struct backend *backend_on(const struct bitmaps_out *o, const struct node *n)
{
    GPtrArray *all = graph_backends(o->vm->graph);
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (b->root && (b->root->child == n || node_skip_filters(b->root->child) == n)) {
            return b;
        }
    }
    return NULL;
}

/* Under its own name, as there is no mapping. */
static void name_it(struct moving *m, const struct backend *d, bool copied)
{
    const struct node *n = m->b->node;
    m->name = m->b->name;
    m->persistent = m->b->persistent;
    m->key = d && copied ? "device" : "node";
    m->where = d && copied ? d->qdev ? d->qdev : d->name : d && *d->name ? d->name : n->name;
}

static bool moves(const struct bitmaps_out *o, struct moving *m)
{
    const struct node *n = m->b->node;
    const struct backend *d = backend_on(o, n);
    bool copied = d && disks_out_copies(o->disks, d);
    struct bitmap_alias a;
    if (!m->b->name || !(o->all || (copied && m->b->persistent))) {
        return false;
    }
    name_it(m, d, copied);
    if (!o->map) {
        return true;
    }
    if (!bitmap_map_out(o->map, n->name, m->b->name, &a)) {
        return false;
    }
    m->key = "node";
    m->where = a.node;
    m->name = a.name;
    m->persistent = a.persistent < 0 ? m->persistent : a.persistent;
    return true;
}

static GArray *find(const struct bitmaps_out *o)
{
    GArray *out = g_array_new(FALSE, FALSE, sizeof(struct moving));
    GPtrArray *nodes = graph_nodes(o->vm->graph);
    for (guint i = 0; i < nodes->len; i++) {
        const struct node *n = g_ptr_array_index(nodes, i);
        for (guint k = 0; k < n->bitmaps->len; k++) {
            struct moving m = {.b = g_ptr_array_index(n->bitmaps, k)};
            if (moves(o, &m)) {
                g_array_append_val(out, m);
            }
        }
    }
    g_ptr_array_free(nodes, true);
    return out;
}

static int check(const struct moving *m, unsigned against, struct err *e)
{
    const struct node *n = m->b->node;
    if (n->generated_name && !strcmp(m->where, n->name)) {
        return err_set(
            e, EINVAL,
            "Bitmap '%s' in a node with auto-generated name '%s' can't be migrated: name the node, or remove "
            "the bitmap",
            m->b->name, n->name);
    }
    int rc = dirty_bitmap_check(m->b, against, e);
    return rc < 0 ? err_wrap(e, "Node '%s' cannot be migrated with its bitmaps", n->name) : 0;
}

/* --- telling of them ---------------------------------------------------------------------------------------------- */

static struct json_object *describe(const struct moving *m)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, m->key, json_object_new_string(m->where));
    json_object_object_add(o, "name", json_object_new_string(m->name));
    json_object_object_add(o, "granularity", json_object_new_uint64(m->b->granularity));
    json_object_object_add(o, "persistent", json_object_new_boolean(m->persistent));
    return o;
}

int bitmaps_out_want(const struct bitmaps_out *o, struct json_object **out, struct err *e)
{
    g_autoptr(GArray) list = find(o);
    int rc = 0;
    *out = list->len ? json_object_new_array() : NULL;
    for (guint i = 0; rc == 0 && i < list->len; i++) {
        const struct moving *m = &g_array_index(list, struct moving, i);
        rc = check(m, BITMAP_INCONSISTENT, e); /* who uses it may have ended by the switch */
        json_object_array_add(*out, describe(m));
    }
    if (rc < 0) {
        json_object_put(take(*out));
    }
    return rc;
}

/* --- bits --------------------------------------------------------------------------------------------------------- */

/* As many words from *at on as go into a chunk; false: none of them has a bit. */
static bool put_words(const struct bitmap *bits, uint64_t *at, GByteArray *to)
{
    uint64_t end = min_u64(*at + PART_WORDS, div_round_up(bitmap_bits(bits), 64)), any = 0;
    for (; *at < end; (*at)++) {
        uint8_t le[8];
        store_le64(le, bitmap_word(bits, *at));
        any |= bitmap_word(bits, *at);
        g_byte_array_append(to, le, sizeof(le));
    }
    return any;
}

static int write_part(const struct moving *m, uint64_t *at, struct state_writer *w)
{
    CLEANUP_JSON struct json_object *o = describe(m);
    g_autoptr(GByteArray) p = g_byte_array_new();
    uint64_t first = *at;
    uint8_t head[8] = {0};
    json_object_object_add(o, "recording", json_object_new_boolean(m->b->enabled));
    json_object_object_add(o, "bits", json_object_new_uint64(bitmap_bits(m->b->bits)));
    json_object_object_add(o, "first", json_object_new_uint64(first * 64));
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
    store_le32(head, (uint32_t)strlen(text));
    g_byte_array_append(p, head, sizeof(head));
    g_byte_array_append(p, (const uint8_t *)text, (guint)strlen(text));
    bool any = put_words(m->b->bits, at, p);
    return any || !first ? state_write_chunk(w, STATE_BMAP, p->data, p->len) : 0;
}

int bitmaps_out_write(const struct bitmaps_out *o, struct state_writer *w, struct err *e)
{
    g_autoptr(GArray) list = find(o);
    int rc = 0;
    for (guint i = 0; rc == 0 && i < list->len; i++) {
        const struct moving *m = &g_array_index(list, struct moving, i);
        rc = check(m, BITMAP_INCONSISTENT, e); /* jobs that use it rest */
        for (uint64_t at = 0; rc == 0 && at * 64 < bitmap_bits(m->b->bits);) {
            rc = write_part(m, &at, w);
        }
    }
    return rc;
}
