/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/json.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct jread jread_init(struct json_object *obj, const char *what, struct err *e)
{
    return (struct jread){.obj = obj, .what = what, .e = e, .seen = json_object_new_object()};
}

/* Keeps the first error only. */
static void fail(struct jread *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct jread *r, const char *fmt, ...)
{
    if (r->rc) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    r->rc = err_set(r->e, EINVAL, "%s%s%s", r->what ? r->what : "", r->what ? ": " : "", text);
}

static bool find(struct jread *r, const char *key, struct json_object **out)
{
    json_object_object_add(r->seen, key, NULL);
    *out = NULL;
    return json_object_is_type(r->obj, json_type_object) && json_object_object_get_ex(r->obj, key, out);
}

static bool find_required(struct jread *r, const char *key, struct json_object **out)
{
    if (find(r, key, out)) {
        return true;
    }
    fail(r, "Parameter '%s' is missing", key);
    return false;
}

static void fail_type(struct jread *r, const char *key, const char *expected)
{
    fail(r, "Invalid parameter type for '%s', expected: %s", key, expected);
}

bool jread_has(struct jread *r, const char *key)
{
    struct json_object *v;
    return find(r, key, &v);
}

static const char *get_str(struct jread *r, const char *key, struct json_object *v, const char *dflt)
{
    if (!json_object_is_type(v, json_type_string)) {
        fail_type(r, key, "string");
        return dflt;
    }
    return json_object_get_string(v);
}

const char *jread_str(struct jread *r, const char *key)
{
    struct json_object *v;
    return find_required(r, key, &v) ? get_str(r, key, v, "") : "";
}

const char *jread_str_or(struct jread *r, const char *key, const char *dflt)
{
    struct json_object *v;
    return find(r, key, &v) ? get_str(r, key, v, dflt) : dflt;
}

bool jread_bool_or(struct jread *r, const char *key, bool dflt)
{
    struct json_object *v;
    if (!find(r, key, &v)) {
        return dflt;
    }
    if (json_object_is_type(v, json_type_boolean)) {
        return json_object_get_boolean(v);
    }
    if (!json_object_is_type(v, json_type_string)) {
        fail_type(r, key, "boolean");
        return dflt;
    }
    const char *s = json_object_get_string(v);
    if (!strcmp(s, "on") || !strcmp(s, "true") || !strcmp(s, "yes") || !strcmp(s, "y")) {
        return true;
    }
    if (!strcmp(s, "off") || !strcmp(s, "false") || !strcmp(s, "no") || !strcmp(s, "n")) {
        return false;
    }
    fail(r, "Parameter '%s' expects 'on' or 'off'", key);
    return dflt;
}

static int64_t get_int(struct jread *r, const char *key, struct json_object *v, int64_t dflt)
{
    if (json_object_is_type(v, json_type_int)) {
        int64_t i = json_object_get_int64(v);
        if (i == INT64_MAX && json_object_get_uint64(v) != INT64_MAX) {
            fail(r, "Parameter '%s' is out of range", key);
            return dflt;
        }
        return i;
    }
    if (!json_object_is_type(v, json_type_string)) {
        fail_type(r, key, "integer");
        return dflt;
    }
    const char *s = json_object_get_string(v);
    char *end;
    errno = 0;
    long long i = strtoll(s, &end, 0);
    if (end == s || *end || g_ascii_isspace(*s)) {
        fail(r, "Parameter '%s' expects an integer", key);
        return dflt;
    }
    if (errno == ERANGE) {
        fail(r, "Parameter '%s' is out of range", key);
        return dflt;
    }
    return i;
}

int64_t jread_int(struct jread *r, const char *key)
{
    struct json_object *v;
    return find_required(r, key, &v) ? get_int(r, key, v, 0) : 0;
}

int64_t jread_int_or(struct jread *r, const char *key, int64_t dflt)
{
    struct json_object *v;
    return find(r, key, &v) ? get_int(r, key, v, dflt) : dflt;
}

