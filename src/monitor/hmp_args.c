/* SPDX-License-Identifier: BSD-2-Clause */
/* Arguments of the human monitor, by the notation of command.h; the texts of errors are QEMU's. */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <string.h>

enum { MAX_KEY_DOTS = 32 };

struct reader {
    struct mon_ctx *c;
    const struct hmp_command *cmd;
    const char *p;
    struct json_object *args;
};

/* One "name:type" of args_type. */
struct spec {
    const char *name;
    int name_len;
    char type;
    const char *flags; /* '-': the letters of flags */
    size_t n_flags;
    bool optional;
};

static void skip_blanks(struct reader *r)
{
    r->p += strspn(r->p, " \t");
}

static void put(struct reader *r, const struct spec *s, struct json_object *v)
{
    CLEANUP_FREE char *name = g_strndup(s->name, (gsize)s->name_len);
    json_object_object_add(r->args, name, v);
}

static const char *next_spec(const char *t, struct spec *s)
{
    *s = (struct spec){.name = t, .name_len = (int)strcspn(t, ":,")};
    t += s->name_len;
    if (*t == ':') {
        s->type = *++t;
        t += *t != '\0';
        if (s->type == '-') {
            s->flags = t;
            s->n_flags = strcspn(t, ",");
            t += s->n_flags;
        }
        if (*t == '?') {
            s->optional = true;
            t++;
        }
    }
    return *t == ',' ? t + 1 : t;
}

/* A word, or text between double quotes with \n \r \\ \' \". False (printed) when the quotes do not end. */
static bool read_word(struct reader *r, GString *out)
{
    if (*r->p != '"') {
        size_t n = strcspn(r->p, " \t");
        g_string_append_len(out, r->p, (gssize)n);
        r->p += n;
        return true;
    }
    for (r->p++; *r->p && *r->p != '"'; r->p++) {
        char ch = *r->p;
        if (ch == '\\') {
            ch = *++r->p;
            if (!ch || !strchr("nr\\'\"", ch)) {
                mon_printf(r->c, "unsupported escape code: '\\%c'\n", ch ? ch : '0');
                return false;
            }
            ch = ch == 'n' ? '\n' : ch == 'r' ? '\r' : ch;
        }
        g_string_append_c(out, ch);
    }
    if (*r->p != '"') {
        mon_printf(r->c, "unterminated string\n");
        return false;
    }
    r->p++;
    return true;
}

static bool read_string(struct reader *r, const struct spec *s)
{
    g_autoptr(GString) word = g_string_new(NULL);
    skip_blanks(r);
    if (!*r->p) {
        if (!s->optional) {
            const char *what = s->type == 'F' ? "filename" : s->type == 'B' ? "block device name" : "string";
            mon_printf(r->c, "%s: %s expected\n", r->cmd->name, what);
        }
        return s->optional;
    }
    if (!read_word(r, word)) {
        return false;
    }
    put(r, s, json_object_new_string_len(word->str, (int)word->len));
    return true;
}

static bool read_rest(struct reader *r, const struct spec *s)
{
    skip_blanks(r);
    if (!*r->p && !s->optional) {
        mon_printf(r->c, "%s: string expected\n", r->cmd->name);
        return false;
    }
    if (*r->p) {
        put(r, s, json_object_new_string(r->p));
        r->p += strlen(r->p);
    }
    return true;
}

static unsigned dots_of_longest_key(const char *s)
{
    unsigned dots = 0;
    unsigned most = 0;
    for (; *s; s++) {
        dots = *s == ',' ? 0 : dots + (*s == '.');
        most = MAX(most, dots);
    }
    return most;
}

static bool read_keyval(struct reader *r, const struct spec *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    g_autoptr(GString) word = g_string_new(NULL);
    skip_blanks(r);
    if (!read_word(r, word)) {
        return false;
    }
    struct json_object *o = NULL;
    if (dots_of_longest_key(word->str) > MAX_KEY_DOTS && word->str[0] != '{') {
        err_set(&e, EINVAL, "Parameters are nested too deeply");
    } else {
        o = keyval_parse(word->str, s->name_len == 6 && !memcmp(s->name, "object", 6) ? "qom-type" : "driver", &e);
    }
    if (!o) {
        mon_printf(r->c, "%s\n", err_text(&e));
        return false;
    }
    put(r, s, o);
    return true;
}

