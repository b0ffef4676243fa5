/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening nodes: options or a file name become a node, its children and its chain of backing images. A chain is
 * opened layer by layer in a loop, so that an image cannot make us recurse.
 */
#include "block/graph.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/foreign.h"
#include "block/internal.h"
#include "block/options.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_BYTES 2048

/* --- one layer -------------------------------------------------------------------------------------------------- */

static int check_limits(struct node *n, struct err *e)
{
    if (!n->limits.request_align) {
        n->limits.request_align = 1;
    }
    uint32_t a = n->limits.request_align;
    if ((a & (a - 1)) || a > 1u << 20) {
        return err_set(e, EINVAL, "Node '%s': alignment %u is not a power of two of at most 1 MiB", n->name, a);
    }
    if (n->size > INT64_MAX / 2) {
        return err_set(e, EFBIG, "Node '%s': image is too large", n->name);
    }
    return 0;
}

static void abandon(struct node *n)
{
    n->opened = false; /* the driver has cleaned up or was never asked */
    node_unref(n);
}

/* The node and the children that its driver opens, but no backing image. Takes nothing; copies opts. */
static int open_layer(struct block_graph *g, struct json_object *opts, struct node **out, struct err *e)
{
    const char *name = json_get_str(opts, "driver");
    if (!name) {
        return err_set(e, EINVAL, "Parameter 'driver' is missing");
    }
    const struct block_driver *drv = driver_lookup(name, e);
    int rc = drv ? options_check_known(drv, opts, e) : -EINVAL;
    if (rc < 0) {
        return rc;
    }
    struct node *n;
    rc = node_create(g, drv, json_get_str(opts, "node-name"), &n, e);
    if (rc < 0) {
        return rc;
    }
    n->options = json_clone(opts);
    n->inherited = options_take_inherited(n->options);
    rc = options_read_common(n, n->options, e);
    if (!rc) {
        rc = drv->open(n, n->options, e);
    }
    if (rc < 0) {
        if (!err_is_set(e)) {
            err_set_errno(e, -rc, "Could not open node '%s' (%s)", n->name, drv->name);
        }
        abandon(n);
        return rc;
    }
    n->opened = true;
    log_trace(n->graph->log, block_open, "node %s driver %s file %s size %" PRIu64, n->name, n->drv->name, n->filename,
              n->size);
    if (drv->debug_event) {
        g->debug_nodes++;
    }
    node_take_name(n);
    rc = check_limits(n, e);
    if (rc < 0) {
        node_unref(n);
        return rc;
    }
    *out = n;
    return 0;
}

/* --- probing ---------------------------------------------------------------------------------------------------- */

static int read_head(struct node *n, uint8_t *buf, size_t *len, struct err *e)
{
    *len = MIN(n->size, PROBE_BYTES);
    struct edge *ed;
    int rc = edge_open(n, &(struct edge_spec){"probe", PERM_READ, PERM_ALL}, &ed, e);
    if (rc < 0) {
        return rc;
    }
    rc = edge_read_buf(ed, 0, *len, buf);
    edge_close(ed);
    return rc < 0 ? err_set_errno(e, -rc, "Could not read image '%s' for determining its format", n->filename) : 0;
}

static int probe_format(struct node *n, const struct block_driver **out, struct err *e)
{
    CLEANUP_FREE uint8_t *buf = g_malloc0(PROBE_BYTES);
    size_t len;
    int rc = read_head(n, buf, &len, e);
    if (rc < 0) {
        return rc;
    }
    int best = PROBE_NO;
    for (int i = 0; block_drivers[i]; i++) {
        const struct block_driver *drv = block_drivers[i];
        if (!drv->probe) {
            continue;
        }
        int score = drv->probe(buf, len, n->filename, e);
        if (score < 0) {
            return err_wrap(e, "Image '%s' is a broken %s image", n->filename, drv->name);
        }
        if (score > best) {
            best = score;
            *out = drv;
        }
    }
    if (best == PROBE_NO) {
        return err_set(e, EINVAL, "Could not determine image format of '%s': no compatible driver found", n->filename);
    }
    const char *foreign = best == PROBE_WEAK ? foreign_format(buf, len) : NULL;
    if (foreign) {
        return err_set(e, ENOTSUP,
                       "Image '%s' is in the format '%s', which is not supported (to use its bytes as they are, "
                       "specify the format 'raw')",
                       n->filename, foreign);
    }
    return 0;
}

