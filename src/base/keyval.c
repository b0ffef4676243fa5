/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command line's "a=1,b.c=2" syntax (QEMU util/keyval.c documents the grammar):
 *
 *     key-vals = [ key-val { ',' key-val } [ ',' ] ]
 *     key-val  = key '=' val            the first may be a bare val when a key is implied
 *     key      = fragment { '.' fragment }
 *     fragment = name | digits
 *     val      = { any but ',' | ',,' }
 */
#include "base/json.h"

#include "base/cleanup.h"

#include <string.h>

enum { MAX_FRAGMENT = 127, MAX_INDEX = 1024, MAX_DEPTH = 32 };

static bool is_name(const char *s, size_t n)
{
    if (!g_ascii_isalpha(s[0]) && s[0] != '_') {
        return false;
    }
    for (size_t i = 1; i < n; i++) {
        if (!g_ascii_isalnum(s[i]) && s[i] != '-' && s[i] != '_') {
            return false;
        }
    }
    return true;
}

static bool is_index(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!g_ascii_isdigit(s[i])) {
            return false;
        }
    }
    return n > 0;
}

/* Puts `val` (taken) below the dotted `key`, making objects on the way. */
static int put(struct json_object *root, const char *key, struct json_object *val, struct err *e)
{
    CLEANUP_JSON struct json_object *owned = val;
    struct json_object *at = root;
    unsigned depth = 0;
    for (const char *s = key;;) {
        size_t n = strcspn(s, ".");
        if (++depth > MAX_DEPTH) {
            return err_set(e, EINVAL, "Parameter '%s' has more than %d parts", key, MAX_DEPTH);
        }
        if (n > MAX_FRAGMENT) {
            return err_set(e, EINVAL, "Parameter '%s' is too long", key);
        }
        if (n == 0 || !(is_name(s, n) || (s != key && is_index(s, n)))) {
            return err_set(e, EINVAL, "Invalid parameter '%s'", key);
        }
        CLEANUP_FREE char *fragment = g_strndup(s, n);
        struct json_object *old = NULL;
        bool leaf = s[n] == '\0';
        if (json_object_object_get_ex(at, fragment, &old) && json_object_is_type(old, json_type_object) == leaf) {
            return err_set(e, EINVAL, "Parameters '%.*s.*' used inconsistently", (int)(s + n - key), key);
        }
        if (leaf) {
            json_object_object_add(at, fragment, take(owned));
            return 0;
        }
        if (!old) {
            old = json_object_new_object();
            json_object_object_add(at, fragment, old);
        }
        at = old;
        s += n + 1;
    }
}

/* One value up to a lone comma; `*s` moves behind that comma. */
static struct json_object *read_value(const char **s)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const char *p = *s;
    for (; *p; p++) {
        if (*p == ',') {
            p++;
            if (*p != ',') {
                break;
            }
        }
        g_string_append_c(text, *p);
    }
    *s = p;
    return json_object_new_string_len(text->str, (int)text->len);
}

static int parse_pair(struct json_object *root, const char **s, const char *implied, struct err *e)
{
    size_t n = strcspn(*s, "=,");
    if ((*s)[n] != '=') {
        if (implied && n) {
            return put(root, implied, read_value(s), e);
        }
        if (!n) {
            return err_set(e, EINVAL, "Invalid parameter ''");
        }
        return err_set(e, EINVAL, "Expected '=' after parameter '%.*s'", (int)n, *s);
    }
    CLEANUP_FREE char *key = g_strndup(*s, n);
    *s += n + 1;
    return put(root, key, read_value(s), e);
}

static struct json_object *listify(struct json_object *o, const char *path, struct err *e);

/* Replaces the values below `o` that are really lists. */
static int listify_children(struct json_object *o, const char *path, struct err *e)
{
    json_object_object_foreach(o, key, value)
    {
        if (json_object_is_type(value, json_type_object)) {
            CLEANUP_FREE char *below = g_strconcat(path, key, ".", NULL);
            struct json_object *fresh = listify(value, below, e);
            if (!fresh) {
                return -EINVAL;
            }
            if (fresh != value) {
                json_object_object_add(o, key, fresh);
            }
        }
    }
    return 0;
}

/* An object of which all keys are numbers 0 … n-1 as an array (a new reference); `o` itself when its keys are names. */
static struct json_object *listify(struct json_object *o, const char *path, struct err *e)
{
    if (listify_children(o, path, e)) {
        return NULL;
    }
    int indices = 0;
    int names = 0;
    json_object_object_foreach(o, key, value)
    {
        (void)value;
        *(is_index(key, strlen(key)) ? &indices : &names) += 1;
    }
    if (!indices) {
        return o;
    }
    if (names) {
        err_set(e, EINVAL, "Parameters '%s*' used inconsistently", path);
        return NULL;
    }
    if (indices > MAX_INDEX) {
        err_set(e, EINVAL, "Parameter '%s*' has more than %d elements", path, MAX_INDEX);
        return NULL;
    }
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    for (int i = 0; i < indices; i++) {
        char index[16];
        g_snprintf(index, sizeof(index), "%d", i);
        struct json_object *item;
        if (!json_object_object_get_ex(o, index, &item)) {
            err_set(e, EINVAL, "Parameter '%s%d' missing", path, i);
            return NULL;
        }
        json_object_array_add(list, json_object_get(item));
    }
    return take(list);
}

static struct json_object *parse_json(const char *text, struct err *e)
{
    struct json_tokener *tok = json_tokener_new();
    json_tokener_set_flags(tok, JSON_TOKENER_STRICT);
    struct json_object *o = json_tokener_parse_ex(tok, text, -1);
    enum json_tokener_error je = json_tokener_get_error(tok);
    size_t end = json_tokener_get_parse_end(tok);
    json_tokener_free(tok);
    if (je == json_tokener_continue || je == json_tokener_error_parse_eof) {
        err_set(e, EINVAL, "JSON parse error: text ends within the object");
    } else if (je != json_tokener_success) {
        err_set(e, EINVAL, "JSON parse error at character %zu: %s", end + 1, json_tokener_error_desc(je));
    } else if (text[end + strspn(text + end, " \t\r\n")]) {
        err_set(e, EINVAL, "JSON parse error: unexpected text after the object");
    } else {
        return o;
    }
    json_object_put(o);
    return NULL;
}

struct json_object *keyval_parse(const char *text, const char *implied, struct err *e)
{
    if (text[0] == '{') {
        return parse_json(text, e);
    }
    CLEANUP_JSON struct json_object *root = json_object_new_object();
    for (const char *s = text; *s; implied = NULL) {
        if (parse_pair(root, &s, implied, e)) {
            return NULL;
        }
    }
    if (listify_children(root, "", e)) {
        return NULL;
    }
    return take(root);
}
