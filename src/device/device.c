/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/device.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/id.h"
#include "base/nearest.h"
#include "device/scsi_disk.h"
#include "device/virtio_blk.h"
#include "device/virtio_net.h"
#include "device/virtio_rng.h"
#include "device/virtio_scsi.h"

#include <inttypes.h>
#include <string.h>

const struct device_class *const device_classes[] = {
    &virtio_blk_pci_class,
    &virtio_blk_mmio_class,
    &virtio_net_pci_class,
    &virtio_net_mmio_class,
    &virtio_rng_pci_class,
    &virtio_rng_mmio_class,
    &virtio_scsi_pci_class,
    &virtio_scsi_mmio_class,
    &scsi_hd_class,
    &scsi_cd_class,
    NULL,
};

const struct device_class *device_class_find(const char *name)
{
    for (unsigned i = 0; device_classes[i]; i++) {
        const struct device_class *c = device_classes[i];
        if (!strcmp(c->name, name) || (c->alias && !strcmp(c->alias, name))) {
            return c;
        }
    }
    return NULL;
}

const struct device_prop *device_class_prop(const struct device_class *c, unsigned i)
{
    for (const struct device_prop *const *t = c->props; *t; t++) {
        for (const struct device_prop *p = *t; p->name; p++) {
            if (i-- == 0) {
                return p;
            }
        }
    }
    return NULL;
}

static const struct device_prop *prop_find(const struct device_class *c, const char *name)
{
    const struct device_prop *p;
    for (unsigned i = 0; (p = device_class_prop(c, i)); i++) {
        if (!strcmp(p->name, name)) {
            return p;
        }
    }
    return NULL;
}

const char *device_name(const struct device *d)
{
    return d->id ? d->id : d->path;
}

/* --- values ---------------------------------------------------------------------------------------------------- */

int device_parse_pci_addr(const char *text)
{
    char *end;
    unsigned long slot = strtoul(text, &end, 16), fn = 0;
    if (end == text || slot > 31) {
        return -1;
    }
    if (*end == '.') {
        const char *f = end + 1;
        fn = strtoul(f, &end, 16);
        if (end == f || fn > 7) {
            return -1;
        }
    }
    return *end ? -1 : (int)(slot * 8 + fn);
}

static int parse_int(const char *s, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(s, &end, 0);
    return errno || end == s || *end ? -EINVAL : 0;
}

static int bad_type(struct err *e, const struct device_prop *p, const char *expected)
{
    return err_set(e, EINVAL, "Invalid parameter type for '%s', expected: %s", p->name, expected);
}

static int convert_bool(const struct device_prop *p, struct json_object *v, struct json_object **out, struct err *e)
{
    const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
    if (json_object_is_type(v, json_type_boolean)) {
        *out = json_object_new_boolean(json_object_get_boolean(v));
    } else if (s && (!strcmp(s, "on") || !strcmp(s, "yes") || !strcmp(s, "true") || !strcmp(s, "y"))) {
        *out = json_object_new_boolean(true);
    } else if (s && (!strcmp(s, "off") || !strcmp(s, "no") || !strcmp(s, "false") || !strcmp(s, "n"))) {
        *out = json_object_new_boolean(false);
    } else if (s) {
        return err_set(e, EINVAL, "Parameter '%s' expects 'on' or 'off'", p->name);
    } else {
        return bad_type(e, p, "boolean");
    }
    return 0;
}

static int convert_int(const struct device_prop *p, struct json_object *v, struct json_object **out, struct err *e)
{
    int64_t n = 0;
    if (json_object_is_type(v, json_type_int)) {
        n = json_object_get_int64(v);
    } else if (json_object_is_type(v, json_type_string)) {
        const char *s = json_object_get_string(v);
        uint64_t u = 0;
        if (p->type == PROP_SIZE ? parse_size(s, &u) : parse_int(s, &n)) {
            return err_set(e, EINVAL, "Parameter '%s' expects a %s", p->name, p->type == PROP_SIZE ? "size" : "number");
        }
        n = p->type == PROP_SIZE ? (int64_t)min_u64(u, INT64_MAX) : n;
    } else {
        return bad_type(e, p, "integer");
    }
    if ((p->min || p->max) && (n < p->min || n > p->max)) {
        return err_set(e, ERANGE, "Parameter '%s' expects a value from %" PRId64 " to %" PRId64 ", not %" PRId64,
                       p->name, p->min, p->max, n);
    }
    *out = json_object_new_int64(n);
    return 0;
}

