/* SPDX-License-Identifier: BSD-2-Clause */
/* Nested options as dotted keys, and back. */
#include "config/file_int.h"

#include "base/cleanup.h"

#include <math.h>
#include <string.h>

/* --- one key -------------------------------------------------------------------------------------------------------
 */

static bool is_bare(char c)
{
    return g_ascii_isalnum(c) || c == '_' || c == '-' || c == ':' || c == '@' || c == '+';
}

static bool all_digits(const char *s)
{
    return *s && !s[strspn(s, "0123456789")];
}

char *config_key_level(const char **at, bool *index, const char **why)
{
    const char *start = *at;
    *index = false;
    if (*start == '"') {
        struct json_object *v = NULL;
        if (!config_value_parse(at, &v, why)) {
            return NULL;
        }
        char *text = g_strdup(json_object_get_string(v));
        json_object_put(v);
        return text;
    }
    while (is_bare(**at)) {
        ++*at;
    }
    if (*at == start) {
        *why = "a key is made of letters, digits, '-', '_' and dots between levels; other levels are quoted";
        return NULL;
    }
    char *text = g_strndup(start, (size_t)(*at - start));
    *index = all_digits(text);
    if (*index && (strlen(text) > 4 || (text[0] == '0' && text[1]))) {
        *why = "an array's elements are numbered from 0";
        g_free(take(text));
    }
    return text;
}

void config_key_add(GString *key, const char *level, bool index)
{
    bool bare = *level != '\0' && (index || !all_digits(level));
    for (const char *p = level; *p; p++) {
        bare &= is_bare(*p);
    }
    if (key->len) {
        g_string_append_c(key, '.');
    }
    if (bare) {
        g_string_append(key, level);
        return;
    }
    config_string_print(key, level);
}

char *config_key_canonical(const char *key, const char **why)
{
    GString *made = g_string_new(NULL);
    bool ok = false;
    for (unsigned depth = 0;; depth++) {
        bool index;
        char *level = config_key_level(&key, &index, why);
        if (!level) {
            break;
        }
        config_key_add(made, level, index);
        g_free(level);
        if (*key != '.') {
            ok = !*key;
            *why = "a key is made of letters, digits, '-', '_' and dots between levels; other levels are quoted";
            break;
        }
        if (depth + 1 >= CONFIG_MOST_DEPTH) {
            *why = "it has too many levels";
            break;
        }
        key++;
    }
    return g_string_free(made, !ok);
}

/* --- out of JSON ---------------------------------------------------------------------------------------------------
 */

static int flatten(const char *key, struct json_object *v, unsigned depth, GPtrArray *to, struct err *e);

static int flatten_member(GString *key, struct json_object *v, unsigned depth, GPtrArray *to, struct err *e)
{
    int rc = g_utf8_validate(key->str, (gssize)key->len, NULL)
                 ? flatten(key->str, v, depth, to, e)
                 : err_set(e, EINVAL, "a key cannot be kept: it is not valid UTF-8");
    g_string_free(key, TRUE);
    return rc;
}

static GString *key_below(const char *parent, const char *level, bool index)
{
    GString *key = g_string_new(parent);
    config_key_add(key, level, index);
    return key;
}

static int check_value(const char *key, struct json_object *v, struct err *e)
{
    if (json_object_is_type(v, json_type_string)) {
        const char *s = json_object_get_string(v);
        if (!g_utf8_validate_len(s, (gsize)json_object_get_string_len(v), NULL)) {
            return err_set(e, EINVAL, "the value of '%s' cannot be kept: it is not valid UTF-8, or has a NUL", key);
        }
    }
    if (json_object_is_type(v, json_type_double) && !isfinite(json_object_get_double(v))) {
        return err_set(e, EINVAL, "the value of '%s' cannot be kept: it is no finite number", key);
    }
    return 0;
}

