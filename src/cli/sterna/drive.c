/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/drive.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "block/options.h"
#include "block/overlay.h"
#include "block/throttle.h"

#include <string.h>

enum { MAX_INDEX = 63 };
/* The keys of file=NAME and cache=MODE once they are parsed: no option can be called so. */
#define FILE_NAME  "file="
#define CACHE_MODE "cache="
enum drive_if { IF_VIRTIO, IF_NONE, IF_PFLASH };
static const char *const if_names[] = {"virtio", "none", "pflash", NULL};
static const char *const other_if_names[] = {"ide", "scsi", "floppy", "mtd", "sd", "xen", NULL};
static const char *const media_names[] = {"disk", "cdrom", NULL};
static const char *const onoff_names[] = {"off", "on", NULL};
static const char *const backing_modes[] = {"cow", "cor", "stream", NULL}; /* the first two: copy-on-read=off and =on */

/* A cache mode is three switches. */
struct cache_mode {
    const char *name;
    bool direct, no_flush, write_cache;
};
static const struct cache_mode cache_modes[] = {
    {"none", true, false, true},           {"off", true, false, true},
    {"writeback", false, false, true},     {"unsafe", false, true, true},
    {"writethrough", false, false, false}, {"directsync", true, false, false},
    {NULL, false, false, false},
};

/* The option's parts, taken out of the rest, which goes to the block driver. */
struct drive {
    const char *file, *format, *id, *serial, *rerror, *werror, *aio;
    enum drive_if interface;
    int media;
    unsigned index;
    bool snapshot, read_only, write_cache;
    enum { COR_OFF, COR_ON, STREAM, COR_HINT } backing; /* what becomes of the layers below; HINT: as the image asks */
    const struct cache_mode *cache;
};

/* What -drive called its limits before they were throttling.*. */
static const struct {
    const char *old, *now;
} limit_names[] = {
    {"bps", "bps-total"},
    {"bps_rd", "bps-read"},
    {"bps_wr", "bps-write"},
    {"bps_max", "bps-total-max"},
    {"bps_rd_max", "bps-read-max"},
    {"bps_wr_max", "bps-write-max"},
    {"iops", "iops-total"},
    {"iops_rd", "iops-read"},
    {"iops_wr", "iops-write"},
    {"iops_max", "iops-total-max"},
    {"iops_rd_max", "iops-read-max"},
    {"iops_wr_max", "iops-write-max"},
    {"iops_size", "iops-size"},
    {"group", "group"},
    {NULL, NULL},
};

static int parse_cache(const char *text, const struct cache_mode **out, struct err *e)
{
    for (const struct cache_mode *m = cache_modes; m->name; m++) {
        if (!strcmp(m->name, text)) {
            *out = m;
            return 0;
        }
    }
    return err_set(e, EINVAL, "invalid cache option");
}

static int parse_aio(const char *text, struct err *e)
{
    static const char *const kinds[] = {"threads", "native", "io_uring", NULL};
    return !text || g_strv_contains(kinds, text)
               ? 0
               : err_set(e, EINVAL, "invalid aio option '%s': try threads, native or io_uring", text);
}

static int parse_if(const char *text, enum drive_if *out, struct err *e)
{
    for (unsigned i = 0; if_names[i]; i++) {
        if (!strcmp(text, if_names[i])) {
            *out = i;
            return 0;
        }
    }
    if (g_strv_contains(other_if_names, text)) {
        return err_set(e, ENOTSUP, "machine type does not support if=%s: try if=virtio or if=none", text);
    }
    return err_set(e, EINVAL, "unsupported bus type '%s'", text);
}

