/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/device.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "state/manifest.h"

#include <string.h>

struct cursor {
    const uint8_t *p;
    size_t left;
};

static bool get(struct cursor *c, size_t n, const uint8_t **out)
{
    if (n > c->left) {
        return false;
    }
    *out = c->p;
    c->p += n;
    c->left -= n;
    return true;
}

/* A text with its length before it; NULL: there is none, or it is none. */
static char *get_text(struct cursor *c)
{
    const uint8_t *p;
    if (!get(c, 2, &p)) {
        return NULL;
    }
    size_t n = load_le16(p);
    bool ok = n > 0 && get(c, n, &p) && !memchr(p, 0, n) && g_utf8_validate((const char *)p, (gssize)n, NULL);
    return ok ? g_strndup((const char *)p, n) : NULL;
}

char *state_device_path(const void *payload, size_t len, struct err *e)
{
    struct cursor c = {.p = payload, .left = len};
    char *path = get_text(&c);
    if (!path) {
        err_set(e, EINVAL, "a device's chunk does not begin with a path");
    }
    return path;
}

static int read_part(struct state_device *d, struct cursor *c, struct err *e)
{
    CLEANUP_FREE char *name = get_text(c);
    const uint8_t *head, *data;
    if (!name || !get(c, 8, &head) || !get(c, load_le32(head + 4), &data)) {
        return err_set(e, EINVAL, "the chunk ends within a part, or a part has no name");
    }
    const struct state_schema_part *schema = d->n ? state_schema_subsection(d->schema, name) : &d->schema->base;
    if (!schema || strcmp(schema->name, name)) {
        return err_set(e, EINVAL, "the manifest has no %s '%s' for it", d->n ? "subsection" : "section", name);
    }
    for (unsigned i = 0; i < d->n; i++) {
        if (d->parts[i].schema == schema) {
            return err_set(e, EINVAL, "subsection '%s' is there twice", name);
        }
    }
    if (load_le32(head) != (d->n ? 0 : d->schema->version)) {
        return err_set(e, EINVAL, "'%s' is in version %u, the manifest says %u", name, load_le32(head),
                       d->n ? 0 : d->schema->version);
    }
    struct json_object *values = state_values_read(schema, data, load_le32(head + 4), e);
    if (!values) {
        return err_wrap(e, "'%s'", name);
    }
    d->parts[d->n++] = (struct state_device_part){.schema = schema, .values = values};
    return 0;
}

static int read_device(struct state_device *d, const struct state_manifest *m, struct cursor *c, struct err *e)
{
    d->path = get_text(c);
    if (!d->path) {
        return err_set(e, EINVAL, "a device's chunk does not begin with a path");
    }
    d->schema = state_manifest_schema(m, d->path);
    if (!d->schema) {
        return err_set(e, EINVAL, "device '%s' is not in the manifest", d->path);
    }
    d->parts = g_new0(struct state_device_part, d->schema->nsubs + 1);
    do {
        if (read_part(d, c, e) < 0) {
            return err_wrap(e, "device '%s'", d->path);
        }
    } while (c->left);
    return 0;
}

struct state_device *state_device_read(const struct state_manifest *m, const void *payload, size_t len, struct err *e)
{
    struct state_device *d = g_new0(struct state_device, 1);
    struct cursor c = {.p = payload, .left = len};
    if (read_device(d, m, &c, e) < 0) {
        state_device_destroy(d);
        return NULL;
    }
    return d;
}

void state_device_destroy(struct state_device *d)
{
    if (!d) {
        return;
    }
    for (unsigned i = 0; i < d->n; i++) {
        json_object_put(d->parts[i].values);
    }
    g_free(d->parts);
    g_free(d->path);
    g_free(d);
}

static void put_text(GByteArray *out, const char *s)
{
    uint8_t le[2];
    store_le16(le, (uint16_t)strlen(s));
    g_byte_array_append(out, le, 2);
    g_byte_array_append(out, (const uint8_t *)s, (guint)strlen(s));
}

GByteArray *state_device_write(const struct state_device *d, struct err *e)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    put_text(out, d->path);
    for (unsigned i = 0; i < d->n; i++) {
        put_text(out, d->parts[i].schema->name);
        guint at = out->len;
        g_byte_array_set_size(out, at + 8);
        if (state_values_write(d->parts[i].schema, d->parts[i].values, out, e) < 0) {
            err_wrap(e, "device '%s': '%s'", d->path, d->parts[i].schema->name);
            return NULL;
        }
        store_le32(out->data + at, i ? 0 : d->schema->version);
        store_le32(out->data + at + 4, out->len - at - 8);
    }
    return take(out);
}

struct json_object *state_device_json(const struct state_device *d)
{
    struct json_object *o = json_object_new_object(), *subs = json_object_new_object();
    json_object_object_add(o, "path", json_object_new_string(d->path));
    json_object_object_add(o, "section", json_object_new_string(d->schema->base.name));
    json_object_object_add(o, "version", json_object_new_uint64(d->schema->version));
    json_object_object_add(o, "values", d->n ? json_object_get(d->parts[0].values) : NULL);
    for (unsigned i = 1; i < d->n; i++) {
        json_object_object_add(subs, d->parts[i].schema->name, json_object_get(d->parts[i].values));
    }
    json_object_object_add(o, "subsections", subs);
    return o;
}

static int add_part(struct state_device *d, const struct state_schema_part *schema, struct json_object *values,
                    const char *name, struct err *e)
{
    if (!schema) {
        return err_set(e, EINVAL, "its schema has no subsection '%s'", name);
    }
    if (!json_object_is_type(values, json_type_object)) {
        return err_set(e, EINVAL, "the values of '%s' are not an object", name);
    }
    d->parts[d->n++] = (struct state_device_part){.schema = schema, .values = json_object_get(values)};
    return 0;
}

static int fill_device(struct state_device *d, struct json_object *o, struct err *e)
{
    struct json_object *values = NULL, *subs = NULL;
    json_object_object_get_ex(o, "values", &values);
    json_object_object_get_ex(o, "subsections", &subs);
    d->parts = g_new0(struct state_device_part, d->schema->nsubs + 1);
    int rc = add_part(d, &d->schema->base, values, d->schema->base.name, e);
    if (rc == 0 && subs && !json_object_is_type(subs, json_type_object)) {
        rc = err_set(e, EINVAL, "'subsections' is not an object");
    }
    if (rc < 0 || !subs) {
        return rc;
    }
    json_object_object_foreach(subs, name, sub)
    {
        rc = add_part(d, state_schema_subsection(d->schema, name), sub, name, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

struct state_device *state_device_from_json(const struct state_manifest *m, struct json_object *o, struct err *e)
{
    struct json_object *path = NULL;
    bool has = json_object_object_get_ex(o, "path", &path) && json_object_is_type(path, json_type_string);
    const struct state_schema *schema = has ? state_manifest_schema(m, json_object_get_string(path)) : NULL;
    if (!schema) {
        err_set(e, EINVAL, "device '%s' is not in the manifest", has ? json_object_get_string(path) : "");
        return NULL;
    }
    struct state_device *d = g_new0(struct state_device, 1);
    d->path = g_strdup(json_object_get_string(path));
    d->schema = schema;
    if (fill_device(d, o, e) < 0) {
        err_wrap(e, "device '%s'", d->path);
        state_device_destroy(d);
        return NULL;
    }
    return d;
}