static uint64_t get_size(struct jread *r, const char *key, struct json_object *v, uint64_t dflt)
{
    if (json_object_is_type(v, json_type_int)) {
        if (json_object_get_int64(v) < 0) {
            fail(r, "Parameter '%s' expects a non-negative number", key);
            return dflt;
        }
        return json_object_get_uint64(v);
    }
    if (!json_object_is_type(v, json_type_string)) {
        fail_type(r, key, "integer");
        return dflt;
    }
    uint64_t size;
    int rc = parse_size(json_object_get_string(v), &size);
    if (rc == -ERANGE) {
        fail(r, "Parameter '%s' is out of range", key);
    } else if (rc) {
        fail(r, "Parameter '%s' expects a size: a number with an optional suffix K, M, G, T, P or E", key);
    }
    return rc ? dflt : size;
}

uint64_t jread_size(struct jread *r, const char *key)
{
    struct json_object *v;
    return find_required(r, key, &v) ? get_size(r, key, v, 0) : 0;
}

uint64_t jread_size_or(struct jread *r, const char *key, uint64_t dflt)
{
    struct json_object *v;
    return find(r, key, &v) ? get_size(r, key, v, dflt) : dflt;
}

int jread_enum_or(struct jread *r, const char *key, const char *const *names, int dflt)
{
    struct json_object *v;
    if (!find(r, key, &v)) {
        return dflt;
    }
    const char *s = get_str(r, key, v, NULL);
    if (!s) {
        return dflt;
    }
    for (int i = 0; names[i]; i++) {
        if (!strcmp(names[i], s)) {
            return i;
        }
    }
    fail(r, "Parameter '%s' does not accept value '%s'", key, s);
    return dflt;
}

struct json_object *jread_any(struct jread *r, const char *key)
{
    struct json_object *v;
    return find(r, key, &v) ? v : NULL;
}

int jread_end(struct jread *r)
{
    if (r->obj && !json_object_is_type(r->obj, json_type_object)) {
        fail(r, "Invalid parameter type, expected: object");
    } else if (r->obj) {
        json_object_object_foreach(r->obj, key, value)
        {
            (void)value;
            if (!json_object_object_get_ex(r->seen, key, NULL)) {
                fail(r, "Parameter '%s' is unexpected", key);
            }
        }
    }
    return jread_end_lax(r);
}

int jread_end_lax(struct jread *r)
{
    json_object_put(r->seen);
    r->seen = NULL;
    return r->rc;
}

static int suffix_shift(char c)
{
    static const char suffixes[] = "BKMGTPE";
    const char *at = strchr(suffixes, g_ascii_toupper(c));
    return c && at ? (int)(at - suffixes) * 10 : -1;
}

/* ".5" scaled by 2^shift, rounded down; `*s` moves behind the digits. */
static int parse_fraction(const char **s, unsigned *digits, unsigned __int128 *num, unsigned __int128 *den)
{
    *num = 0;
    *den = 1;
    for (*digits = 0; g_ascii_isdigit(**s); (*s)++, (*digits)++) {
        if (*digits < 18) { /* what follows is below a byte of an exbibyte's half-quintillionth */
            *num = *num * 10 + (unsigned)(**s - '0');
            *den *= 10;
        }
    }
    return *digits ? 0 : -EINVAL;
}

int parse_size(const char *s, uint64_t *out)
{
    uint64_t whole = 0;
    bool overflow = false;
    while (g_ascii_isspace(*s)) {
        s++;
    }
    if (!g_ascii_isdigit(*s)) {
        return -EINVAL;
    }
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
        char *end;
        errno = 0;
        whole = strtoull(s, &end, 16);
        *out = whole;
        return *end || end == s + 1 ? -EINVAL : errno == ERANGE ? -ERANGE : 0;
    }
    for (; g_ascii_isdigit(*s); s++) {
        overflow |= !mul_ok(whole, 10, &whole) || !add_ok(whole, (unsigned)(*s - '0'), &whole);
    }
    unsigned digits = 0;
    unsigned __int128 num = 0;
    unsigned __int128 den = 1;
    if (*s == '.') {
        s++;
        if (parse_fraction(&s, &digits, &num, &den)) {
            return -EINVAL;
        }
    }
    int shift = 0;
    if (*s) {
        shift = suffix_shift(*s++);
    }
    if (shift < 0 || *s || (digits && shift == 0 && num)) {
        return -EINVAL;
    }
    if (overflow || (shift && whole >> (64 - shift))) {
        return -ERANGE;
    }
    *out = (whole << shift) + (uint64_t)((num << shift) / den);
    return 0;
}