/* Of index=, unit= and bus=, of which this board's one bus needs only the first; without, the lowest that is free. */
static int parse_index(struct jread *r, uint64_t *used, unsigned *out)
{
    int64_t index = jread_int_or(r, "index", -1), unit = jread_int_or(r, "unit", -1), bus = jread_int_or(r, "bus", 0);
    if (r->rc < 0) {
        return r->rc;
    }
    if (index >= 0 && unit >= 0) {
        return err_set(r->e, EINVAL, "index cannot be used with bus and unit");
    }
    index = unit >= 0 ? unit : index;
    if (index < 0) {
        index = ~*used ? __builtin_ctzll(~*used) : MAX_INDEX + 1;
    }
    if (index > MAX_INDEX || bus != 0) {
        return err_set(r->e, EINVAL, "unit %" PRId64 " too big (max is %d on bus 0)", index, MAX_INDEX);
    }
    if (*used >> index & 1) {
        return err_set(r->e, EEXIST, "drive with bus=0, unit=%" PRId64 " (index=%" PRId64 ") exists", index, index);
    }
    *used |= 1ull << index;
    *out = (unsigned)index;
    return 0;
}

/* cache.writeback is the device's; what else cache.* says is the node's, and holds against the mode. */
static int parse_write_cache(struct json_object *o, struct drive *d, struct err *e)
{
    struct json_object *cache = json_object_object_get(o, "cache");
    d->write_cache = d->cache->write_cache;
    if (!json_object_is_type(cache, json_type_object)) {
        return 0;
    }
    struct jread r = jread_init(cache, NULL, e);
    d->write_cache = jread_bool_or(&r, "writeback", d->write_cache);
    int rc = jread_end_lax(&r);
    json_object_object_del(cache, "writeback");
    return rc;
}

/* Reads the drive's own keys and removes them from `o`. Strings point into `keep`, which owns them. */
static int parse_keys(struct json_object *o, struct json_object *keep, struct drive_counters *c, struct drive *d,
                      struct err *e)
{
    static const char *const keys[] = {FILE_NAME,      "if",       "format",   "id",     "media",        "index",
                                       "snapshot",     "readonly", CACHE_MODE, "serial", "rerror",       "werror",
                                       "copy-on-read", "aio",      "bus",      "unit",   "backing_mode", NULL};
    for (const char *const *k = keys; *k; k++) {
        struct json_object *v = json_object_object_get(o, *k);
        if (v && json_object_is_type(v, json_type_string)) {
            json_object_object_add(keep, *k, json_object_get(v));
            json_object_object_del(o, *k);
        }
    }
    struct jread r = jread_init(keep, NULL, e);
    *d = (struct drive){
        .file = jread_str_or(&r, FILE_NAME, NULL),
        .format = jread_str_or(&r, "format", NULL),
        .id = jread_str_or(&r, "id", NULL),
        .serial = jread_str_or(&r, "serial", NULL),
        .rerror = jread_str_or(&r, "rerror", NULL),
        .werror = jread_str_or(&r, "werror", NULL),
        .aio = jread_str_or(&r, "aio", NULL),
        .media = jread_enum_or(&r, "media", media_names, 0),
        .snapshot = jread_bool_or(&r, "snapshot", false),
        .read_only = jread_bool_or(&r, "readonly", false),
        .backing = jread_enum_or(&r, "copy-on-read", onoff_names, COR_HINT),
        .cache = &cache_modes[2],
    };
    bool said = d->backing != COR_HINT;
    d->backing = jread_enum_or(&r, "backing_mode", backing_modes, d->backing);
    if (said && json_object_object_get(keep, "backing_mode")) {
        return err_set(e, EINVAL, "backing_mode and copy-on-read say the same: only one of them can be given");
    }
    const char *cache = jread_str_or(&r, CACHE_MODE, NULL), *interface = jread_str_or(&r, "if", "virtio");
    int rc = r.rc < 0 ? r.rc : parse_if(interface, &d->interface, e);
    rc = rc < 0 ? rc : parse_aio(d->aio, e);
    rc = rc < 0 ? rc : parse_index(&r, &c->used[d->interface], &d->index);
    int end = jread_end_lax(&r);
    rc = rc < 0 ? rc : end;
    rc = rc < 0 || !cache ? rc : parse_cache(cache, &d->cache, e);
    return rc < 0 ? rc : parse_write_cache(o, d, e);
}

