/* SPDX-License-Identifier: BSD-2-Clause */
/* Lists of -o, "name=value,…", of create and amend. */
#include "cli/img/img.h"

#include "base/json.h"
#include "base/nearest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_HINT                                                                                                      \
    "\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."

static const struct create_option *option_at(const GPtrArray *all, guint i)
{
    return all->pdata[i];
}

static int by_name(const void *a, const void *b)
{
    const struct create_option *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

const struct create_option *img_option_find(const GPtrArray *all, const char *name)
{
    for (guint i = 0; i < all->len; i++) {
        if (strcmp(option_at(all, i)->name, name) == 0) {
            return option_at(all, i);
        }
    }
    return NULL;
}

void img_options_add(GPtrArray *all, const struct create_option *list)
{
    for (; list && list->name; list++) {
        if (!img_option_find(all, list->name)) {
            g_ptr_array_add(all, (gpointer)(uintptr_t)list);
        }
    }
    g_ptr_array_sort(all, by_name);
}

void img_options_print(const struct tool *img, const GPtrArray *all)
{
    for (guint i = 0; i < all->len; i++) {
        const struct create_option *o = option_at(all, i);
        if (o->ours && img->as_qemu) {
            continue;
        }
        CLEANUP_FREE char *left = g_strdup_printf("%s=<%s>", o->name, o->type);
        if (o->help) {
            printf("  %-22s - %s\n", left, o->help);
        } else {
            printf("  %s\n", left);
        }
    }
}

/* --- values ----------------------------------------------------------------------------------------------------- */

static int unknown_option(const GPtrArray *all, const char *name, struct err *e)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (guint i = 0; i < all->len; i++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)option_at(all, i)->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_word(name, (const char *const *)names->pdata);
    if (near) {
        return err_set(e, EINVAL, "Invalid parameter '%s': did you mean '%s'?", name, near);
    }
    return err_set(e, EINVAL, "Invalid parameter '%s'", name);
}

/* The text in its plainest form. */
static int check_value(const struct create_option *o, const char *value, char **out, struct err *e)
{
    uint64_t n;
    char *end;
    if (o->type[0] == 'b') {
        static const char *const on[] = {"on", "yes", "true", "y", NULL}, *const off[] = {"off", "no", "false", "n",
                                                                                          NULL};
        bool yes = g_strv_contains(on, value);
        *out = g_strdup(yes ? "on" : "off");
        return yes || g_strv_contains(off, value) ? 0
                                                  : err_set(e, EINVAL, "Parameter '%s' expects 'on' or 'off'", o->name);
    }
    if (strcmp(o->type, "str") == 0) {
        *out = g_strdup(value);
        return 0;
    }
    if (strcmp(o->type, "size") == 0) {
        if (parse_size(value, &n)) {
            return err_set(e, EINVAL, "Parameter '%s' expects a non-negative number below 2^64" SIZE_HINT, o->name);
        }
        *out = g_strdup_printf("%" PRIu64, n);
        return 0;
    }
    bool negative = value[0] == '-';
    errno = 0;
    n = strtoull(value, &end, 0);
    if (!g_ascii_isdigit(value[negative]) || *end) {
        return err_set(e, EINVAL, "Parameter '%s' expects a number", o->name);
    }
    if (errno) {
        return err_set(e, EINVAL, "Value '%s' is too large for parameter '%s'", value, o->name);
    }
    *out = negative ? g_strdup_printf("%" PRId64, (int64_t)n) : g_strdup_printf("%" PRIu64, n);
    return 0;
}

int img_options_set(const GPtrArray *all, const char *name, const char *value, struct json_object *out, struct err *e)
{
    const struct create_option *o = img_option_find(all, name);
    CLEANUP_FREE char *text = NULL;
    int rc = o ? check_value(o, value, &text, e) : unknown_option(all, name, e);
    if (rc == 0) {
        json_object_object_add(out, name, json_object_new_string(text));
    }
    return rc;
}

/* Up to the next single comma; ",," stands for a comma. */
static char *next_part(const char **text)
{
    GString *part = g_string_new(NULL);
    const char *p = *text;
    for (; *p; p++) {
        if (*p == ',' && *++p != ',') {
            break;
        }
        g_string_append_c(part, *p);
    }
    *text = p;
    return g_string_free(part, FALSE);
}

bool img_is_help(const char *options)
{
    while (*options) {
        CLEANUP_FREE char *part = next_part(&options);
        if (strcmp(part, "help") == 0 || strcmp(part, "?") == 0) {
            return true;
        }
    }
    return false;
}

/* "name=value"; "name" alone turns it on, "noname" off. */
static int set_part(const GPtrArray *all, char *part, struct json_object *out, struct err *e)
{
    char *eq = strchr(part, '=');
    if (eq) {
        *eq = '\0';
        return img_options_set(all, part, eq + 1, out, e);
    }
    bool off = g_str_has_prefix(part, "no") && !img_option_find(all, part) && img_option_find(all, part + 2);
    return img_options_set(all, off ? part + 2 : part, off ? "off" : "on", out, e);
}

int img_options_parse(const GPtrArray *all, const char *text, struct json_object *out, struct err *e)
{
    while (*text) {
        CLEANUP_FREE char *part = next_part(&text);
        int rc = *part ? set_part(all, part, out, e) : 0;
        if (rc) {
            return rc;
        }
    }
    return 0;
}

struct json_object *img_option_typed(const struct create_option *o, const char *text)
{
    if (strcmp(o->type, "str") == 0) {
        return json_object_new_string(text);
    }
    if (o->type[0] == 'b') {
        return json_object_new_boolean(strcmp(text, "on") == 0);
    }
    return text[0] == '-' ? json_object_new_int64(strtoll(text, NULL, 10))
                          : json_object_new_uint64(strtoull(text, NULL, 10));
}
