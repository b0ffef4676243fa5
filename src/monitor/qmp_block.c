/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_block.h"

#include "base/cleanup.h"
#include "block/backend.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/inactive.h"
#include "block/media.h"
#include "block/reopen.h"
#include "job/job.h"
#include "machine/vm.h"
#include "monitor/action.h"
#include "monitor/check.h"
#include "monitor/device_arg.h"

#include <string.h>

static void add(struct json_object *o, const char *key, struct json_object *v)
{
    json_object_object_add(o, key, v);
}

static void add_str(struct json_object *o, const char *key, const char *s)
{
    add(o, key, json_object_new_string(s));
}

static void add_num(struct json_object *o, const char *key, uint64_t v)
{
    add(o, key, json_object_new_uint64(v));
}

static void add_bool(struct json_object *o, const char *key, bool b)
{
    add(o, key, json_object_new_boolean(b));
}

/* --- queries --------------------------------------------------------------------------------------------------- */

/* Asking a node waits, and it may go meanwhile. */
static struct json_object *held_info(struct node *n)
{
    node_ref(n);
    struct json_object *o = node_device_info(n);
    node_unref(n);
    return o;
}

/* As BlockDeviceInfo has them. */
static void add_limits(struct json_object *o, const struct throttle_group *t)
{
    static const char *const names[THROTTLE_BUCKETS] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
    const struct throttle_config *c = throttle_group_get(t);
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        const struct throttle_limit *l = &c->limit[i];
        char key[32];
        add_num(o, names[i], l->avg);
        if (l->max) {
            g_snprintf(key, sizeof(key), "%s_max", names[i]);
            add_num(o, key, l->max);
            g_snprintf(key, sizeof(key), "%s_max_length", names[i]);
            add_num(o, key, l->burst_length);
        }
    }
    if (c->iops_size) {
        add_num(o, "iops_size", c->iops_size);
    }
    add_str(o, "group", throttle_group_name(t));
}

/* What is known of `b` itself comes first: asking the node waits, and `b` may go meanwhile. */
static struct json_object *block_info(const struct backend *b)
{
    struct json_object *o = json_object_new_object(), *cache;
    struct node *n = b->root ? chain_shown(b->root->child) : NULL;
    bool write_cache = b->write_cache;
    struct throttle_group *limits = n && b->limit ? throttle_group_ref(backend_limits(b)) : NULL;
    if (b->io_status && b->qdev) {
        add_str(o, "io-status", b->io_status);
    }
    add_str(o, "device", b->name);
    add_bool(o, "locked", b->locked);
    add_bool(o, "removable", media_removable(b));
    if (b->qom_path) {
        add_str(o, "qdev", backend_shown_qdev(b));
    }
    if (media_has_tray(b)) {
        add_bool(o, "tray_open", b->tray_open);
    }
    add_str(o, "type", "unknown");
    if (n) {
        struct json_object *inserted = held_info(n);
        if (json_object_object_get_ex(inserted, "cache", &cache)) {
            add_bool(cache, "writeback", write_cache);
        }
        if (limits) {
            add_limits(inserted, limits);
            throttle_group_unref(limits);
        }
        add(o, "inserted", inserted);
    }
    return o;
}

int qmp_query_block(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    GPtrArray *all = graph_backends(c->env->graph);
    *ret = json_object_new_array();
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (b->name[0] || b->qdev) {
            json_object_array_add(*ret, block_info(b));
        }
    }
    return 0;
}

static bool is_there(struct block_graph *g, struct node *n)
{
    g_autoptr(GPtrArray) now = graph_nodes(g);
    return g_ptr_array_find(now, n, NULL);
}

