/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/existing.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/io.h"
#include "block/options.h"

#include <string.h>

enum { FIRST_SECTOR = 512 };

const struct create_option existing_create_options[] = {
    {"size", "size", "Virtual disk size"},
    {"preallocation", "str", "Preallocation mode (allowed values: off)"},
    {NULL, NULL, NULL},
};

static int clear_start(struct node *n, uint64_t size, struct err *e)
{
    struct edge *ed;
    int rc = edge_open(n, &(struct edge_spec){"create", PERM_WRITE | PERM_RESIZE, PERM_ALL}, &ed, e);
    if (rc < 0) {
        return rc;
    }
    rc = edge_truncate(ed, size, false, PREALLOC_OFF, e);
    if (rc == -ENOTSUP && n->size >= size) {
        err_clear(e);
        rc = 0;
    }
    if (!rc) {
        rc = edge_zero(ed, 0, min_u64(n->size, FIRST_SECTOR), 0);
        rc = rc < 0 ? err_set_errno(e, -rc, "Failed to clear the new image's first sector") : 0;
    }
    edge_close(ed);
    return rc;
}

int block_create_on_existing(struct block_graph *g, const struct block_driver *drv, struct json_object *opts,
                             struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_clone(opts);
    uint64_t size = 0;
    struct jread r = jread_init(opts, NULL, e);
    size = jread_size_or(&r, "size", 0);
    const char *filename = jread_str_or(&r, "filename", NULL), *prealloc = jread_str_or(&r, "preallocation", "off");
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (strcmp(prealloc, "off") != 0) {
        return err_set(e, ENOTSUP, "Unsupported preallocation mode '%s'", prealloc);
    }
    json_object_object_del(o, "size");
    json_object_object_del(o, "preallocation");
    json_object_object_add(o, "driver", json_object_new_string(drv->name));
    if (filename && drv->parse_filename) {
        CLEANUP_FREE char *name = g_strdup(filename);
        json_object_object_del(o, "filename");
        rc = drv->parse_filename(name, o, e);
    }
    struct node *n;
    rc = rc ? rc : node_open(g, o, &n, e);
    if (rc < 0) {
        return err_wrap(e, "Protocol driver '%s' does not support image creation, and opening the image failed",
                        drv->name);
    }
    rc = clear_start(n, size, e);
    node_unref(n);
    return rc;
}