/* --- file names ------------------------------------------------------------------------------------------------- */

/* "json:{…}" below, opts on top of it, but for what opts has only inherited. */
static struct json_object *merge_json_name(const char *text, struct json_object *opts, struct err *e)
{
    enum json_tokener_error jerr;
    CLEANUP_JSON struct json_object *parsed = json_tokener_parse_verbose(text, &jerr);
    if (jerr == json_tokener_success && !json_object_is_type(parsed, json_type_object)) {
        err_set(e, EINVAL, "Invalid JSON object given");
        return NULL;
    }
    if (!*text || jerr != json_tokener_success) {
        err_set(e, EINVAL, "Could not parse the JSON options: %s",
                *text ? json_tokener_error_desc(jerr) : "Expecting a JSON value");
        return NULL;
    }
    struct json_object *o = options_expand(parsed, e);
    CLEANUP_JSON struct json_object *said = json_clone(opts);
    unsigned inherited = said ? options_take_inherited(said) : 0;
    if (o && said) {
        options_drop(said, inherited);
        json_object_object_foreach(said, key, v)
        {
            json_object_object_add(o, key, json_clone(v));
        }
        inherited &= options_left_out(o);
        options_lay_under(o, opts);
        json_object_object_add(o, "inherited", json_object_new_int((int)inherited));
    }
    return o;
}

/* An open node that options name; as QEMU says, it might be a device's, too. Not referenced. */
static struct node *named_child(struct block_graph *g, struct json_object *name, struct err *e)
{
    const char *text = json_object_get_string(name);
    struct node *n = node_find(g, text);
    if (!n) {
        err_set(e, ENOENT, "Cannot find device='%s' nor node-name='%s'", text, text);
    }
    return n;
}

/* The protocol node below a format, from a name and what opts.file says about it. */
static int open_protocol(struct block_graph *g, const char *filename, struct json_object *opts, struct node **out,
                         struct err *e)
{
    struct json_object *file = NULL;
    json_has(opts, "file", &file);
    if (json_object_is_type(file, json_type_string)) {
        struct node *n = named_child(g, file, e);
        *out = n ? node_ref(n) : NULL;
        return n ? 0 : -ENOENT;
    }
    CLEANUP_JSON struct json_object *o = json_object_is_type(file, json_type_object) ? json_clone(file) : NULL;
    if (!o) {
        o = json_object_new_object();
    }
    const char *name = filename ? filename : json_get_str(o, "filename");
    if (filename || !json_has(o, "driver", NULL)) {
        if (!name) {
            return err_set(e, EINVAL, "A block device must be specified for \"file\"");
        }
        int rc = options_from_filename(o, name, e);
        if (rc < 0) {
            return rc;
        }
    }
    options_inherit(o, opts, false);
    return node_open_chain(g, o, out, e);
}

static void warn_of_raw(struct node *proto, const struct block_driver *drv, struct json_object *opts)
{
    struct json_object *ro = NULL;
    if (strcmp(drv->name, "raw") || (json_has(opts, "read-only", &ro) && json_object_get_boolean(ro))) {
        return;
    }
    log_bare(
        proto->graph->log,
        "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
        "         Automatically detecting the format is dangerous for raw images, write operations on block 0 will "
        "be restricted.\n"
        "         Specify the 'raw' format explicitly to remove the restrictions.",
        proto->filename);
}

static int open_probed(struct block_graph *g, const char *filename, struct json_object *opts, struct node **out,
                       struct err *e)
{
    struct node *proto = NULL, *n = NULL;
    bool named = json_get_str(opts, "file") != NULL;
    int rc = open_protocol(g, filename, opts, &proto, e);
    if (rc < 0) {
        return rc;
    }
    const struct block_driver *drv = NULL;
    bool given = json_has(opts, "driver", NULL);
    rc = given ? 0 : probe_format(proto, &drv, e);
    if (!rc) {
        if (!given) {
            json_object_object_add(opts, "driver", json_object_new_string(drv->name));
            warn_of_raw(proto, drv, opts);
        }
        json_object_object_add(opts, "file", json_object_new_string(proto->name));
        rc = open_layer(g, opts, &n, e);
    }
    bool opened = !named && !rc && n->file && n->file->child == proto;
    node_unref(proto);
    if (rc < 0) {
        return rc;
    }
    n->probed = !given;
    if (opened) {
        edge_set_opened(n->file);
    }
    *out = n;
    return 0;
}

