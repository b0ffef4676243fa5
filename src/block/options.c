/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/options.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/nearest.h"
#include "block/internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

bool json_has(struct json_object *o, const char *key, struct json_object **val)
{
    struct json_object *tmp;
    return o && json_object_object_get_ex(o, key, val ? val : &tmp);
}

const char *json_get_str(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_has(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

/* --- nesting ---------------------------------------------------------------------------------------------------- */

static struct json_object *as_array(struct json_object *o)
{
    int n = json_object_object_length(o);
    for (int i = 0; i < n; i++) {
        char key[16];
        snprintf(key, sizeof(key), "%d", i);
        if (!json_has(o, key, NULL)) {
            return NULL;
        }
    }
    struct json_object *a = json_object_new_array();
    for (int i = 0; i < n; i++) {
        char key[16];
        struct json_object *v;
        snprintf(key, sizeof(key), "%d", i);
        json_has(o, key, &v);
        json_object_array_add(a, json_object_get(v));
    }
    return a;
}

static void make_arrays(struct json_object *o)
{
    json_object_object_foreach(o, key, v)
    {
        if (!json_object_is_type(v, json_type_object)) {
            continue;
        }
        make_arrays(v);
        struct json_object *a = json_object_object_length(v) ? as_array(v) : NULL;
        if (a) {
            json_object_object_add(o, key, a); /* replaces the value of a key that exists: legal while iterating */
        }
    }
}

static int put_nested(struct json_object *to, const char *key, struct json_object *v, struct err *e)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", 32);
    int i;
    for (i = 0; parts[i] && parts[i + 1]; i++) {
        struct json_object *sub;
        if (!json_has(to, parts[i], &sub)) {
            sub = json_object_new_object();
            json_object_object_add(to, parts[i], sub);
        }
        if (!json_object_is_type(sub, json_type_object)) {
            return err_set(e, EINVAL, "Cannot mix '%s' with a value for '%s'", key, parts[i]);
        }
        to = sub;
    }
    json_object_object_add(to, parts[i], json_object_get(v));
    return 0;
}

struct json_object *options_expand(struct json_object *o, struct err *e)
{
    CLEANUP_JSON struct json_object *copy = json_clone(o);
    CLEANUP_JSON struct json_object *out = json_object_new_object();
    if (!copy) {
        return take(out);
    }
    json_object_object_foreach(copy, key, v)
    {
        if (!strchr(key, '.')) {
            json_object_object_add(out, key, json_object_get(v));
        }
    }
    json_object_object_foreach(copy, key2, v2)
    {
        if (strchr(key2, '.') && put_nested(out, key2, v2, e) < 0) {
            return NULL;
        }
    }
    make_arrays(out);
    return take(out);
}

static int option_unknown(const struct block_driver *drv, const char *key, struct err *e)
{
    bool protocol = drv->is_protocol || drv->schemes;
    return protocol ? err_set(e, EINVAL, "Block protocol '%s' doesn't support the option '%s'", drv->name, key)
                    : err_set(e, EINVAL, "Block format '%s' does not support the option '%s'", drv->name, key);
}

/* --- what every node has ---------------------------------------------------------------------------------------- */

static int read_cache(struct node *n, struct json_object *o, struct err *e)
{
    if (!o) {
        n->direct = n->no_flush = false;
        return 0;
    }
    if (!json_object_is_type(o, json_type_object)) {
        return err_set(e, EINVAL, "Invalid parameter type for 'cache', expected: object");
    }
    CLEANUP_JSON struct json_object *flat = json_object_new_object(); /* messages name "cache.direct" */
    json_object_object_foreach(o, key, v)
    {
        CLEANUP_FREE char *name = g_strconcat("cache.", key, NULL);
        if (strcmp(key, "direct") && strcmp(key, "no-flush")) {
            return option_unknown(n->drv, name, e);
        }
        json_object_object_add(flat, name, json_object_get(v));
    }
    struct jread r = jread_init(flat, NULL, e);
    n->direct = jread_bool_or(&r, "cache.direct", false);
    n->no_flush = jread_bool_or(&r, "cache.no-flush", false);
    return jread_end(&r);
}

int options_read_common(struct node *n, struct json_object *o, struct err *e)
{
    static const char *const discard[] = {"ignore", "unmap", "off", "on", NULL};
    static const char *const detect[] = {"off", "on", "unmap", NULL};
    struct jread r = jread_init(o, NULL, e);
    n->read_only = jread_bool_or(&r, "read-only", false);
    n->auto_read_only = jread_bool_or(&r, "auto-read-only", false);
    n->force_share = jread_bool_or(&r, "force-share", false);
    n->inactive = !jread_bool_or(&r, "active", !graph_opens_inactive(n->graph));
    n->discard_unmap = jread_enum_or(&r, "discard", discard, n->drv->is_filter ? 1 : 0) & 1;
    n->detect_zeroes = jread_enum_or(&r, "detect-zeroes", detect, 0);
    struct json_object *cache = jread_any(&r, "cache");
    int rc = jread_end_lax(&r);
    if (!rc) {
        rc = read_cache(n, cache, e);
    }
    if (rc < 0) {
        return rc;
    }
    if (n->detect_zeroes == 2 && !n->discard_unmap) {
        return err_set(e, EINVAL,
                       "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    }
    if (n->force_share && !n->read_only) {
        return err_set(e, EINVAL, "force-share=on can only be used with read-only images");
    }
    return 0;
}

static bool in_names(const char *const *names, const char *s)
{
    for (; names && *names; names++) {
        if (!strcmp(*names, s)) {
            return true;
        }
    }
    return false;
}

int options_check_known(const struct block_driver *drv, struct json_object *o, struct err *e)
{
    static const char *const common[] = {"driver",    "node-name", "read-only",     "auto-read-only",
                                         "cache",     "discard",   "detect-zeroes", "force-share",
                                         "active",    "for-check", /* internal: opened by those who will check it */
                                         "inherited",              /* internal: options_inherit() */
                                         NULL};
    json_object_object_foreach(o, key, v)
    {
        bool known = in_names(common, key) || in_names(drv->option_names, key) ||
                     (!strcmp(key, "file") && !drv->is_protocol) ||
                     (!strcmp(key, "backing") && (drv->takes_backing || !v)); /* null: none wanted, none to be had */
        if (known) {
            continue;
        }
        return option_unknown(drv, key, e);
    }
    return 0;
}

static void set_default(struct json_object *o, const char *key, struct json_object *v)
{
    if (v && !json_has(o, key, NULL)) {
        json_object_object_add(o, key, v);
    } else {
        json_object_put(v);
    }
}

void options_lay_under(struct json_object *o, struct json_object *under)
{
    json_object_object_foreach(under, key, v)
    {
        struct json_object *mine;
        if (!json_has(o, key, &mine)) {
            json_object_object_add(o, key, json_clone(v));
        } else if (json_object_is_type(mine, json_type_object) && json_object_is_type(v, json_type_object)) {
            options_lay_under(mine, v);
        }
    }
}

/* The first two are in "cache". A set of them has a bit for each, in this order. */
static const char *const inheritable[] = {"direct",    "no-flush",       "force-share", "active",
                                          "read-only", "auto-read-only", "discard"};
enum { IN_CACHE = 2, FOR_ALL = 4, READ_ONLY = 4, DISCARD = 6 };
_Static_assert(OPTIONS_READ_ONLY == 1 << READ_ONLY, "");

/* The object that has, or is to have, the i-th; NULL: there is none. */
static struct json_object *place_of(struct json_object *o, size_t i)
{
    struct json_object *cache;
    return i >= IN_CACHE                                                                  ? o
           : json_has(o, "cache", &cache) && json_object_is_type(cache, json_type_object) ? cache
                                                                                          : NULL;
}

static struct json_object *inherited_value(struct json_object *parent, size_t i, bool is_backing)
{
    struct json_object *v = NULL;
    if (i >= FOR_ALL && is_backing) {
        return i == READ_ONLY ? json_object_new_boolean(true) : NULL;
    }
    if (i == DISCARD) {
        return json_object_new_string("unmap");
    }
    return json_has(place_of(parent, i), inheritable[i], &v) ? json_clone(v) : NULL;
}

unsigned options_left_out(struct json_object *o)
{
    unsigned which = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(inheritable); i++) {
        which |= json_has(place_of(o, i), inheritable[i], NULL) ? 0 : 1u << i;
    }
    return which;
}

static const char *as_text(struct json_object *v)
{
    if (json_object_is_type(v, json_type_boolean)) {
        return json_object_get_boolean(v) ? "on" : "off";
    }
    return v ? json_object_get_string(v) : "null";
}

bool options_same_value(struct json_object *a, struct json_object *b)
{
    return !strcmp(as_text(a), as_text(b));
}

static const char *inheritable_text(struct json_object *o, size_t i)
{
    struct json_object *v;
    return json_has(place_of(o, i), inheritable[i], &v) ? as_text(v) : i == DISCARD ? "ignore" : "off";
}

bool options_alike(struct json_object *a, struct json_object *b)
{
    bool alike = true;
    for (size_t i = 0; i < G_N_ELEMENTS(inheritable) && alike; i++) {
        alike = !strcmp(inheritable_text(a, i), inheritable_text(b, i));
    }
    return alike;
}

void options_drop(struct json_object *o, unsigned which)
{
    struct json_object *cache = place_of(o, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(inheritable); i++) {
        if (which & (1u << i) && place_of(o, i)) {
            json_object_object_del(place_of(o, i), inheritable[i]);
        }
    }
    if (cache && !json_object_object_length(cache)) {
        json_object_object_del(o, "cache");
    }
}

void options_drop_inherited(struct json_object *o, const struct edge *ed)
{
    const struct node *n = ed->parent;
    CLEANUP_JSON struct json_object *anew = json_object_new_object();
    if (!edge_leads_to_heir(ed) || !n->options) {
        return;
    }
    options_inherit(anew, n->options, ed == n->backing);
    for (size_t i = 0; i < G_N_ELEMENTS(inheritable); i++) {
        bool same = !strcmp(inheritable_text(o, i), inheritable_text(anew, i));
        options_drop(o, same ? ed->child->inherited & (1u << i) : 0);
    }
}

unsigned options_take_inherited(struct json_object *o)
{
    struct json_object *v;
    unsigned which = json_has(o, "inherited", &v) ? (unsigned)json_object_get_int(v) : 0;
    json_object_object_del(o, "inherited");
    return which;
}

void options_inherit(struct json_object *child, struct json_object *parent, bool is_backing)
{
    unsigned which = options_left_out(child);
    for (size_t i = 0; i < G_N_ELEMENTS(inheritable); i++) {
        struct json_object *v = which & (1u << i) ? inherited_value(parent, i, is_backing) : NULL;
        if (v && i < IN_CACHE && !json_has(child, "cache", NULL)) {
            json_object_object_add(child, "cache", json_object_new_object());
        }
        if (v && place_of(child, i)) {
            json_object_object_add(place_of(child, i), inheritable[i], v);
        } else {
            json_object_put(v);
        }
    }
    json_object_object_add(child, "inherited", json_object_new_int((int)which));
}

/* --- drivers and file names ------------------------------------------------------------------------------------- */

const struct block_driver *driver_lookup(const char *name, struct err *e)
{
    const struct block_driver *drv = driver_find(name);
    if (drv) {
        return drv;
    }
    guint count = 0;
    while (block_drivers[count]) {
        count++;
    }
    g_autofree const char **names = g_new0(const char *, count + 1);
    for (guint i = 0; i < count; i++) {
        names[i] = block_drivers[i]->name;
    }
    err_set(e, EINVAL, "Unknown driver '%s'", name);
    err_suggest(e, name, names);
    return NULL;
}

bool path_has_protocol(const char *filename)
{
    return filename[strcspn(filename, ":/")] == ':';
}

static const struct block_driver *driver_by_scheme(const char *filename)
{
    size_t len = strcspn(filename, ":");
    for (int i = 0; block_drivers[i]; i++) {
        for (const char *const *s = block_drivers[i]->schemes; s && *s; s++) {
            if (strlen(*s) == len && !strncmp(*s, filename, len)) {
                return block_drivers[i];
            }
        }
    }
    return NULL;
}

static const char *local_driver(const char *path)
{
    struct stat st;
    bool device = !stat(path, &st) && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode));
    return device ? "host_device" : "file";
}

