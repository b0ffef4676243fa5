/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "machine/machine.h"

#include <inttypes.h>
#include <string.h>

static int device_add(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "device_add", hmp_any(args, "device"), e);
}

static int device_del(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "device_del", args, e);
}

static int object_add(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "object-add", hmp_any(args, "object"), e);
}

static int object_del(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "object-del", args, e);
}

static int qom_list(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    if (!hmp_any(args, "path")) {
        mon_printf(c, "/\n");
        return 0;
    }
    int rc = qmp_call(c, "qom-list", args, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "%s (%s)\n", hmp_str(o, "name"), hmp_str(o, "type"));
    }
    return rc;
}

static int qom_get(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *value = NULL;
    int rc = qmp_call(c, "qom-get", args, &value, e);
    if (rc == 0) {
        mon_printf(c, "%s\n", json_object_to_json_string_ext(value, JSON_C_TO_STRING_NOSLASHESCAPE));
    }
    return rc;
}

static int info_qtree(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const struct vm *vm = c->env->vm;
    mon_printf(c, "bus: main-system-bus\n  type System\n");
    for (guint i = 0; vm && i < vm->devices->len; i++) {
        const struct device *d = g_ptr_array_index(vm->devices, i);
        mon_printf(c, "  dev: %s, id \"%s\"\n", d->cls->name, d->id ? d->id : "");
        if (d->cls->bus) {
            mon_printf(c, "    bus = \"%s\"\n", d->cls->bus);
        }
        json_object_object_foreach(d->props, key, value)
        {
            mon_printf(c, "    %s = %s\n", key, json_object_to_json_string_ext(value, JSON_C_TO_STRING_NOSLASHESCAPE));
        }
    }
    return 0;
}

static int info_iothreads(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-iothreads", NULL, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "%s:\n  thread_id=%" PRId64 "\n  poll-max-ns=%" PRId64 "\n", hmp_str(o, "id"),
                   hmp_int(o, "thread-id"), hmp_int(o, "poll-max-ns"));
    }
    return rc;
}

const struct hmp_command hmp_qom_commands[] = {
    {"device_add", "device:O", "driver[,prop=value][,...]", "add device, like -device on the command line", device_add},
    {"device_del", "id:s", "device", "remove device", device_del},
    {"object_add", "object:O", "[qom-type=]type,id=str[,prop=value][,...]", "create QOM object", object_add},
    {"object_del", "id:s", "id", "destroy QOM object", object_del},
    {"qom-list", "path:s?", "path", "list QOM properties", qom_list},
    {"qom-get", "path:s,property:s", "path property", "print QOM property", qom_get},
    {NULL},
};

const struct hmp_command hmp_qom_info[] = {
    {"qtree", "", "", "show device tree", info_qtree},
    {"iothreads", "", "", "show iothreads", info_iothreads},
    {NULL},
};
