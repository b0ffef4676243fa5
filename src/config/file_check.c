/* SPDX-License-Identifier: BSD-2-Clause */
/* What may stand in a state file, by the table of its user. */
#include "config/file_int.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "base/nearest.h"

#include <string.h>

static const char *const type_names[] = {
    [CONFIG_STRING] = "a string",    [CONFIG_BOOL] = "true or false",
    [CONFIG_INT] = "a whole number", [CONFIG_SIZE] = "a size, like 4G or 65536",
    [CONFIG_NUMBER] = "a number",
};

static const struct config_kind *find_kind(const struct config_kind *kinds, const char *name)
{
    while (kinds->name && strcmp(kinds->name, name) != 0) {
        kinds++;
    }
    return kinds->name ? kinds : NULL;
}

/* "at.*" is everything below "at". */
static bool key_matches(const char *pattern, const char *key)
{
    size_t n = strlen(pattern);
    if (n > 2 && !strcmp(pattern + n - 2, ".*")) {
        return !strncmp(pattern, key, n - 2) && (!key[n - 2] || key[n - 2] == '.');
    }
    return !strcmp(pattern, key);
}

static const struct config_key *find_key(const struct config_kind *kind, const char *name)
{
    for (const struct config_key *k = kind->keys; k && k->name; k++) {
        if (key_matches(k->name, name)) {
            return k;
        }
    }
    return NULL;
}

static bool type_matches(enum config_type type, struct json_object *v)
{
    enum json_type is = json_object_get_type(v);
    uint64_t size;
    switch (type) {
    case CONFIG_ANY:
        return true;
    case CONFIG_STRING:
        return is == json_type_string;
    case CONFIG_BOOL:
        return is == json_type_boolean;
    case CONFIG_INT:
        return is == json_type_int;
    case CONFIG_NUMBER:
        return is == json_type_int || is == json_type_double;
    case CONFIG_SIZE:
        return is == json_type_string ? parse_size(json_object_get_string(v), &size) == 0
                                      : is == json_type_int && (json_object_get_int64(v) >= 0);
    }
    return false;
}

static int blame(const char *path, const struct config_text *t, unsigned line, struct err *e)
{
    return t->name ? err_wrap(e, "%s:%u: [%s \"%s\"]", path, line, t->kind, t->name)
                   : err_wrap(e, "%s:%u: [%s]", path, line, t->kind);
}

/* The line that an error's text is about: of the first key that stands in '' in it. */
static unsigned line_of(const struct config_text *t, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, "'", -1);
    for (unsigned w = 0; words[w] && words[w + 1]; w++) {
        size_t n = strlen(words[w + 1]);
        for (guint i = 0; i < t->entries->len && n; i++) {
            const struct config_entry *en = g_ptr_array_index(t->entries, i);
            if (!strncmp(en->key, words[w + 1], n) && (!en->key[n] || en->key[n] == '.')) {
                return en->line;
            }
        }
    }
    return t->line;
}

int config_text_blame(const char *path, const struct config_text *t, struct err *e)
{
    return blame(path, t, line_of(t, err_text(e)), e);
}

/* The nearest of them, or all. */
static int suggest(struct err *e, const char *wrong, GPtrArray *names)
{
    CLEANUP_FREE char *was = g_strdup(err_text(e));
    g_ptr_array_add(names, NULL);
    int rc = err_suggest(e, wrong, (const char *const *)names->pdata);
    if (names->len > 1 && !strcmp(was, err_text(e))) {
        CLEANUP_FREE char *all = g_strjoinv(", ", (char **)names->pdata);
        rc = err_set(e, EINVAL, "%s; there are: %s", was, all);
    }
    g_ptr_array_free(names, TRUE);
    return rc;
}

