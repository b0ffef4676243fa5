/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/reopen.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/internal.h"
#include "block/options.h"

#include <string.h>

struct plan {
    GPtrArray *steps; /* struct node_reopen *, parents before their children */
    struct err *e;
};

static void step_free(void *p)
{
    struct node_reopen *r = p;
    json_object_put(r->as.options);
    for (unsigned i = 0; i < REOPEN_LINKS; i++) {
        node_unref(r->links[i].old);
        node_unref(r->links[i].to);
        g_clear_pointer(&r->links[i].lets, g_ptr_array_unref);
    }
    node_unref(r->n);
    g_free(r);
}

static struct node_reopen *find_step(const struct plan *p, const struct node *n)
{
    for (guint i = 0; i < p->steps->len; i++) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i);
        if (r->n == n) {
            return r;
        }
    }
    return NULL;
}

/* --- which nodes, and their new options ------------------------------------------------------------------------- */

static struct edge *find_child(struct node *n, const char *name)
{
    for (guint i = 0; i < n->children->len; i++) {
        struct edge *ed = g_ptr_array_index(n->children, i);
        if (!strcmp(ed->name, name)) {
            return ed;
        }
    }
    return NULL;
}

static int check_link(const struct node *n, const char *key, const struct edge *ed, struct err *e)
{
    bool backing = !strcmp(key, "backing");
    if (n->drv->is_filter && !ed) {
        return err_set(e, EINVAL, "'%s' is a %s filter node that does not support a %s child", n->name, n->drv->name,
                       key);
    }
    if (backing && !n->drv->is_filter && !n->drv->takes_backing) {
        return err_set(e, EINVAL, "Driver '%s' of node '%s' does not support backing files", n->drv->name, n->name);
    }
    return backing || ed ? 0 : err_set(e, EINVAL, "Cannot set file child to format node without file child");
}

/* Another node for "file" or "backing"; `name` NULL: none. */
static int plan_link(struct node_reopen *r, struct edge *ed, const char *key, const char *name, struct err *e)
{
    struct node *n = r->n, *to = name ? node_lookup(n->graph, name, e) : NULL;
    bool backing = !strcmp(key, "backing");
    if (name && !to) {
        return -EINVAL;
    }
    if (to && (to == n || node_reaches(to, n))) {
        return err_set(e, ELOOP, "Making '%s' a %s child of '%s' would create a cycle", name, key, n->name);
    }
    int rc = check_link(n, key, ed, e);
    if (rc == 0) {
        r->links[backing] = (struct reopen_link){.name = backing ? "backing" : "file",
                                                 .old = ed ? node_ref(ed->child) : NULL,
                                                 .to = to ? node_ref(to) : NULL};
    }
    return rc;
}

/* A child may be named as it is; those that can be exchanged may be named anew. */
static int check_reference(struct node_reopen *r, const char *key, struct json_object *v, struct err *e)
{
    struct edge *ed = find_child(r->n, key);
    const char *name = v ? json_object_get_string(v) : NULL;
    bool backing = !strcmp(key, "backing");
    if (name ? ed && !strcmp(ed->child->name, name) : !ed && backing) {
        return 0;
    }
    if (backing || (name && !strcmp(key, "file"))) {
        return plan_link(r, ed, key, name, e);
    }
    return err_set(e, EINVAL, "Cannot change the option '%s'", key);
}

static bool is_child_name(struct node *n, const char *key)
{
    return find_child(n, key) || !strcmp(key, "file") || !strcmp(key, "backing") || !strcmp(key, "data-file");
}

/* What is asked of a node. */
struct wish {
    struct json_object *given;
    bool keep;                       /* the options that are not given */
    bool forget;                     /* that some were given to it: it follows in all */
    const struct node_reopen *above; /* it follows that one, whose child it is; NULL: none */
    bool is_backing;
};

static int plan_node(struct plan *p, struct node *n, const struct wish *w);

