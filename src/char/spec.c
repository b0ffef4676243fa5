/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line's spellings of a chardev, turned into options. */
#include "base/cleanup.h"
#include "base/json.h"
#include "char/char.h"

#include <glib.h>
#include <string.h>

static const char *const flags[] = {
    "server", "wait", "mux", "append", "signal", "nodelay", "logappend", "ipv4", "ipv6", NULL,
};

/* The length of the part up to a lone comma. */
static size_t part_len(const char *s)
{
    size_t n = 0;
    while (s[n] && (s[n] != ',' || s[n + 1] == ',')) {
        n += s[n] == ',' ? 2 : 1;
    }
    return n;
}

/* Appends one part; a bare "server" means server=on, a bare "nowait" wait=off, as before QEMU 6. */
static void append_part(GString *out, const char *part)
{
    const char *name = g_str_has_prefix(part, "no") && !g_str_has_prefix(part, "nodelay") ? part + 2 : part;
    g_string_append_printf(out, "%s%s", out->len ? "," : "", g_strv_contains(flags, name) ? name : part);
    if (g_strv_contains(flags, name)) {
        g_string_append(out, name == part ? "=on" : "=off");
    }
}

/* `text` and what the parts in `more` say (borrowed; may be NULL) as options. */
static struct json_object *parse(const char *text, const char *more, struct err *e)
{
    g_autoptr(GString) out = g_string_new(text);
    for (const char *s = more ? more : ""; *s;) {
        size_t n = part_len(s);
        CLEANUP_FREE char *part = g_strndup(s, n);
        append_part(out, part);
        s += n + (s[n] == ',');
    }
    return keyval_parse(out->str, "backend", e);
}

struct json_object *chardev_from_option(const char *text, struct err *e)
{
    if (text[0] == '{') {
        return keyval_parse(text, NULL, e);
    }
    size_t n = part_len(text);
    CLEANUP_FREE char *first = g_strndup(text, n);
    return parse(first, text[n] ? text + n + 1 : NULL, e);
}

/* "PATH,…" or "HOST:PORT,…" behind the scheme; n is the length of the part before the options. */
static struct json_object *with_key(const char *backend, const char *key, const char *rest, struct err *e)
{
    size_t key_len = strlen(key);
    if (!strncmp(rest, key, key_len) && rest[key_len] == '=') { /* "unix:path=PATH" says the same */
        rest += key_len + 1;
    }
    size_t n = part_len(rest);
    CLEANUP_FREE char *first = g_strdup_printf("backend=%s,%s=%.*s", backend, key, (int)n, rest);
    return parse(first, rest[n] ? rest + n + 1 : NULL, e);
}

static struct json_object *tcp(const char *rest, const char *spec, struct err *e)
{
    size_t n = part_len(rest);
    CLEANUP_FREE char *where = g_strndup(rest, n);
    char *colon = strrchr(where, ':');
    if (!colon || !colon[1]) {
        err_set(e, EINVAL, "'%s': expected tcp:HOST:PORT", spec);
        return NULL;
    }
    *colon = '\0';
    char *host = where;
    if (*host == '[' && colon > host && colon[-1] == ']') { /* an IPv6 address */
        colon[-1] = '\0';
        host++;
    }
    CLEANUP_FREE char *first = g_strdup_printf("backend=socket,host=%s,port=%s", host, colon + 1);
    return parse(first, rest[n] ? rest + n + 1 : NULL, e);
}

static struct json_object *one_string(const char *key, const char *value)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, key, json_object_new_string(value));
    return o;
}

/* "mon:…": the monitor shares the device; on a terminal Ctrl-C is for the guest then. */
static struct json_object *with_monitor(const char *spec, struct err *e)
{
    struct json_object *o = chardev_from_legacy(spec, e);
    if (!o) {
        return NULL;
    }
    struct json_object *backend = NULL;
    if (!json_object_object_get_ex(o, "backend", &backend)) {
        json_object_put(o);
        err_set(e, EINVAL, "'mon:%s': 'mon:' stands before a device, like mon:stdio", spec);
        return NULL;
    }
    json_object_object_add(o, "mux", json_object_new_boolean(true));
    json_object_object_add(o, "monitor", json_object_new_boolean(true));
    if (!strcmp(json_object_get_string(backend), "stdio") && !json_object_object_get_ex(o, "signal", NULL)) {
        json_object_object_add(o, "signal", json_object_new_boolean(false));
    }
    return o;
}

struct json_object *chardev_from_legacy(const char *spec, struct err *e)
{
    const char *rest = strchr(spec, ':');
    CLEANUP_FREE char *scheme = g_strndup(spec, rest ? (size_t)(rest - spec) : part_len(spec));
    rest = rest ? rest + 1 : NULL;
    if (!rest) {
        if (!strcmp(spec, "none")) {
            return json_object_new_object();
        }
        if (!strcmp(scheme, "stdio") || !strcmp(scheme, "pty") || !strcmp(scheme, "null")) {
            return chardev_from_option(spec, e);
        }
    } else if (!strcmp(scheme, "unix")) {
        return with_key("socket", "path", rest, e);
    } else if (!strcmp(scheme, "file")) {
        return with_key("file", "path", rest, e);
    } else if (!strcmp(scheme, "fd")) {
        return with_key("socket", "fd", rest, e);
    } else if (!strcmp(scheme, "tcp")) {
        return tcp(rest, spec, e);
    } else if (!strcmp(scheme, "chardev")) {
        return one_string("chardev", rest);
    } else if (!strcmp(scheme, "mon")) {
        return with_monitor(rest, e);
    }
    err_set(e, EINVAL,
            "'%s' is not a valid char driver (valid: stdio, pty, null, none, unix:, tcp:, file:, fd:, mon:, chardev:)",
            spec);
    return NULL;
}