/* The driver that "file:…" and "host_device:…" ask for. */
static const char *local_prefix(const char *filename)
{
    static const char *const names[] = {"file", "host_device"};
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_str_has_prefix(filename, names[i]) && filename[strlen(names[i])] == ':') {
            return names[i];
        }
    }
    return NULL;
}

static bool has_protocol(const char *name)
{
    return name && path_has_protocol(name) && !local_prefix(name);
}

/* Whether the node that these options make has a choice of how to do its I/O: a file or device. */
static bool takes_aio(struct json_object *file)
{
    const char *driver = json_get_str(file, "driver");
    const struct block_driver *drv = driver ? driver_find(driver) : NULL;
    return drv ? in_names(drv->option_names, "aio") : !has_protocol(json_get_str(file, "filename"));
}

void options_put_aio(struct json_object *o, const char *filename, const char *aio)
{
    struct json_object *file = o;
    const char *driver = json_get_str(o, "driver");
    const struct block_driver *drv = driver ? driver_find(driver) : NULL;
    if (has_protocol(filename)) {
        return;
    }
    if ((!drv || !drv->is_protocol) && !json_has(o, "file", &file)) {
        file = json_object_new_object();
        json_object_object_add(o, "file", file);
    }
    if (json_object_is_type(file, json_type_object) && takes_aio(file)) {
        set_default(file, "aio", json_object_new_string(aio));
    }
}

