/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/objects.h"

#include "base/id.h"
#include "base/json.h"

#include <glib.h>
#include <string.h>

struct object {
    const struct object_kind *kind;
    char *id;
    struct json_object *props;
    void *impl;
};

struct object_registry {
    struct loop *loop;
    const struct object_kind *const *kinds;
    GPtrArray *objects; /* struct object * */
};

static const char *prop_str(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

static void object_free(struct object *o)
{
    if (o->impl) {
        o->kind->destroy(o->impl);
    }
    json_object_put(o->props);
    g_free(o->id);
    g_free(o);
}

struct object_registry *object_registry_create(struct loop *l, const struct object_kind *const *kinds)
{
    struct object_registry *r = g_new0(struct object_registry, 1);
    r->loop = l;
    r->kinds = kinds;
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

const struct object_kind *const *object_registry_kinds(struct object_registry *r)
{
    return r->kinds;
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

static bool takes(const struct object_kind *k, const char *name)
{
    for (const char *const *p = k->props; p && *p; p++) {
        size_t n = strlen(*p);
        if (!strcmp(*p, name) || (n && (*p)[n - 1] == '*' && !strncmp(*p, name, n - 1))) {
            return true;
        }
    }
    return !strcmp(name, "qom-type") || !strcmp(name, "id");
}

int object_add(struct object_registry *r, struct json_object *opts, struct err *e)
{
    const char *type = prop_str(opts, "qom-type");
    const char *id = prop_str(opts, "id");
    const struct object_kind *kind = NULL;
    for (size_t i = 0; type && r->kinds[i]; i++) {
        if (!strcmp(r->kinds[i]->name, type)) {
            kind = r->kinds[i];
        }
    }
    if (!kind) {
        return type ? err_set(e, EINVAL, "Parameter 'qom-type' does not accept value '%s'", type)
                    : err_set(e, EINVAL, "Parameter 'qom-type' is missing");
    }
    if (!id || !id_wellformed(id)) {
        return err_set(e, EINVAL, id ? "Parameter 'id' expects an identifier" : "Parameter 'id' is missing");
    }
    if (find(r, id)) {
        return err_set(e, EEXIST, "attempt to add duplicate property '%s' to object (type 'container')", id);
    }
    json_object_object_foreach(opts, key, value)
    {
        if (!takes(kind, key)) {
            return err_set(e, EINVAL, "Parameter '%s' is unexpected", key);
        }
    }
    struct object *o = g_new0(struct object, 1);
    o->kind = kind;
    o->id = g_strdup(id);
    o->props = json_clone(opts);
    struct object_make m = {.registry = r, .loop = r->loop, .id = o->id, .props = o->props};
    int rc = kind->create(&m, &o->impl, e);
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
    size_t n = strlen(type);
    return o && !strncmp(o->kind->name, type, n) && (!o->kind->name[n] || o->kind->name[n] == '-') ? o->impl : NULL;
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
