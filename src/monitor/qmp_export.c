/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_export.h"

#include "base/cleanup.h"
#include "base/id.h"
#include "export/nbd/nbd.h"
#include "monitor/check.h"
#include "monitor/device_arg.h"
#include "monitor/monitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- where the server listens ------------------------------------------------------------------------------------- */

/* What `ipv4` and `ipv6` ask for. */
static int wanted_family(struct json_object *o, int *family, struct err *e)
{
    bool has4 = schema_has(o, "ipv4"), has6 = schema_has(o, "ipv6");
    bool on4 = schema_bool(o, "ipv4"), on6 = schema_bool(o, "ipv6");
    if (has4 && has6 && !on4 && !on6) {
        return err_set(e, EINVAL, "Cannot disable IPv4 and IPv6 at same time");
    }
    *family = on4 && on6 ? AF_UNSPEC : on6 || (has4 && !on4) ? AF_INET6 : on4 || (has6 && !on6) ? AF_INET : AF_UNSPEC;
    return 0;
}

static int listen_inet(struct json_object *o, GArray *fds, struct err *e)
{
    static const char *const refused[] = {"numeric", "keep-alive", "mptcp"};
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        if (schema_bool(o, refused[i])) {
            return err_set(e, ENOTSUP, "'%s' of a socket address is not supported for the NBD server", refused[i]);
        }
    }
    const char *host = schema_str(o, "host"), *port = schema_str(o, "port");
    int family = AF_UNSPEC, rc = wanted_family(o, &family, e);
    if (rc || !schema_has(o, "to")) {
        return rc ? rc : nbd_listen_inet(host, port, family, fds, e);
    }
    char *end;
    unsigned long first = strtoul(port, &end, 10), last = schema_uint(o, "to");
    if (!*port || *end || first > last) {
        return err_set(e, EINVAL, "'to' must not be lower than 'port', a number");
    }
    for (unsigned long p = first; p <= last; p++) {
        char number[16];
        g_snprintf(number, sizeof(number), "%lu", p);
        err_clear(e);
        rc = nbd_listen_inet(host, number, family, fds, e);
        if (rc != -EADDRINUSE) {
            break;
        }
    }
    return rc;
}

static int listen_unix(struct json_object *o, GArray *fds, struct err *e)
{
    const char *path = schema_str(o, "path");
    return schema_bool(o, "abstract")
               ? nbd_listen_abstract(path, !schema_has(o, "tight") || schema_bool(o, "tight"), fds, e)
               : nbd_listen_unix(path, fds, e);
}

/* By a name that `getfd` gave it, or by its number. */
static int listen_fd(struct mon_ctx *c, const char *name, GArray *fds, struct err *e)
{
    int fd = c->mon ? monitor_take_fd(c->mon, name) : -1;
    if (fd < 0 && !g_ascii_isdigit(name[0])) {
        return err_set(e, ENOENT, "File descriptor named '%s' has not been found", name);
    }
    return nbd_listen_fd(fd < 0 ? atoi(name) : fd, fds, e);
}

static int listen_at(struct mon_ctx *c, struct json_object *addr, GArray *fds, struct err *e)
{
    const char *type = schema_str(addr, "type");
    struct json_object *data = schema_any(addr, "data");
    return !strcmp(type, "inet")   ? listen_inet(data, fds, e)
           : !strcmp(type, "unix") ? listen_unix(data, fds, e)
           : !strcmp(type, "fd")   ? listen_fd(c, schema_str(data, "str"), fds, e)
                                   : err_set(e, ENOTSUP, "NBD server: addresses of type '%s' are not supported", type);
}

/* --- the server --------------------------------------------------------------------------------------------------- */

static void start(struct mon_ctx *c, const struct nbd_server_options *o, const GArray *fds)
{
    c->env->nbd = nbd_server_create(o);
    for (guint i = 0; i < fds->len; i++) {
        nbd_server_listen(c->env->nbd, g_array_index(fds, int, i));
    }
}

int qmp_nbd_server_start(struct mon_ctx *c, const struct qmp_nbd_server_start_args *a, struct json_object **ret,
                         struct err *e)
{
    struct nbd_server_options o = {
        .graph = c->env->graph,
        .authz = a->tls_authz,
        .max_connections = a->has_max_connections ? (unsigned)a->max_connections : NBD_MAX_CONNECTIONS,
        .handshake_seconds = a->has_handshake_max_seconds ? (unsigned)a->handshake_max_seconds : NBD_HANDSHAKE_SECONDS};
    if (c->env->nbd) {
        return err_set(e, EBUSY, "NBD server already running");
    }
    if (a->tls_authz && !a->tls_creds) {
        return err_set(e, EINVAL, "'tls-authz' judges who TLS says a client is: it needs 'tls-creds'");
    }
    int rc = a->tls_creds ? nbd_find_credentials(c->env->objects, a->tls_creds, true, &o.tls, e) : 0;
    if (rc) {
        return rc;
    }
    g_autoptr(GArray) fds = g_array_new(false, false, sizeof(int));
    rc = listen_at(c, a->addr, fds, e);
    if (rc) {
        return rc;
    }
    start(c, &o, fds);
    return 0;
}

static int need_server(struct mon_ctx *c, struct err *e)
{
    return c->env->nbd ? 0 : err_set(e, ENODEV, "NBD server not running");
}

