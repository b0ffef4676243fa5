/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices, objects, and the tree of names that clients see both in. */
#include "schema/qmp_qom.h"

#include "base/cleanup.h"
#include "base/objects.h"
#include "char/char.h"
#include "machine/machine.h"
#include "move/migrate.h"

#include <string.h>
#include <unistd.h>

/* The destination has been told which devices come. */
static int check_stays(struct mon_ctx *c, const char *command, struct err *e)
{
    return migrate_is_leaving(c->env->vm)
               ? err_set(e, EBUSY,
                         "%s not allowed while migrating: wait until that is over, or give it up with 'migrate_cancel'",
                         command)
               : 0;
}

int qmp_device_add(struct mon_ctx *c, const struct qmp_device_add_args *a, struct json_object **ret, struct err *e)
{
    int rc = check_stays(c, "device_add", e);
    return rc < 0 ? rc : vm_device_add(c->env->vm, a->options, e);
}

int qmp_device_del(struct mon_ctx *c, const struct qmp_device_del_args *a, struct json_object **ret, struct err *e)
{
    if (!vm_device_find(c->env->vm, a->id)) {
        return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", a->id);
    }
    int rc = check_stays(c, "device_del", e);
    return rc < 0 ? rc : vm_device_del(c->env->vm, a->id, e);
}

int qmp_device_list_properties(struct mon_ctx *c, const struct qmp_device_list_properties_args *a,
                               struct json_object **ret, struct err *e)
{
    const struct device_class *cls = device_class_find(a->typename);
    if (!cls) {
        return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", a->typename);
    }
    *ret = device_class_properties(cls);
    return 0;
}

/* --- objects --------------------------------------------------------------------------------------------------------
 */

int qmp_object_add(struct mon_ctx *c, const struct qmp_object_add_args *a, struct json_object **ret, struct err *e)
{
    if (!c->env->objects) {
        return err_set(e, ENOTSUP, "object-add: this program has no objects");
    }
    return object_add(c->env->objects, a->options, e);
}

int qmp_object_del(struct mon_ctx *c, const struct qmp_object_del_args *a, struct json_object **ret, struct err *e)
{
    if (!c->env->objects) {
        return err_set(e, ENOENT, "object '%s' not found", a->id);
    }
    return object_del(c->env->objects, a->id, e);
}

int qmp_query_iothreads(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    static const char *const numbers[] = {"poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"};
    const char *id;
    const char *type;
    *ret = json_object_new_array();
    for (unsigned i = 0; (id = object_registry_id(c->env->objects, i, &type)); i++) {
        if (strcmp(type, "iothread")) {
            continue;
        }
        struct json_object *props = object_registry_props(c->env->objects, id);
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "id", json_object_new_string(id));
        json_object_object_add(o, "thread-id", json_object_new_int64(getpid()));
        for (size_t k = 0; k < G_N_ELEMENTS(numbers); k++) {
            struct json_object *v;
            bool given = json_object_object_get_ex(props, numbers[k], &v);
            json_object_object_add(o, numbers[k], given ? json_object_get(v) : json_object_new_int64(0));
        }
        json_object_array_add(*ret, o);
    }
    return 0;
}

/* --- types -----------------------------------------------------------------------------------------------------------
 */

static void add_type(struct json_object *list, const char *name, const char *parent)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(name));
    json_object_object_add(o, "parent", json_object_new_string(parent));
    json_object_array_add(list, o);
}

static bool wanted(const char *implements, const char *name, const char *parent)
{
    return !implements || !strcmp(implements, name) || !strcmp(implements, parent) || !strcmp(implements, "object");
}

int qmp_qom_list_types(struct mon_ctx *c, const struct qmp_qom_list_types_args *a, struct json_object **ret,
                       struct err *e)
{
    *ret = json_object_new_array();
    for (int i = 0; device_classes[i]; i++) {
        if (wanted(a->implements, device_classes[i]->name, "device")) {
            add_type(*ret, device_classes[i]->name, "device");
        }
    }
    for (const struct machine_type_info *t = machine_types; t->name; t++) {
        CLEANUP_FREE char *name = g_strdup_printf("%s-machine", t->name);
        struct machine_type_info as;
        bool known = machine_type_seen(t, c->env->vm ? c->env->vm->as_release : NULL, &as);
        if (known && wanted(a->implements, name, "machine")) {
            add_type(*ret, name, "machine");
        }
    }
    for (const struct object_kind *const *t = object_kinds; *t; t++) {
        if (wanted(a->implements, (*t)->name, "user-creatable")) {
            add_type(*ret, (*t)->name, "object");
        }
    }
    return 0;
}

/* --- the tree
 * ---------------------------------------------------------------------------------------------------------- */

static void add_prop(struct json_object *list, const char *name, const char *type)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(name));
    json_object_object_add(o, "type", json_object_new_string(type));
    json_object_array_add(list, o);
}

