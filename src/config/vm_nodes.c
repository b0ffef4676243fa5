/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block nodes as sections. A node that somebody named, uses as a disk or exports, or that stands below two others, has
 * a section; what else is below stands in the section of what it is below of. A layer that was opened because the
 * image above names it is not mentioned, for it will be again.
 */
#include "config/vm_sections.h"

#include "base/cleanup.h"
#include "block/driver.h"
#include "block/live_copy/live_copy.h"
#include "block/options.h"
#include "export/nbd/nbd.h"

#include <string.h>

/* One look at the graph. */
struct look {
    const struct vm_state *s;
    GHashTable *seen; /* nodes that were reached */
    GPtrArray *own;   /* struct node *: those with a section, in order of discovery */
    GPtrArray *out;
};

char *vm_state_absolute(const struct vm_state *s, const char *filename)
{
    return path_has_protocol(filename) ? g_strdup(filename) : g_canonicalize_filename(filename, s->folder);
}

static struct node *switched(const struct vm_state *s, struct node *n)
{
    for (guint i = 0; i < s->pending->len; i++) {
        const struct vm_state_switch *x = &g_array_index(s->pending, struct vm_state_switch, i);
        if (x->from == n) {
            return x->to;
        }
    }
    return NULL;
}

struct node *vm_node_shown(const struct vm_state *s, struct node *n)
{
    for (unsigned i = 0; i <= GRAPH_MAX_HEIGHT; i++) {
        struct node *to = switched(s, n);
        struct edge *through = n->owner ? node_filter_edge(n) : NULL;
        if (!to && through) {
            to = through->child;
        }
        if (!to) {
            break;
        }
        n = to;
    }
    return n;
}

static bool has_section(const struct look *l, const struct node *n)
{
    return g_ptr_array_find(l->own, n, NULL);
}

static bool says(const struct node *n, const char *key)
{
    return n->options && json_object_object_get_ex(n->options, key, NULL);
}

/* The image or the driver's own habit leads to this child: nobody has to say it. */
static bool goes_without_saying(const struct look *l, const struct node *n, const struct edge *ed)
{
    struct node *child = vm_node_shown(l->s, ed->child);
    bool as_opened = child == ed->child && (ed->opened || ed != n->backing);
    return as_opened && child->generated_name && !says(n, ed->name) && !has_section(l, child);
}

/* --- which nodes -------------------------------------------------------------------------------------------------- */

static void give_section(struct look *l, struct node *n)
{
    if (!has_section(l, n)) {
        g_ptr_array_add(l->own, n);
    }
}

static void visit(struct look *l, struct node *n)
{
    if (!g_hash_table_add(l->seen, n)) {
        give_section(l, n);
        return;
    }
    for (guint i = 0; i < n->children->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->children, i);
        visit(l, vm_node_shown(l->s, ed->child));
    }
}

static void visit_root(struct look *l, struct node *n)
{
    n = vm_node_shown(l->s, n);
    give_section(l, n);
    if (!g_hash_table_contains(l->seen, n)) {
        visit(l, n);
    }
}

static void visit_all(struct look *l)
{
    struct block_graph *g = l->s->o.vm->graph;
    g_autoptr(GPtrArray) nodes = graph_nodes(g);
    GPtrArray *backends = graph_backends(g);
    struct nbd_server *nbd = *l->s->o.nbd;
    struct nbd_export *exp;
    for (guint i = 0; i < nodes->len; i++) {
        struct node *n = g_ptr_array_index(nodes, i);
        if (n->monitor_owned && n->opened && !n->closing) {
            visit_root(l, n);
        }
    }
    for (guint i = 0; i < backends->len; i++) {
        const struct backend *b = g_ptr_array_index(backends, i);
        if (b->root) {
            visit_root(l, b->root->child);
        }
    }
    for (unsigned i = 0; nbd && (exp = nbd_server_export(nbd, i)); i++) {
        if (!nbd_export_shutting_down(exp)) {
            visit_root(l, nbd_export_node(exp));
        }
    }
}