/* "blkdebug:…" when that driver is asked for: what the name says lies under what else is said. */
static int open_scheme_layer(struct block_graph *g, const struct block_driver *drv, const char *filename,
                             struct json_object *opts, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *said = json_object_new_object();
    json_object_object_add(said, "driver", json_object_new_string(drv->name));
    int rc = options_from_filename(said, filename, e);
    options_lay_under(opts, said);
    return rc < 0 ? rc : open_layer(g, opts, out, e);
}

/* One layer from a name; opts is ours to change. */
static int open_named_layer(struct block_graph *g, const char *filename, struct json_object *opts, struct node **out,
                            struct err *e)
{
    if (filename && g_str_has_prefix(filename, "json:")) {
        CLEANUP_JSON struct json_object *o = merge_json_name(filename + 5, opts, e);
        return o ? open_named_layer(g, NULL, o, out, e) : -EINVAL;
    }
    const char *name = json_get_str(opts, "driver");
    const struct block_driver *drv = name ? driver_lookup(name, e) : NULL;
    if (name && !drv) {
        return -EINVAL;
    }
    if (drv && filename && !drv->is_protocol && drv->parse_filename) {
        return open_scheme_layer(g, drv, filename, opts, out, e);
    }
    if (drv && (drv->is_protocol || !filename)) {
        int rc = filename ? options_from_filename(opts, filename, e) : 0;
        return rc < 0 ? rc : open_layer(g, opts, out, e);
    }
    if (!drv && !filename && json_has(opts, "filename", NULL)) {
        CLEANUP_FREE char *from_opts = g_strdup(json_get_str(opts, "filename"));
        json_object_object_del(opts, "filename");
        if (from_opts) {
            return open_named_layer(g, from_opts, opts, out, e);
        }
    }
    if (!drv && !filename && !json_has(opts, "file", NULL)) {
        return err_set(e, EINVAL, "Must specify either driver or file");
    }
    const struct block_driver *by_name = NULL;
    if (!drv && filename && path_has_protocol(filename)) { /* "blkdebug:…": a filter that is opened like a protocol */
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        int rc = options_from_filename(o, filename, e);
        if (rc < 0) {
            return rc;
        }
        by_name = driver_find(json_get_str(o, "driver"));
    }
    if (by_name && !by_name->is_protocol) {
        CLEANUP_JSON struct json_object *named = json_object_new_object(); /* lies under what else is said of it */
        CLEANUP_JSON struct json_object *file = json_object_new_object();
        int rc = options_from_filename(file, filename, e);
        if (rc < 0) {
            return rc;
        }
        json_object_object_add(named, "file", take(file));
        options_lay_under(opts, named);
        return open_probed(g, NULL, opts, out, e);
    }
    return open_probed(g, filename, opts, out, e);
}

/* --- backing chains --------------------------------------------------------------------------------------------- */

/* "" when it is not a local file. */
static char *canonical_name(const char *filename)
{
    if (path_has_protocol(filename) && strncmp(filename, "file:", 5)) {
        return g_strdup(filename);
    }
    char *real = realpath(filename, NULL);
    char *s = g_strdup(real ? real : filename);
    free(real);
    return s;
}

static int resolve_backing_name(struct node *n, char **out, struct err *e)
{
    const char *name = n->backing_filename;
    *out = node_path_combine(n, name);
    return *out ? 0 : err_set(e, EINVAL, "Cannot use relative backing file names for '%s'", n->filename);
}

/* The options of n's backing layer; NULL in *name when they say everything. `given`: opts.backing or NULL. */
static int backing_options(struct node *n, struct json_object *given, struct json_object **opts, char **name,
                           struct err *e)
{
    struct json_object *o = given ? json_clone(given) : json_object_new_object();
    *opts = o;
    options_inherit(o, n->options, true);
    bool complete = json_has(o, "file", NULL) || json_has(o, "filename", NULL);
    const char *driver = json_get_str(o, "driver");
    const struct block_driver *drv = driver ? driver_find(driver) : NULL;
    if (complete || (drv && drv->is_protocol) || !n->backing_filename) {
        return 0;
    }
    if (!driver && n->backing_format) {
        json_object_object_add(o, "driver", json_object_new_string(n->backing_format));
    }
    return resolve_backing_name(n, name, e);
}

