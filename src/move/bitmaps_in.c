/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/dirty.h"
#include "block/driver.h"
#include "move/bitmap_map.h"
#include "move/bitmaps.h"

#include <errno.h>
#include <inttypes.h>

enum { HEAD_BYTES = 8, ALL_BYTES = 1 << 30 };

struct part {
    struct json_object *what;
    GByteArray *words;
};

struct bitmaps_in {
    struct vm *vm;
    struct json_object *map;
    GArray *parts;   /* struct part */
    uint64_t bytes;  /* of them */
    GPtrArray *made; /* struct dirty_bitmap: removed at the end */
    GPtrArray *late; /* of these: to be persistent when the disks are the machine's */
};

/* What both WANT and a chunk say. */
struct told {
    const char *name; /* here */
    struct node *node;
    bool persistent;
    uint32_t granularity;
};

/* --- which -------------------------------------------------------------------------------------------------------- */

static struct node *find_node(struct vm *vm, const char *device, const char *node)
{
    const struct backend *b = *device ? disk_of_device(vm->graph, device) : backend_find(vm->graph, node);
    return b && b->root ? node_skip_filters(b->root->child) : node_find(vm->graph, node);
}

/* -ENOENT: it does not come. */
static int read_told(const struct bitmaps_in *in, struct json_object *o, struct told *t, struct err *e)
{
    struct jread r = jread_init(o, NULL, e);
    const char *device = jread_str_or(&r, "device", ""), *node = jread_str_or(&r, "node", "");
    const char *where = *device ? device : node;
    uint64_t granularity = jread_size(&r, "granularity");
    *t = (struct told){.name = jread_str(&r, "name"), .persistent = jread_bool_or(&r, "persistent", false)};
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (granularity < 512 || granularity > UINT32_C(1) << 31 || !*t->name || !*where) {
        return err_set(e, EPROTO, "The source's bitmap '%s' makes no sense", t->name);
    }
    t->granularity = (uint32_t)granularity;
    if (in->map) {
        struct bitmap_alias a;
        rc = bitmap_map_in(in->map, where, t->name, &a, e);
        if (rc < 0) {
            return rc;
        }
        t->node = node_find(in->vm->graph, a.node);
        where = a.node;
        t->name = a.name;
        t->persistent = a.persistent < 0 ? t->persistent : a.persistent;
    } else {
        t->node = find_node(in->vm, device, node);
    }
    return t->node ? 0 : err_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", where, where);
}

/* By the image, which the source shares. */
static bool has_come(const struct told *t, const struct dirty_bitmap *b)
{
    return b->node->inactive && b->persistent && t->persistent && b->granularity == t->granularity;
}

static int refuse_double(const struct told *t, struct err *e)
{
    return err_set(e, EEXIST,
                   "Bitmap with the same name ('%s') already exists on destination, on node '%s': remove it there, or "
                   "give it another name by block-bitmap-mapping",
                   t->name, t->node->name);
}

static int judge(const struct told *t, struct err *e)
{
    const struct dirty_bitmap *b = dirty_bitmap_find(t->node, t->name);
    if (b) {
        return has_come(t, b) ? 0 : refuse_double(t, e);
    }
    if (!t->persistent) {
        return 0;
    }
    if (!node_keeps_bitmaps(t->node) || t->node->read_only) {
        return err_set(e, ENOTSUP,
                       "Bitmap '%s' is persistent, and node '%s' at the destination (%s) cannot keep it: use a qcow2 "
                       "image there, or leave it behind, or let it be another kind, by block-bitmap-mapping",
                       t->name, t->node->name, t->node->read_only ? "read-only" : t->node->drv->name);
    }
    return t->node->drv->bitmap_can_store(t->node, t->name, t->granularity, e);
}

