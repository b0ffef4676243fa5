/* SPDX-License-Identifier: BSD-2-Clause */
/* `qmp`: any command. */
#include "cli/ctl/verbs.h"

#include "base/json.h"
#include "base/nearest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What looks like a number, a boolean, an object or a list is one; anything else is a string, as is what stands in
 * quotes. */
static struct json_object *value_of(const char *text)
{
    bool literal =
        strchr("{[\"-0123456789", text[0]) || !strcmp(text, "true") || !strcmp(text, "false") || !strcmp(text, "null");
    if (!text[0] || !literal) {
        return json_object_new_string(text);
    }
    struct json_tokener *t = json_tokener_new();
    json_tokener_set_flags(t, JSON_TOKENER_STRICT);
    struct json_object *v = json_tokener_parse_ex(t, text, (int)strlen(text) + 1);
    bool whole = json_tokener_get_error(t) == json_tokener_success;
    json_tokener_free(t);
    return whole ? v : json_object_new_string(text);
}

static int put_pair(struct json_object *args, const char *word, struct err *e)
{
    const char *eq = strchr(word, '=');
    if (!eq || eq == word) {
        return err_set(e, EINVAL, "'%s' is neither KEY=VALUE nor an object in JSON", word);
    }
    g_auto(GStrv) keys = NULL;
    CLEANUP_FREE char *path = g_strndup(word, (gsize)(eq - word));
    keys = g_strsplit(path, ".", -1);
    struct json_object *at = args;
    for (char **k = keys; *k; k++) {
        if (!k[1]) {
            json_object_object_add(at, *k, value_of(eq + 1));
            return 0;
        }
        struct json_object *in = ctl_get(at, *k);
        if (in && !json_object_is_type(in, json_type_object)) {
            return err_set(e, EINVAL, "'%s': '%s' has a value already", word, *k);
        }
        if (!in) {
            in = json_object_new_object();
            json_object_object_add(at, *k, in);
        }
        at = in;
    }
    return 0;
}

static int put_object(struct json_object *args, const char *text, struct err *e)
{
    enum json_tokener_error why;
    CLEANUP_JSON struct json_object *o = json_tokener_parse_verbose(text, &why);
    if (!json_object_is_type(o, json_type_object)) {
        return err_set(e, EINVAL, "the arguments are no JSON object: %s", json_tokener_error_desc(why));
    }
    json_object_object_foreach(o, key, v)
    {
        json_object_object_add(args, key, json_object_get(v));
    }
    return 0;
}

static int read_args(struct ctl *c, struct json_object *args, struct err *e)
{
    int rc = 0;
    for (unsigned i = 1; i < c->n && !rc; i++) {
        const char *word = c->operands[i];
        rc = word[0] == '{' ? put_object(args, word, e) : put_pair(args, word, e);
    }
    return rc;
}

/* The error says that there is no such command: which one was meant? */
static void suggest(struct ctl *c, struct err *e)
{
    CLEANUP_ERR struct err ignored = ERR_INIT;
    CLEANUP_JSON struct json_object *all = NULL;
    if (ctl_call(c, "query-commands", &all, &ignored, NULL)) {
        return;
    }
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (size_t i = 0; i < json_object_array_length(all); i++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)ctl_str(json_object_array_get_idx(all, i), "name"));
    }
    g_ptr_array_add(names, NULL);
    err_suggest(e, c->operands[0], (const char *const *)names->pdata);
}

/* What human-monitor-command returns has the ends of lines that a terminal in raw mode needs. */
static void print_text(const char *s)
{
    for (; *s; s++) {
        if (s[0] != '\r' || s[1] != '\n') {
            putchar(*s);
        }
    }
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *args = json_object_new_object(), *ret = NULL;
    if (read_args(c, args, &e)) {
        return ctl_usage(c, "%s", err_text(&e));
    }
    if (ctl_connect(c, &e)) {
        return ctl_fail(c, &e);
    }
    if (client_call(c->client, c->operands[0], take(args), &ret, &e)) {
        if (e.cls == ERR_COMMAND_NOT_FOUND) {
            suggest(c, &e);
        }
        return ctl_fail(c, &e);
    }
    if (c->json) {
        ctl_put_json(ret);
    } else if (json_object_is_type(ret, json_type_string)) {
        print_text(json_object_get_string(ret));
    } else {
        bool empty = json_object_is_type(ret, json_type_object) && !json_object_object_length(ret);
        int how = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE;
        puts(empty ? "{}" : json_object_to_json_string_ext(ret, how));
    }
    return CTL_OK;
}

const struct ctl_verb verb_qmp = {
    .name = "qmp",
    .operands = "COMMAND [KEY=VALUE|JSON]...",
    .min = 1,
    .max = UINT32_MAX,
    .help = "any command: KEY=VALUE (A.B=VALUE goes into objects), or an object in JSON",
    .run = run,
};