static bool read_int(struct reader *r, const struct spec *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    int64_t v;
    skip_blanks(r);
    if (!*r->p && s->optional) {
        return true;
    }
    if (hmp_expr(r->c, &r->p, &v, &e)) {
        mon_printf(r->c, "%s\n", err_text(&e));
        return false;
    }
    if (s->type == 'i' && (v < INT32_MIN || v > UINT32_MAX)) {
        mon_printf(r->c, "'%s' has failed: integer is for 32-bit values\n", r->cmd->name);
        return false;
    }
    if (s->type == 'M') {
        if (v < 0) {
            mon_printf(r->c, "enter a positive value\n");
            return false;
        }
        v = v > INT64_MAX >> 20 ? INT64_MAX : v << 20;
    }
    put(r, s, json_object_new_int64(v));
    return true;
}

/* Mebibytes where no suffix says otherwise. */
static bool read_size(struct reader *r, const struct spec *s)
{
    uint64_t v = 0;
    skip_blanks(r);
    if (!*r->p && s->optional) {
        return true;
    }
    size_t n = strspn(r->p, "0123456789.");
    bool suffix = r->p[n] && strchr("bBkKmMgGtTpPeE", r->p[n]);
    CLEANUP_FREE char *text = suffix ? g_strndup(r->p, n + 1) : g_strdup_printf("%.*sM", (int)n, r->p);
    if (!n || parse_size(text, &v) || v > INT64_MAX) {
        mon_printf(r->c, "invalid size\n");
        return false;
    }
    r->p += n + suffix;
    put(r, s, json_object_new_int64((int64_t)v));
    return true;
}

static bool read_bool(struct reader *r, const struct spec *s)
{
    skip_blanks(r);
    size_t n = strcspn(r->p, " \t");
    bool on = n == 2 && !memcmp(r->p, "on", n);
    if (!n && s->optional) {
        return true;
    }
    if (!on && !(n == 3 && !memcmp(r->p, "off", n))) {
        mon_printf(r->c, "Expected 'on' or 'off'\n");
        return false;
    }
    r->p += n;
    put(r, s, json_object_new_boolean(on));
    return true;
}

static bool read_flag(struct reader *r, const struct spec *s)
{
    skip_blanks(r);
    if (*r->p != '-' || !r->p[1]) {
        return true;
    }
    if (!memchr(s->flags, r->p[1], s->n_flags)) {
        /* Of several flags in a row, each may be the one that is meant. */
        const char option[] = {'-', r->p[1], '\0'};
        if (strstr(r->cmd->args_type, option)) {
            return true;
        }
        mon_printf(r->c, "%s: unsupported option -%c\n", r->cmd->name, r->p[1]);
        return false;
    }
    put(r, s, json_object_new_boolean(true));
    r->p += 2;
    return true;
}

/* "/8xw": how many, in which format, of which size. */
static bool read_format(struct reader *r, const struct spec *s)
{
    int count = 1;
    int format = hmp_name_matches(r->cmd->name, "print", 5) ? 'd' : 'x';
    int size = 4;
    skip_blanks(r);
    if (*r->p == '/') {
        r->p++;
        if (g_ascii_isdigit(*r->p)) {
            for (count = 0; g_ascii_isdigit(*r->p); r->p++) {
                count = MIN(count * 10 + (*r->p - '0'), 1 << 20);
            }
        }
        for (; *r->p && *r->p != ' ' && *r->p != '\t'; r->p++) {
            static const char sizes[] = "bhwg";
            const char *at = strchr(sizes, *r->p);
            if (at) {
                size = 1 << (at - sizes);
            } else if (strchr("oduxc", *r->p)) {
                format = *r->p;
            } else {
                mon_printf(r->c, "invalid char in format: '%c'\n", *r->p);
                return false;
            }
        }
    }
    json_object_object_add(r->args, "count", json_object_new_int(count));
    json_object_object_add(r->args, "format", json_object_new_int(format));
    json_object_object_add(r->args, "size", json_object_new_int(size));
    return true;
}

static bool read_arg(struct reader *r, const struct spec *s)
{
    switch (s->type) {
    case 'S':
        return read_rest(r, s);
    case 'O':
        return read_keyval(r, s);
    case 'i':
    case 'l':
    case 'M':
        return read_int(r, s);
    case 'o':
        return read_size(r, s);
    case 'b':
        return read_bool(r, s);
    case '-':
        return read_flag(r, s);
    case '/':
        return read_format(r, s);
    default:
        return read_string(r, s);
    }
}

bool hmp_parse_args(struct mon_ctx *c, const struct hmp_command *cmd, const char *p, struct json_object **args)
{
    struct reader r = {c, cmd, p, json_object_new_object()};
    struct spec s;
    *args = r.args;
    for (const char *t = cmd->args_type; *t;) {
        t = next_spec(t, &s);
        if (!read_arg(&r, &s)) {
            return false;
        }
    }
    skip_blanks(&r);
    if (*r.p) {
        mon_printf(c, "%s: extraneous characters at the end of line\n", cmd->name);
        return false;
    }
    return true;
}
