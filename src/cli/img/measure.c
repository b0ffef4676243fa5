/* SPDX-License-Identifier: BSD-2-Clause */
/* How big a file an image will need. qcow2's tables: QEMU docs/interop/qcow2.txt, "Host cluster management". */
#include "cli/img/snapshot.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_SIZE = OPT_OWN };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    OPT_SPEC_OUTPUT,
    {'f', NULL, true},
    {'O', NULL, true},
    {'o', NULL, true},
    {OPT_SIZE, "size", true},
    {'U', "force-share", false},
    {'l', NULL, true},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *out_fmt, *name;
    char *options; /* owned */
    struct img_snapshot_param snapshot;
    int64_t size; /* -1: not given */
};

struct measured {
    uint64_t required, full;
    bool have_bitmaps;
};

/* The clusters that count `clusters` others and themselves. */
static uint64_t refcount_clusters(uint64_t clusters, uint64_t cluster, unsigned bits)
{
    uint64_t per_block = cluster * 8 / bits, per_table = cluster / 8, blocks = 0, tables = 0;
    for (uint64_t last = UINT64_MAX; last != blocks + tables;) {
        last = blocks + tables;
        blocks = div_round_up(clusters + blocks + tables, per_block);
        tables = div_round_up(blocks, per_table);
    }
    return blocks + tables;
}

/* A qcow2 file with every cluster allocated. `size` is a multiple of the cluster size. */
static uint64_t full_size(uint64_t size, uint64_t cluster, unsigned refcount_bits, unsigned l2_entry)
{
    uint64_t l2_tables = div_round_up(size / cluster, cluster / l2_entry);
    uint64_t l1 = round_up(l2_tables * 8, cluster);
    uint64_t bytes = cluster + l2_tables * cluster + l1 + size;
    return bytes + refcount_clusters(bytes / cluster, cluster, refcount_bits) * cluster;
}

/* Bytes of clusters that the source's data will fill. */
static int data_size(struct img_disk *d, uint64_t cluster, uint64_t *out)
{
    uint64_t size = img_disk_size(d);
    *out = 0;
    for (uint64_t off = 0, len; off < size; off += len) {
        struct extent x;
        int depth, rc = img_disk_status(d, off, size - off, &x, &depth);
        if (rc) {
            return rc;
        }
        len = x.len;
        if (!(x.flags & EXT_ZERO)) { /* to the end of the last cluster, which then is done with */
            uint64_t end = round_up(off + len, cluster);
            *out += end - round_down(off, cluster);
            len = end - off;
        }
    }
    return 0;
}

/* qcow2 from version 3 on. */
static bool can_have_bitmaps(struct node *n)
{
    CLEANUP_JSON struct json_object *o = n->drv->specific_info ? n->drv->specific_info(n) : NULL;
    struct json_object *v;
    return o && strcmp(n->drv->name, "qcow2") == 0 && json_object_object_get_ex(o, "data", &v) &&
           json_object_object_get_ex(v, "compat", &v) && strcmp(json_object_get_string(v), "1.1") == 0;
}

