/* SPDX-License-Identifier: BSD-2-Clause */
/* Values as they stand in the state file: words, quoted strings, numbers, booleans, null, {} and []. */
#include "config/file_int.h"

#include "base/cleanup.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The grammar of JSON's numbers. */
static bool is_number(const char *s, bool *whole)
{
    s += *s == '-';
    *whole = true;
    if (!g_ascii_isdigit(*s) || (*s == '0' && g_ascii_isdigit(s[1]))) {
        return false;
    }
    s += strspn(s, "0123456789");
    if (*s == '.') {
        *whole = false;
        if (!g_ascii_isdigit(*++s)) {
            return false;
        }
        s += strspn(s, "0123456789");
    }
    if (*s == 'e' || *s == 'E') {
        *whole = false;
        s += s[1] == '+' || s[1] == '-' ? 2 : 1;
        if (!g_ascii_isdigit(*s)) {
            return false;
        }
        s += strspn(s, "0123456789");
    }
    return !*s;
}

static bool word_number(const char *word, bool whole, struct json_object **out, const char **why)
{
    errno = 0;
    if (!whole) {
        double d = g_ascii_strtod(word, NULL);
        *out = json_object_new_double(d);
        *why = "the number is too large";
        return isfinite(d);
    }
    if (*word == '-') {
        *out = json_object_new_int64(g_ascii_strtoll(word, NULL, 10));
    } else {
        uint64_t u = g_ascii_strtoull(word, NULL, 10);
        *out = u <= INT64_MAX ? json_object_new_int64((int64_t)u) : json_object_new_uint64(u);
    }
    *why = "the number does not fit in 64 bits";
    return errno == 0;
}

/* What other notations begin a value with. */
static const char foreign[] = "{['`|>";

static bool word_value(const char *word, struct json_object **out, const char **why)
{
    bool whole;
    *out = NULL;
    if (!strcmp(word, "null")) {
        return true;
    }
    if (!strcmp(word, "true") || !strcmp(word, "false")) {
        *out = json_object_new_boolean(*word == 't');
    } else if (!strcmp(word, "{}")) {
        *out = json_object_new_object();
    } else if (!strcmp(word, "[]")) {
        *out = json_object_new_array();
    } else if (is_number(word, &whole)) {
        return word_number(word, whole, out, why);
    } else if (strchr(foreign, *word)) {
        *why = "a value is a word, a number, or a string in \"\"; nested options are dotted keys";
        return false;
    } else {
        *out = json_object_new_string(word);
    }
    return true;
}

/* --- quoted strings ---------------------------------------------------------------------------------------------- */

static bool hex4(const char *s, unsigned *out)
{
    *out = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (!g_ascii_isxdigit(s[i])) {
            return false;
        }
        *out = *out << 4 | (unsigned)g_ascii_xdigit_value(s[i]);
    }
    return true;
}

/* Behind "\u"; moves behind what it takes. */
static bool unicode(const char **at, GString *to)
{
    unsigned c;
    unsigned low;
    if (!hex4(*at, &c)) {
        return false;
    }
    *at += 4;
    if (c >= 0xd800 && c < 0xdc00) {
        if ((*at)[0] != '\\' || (*at)[1] != 'u' || !hex4(*at + 2, &low) || low < 0xdc00 || low > 0xdfff) {
            return false;
        }
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        *at += 6;
    } else if (c >= 0xdc00 && c < 0xe000) {
        return false;
    }
    if (c == 0) {
        return false;
    }
    g_string_append_unichar(to, c);
    return true;
}

static bool escape(const char **at, GString *to)
{
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    char c = *(*at)++;
    const char *p = c ? strchr(from, c) : NULL;
    if (p) {
        g_string_append_c(to, into[p - from]);
        return true;
    }
    return c == 'u' && unicode(at, to);
}

/* Behind the opening quote. */
static bool quoted(const char **at, GString *to, const char **why)
{
    while (**at && **at != '"') {
        char c = *(*at)++;
        if (c != '\\') {
            g_string_append_c(to, c);
        } else if (!escape(at, to)) {
            *why = "a string has an unknown escape; there are \\\" \\\\ \\n \\r \\t \\b \\f and \\uXXXX";
            return false;
        }
    }
    if (!**at) {
        *why = "a string's closing quote is missing";
        return false;
    }
    ++*at;
    return true;
}