int qmp_query_named_block_nodes(struct mon_ctx *c, const struct qmp_query_named_block_nodes_args *a,
                                struct json_object **ret, struct err *e)
{
    g_autoptr(GPtrArray) all = graph_nodes(c->env->graph);
    *ret = json_object_new_array();
    for (guint i = all->len; i-- > 0;) { /* the newest first, as QEMU lists them */
        struct node *n = g_ptr_array_index(all, i);
        struct json_object *o = is_there(c->env->graph, n) ? held_info(n) : NULL;
        struct json_object *image;
        if (a->flat && json_object_object_get_ex(o, "image", &image)) { /* the depth too is 0 then */
            json_object_object_del(image, "backing-image");
            add_num(o, "backing_file_depth", 0);
        }
        if (o) {
            json_object_array_add(*ret, o);
        }
    }
    return 0;
}

/* --- the graph as it is ------------------------------------------------------------------------------------------ */

struct drawing {
    struct mon_env *env;
    GHashTable *ids; /* of a node, or of a user's object: how many there were with it */
    struct json_object *nodes, *edges;
};

static uint64_t draw(struct drawing *d, const void *what, const char *type, const char *name)
{
    uint64_t id = GPOINTER_TO_SIZE(g_hash_table_lookup(d->ids, what));
    if (!id) {
        id = g_hash_table_size(d->ids) + 1;
        g_hash_table_insert(d->ids, (gpointer)(uintptr_t)what, GSIZE_TO_POINTER(id));
        struct json_object *o = json_object_new_object();
        add_num(o, "id", id);
        json_object_object_add(o, "type", json_object_new_string(type));
        json_object_object_add(o, "name", json_object_new_string(name ? name : ""));
        json_object_array_add(d->nodes, o);
    }
    return id;
}

static uint64_t draw_user(struct drawing *d, const struct edge *ed)
{
    GPtrArray *jobs = jobs_list(d->env->jobs);
    GPtrArray *backends = graph_backends(d->env->graph);
    for (guint i = 0; i < jobs->len; i++) {
        const struct job *j = jobs->pdata[i];
        if (j == ed->user) {
            return draw(d, j, "block-job", j->id);
        }
    }
    for (guint i = 0; i < backends->len; i++) {
        const struct backend *b = backends->pdata[i];
        if (b->root == ed) {
            return draw(d, b, "block-backend", b->name);
        }
    }
    return draw(d, ed->user ? ed->user : ed, "block-backend", NULL);
}

static struct json_object *permissions(unsigned perm)
{
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; qmp_BlockPermission_names[i]; i++) {
        if (perm & (1u << i)) {
            json_object_array_add(list, json_object_new_string(qmp_BlockPermission_names[i]));
        }
    }
    return list;
}

static void draw_edge(struct drawing *d, const struct edge *ed)
{
    struct json_object *o = json_object_new_object();
    add_num(o, "parent", ed->parent ? draw(d, ed->parent, "block-driver", ed->parent->name) : draw_user(d, ed));
    add_num(o, "child", draw(d, ed->child, "block-driver", ed->child->name));
    json_object_object_add(o, "name", json_object_new_string(ed->name));
    json_object_object_add(o, "perm", permissions(ed->perm));
    json_object_object_add(o, "shared-perm", permissions(ed->shared));
    json_object_array_add(d->edges, o);
}

int qmp_x_debug_query_block_graph(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    g_autoptr(GPtrArray) all = graph_nodes(c->env->graph);
    g_autoptr(GHashTable) ids = g_hash_table_new(NULL, NULL);
    struct drawing d = {c->env, ids, json_object_new_array(), json_object_new_array()};
    for (guint i = 0; i < all->len; i++) {
        const struct node *n = all->pdata[i];
        draw(&d, n, "block-driver", n->name);
        for (guint k = 0; k < n->parents->len; k++) {
            draw_edge(&d, n->parents->pdata[k]);
        }
    }
    *ret = json_object_new_object();
    json_object_object_add(*ret, "edges", d.edges);
    json_object_object_add(*ret, "nodes", d.nodes);
    return 0;
}

/* --- counters ---------------------------------------------------------------------------------------------------- */

