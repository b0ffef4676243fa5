/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/device_arg.h"

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
