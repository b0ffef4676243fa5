/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/options.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/nearest.h"

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
    static const char *const common[] = {"driver", "node-name", "read-only",     "auto-read-only",
                                         "cache",  "discard",   "detect-zeroes", "force-share",
                                         "active", "for-check", /* internal: opened by those who will check it */
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

static void inherit_key(struct json_object *child, struct json_object *parent, const char *key)
{
    struct json_object *v;
    if (json_has(parent, key, &v)) {
        set_default(child, key, json_clone(v));
    }
}

void options_inherit(struct json_object *child, struct json_object *parent, bool is_backing)
{
    struct json_object *cc, *pc;
    if (json_has(parent, "cache", &pc) && json_object_is_type(pc, json_type_object)) {
        if (!json_has(child, "cache", &cc)) {
            cc = json_object_new_object();
            json_object_object_add(child, "cache", cc);
        }
        if (json_object_is_type(cc, json_type_object)) {
            inherit_key(cc, pc, "direct");
            inherit_key(cc, pc, "no-flush");
        }
    }
    inherit_key(child, parent, "force-share");
    inherit_key(child, parent, "active");
    if (is_backing) {
        set_default(child, "read-only", json_object_new_boolean(true));
        return;
    }
    inherit_key(child, parent, "read-only");
    inherit_key(child, parent, "auto-read-only");
    set_default(child, "discard", json_object_new_string("unmap"));
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