/* The block options: what was left over, and what the drive's own keys say about the node. */
static void node_options(struct json_object *o, const struct drive *d)
{
    CLEANUP_JSON struct json_object *under = json_object_new_object();
    struct json_object *cache = json_object_new_object();
    json_object_object_add(under, "cache", cache);
    json_object_object_add(cache, "direct", json_object_new_boolean(d->cache->direct));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(d->cache->no_flush));
    options_lay_under(o, under);
    if (d->format) {
        json_object_object_add(o, "driver", json_object_new_string(d->format));
    }
    if (d->read_only || d->media == 1) {
        json_object_object_add(o, "read-only", json_object_new_boolean(true));
    }
    if (d->aio) {
        options_put_aio(o, d->file, d->aio);
    }
}

/* What the user says holds, whatever the image asks for. */
static bool wants_copy_on_read(struct node *n, const struct drive *d)
{
    if (d->backing == COR_ON && n->read_only) {
        log_warn(graph_log(n->graph), "disabling copy-on-read on read-only drive");
    }
    struct driver_info info = {0};
    bool asked = d->backing == COR_HINT && node_backing(n) && node_get_info(n, &info) == 0 && info.copy_on_read;
    return !n->read_only && (asked || d->backing == COR_ON);
}

static int open_medium(struct vm *vm, struct json_object *o, const struct drive *d, bool overlay, struct node **out,
                       struct err *e)
{
    struct node *n = NULL;
    int rc = node_open_filename(vm->graph, d->file, o, &n, e);
    if (rc < 0) {
        return rc;
    }
    if (overlay) {
        struct node *top = NULL;
        rc = node_open_temp_overlay(n, NULL, &top, e);
        node_unref(n);
        n = top;
    }
    if (rc == 0 && wants_copy_on_read(n, d)) {
        CLEANUP_JSON struct json_object *f = json_object_new_object();
        json_object_object_add(f, "driver", json_object_new_string("copy-on-read"));
        json_object_object_add(f, "file", json_object_new_string(n->name));
        struct node *top = NULL;
        rc = node_open(vm->graph, f, &top, e);
        node_unref(n);
        n = top;
    }
    *out = n;
    return rc;
}

/* Takes throttling.* and their old names out of `o`; NULL: there are none. */
static struct json_object *take_limits(struct json_object *o)
{
    struct json_object *limits = json_object_get(json_object_object_get(o, "throttling"));
    json_object_object_del(o, "throttling");
    for (unsigned i = 0; limit_names[i].old; i++) {
        struct json_object *v = json_object_object_get(o, limit_names[i].old);
        if (v) {
            limits = limits ? limits : json_object_new_object();
            json_object_object_add(limits, limit_names[i].now, json_object_get(v));
            json_object_object_del(o, limit_names[i].old);
        }
    }
    return limits;
}

/* The group of these limits: the one that throttling.group= names or a new one of the drive's own name. */
static int limits_group(struct mon_env *env, struct json_object *limits, const char *group, struct err *e)
{
    struct throttle_config config;
    struct throttle_group *have = graph_object(env->graph, "throttle-group", group);
    if (have && json_object_object_length(limits) == 0) {
        return 0;
    }
    int rc = throttle_config_parse(limits, &config, e);
    if (rc == 0 && have) {
        throttle_group_set(have, &config);
        return 0;
    }
    if (rc < 0) {
        return rc;
    }
    struct mon_ctx ctx = {.env = env};
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *ret = NULL;
    json_object_object_add(o, "qom-type", json_object_new_string("throttle-group"));
    json_object_object_add(o, "id", json_object_new_string(group));
    json_object_object_add(o, "limits", json_object_get(limits));
    return qmp_call(&ctx, "object-add", o, &ret, e);
}