static struct json_object *node_counters(const struct node *n)
{
    const struct node_stats *s = &n->stats;
    struct acct a = {.bytes = {s->rd_bytes, s->wr_bytes, 0, s->discard_bytes},
                     .ops = {s->rd_ops, s->wr_ops, s->flush_ops, s->discard_ops},
                     .ns = {s->rd_ns, s->wr_ns, s->flush_ns},
                     .count_invalid = true,
                     .count_failed = true};
    return acct_json(&a, s->wr_highest);
}

/* As QEMU: "parent" is the node below by "file", "backing" the image below. Depth is that of the chain. */
static struct json_object *node_stats_json(struct node *n, bool children)
{
    struct json_object *o = json_object_new_object();
    add_str(o, "node-name", n->name);
    add(o, "stats", node_counters(n));
    if (children && n->file) {
        add(o, "parent", node_stats_json(n->file->child, true));
    }
    if (children && n->backing) {
        add(o, "backing", node_stats_json(chain_shown(n->backing->child), true));
    }
    return o;
}

static struct json_object *backend_stats_json(const struct backend *b)
{
    struct node *n = b->root ? chain_shown(b->root->child) : NULL;
    struct json_object *o = n ? node_stats_json(n, true) : json_object_new_object();
    add_str(o, "device", b->name);
    if (b->qom_path) {
        add_str(o, "qdev", backend_shown_qdev(b));
    }
    add(o, "stats", acct_json(&b->stats, n ? n->stats.wr_highest : 0));
    return o;
}

int qmp_query_blockstats(struct mon_ctx *c, const struct qmp_query_blockstats_args *a, struct json_object **ret,
                         struct err *e)
{
    g_autoptr(GPtrArray) nodes = graph_nodes(c->env->graph);
    const GPtrArray *all = a->query_nodes ? nodes : graph_backends(c->env->graph);
    *ret = json_object_new_array();
    for (guint i = 0; i < all->len; i++) {
        struct backend *b = a->query_nodes ? NULL : g_ptr_array_index(all, i);
        if (!b) {
            json_object_array_add(*ret, node_stats_json(g_ptr_array_index(all, i), false));
        } else if (b->name[0] || b->qdev) {
            json_object_array_add(*ret, backend_stats_json(b));
        }
    }
    return 0;
}

/* --- changes -------------------------------------------------------------------------------------------------------
 */

struct add_action {
    struct mon_action action;
    struct node *n; /* a reference, which becomes the monitor's */
};

static int open_for_monitor(struct mon_ctx *c, struct json_object *options, struct node **out, struct err *e)
{
    if (!json_object_object_get_ex(options, "node-name", NULL)) {
        return err_set(e, EINVAL, "'node-name' must be specified for the root node");
    }
    return node_open(c->env->graph, options, out, e);
}

static int prepare_add(struct mon_action *a, const void *args, struct err *e)
{
    const struct qmp_blockdev_add_args *x = args;
    struct add_action *add_to = (struct add_action *)a;
    int rc = open_for_monitor(a->c, x->options, &add_to->n, e);
    if (rc == 0) {
        add_to->n->monitor_owned = true; /* from here on: the state file is written before the commit */
    }
    return rc;
}

static void abort_add(struct mon_action *a)
{
    struct node *n = ((struct add_action *)a)->n;
    n->monitor_owned = false;
    node_unref(n);
}

const struct mon_action_kind action_blockdev_add = {
    .name = "blockdev-add",
    .size = sizeof(struct add_action),
    .args_size = sizeof(struct qmp_blockdev_add_args),
    .decode = qmp_blockdev_add_decode,
    .prepare = prepare_add,
    .abort = abort_add,
};

int qmp_blockdev_add(struct mon_ctx *c, const struct qmp_blockdev_add_args *a, struct json_object **ret, struct err *e)
{
    /* Opening may take long: other sessions' actions need not wait for it. */
    struct node *n;
    int rc = open_for_monitor(c, a->options, &n, e);
    if (rc == 0) {
        n->monitor_owned = true;
    }
    return rc;
}