/* Something that it inherits changes. */
static bool has_to_follow(const struct node *c, const struct wish *w)
{
    CLEANUP_JSON struct json_object *o = json_clone(c->options);
    options_drop(o, w->forget ? options_left_out(NULL) : c->inherited);
    options_inherit(o, w->above->as.options, w->is_backing);
    return !options_alike(o, c->options);
}

/*
 * An object says how the child is to be opened, and what it leaves out gets its default as it does for the node. Of one
 * that is not mentioned only what it has inherited changes; and without `keep` it inherits all that it can.
 */
static int plan_child(struct plan *p, const struct node_reopen *r, struct edge *ed, struct json_object *said, bool keep)
{
    CLEANUP_JSON struct json_object *nothing = json_object_new_object();
    bool is_object = json_object_is_type(said, json_type_object);
    const struct wish w = {.given = is_object ? said : nothing,
                           .keep = keep || !is_object,
                           .forget = !keep && !said,
                           .above = r,
                           .is_backing = ed == r->n->backing};
    return is_object || has_to_follow(ed->child, &w) ? plan_node(p, ed->child, &w) : 0;
}

static int plan_children(struct plan *p, const struct node_reopen *r, struct json_object *given, bool keep)
{
    int rc = 0;
    for (guint i = 0; i < r->n->children->len && !rc; i++) {
        struct edge *ed = g_ptr_array_index(r->n->children, i);
        const struct reopen_link *l = &r->links[ed == r->n->backing];
        if (edge_leads_to_heir(ed) && !(l->name && !strcmp(l->name, ed->name))) {
            rc = plan_child(p, r, ed, json_object_object_get(given, ed->name), keep);
        }
    }
    return rc;
}

static bool may_change(const struct node *n, const char *key)
{
    static const char *const common[] = {"read-only", "auto-read-only", "cache", "discard", "detect-zeroes", NULL};
    return g_strv_contains(common, key) || g_strv_contains(n->drv->reopen_names, key);
}

static int check_cache(struct json_object *cache, struct err *e)
{
    if (!json_object_is_type(cache, json_type_object)) {
        return 0;
    }
    json_object_object_foreach(cache, key, v)
    {
        if (strcmp(key, "direct") && strcmp(key, "no-flush")) {
            return err_set(e, EINVAL, "Cannot change the option 'cache.%s'", key);
        }
    }
    return 0;
}

static int check_changes(struct node *n, struct json_object *from, struct json_object *to, struct err *e)
{
    json_object_object_foreach(to, key, v)
    {
        struct json_object *old;
        if (is_child_name(n, key) || may_change(n, key) || (json_has(from, key, &old) && options_same_value(old, v)) ||
            (!strcmp(key, "node-name") && v && !strcmp(json_object_get_string(v), n->name))) {
            continue;
        }
        return err_set(e, EINVAL, "Cannot change the option '%s'", key);
    }
    json_object_object_foreach(from, key2, v2)
    {
        if (!json_has(to, key2, NULL) && !is_child_name(n, key2) && !may_change(n, key2)) {
            return err_set(e, EINVAL, "Option '%s' cannot be reset to its default value", key2);
        }
    }
    return check_cache(json_object_object_get(to, "cache"), e);
}

/* "backing.driver": something inside an option that is an object. */
static int cannot_change_inside(const char *key, struct json_object *v, struct err *e)
{
    struct json_object_iterator it = json_object_iter_begin(v), end = json_object_iter_end(v);
    return json_object_iter_equal(&it, &end)
               ? 0
               : err_set(e, EINVAL, "Cannot change the option '%s.%s'", key, json_object_iter_peek_name(&it));
}

/* What is said about children; only those that were opened for n, or below such that have gone, can be told anything.
 */
static int check_child_option(struct node_reopen *r, const char *key, struct json_object *v, struct err *e)
{
    struct edge *ed = find_child(r->n, key);
    if (!json_object_is_type(v, json_type_object)) {
        return check_reference(r, key, v, e);
    }
    return ed && edge_leads_to_heir(ed) ? 0 : cannot_change_inside(key, v, e);
}

