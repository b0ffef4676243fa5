/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/chain.h"

#include "base/cleanup.h"
#include "block/driver.h"
#include "block/io.h"
#include "block/reopen.h"

bool chain_contains(struct node *top, struct node *n)
{
    struct node *layer = node_skip_filters(n);
    for (struct node *m = top; m; m = node_backing(m)) {
        if (node_skip_filters(m) == layer) {
            return true;
        }
    }
    return false;
}

struct node *chain_layer_above(struct node *top, struct node *base)
{
    struct node *layer = node_skip_filters(base);
    for (struct node *m = top, *below; m; m = below) {
        m = node_skip_filters(m);
        below = node_backing(m);
        if (below && node_skip_filters(below) == layer) {
            return m;
        }
    }
    return NULL;
}

struct chain_link chain_link_to(struct node *base, const char *file, bool mask_protocol)
{
    if (!base) {
        return (struct chain_link){0};
    }
    struct node *layer = node_skip_filters(base);
    return (struct chain_link){
        .file = file ? file : layer->filename,
        .format = mask_protocol && layer->drv->is_protocol ? "raw" : layer->drv->name,
    };
}

static int write_link(struct node *n, struct chain_link l, struct err *e)
{
    int rc = node_flush(n); /* what it needs from below may have just been written into it */
    if (rc < 0) {
        return err_set_errno(e, -rc, "Node '%s' could not be flushed", n->name);
    }
    rc = n->drv->change_backing(n, l.file, l.format, e);
    if (rc == 0) {
        n->write_gen++;
        rc = node_flush(n);
        rc = rc < 0 ? err_set_errno(e, -rc, "Node '%s' could not be flushed", n->name) : 0;
    }
    return rc;
}

int chain_set_link(struct node *n, struct chain_link l, struct err *e)
{
    if (!n->drv->change_backing) {
        return err_set(e, ENOTSUP, "Node '%s': format '%s' cannot name another backing file", n->name, n->drv->name);
    }
    bool was_read_only = n->read_only;
    int rc = was_read_only ? node_set_read_only(n, false, e) : 0;
    if (rc == 0) {
        rc = write_link(n, l, e);
    }
    CLEANUP_ERR struct err back = ERR_INIT;
    if (was_read_only && !n->read_only && node_set_read_only(n, true, &back)) {
        log_warn(graph_log(n->graph), "node '%s' stays writable: %s", n->name, err_text(&back));
    }
    return rc;
}

int node_set_read_only(struct node *n, bool read_only, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "read-only", json_object_new_boolean(read_only));
    struct reopen_request r = {.n = n, .options = o, .keep = true};
    return node_reopen(&r, 1, e);
}