static struct node *find_reopened(struct block_graph *g, struct json_object *options, struct err *e)
{
    const char *name = schema_str(options, "node-name");
    struct node *n = name ? node_find(g, name) : NULL;
    if (!name) {
        err_set(e, EINVAL, "node-name not specified");
    } else if (!n) {
        err_set(e, ENOENT, "Failed to find node with node-name='%s'", name);
    }
    return n;
}

static int reopen_all(struct block_graph *g, struct json_object *options, struct err *e)
{
    size_t count = json_object_array_length(options);
    g_autofree struct reopen_request *list = g_new0(struct reopen_request, count + 1);
    for (size_t i = 0; i < count; i++) {
        struct json_object *o = json_object_array_get_idx(options, i);
        struct node *n = find_reopened(g, o, e);
        if (!n) {
            return -EINVAL;
        }
        list[i] = (struct reopen_request){.n = n, .options = o};
    }
    return node_reopen(list, (unsigned)count, e);
}

int qmp_blockdev_reopen(struct mon_ctx *c, const struct qmp_blockdev_reopen_args *a, struct json_object **ret,
                        struct err *e)
{
    graph_change_begin(c->env->graph);
    int rc = reopen_all(c->env->graph, a->options, e);
    graph_change_end(c->env->graph);
    return rc;
}

static char *users_of(const struct node *n)
{
    GString *s = g_string_new(NULL);
    for (guint i = 0; i < n->parents->len; i++) {
        const struct edge *ed = g_ptr_array_index(n->parents, i);
        CLEANUP_FREE char *who = edge_describe(ed);
        g_string_append_printf(s, "%s%s", s->len ? ", " : "", who);
    }
    return g_string_free(s, FALSE);
}

/* A commit between two layers of n's chain ends in a change of what n stands on. */
static bool has_commit_below(const struct node *n)
{
    while (n && !(n->owner && g_str_has_prefix(n->owner, "commit job "))) {
        const struct edge *down = n->backing ? n->backing : n->drv->is_filter ? n->file : NULL;
        n = down ? down->child : NULL;
    }
    return n;
}

static bool is_backing(const struct edge *ed)
{
    return ed->parent && ed->parent->backing == ed;
}

/* What holds it longest, if that is a job or images above it, of which the last is named: QEMU's words, which do
 * not say which job it is. */
static int check_not_held(const struct node *n, struct err *e)
{
    if (!n->parents->len && has_commit_below(n)) {
        return err_set(e, EBUSY, "Node '%s' is busy: block device is in use by block job: commit", n->name);
    }
    const struct edge *ed = n->parents->len ? g_ptr_array_index(n->parents, 0) : NULL;
    const struct node *above = NULL;
    for (guint i = n->parents->len; ed && is_backing(ed) && !above && i-- > 0;) {
        const struct edge *x = g_ptr_array_index(n->parents, i);
        above = is_backing(x) ? x->parent : NULL;
    }
    if (above) {
        return err_set(e, EBUSY, "Node '%s' is busy: node is used as backing hd of '%s'", n->name, above->name);
    }
    CLEANUP_FREE char *who = ed ? edge_describe(ed) : NULL;
    const char *job = who ? strstr(who, " job '") : NULL;
    if (job && !g_str_has_prefix(who, "node ")) {
        return err_set(e, EBUSY, "Node '%s' is busy: block device is in use by block job: %.*s", n->name,
                       (int)(job - who), who);
    }
    return 0;
}

static int delete_node(struct mon_ctx *c, const char *name, struct err *e)
{
    struct block_graph *g = c->env->graph;
    struct node *n = node_find(g, name);
    if (!n) {
        return err_set(e, ENOENT, "Failed to find node with node-name='%s'", name);
    }
    CLEANUP_FREE char *users = users_of(n);
    if (backend_with(g, n)) {
        return err_set(e, EBUSY, "Node %s is in use", name);
    }
    int rc = mon_as_qemu(c->env) ? check_not_held(n, e) : 0;
    if (rc) {
        return rc;
    }
    if (!n->monitor_owned) {
        return err_set(e, EPERM, "Node %s is not owned by the monitor", name);
    }
    if (n->parents->len || n->refs > 1) {
        return err_set(e, EBUSY, "Block device %s is in use%s%s", name, users[0] ? ": by " : "", users);
    }
    n->monitor_owned = false;
    node_unref(n);
    return 0;
}

