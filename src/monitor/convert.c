/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/convert.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

struct converter {
    struct err *e;
    int rc;
};

static struct json_object *fail(struct converter *c, const char *name, const char *expects)
{
    if (!c->rc) {
        c->rc = err_set(c->e, EINVAL, "Parameter '%s' expects %s", name, expects);
    }
    return NULL;
}

static struct json_object *to_bool(struct converter *c, const char *name, const char *s)
{
    static const char *const yes[] = {"on", "yes", "true", "y", NULL};
    static const char *const no[] = {"off", "no", "false", "n", NULL};
    if (g_strv_contains(yes, s)) {
        return json_object_new_boolean(true);
    }
    return g_strv_contains(no, s) ? json_object_new_boolean(false) : fail(c, name, "'on' or 'off'");
}

static struct json_object *to_int(struct converter *c, const struct schema_type *t, const char *name, const char *s)
{
    uint64_t size;
    if (!strcmp(t->name, "size")) {
        return parse_size(s, &size) ? fail(c, name, "a size: a number with an optional suffix K, M, G, T, P or E")
                                    : json_object_new_uint64(size);
    }
    char *end;
    bool negative = s[0] == '-';
    errno = 0;
    int64_t i = negative ? strtoll(s, &end, 0) : 0;
    uint64_t u = negative ? 0 : strtoull(s, &end, 0);
    if (end == s || *end || errno || g_ascii_isspace(s[0])) {
        return fail(c, name, "integer");
    }
    return negative ? json_object_new_int64(i) : json_object_new_uint64(u);
}

static struct json_object *to_number(struct converter *c, const char *name, const char *s)
{
    char *end;
    double d = g_ascii_strtod(s, &end);
    return end == s || *end ? fail(c, name, "a number") : json_object_new_double(d);
}

static struct json_object *convert(struct converter *c, const struct schema_type *t, const char *name,
                                   struct json_object *o, unsigned depth);

static const struct schema_type *member_type(const struct schema_type *t, struct json_object *o, const char *name)
{
    for (const struct schema_member *m = t->members; m->name; m++) {
        if (!strcmp(m->name, name)) {
            return m->type;
        }
    }
    struct json_object *tag;
    if (t->tag && json_object_object_get_ex(o, t->tag, &tag)) {
        for (const struct schema_variant *v = t->variants; v->value; v++) {
            if (!g_strcmp0(v->value, json_object_get_string(tag))) {
                return member_type(v->type, o, name);
            }
        }
    }
    return NULL;
}

static struct json_object *convert_object(struct converter *c, const struct schema_type *t, struct json_object *o,
                                          unsigned depth)
{
    struct json_object *out = json_object_new_object();
    json_object_object_foreach(o, key, value)
    {
        const struct schema_type *m = member_type(t, o, key);
        json_object_object_add(out, key, m ? convert(c, m, key, value, depth + 1) : json_object_get(value));
    }
    return out;
}

static struct json_object *convert_array(struct converter *c, const struct schema_type *t, const char *name,
                                         struct json_object *o, unsigned depth)
{
    struct json_object *out = json_object_new_array();
    size_t n = json_object_array_length(o);
    for (size_t i = 0; i < n; i++) {
        json_object_array_add(out, convert(c, t->element, name, json_object_array_get_idx(o, i), depth + 1));
    }
    return out;
}

static struct json_object *convert_string(struct converter *c, const struct schema_type *t, const char *name,
                                          struct json_object *o)
{
    const char *s = json_object_get_string(o);
    switch (t->kind) {
    case SCHEMA_BOOL:
        return to_bool(c, name, s);
    case SCHEMA_INT:
        return to_int(c, t, name, s);
    case SCHEMA_NUMBER:
        return to_number(c, name, s);
    default:
        return json_object_get(o);
    }
}

static struct json_object *convert(struct converter *c, const struct schema_type *t, const char *name,
                                   struct json_object *o, unsigned depth)
{
    if (depth > MAX_DEPTH) {
        return json_object_get(o);
    }
    if (json_object_is_type(o, json_type_string)) {
        return convert_string(c, t, name, o);
    }
    if (t->kind == SCHEMA_OBJECT && json_object_is_type(o, json_type_object)) {
        return convert_object(c, t, o, depth);
    }
    if (t->kind == SCHEMA_ARRAY && json_object_is_type(o, json_type_array)) {
        return convert_array(c, t, name, o, depth);
    }
    if (t->kind == SCHEMA_ALTERNATE && json_object_is_type(o, json_type_object)) {
        for (unsigned i = 0; t->alternatives[i]; i++) {
            if (t->alternatives[i]->kind == SCHEMA_OBJECT) {
                return convert_object(c, t->alternatives[i], o, depth);
            }
        }
    }
    return json_object_get(o);
}

struct json_object *schema_convert(const struct schema_type *t, struct json_object *o, struct err *e)
{
    struct converter c = {e, 0};
    if (!o) {
        return json_object_new_object();
    }
    CLEANUP_JSON struct json_object *out = convert(&c, t, "", o, 0);
    return c.rc ? NULL : take(out);
}
