/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/chain.h"

#include "base/cleanup.h"
#include "block/driver.h"
#include "block/drivers.h"
#include "block/internal.h"
#include "block/io.h"
#include "block/options.h"
#include "block/reopen.h"

#include <string.h>
#include <sys/stat.h>

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

void chain_absorbed(struct node *layer)
{
    layer->absorbed_at = ++layer->graph->absorptions;
}

uint64_t chain_now(const struct block_graph *g)
{
    return g->absorptions;
}

struct node *chain_absorbed_since(struct node *top, struct node *base, uint64_t began)
{
    const struct node *end = base ? node_skip_filters(base) : NULL;
    for (struct node *m = node_backing(top); m && node_skip_filters(m) != end; m = node_backing(m)) {
        if (node_skip_filters(m)->absorbed_at > began) {
            return m;
        }
    }
    return NULL;
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

struct node *chain_find_file(struct node *top, const char *filename)
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

/* --- placing ------------------------------------------------------------------------------------------------------ */

struct node *chain_pinned_filter(struct node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(n->parents, i);
        /* One that is being closed is there until it has been flushed; its job is over. */
        if (ed->pinned && ed->parent && !ed->parent->closing && node_filter_edge(ed->parent) == ed) {
            return ed->parent;
        }
    }
    return NULL;
}

int chain_missing(struct node *below, struct node *base, uint64_t off, uint64_t len, struct extent *x, bool *missing)
{
    int rc = node_status_above(below, base, off, len, x, NULL);
    if (rc < 0) {
        return rc;
    }
    if (!x->len) { /* past the end of a shorter layer: it reads as zeroes, which a base that is longer must not hide */
        *x = (struct extent){.len = len, .flags = EXT_ZERO | (base ? EXT_ALLOCATED : 0)};
    }
    /* Without a base what nobody holds reads as zeroes; above one only what is held by a layer is missing. */
    *missing = base ? x->flags & EXT_ALLOCATED : !(x->flags & EXT_ZERO);
    return 0;
}

void chain_set_ending(struct node *filter)
{
    struct block_graph *g = filter->graph;
    g->ending = g->ending ? g->ending : g_ptr_array_new();
    if (!chain_is_ending(filter)) {
        g_ptr_array_add(g->ending, filter);
    }
}

bool chain_is_ending(const struct node *filter)
{
    const struct block_graph *g = filter->graph;
    return g->ending && g_ptr_array_find(g->ending, filter, NULL);
}

struct node *chain_above_pinned(struct node *n)
{
    for (struct node *up; (up = chain_pinned_filter(n));) {
        n = up;
    }
    return n;
}

/* A job looks after the filter that it has put there through a pinned edge. */
static bool is_of_job(const struct node *n)
{
    bool any = false;
    for (guint i = 0; i < n->parents->len && n->drv->is_filter; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        any |= ed->pinned && !ed->parent;
    }
    return any;
}

struct node *chain_place(struct node *n)
{
    for (struct edge *ed; is_of_job(n) && (ed = node_filter_edge(n)) && !ed->pinned;) {
        n = ed->child;
    }
    return chain_above_pinned(n);
}

struct node *chain_shown(struct node *n)
{
    while (n->generated_name && is_of_job(n) && n->drv != &copy_before_write_driver) {
        n = node_filter_edge(n)->child;
    }
    return n;
}

/* The users of `below`, who have moved to `overlay`, go back again: whether they could. */
static bool step_back(struct node *below, struct node *overlay)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (node_replace(overlay, below, NULL, &e) == 0) {
        return true;
    }
    /* There they are, and all they read comes from below. */
    log_warn(graph_log(below->graph), "node '%s' stays above '%s', and others may write to that: %s", overlay->name,
             below->name, err_text(&e));
    return false;
}

int chain_put_above(struct node *below, struct node *overlay, struct err *e)
{
    struct edge_spec spec = backing_edge_spec;
    struct edge *ed;
    spec.shared = PERM_ALL; /* until those who write to it have moved */
    node_drain_begin(below);
    int rc = node_attach_child(overlay, below, &spec, &ed, e);
    if (rc == 0) {
        bool moved = (rc = node_replace(below, overlay, NULL, e)) == 0;
        rc = rc ? rc : edge_set_perm(ed, backing_edge_spec.perm, backing_edge_spec.shared, e);
        if (rc && moved && !step_back(below, overlay)) {
            err_clear(e);
            rc = 0;
        }
        if (rc) {
            node_detach_child(overlay, ed);
        }
    }
    node_drain_end(below);
    return rc;
}

int chain_take_away(struct node *overlay, struct err *e)
{
    struct edge *ed = overlay->backing;
    node_drain_begin(overlay);
    int rc = edge_set_perm(ed, backing_edge_spec.perm, PERM_ALL, e);
    rc = rc ? rc : edge_bypass(ed, e);
    if (rc == 0) {
        node_detach_child(overlay, ed);
    }
    node_drain_end(overlay);
    return rc;
}

/* --- links -------------------------------------------------------------------------------------------------------- */

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
        g_clear_pointer(&n->auto_backing, g_free);
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
        node_in_flight_inc(n); /* nobody reopens it meanwhile */
        rc = write_link(n, l, e);
        node_in_flight_dec(n);
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