int bitmaps_in_judge(struct bitmaps_in *b, struct json_object *want, struct json_object *features, struct err *e)
{
    if (!json_object_is_type(want, json_type_array)) {
        return err_set(e, EPROTO, "The source's list of bitmaps is none");
    }
    struct json_object *left = json_object_new_array();
    json_object_object_add(features, "dirty-bitmaps-left-out", left);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < json_object_array_length(want); i++) {
        CLEANUP_ERR struct err why = ERR_INIT;
        struct told t;
        rc = read_told(b, json_object_array_get_idx(want, i), &t, &why);
        rc = rc < 0 ? rc : judge(&t, &why);
        if (rc == -ENOENT) {
            json_object_array_add(left, json_object_new_string(err_text(&why)));
            rc = 0;
        } else if (rc < 0) {
            err_set(e, -rc, "%s", err_text(&why));
        }
    }
    return rc;
}

/* --- what comes --------------------------------------------------------------------------------------------------- */

struct bitmaps_in *bitmaps_in_create(struct vm *vm, struct json_object *map)
{
    struct bitmaps_in *b = g_new0(struct bitmaps_in, 1);
    b->vm = vm;
    b->map = json_object_get(map);
    b->parts = g_array_new(FALSE, FALSE, sizeof(struct part));
    b->made = g_ptr_array_new();
    b->late = g_ptr_array_new();
    return b;
}

int bitmaps_in_add(struct bitmaps_in *b, const GByteArray *payload, struct err *e)
{
    uint32_t len = payload->len < HEAD_BYTES ? UINT32_MAX : load_le32(payload->data);
    if (payload->len < HEAD_BYTES || len > payload->len - HEAD_BYTES || (payload->len - HEAD_BYTES - len) % 8) {
        return err_set(e, EPROTO, "What comes of a bitmap makes no sense");
    }
    CLEANUP_FREE char *text = g_strndup((const char *)payload->data + HEAD_BYTES, len);
    struct json_object *o = json_tokener_parse(text);
    if (!json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        return err_set(e, EPROTO, "What comes of a bitmap makes no sense");
    }
    b->bytes += payload->len;
    if (b->bytes > ALL_BYTES) {
        json_object_put(o);
        return err_set(e, E2BIG, "More than %d MiB come of bitmaps", ALL_BYTES >> 20);
    }
    struct part p = {.what = o, .words = g_byte_array_new()};
    g_byte_array_append(p.words, payload->data + HEAD_BYTES + len, payload->len - HEAD_BYTES - len);
    g_array_append_val(b->parts, p);
    return 0;
}

/* --- in place ----------------------------------------------------------------------------------------------------- */

static bool is_made(const struct bitmaps_in *in, const struct dirty_bitmap *b)
{
    return b && g_ptr_array_find(in->made, b, NULL);
}

/* Its first part makes it, unless it is in the image already. */
static int make(struct bitmaps_in *in, const struct told *t, bool recording, struct dirty_bitmap **out, struct err *e)
{
    bool late = t->persistent && t->node->inactive;
    const struct bitmap_spec spec = {.name = t->name,
                                     .has_granularity = true,
                                     .persistent = t->persistent && !late,
                                     .disabled = !recording,
                                     .granularity = t->granularity};
    *out = dirty_bitmap_find(t->node, t->name);
    if (*out && !is_made(in, *out)) {
        return has_come(t, *out) ? dirty_bitmap_check(*out, BITMAP_READ, e) : refuse_double(t, e);
    }
    if (*out) {
        return 0;
    }
    int rc = node_bitmap_add(t->node, &spec, out, e);
    if (rc < 0) {
        return err_wrap(e, "Bitmap '%s' cannot come to node '%s'", t->name, t->node->name);
    }
    g_ptr_array_add(in->made, *out);
    if (late) {
        g_ptr_array_add(in->late, *out);
    }
    return 0;
}

static int put_words(const struct bitmaps_in *in, const struct told *t, struct dirty_bitmap *b, const struct part *p,
                     uint64_t first)
{
    uint64_t words = p->words->len / 8, have = bitmap_bits(b->bits);
    if (first % 64 || first > have || words > (have - first + 63) / 64) {
        return -EPROTO;
    }
    for (uint64_t i = 0; i < words; i++) {
        uint64_t word = load_le64(p->words->data + 8 * i);
        if (!is_made(in, b) && (word & ~bitmap_word(b->bits, first / 64 + i))) {
            return -EEXIST; /* of the same name, and another one */
        }
        bitmap_or_word(b->bits, first / 64 + i, word);
    }
    b->changes++;
    return 0;
}