/* --- one node ----------------------------------------------------------------------------------------------------- */

static void set_live_copy(struct node *n, struct json_object *o)
{
    struct live_copy_options c;
    if (live_copy_of_node(n)) {
        live_copy_get_options(n, &c);
        json_object_object_add(o, "copying", json_object_new_boolean(c.copying));
        json_object_object_add(o, "speed", json_object_new_uint64(c.speed));
        json_object_object_add(o, "parallel", json_object_new_int64(c.parallel));
    }
}

static struct json_object *node_values(struct look *l, struct node *n);

static struct json_object *child_value(struct look *l, struct node *child)
{
    return has_section(l, child) ? json_object_new_string(child->name) : node_values(l, child);
}

static void set_child(struct look *l, const struct node *n, const struct edge *ed, struct json_object *o)
{
    struct node *child = vm_node_shown(l->s, ed->child);
    if (goes_without_saying(l, n, ed)) {
        json_object_object_del(o, ed->name);
        return;
    }
    struct json_object *v = child_value(l, child);
    if (child == ed->child && json_object_is_type(v, json_type_object)) {
        options_drop_inherited(v, ed);
    }
    json_object_object_add(o, ed->name, v);
}

/* A quorum's, which are a list. */
static void set_list(struct look *l, const struct node *n, struct json_object *o)
{
    struct json_object *list = json_object_new_array();
    for (guint i = 0; i < n->children->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->children, i);
        json_object_array_add(list, child_value(l, vm_node_shown(l->s, ed->child)));
    }
    json_object_object_add(o, "children", list);
}

static void set_children(struct look *l, struct node *n, struct json_object *o)
{
    if (n->drv->children_alike) {
        set_list(l, n, o);
        return;
    }
    for (guint i = 0; i < n->children->len; i++) {
        set_child(l, n, g_ptr_array_index(n->children, i), o);
    }
    if (n->drv->takes_backing && !n->backing) {
        json_object_object_del(o, "backing");
        if (n->backing_filename) {
            json_object_object_add(o, "backing", NULL);
        }
    }
}

/* The options with which blockdev-add would make it again; without its name when it has a section. */
static struct json_object *node_values(struct look *l, struct node *n)
{
    struct json_object *o = n->options ? json_clone(n->options) : json_object_new_object();
    const char *name = n->drv->is_protocol ? json_object_get_string(json_object_object_get(o, "filename")) : NULL;
    json_object_object_del(o, "node-name");
    json_object_object_add(o, "driver", json_object_new_string(n->drv->name));
    if (name) {
        CLEANUP_FREE char *full = vm_state_absolute(l->s, name);
        json_object_object_add(o, "filename", json_object_new_string(full));
    }
    if (!has_section(l, n) && !n->generated_name) {
        json_object_object_add(o, "node-name", json_object_new_string(n->name));
    }
    set_live_copy(n, o);
    set_children(l, n, o);
    return o;
}

/* What is below comes first: it is opened first. */
static void add_section(struct look *l, GHashTable *done, struct node *n)
{
    if (has_section(l, n) && !g_hash_table_add(done, n)) {
        return;
    }
    for (guint i = 0; i < n->children->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->children, i);
        add_section(l, done, vm_node_shown(l->s, ed->child));
    }
    if (has_section(l, n)) {
        struct json_object *o = node_values(l, n);
        if (!n->monitor_owned) {
            json_object_object_add(o, "transient", json_object_new_boolean(true));
        }
        vm_sections_add(l->out, "blockdev", n->name, o);
    }
}

void vm_nodes_sections(struct vm_state *s, GPtrArray *out)
{
    g_autoptr(GPtrArray) own = g_ptr_array_new();
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL), done = g_hash_table_new(NULL, NULL);
    struct look l = {.s = s, .seen = seen, .own = own, .out = out};
    visit_all(&l);
    for (guint i = 0; i < own->len; i++) {
        add_section(&l, done, g_ptr_array_index(own, i));
    }
}