/* What editors and web pages make of blanks and quotation marks. */
static bool has_lookalike(const char *word)
{
    bool valid = g_utf8_validate(word, -1, NULL); /* the head is looked at before all of the file is */
    for (; valid && *word; word = g_utf8_next_char(word)) {
        gunichar c = g_utf8_get_char(word);
        if (c == 0xa0 || (c >= 0x2018 && c <= 0x201f) || c == 0x200b || c == 0xfeff || c == 0x3000) {
            return true;
        }
    }
    return false;
}

bool config_value_parse(const char **at, struct json_object **out, const char **why)
{
    *out = NULL;
    if (**at == '"') {
        GString *s = g_string_new(NULL);
        ++*at;
        bool ok = quoted(at, s, why);
        *out = ok ? json_object_new_string_len(s->str, (int)s->len) : NULL;
        g_string_free(s, TRUE);
        return ok;
    }
    const char *end = *at;
    while (*end && !is_blank(*end)) {
        end++;
    }
    CLEANUP_FREE char *word = g_strndup(*at, (size_t)(end - *at));
    if (!*word || *word == '#' || *word == ';') {
        *why = "a value is missing; the empty string is \"\"";
        return false;
    }
    if (strchr(word, '"') && !strchr(foreign, *word)) {
        *why = "a string with '\"' in it must be quoted: \"…\\\"…\"";
        return false;
    }
    if (has_lookalike(word)) {
        *why = "there is a blank or a quotation mark that only looks like one; a string is quoted: \"…\"";
        return false;
    }
    *at = end;
    if (word_value(word, out, why)) {
        return true;
    }
    json_object_put(take(*out));
    return false;
}

/* --- printing ------------------------------------------------------------------------------------------------------
 */

/* What reads back as this string without quotes, whoever looks at it. */
static bool is_plain(const char *s, size_t len)
{
    struct json_object *v = NULL;
    const char *why;
    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(s[i]) && !strchr("_./:+@%,=~-", s[i])) {
            return false;
        }
    }
    bool plain = len && word_value(s, &v, &why) && json_object_is_type(v, json_type_string);
    json_object_put(v);
    return plain;
}

static void print_quoted(GString *to, const char *s, size_t len)
{
    static const char from[] = "\"\\\b\f\n\r\t", into[] = "\"\\bfnrt";
    g_string_append_c(to, '"');
    for (size_t i = 0; i < len; i++) {
        const char *p = s[i] ? strchr(from, s[i]) : NULL;
        if (p) {
            g_string_append_printf(to, "\\%c", into[p - from]);
        } else if ((unsigned char)s[i] < ' ' || s[i] == 0x7f) {
            g_string_append_printf(to, "\\u%04x", (unsigned)s[i]);
        } else {
            g_string_append_c(to, s[i]);
        }
    }
    g_string_append_c(to, '"');
}

void config_string_print(GString *to, const char *s)
{
    print_quoted(to, s, strlen(s));
}

static void print_string(GString *to, const char *s, size_t len)
{
    if (is_plain(s, len)) {
        g_string_append_len(to, s, (gssize)len);
    } else {
        print_quoted(to, s, len);
    }
}

/* The shortest that reads back as the same. */
static void print_double(GString *to, double d)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];
    static const char *const formats[] = {"%.15g", "%.16g", "%.17g"};
    for (unsigned i = 0; i < G_N_ELEMENTS(formats); i++) {
        g_ascii_formatd(text, sizeof(text), formats[i], d);
        if (g_ascii_strtod(text, NULL) == d) {
            break;
        }
    }
    g_string_append(to, text);
    if (!strpbrk(text, ".e")) {
        g_string_append(to, ".0");
    }
}

void config_value_print(GString *to, struct json_object *v)
{
    switch (json_object_get_type(v)) {
    case json_type_null:
        g_string_append(to, "null");
        break;
    case json_type_boolean:
        g_string_append(to, json_object_get_boolean(v) ? "true" : "false");
        break;
    case json_type_int:
        if (json_object_get_int64(v) < 0) {
            g_string_append_printf(to, "%" PRId64, json_object_get_int64(v));
        } else {
            g_string_append_printf(to, "%" PRIu64, json_object_get_uint64(v));
        }
        break;
    case json_type_double:
        print_double(to, json_object_get_double(v));
        break;
    case json_type_string:
        print_string(to, json_object_get_string(v), (size_t)json_object_get_string_len(v));
        break;
    case json_type_object:
        g_string_append(to, "{}");
        break;
    case json_type_array:
        g_string_append(to, "[]");
        break;
    }
}
