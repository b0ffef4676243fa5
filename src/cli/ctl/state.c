/* SPDX-License-Identifier: BSD-2-Clause */
/* `state`: what the machine is made of, and what of it is kept. */
#include "cli/ctl/screen.h"
#include "cli/ctl/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What is the first thing to say of a section. */
static bool is_main(const char *key)
{
    static const char *const keys[] = {"driver", "qom-type", "backend", "command", "type", "chardev"};
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (!strcmp(key, keys[i])) {
            return true;
        }
    }
    return false;
}

/* Appends "a.b", "value", … for every value below `o`. */
static void flatten(GPtrArray *out, const char *above, struct json_object *o)
{
    bool array = json_object_is_type(o, json_type_array);
    size_t n = array ? json_object_array_length(o) : 0;
    if (json_object_is_type(o, json_type_object) && json_object_object_length(o)) {
        json_object_object_foreach(o, key, v)
        {
            CLEANUP_FREE char *name = g_strconcat(above, above[0] ? "." : "", key, NULL);
            flatten(out, name, v);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        CLEANUP_FREE char *name = g_strdup_printf("%s.%zu", above, i);
        flatten(out, name, json_object_array_get_idx(o, i));
    }
    if (!n && above[0]) {
        g_ptr_array_add(out, ctl_clean(g_strdup(above)));
        g_ptr_array_add(out, ctl_clean(g_strdup(json_object_get_string(o) ? json_object_get_string(o) : "null")));
    }
}

static GPtrArray *values_of(struct json_object *section)
{
    GPtrArray *flat = g_ptr_array_new_with_free_func(g_free);
    flatten(flat, "", ctl_get(section, "values"));
    return flat;
}

/* "virtio-blk-pci drive=disk0 addr=01.0" */
static char *summary(struct json_object *section)
{
    g_autoptr(GPtrArray) flat = values_of(section);
    GString *first = g_string_new(NULL), *rest = g_string_new(NULL);
    for (guint i = 0; i + 1 < flat->len; i += 2) {
        const char *key = flat->pdata[i], *value = flat->pdata[i + 1];
        if (!first->len && is_main(key)) {
            g_string_assign(first, value);
        } else {
            g_string_append_printf(rest, "%s%s=%s", rest->len ? " " : "", key, value);
        }
    }
    g_string_append_printf(first, "%s%s", first->len && rest->len ? " " : "", rest->str);
    g_string_free(rest, TRUE);
    return g_string_free(first, FALSE);
}

static void print_values(struct json_object *section)
{
    g_autoptr(GPtrArray) flat = values_of(section);
    for (guint i = 0; i + 1 < flat->len; i += 2) {
        printf("%s = %s\n", (char *)flat->pdata[i], (char *)flat->pdata[i + 1]);
    }
}

/* Those that the operands name. */
static GPtrArray *chosen(const struct ctl *c, struct json_object *sections)
{
    GPtrArray *list = g_ptr_array_new();
    for (size_t i = 0; i < json_object_array_length(sections); i++) {
        struct json_object *s = json_object_array_get_idx(sections, i);
        if ((c->n < 1 || !strcmp(ctl_str(s, "kind"), c->operands[0])) &&
            (c->n < 2 || !strcmp(ctl_str(s, "name"), c->operands[1]))) {
            g_ptr_array_add(list, s);
        }
    }
    return list;
}

static void say_where(struct ctl *c, struct json_object *state)
{
    CLEANUP_FREE char *file = ctl_clean(g_strdup(ctl_str(state, "filename")));
    if (!file[0]) {
        ctl_say(c, "no state file: nothing of this is kept");
    } else {
        ctl_say(c, "%s: generation %" PRId64 "%s", file, ctl_int(state, "generation"),
                ctl_bool(state, "snapshot") ? ", and changes are dropped at the end" : "");
    }
}

static void print_table(struct ctl *c, const GPtrArray *list)
{
    struct table t = table_create(3);
    table_row(&t, g_strdup("KIND"), g_strdup("NAME"), g_strdup("WHAT"));
    for (guint i = 0; i < list->len; i++) {
        struct json_object *s = list->pdata[i];
        const char *name = ctl_str(s, "name");
        table_row(&t, ctl_clean(g_strdup(ctl_str(s, "kind"))), ctl_clean(g_strdup(name[0] ? name : "-")), summary(s));
    }
    table_print(&t);
}

static int print_sections(struct ctl *c, struct json_object *state)
{
    g_autoptr(GPtrArray) list = chosen(c, ctl_get(state, "sections"));
    CLEANUP_ERR struct err e = ERR_INIT;
    if (c->n && !list->len) {
        err_set(&e, ENOENT, "the machine has no '%s'%s%s%s; 'sternactl state' lists what it has", c->operands[0],
                c->n > 1 ? " '" : "", c->n > 1 ? c->operands[1] : "", c->n > 1 ? "'" : "");
        return ctl_fail(c, &e);
    }
    if (c->json) {
        for (guint i = 0; i < list->len; i++) {
            ctl_put_json(list->pdata[i]);
        }
    } else if (c->n > 1) {
        print_values(list->pdata[0]);
    } else {
        print_table(c, list);
    }
    return CTL_OK;
}

static int save(struct ctl *c, const char *file)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *full = g_canonicalize_filename(file, NULL);
    if (c->n) {
        return ctl_usage(c, "--save takes the whole machine, not '%s'", c->operands[0]);
    }
    if (ctl_connect(c, &e) || ctl_call(c, "state-save-as", NULL, &e, "filename", ctl_new_str(full), NULL)) {
        return ctl_fail(c, &e);
    }
    ctl_say(c, "'sterna -state %s' starts this machine again", full);
    return CTL_OK;
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *state = NULL;
    const char *file = ctl_option(c, "save");
    if (file) {
        return save(c, file);
    }
    if (ctl_connect(c, &e) || ctl_call(c, "query-state", &state, &e, NULL)) {
        return ctl_fail(c, &e);
    }
    if (c->json && !c->n) {
        ctl_put_json(state);
        return CTL_OK;
    }
    if (!c->n) {
        say_where(c, state);
    }
    return print_sections(c, state);
}

static const struct ctl_option options[] = {
    {"save", "FILE", "writes all of it to a state file, which must not exist"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_state = {
    .name = "state",
    .operands = "[KIND [NAME]]",
    .max = 2,
    .help = "shows what the machine is made of and where that is kept",
    .options = options,
    .run = run,
};