static int flatten(const char *key, struct json_object *v, unsigned depth, GPtrArray *to, struct err *e)
{
    bool object = json_object_is_type(v, json_type_object);
    bool array = json_object_is_type(v, json_type_array);
    int rc = check_value(key, v, e);
    if (rc < 0) {
        return rc;
    }
    if ((!object || !json_object_object_length(v)) && (!array || !json_object_array_length(v))) {
        if (to->len >= CONFIG_MOST_KEYS) {
            return err_set(e, E2BIG, "more than %d keys", CONFIG_MOST_KEYS);
        }
        g_ptr_array_add(to, config_entry_new(key, json_object_get(v)));
        return 0;
    }
    if (depth >= CONFIG_MOST_DEPTH) {
        return err_set(e, E2BIG, "'%s' is nested in more than %d levels", key, CONFIG_MOST_DEPTH);
    }
    if (object) {
        json_object_object_foreach(v, name, member)
        {
            rc = flatten_member(key_below(key, name, false), member, depth + 1, to, e);
            if (rc < 0) {
                return rc;
            }
        }
        return 0;
    }
    for (size_t i = 0; i < json_object_array_length(v); i++) {
        CLEANUP_FREE char *name = g_strdup_printf("%zu", i);
        rc = flatten_member(key_below(key, name, true), json_object_array_get_idx(v, i), depth + 1, to, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int config_flatten(struct json_object *values, GPtrArray *entries, struct err *e)
{
    json_object_object_foreach(values, name, member)
    {
        int rc = flatten_member(key_below("", name, false), member, 1, entries, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* --- into JSON -----------------------------------------------------------------------------------------------------
 */

/* One level of the tree that the dotted keys describe. */
struct level {
    char *name;
    bool index;
    const struct config_entry *leaf; /* the value that stands here; NULL: `below` */
    GPtrArray *below;
    const struct config_entry *first; /* the entry that made it */
};

static void level_free(void *p)
{
    struct level *l = p;
    g_free(l->name);
    g_ptr_array_free(l->below, TRUE);
    g_free(l);
}

static struct level *level_new(char *name, bool index, const struct config_entry *by)
{
    struct level *l = g_new0(struct level, 1);
    l->name = name;
    l->index = index;
    l->first = by;
    l->below = g_ptr_array_new_with_free_func(level_free);
    return l;
}

/* Takes name. */
static struct level *level_get(struct level *in, char *name, bool index, const struct config_entry *by)
{
    for (guint i = 0; i < in->below->len; i++) {
        struct level *l = g_ptr_array_index(in->below, i);
        if (l->index == index && !strcmp(l->name, name)) {
            g_free(name);
            return l;
        }
    }
    struct level *l = level_new(name, index, by);
    g_ptr_array_add(in->below, l);
    return l;
}

static int insert(struct level *root, const struct config_entry *en, struct err *e)
{
    struct level *l = root;
    const char *at = en->key;
    const char *why;
    bool index;
    for (;;) {
        char *name = config_key_level(&at, &index, &why);
        l = level_get(l, name, index, en);
        if (l->leaf && *at) {
            return err_set(e, EINVAL, "key '%s' is below '%s', which is a value already (line %u)", en->key,
                           l->leaf->key, l->leaf->line);
        }
        if (!*at) {
            break;
        }
        at++;
    }
    if (l->leaf) {
        return err_set(e, EINVAL, "key '%s' is there twice (line %u)", en->key, l->leaf->line);
    }
    if (l->below->len) {
        return err_set(e, EINVAL, "key '%s' is a value, but there are keys below it (line %u)", en->key,
                       l->first->line);
    }
    l->leaf = en;
    return 0;
}

static struct json_object *build(const struct level *l, const struct config_entry **bad, struct err *e);

/* Elements may stand in any order; none may be missing. */
static struct json_object *build_array(const struct level *l, const struct config_entry **bad, struct err *e)
{
    struct json_object *a = json_object_new_array();
    for (guint i = 0; i < l->below->len; i++) {
        const struct level *m = g_ptr_array_index(l->below, i);
        guint64 at = g_ascii_strtoull(m->name, NULL, 10);
        if (at >= l->below->len) {
            *bad = m->first;
            err_set(e, EINVAL, "key '%s': an array's elements are numbered from 0, and one before this is missing",
                    m->first->key);
            break;
        }
        struct json_object *v = build(m, bad, e);
        if (*bad) {
            json_object_put(v);
            break;
        }
        json_object_array_put_idx(a, (size_t)at, v);
    }
    return a;
}

static struct json_object *build(const struct level *l, const struct config_entry **bad, struct err *e)
{
    if (l->leaf) {
        return json_object_get(l->leaf->value);
    }
    bool array = l->below->len && ((struct level *)g_ptr_array_index(l->below, 0))->index;
    for (guint i = 0; i < l->below->len; i++) {
        const struct level *m = g_ptr_array_index(l->below, i);
        if (m->index != array) {
            *bad = m->first;
            err_set(e, EINVAL, "key '%s': beside it stand %s", m->first->key,
                    array ? "an array's elements; a name made of digits is quoted" : "names, not an array's elements");
            return NULL;
        }
    }
    if (array) {
        return build_array(l, bad, e);
    }
    struct json_object *o = json_object_new_object();
    for (guint i = 0; i < l->below->len && !*bad; i++) {
        const struct level *m = g_ptr_array_index(l->below, i);
        json_object_object_add(o, m->name, build(m, bad, e));
    }
    return o;
}

struct json_object *config_unflatten(const GPtrArray *entries, const struct config_entry **bad, struct err *e)
{
    struct level *root = level_new(NULL, false, NULL);
    struct json_object *o = NULL;
    *bad = NULL;
    for (guint i = 0; i < entries->len && !*bad; i++) {
        const struct config_entry *en = g_ptr_array_index(entries, i);
        if (insert(root, en, e) < 0) {
            *bad = en;
        }
    }
    if (!*bad) {
        o = build(root, bad, e);
        if (*bad) {
            json_object_put(take(o));
        } else if (!json_object_is_type(o, json_type_object)) { /* "0 = x" */
            *bad = g_ptr_array_index(entries, 0);
            err_set(e, EINVAL, "key '%s': a section's keys are names", (*bad)->key);
            json_object_put(take(o));
        }
    }
    level_free(root);
    return o;
}