/* What stays of the options that there were; always what is said of children, which is their affair, name and driver.
 */
static struct json_object *kept_options(const struct node_reopen *r, const struct wish *w)
{
    struct json_object *kept = json_object_new_object();
    json_object_object_foreach(r->as.options ? r->as.options : r->n->options, key, v)
    {
        if (w->keep || is_child_name(r->n, key) || !strcmp(key, "node-name") || !strcmp(key, "driver")) {
            json_object_object_add(kept, key, json_clone(v));
        }
    }
    if (w->above) {
        options_drop(kept, w->forget ? options_left_out(NULL) : r->as.inherited);
    }
    return kept;
}

/* Completes r->as.options and finds out which of them are inherited. */
static void inherit(struct node_reopen *r, const struct wish *w, unsigned left_out)
{
    if (w->above) {
        options_inherit(r->as.options, w->above->as.options, w->is_backing);
        r->as.inherited = options_take_inherited(r->as.options);
    } else {
        r->as.inherited = left_out & (w->keep ? r->as.inherited : left_out);
    }
}

/* r->as.options: what is given over what there is, with nothing new said about children. */
static int set_options(struct node_reopen *r, const struct wish *w, struct err *e)
{
    struct node *n = r->n;
    struct json_object *o = json_object_new_object();
    CLEANUP_JSON struct json_object *kept = kept_options(r, w);
    int rc = 0;
    json_object_object_foreach(w->given, key, v)
    {
        if (!is_child_name(n, key)) {
            json_object_object_add(o, key, json_clone(v));
        } else if (!rc) {
            rc = check_child_option(r, key, v, e);
        }
    }
    unsigned left_out = options_left_out(o);
    options_lay_under(o, kept);
    for (unsigned i = 0; i < REOPEN_LINKS; i++) {
        const struct reopen_link *l = &r->links[i];
        if (l->name) {
            json_object_object_add(o, l->name, l->to ? json_object_new_string(l->to->name) : NULL);
        }
    }
    json_object_put(r->as.options);
    r->as.options = o;
    inherit(r, w, left_out);
    return rc ? rc : check_changes(n, n->options, o, e);
}

/* Whether it may be read-only is said, or follows from what changes above. */
static bool says_read_only(const struct node_reopen *r, const struct wish *w)
{
    bool follows = w->above && r->as.inherited & OPTIONS_READ_ONLY && !w->is_backing;
    return json_has(w->given, "read-only", NULL) || (follows && w->above->n->read_only != w->above->as.read_only);
}

static int plan_node(struct plan *p, struct node *n, const struct wish *w)
{
    if (!n->drv->reopen_names) {
        return err_set(p->e, ENOTSUP, "Block format '%s' used by node '%s' does not support reopening files",
                       n->drv->name, n->name);
    }
    struct node_reopen *r = find_step(p, n);
    if (!r) {
        r = g_new0(struct node_reopen, 1);
        r->n = node_ref(n);
        r->as = *n;
        r->as.options = NULL;
        g_ptr_array_add(p->steps, r);
    }
    int rc = set_options(r, w, p->e);
    rc = rc ? rc : options_read_common(&r->as, r->as.options, p->e);
    if (r->as.auto_read_only && n->read_only && !says_read_only(r, w)) {
        r->as.read_only = true; /* it could not be opened for writing */
    }
    r->as.inactive = n->inactive;
    return rc ? rc : plan_children(p, r, w->given, w->keep);
}

static int by_height(const void *a, const void *b)
{
    const struct node_reopen *const *x = a, *const *y = b;
    return (int)(*y)->n->height - (int)(*x)->n->height;
}

/* --- together or not at all ------------------------------------------------------------------------------------- */

