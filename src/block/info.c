/* SPDX-License-Identifier: BSD-2-Clause */
/* What query commands and image tools show of a node: BlockDeviceInfo and ImageInfo of QEMU's qapi/block-core.json. */
#include "block/graph.h"

#include "base/cleanup.h"
#include "block/internal.h"
#include "block/snapshot.h"

#include <inttypes.h>
#include <string.h>

static void add(struct json_object *o, const char *key, struct json_object *v)
{
    json_object_object_add(o, key, v);
}

static void add_str(struct json_object *o, const char *key, const char *s)
{
    if (s) {
        add(o, key, json_object_new_string(s));
    }
}

int64_t node_allocated_size(struct node *n)
{
    node_in_flight_inc(n);
    int64_t size = -ENOTSUP;
    if (n->drv->allocated_size) {
        size = n->drv->allocated_size(n);
    } else {
        struct edge *ed = node_filter_edge(n) ? node_filter_edge(n) : n->file;
        if (ed) {
            size = node_allocated_size(ed->child);
        }
    }
    node_in_flight_dec(n);
    return size;
}

static void add_backing(struct json_object *o, struct node *n)
{
    if (!n->backing_filename) {
        return;
    }
    add_str(o, "backing-filename", n->backing_filename);
    CLEANUP_FREE char *full = node_path_combine(n, n->backing_filename);
    add_str(o, "full-backing-filename", full);
    add_str(o, "backing-filename-format", n->backing_format);
}

enum { REPAIR_LINES = 50 };

void node_report_repair(struct node *n, const struct check_result *r)
{
    struct log *log = graph_log(n->graph);
    g_auto(GStrv) lines = g_strsplit(r->text ? r->text->str : "", "\n", 0);
    unsigned count = g_strv_length(lines);
    count -= count && !*lines[count - 1];
    for (unsigned i = 0; i < MIN(count, REPAIR_LINES); i++) {
        log_bare(log, "%s", lines[i]);
    }
    if (count > REPAIR_LINES) {
        log_bare(log, "(and %u more of these)", count - REPAIR_LINES);
    }
    if (r->corruptions_fixed || r->leaks_fixed) {
        log_warn(log,
                 "image '%s' had not been closed: %" PRIu64 " errors were repaired, %" PRIu64
                 " leaked clusters were freed",
                 n->filename, r->corruptions_fixed, r->leaks_fixed);
    }
}

/* A node that has nothing to say for itself lets the one below speak. */
int node_get_info(struct node *n, struct driver_info *out)
{
    while (!n->drv->get_info && (n->drv->is_filter || n->drv->passes_perms) && n->file) {
        n = n->file->child;
    }
    if (n->no_medium) {
        return -ENOMEDIUM;
    }
    return n->drv->get_info ? n->drv->get_info(n, out) : -ENOTSUP;
}

/* Of the node itself: what it holds may be encrypted by the guest, or by a node below. */
static bool is_encrypted(struct node *n)
{
    struct driver_info info = {0};
    return n->drv->get_info && n->drv->get_info(n, &info) == 0 && info.encrypted;
}

static struct json_object *one_image(struct node *n, const char *name)
{
    struct json_object *o = json_object_new_object();
    add_str(o, "filename", name);
    add_str(o, "format", n->drv->name);
    add(o, "virtual-size", json_object_new_uint64(n->size));
    int64_t allocated = node_allocated_size(n);
    if (allocated >= 0) {
        add(o, "actual-size", json_object_new_int64(allocated));
    }
    struct driver_info info = {0};
    if (node_get_info(n, &info) == 0) {
        if (info.cluster_size) {
            add(o, "cluster-size", json_object_new_int64(info.cluster_size));
        }
        add(o, "dirty-flag", json_object_new_boolean(info.is_dirty));
    }
    if (is_encrypted(n)) {
        add(o, "encrypted", json_object_new_boolean(true));
    }
    struct json_object *snapshots = node_snapshots_info(n);
    if (snapshots) {
        add(o, "snapshots", snapshots);
    }
    add_backing(o, n);
    struct json_object *specific = n->drv->specific_info ? n->drv->specific_info(n) : NULL;
    if (specific) {
        add(o, "format-specific", specific);
    }
    return o;
}

struct json_object *node_image_info(struct node *n, bool chain, struct err *e)
{
    struct json_object *top = one_image(n, chain ? node_full_name(n) : n->filename), *o = top;
    while (chain && (n = node_backing(n))) {
        struct json_object *below = one_image(n, node_full_name(n));
        add(o, "backing-image", below);
        o = below;
    }
    return top;
}

static struct json_object *bitmaps_info(struct node *n)
{
    struct json_object *list = json_object_new_array();
    for (guint i = n->bitmaps->len; i-- > 0;) { /* the newest first, as QEMU lists them */
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        struct json_object *o = json_object_new_object();
        add_str(o, "name", b->name);
        add(o, "count", json_object_new_uint64(dirty_bitmap_bytes(b)));
        add(o, "granularity", json_object_new_int64(b->granularity));
        add(o, "recording", json_object_new_boolean(b->enabled));
        add(o, "busy", json_object_new_boolean(b->busy));
        add(o, "persistent", json_object_new_boolean(b->persistent));
        if (b->inconsistent) {
            add(o, "inconsistent", json_object_new_boolean(true));
        }
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *children_info(struct node *n)
{
    struct json_object *list = json_object_new_array();
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        struct json_object *o = json_object_new_object();
        add_str(o, "child", ed->name);
        add_str(o, "node-name", ed->child->name);
        json_object_array_add(list, o);
    }
    return list;
}

struct json_object *node_device_info(struct node *n)
{
    static const char *const detect[] = {"off", "on", "unmap"};
    static const char *const limits[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
    struct json_object *o = json_object_new_object(), *cache = json_object_new_object();
    int depth = 0;
    for (struct node *b = n; (b = node_backing(b));) {
        depth++;
    }
    add_str(o, "file", node_full_name(n));
    add_str(o, "node-name", n->name);
    add(o, "ro", json_object_new_boolean(n->read_only));
    add_str(o, "drv", n->drv->name);
    struct node *below = node_backing(n);
    if (below) {
        add_str(o, "backing_file", node_full_name(below));
    }
    add(o, "backing_file_depth", json_object_new_int(depth));
    add(o, "children", children_info(n));
    add(o, "active", json_object_new_boolean(!n->inactive));
    add(o, "encrypted", json_object_new_boolean(is_encrypted(n)));
    add_str(o, "detect_zeroes", detect[n->detect_zeroes]);
    for (size_t i = 0; i < G_N_ELEMENTS(limits); i++) {
        add(o, limits[i], json_object_new_int(0));
    }
    add(o, "image", node_image_info(n, true, NULL));
    add(cache, "writeback", json_object_new_boolean(true));
    add(cache, "direct", json_object_new_boolean(n->direct));
    add(cache, "no-flush", json_object_new_boolean(n->no_flush));
    add(o, "cache", cache);
    add(o, "write_threshold", json_object_new_uint64(n->write_threshold));
    if (n->bitmaps->len) {
        add(o, "dirty-bitmaps", bitmaps_info(n));
    }
    return o;
}
