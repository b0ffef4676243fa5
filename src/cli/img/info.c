/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/snapshot.h"

#include "cli/human.h"

#include <stdio.h>
#include <string.h>

enum { OPT_BACKING_CHAIN = OPT_OWN };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    OPT_SPEC_OUTPUT,
    {OPT_BACKING_CHAIN, "backing-chain", false},
    {'f', "format", true},
    {'U', "force-share", false},
    OPT_SPEC_END,
};

/* --- collecting ------------------------------------------------------------------------------------------------- */

/* One image, as query-named-block-nodes tells it, in the shape that the tools print. */
static struct json_object *describe(struct node *n, struct err *e)
{
    struct json_object *o = node_image_info(n, false, e);
    if (!o) {
        return NULL;
    }
    json_object_object_del(o, "children");
    json_object_object_del(o, "backing-image");
    json_object_object_add(o, "virtual-size", json_object_new_uint64(round_up(n->size, 512)));
    return o;
}

/* Opens image after image by itself, so that a chain with a missing end can be told as far as it goes. */
static int collect(struct tool *img, const char *name, const struct img_open *first, bool chain,
                   struct json_object *list)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    CLEANUP_FREE char *filename = g_strdup(name), *fmt = NULL;
    struct img_open how = *first;
    while (filename) {
        if (!g_hash_table_add(seen, g_strdup(filename))) {
            return tool_fail(img, "Backing file '%s' creates an infinite loop.", filename);
        }
        CLEANUP_DISK struct img_disk d = IMG_DISK_NONE;
        if (!img_disk_open(img, filename, &how, &d)) {
            return 1;
        }
        CLEANUP_ERR struct err e = ERR_INIT;
        struct json_object *o = describe(d.node, &e), *v;
        if (!o) {
            return tool_fail(img, "%s", err_text(&e));
        }
        json_object_array_add(list, o);
        g_free(take(filename));
        g_free(take(fmt));
        how = (struct img_open){.force_share = first->force_share, .no_backing = true};
        if (chain && json_object_object_get_ex(o, "full-backing-filename", &v)) {
            filename = g_strdup(json_object_get_string(v));
            if (json_object_object_get_ex(o, "backing-filename-format", &v)) {
                how.fmt = fmt = g_strdup(json_object_get_string(v));
            }
        }
    }
    return 0;
}

/* --- for people ------------------------------------------------------------------------------------------------- */

static const char *get_string(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

static void print_backing(struct json_object *o)
{
    const char *name = get_string(o, "backing-filename"), *full = get_string(o, "full-backing-filename");
    const char *fmt = get_string(o, "backing-filename-format");
    if (!name) {
        return;
    }
    printf("backing file: %s", name);
    if (!full) {
        printf(" (cannot determine actual path)");
    } else if (strcmp(name, full) != 0) {
        printf(" (actual path: %s)", full);
    }
    putchar('\n');
    if (fmt) {
        printf("backing file format: %s\n", fmt);
    }
}

static void print_human(struct json_object *o)
{
    struct json_object *v;
    uint64_t size = json_object_get_uint64(json_object_object_get(o, "virtual-size"));
    CLEANUP_FREE char *virtual_size = human_size(size);
    CLEANUP_FREE char *disk_size = json_object_object_get_ex(o, "actual-size", &v)
                                       ? human_size(json_object_get_uint64(v))
                                       : g_strdup("unavailable");
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" PRIu64 " bytes)\ndisk size: %s\n",
           get_string(o, "filename"), get_string(o, "format"), virtual_size, size, disk_size);
    if (json_object_object_get_ex(o, "encrypted", &v) && json_object_get_boolean(v)) {
        puts("encrypted: yes");
    }
    if (json_object_object_get_ex(o, "cluster-size", &v)) {
        printf("cluster_size: %" PRId64 "\n", json_object_get_int64(v));
    }
    if (json_object_get_boolean(json_object_object_get(o, "dirty-flag"))) {
        puts("cleanly shut down: no");
    }
    print_backing(o);
    if (json_object_object_get_ex(o, "snapshots", &v)) {
        img_print_snapshots(v);
    }
    if (json_object_object_get_ex(o, "format-specific", &v) && json_object_object_get_ex(v, "data", &v)) {
        puts("Format specific information:");
        human_print(v, 1);
    }
}

int img_info(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct img_common c = {0};
    bool chain = false;
    int key;
    while ((key = img_next(img, &o, &c)) > OPTS_END) {
        chain = true;
    }
    if (key != OPTS_END) {
        return img_opts_exit(&c);
    }
    const char *name = img_one_operand(img, &o);
    if (!name) {
        return 1;
    }
    struct img_open how = {.fmt = c.fmt, .image_opts = c.image_opts, .force_share = c.force_share, .no_backing = true};
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    graph_set_metadata_only(img->graph, true);
    int rc = collect(img, name, &how, chain, list);
    if (rc) {
        return rc;
    }
    if (c.json) {
        img_print_json(chain ? list : json_object_array_get_idx(list, 0));
        return 0;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        if (i) {
            putchar('\n');
        }
        print_human(json_object_array_get_idx(list, i));
    }
    return 0;
}
