/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/device_arg.h"

#include "base/cleanup.h"
#include "block/options.h"

#include <string.h>
#include <sys/stat.h>

struct node *device_arg_node(struct mon_ctx *c, const char *device, const char *node_name, struct err *e)
{
    struct block_graph *g = c->env->graph;
    const struct backend *b = backend_find(g, device);
    if (b && !b->root) {
        err_set(e, ENOMEDIUM, "Device '%s' has no medium", device);
        return NULL;
    }
    struct node *n = b ? b->root->child : node_name ? node_find(g, node_name) : NULL;
    if (!n) {
        err_set(e, ENODEV, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                node_name ? node_name : "");
    }
    return n;
}

int device_arg_find(struct mon_ctx *c, const char *device, struct device_arg *out, struct err *e)
{
    struct node *n = device_arg_node(c, device, device, e);
    if (!n) {
        return -ENODEV;
    }
    *out = (struct device_arg){.backend = backend_lookup(c->env->graph, device, NULL), .node = n};
    out->name = out->backend && out->backend->name[0] ? out->backend->name : NULL;
    return 0;
}

static bool same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return !strcmp(a, b) ||
           (stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino);
}

/* Whether it is the file that the header of the layer above names, and not one that the user has put in its place. */
static bool is_named(struct node *above, const struct node *layer)
{
    CLEANUP_FREE char *full = node_path_combine(above, above->backing_filename);
    return path_has_protocol(above->backing_filename) || (full && same_file(layer->filename, full));
}

struct node *device_arg_backing(struct node *top, const char *filename)
{
    struct node *above = node_skip_filters(top);
    for (struct node *n; (n = node_backing(above)); above = node_skip_filters(n)) {
        CLEANUP_FREE char *full = node_path_combine(above, filename);
        struct node *plain = node_skip_filters(n);
        bool named = above->backing_filename && !strcmp(above->backing_filename, filename);
        if ((named && is_named(above, plain)) || same_file(plain->filename, filename) ||
            (full && same_file(plain->filename, full)) || !strcmp(node_full_name(plain), filename)) {
            return n;
        }
    }
    return NULL;
}