static int throttle(struct mon_env *env, struct json_object *limits, const char *id, struct backend *b, struct err *e)
{
    if (!json_object_is_type(limits, json_type_object)) {
        return err_set(e, EINVAL, "Invalid parameter 'throttling': the limits are throttling.bps-total and the like");
    }
    struct json_object *named = json_object_object_get(limits, "group");
    CLEANUP_FREE char *group = g_strdup(named ? json_object_get_string(named) : id);
    json_object_object_del(limits, "group");
    int rc = limits_group(env, limits, group, e);
    if (rc == 0) {
        backend_limit_by(b, graph_object(env->graph, "throttle-group", group));
    }
    return rc;
}

static struct json_object *disk_options(const struct drive *d)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("virtio-blk-pci"));
    json_object_object_add(o, "drive", json_object_new_string(d->id));
    const struct {
        const char *key, *value;
    } more[] = {{"serial", d->serial}, {"rerror", d->rerror}, {"werror", d->werror}};
    for (size_t i = 0; i < G_N_ELEMENTS(more); i++) {
        if (more[i].value) {
            json_object_object_add(o, more[i].key, json_object_new_string(more[i].value));
        }
    }
    if (!d->write_cache) {
        json_object_object_add(o, "write-cache", json_object_new_string("off"));
    }
    return o;
}

static void backend_fill(struct backend *b, const struct drive *d)
{
    static const char *const policies[] = {"report", "ignore", "enospc", "stop", NULL};
    for (int i = 0; policies[i]; i++) {
        b->rerror = d->rerror && !strcmp(d->rerror, policies[i]) ? (enum io_error_action)i : b->rerror;
        b->werror = d->werror && !strcmp(d->werror, policies[i]) ? (enum io_error_action)i : b->werror;
    }
    b->write_cache = d->write_cache;
    b->read_only_medium = d->read_only || d->media == 1;
}

/* Takes what it says about counters from the options. */
static int take_stats(struct json_object *o, struct acct *a, struct err *e)
{
    struct jread r = jread_init(o, NULL, e);
    a->count_invalid = jread_bool_or(&r, "stats-account-invalid", true);
    a->count_failed = jread_bool_or(&r, "stats-account-failed", true);
    struct json_object *list = jread_any(&r, "stats-intervals");
    int rc = jread_end_lax(&r);
    if (!rc && list && !json_object_is_type(list, json_type_array)) {
        rc = err_set(e, EINVAL, "Invalid parameter type for 'stats-intervals', expected: array");
    }
    for (size_t i = 0; !rc && list && i < json_object_array_length(list); i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(list, i));
        guint64 seconds;
        if (g_ascii_string_to_unsigned(text, 10, 1, UINT32_MAX, &seconds, NULL)) {
            acct_add_interval(a, (unsigned)seconds);
        } else {
            rc = err_set(e, EINVAL, "Invalid interval length: '%s'", text);
        }
    }
    json_object_object_del(o, "stats-account-invalid");
    json_object_object_del(o, "stats-account-failed");
    json_object_object_del(o, "stats-intervals");
    return rc;
}

static int insert_medium(struct mon_env *env, struct json_object *o, struct json_object *limits, const struct drive *d,
                         struct backend *b, struct err *e)
{
    struct node *n = NULL;
    int rc = open_medium(env->vm, o, d, d->snapshot, &n, e);
    rc = rc < 0 || !limits ? rc : throttle(env, limits, d->id, b, e);
    rc = rc < 0 ? rc : backend_insert(b, n, false, true, e);
    if (rc == 0) {
        backend_share(b); /* until a device has it */
    }
    node_unref(n);
    return rc;
}

/* The image gets all that the layers below it hold, beginning now. */
static int stream(struct mon_env *env, struct backend *b, struct err *e)
{
    struct node *n = b->root ? b->root->child : NULL;
    if (!n || !node_backing(node_skip_filters(n))) {
        return 0; /* there is nothing below */
    }
    struct mon_ctx ctx = {.env = env};
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *ret = NULL;
    json_object_object_add(o, "device", json_object_new_string(b->name));
    return qmp_call(&ctx, "block-stream", o, &ret, e);
}

