/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/nbd/address.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/options.h"

#include <string.h>
#include <sys/socket.h>

#define DEFAULT_PORT "10809"

/* --- options ---------------------------------------------------------------------------------------------------- */

/* ipv4 and ipv6 are "yes", "no" or not said. */
static int read_family(struct jread *r, int *family, struct err *e)
{
    bool has4 = jread_has(r, "ipv4"), has6 = jread_has(r, "ipv6");
    bool on4 = jread_bool_or(r, "ipv4", false), on6 = jread_bool_or(r, "ipv6", false);
    if (has4 && has6 && !on4 && !on6) {
        return err_set(e, EINVAL, "Cannot disable IPv4 and IPv6 at same time");
    }
    bool want4 = has4 ? on4 : !on6, want6 = has6 ? on6 : !on4;
    *family = want4 == want6 ? AF_UNSPEC : want4 ? AF_INET : AF_INET6;
    return 0;
}

/* A port may be given as a number. */
static char *read_text(struct jread *r, const char *key)
{
    struct json_object *v = jread_any(r, key);
    return json_object_is_type(v, json_type_int) ? g_strdup(json_object_get_string(v)) : g_strdup(jread_str(r, key));
}

static int read_server(struct nbd_address *a, struct json_object *server, struct err *e)
{
    static const char *const types[] = {"inet", "unix", "vsock", "fd", NULL};
    struct jread r = jread_init(server, NULL, e);
    int rc = 0;
    if (!*jread_str(&r, "type")) {
        return jread_end_lax(&r);
    }
    a->type = (enum nbd_address_type)jread_enum_or(&r, "type", types, NBD_INET);
    switch (a->type) {
    case NBD_INET:
        a->host = read_text(&r, "host");
        a->port = read_text(&r, "port");
        a->numeric = jread_bool_or(&r, "numeric", false);
        a->keep_alive = jread_bool_or(&r, "keep-alive", false);
        a->mptcp = jread_bool_or(&r, "mptcp", false);
        rc = read_family(&r, &a->family, e);
        break;
    case NBD_UNIX:
        a->path = read_text(&r, "path");
        a->abstract = jread_bool_or(&r, "abstract", false);
        a->tight = jread_bool_or(&r, "tight", true);
        break;
    case NBD_VSOCK:
        a->host = read_text(&r, "cid");
        a->port = read_text(&r, "port");
        break;
    default:
        a->fd = read_text(&r, "str");
    }
    int end = rc ? jread_end_lax(&r) : jread_end(&r);
    return rc ? rc : end;
}

static char *option_text(struct json_object *options, const char *key)
{
    struct json_object *v;
    return json_has(options, key, &v) ? g_strdup(json_object_get_string(v)) : NULL;
}

int nbd_address_read(struct nbd_address *a, struct json_object *options, struct err *e)
{
    struct json_object *server = NULL;
    *a = (struct nbd_address){.type = NBD_INET, .family = AF_UNSPEC, .tight = true};
    bool has_server = json_has(options, "server", &server), has_path = json_has(options, "path", NULL);
    bool has_host = json_has(options, "host", NULL), has_port = json_has(options, "port", NULL);
    if (has_server && (has_path || has_host || has_port)) {
        return err_set(e, EINVAL, "Cannot use 'server' and path/host/port at the same time");
    }
    if (has_path && has_host) {
        return err_set(e, EINVAL, "path and host may not be used at the same time");
    }
    if (has_port && !has_host) {
        return err_set(e, EINVAL, "port may not be used without host");
    }
    if (has_path) {
        a->type = NBD_UNIX;
        a->path = option_text(options, "path");
        return 0;
    }
    if (has_host) {
        a->host = option_text(options, "host");
        a->port = has_port ? option_text(options, "port") : g_strdup(DEFAULT_PORT);
        return 0;
    }
    if (!json_object_is_type(server, json_type_object)) {
        return err_set(e, EINVAL, "NBD server address missing");
    }
    int rc = read_server(a, server, e);
    if (rc < 0) {
        nbd_address_finish(a);
    }
    return rc;
}

void nbd_address_finish(struct nbd_address *a)
{
    g_free(a->host);
    g_free(a->port);
    g_free(a->path);
    g_free(a->fd);
    a->host = a->port = a->path = a->fd = NULL;
}

/* --- as text ---------------------------------------------------------------------------------------------------- */

char *nbd_address_text(const struct nbd_address *a)
{
    switch (a->type) {
    case NBD_UNIX:
        return g_strdup(a->path);
    case NBD_FD:
        return g_strdup(a->fd);
    default:
        return g_strdup_printf("%s:%s", a->host, a->port);
    }
}

/* Only what would be taken for another part of the name is escaped: names stay readable. */
static char *escaped(const char *s, const char *special)
{
    GString *out = g_string_new(NULL);
    for (; *s; s++) {
        if (*s == '%' || strchr(special, *s)) {
            g_string_append_printf(out, "%%%02X", (unsigned char)*s);
        } else {
            g_string_append_c(out, *s);
        }
    }
    return g_string_free(out, FALSE);
}