int options_from_filename(struct json_object *o, const char *filename, struct err *e)
{
    const char *name = json_get_str(o, "driver");
    const struct block_driver *drv = NULL;
    if (name && !(drv = driver_lookup(name, e))) {
        return -EINVAL;
    }
    const char *local = drv ? NULL : local_prefix(filename);
    if (!drv && path_has_protocol(filename) && !local) {
        drv = driver_by_scheme(filename);
        if (!drv) {
            return err_set(e, EINVAL, "Unknown protocol '%.*s'", (int)strcspn(filename, ":"), filename);
        }
    }
    if (drv && !drv->is_protocol && !drv->schemes) { /* of a format: it is its file's */
        struct json_object *file = json_object_new_object();
        json_object_object_add(file, "filename", json_object_new_string(filename));
        set_default(o, "file", file);
        return 0;
    }
    if (!drv || !drv->schemes) {
        filename += local ? strlen(local) + 1 : 0; /* what is left must not look like a protocol to whoever reads it */
        CLEANUP_FREE char *path = g_strconcat(local && path_has_protocol(filename) ? "./" : "", filename, NULL);
        set_default(o, "driver", json_object_new_string(local ? local : local_driver(path)));
        set_default(o, "filename", json_object_new_string(path));
        return 0;
    }
    set_default(o, "driver", json_object_new_string(drv->name));
    if (drv->parse_filename) {
        return drv->parse_filename(filename, o, e);
    }
    set_default(o, "filename", json_object_new_string(filename));
    return 0;
}

char *options_json_filename(struct json_object *o)
{
    CLEANUP_FREE char *text = json_text(o);
    return g_strconcat("json:", text, NULL);
}

char *path_combine(const char *base, const char *filename)
{
    if (*filename == '/' || path_has_protocol(filename) || path_has_protocol(base)) {
        return g_strdup(filename);
    }
    const char *slash = strrchr(base, '/');
    return slash ? g_strdup_printf("%.*s/%s", (int)(slash - base), base, filename) : g_strdup(filename);
}