static int add(struct mon_env *env, struct drive_counters *c, struct json_object *o, bool overlay,
               struct json_object **device, struct err *e)
{
    CLEANUP_JSON struct json_object *keep = json_object_new_object(), *limits = take_limits(o);
    struct drive d;
    int rc = parse_keys(o, keep, c, &d, e);
    if (rc < 0) {
        return rc;
    }
    d.snapshot |= overlay;
    bool empty = !d.file && !json_object_object_get(o, "driver") && !json_object_object_get(o, "file");
    if (empty && (limits || json_object_object_length(o) || d.interface != IF_NONE)) {
        return err_set(e, EINVAL,
                       d.interface != IF_NONE ? "Device needs media, but drive is empty"
                                              : "Must specify either driver or file");
    }
    CLEANUP_FREE char *made = d.id ? NULL : g_strdup_printf("%s%u", if_names[d.interface], d.index);
    if (d.id && backend_find(env->graph, d.id)) {
        return err_set(e, EEXIST, "Duplicate ID '%s' for drive", d.id);
    }
    d.id = d.id ? d.id : made;
    struct backend *b = NULL;
    rc = backend_create(env->graph, d.id, &b, e);
    if (rc < 0) {
        return rc;
    }
    node_options(o, &d);
    backend_fill(b, &d);
    rc = take_stats(o, &b->stats, e);
    rc = rc < 0 || empty ? rc : insert_medium(env, o, limits, &d, b, e);
    rc = rc < 0 || d.backing != STREAM ? rc : stream(env, b, e);
    rc = rc < 0 || d.interface != IF_PFLASH ? rc : vm_set_flash(env->vm, d.index, d.id, e);
    if (rc < 0) {
        backend_destroy(b);
        return rc;
    }
    *device = d.interface == IF_VIRTIO ? disk_options(&d) : NULL;
    return 0;
}

/* The last `key=value` of the text, put into `to` as "key=": a name that stands beside key.a=b. */
static int take_part(const char *part, struct json_object *to, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(part, NULL, e);
    if (!o) {
        return -EINVAL;
    }
    json_object_object_foreach(o, key, v)
    {
        CLEANUP_FREE char *name = g_strconcat(key, "=", NULL);
        json_object_object_add(to, name, json_object_get(v));
    }
    return 0;
}

/* As keyval_parse(), but "file=NAME" and "file.locking=off", "cache=MODE" and "cache.direct=on" may stand beside each
 * other. */
static struct json_object *parse_text(const char *text, struct err *e)
{
    g_autoptr(GString) rest = g_string_new(NULL);
    CLEANUP_JSON struct json_object *names = json_object_new_object();
    while (*text) {
        size_t n = 0;
        while (text[n] && (text[n] != ',' || text[n + 1] == ',')) {
            n += text[n] == ',' ? 2 : 1;
        }
        CLEANUP_FREE char *part = g_strndup(text, n);
        if (!g_str_has_prefix(part, FILE_NAME) && !g_str_has_prefix(part, CACHE_MODE)) {
            g_string_append_printf(rest, "%s%s", rest->len ? "," : "", part);
        } else if (take_part(part, names, e)) {
            return NULL;
        }
        text += n + (text[n] == ',');
    }
    struct json_object *o = keyval_parse(rest->str, NULL, e);
    if (o) {
        options_lay_under(o, names);
    }
    return o;
}

int drive_add(struct mon_env *env, struct drive_counters *c, const char *text, bool overlay,
              struct json_object **device, struct err *e)
{
    *device = NULL;
    CLEANUP_JSON struct json_object *o = parse_text(text, e);
    return o ? add(env, c, o, overlay, device, e) : -EINVAL;
}