int qmp_blockdev_del(struct mon_ctx *c, const struct qmp_blockdev_del_args *a, struct json_object **ret, struct err *e)
{
    graph_change_begin(c->env->graph);
    int rc = delete_node(c, a->node_name, e);
    graph_change_end(c->env->graph);
    return rc;
}

/* Devices of a guest that runs would only get errors. */
static int check_guest(struct mon_ctx *c, struct node *n, struct err *e)
{
    GPtrArray *all = graph_backends(c->env->graph);
    bool runs = c->env->vm && c->env->vm->state == RUN_RUNNING;
    for (guint i = 0; runs && i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (b->dev && b->root && (!n || node_reaches(b->root->child, n))) {
            return err_set(e, EBUSY, "Node '%s' is in use by device '%s' of a machine that runs: stop it first",
                           b->root->child->name, b->qdev ? b->qdev : b->name);
        }
    }
    return 0;
}

int qmp_blockdev_set_active(struct mon_ctx *c, const struct qmp_blockdev_set_active_args *a, struct json_object **ret,
                            struct err *e)
{
    struct block_graph *g = c->env->graph;
    struct node *n = a->node_name ? node_find(g, a->node_name) : NULL;
    if (a->node_name && !n) {
        return err_set(e, ENOENT, "Failed to find node with node-name='%s'", a->node_name);
    }
    if (a->active) {
        return n ? node_activate(n, e) : graph_activate(g, e);
    }
    int rc = check_guest(c, n, e);
    if (rc < 0) {
        return rc;
    }
    return n ? node_inactivate(n, e) : graph_inactivate(g, NULL, false, e);
}

static int change_backing(struct mon_ctx *c, const struct qmp_change_backing_file_args *a, struct node *disk,
                          struct err *e)
{
    struct node *n = device_arg_node(c, NULL, a->image_node_name, e);
    if (!n) {
        return -ENODEV;
    }
    if (!n->backing) {
        return err_set(e, EINVAL, "not allowing backing file change on an image without a backing file");
    }
    if (!chain_contains(disk, n)) {
        return err_set(e, EINVAL, "'%s' and image file are not in the same chain", a->device);
    }
    CLEANUP_FREE char *format = g_strdup(node_skip_filters(n->backing->child)->drv->name);
    node_ref(n);
    int rc = chain_set_link(n, (struct chain_link){a->backing_file, format}, e);
    node_unref(n);
    return rc ? err_wrap(e, "Could not change backing file to '%s'", a->backing_file) : 0;
}

int qmp_change_backing_file(struct mon_ctx *c, const struct qmp_change_backing_file_args *a, struct json_object **ret,
                            struct err *e)
{
    graph_change_begin(c->env->graph);
    struct node *disk = device_arg_node(c, a->device, a->device, e);
    int rc = disk ? change_backing(c, a, disk, e) : -ENODEV;
    graph_change_end(c->env->graph);
    return rc;
}

int qmp_block_resize(struct mon_ctx *c, const struct qmp_block_resize_args *a, struct json_object **ret, struct err *e)
{
    struct edge *ed;
    struct node *n = device_arg_node(c, a->device, a->node_name, e);
    if (!n) {
        return -ENOENT;
    }
    if (a->size < 0) {
        return err_set(e, EINVAL, "Parameter 'size' expects a >0 size");
    }
    if (n->read_only) {
        return err_set(e, EACCES, "Image is read-only");
    }
    int rc = edge_open(n, &(struct edge_spec){"resize", PERM_RESIZE, PERM_ALL}, &ed, e);
    if (rc) {
        return rc;
    }
    rc = edge_truncate(ed, (uint64_t)a->size, false, PREALLOC_OFF, e);
    edge_close(ed);
    return rc;
}