static int unknown_key(const struct config_kind *kind, const char *key, struct err *e)
{
    GPtrArray *names = g_ptr_array_new();
    for (const struct config_key *k = kind->keys; k && k->name; k++) {
        g_ptr_array_add(names, (void *)(uintptr_t)k->name);
    }
    err_set(e, EINVAL, "key '%s' is unknown", key);
    return suggest(e, key, names);
}

static int check_entry(const struct config_kind *kind, const struct config_entry *en, struct err *e)
{
    const struct config_key *k = find_key(kind, en->key);
    if (!k) {
        return kind->open ? 0 : unknown_key(kind, en->key, e);
    }
    if (type_matches(k->type, en->value)) {
        return 0;
    }
    GString *is = g_string_new(NULL);
    config_value_print(is, en->value);
    bool quote = k->type == CONFIG_STRING && !json_object_is_type(en->value, json_type_object) &&
                 !json_object_is_type(en->value, json_type_array);
    int rc = err_set(e, EINVAL, "key '%s': expected %s, not %s%s%s%s", en->key, type_names[k->type], is->str,
                     quote ? "; as a string it is \"" : "", quote ? is->str : "", quote ? "\"" : "");
    g_string_free(is, TRUE);
    return rc;
}

static int check_required(const struct config_kind *kind, const struct config_text *t, struct err *e)
{
    for (const struct config_key *k = kind->keys; k && k->name; k++) {
        bool found = !k->required;
        for (guint i = 0; i < t->entries->len && !found; i++) {
            const struct config_entry *en = g_ptr_array_index(t->entries, i);
            found = key_matches(k->name, en->key);
        }
        if (!found) {
            return err_set(e, EINVAL, "key '%s' is missing", k->name);
        }
    }
    return 0;
}

static int unknown_kind(const struct config_kind *kinds, const char *name, struct err *e)
{
    GPtrArray *names = g_ptr_array_new();
    for (; kinds->name; kinds++) {
        g_ptr_array_add(names, (void *)(uintptr_t)kinds->name);
    }
    err_set(e, EINVAL, "there is no such kind of section");
    return suggest(e, name, names);
}

static int check_section(const char *path, const struct config_text *t, const struct config_kind *kinds, struct err *e)
{
    const struct config_kind *kind = find_kind(kinds, t->kind);
    int rc = 0;
    if (!kind) {
        rc = unknown_kind(kinds, t->kind, e);
    } else if (kind->single != !t->name) {
        rc = kind->single ? err_set(e, EINVAL, "there is one such section, without a name: [%s]", kind->name)
                          : err_set(e, EINVAL, "the section's name is missing: [%s \"name\"]", kind->name);
    }
    if (rc < 0) {
        return blame(path, t, t->line, e);
    }
    for (guint i = 0; i < t->entries->len; i++) {
        const struct config_entry *en = g_ptr_array_index(t->entries, i);
        if (check_entry(kind, en, e) < 0) {
            return blame(path, t, en->line, e);
        }
    }
    rc = check_required(kind, t, e);
    if (rc == 0 && kind->check) {
        rc = kind->check(t->pub.values, e);
    }
    return rc < 0 ? config_text_blame(path, t, e) : 0;
}

/* Whoever wrote it may know more than this program. */
static int name_newer(const struct config_doc *d, struct err *e)
{
    const char *by = config_doc_release(d);
    CLEANUP_FREE char *text = g_strdup(err_text(e));
    return by && strverscmp(by, STERNA_RELEASE) > 0
               ? err_set(e, e->code, "%s; the file was written by Sterna %s, this is %s", text, by, STERNA_RELEASE)
               : -e->code;
}

int config_check(const char *path, const struct config_doc *d, const struct config_kind *kinds, struct err *e)
{
    CLEANUP_ERR struct err mine = ERR_INIT;
    struct err *to = e ? e : &mine;
    for (guint i = 0; kinds && i < d->sections->len; i++) {
        if (check_section(path, g_ptr_array_index(d->sections, i), kinds, to) < 0) {
            return name_newer(d, to);
        }
    }
    return 0;
}