static int put(struct bitmaps_in *in, const struct part *p, struct err *e)
{
    struct told t;
    struct dirty_bitmap *b;
    struct jread r = jread_init(p->what, NULL, e);
    uint64_t bits = jread_size(&r, "bits"), first = jread_size(&r, "first");
    bool recording = jread_bool_or(&r, "recording", true);
    int rc = jread_end_lax(&r);
    rc = rc < 0 ? rc : read_told(in, p->what, &t, e);
    if (rc == -ENOENT) {
        if (!first) {
            log_error(in->vm->log, "a dirty bitmap does not come: %s", err_text(e));
        }
        err_clear(e);
        return 0;
    }
    rc = rc < 0 ? rc : make(in, &t, recording, &b, e);
    if (rc < 0) {
        return rc;
    }
    if (bits != bitmap_bits(b->bits)) {
        return err_set(e, EINVAL, "Bitmap '%s' has %" PRIu64 " bits, which node '%s' has not: it is of another size",
                       t.name, bits, t.node->name);
    }
    rc = put_words(in, &t, b, p, first);
    return rc == -EEXIST ? refuse_double(&t, e)
           : rc < 0      ? err_set(e, EPROTO, "What comes of bitmap '%s' makes no sense", t.name)
                         : 0;
}

static int put_all(struct bitmaps_in *b, struct err *e)
{
    int rc = 0;
    for (guint i = 0; rc == 0 && i < b->parts->len; i++) {
        rc = put(b, &g_array_index(b->parts, struct part, i), e);
    }
    for (guint i = 0; rc == 0 && i < b->made->len; i++) {
        rc = dirty_bitmap_store(g_ptr_array_index(b->made, i), e);
    }
    return rc;
}

int bitmaps_in_prepare(struct bitmaps_in *b, struct err *e)
{
    graph_change_begin(b->vm->graph);
    int rc = put_all(b, e);
    graph_change_end(b->vm->graph);
    return rc;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static void make_persistent(struct bitmaps_in *in, struct dirty_bitmap *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    b->persistent = true;
    if (dirty_bitmap_check(b, BITMAP_READ_ONLY, &e) < 0 || dirty_bitmap_store(b, &e) < 0) {
        b->persistent = false;
        log_error(in->vm->log, "dirty bitmap '%s' of node '%s' has come, but will not outlive this program: %s",
                  b->name, b->node->name, err_text(&e));
    }
}

void bitmaps_in_commit(struct bitmaps_in *b)
{
    graph_change_begin(b->vm->graph);
    for (guint i = 0; i < b->late->len; i++) {
        make_persistent(b, g_ptr_array_index(b->late, i));
    }
    graph_change_end(b->vm->graph);
    g_ptr_array_set_size(b->made, 0);
}

static void remove_made(struct bitmaps_in *b)
{
    graph_change_begin(b->vm->graph);
    for (guint i = 0; i < b->made->len; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        if (node_bitmap_remove(g_ptr_array_index(b->made, i), &e) < 0) {
            log_warn(b->vm->log, "a bitmap of a machine that did not come stays: %s", err_text(&e));
        }
    }
    graph_change_end(b->vm->graph);
}

void bitmaps_in_destroy(struct bitmaps_in *b)
{
    if (!b) {
        return;
    }
    remove_made(b);
    for (guint i = 0; i < b->parts->len; i++) {
        struct part *p = &g_array_index(b->parts, struct part, i);
        json_object_put(p->what);
        g_byte_array_unref(p->words);
    }
    json_object_put(b->map);
    g_array_unref(b->parts);
    g_ptr_array_unref(b->made);
    g_ptr_array_unref(b->late);
    g_free(b);
}
