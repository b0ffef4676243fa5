/* SPDX-License-Identifier: BSD-2-Clause */
/* How big a file an image will need. */
#include "cli/img/snapshot.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum { OPT_SIZE = OPT_OWN };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    OPT_SPEC_OUTPUT,
    {'f', "format", true},
    {'O', "target-format", true},
    {'o', NULL, true},
    {OPT_SIZE, "size", true},
    {'U', "force-share", false},
    {'l', "snapshot", true},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *out_fmt, *name;
    char *options; /* owned */
    struct img_snapshot_param snapshot;
    int64_t size; /* -1: not given */
};

/* The options as the driver's decoder wants them. */
/* Those of the file that it would be in say nothing of its size. */
static struct json_object *driver_options(const struct args *a, const struct img_new *nd)
{
    struct json_object *o = json_object_new_object(), *v;
    for (const struct create_option *c = nd->drv->create_options; c && c->name; c++) {
        if (strcmp(c->name, "size") != 0 && json_object_object_get_ex(nd->opts, c->name, &v)) {
            json_object_object_add(o, c->name, json_object_get(v));
        }
    }
    if (!a->name) {
        json_object_object_add(o, "size", json_object_new_int64(a->size));
    }
    return o;
}

static int measure(struct tool *img, const struct args *a, const struct img_new *nd, struct node *source,
                   struct measure_result *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = driver_options(a, nd);
    if (!nd->drv->measure) {
        return tool_fail(img, "Block driver '%s' does not support size measurement", a->out_fmt);
    }
    return nd->drv->measure(img->graph, o, source, r, &e) < 0 ? tool_fail(img, "%s", err_text(&e)) : 0;
}

static void print(const struct measure_result *r, bool json)
{
    if (!json) {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", r->required, r->fully_allocated);
        if (r->has_bitmaps) {
            printf("bitmaps size: %" PRIu64 "\n", r->bitmaps);
        }
        return;
    }
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "required", json_object_new_uint64(r->required));
    json_object_object_add(o, "fully-allocated", json_object_new_uint64(r->fully_allocated));
    if (r->has_bitmaps) {
        json_object_object_add(o, "bitmaps", json_object_new_uint64(r->bitmaps));
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
    nd.proto = driver_find("file");
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
    struct measure_result r = {0};
    if (measure(img, a, &nd, d.node, &r)) {
        return 1;
    }
    print(&r, a->common.json);
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
        } else if (key == 'o' && !img_add_options(img, &a->options, o->value)) {
            return 1;
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