/* Nobody who goes on writing may be left above a node that becomes read-only. */
static int check_writers(const struct plan *p, const struct node_reopen *r)
{
    const unsigned writes = PERM_WRITE | PERM_WRITE_SAME;
    for (guint i = 0; r->as.read_only && !r->n->read_only && i < r->n->parents->len; i++) {
        struct edge *ed = g_ptr_array_index(r->n->parents, i);
        const struct node_reopen *above = ed->parent ? find_step(p, ed->parent) : NULL;
        if ((ed->perm & writes) && !(above && above->as.read_only)) {
            return err_set(p->e, EPERM, "Read-only block node '%s' cannot support read-write users", r->n->name);
        }
    }
    return 0;
}

static int prepare(struct plan *p)
{
    int rc = 0;
    for (guint i = 0; i < p->steps->len && !rc; i++) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i);
        rc = check_writers(p, r);
        bool just_passes = r->n->drv->is_filter && !r->as.read_only; /* it has nothing of its own to lose */
        if (!rc && r->n->opened && !r->n->read_only && !just_passes) {
            rc = node_flush(r->n);
            if (rc < 0) {
                err_set_errno(p->e, -rc, "Error flushing drive");
            }
        }
        if (!rc && r->n->drv->reopen_prepare) {
            rc = r->n->drv->reopen_prepare(r->n, r, p->e);
        }
        r->prepared = !rc;
    }
    return rc;
}

static void swap_common(struct node *n, struct node *as)
{
#define SWAP(field)                                                                                                    \
    do {                                                                                                               \
        __typeof__(n->field) tmp_ = n->field;                                                                          \
        n->field = as->field;                                                                                          \
        as->field = tmp_;                                                                                              \
    } while (0)
    SWAP(read_only);
    SWAP(auto_read_only);
    SWAP(direct);
    SWAP(no_flush);
    SWAP(discard_unmap);
    SWAP(detect_zeroes);
    SWAP(options);
    SWAP(inherited);
#undef SWAP
}

static void swap_all(struct plan *p)
{
    for (guint i = 0; i < p->steps->len; i++) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i);
        swap_common(r->n, &r->as);
        if (r->n->drv->reopen_swap) {
            r->n->drv->reopen_swap(r->n, r);
        }
    }
}

static int update_perms(struct plan *p, struct err *e)
{
    int rc = 0;
    for (guint i = 0; i < p->steps->len && !rc; i++) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i);
        rc = node_update_perms(r->n, e);
    }
    return rc;
}

static int activate(struct plan *p)
{
    int rc = 0;
    for (guint i = p->steps->len; i-- > 0 && !rc;) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i);
        if (r->n->drv->reopen_activate) {
            rc = r->n->drv->reopen_activate(r->n, r, p->e);
        }
    }
    return rc;
}

static void swap_lets(struct edge *ed, struct reopen_link *l)
{
    GPtrArray *lets = ed->lets;
    ed->lets = l->lets;
    l->lets = lets;
}

static int set_link(struct node *n, struct reopen_link *l, struct node *to, struct err *e)
{
    struct edge *ed = find_child(n, l->name);
    if (ed && to) {
        swap_lets(ed, l); /* what it could do with holds for the old child only */
        int rc = edge_retarget(ed, to, e);
        if (rc) {
            swap_lets(ed, l);
        }
        return rc;
    }
    if (ed) {
        node_detach_child(n, ed);
        return 0;
    }
    return to ? node_attach_child(n, to, &backing_edge_spec, &ed, e) : 0;
}

static int change_links(struct plan *p)
{
    int rc = 0;
    for (guint i = 0; i < p->steps->len * REOPEN_LINKS && !rc; i++) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i / REOPEN_LINKS);
        struct reopen_link *l = &r->links[i % REOPEN_LINKS];
        const struct edge *ed = l->name ? find_child(r->n, l->name) : NULL;
        if (l->name) {
            l->was_opened = ed && ed->opened;
            l->was_heir = ed && edge_leads_to_heir(ed);
            l->heir_of = l->to ? l->to->heir_of : 0;
            rc = set_link(r->n, l, l->to, p->e);
            l->changed = !rc;
            if (!rc && l->was_heir) {
                l->old->heir_of = 0;
            }
        }
    }
    return rc;
}