static int open_backing(struct node *n, struct json_object *given, GHashTable *seen, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *opts = NULL;
    CLEANUP_FREE char *name = NULL;
    int rc = backing_options(n, given, &opts, &name, e);
    if (rc < 0) {
        return rc;
    }
    if (name) {
        char *real = canonical_name(name);
        if (!g_hash_table_add(seen, real)) {
            return err_set(e, ELOOP, "Backing file '%s' creates an infinite loop", name);
        }
    }
    rc = open_named_layer(n->graph, name, opts, out, e);
    return rc < 0 ? err_wrap(e, "Could not open backing file") : 0;
}

const struct edge_spec backing_edge_spec = {"backing", PERM_READ, PERM_READ | PERM_WRITE_SAME};

/* Attaches n's backing: *next is the new layer, NULL at the end of what is to be opened. */
static int extend_chain(struct node *n, GHashTable *seen, struct node **next, struct err *e)
{
    struct json_object *given = NULL;
    *next = NULL;
    if (!n->drv->takes_backing || n->backing) {
        return 0;
    }
    bool have = json_has(n->options, "backing", &given);
    if (have && json_object_is_type(given, json_type_string) && !*json_object_get_string(given)) {
        log_warn(n->graph->log, "Use of \"backing\": \"\" is deprecated; use \"backing\": null instead");
        return 0;
    }
    if (have && !given) {
        return 0;
    }
    if (!have && !n->backing_filename) {
        return 0;
    }
    struct node *b;
    struct edge *ed;
    bool opened = !json_object_is_type(given, json_type_string);
    if (opened) {
        int rc = open_backing(n, given, seen, &b, e);
        if (rc < 0) {
            return rc;
        }
    } else {
        b = named_child(n->graph, given, e);
        if (!b) {
            return err_wrap(e, "Could not open backing file");
        }
        node_ref(b);
    }
    int rc = node_attach_child(n, b, &backing_edge_spec, &ed, e);
    node_unref(b);
    if (!rc && opened) {
        edge_set_opened(ed);
        *next = b;
    }
    return rc;
}

/* Below `top`, the images that are there because headers name them; those at the bottom first. */
static void name_chain(struct node *top)
{
    GPtrArray *layers = g_ptr_array_new();
    for (struct node *n = top; n->backing && n->backing->opened; n = n->backing->child) {
        g_ptr_array_add(layers, n);
    }
    for (guint i = layers->len; i-- > 0;) {
        struct node *n = g_ptr_array_index(layers, i);
        if (!json_has(n->options, "backing", NULL)) {
            node_backing_is_named(n);
        }
    }
    g_ptr_array_free(layers, true);
}

static int open_chain_below(struct node *top, struct err *e)
{
    GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_hash_table_add(seen, canonical_name(top->filename));
    struct node *n = top;
    int rc = 0;
    for (int depth = 0; n && !rc; depth++) {
        if (depth > BACKING_MAX_DEPTH) {
            rc = err_set(e, ELOOP, "Backing chain of '%s' is deeper than %d images", top->filename, BACKING_MAX_DEPTH);
            break;
        }
        rc = extend_chain(n, seen, &n, e);
    }
    if (!rc) {
        name_chain(top);
    }
    g_hash_table_destroy(seen);
    return rc;
}

static int finish_chain(struct node *n, struct node **out, struct err *e)
{
    int rc = open_chain_below(n, e);
    if (rc < 0) {
        node_unref(n);
        return rc;
    }
    *out = n;
    return 0;
}

/* --- entry points ----------------------------------------------------------------------------------------------- */

int node_open_chain(struct block_graph *g, struct json_object *opts, struct node **out, struct err *e)
{
    struct node *n = NULL;
    int rc = open_layer(g, opts, &n, e);
    return rc < 0 ? rc : finish_chain(n, out, e);
}

