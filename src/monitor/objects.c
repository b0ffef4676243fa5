/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/objects.h"

#include "base/cleanup.h"
#include "base/id.h"
#include "base/json.h"
#include "block/throttle.h"

#include <string.h>

struct object {
    const struct object_kind *kind;
    char *id;
    struct json_object *props;
    void *impl;
};

struct object_kind {
    const char *name;
    int (*create)(struct object_registry *r, struct object *o, struct err *e);
    void (*destroy)(void *impl);
    bool (*in_use)(void *impl); /* NULL: never */
};

struct object_registry {
    struct loop *loop;
    GPtrArray *objects; /* struct object * */
};

static const char *prop_str(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

/* --- secret ------------------------------------------------------------------------------------------------- */

enum { SECRET_MAX = 1 << 20 };

struct secret_object {
    struct secret secret; /* first: this is what lookups give */
    unsigned char *bytes;
};

static void wipe(void *p, size_t n)
{
    if (p) {
        explicit_bzero(p, n);
    }
}

static void secret_destroy(void *impl)
{
    struct secret_object *s = impl;
    wipe(s->bytes, s->secret.len);
    g_free(s->bytes);
    g_free(s);
}

/* The text as it was given; freed with g_free. */
static int secret_text(struct object *o, char **text, gsize *len, struct err *e)
{
    const char *data = prop_str(o->props, "data");
    const char *file = prop_str(o->props, "file");
    if (data && file) {
        return err_set(e, EINVAL, "'file' and 'data' are mutually exclusive");
    }
    if (data) {
        *text = g_strdup(data);
        *len = strlen(data);
        return 0;
    }
    if (!file) {
        return err_set(e, EINVAL, "Either 'file' or 'data' must be provided");
    }
    GError *error = NULL;
    if (!g_file_get_contents(file, text, len, &error)) {
        int rc = err_set(e, ENOENT, "Unable to read %s: %s", file, error->message);
        g_error_free(error);
        return rc;
    }
    return *len <= SECRET_MAX ? 0 : err_set(e, EFBIG, "Unable to read %s: longer than %d bytes", file, SECRET_MAX);
}

static bool is_base64(const char *s, gsize n)
{
    for (gsize i = 0; i < n; i++) {
        if (!g_ascii_isalnum(s[i]) && !(s[i] && strchr("+/=\r\n", s[i]))) {
            return false;
        }
    }
    return true;
}

static int secret_create(struct object_registry *r, struct object *o, struct err *e)
{
    char *text = NULL;
    gsize len = 0;
    struct secret_object *s = NULL;
    const char *format = prop_str(o->props, "format");
    int rc = secret_text(o, &text, &len, e);
    if (rc == 0 && !g_strcmp0(format, "base64")) {
        if (is_base64(text, len)) {
            g_base64_decode_inplace(text, &len);
            text[len] = '\0';
        } else {
            rc = err_set(e, EINVAL, "Base64 data contains invalid characters");
        }
    }
    if (rc == 0) {
        s = g_new0(struct secret_object, 1);
        s->bytes = g_malloc0(len + 1);
        memcpy(s->bytes, text, len);
        s->secret = (struct secret){s->bytes, len};
        o->impl = s;
        json_object_object_del(o->props, "data");
    }
    wipe(text, len);
    g_free(text);
    return rc;
}

/* --- throttle-group ---------------------------------------------------------------------------------------------- */

static int throttle_create(struct object_registry *r, struct object *o, struct err *e)
{
    CLEANUP_JSON struct json_object *limits = NULL;
    struct json_object *given;
    struct throttle_config config;
    if (json_object_object_get_ex(o->props, "limits", &given)) {
        limits = json_clone(given);
    } else {
        limits = json_object_new_object();
    }
    json_object_object_foreach(o->props, key, value)
    {
        if (g_str_has_prefix(key, "x-")) {
            json_object_object_add(limits, key + 2, json_object_get(value));
        }
    }
    int rc = throttle_config_parse(limits, &config, e);
    if (rc == 0) {
        o->impl = throttle_group_create(r->loop, o->id);
        throttle_group_set(o->impl, &config);
    }
    return rc;
}

static void throttle_destroy(void *impl)
{
    throttle_group_unref(impl);
}

/* --- iothread ------------------------------------------------------------------------------------------------------
 */

static int iothread_create(struct object_registry *r, struct object *o, struct err *e)
{
    o->impl = g_new0(char, 1);
    return 0;
}

static const struct object_kind kinds[] = {
    {"iothread", iothread_create, g_free, NULL},
    {"secret", secret_create, secret_destroy, NULL},
    {"throttle-group", throttle_create, throttle_destroy, NULL},
};

const char *const *object_types(void)
{
    static const char *const names[] = {"iothread", "secret", "throttle-group", NULL};
    return names;
}

/* --- the registry ---------------------------------------------------------------------------------------------------
 */

static void object_free(struct object *o)
{
    if (o->impl) {
        o->kind->destroy(o->impl);
    }
    json_object_put(o->props);
    g_free(o->id);
    g_free(o);
}

struct object_registry *object_registry_create(struct loop *l)
{
    struct object_registry *r = g_new0(struct object_registry, 1);
    r->loop = l;
    r->objects = g_ptr_array_new();
    return r;
}

void object_registry_destroy(struct object_registry *r)
{
    if (r) {
        for (guint i = 0; i < r->objects->len; i++) {
            object_free(g_ptr_array_index(r->objects, i));
        }
        g_ptr_array_free(r->objects, TRUE);
        g_free(r);
    }
}

static struct object *find(struct object_registry *r, const char *id)
{
    for (guint i = 0; i < r->objects->len; i++) {
        struct object *o = g_ptr_array_index(r->objects, i);
        if (!strcmp(o->id, id)) {
            return o;
        }
    }
    return NULL;
}

int object_add(struct object_registry *r, struct json_object *opts, struct err *e)
{
    const char *type = prop_str(opts, "qom-type");
    const char *id = prop_str(opts, "id");
    const struct object_kind *kind = NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (type && !strcmp(kinds[i].name, type)) {
            kind = &kinds[i];
        }
    }
    if (!kind) {
        return err_set(e, EINVAL, "invalid object type: %s", type ? type : "");
    }
    if (!id || !id_wellformed(id)) {
        return err_set(e, EINVAL, "Parameter 'id' expects an identifier");
    }
    if (find(r, id)) {
        return err_set(e, EEXIST, "attempt to add duplicate property '%s' to object (type 'container')", id);
    }
    struct object *o = g_new0(struct object, 1);
    o->kind = kind;
    o->id = g_strdup(id);
    o->props = json_clone(opts);
    int rc = kind->create(r, o, e);
    if (rc) {
        object_free(o);
        return rc;
    }
    g_ptr_array_add(r->objects, o);
    return 0;
}

int object_del(struct object_registry *r, const char *id, struct err *e)
{
    struct object *o = find(r, id);
    if (!o) {
        return err_set(e, ENOENT, "object '%s' not found", id);
    }
    if (o->kind->in_use && o->kind->in_use(o->impl)) {
        return err_set(e, EBUSY, "object '%s' is in use, can not be deleted", id);
    }
    g_ptr_array_remove(r->objects, o);
    object_free(o);
    return 0;
}

void *object_registry_lookup(void *registry, const char *type, const char *id)
{
    struct object *o = registry && id ? find(registry, id) : NULL;
    return o && !strcmp(o->kind->name, type) ? o->impl : NULL;
}

const char *object_registry_id(struct object_registry *r, unsigned i, const char **type)
{
    if (!r || i >= r->objects->len) {
        return NULL;
    }
    struct object *o = g_ptr_array_index(r->objects, i);
    if (type) {
        *type = o->kind->name;
    }
    return o->id;
}

struct json_object *object_registry_props(struct object_registry *r, const char *id)
{
    struct object *o = r ? find(r, id) : NULL;
    return o ? o->props : NULL;
}
