/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/wire.h"

#include "base/cleanup.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct text {
    const char *p, *end;
    struct err *e;
    unsigned depth;
    bool failed;
};

static struct json_object *parse_value(struct text *t);

static struct json_object *fail(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static struct json_object *fail(struct text *t, const char *fmt, ...)
{
    if (!t->failed) {
        va_list ap;
        va_start(ap, fmt);
        CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        err_set(t->e, EINVAL, "JSON parse error, %s", text);
    }
    t->failed = true;
    return NULL;
}

/* The next character that counts; 0 at the end. */
static char peek(struct text *t)
{
    while (t->p < t->end && strchr(" \t\r\n", *t->p) && *t->p) {
        t->p++;
    }
    return t->p < t->end ? *t->p : '\0';
}

static bool skip(struct text *t, char c)
{
    if (peek(t) != c || t->p >= t->end) {
        return false;
    }
    t->p++;
    return true;
}

static bool is_unicode_char(uint32_t c)
{
    bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    bool nonchar = (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
    return c <= 0x10FFFF && !surrogate && !nonchar;
}

static void append_char(GString *s, uint32_t c)
{
    if (c) {
        g_string_append_unichar(s, c);
    } else {
        g_string_append_len(s, "\xC0\x80", 2);
    }
}

/* The four hexadecimal digits at p; -1: they are not. */
static int hex4(const char *p, const char *end)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        if (p + i >= end || !g_ascii_isxdigit(p[i])) {
            return -1;
        }
        v = v * 16 + g_ascii_xdigit_value(p[i]);
    }
    return v;
}

/* At the 'u'. */
static bool parse_unicode_escape(struct text *t, GString *s)
{
    const char *begin = t->p - 1;
    int c = hex4(t->p + 1, t->end);
    if (c < 0) {
        int len = 2;
        while (len < 6 && begin + len < t->end && begin[len - 1] != '"') {
            len++;
        }
        return fail(t, "%.*s is not a valid Unicode character", len, begin) != NULL;
    }
    t->p += 5;
    uint32_t code = (uint32_t)c;
    if (c >= 0xD800 && c <= 0xDBFF && t->end - t->p > 6 && t->p[0] == '\\' && t->p[1] == 'u') {
        int low = hex4(t->p + 2, t->end);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            code = 0x10000 + (((uint32_t)c & 0x3FF) << 10) + ((uint32_t)low & 0x3FF);
            t->p += 6;
        }
    }
    if (!is_unicode_char(code)) {
        return fail(t, "%.*s is not a valid Unicode character", (int)(t->p - begin), begin) != NULL;
    }
    append_char(s, code);
    return true;
}

static bool parse_escape(struct text *t, GString *s)
{
    static const char from[] = "\"'\\/bfnrt";
    static const char to[] = "\"'\\/\b\f\n\r\t";
    t->p++;
    if (t->p < t->end && *t->p == 'u') {
        return parse_unicode_escape(t, s);
    }
    const char *at = t->p < t->end && *t->p ? strchr(from, *t->p) : NULL;
    if (!at) {
        fail(t, "invalid escape sequence in string");
        return false;
    }
    g_string_append_c(s, to[at - from]);
    t->p++;
    return true;
}

static bool parse_utf8(struct text *t, GString *s)
{
    if (t->end - t->p >= 2 && !memcmp(t->p, "\xC0\x80", 2)) {
        g_string_append_len(s, t->p, 2);
        t->p += 2;
        return true;
    }
    gunichar c = g_utf8_get_char_validated(t->p, t->end - t->p);
    if ((c & 0x80000000u) || !is_unicode_char(c)) {
        fail(t, "invalid UTF-8 sequence in string");
        return false;
    }
    size_t len = (size_t)(g_utf8_next_char(t->p) - t->p);
    g_string_append_len(s, t->p, (gssize)len);
    t->p += len;
    return true;
}

/* At the opening quote. NULL on error. */
static GString *parse_string(struct text *t)
{
    char quote = *t->p++;
    GString *s = g_string_new(NULL);
    while (t->p < t->end && *t->p != quote) {
        const char *run = t->p;
        while (run < t->end && *run != quote && *run != '\\' && (uint8_t)*run < 0x80) {
            run++;
        }
        g_string_append_len(s, t->p, run - t->p);
        t->p = run;
        bool ok = true;
        if (t->p < t->end && *t->p == '\\') {
            ok = parse_escape(t, s);
        } else if (t->p < t->end && *t->p != quote) {
            ok = parse_utf8(t, s);
        }
        if (!ok) {
            g_string_free(s, TRUE);
            return NULL;
        }
    }
    t->p++;
    return s;
}