static int convert_enum(const struct device_prop *p, struct json_object *v, struct json_object **out, struct err *e)
{
    const char *s = json_object_get_string(v);
    if (json_object_is_type(v, json_type_boolean)) {
        s = json_object_get_boolean(v) ? "on" : "off";
    } else if (!json_object_is_type(v, json_type_string)) {
        return bad_type(e, p, "string");
    }
    for (unsigned i = 0; p->values[i]; i++) {
        if (!strcmp(p->values[i], s)) {
            *out = json_object_new_string(s);
            return 0;
        }
    }
    CLEANUP_FREE char *list = g_strjoinv("/", (char **)p->values);
    return err_set(e, EINVAL, "Parameter '%s' does not accept value '%s'; it takes %s", p->name, s, list);
}

static int convert_addr(const struct device_prop *p, struct json_object *v, struct json_object **out, struct err *e)
{
    int addr = -1;
    if (json_object_is_type(v, json_type_int)) {
        addr = json_object_get_int(v) < 0 || json_object_get_int(v) > 255 ? -1 : json_object_get_int(v);
    } else if (json_object_is_type(v, json_type_string)) {
        addr = device_parse_pci_addr(json_object_get_string(v));
    }
    if (addr < 0) {
        return err_set(e, EINVAL, "Property '%s' doesn't take value '%s'; it takes slot or slot.function, as in 06.0",
                       p->name, json_object_get_string(v));
    }
    *out = json_object_new_int(addr);
    return 0;
}

static int convert_uints(const struct device_prop *p, struct json_object *v, struct json_object **out, struct err *e)
{
    const struct device_prop one = {.name = p->name, .type = PROP_INT, .min = 1, .max = UINT32_MAX};
    if (!json_object_is_type(v, json_type_array)) {
        return bad_type(e, p, "array");
    }
    *out = json_object_new_array();
    for (size_t i = 0; i < json_object_array_length(v); i++) {
        struct json_object *n = NULL;
        int rc = convert_int(&one, json_object_array_get_idx(v, i), &n, e);
        if (rc < 0) {
            json_object_put(*out);
            return rc;
        }
        json_object_array_add(*out, n);
    }
    return 0;
}

/* The value as its JSON type. */
static int convert(const struct device_prop *p, struct json_object *v, struct json_object **out, struct err *e)
{
    switch (p->type) {
    case PROP_BOOL:
        return convert_bool(p, v, out, e);
    case PROP_INT:
    case PROP_SIZE:
        return convert_int(p, v, out, e);
    case PROP_ENUM:
        return convert_enum(p, v, out, e);
    case PROP_PCI_ADDR:
        return convert_addr(p, v, out, e);
    case PROP_UINTS:
        return convert_uints(p, v, out, e);
    case PROP_STR:
    case PROP_DRIVE:
    case PROP_NETDEV:
        break;
    }
    if (!json_object_is_type(v, json_type_string)) {
        return bad_type(e, p, "string");
    }
    *out = json_object_new_string(json_object_get_string(v));
    return 0;
}

static int unknown_prop(const struct device_class *c, const char *key, struct err *e)
{
    CLEANUP_FREE const char **names = NULL;
    unsigned n = 0;
    while (device_class_prop(c, n)) {
        n++;
    }
    names = g_new0(const char *, n + 1);
    for (unsigned i = 0; i < n; i++) {
        names[i] = device_class_prop(c, i)->name;
    }
    err_set(e, EINVAL, "Property '%s.%s' not found", c->name, key);
    return err_suggest(e, key, names);
}

static int fill_props(struct device *d, struct json_object *opts, struct err *e)
{
    json_object_object_foreach(opts, key, val)
    {
        if (!strcmp(key, "driver") || !strcmp(key, "id")) {
            continue;
        }
        const struct device_prop *p = prop_find(d->cls, key);
        struct json_object *out;
        if (!p) {
            return unknown_prop(d->cls, key, e);
        }
        int rc = convert(p, val, &out, e);
        if (rc < 0) {
            return rc;
        }
        json_object_object_add(d->props, key, out);
    }
    const struct device_prop *p;
    for (unsigned i = 0; (p = device_class_prop(d->cls, i)); i++) {
        struct json_object *out;
        if (!p->dflt || json_object_object_get_ex(d->props, p->name, NULL)) {
            continue;
        }
        CLEANUP_JSON struct json_object *v = json_object_new_string(p->dflt);
        int rc = convert(p, v, &out, e);
        if (rc < 0) {
            return rc;
        }
        json_object_object_add(d->props, p->name, out);
    }
    return 0;
}

static struct json_object *value(const struct device *d, const char *name)
{
    struct json_object *v = NULL;
    json_object_object_get_ex(d->props, name, &v);
    return v;
}

bool device_bool(const struct device *d, const char *name)
{
    return json_object_get_boolean(value(d, name));
}

