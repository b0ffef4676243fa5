/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/wire.h"

#include "base/json.h"

#include <inttypes.h>
#include <string.h>

static void write_char(GString *out, gunichar c)
{
    static const char plain[] = "\b\f\n\r\t\"\\";
    static const char letter[] = "bfnrt\"\\";
    const char *at = c && c < 0x80 ? strchr(plain, (int)c) : NULL;
    if (at) {
        g_string_append_c(out, '\\');
        g_string_append_c(out, letter[at - plain]);
    } else if (c >= 0x20 && c < 0x7F) {
        g_string_append_c(out, (char)c);
    } else if (c > 0xFFFF) {
        g_string_append_printf(out, "\\u%04X\\u%04X", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + (c & 0x3FF));
    } else {
        g_string_append_printf(out, "\\u%04X", c);
    }
}

static void write_string(GString *out, const char *s, size_t n)
{
    const char *end = s + n;
    g_string_append_c(out, '"');
    while (s < end) {
        if (end - s >= 2 && !memcmp(s, "\xC0\x80", 2)) {
            write_char(out, 0);
            s += 2;
            continue;
        }
        gunichar c = *s ? g_utf8_get_char_validated(s, end - s) : 0;
        if (c & 0x80000000u) {
            write_char(out, 0xFFFD);
            s++;
        } else {
            write_char(out, c);
            s += *s ? g_utf8_next_char(s) - s : 1;
        }
    }
    g_string_append_c(out, '"');
}

static void newline(GString *out, bool pretty, unsigned depth)
{
    if (pretty) {
        g_string_append_printf(out, "\r\n%*s", (int)(4 * depth), "");
    }
}

static void write_value(GString *out, struct json_object *o, bool pretty, unsigned depth);

static void write_object(GString *out, struct json_object *o, bool pretty, unsigned depth)
{
    g_autoptr(GPtrArray) keys = json_keys(o);
    g_string_append_c(out, '{');
    for (guint i = 0; i < keys->len; i++) {
        const char *key = keys->pdata[i];
        g_string_append(out, i == 0 ? "" : pretty ? "," : ", ");
        newline(out, pretty, depth + 1);
        write_string(out, key, strlen(key));
        g_string_append(out, ": ");
        write_value(out, json_object_object_get(o, key), pretty, depth + 1);
    }
    newline(out, pretty, depth);
    g_string_append_c(out, '}');
}

static void write_array(GString *out, struct json_object *o, bool pretty, unsigned depth)
{
    size_t n = json_object_array_length(o);
    g_string_append_c(out, '[');
    for (size_t i = 0; i < n; i++) {
        g_string_append(out, i == 0 ? "" : pretty ? "," : ", ");
        newline(out, pretty, depth + 1);
        write_value(out, json_object_array_get_idx(o, i), pretty, depth + 1);
    }
    newline(out, pretty, depth);
    g_string_append_c(out, ']');
}

static void write_int(GString *out, struct json_object *o)
{
    int64_t i = json_object_get_int64(o);
    uint64_t u = json_object_get_uint64(o);
    if (i == INT64_MAX && u > INT64_MAX) {
        g_string_append_printf(out, "%" PRIu64, u);
    } else {
        g_string_append_printf(out, "%" PRId64, i);
    }
}

static void write_value(GString *out, struct json_object *o, bool pretty, unsigned depth)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];
    switch (json_object_get_type(o)) {
    case json_type_null:
        g_string_append(out, "null");
        break;
    case json_type_boolean:
        g_string_append(out, json_object_get_boolean(o) ? "true" : "false");
        break;
    case json_type_int:
        write_int(out, o);
        break;
    case json_type_double:
        g_string_append(out, g_ascii_formatd(number, sizeof(number), "%.17g", json_object_get_double(o)));
        break;
    case json_type_string:
        write_string(out, json_object_get_string(o), (size_t)json_object_get_string_len(o));
        break;
    case json_type_array:
        write_array(out, o, pretty, depth);
        break;
    case json_type_object:
        write_object(out, o, pretty, depth);
        break;
    }
}

void wire_write(GString *out, struct json_object *o, bool pretty)
{
    write_value(out, o, pretty, 0);
}