static void restore_links(struct plan *p)
{
    for (guint i = p->steps->len * REOPEN_LINKS; i-- > 0;) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i / REOPEN_LINKS);
        struct reopen_link *l = &r->links[i % REOPEN_LINKS];
        if (!l->changed) {
            continue;
        }
        if (set_link(r->n, l, l->old, NULL) < 0) {
            log_error(graph_log(r->n->graph), "node '%s': its child '%s' could not be restored", r->n->name, l->name);
        } else if (l->old) {
            find_child(r->n, l->name)->opened = l->was_opened;
            l->old->heir_of = l->was_heir ? r->n->serial : l->old->heir_of;
        }
        if (l->to) {
            l->to->heir_of = l->heir_of;
        }
    }
}

static int change(struct plan *p)
{
    int rc = change_links(p);
    if (rc) {
        restore_links(p);
        return rc;
    }
    swap_all(p);
    rc = update_perms(p, p->e);
    rc = rc ? rc : activate(p);
    if (rc) {
        swap_all(p);
        if (update_perms(p, NULL) < 0) {
            struct node *n = ((struct node_reopen *)g_ptr_array_index(p->steps, 0))->n;
            log_warn(graph_log(n->graph), "node '%s': permissions could not be restored", n->name);
        }
        restore_links(p);
    }
    return rc;
}

static void drain(struct plan *p, bool begin)
{
    for (guint i = 0; i < p->steps->len; i++) {
        struct node_reopen *r = g_ptr_array_index(p->steps, i);
        begin ? node_drain_begin(r->n) : node_drain_end(r->n);
    }
}

static int plan_request(struct plan *p, const struct reopen_request *q, struct json_object *o)
{
    const struct node *n = q->n;
    if (!q->keep && (n->backing || n->backing_filename) && n->drv->takes_backing && !json_has(o, "backing", NULL)) {
        return err_set(p->e, EINVAL, "backing is missing for '%s'", n->name);
    }
    return plan_node(p, q->n, &(struct wish){.given = o, .keep = q->keep});
}

static void rename_changed(const struct plan *p)
{
    for (guint i = 0; i < p->steps->len; i++) {
        const struct node_reopen *r = g_ptr_array_index(p->steps, i);
        if (r->links[0].changed) {
            node_refresh_name(r->n);
        }
    }
}

static int reopen_all(const struct reopen_request *requests, unsigned count, struct err *e)
{
    CLEANUP_ERR struct err local = ERR_INIT;
    struct plan p = {.steps = g_ptr_array_new_with_free_func(step_free), .e = e ? e : &local};
    int rc = 0;
    for (unsigned i = 0; i < count && !rc; i++) {
        CLEANUP_JSON struct json_object *o = options_expand(requests[i].options, p.e);
        rc = o ? plan_request(&p, &requests[i], o) : -EINVAL;
    }
    g_ptr_array_sort(p.steps, by_height);
    if (!rc) {
        drain(&p, true);
        rc = prepare(&p);
        rc = rc ? rc : change(&p);
        if (!rc) {
            rename_changed(&p);
        }
        for (guint i = 0; i < p.steps->len; i++) {
            struct node_reopen *r = g_ptr_array_index(p.steps, i);
            if (r->prepared && r->n->drv->reopen_finish) {
                r->n->drv->reopen_finish(r->n, r);
            }
        }
        drain(&p, false);
    }
    g_ptr_array_free(p.steps, true);
    return rc;
}

int node_reopen(const struct reopen_request *requests, unsigned count, struct err *e)
{
    if (!count) {
        return 0;
    }
    struct block_graph *g = requests[0].n->graph;
    graph_change_begin(g); /* two of one node would each make its new state of the old one */
    int rc = reopen_all(requests, count, e);
    graph_change_end(g);
    return rc;
}