int64_t device_int(const struct device *d, const char *name)
{
    struct json_object *v = value(d, name);
    return v ? json_object_get_int64(v) : -1;
}

const char *device_str(const struct device *d, const char *name)
{
    struct json_object *v = value(d, name);
    return v ? json_object_get_string(v) : NULL;
}

struct json_object *device_list(const struct device *d, const char *name)
{
    return json_object_object_get(d->props, name);
}

int device_enum(const struct device *d, const char *name)
{
    const struct device_prop *p = prop_find(d->cls, name);
    const char *s = device_str(d, name);
    for (int i = 0; s && p->values[i]; i++) {
        if (!strcmp(p->values[i], s)) {
            return i;
        }
    }
    return 0;
}

/* --- objects --------------------------------------------------------------------------------------------------- */

static int unknown_class(const char *driver, struct err *e)
{
    const char *names[64];
    unsigned n = 0;
    for (unsigned i = 0; device_classes[i] && n < 63; i++) {
        names[n++] = device_classes[i]->name;
    }
    names[n] = NULL;
    err_set(e, EINVAL, "'%s' is not a valid device model name", driver);
    return err_suggest(e, driver, names);
}

int device_create_on_board(struct board *b, const struct device_class *c, struct json_object *opts, const char *path,
                           struct device **out, struct err *e)
{
    struct device *d = g_malloc0(c->size);
    d->cls = c;
    d->board = b;
    d->path = g_strdup(path);
    d->props = json_object_new_object();
    int rc = fill_props(d, opts, e);
    if (rc < 0) {
        device_destroy(d);
        return rc;
    }
    *out = d;
    return 0;
}

int device_create(struct board *b, struct json_object *opts, unsigned n, struct device **out, struct err *e)
{
    struct jread r = jread_init(opts, NULL, e);
    const char *driver = jread_str(&r, "driver");
    const char *id = jread_str_or(&r, "id", NULL);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    const struct device_class *c = device_class_find(driver);
    if (!c || !c->user_creatable) {
        return unknown_class(driver, e);
    }
    if (id && !id_wellformed(id)) {
        return err_set(e, EINVAL,
                       "Parameter 'id' expects an identifier: letters, digits, '-', '.', '_', beginning with a letter");
    }
    CLEANUP_FREE char *path =
        id ? g_strdup_printf("/machine/peripheral/%s", id) : g_strdup_printf("/machine/peripheral-anon/device[%u]", n);
    rc = device_create_on_board(b, c, opts, path, out, e);
    if (rc == 0) {
        (*out)->id = g_strdup(id);
    }
    return rc;
}

static bool is_default(const struct device_prop *p, struct json_object *v)
{
    struct json_object *dflt = NULL;
    CLEANUP_JSON struct json_object *text = p->dflt ? json_object_new_string(p->dflt) : NULL;
    bool same = text && convert(p, text, &dflt, NULL) == 0 && json_object_equal(dflt, v);
    json_object_put(dflt);
    return same;
}

/* As people write it: an address is a number in props. */
static struct json_object *shown_value(const struct device_prop *p, struct json_object *v)
{
    if (p->type != PROP_PCI_ADDR) {
        return json_clone(v);
    }
    unsigned addr = (unsigned)json_object_get_int(v);
    CLEANUP_FREE char *text = g_strdup_printf("%02x.%x", addr / 8, addr % 8);
    return json_object_new_string(text);
}

struct json_object *device_options(const struct device *d)
{
    struct json_object *o = json_object_new_object();
    const struct device_prop *p;
    json_object_object_add(o, "driver", json_object_new_string(d->cls->name));
    if (d->id) {
        json_object_object_add(o, "id", json_object_new_string(d->id));
    }
    for (unsigned i = 0; (p = device_class_prop(d->cls, i)); i++) {
        struct json_object *v = json_object_object_get(d->props, p->name);
        if (v && !is_default(p, v)) {
            json_object_object_add(o, p->name, shown_value(p, v));
        }
    }
    if (d->cls->make_up) {
        d->cls->make_up(d, o);
    }
    return o;
}

char *device_place(const struct device *d)
{
    struct json_object *addr = json_object_object_get(d->props, "addr"), *bus = json_object_object_get(d->props, "bus");
    if (d->parent) {
        return g_strdup(d->parent->path);
    }
    if (json_object_is_type(addr, json_type_int)) {
        unsigned n = (unsigned)json_object_get_int(addr);
        return g_strdup_printf("addr=%02x.%x", n / 8, n % 8);
    }
    return bus ? g_strdup_printf("bus=%s", json_object_get_string(bus)) : NULL;
}

