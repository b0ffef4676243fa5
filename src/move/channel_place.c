/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/channel_place.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* --- an address of a socket ---------------------------------------------------------------------------------------
 */

static const char *text_of(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

/* A number that is none would be taken for what is left of it in 16 bits; names of services are looked up. */
static int check_port(const struct nbd_address *a, struct err *e)
{
    bool number = a->type == NBD_INET && a->port && !a->port[strspn(a->port, "0123456789")];
    return number && g_ascii_strtoull(a->port, NULL, 10) > UINT16_MAX
               ? err_set(e, EINVAL, "error parsing address '%s:%s': ports go up to %d", a->host, a->port, UINT16_MAX)
               : 0;
}

static int read_socket(struct channel_place *p, struct json_object *addr, struct err *e)
{
    CLEANUP_JSON struct json_object *options = json_object_new_object();
    struct json_object *server = NULL, *to;
    json_object_deep_copy(addr, &server, NULL);
    json_object_object_del(server, "transport");
    if (json_object_object_get_ex(server, "to", &to)) {
        p->last_port = (unsigned)json_object_get_int(to);
        json_object_object_del(server, "to");
    }
    json_object_object_add(options, "server", server);
    int rc = nbd_address_read(&p->socket, options, e);
    rc = rc < 0 ? rc : check_port(&p->socket, e);
    if (rc < 0) {
        return rc;
    }
    if (p->socket.type == NBD_VSOCK) {
        return err_set(e, ENOTSUP, "Machines are not moved over addresses of type 'vsock': use 'inet', 'unix' or 'fd'");
    }
    p->scheme = TO_SOCKET;
    if (p->socket.type == NBD_FD) {
        p->scheme = TO_FD;
        p->text = g_strdup(p->socket.fd);
    }
    CLEANUP_FREE char *text = nbd_address_text(&p->socket);
    static const char *const prefixes[] = {[NBD_INET] = "tcp", [NBD_UNIX] = "unix", [NBD_FD] = "fd"};
    p->name = g_strdup_printf("%s:%s", prefixes[p->socket.type], text);
    return 0;
}

/* --- URIs ---------------------------------------------------------------------------------------------------------
 */

static int parse_unix(struct channel_place *p, const char *text, struct err *e)
{
    p->scheme = TO_SOCKET;
    p->socket = (struct nbd_address){.type = NBD_UNIX, .path = g_strdup(text), .tight = true};
    return 0;
}

/* "HOST:PORT[,to=PORT][,ipv4[=on|off]]…": what follows the comma is as in the form in parts. */
static int parse_tcp(struct channel_place *p, const char *text, struct err *e)
{
    CLEANUP_JSON struct json_object *addr = json_object_new_object();
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    char *host = words[0], *colon = strrchr(host, ':');
    if (!colon || !colon[1]) {
        return err_set(e, EINVAL, "error parsing address '%s': the port is missing (tcp:HOST:PORT)", text);
    }
    *colon = 0;
    if (host[0] == '[' && colon > host + 1 && colon[-1] == ']') {
        colon[-1] = 0;
        host++;
    }
    json_object_object_add(addr, "type", json_object_new_string("inet"));
    json_object_object_add(addr, "host", json_object_new_string(host));
    json_object_object_add(addr, "port", json_object_new_string(colon + 1));
    for (char **word = words + 1; *word; word++) {
        char *value = strchr(*word, '=');
        if (value) {
            *value++ = 0;
        }
        json_object_object_add(addr, *word, json_object_new_string(value ? value : "on"));
    }
    const char *to = text_of(addr, "to");
    uint64_t last;
    return *to && !(g_ascii_string_to_unsigned(to, 10, 1, UINT16_MAX, &last, NULL))
               ? err_set(e, EINVAL, "error parsing address '%s': 'to' is the last port to try, a number up to 65535",
                         text)
               : read_socket(p, addr, e);
}

static int parse_fd(struct channel_place *p, const char *text, struct err *e)
{
    p->scheme = TO_FD;
    p->text = g_strdup(text);
    return 0;
}

static int parse_exec(struct channel_place *p, const char *text, struct err *e)
{
    const char *const argv[] = {"/bin/sh", "-c", text, NULL};
    p->scheme = TO_EXEC;
    p->argv = g_strdupv((char **)(uintptr_t)argv);
    return 0;
}

static int parse_file(struct channel_place *p, const char *text, struct err *e)
{
    const char *comma = strstr(text, ",offset=");
    char *end;
    p->scheme = TO_FILE;
    p->text = comma ? g_strndup(text, (size_t)(comma - text)) : g_strdup(text);
    if (!comma) {
        return 0;
    }
    const char *number = comma + strlen(",offset=");
    bool hex = g_str_has_prefix(number, "0x") || g_str_has_prefix(number, "0X");
    errno = 0;
    p->offset = hex ? g_ascii_strtoull(number + 2, &end, 16) : 0;
    int rc = !hex ? parse_size(number, &p->offset) : end == number + 2 || *end ? -EINVAL : -errno;
    rc = rc == 0 && p->offset > INT64_MAX ? -ERANGE : rc;
    return rc < 0 ? err_set(e, EINVAL, "file URI has bad offset %s: %s (a number of bytes, or with K, M, G or T)",
                            number, strerror(-rc))
                  : 0;
}

static int parse_uri(struct channel_place *p, const char *uri, struct err *e)
{
    static const struct {
        const char *prefix;
        int (*parse)(struct channel_place *p, const char *text, struct err *e);
    } schemes[] = {
        {"unix:", parse_unix}, {"tcp:", parse_tcp}, {"fd:", parse_fd}, {"exec:", parse_exec}, {"file:", parse_file}};
    for (unsigned i = 0; i < G_N_ELEMENTS(schemes); i++) {
        if (g_str_has_prefix(uri, schemes[i].prefix)) {
            const char *text = uri + strlen(schemes[i].prefix);
            int rc =
                *text ? schemes[i].parse(p, text, e) : err_set(e, EINVAL, "'%s' says nothing behind the colon", uri);
            g_free(p->name);
            p->name = g_strdup(uri);
            return rc;
        }
    }
    return err_set(e, EINVAL, "unknown migration protocol: %s", uri);
}

/* --- a MigrationChannel -------------------------------------------------------------------------------------------
 */

static int read_exec(struct channel_place *p, struct json_object *addr, struct err *e)
{
    struct json_object *args = json_object_object_get(addr, "args");
    size_t n = json_object_array_length(args);
    if (!n) {
        return err_set(e, EINVAL, "Parameter 'args' of transport 'exec' names no command");
    }
    p->scheme = TO_EXEC;
    p->argv = g_new0(char *, n + 1);
    for (size_t i = 0; i < n; i++) {
        p->argv[i] = g_strdup(json_object_get_string(json_object_array_get_idx(args, i)));
    }
    CLEANUP_FREE char *text = g_strjoinv(" ", p->argv);
    p->name = g_strdup_printf("exec:%s", text);
    return 0;
}

static int read_file(struct channel_place *p, struct json_object *addr, struct err *e)
{
    p->scheme = TO_FILE;
    p->text = g_strdup(text_of(addr, "filename"));
    p->name = g_strdup_printf("file:%s", p->text);
    p->offset = json_object_get_uint64(json_object_object_get(addr, "offset"));
    return p->offset > INT64_MAX ? err_set(e, EINVAL, "%s: the offset is behind the end of any file", p->name) : 0;
}

static int read_channels(struct channel_place *p, struct json_object *channels, struct err *e)
{
    if (json_object_array_length(channels) != 1) {
        return err_set(e, EINVAL, "%s",
                       json_object_array_length(channels) ? "Channel list has more than one main entry"
                                                          : "Channel list has no main entry");
    }
    struct json_object *addr = json_object_object_get(json_object_array_get_idx(channels, 0), "addr");
    const char *transport = text_of(addr, "transport");
    return !strcmp(transport, "socket") ? read_socket(p, addr, e)
           : !strcmp(transport, "exec") ? read_exec(p, addr, e)
                                        : read_file(p, addr, e);
}

int channel_place_read(struct channel_place *p, const char *uri, struct json_object *channels, struct err *e)
{
    *p = (struct channel_place){0};
    if (!uri == !channels) {
        return err_set(e, EINVAL, "need either 'uri' or 'channels' argument");
    }
    int rc = uri ? parse_uri(p, uri, e) : read_channels(p, channels, e);
    if (rc < 0) {
        channel_place_finish(p);
    }
    return rc;
}

void channel_place_copy(struct channel_place *to, const struct channel_place *from)
{
    *to = *from;
    to->name = g_strdup(from->name);
    to->text = g_strdup(from->text);
    to->argv = g_strdupv(from->argv);
    to->socket.host = g_strdup(from->socket.host);
    to->socket.port = g_strdup(from->socket.port);
    to->socket.path = g_strdup(from->socket.path);
    to->socket.fd = g_strdup(from->socket.fd);
}

void channel_place_finish(struct channel_place *p)
{
    nbd_address_finish(&p->socket);
    g_free(p->name);
    g_free(p->text);
    g_strfreev(p->argv);
    *p = (struct channel_place){0};
}