char *nbd_address_filename(const struct nbd_address *a, const char *export_name, bool tls)
{
    const char *s = tls ? "s" : "";
    CLEANUP_FREE char *name = export_name ? escaped(export_name, "?#") : NULL;
    if (a->type == NBD_UNIX && !a->abstract) {
        CLEANUP_FREE char *path = escaped(a->path, "&#+");
        return g_strdup_printf("nbd%s+unix://%s%s?socket=%s", s, name ? "/" : "", name ? name : "", path);
    }
    if (a->type != NBD_INET) {
        return NULL;
    }
    const char *open = strchr(a->host, ':') ? "[" : "", *close = *open ? "]" : "";
    return g_strdup_printf("nbd%s://%s%s%s:%s%s%s", s, open, a->host, close, a->port, name ? "/" : "",
                           name ? name : "");
}

/* --- file names ------------------------------------------------------------------------------------------------- */

static void put(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

/* Takes what it is given. */
static void put_inet(struct json_object *server, char *host, char *port)
{
    put(server, "type", "inet");
    put(server, "host", host);
    put(server, "port", port);
    g_free(host);
    g_free(port);
}

static void put_unix(struct json_object *server, const char *path)
{
    put(server, "type", "unix");
    put(server, "path", path);
}

/* "host:port", "[host]:port", "host"; no port: the default one when `port` may be missing. */
static int put_host_port(struct json_object *server, const char *text, bool need_port)
{
    const char *host = text, *end;
    size_t len;
    if (*text == '[') {
        host = text + 1;
        len = strcspn(host, "]");
        if (!host[len]) {
            return -EINVAL;
        }
        end = host + len + 1;
    } else {
        len = strcspn(host, ":");
        end = host + len;
    }
    bool has_port = *end == ':' && end[1];
    if ((*end && *end != ':') || (need_port && !has_port)) {
        return -EINVAL;
    }
    put_inet(server, g_strndup(host, len), g_strdup(has_port ? end + 1 : DEFAULT_PORT));
    return 0;
}

/* "socket=path" and nothing else. */
static char *socket_of_query(const char *query)
{
    if (strncmp(query, "socket=", 7) != 0 || strchr(query, '&')) {
        return NULL;
    }
    return g_uri_unescape_string(query + 7, NULL);
}

/* The name without its scheme: "//authority/path?query". */
static int parse_uri(const char *rest, bool is_unix, struct json_object *server, char **export_name)
{
    if (strncmp(rest, "//", 2) != 0) {
        return -EINVAL;
    }
    CLEANUP_FREE char *text = g_strndup(rest + 2, strcspn(rest + 2, "#"));
    char *query = strchr(text, '?');
    if (query) {
        *query++ = '\0';
    }
    char *path = strchr(text, '/');
    if (path) {
        *path++ = '\0';
        *export_name = *path ? g_uri_unescape_string(path, NULL) : NULL;
        if (*path && !*export_name) {
            return -EINVAL;
        }
    }
    if (is_unix) {
        CLEANUP_FREE char *socket_path = *text || !query ? NULL : socket_of_query(query);
        if (!socket_path) {
            return -EINVAL;
        }
        put_unix(server, socket_path);
        return 0;
    }
    char *user_end = strrchr(text, '@');
    const char *authority = user_end ? user_end + 1 : text;
    CLEANUP_FREE char *plain = g_uri_unescape_string(authority, NULL);
    return query || !plain || !*plain || *plain == ':' ? -EINVAL : put_host_port(server, plain, false);
}

/* "unix:path:exportname=x", "host:port:exportname=x" */
static int parse_legacy(const char *text, struct json_object *server, char **export_name, struct err *e)
{
    static const char mark[] = ":exportname=";
    const char *name = strstr(text, mark);
    if (name && !name[sizeof(mark) - 1]) {
        return err_set(e, EINVAL, "NBD server address missing");
    }
    CLEANUP_FREE char *where = name ? g_strndup(text, (size_t)(name - text)) : g_strdup(text);
    *export_name = name ? g_strdup(name + sizeof(mark) - 1) : NULL;
    if (!*where) {
        return err_set(e, EINVAL, "NBD server address missing");
    }
    if (!strncmp(where, "unix:", 5)) {
        put_unix(server, where + 5);
        return 0;
    }
    return put_host_port(server, where, true) ? err_set(e, EINVAL, "error parsing address '%s'", where) : 0;
}

int nbd_parse_filename(const char *filename, struct json_object *options, struct err *e)
{
    static const char *const keys[] = {"server", "host", "port", "path"};
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (json_has(options, keys[i], NULL)) {
            return err_set(e, EINVAL, "host/port/path and file names may not be specified at the same time");
        }
    }
    CLEANUP_JSON struct json_object *server = json_object_new_object();
    CLEANUP_FREE char *export_name = NULL;
    const char *rest = filename + strcspn(filename, ":");
    size_t scheme = (size_t)(rest - filename);
    bool is_unix = scheme > 5 && !strncmp(rest - 5, "+unix", 5), tls = !strncmp(filename, "nbds", 4);
    int rc;
    if (strstr(filename, "://") || scheme > 3) {
        rc = parse_uri(*rest ? rest + 1 : rest, is_unix, server, &export_name);
        if (rc < 0) {
            return err_set(e, EINVAL, "No valid URL specified");
        }
    } else {
        rc = parse_legacy(rest + 1, server, &export_name, e);
        if (rc < 0) {
            return rc;
        }
    }
    json_object_object_add(options, "server", take(server));
    if (export_name && !json_has(options, "export", NULL)) {
        put(options, "export", export_name);
    }
    if (tls) {
        json_object_object_add(options, "tls", json_object_new_boolean(true));
    }
    return 0;
}