int node_open(struct block_graph *g, struct json_object *opts, struct node **out, struct err *e)
{
    *out = NULL;
    CLEANUP_ERR struct err local = ERR_INIT;
    struct err *le = e ? e : &local;
    CLEANUP_JSON struct json_object *o = options_expand(opts, le);
    return o ? node_open_chain(g, o, out, le) : -EINVAL;
}

int node_open_filename(struct block_graph *g, const char *filename, struct json_object *opts, struct node **out,
                       struct err *e)
{
    *out = NULL;
    CLEANUP_ERR struct err local = ERR_INIT;
    struct err *le = e ? e : &local;
    CLEANUP_JSON struct json_object *o = options_expand(opts, le);
    struct node *n;
    int rc = o ? open_named_layer(g, filename, o, &n, le) : -EINVAL;
    return rc < 0 ? rc : finish_chain(n, out, le);
}

/* --- children --------------------------------------------------------------------------------------------------- */

struct child_call {
    struct node *n;
    struct json_object *opts;
    bool image;
    struct node *out;
    struct err *e;
};

static int open_child_node(void *arg)
{
    struct child_call *c = arg;
    const char *name = json_get_str(c->opts, "filename"), *driver = json_get_str(c->opts, "driver");
    const struct block_driver *drv = driver ? driver_find(driver) : NULL;
    CLEANUP_FREE char *copy = g_strdup(name);
    if (c->image && !driver) {
        int rc = open_named_layer(c->n->graph, NULL, c->opts, &c->out, c->e);
        return rc < 0 ? rc : finish_chain(c->out, &c->out, c->e);
    }
    if (name && drv && !drv->is_protocol && !json_has(c->opts, "file", NULL)) { /* of a format: it is its file's */
        json_object_object_del(c->opts, "filename");
        int rc = open_named_layer(c->n->graph, copy, c->opts, &c->out, c->e);
        return rc < 0 ? rc : finish_chain(c->out, &c->out, c->e);
    }
    if (!driver && name && !g_str_has_prefix(name, "json:")) {
        json_object_object_del(c->opts, "filename");
        int rc = options_from_filename(c->opts, copy, c->e);
        if (rc < 0) {
            return rc;
        }
    }
    return node_open_chain(c->n->graph, c->opts, &c->out, c->e);
}

/* What is said of a child; a file name "json:{…}" says it, too. */
static struct json_object *child_options(struct json_object *said, bool image, struct err *e)
{
    CLEANUP_JSON struct json_object *o = options_expand(said, e);
    const char *name = o && !image && !json_has(o, "driver", NULL) ? json_get_str(o, "filename") : NULL;
    if (!name || !g_str_has_prefix(name, "json:")) {
        return take(o);
    }
    CLEANUP_FREE char *text = g_strdup(name + strlen("json:"));
    json_object_object_del(o, "filename");
    return merge_json_name(text, o, e);
}

int node_open_child(struct node *n, struct json_object *opts, const struct edge_spec *spec, struct edge **out,
                    struct err *e)
{
    const char *name = spec->name;
    struct json_object *o_child = NULL;
    *out = NULL;
    if (!json_has(opts, name, &o_child) || !o_child) {
        return err_set(e, EINVAL, "A block device must be specified for \"%s\"", name);
    }
    struct node *child;
    if (json_object_is_type(o_child, json_type_string)) {
        child = named_child(n->graph, o_child, e);
        if (!child) {
            return -ENOENT;
        }
        node_ref(child);
    } else if (json_object_is_type(o_child, json_type_object)) {
        CLEANUP_JSON struct json_object *o = child_options(o_child, spec->image, e);
        if (!o) {
            return -EINVAL;
        }
        options_inherit(o, n->options, false);
        struct child_call c = {.n = n, .opts = o, .image = spec->image, .e = e};
        /* Nested options may go deep: each level gets a stack of its own. */
        int rc = block_on_new_stack(n->graph->loop, open_child_node, &c);
        if (rc < 0) {
            return rc;
        }
        child = c.out;
    } else {
        return err_set(e, EINVAL, "Invalid parameter type for '%s', expected: string or object", name);
    }
    if (n->auto_read_only && child->read_only) {
        n->read_only = true;
    }
    int rc = node_attach_child(n, child, spec, out, e);
    if (!rc && !json_object_is_type(o_child, json_type_string)) {
        edge_set_opened(*out);
    }
    node_unref(child);
    return rc;
}