int qmp_nbd_server_stop(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    int rc = need_server(c, e);
    if (!rc) {
        nbd_server_destroy(take(c->env->nbd));
    }
    return rc;
}

/* --- exports ------------------------------------------------------------------------------------------------------ */

int qmp_nbd_server_add(struct mon_ctx *c, const struct qmp_nbd_server_add_args *a, struct json_object **ret,
                       struct err *e)
{
    struct device_arg d = {0};
    int rc = need_server(c, e);
    rc = rc ? rc : device_arg_find(c, a->device, &d, e);
    if (rc) {
        return rc;
    }
    struct nbd_bitmap_ref bitmap = {.name = a->bitmap};
    struct nbd_export_options o = {.node = d.node,
                                   .backend = backend_find(c->env->graph, a->device),
                                   .name = a->name ? a->name : a->device,
                                   .description = a->description,
                                   .writable = a->writable && !d.node->read_only,
                                   .bitmaps = &bitmap,
                                   .n_bitmaps = a->bitmap ? 1 : 0};
    return nbd_export_add(c->env->nbd, &o, NULL, e);
}

static struct nbd_bitmap_ref *bitmap_refs(struct json_object *list, size_t *n)
{
    *n = list ? json_object_array_length(list) : 0;
    struct nbd_bitmap_ref *refs = g_new0(struct nbd_bitmap_ref, *n + 1);
    for (size_t i = 0; i < *n; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        bool local = json_object_is_type(o, json_type_string);
        refs[i].name = local ? json_object_get_string(o) : schema_str(o, "name");
        refs[i].node = local ? NULL : schema_str(o, "node");
    }
    return refs;
}

/* What all kinds have in common. */
static int check_export(struct mon_ctx *c, struct json_object *o, struct node **n, struct err *e)
{
    const char *id = schema_str(o, "id"), *thread = schema_str(o, "iothread");
    if (!id_wellformed(id)) {
        return err_set(e, EINVAL, "Invalid block export id");
    }
    if (c->env->nbd && nbd_export_find_id(c->env->nbd, id)) {
        return err_set(e, EEXIST, "Block export id '%s' is already in use", id);
    }
    *n = node_lookup(c->env->graph, schema_str(o, "node-name"), e);
    if (!*n) {
        return -ENOENT;
    }
    if (thread && !graph_object(c->env->graph, "iothread", thread)) {
        return err_set(e, ENOENT, "iothread \"%s\" not found", thread);
    }
    return 0;
}

int qmp_block_export_add(struct mon_ctx *c, const struct qmp_block_export_add_args *a, struct json_object **ret,
                         struct err *e)
{
    struct json_object *args = a->options;
    struct node *n = NULL;
    int rc = check_export(c, args, &n, e);
    rc = rc ? rc : need_server(c, e);
    if (rc) {
        return rc;
    }
    size_t n_bitmaps;
    g_autofree struct nbd_bitmap_ref *bitmaps = bitmap_refs(schema_any(args, "bitmaps"), &n_bitmaps);
    struct nbd_export_options o = {.id = schema_str(args, "id"),
                                   .node = n,
                                   .name = schema_str(args, schema_has(args, "name") ? "name" : "node-name"),
                                   .description = schema_str(args, "description"),
                                   .writable = schema_bool(args, "writable"),
                                   .writethrough = schema_bool(args, "writethrough"),
                                   .allocation_depth = schema_bool(args, "allocation-depth"),
                                   .bitmaps = bitmaps,
                                   .n_bitmaps = n_bitmaps};
    return nbd_export_add(c->env->nbd, &o, NULL, e);
}

static int del(struct mon_ctx *c, const char *id, bool hard, struct err *e)
{
    struct nbd_export *exp = c->env->nbd ? nbd_export_find_id(c->env->nbd, id) : NULL;
    if (!exp) {
        return err_set(e, ENOENT, "Export '%s' is not found", id);
    }
    if (hard && !nbd_export_shutting_down(exp)) {
        nbd_export_shut_down(exp);
        return 0;
    }
    return nbd_export_remove(exp, false, e);
}

int qmp_block_export_del(struct mon_ctx *c, const struct qmp_block_export_del_args *a, struct json_object **ret,
                         struct err *e)
{
    return del(c, a->id, a->has_mode && a->mode == QMP_BLOCK_EXPORT_REMOVE_MODE_HARD, e);
}

int qmp_nbd_server_remove(struct mon_ctx *c, const struct qmp_nbd_server_remove_args *a, struct json_object **ret,
                          struct err *e)
{
    int rc = need_server(c, e);
    return rc ? rc : del(c, a->name, a->has_mode && a->mode == QMP_BLOCK_EXPORT_REMOVE_MODE_HARD, e);
}

int qmp_query_block_exports(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    struct nbd_export *exp;
    unsigned n = 0;
    *ret = json_object_new_array();
    while (c->env->nbd && nbd_server_export(c->env->nbd, n)) {
        n++;
    }
    while (n-- && (exp = nbd_server_export(c->env->nbd, n))) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "node-name", json_object_new_string(nbd_export_node(exp)->name));
        json_object_object_add(o, "shutting-down", json_object_new_boolean(nbd_export_shutting_down(exp)));
        json_object_object_add(o, "type", json_object_new_string("nbd"));
        json_object_object_add(o, "id", json_object_new_string(nbd_export_id(exp)));
        json_object_array_add(*ret, o);
    }
    return 0;
}
