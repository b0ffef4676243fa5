/* SPDX-License-Identifier: BSD-2-Clause */
/* What stands on command lines: option errors, numbers, patterns, lists of options. */
#include "cli/io/io.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool io_parse_size(struct io *io, const char *text, uint64_t *out)
{
    int rc = parse_size(text, out);
    if (rc == -ERANGE || (rc == 0 && *out > INT64_MAX)) {
        io_print(io, "Parsing error: argument too large -- %s\n", text);
        return false;
    }
    if (rc) {
        io_print(io, "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
        return false;
    }
    return true;
}

bool io_parse_pattern(struct io *io, const char *text, int *out)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 0);
    if (errno || end == text || *end || v < 0 || v > 255) {
        io_print(io, "%s is not a valid pattern byte\n", text);
        return false;
    }
    *out = (int)v;
    return true;
}

bool io_check_sector(struct io *io, const char *what, uint64_t v)
{
    if (v % IO_SECTOR) {
        io_print(io, "%" PRIu64 " is not a sector-aligned value for '%s'\n", v, what);
        return false;
    }
    return true;
}

/* The text up to the next single comma, with double ones made one; *at moves behind the comma. */
static char *next_part(const char **at)
{
    GString *s = g_string_new(NULL);
    const char *p = *at;
    for (; *p; p++) {
        if (*p == ',' && p[1] != ',') {
            break;
        }
        p += *p == ',';
        g_string_append_c(s, *p);
    }
    *at = *p ? p + 1 : p;
    return g_string_free(s, FALSE);
}

int io_parse_options(struct tool *t, const char *text, struct json_object *o, struct err *e)
{
    if (*text == '{') {
        CLEANUP_JSON struct json_object *given = keyval_parse(text, NULL, e);
        if (!given) {
            return -EINVAL;
        }
        json_object_object_foreach(given, key, value)
        {
            json_object_object_add(o, key, json_clone(value));
        }
        return 0;
    }
    while (*text) {
        CLEANUP_FREE char *part = next_part(&text);
        char *eq = strchr(part, '=');
        if (eq) {
            *eq = '\0';
            json_object_object_add(o, part, json_object_new_string(eq + 1));
            continue;
        }
        bool off = g_str_has_prefix(part, "no") && part[2];
        const char *name = off ? part + 2 : part;
        if (t) {
            tool_warn(t, "short-form boolean option '%s' deprecated\nPlease use %s=%s instead", part, name,
                      off ? "off" : "on");
        }
        json_object_object_add(o, name, json_object_new_string(off ? "off" : "on"));
    }
    return 0;
}
