/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

/* "host:port", "[host]:port", "tcp:host:port", "unix:path", "fd:name" as a SocketAddressLegacy. */
static struct json_object *parse_address(const char *text, struct err *e)
{
    struct json_object *addr = json_object_new_object(), *data = json_object_new_object();
    const char *type = "inet";
    json_object_object_add(addr, "data", data);
    if (g_str_has_prefix(text, "unix:") || g_str_has_prefix(text, "fd:")) {
        bool fd = text[0] == 'f';
        type = fd ? "fd" : "unix";
        json_object_object_add(data, fd ? "str" : "path", json_object_new_string(strchr(text, ':') + 1));
    } else {
        text += g_str_has_prefix(text, "tcp:") ? strlen("tcp:") : 0;
        const char *colon = strrchr(text, ':');
        if (!colon || !colon[1]) {
            json_object_put(addr);
            err_set(e, EINVAL, "error parsing address '%s': expected HOST:PORT or unix:PATH", text);
            return NULL;
        }
        bool v6 = text[0] == '[' && colon > text + 1 && colon[-1] == ']';
        CLEANUP_FREE char *host = g_strndup(text + v6, (size_t)(colon - text) - (v6 ? 2 : 0));
        json_object_object_add(data, "host", json_object_new_string(host));
        json_object_object_add(data, "port", json_object_new_string(colon + 1));
    }
    json_object_object_add(addr, "type", json_object_new_string(type));
    return addr;
}

static int add_export(struct mon_ctx *c, const char *device, const char *name, bool writable, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "device", json_object_new_string(device));
    json_object_object_add(o, "writable", json_object_new_boolean(writable));
    if (name) {
        json_object_object_add(o, "name", json_object_new_string(name));
    }
    return hmp_qmp(c, "nbd-server-add", o, e);
}

static int add_all(struct mon_ctx *c, bool writable, struct err *e)
{
    CLEANUP_JSON struct json_object *disks = NULL;
    int rc = qmp_call(c, "query-block", NULL, &disks, e);
    for (size_t i = 0; !rc && i < json_object_array_length(disks); i++) {
        struct json_object *disk = json_object_array_get_idx(disks, i);
        const char *name = hmp_str(disk, "device");
        if (hmp_any(disk, "inserted")) {
            rc = add_export(c, name[0] ? name : hmp_str(disk, "qdev"), NULL, writable, e);
        }
    }
    if (rc) {
        hmp_qmp(c, "nbd-server-stop", NULL, NULL);
    }
    return rc;
}

static int nbd_server_start(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    bool all = hmp_bool(args, "all"), writable = hmp_bool(args, "writable");
    if (writable && !all) {
        return err_set(e, EINVAL, "-w only valid together with -a");
    }
    struct json_object *addr = parse_address(hmp_str(args, "uri"), e);
    if (!addr) {
        return -EINVAL;
    }
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "addr", addr);
    int rc = hmp_qmp(c, "nbd-server-start", o, e);
    return rc || !all ? rc : add_all(c, writable, e);
}

static int nbd_server_add(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const char *name = hmp_any(args, "name") ? hmp_str(args, "name") : NULL;
    return add_export(c, hmp_str(args, "device"), name, hmp_bool(args, "writable"), e);
}

static int nbd_server_remove(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(hmp_str(args, "name")));
    json_object_object_add(o, "mode", json_object_new_string(hmp_bool(args, "force") ? "hard" : "safe"));
    return hmp_qmp(c, "nbd-server-remove", o, e);
}

static int nbd_server_stop(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "nbd-server-stop", NULL, e);
}

const struct hmp_command hmp_export_commands[] = {
    {"nbd_server_start", "all:-a,writable:-w,uri:s", "[-a] [-w] host:port",
     "serve block devices on the given host and port (-a: export all; -w: clients may write)", nbd_server_start},
    {"nbd_server_add", "writable:-w,device:B,name:s?", "[-w] device [name]",
     "export a block device via NBD (-w: clients may write)", nbd_server_add},
    {"nbd_server_remove", "force:-f,name:s", "[-f] name",
     "remove an export previously exposed via NBD (-f: even if there are clients)", nbd_server_remove},
    {"nbd_server_stop", "", "", "stop serving block devices using the NBD protocol", nbd_server_stop},
    {NULL},
};
