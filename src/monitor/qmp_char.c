/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_char.h"

#include "base/cleanup.h"
#include "char/char.h"
#include "monitor/make_up.h"
#include "monitor/monitor.h"

#include <string.h>

static struct chardev *find(struct mon_ctx *c, const char *id)
{
    for (guint i = 0; c->env->chardevs && i < c->env->chardevs->len; i++) {
        struct chardev *chr = g_ptr_array_index(c->env->chardevs, i);
        if (!strcmp(chardev_id(chr), id)) {
            return chr;
        }
    }
    return NULL;
}

int qmp_query_chardev(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_array();
    for (guint i = 0; c->env->chardevs && i < c->env->chardevs->len; i++) {
        struct chardev *chr = g_ptr_array_index(c->env->chardevs, i);
        CLEANUP_FREE char *filename = chardev_filename(chr);
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "frontend-open", json_object_new_boolean(chardev_in_use(chr)));
        json_object_object_add(o, "filename", json_object_new_string(filename));
        json_object_object_add(o, "label", json_object_new_string(chardev_id(chr)));
        json_object_array_add(*ret, o);
    }
    return 0;
}

int qmp_query_chardev_backends(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_array();
    for (const char *const *name = qmp_ChardevBackendKind_names; *name; name++) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "name", json_object_new_string(*name));
        json_object_array_add(*ret, o);
    }
    return 0;
}

static struct json_object *get(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static void give(struct json_object *to, struct json_object *from, const char *key)
{
    struct json_object *v = get(from, key);
    if (v) {
        json_object_object_add(to, key, json_object_get(v));
    }
}

/* {"type": "unix", "data": {"path": …}} as the options of a chardev. */
static int flatten_address(struct mon_ctx *c, struct json_object *addr, struct json_object *to, struct err *e)
{
    static const char *const taken[] = {"path", "host", "port", "ipv4", "ipv6", "abstract", "tight", NULL};
    const char *type = json_object_get_string(get(addr, "type"));
    struct json_object *data = get(addr, "data");
    if (!strcmp(type, "vsock")) {
        return err_set(e, ENOTSUP, "chardev: socket addresses of type 'vsock' are not supported");
    }
    json_object_object_foreach(data, key, value)
    {
        if (g_strv_contains(taken, key)) {
            json_object_object_add(to, key, json_object_get(value));
        } else if (strcmp(key, "str")) {
            return err_set(e, ENOTSUP, "chardev: '%s' of a socket address is not supported", key);
        }
    }
    if (!strcmp(type, "fd")) {
        const char *name = json_object_get_string(get(data, "str"));
        int fd = monitor_take_fd(c->mon, name);
        if (fd < 0 && !g_ascii_isdigit(name[0])) {
            return err_set(e, ENOENT, "File descriptor named '%s' has not been found", name);
        }
        CLEANUP_FREE char *number = fd >= 0 ? g_strdup_printf("%d", fd) : g_strdup(name);
        json_object_object_add(to, "fd", json_object_new_string(number));
    }
    return 0;
}

static int flatten_backend(struct mon_ctx *c, const struct qmp_chardev_add_args *a, struct json_object *to,
                           struct err *e)
{
    static const char *const same[] = {"logfile", "logappend", "append",       "server", "wait",
                                       "nodelay", "reconnect", "reconnect-ms", "signal", NULL};
    const char *type = json_object_get_string(get(a->backend, "type"));
    struct json_object *data = get(a->backend, "data");
    struct json_object *addr = get(data, "addr");
    json_object_object_add(to, "id", json_object_new_string(a->id));
    json_object_object_add(to, "backend", json_object_new_string(type));
    for (const char *const *key = same; *key; key++) {
        give(to, data, *key);
    }
    if (get(data, "out")) {
        json_object_object_add(to, "path", json_object_get(get(data, "out")));
    }
    if (get(data, "in")) {
        json_object_object_add(to, "input-path", json_object_get(get(data, "in")));
    }
    if (addr) {
        /* Unlike on the command line, a server is the default, and it does not wait. */
        if (!get(data, "server")) {
            json_object_object_add(to, "server", json_object_new_boolean(true));
        }
        if (!get(data, "wait") && json_object_get_boolean(get(to, "server"))) {
            json_object_object_add(to, "wait", json_object_new_boolean(false));
        }
        return flatten_address(c, addr, to, e);
    }
    return 0;
}

int qmp_chardev_add(struct mon_ctx *c, const struct qmp_chardev_add_args *a, struct json_object **ret, struct err *e)
{
    CLEANUP_JSON struct json_object *opts = json_object_new_object();
    if (!c->env->chardevs) {
        return err_set(e, ENOTSUP, "chardev-add: this program has no character devices");
    }
    if (find(c, a->id)) {
        return err_set(e, EEXIST, "Chardev with id '%s' already exists", a->id);
    }
    int rc = flatten_backend(c, a, opts, e);
    struct chardev *chr = rc ? NULL : chardev_create(c->env->loop, opts, e);
    if (!chr) {
        return rc ? rc : -e->code;
    }
    g_ptr_array_add(c->env->chardevs, chr);
    make_up_note_chardev(c->env, opts);
    *ret = json_object_new_object();
    CLEANUP_FREE char *filename = chardev_filename(chr);
    if (g_str_has_prefix(filename, "pty:")) {
        json_object_object_add(*ret, "pty", json_object_new_string(filename + 4));
    }
    return 0;
}

int qmp_chardev_remove(struct mon_ctx *c, const struct qmp_chardev_remove_args *a, struct json_object **ret,
                       struct err *e)
{
    struct chardev *chr = find(c, a->id);
    if (!chr) {
        return err_set(e, ENOENT, "Chardev '%s' not found", a->id);
    }
    if (chardev_in_use(chr)) {
        return err_set(e, EBUSY, "Chardev '%s' is busy", a->id);
    }
    g_ptr_array_remove(c->env->chardevs, chr);
    chardev_destroy(chr);
    return 0;
}