const char **json_strings(struct json_object *array)
{
    size_t n = array ? json_object_array_length(array) : 0;
    const char **out = g_new0(const char *, n + 1);
    for (size_t i = 0; i < n; i++) {
        out[i] = json_object_get_string(json_object_array_get_idx(array, i));
    }
    return out;
}

struct json_object *json_clone(struct json_object *o)
{
    struct json_object *copy = NULL;
    if (o) {
        json_object_deep_copy(o, &copy, NULL);
    }
    return copy;
}

/*
 * QEMU keeps the members of an object in 512 chains chosen by a hash of the name and lists them chain by chain. Scripts
 * compare its tools' output as text, so we list in the same order.
 */
static unsigned member_rank(const char *name)
{
    size_t len = strlen(name);
    uint32_t h = 0x238f13afu * (uint32_t)len;
    for (size_t i = 0; i < len; i++) {
        h += (uint32_t)(unsigned char)name[i] << (i * 5 % 24);
    }
    return (1103515243u * h + 12345u) % 512;
}

static int compare_keys(const void *a, const void *b)
{
    unsigned x = member_rank(*(const char *const *)a), y = member_rank(*(const char *const *)b);
    return x < y ? -1 : x > y;
}

GPtrArray *json_keys(struct json_object *o)
{
    GPtrArray *keys = g_ptr_array_new();
    struct json_object_iterator it = json_object_iter_begin(o), end = json_object_iter_end(o);
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        g_ptr_array_add(keys, (gpointer)(uintptr_t)json_object_iter_peek_name(&it));
    }
    g_ptr_array_sort(keys, compare_keys);
    return keys;
}

static void put_text(GString *s, struct json_object *o)
{
    bool is_object = json_object_is_type(o, json_type_object);
    if (!is_object && !json_object_is_type(o, json_type_array)) {
        g_string_append(s, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        return;
    }
    GPtrArray *keys = is_object ? json_keys(o) : NULL;
    size_t n = is_object ? keys->len : json_object_array_length(o);
    g_string_append_c(s, is_object ? '{' : '[');
    for (size_t i = 0; i < n; i++) {
        g_string_append(s, i ? ", " : "");
        if (is_object) {
            struct json_object *name = json_object_new_string(keys->pdata[i]);
            put_text(s, name);
            g_string_append(s, ": ");
            json_object_put(name);
        }
        put_text(s, is_object ? json_object_object_get(o, keys->pdata[i]) : json_object_array_get_idx(o, i));
    }
    g_string_append_c(s, is_object ? '}' : ']');
    if (keys) {
        g_ptr_array_free(keys, TRUE);
    }
}

char *json_text(struct json_object *o)
{
    GString *s = g_string_new(NULL);
    put_text(s, o);
    return g_string_free(s, FALSE);
}

static void describe_member(const char *label, struct json_object *v, int level, GString *out)
{
    bool nested = json_object_is_type(v, json_type_object) || json_object_is_type(v, json_type_array);
    g_string_append_printf(out, "%*s%s:%c", level * 4, "", label, nested ? '\n' : ' ');
    json_describe(v, level + 1, out);
    if (!nested) {
        g_string_append_c(out, '\n');
    }
}

void json_describe(struct json_object *v, int level, GString *out)
{
    if (json_object_is_type(v, json_type_object)) {
        g_autoptr(GPtrArray) keys = json_keys(v);
        for (guint i = 0; i < keys->len; i++) {
            CLEANUP_FREE char *label = g_strdelimit(g_strdup(keys->pdata[i]), "-", ' ');
            describe_member(label, json_object_object_get(v, keys->pdata[i]), level, out);
        }
    } else if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            CLEANUP_FREE char *label = g_strdup_printf("[%zu]", i);
            describe_member(label, json_object_array_get_idx(v, i), level, out);
        }
    } else {
        g_string_append(out, json_object_get_string(v));
    }
}