void device_settle(struct device *d, const char *name, struct json_object *v)
{
    json_object_object_add(d->props, name, v);
}

int device_realize(struct device *d, struct err *e)
{
    int rc = d->cls->realize(d, e);
    d->realized = rc == 0;
    return rc;
}

void device_destroy(struct device *d)
{
    if (!d) {
        return;
    }
    if (d->realized) {
        d->cls->unrealize(d);
    }
    json_object_put(d->props);
    g_free(d->id);
    g_free(d->path);
    g_free(d);
}

/* --- help ------------------------------------------------------------------------------------------------------ */

static const char *type_name(const struct device_prop *p)
{
    static const char *const names[] = {
        [PROP_BOOL] = "bool",     [PROP_INT] = "int32",      [PROP_SIZE] = "size",
        [PROP_STR] = "str",       [PROP_ENUM] = "enum",      [PROP_DRIVE] = "str",
        [PROP_NETDEV] = "netdev", [PROP_PCI_ADDR] = "int32", [PROP_UINTS] = "list",
    };
    return p->type_name ? p->type_name : names[p->type];
}

static const char *const categories[][2] = {
    {"bridge", "Controller/Bridge/Hub"},
    {"storage", "Storage"},
    {"network", "Network"},
    {"input", "Input"},
    {"display", "Display"},
    {"sound", "Sound"},
    {"misc", "Misc"},
};

void device_help(FILE *f)
{
    bool first = true;
    for (unsigned g = 0; g < G_N_ELEMENTS(categories); g++) {
        bool head = false;
        for (unsigned i = 0; device_classes[i]; i++) {
            const struct device_class *c = device_classes[i];
            if (strcmp(c->category, categories[g][0]) != 0 || !c->user_creatable) {
                continue;
            }
            if (!head) {
                fprintf(f, "%s%s devices:\n", first ? "" : "\n", categories[g][1]);
                head = true;
                first = false;
            }
            fprintf(f, "name \"%s\", bus %s", c->name, c->bus);
            if (c->alias) {
                fprintf(f, ", alias \"%s\"", c->alias);
            }
            if (c->desc) {
                fprintf(f, ", desc \"%s\"", c->desc);
            }
            fprintf(f, "\n");
        }
    }
}

static int by_name(const void *a, const void *b)
{
    const struct device_prop *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Sorted by name; g_free. */
static const struct device_prop **sorted_props(const struct device_class *c, unsigned *n)
{
    const struct device_prop *p;
    const struct device_prop **v;
    *n = 0;
    while (device_class_prop(c, *n)) {
        (*n)++;
    }
    v = g_new0(const struct device_prop *, *n + 1);
    for (unsigned i = 0; (p = device_class_prop(c, i)); i++) {
        v[i] = p;
    }
    qsort(v, *n, sizeof(*v), by_name);
    return v;
}

void device_class_help(const struct device_class *c, FILE *f)
{
    unsigned n;
    CLEANUP_FREE const struct device_prop **v = sorted_props(c, &n);
    fprintf(f, "%s options:\n", c->name);
    for (unsigned i = 0; i < n; i++) {
        CLEANUP_FREE char *left = g_strdup_printf("%s=<%s>", v[i]->name, type_name(v[i]));
        bool quoted = v[i]->type == PROP_ENUM || v[i]->type == PROP_STR;
        if (!v[i]->help && !v[i]->dflt) {
            fprintf(f, "  %s\n", left);
            continue;
        }
        fprintf(f, "  %-22s - %s", left, v[i]->help ? v[i]->help : "");
        if (v[i]->dflt) {
            const char *d = v[i]->type == PROP_BOOL ? (!strcmp(v[i]->dflt, "on") ? "true" : "false") : v[i]->dflt;
            fprintf(f, " (default: %s%s%s)", quoted ? "\"" : "", d, quoted ? "\"" : "");
        }
        fprintf(f, "\n");
    }
}

struct json_object *device_class_properties(const struct device_class *c)
{
    unsigned n;
    CLEANUP_FREE const struct device_prop **v = sorted_props(c, &n);
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < n; i++) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "name", json_object_new_string(v[i]->name));
        json_object_object_add(o, "type", json_object_new_string(type_name(v[i])));
        if (v[i]->help) {
            json_object_object_add(o, "description", json_object_new_string(v[i]->help));
        }
        struct json_object *d = NULL;
        if (v[i]->dflt) {
            CLEANUP_JSON struct json_object *text = json_object_new_string(v[i]->dflt);
            convert(v[i], text, &d, NULL);
            json_object_object_add(o, "default-value", d);
        }
        json_object_array_add(list, o);
    }
    return list;
}
