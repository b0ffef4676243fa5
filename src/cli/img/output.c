/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/json.h"
#include "cli/human.h"

#include <stdio.h>
#include <string.h>

static void put_code_point(GString *out, gunichar c)
{
    if (c >= 0x10000) {
        c -= 0x10000;
        g_string_append_printf(out, "\\u%04X\\u%04X", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
    } else {
        g_string_append_printf(out, "\\u%04X", c);
    }
}

static void put_string(GString *out, const char *s)
{
    static const char escapes[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    g_string_append_c(out, '"');
    while (*s) {
        gunichar c = g_utf8_get_char_validated(s, -1);
        if (c >= (gunichar)-2) { /* not UTF-8 */
            put_code_point(out, 0xfffd);
            s++;
            continue;
        }
        const char *esc = c < 128 ? strchr(escapes, (int)c) : NULL;
        if (esc) {
            g_string_append_printf(out, "\\%c", letters[esc - escapes]);
        } else if (c < 32 || c > 126) {
            put_code_point(out, c);
        } else {
            g_string_append_c(out, (char)c);
        }
        s = g_utf8_next_char(s);
    }
    g_string_append_c(out, '"');
}

static void put_indent(GString *out, unsigned level)
{
    g_string_append_printf(out, "\n%*s", (int)level * 4, "");
}

static void put_value(GString *out, struct json_object *v, unsigned level)
{
    switch (json_object_get_type(v)) {
    case json_type_object: {
        g_autoptr(GPtrArray) keys = json_keys(v);
        g_string_append_c(out, '{');
        for (guint i = 0; i < keys->len; i++) {
            g_string_append(out, i ? "," : "");
            put_indent(out, level + 1);
            put_string(out, keys->pdata[i]);
            g_string_append(out, ": ");
            put_value(out, json_object_object_get(v, keys->pdata[i]), level + 1);
        }
        put_indent(out, level);
        g_string_append_c(out, '}');
        break;
    }
    case json_type_array:
        g_string_append_c(out, '[');
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            g_string_append(out, i ? "," : "");
            put_indent(out, level + 1);
            put_value(out, json_object_array_get_idx(v, i), level + 1);
        }
        put_indent(out, level);
        g_string_append_c(out, ']');
        break;
    case json_type_string:
        put_string(out, json_object_get_string(v));
        break;
    default:
        g_string_append(out, json_object_to_json_string(v));
    }
}

void img_print_json(struct json_object *o)
{
    g_autoptr(GString) out = g_string_new(NULL);
    put_value(out, o, 0);
    puts(out->str);
}