static struct json_object *parse_string_value(struct text *t)
{
    GString *s = parse_string(t);
    if (!s) {
        return NULL;
    }
    struct json_object *o = json_object_new_string_len(s->str, (int)s->len);
    g_string_free(s, TRUE);
    return o;
}

static struct json_object *parse_number(struct text *t)
{
    size_t n = 0;
    bool real = false;
    while (t->p + n < t->end && t->p[n] && strchr("+-.0123456789eE", t->p[n])) {
        real |= t->p[n] == '.' || t->p[n] == 'e' || t->p[n] == 'E';
        n++;
    }
    CLEANUP_FREE char *s = g_strndup(t->p, n);
    t->p += n;
    if (!real) {
        errno = 0;
        int64_t i = g_ascii_strtoll(s, NULL, 10);
        if (errno != ERANGE) {
            return json_object_new_int64(i);
        }
        errno = 0;
        uint64_t u = g_ascii_strtoull(s, NULL, 10);
        if (s[0] != '-' && errno != ERANGE) {
            return json_object_new_uint64(u);
        }
    }
    double d = g_ascii_strtod(s, NULL);
    return json_object_new_double(isinf(d) ? copysign(DBL_MAX, d) : d);
}

static struct json_object *parse_keyword(struct text *t)
{
    size_t n = 0;
    while (t->p + n < t->end && t->p[n] >= 'a' && t->p[n] <= 'z') {
        n++;
    }
    const char *word = t->p;
    t->p += n;
    if (n == 4 && !memcmp(word, "true", n)) {
        return json_object_new_boolean(true);
    }
    if (n == 5 && !memcmp(word, "false", n)) {
        return json_object_new_boolean(false);
    }
    if (n == 4 && !memcmp(word, "null", n)) {
        return NULL;
    }
    return fail(t, "invalid keyword '%.*s'", (int)n, word);
}

/* Keys are taken as values first, for the sake of the messages. */
static bool parse_pair(struct text *t, struct json_object *o)
{
    char c = peek(t);
    if (c != '"' && c != '\'') {
        json_object_put(parse_value(t));
        fail(t, "key is not a string in object");
        return false;
    }
    GString *key = parse_string(t);
    bool ok = key != NULL;
    if (ok && !skip(t, ':')) {
        fail(t, "missing : in object pair");
        ok = false;
    }
    if (ok) {
        struct json_object *v = parse_value(t);
        ok = !t->failed;
        if (ok && json_object_object_get_ex(o, key->str, NULL)) {
            fail(t, "duplicate key");
            ok = false;
        }
        if (ok) {
            json_object_object_add(o, key->str, v);
        } else {
            json_object_put(v);
        }
    }
    if (key) {
        g_string_free(key, TRUE);
    }
    return ok;
}

static struct json_object *parse_object(struct text *t)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    t->p++;
    if (skip(t, '}')) {
        return take(o);
    }
    do {
        if (!parse_pair(t, o)) {
            return NULL;
        }
    } while (skip(t, ','));
    return skip(t, '}') ? take(o) : fail(t, "expected separator in dict");
}

static struct json_object *parse_array(struct text *t)
{
    CLEANUP_JSON struct json_object *a = json_object_new_array();
    t->p++;
    if (skip(t, ']')) {
        return take(a);
    }
    do {
        struct json_object *v = parse_value(t);
        if (t->failed) {
            json_object_put(v);
            return NULL;
        }
        json_object_array_add(a, v);
    } while (skip(t, ','));
    return skip(t, ']') ? take(a) : fail(t, "expected separator in list");
}

static struct json_object *parse_value(struct text *t)
{
    char c = peek(t);
    if (t->p >= t->end) {
        return fail(t, "premature EOI");
    }
    if (t->depth >= WIRE_MAX_NESTING) {
        return fail(t, "nested too deeply");
    }
    struct json_object *o;
    t->depth++;
    if (c == '{') {
        o = parse_object(t);
    } else if (c == '[') {
        o = parse_array(t);
    } else if (c == '"' || c == '\'') {
        o = parse_string_value(t);
    } else if (c == '-' || g_ascii_isdigit(c)) {
        o = parse_number(t);
    } else if (c >= 'a' && c <= 'z') {
        o = parse_keyword(t);
    } else {
        o = fail(t, "expecting value");
    }
    t->depth--;
    return o;
}

struct json_object *wire_parse(const char *text, size_t n, struct err *e)
{
    struct text t = {text, text + n, e, 0, false};
    CLEANUP_JSON struct json_object *o = parse_value(&t);
    if (!t.failed && peek(&t)) {
        fail(&t, "expecting end of message");
    }
    return t.failed ? NULL : take(o);
}