static int measure_qcow2(const struct img_new *nd, struct img_disk *src, uint64_t size, struct measured *m,
                         struct err *e)
{
    const char *cluster_text = img_new_get(nd, "cluster_size"), *bits_text = img_new_get(nd, "refcount_bits");
    const char *extl2 = img_new_get(nd, "extended_l2"), *prealloc = img_new_get(nd, "preallocation");
    uint64_t cluster = cluster_text ? strtoull(cluster_text, NULL, 10) : 65536;
    uint64_t bits = bits_text ? strtoull(bits_text, NULL, 10) : 16;
    if (!is_pow2(cluster) || cluster < 512 || cluster > 2 << 20) {
        return err_set(e, EINVAL, "Cluster size must be a power of two between 512 and 2048k");
    }
    if (!is_pow2(bits) || bits > 64) {
        return err_set(e, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits");
    }
    unsigned l2_entry = extl2 && strcmp(extl2, "on") == 0 ? 16 : 8;
    uint64_t aligned = round_up(size, cluster), data = 0;
    if (div_round_up(aligned / cluster, cluster / l2_entry) > (32u << 20) / 8) {
        return err_set(e, EFBIG, "The image size is too large (try using a larger cluster size)");
    }
    m->full = full_size(aligned, cluster, (unsigned)bits, l2_entry);
    bool all = prealloc && (strcmp(prealloc, "full") == 0 || strcmp(prealloc, "falloc") == 0);
    if (src) {
        int rc = data_size(src, cluster, &data);
        if (rc) {
            return err_set_errno(e, -rc, "Unable to get block status");
        }
        m->have_bitmaps = can_have_bitmaps(src->node);
    }
    m->required = m->full - aligned + (all ? aligned : min_u64(data, aligned));
    return 0;
}

static int measure(const struct args *a, struct img_new *nd, struct img_disk *src, struct measured *m, struct err *e)
{
    uint64_t size = src ? img_disk_size(src) : (uint64_t)a->size;
    if (strcmp(a->out_fmt, "qcow2") == 0) {
        return measure_qcow2(nd, src, size, m, e);
    }
    if (strcmp(a->out_fmt, "raw") != 0) {
        return err_set(e, ENOTSUP, "Block driver '%s' does not support size measurement", a->out_fmt);
    }
    m->required = m->full = round_up(size, 512);
    return 0;
}

static void print(const struct measured *m, bool json)
{
    if (!json) {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", m->required, m->full);
        if (m->have_bitmaps) {
            puts("bitmaps size: 0");
        }
        return;
    }
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "required", json_object_new_uint64(m->required));
    json_object_object_add(o, "fully-allocated", json_object_new_uint64(m->full));
    if (m->have_bitmaps) {
        json_object_object_add(o, "bitmaps", json_object_new_uint64(0));
    }
    img_print_json(o);
}

static int run(struct tool *img, const struct args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd;
    if (img_new_init(&nd, a->out_fmt, NULL, &e)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    if (a->options && img_new_parse(&nd, a->options, &e)) {
        tool_fail(img, "%s", err_text(&e));
        return tool_fail(img, "Invalid options for file format '%s'", a->out_fmt);
    }
    struct img_open how = {
        .fmt = a->common.fmt, .image_opts = a->common.image_opts, .force_share = a->common.force_share};
    CLEANUP_DISK struct img_disk d = IMG_DISK_NONE;
    if (a->name && !img_disk_open(img, a->name, &how, &d)) {
        return 1;
    }
    if (a->name && img_snapshot_show(img, &d, &a->snapshot)) {
        return 1;
    }
    struct measured m = {0};
    if (measure(a, &nd, a->name ? &d : NULL, &m, &e)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    print(&m, a->common.json);
    return 0;
}

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    static const int64_t range[] = {0, INT64_MAX};
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        if (key == OPT_SIZE && !img_number(img, "image size", o->value, range, &a->size)) {
            return 1;
        } else if (key == 'l' && !img_snapshot_parse(img, &a->snapshot, o->value)) {
            return 1;
        } else if (key == 'O') {
            a->out_fmt = o->value;
        } else if (key == 'o') {
            char *joined = a->options ? g_strdup_printf("%s,%s", a->options, o->value) : g_strdup(o->value);
            g_free(a->options);
            a->options = joined;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a->common);
    }
    unsigned n;
    char **names = opts_operands(o, &n);
    a->name = n ? names[0] : NULL;
    if (n > 1) {
        return tool_fail(img, "At most one filename argument is allowed.");
    }
    if (!n && (a->common.image_opts || a->common.fmt || img_snapshot_given(&a->snapshot))) {
        return tool_fail(img, "--image-opts, -f, and -l require a filename argument.");
    }
    if (!n && a->size < 0) {
        return tool_fail(img, "Either --size N or one filename must be specified.");
    }
    if (n && a->size >= 0) {
        return tool_fail(img, "--size N cannot be used together with a filename.");
    }
    return -1;
}

int img_measure(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.out_fmt = "raw", .size = -1};
    int rc = parse(img, &o, &a);
    if (rc < 0) {
        rc = run(img, &a);
    }
    g_free(a.options);
    img_snapshot_param_finish(&a.snapshot);
    return rc;
}
