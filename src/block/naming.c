/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What nodes are called: `filename`, which says what a node itself is made of, and the full name, which says as well
 * what is below it where that is not what the image's header says. Either opens the same again.
 */
#include "block/graph.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/internal.h"
#include "block/options.h"

#include <string.h>
#include <sys/stat.h>

static bool is_json_name(const char *filename)
{
    return g_str_has_prefix(filename, "json:");
}

/* Filters that jobs put there are no part of what something is made of. */
static struct node *skip_jobs_filters(struct node *n)
{
    while (n->owner && node_filter_edge(n)) {
        n = node_filter_edge(n)->child;
    }
    return n;
}

/* What a json: name must say of this node itself. */
static bool says(const struct node *n, const char *key)
{
    static const char *const common[] = {
        "node-name", "read-only", "auto-read-only", "cache",  "discard", "detect-zeroes", "force-share", "driver",
        "backing",   "aio",       "locking",        "active", NULL};
    if (!n->drv->is_filter && !n->drv->is_protocol) {
        return n->drv->strong_options && g_strv_contains(n->drv->strong_options, key);
    }
    for (guint i = 0; i < n->children->len; i++) {
        if (!strcmp(((struct edge *)g_ptr_array_index(n->children, i))->name, key)) {
            return false;
        }
    }
    return !g_strv_contains(common, key);
}

/* Strong options inside of others ("encrypt.key-secret"), named so. */
static bool add_nested(struct json_object *o, const struct node *n)
{
    bool any = false;
    for (const char *const *k = n->options ? n->drv->strong_options : NULL; k && *k; k++) {
        struct json_object *v = n->options;
        g_auto(GStrv) parts = g_strsplit(*k, ".", -1);
        bool there = parts[1] != NULL;
        for (char **p = parts; *p && there; p++) {
            there = json_object_is_type(v, json_type_object) && json_has(v, *p, &v);
        }
        if (there) {
            json_object_object_add(o, *k, json_clone(v));
            any = true;
        }
    }
    return any;
}

/* Objects and lists inside of an option become "a.b" and "a.0": only children are nested in a name. */
static void add_flat(struct json_object *o, const char *key, struct json_object *v)
{
    bool list = json_object_is_type(v, json_type_array);
    for (size_t i = 0; list && i < json_object_array_length(v); i++) {
        CLEANUP_FREE char *sub = g_strdup_printf("%s.%zu", key, i);
        add_flat(o, sub, json_object_array_get_idx(v, i));
    }
    if (json_object_is_type(v, json_type_object)) {
        json_object_object_foreach(v, inner, inner_v)
        {
            CLEANUP_FREE char *sub = g_strdup_printf("%s.%s", key, inner);
            add_flat(o, sub, inner_v);
        }
    } else if (!list) {
        json_object_object_add(o, key, json_clone(v));
    }
}

/* Options with which the same node can be opened again; `below`: with a backing image that its header does not name.
 * *plain: its own are but a driver and a file. */
static struct json_object *full_options(const struct node *n, bool below, bool *plain)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(n->drv->name));
    *plain = !n->drv->is_filter;
    struct lh_entry *first = n->options ? json_object_get_object(n->options)->head : NULL; /* made by code: none */
    for (struct lh_entry *x = first; x; x = x->next) {
        if (says(n, x->k)) {
            add_flat(o, x->k, (struct json_object *)(uintptr_t)x->v);
            *plain = false;
        }
    }
    *plain &= !add_nested(o, n);
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        bool ignored;
        struct node *child = below ? skip_jobs_filters(ed->child) : ed->child;
        if (ed != n->backing || (below && n->other_backing)) {
            json_object_object_add(o, ed->name, full_options(child, below, &ignored));
        }
    }
    if (below && n->other_backing && !n->backing) {
        json_object_object_add(o, "backing", NULL);
    }
    return o;
}

static char *plain_name(struct node *n)
{
    for (guint i = 0; i < n->children->len; i++) {
        if (is_json_name(((struct edge *)g_ptr_array_index(n->children, i))->child->filename)) {
            return NULL;
        }
    }
    return n->drv->plain_name ? n->drv->plain_name(n) : NULL;
}

void node_take_name(struct node *n)
{
    if (n->drv->is_protocol && *n->filename) {
        return;
    }
    char *name = plain_name(n);
    if (name) {
        g_free(n->filename);
        n->filename = name;
        return;
    }
    bool plain;
    CLEANUP_JSON struct json_object *o = full_options(n, false, &plain);
    g_free(n->filename);
    const struct node *f = n->file ? n->file->child : NULL;
    bool exact = plain && f && (f->drv->is_protocol || f->drv->schemes) && !is_json_name(f->filename);
    n->filename = exact ? g_strdup(f->filename) : options_json_filename(o);
}

void node_refresh_name(struct node *n)
{
    node_take_name(n);
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        if (ed->parent && ed->parent->opened && ed != ed->parent->backing) {
            node_refresh_name(ed->parent);
        }
    }
}

char *node_path_combine(struct node *n, const char *filename)
{
    if (*filename == '/' || path_has_protocol(filename)) {
        return g_strdup(filename);
    }
    while (is_json_name(n->filename) && n->file) {
        n = n->file->child;
    }
    return is_json_name(n->filename) ? NULL : path_combine(n->filename, filename);
}

/* --- full names --------------------------------------------------------------------------------------------------- */

static const char *name_now(const struct node *n)
{
    return n->full_name ? n->full_name : n->filename;
}

/* Whether the header's text, whatever its spelling, means what is called so. */
static bool header_means(struct node *n, const char *name)
{
    if (!strcmp(n->backing_filename, name)) {
        return true;
    }
    struct stat a, b;
    CLEANUP_FREE char *full = path_has_protocol(n->backing_filename) ? NULL : node_path_combine(n, n->backing_filename);
    return full && !is_json_name(name) &&
           (!strcmp(full, name) ||
            (stat(full, &a) == 0 && stat(name, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino));
}

static bool has_other_backing(struct node *n)
{
    if (!n->drv->takes_backing || !n->backing) {
        return n->drv->takes_backing && n->backing_filename;
    }
    const char *name = name_now(skip_jobs_filters(n->backing->child));
    return n->auto_backing ? strcmp(n->auto_backing, name) != 0 : !n->backing_filename || !header_means(n, name);
}

static void refresh_full_name(struct node *n, unsigned stamp)
{
    bool below = false;
    if (n->stamp == stamp) {
        return;
    }
    n->stamp = stamp;
    for (guint i = 0; i < n->children->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->children, i);
        refresh_full_name(ed->child, stamp);
        below |= ed != n->backing && ed->child->full_name;
    }
    g_clear_pointer(&n->full_name, g_free);
    n->other_backing = has_other_backing(n);
    struct node *plain = skip_jobs_filters(n);
    if (plain != n) {
        n->full_name = g_strdup(plain->full_name);
    } else if (below || n->other_backing) {
        bool ignored;
        CLEANUP_JSON struct json_object *o = full_options(n, true, &ignored);
        n->full_name = options_json_filename(o);
    }
}

const char *node_full_name(struct node *n)
{
    refresh_full_name(n, ++n->graph->stamp);
    return name_now(n);
}

void node_backing_is_named(struct node *n)
{
    char *name = g_strdup(node_full_name(skip_jobs_filters(n->backing->child)));
    g_free(n->auto_backing);
    n->auto_backing = name;
}