static void add_child(struct json_object *list, const char *name, const char *type)
{
    CLEANUP_FREE char *child = g_strdup_printf("child<%s>", type);
    add_prop(list, name, child);
}

/* Devices right below `folder`, by their last component. */
static void list_devices(struct mon_ctx *c, const char *folder, struct json_object *list)
{
    size_t n = strlen(folder);
    for (guint i = 0; i < c->env->vm->devices->len; i++) {
        const struct device *d = g_ptr_array_index(c->env->vm->devices, i);
        if (!strncmp(d->path, folder, n) && d->path[n] == '/' && !strchr(d->path + n + 1, '/')) {
            add_child(list, d->path + n + 1, d->cls->name);
        }
    }
}

static void list_objects(struct mon_ctx *c, struct json_object *list)
{
    const char *id;
    const char *type;
    for (unsigned i = 0; (id = object_registry_id(c->env->objects, i, &type)); i++) {
        add_child(list, id, type);
    }
}

static char *machine_type_name(struct mon_ctx *c)
{
    const struct machine *m = c->env->vm->machine;
    return g_strdup_printf("%s-machine", m ? m->release->info->name : "none");
}

static bool list_folder(struct mon_ctx *c, const char *path, struct json_object *list)
{
    CLEANUP_FREE char *machine = machine_type_name(c);
    if (!strcmp(path, "/") || !strcmp(path, "")) {
        add_prop(list, "type", "string");
        add_child(list, "machine", machine);
        add_child(list, "objects", "container");
        add_child(list, "chardevs", "container");
    } else if (!strcmp(path, "/machine") || !strcmp(path, "machine")) {
        add_prop(list, "type", "string");
        add_child(list, "peripheral", "container");
        add_child(list, "peripheral-anon", "container");
        list_devices(c, "/machine", list);
    } else if (!strcmp(path, "/machine/peripheral") || !strcmp(path, "/machine/peripheral-anon")) {
        add_prop(list, "type", "string");
        list_devices(c, path, list);
    } else if (!strcmp(path, "/objects")) {
        add_prop(list, "type", "string");
        list_objects(c, list);
    } else if (!strcmp(path, "/chardevs")) {
        add_prop(list, "type", "string");
        for (guint i = 0; c->env->chardevs && i < c->env->chardevs->len; i++) {
            add_child(list, chardev_id(g_ptr_array_index(c->env->chardevs, i)), "chardev");
        }
    } else {
        return false;
    }
    return true;
}

/* An object by "/objects/ID" or "ID". */
static struct json_object *object_props(struct mon_ctx *c, const char *path)
{
    const char *id = g_str_has_prefix(path, "/objects/") ? path + strlen("/objects/") : path;
    return c->env->objects && !strchr(id, '/') ? object_registry_props(c->env->objects, id) : NULL;
}

static const char *json_type_label(struct json_object *v)
{
    switch (json_object_get_type(v)) {
    case json_type_boolean:
        return "bool";
    case json_type_int:
        return "int";
    case json_type_double:
        return "number";
    default:
        return "string";
    }
}

static void list_props(struct json_object *props, struct json_object *list)
{
    add_prop(list, "type", "string");
    json_object_object_foreach(props, key, value)
    {
        if (strcmp(key, "type")) {
            add_prop(list, key, json_type_label(value));
        }
    }
}

static int not_found(const char *path, struct err *e)
{
    return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", path);
}

int qmp_qom_list(struct mon_ctx *c, const struct qmp_qom_list_args *a, struct json_object **ret, struct err *e)
{
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    const struct device *d = vm_device_find(c->env->vm, a->path);
    struct json_object *props = d ? d->props : object_props(c, a->path);
    if (props) {
        list_props(props, list);
    } else if (!list_folder(c, a->path, list)) {
        return not_found(a->path, e);
    }
    *ret = take(list);
    return 0;
}

int qmp_qom_get(struct mon_ctx *c, const struct qmp_qom_get_args *a, struct json_object **ret, struct err *e)
{
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    const struct device *d = vm_device_find(c->env->vm, a->path);
    struct json_object *props = d ? d->props : object_props(c, a->path);
    struct json_object *value;
    CLEANUP_FREE char *type = NULL;
    if (d) {
        type = g_strdup(d->cls->name);
    } else if (props) {
        json_object_object_get_ex(props, "qom-type", &value);
        type = g_strdup(json_object_get_string(value));
    } else if (list_folder(c, a->path, list)) {
        type = g_str_has_suffix(a->path, "machine") ? machine_type_name(c) : g_strdup("container");
    } else {
        return not_found(a->path, e);
    }
    if (!strcmp(a->property, "type")) {
        *ret = json_object_new_string(type);
    } else if (props && json_object_object_get_ex(props, a->property, &value)) {
        *ret = value ? json_object_get(value) : json_object_new_string("");
    } else {
        return err_set(e, ENOENT, "Property '%s.%s' not found", type, a->property);
    }
    return 0;
}
