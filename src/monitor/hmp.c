/* SPDX-License-Identifier: BSD-2-Clause */
/* The human monitor: from a line to a command. */
#include "monitor/hmp.h"

#include "base/cleanup.h"

#include <string.h>

void mon_printf(struct mon_ctx *c, const char *fmt, ...)
{
    if (c->out) {
        va_list ap;
        va_start(ap, fmt);
        g_string_append_vprintf(c->out, fmt, ap);
        va_end(ap);
    }
}

bool hmp_name_matches(const char *names, const char *word, size_t n)
{
    for (const char *s = names; n; s++) {
        size_t len = strcspn(s, "|");
        if (len == n && !memcmp(s, word, n)) {
            return true;
        }
        s += len;
        if (!*s) {
            break;
        }
    }
    return false;
}

const struct hmp_command *hmp_find(const struct hmp_command *const *tables, const char *word, size_t n)
{
    for (; *tables; tables++) {
        for (const struct hmp_command *cmd = *tables; cmd->name; cmd++) {
            if (hmp_name_matches(cmd->name, word, n)) {
                return cmd;
            }
        }
    }
    return NULL;
}

static size_t word_length(const char *p)
{
    return strcspn(p, " \t/");
}

static const char *skip_blanks(const char *p)
{
    return p + strspn(p, " \t");
}

/* --- help -----------------------------------------------------------------------------------------------------------
 */

static int by_name(gconstpointer a, gconstpointer b)
{
    const struct hmp_command *const *x = a;
    const struct hmp_command *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void print_help(struct mon_ctx *c, const char *prefix, const struct hmp_command *cmd)
{
    mon_printf(c, "%s%s %s -- %s\n", prefix, cmd->name, cmd->params, cmd->help);
}

static void print_all(struct mon_ctx *c, const char *prefix, const struct hmp_command *const *tables)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    for (; *tables; tables++) {
        for (const struct hmp_command *cmd = *tables; cmd->name; cmd++) {
            g_ptr_array_add(all, (gpointer)cmd);
        }
    }
    g_ptr_array_sort(all, by_name);
    for (guint i = 0; i < all->len; i++) {
        print_help(c, prefix, g_ptr_array_index(all, i));
    }
}

void hmp_help(struct mon_ctx *c, const char *which)
{
    which = which ? skip_blanks(which) : "";
    size_t n = word_length(which);
    const char *rest = skip_blanks(which + n);
    const struct hmp_command *cmd = hmp_find(hmp_tables, which, n);
    if (!*which) {
        print_all(c, "", hmp_tables);
    } else if (cmd && !strcmp(cmd->name, "info")) {
        n = word_length(rest);
        cmd = hmp_find(hmp_info_tables, rest, n);
        if (!*rest) {
            print_all(c, "info ", hmp_info_tables);
        } else if (cmd) {
            print_help(c, "info ", cmd);
        } else {
            mon_printf(c, "unknown command: 'info %s'\n", rest);
        }
    } else if (cmd) {
        print_help(c, "", cmd);
    } else {
        mon_printf(c, "unknown command: '%s'\n", which);
    }
}

/* --- running ---------------------------------------------------------------------------------------------------------
 */

int hmp_qmp(struct mon_ctx *c, const char *name, struct json_object *args, struct err *e)
{
    return qmp_call(c, name, args, NULL, e);
}

void hmp_run(struct mon_ctx *c, const char *line)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *args = NULL;
    const char *p = skip_blanks(line);
    const char *begin = p;
    size_t n = word_length(p);
    const struct hmp_command *cmd = hmp_find(hmp_tables, p, n);
    if (!*p) {
        return;
    }
    p += n;
    if (cmd && !strcmp(cmd->name, "info")) {
        p = skip_blanks(p);
        if (!*p) {
            hmp_help(c, "info");
            return;
        }
        n = word_length(p);
        cmd = hmp_find(hmp_info_tables, p, n);
        p += n;
    }
    if (!cmd) {
        mon_printf(c, "unknown command: '%.*s'\n", (int)(p - begin), begin);
        return;
    }
    if (!hmp_parse_args(c, cmd, p, &args)) {
        mon_printf(c, "Try \"help %.*s\" for more information\n", (int)(p - begin), begin);
        return;
    }
    if (cmd->call(c, args, &e) < 0) {
        mon_printf(c, "Error: %s\n", err_text(&e));
    }
}
