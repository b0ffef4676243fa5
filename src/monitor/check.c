/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/check.h"

#include "base/cleanup.h"
#include "loop/co.h"

#include <string.h>

/* Each level takes several frames: a coroutine's stack is 64 KiB, so every so many levels the check goes on on a fresh
 * one. */
enum { MAX_DEPTH = 256, STACK_DEPTH = 24 };

/* Where in the value we are: a chain on the stack, from the innermost name outwards. */
struct place {
    const struct place *up;
    const char *name; /* NULL: element `index` of an array */
    size_t index;
    unsigned depth;
};

static void path_append(GString *s, const struct place *p)
{
    if (p->up) {
        path_append(s, p->up);
    }
    if (p->name) {
        g_string_append_printf(s, "%s%s", s->len ? "." : "", p->name);
    } else if (p->up) {
        g_string_append_printf(s, "[%zu]", p->index);
    }
}

/* The root has no name. */
static char *path_text(const struct place *p)
{
    GString *s = g_string_new(NULL);
    path_append(s, p);
    return g_string_free(s, FALSE);
}

static int fail_type(const struct place *p, const char *expected, struct err *e)
{
    CLEANUP_FREE char *path = path_text(p);
    return err_set(e, EINVAL, "Invalid parameter type for '%s', expected: %s", path[0] ? path : "null", expected);
}

static int check(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e);

static bool is_enum_value(const struct schema_type *t, const char *s)
{
    for (unsigned i = 0; t->values[i]; i++) {
        if (!strcmp(t->values[i], s)) {
            return true;
        }
    }
    return false;
}

static int check_enum(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    if (!json_object_is_type(o, json_type_string)) {
        return fail_type(p, "string", e);
    }
    const char *s = json_object_get_string(o);
    if (is_enum_value(t, s)) {
        return 0;
    }
    CLEANUP_FREE char *path = p->name ? g_strdup(p->name) : path_text(p);
    return err_set(e, EINVAL, "Parameter '%s' does not accept value '%s'", path, s);
}

/* Types without a sign are told by their widest, unless the number is too large for a narrower one. */
static int check_int(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    bool is_int = json_object_is_type(o, json_type_int), is_signed = t->min < 0;
    int64_t v = is_int ? json_object_get_int64(o) : 0;
    uint64_t u = is_int ? json_object_get_uint64(o) : 0;
    bool above_int64 = v == INT64_MAX && u > INT64_MAX;
    if (is_signed && (!is_int || above_int64)) {
        return fail_type(p, "integer", e);
    }
    if (is_int && v >= t->min && (v < 0 || u <= t->max)) {
        return 0;
    }
    CLEANUP_FREE char *path = path_text(p);
    bool narrow = is_signed || (is_int && t->max < UINT64_MAX);
    return narrow ? err_set(e, EINVAL, "Parameter '%s' expects %s_t", p->name ? p->name : path, t->name)
                  : err_set(e, EINVAL, "Parameter '%s' expects uint64", path);
}

static int check_member(const struct schema_member *m, struct json_object *o, const struct place *p, struct err *e)
{
    struct place at = {p, m->name, 0, p->depth + 1};
    struct json_object *v;
    if (json_object_object_get_ex(o, m->name, &v)) {
        return check(m->type, v, &at, e);
    }
    if (m->optional) {
        return 0;
    }
    CLEANUP_FREE char *path = path_text(&at);
    return err_set(e, EINVAL, "Parameter '%s' is missing", path);
}

static int check_members(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    for (const struct schema_member *m = t->members; m->name; m++) {
        int rc = check_member(m, o, p, e);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

/* What the tag chooses; NULL: nothing more. */
static const struct schema_type *variant_of(const struct schema_type *t, struct json_object *o)
{
    struct json_object *tag;
    if (!t->tag || !json_object_object_get_ex(o, t->tag, &tag)) {
        return NULL;
    }
    for (const struct schema_variant *v = t->variants; v->value; v++) {
        if (!strcmp(v->value, json_object_get_string(tag))) {
            return v->type;
        }
    }
    return NULL;
}

static bool knows_member(const struct schema_type *t, struct json_object *o, const char *name)
{
    for (; t; t = variant_of(t, o)) {
        for (const struct schema_member *m = t->members; m->name; m++) {
            if (!strcmp(m->name, name)) {
                return true;
            }
        }
        if (t->open) {
            return true;
        }
    }
    return false;
}

static int check_object(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    if (!json_object_is_type(o, json_type_object)) {
        return fail_type(p, "object", e);
    }
    for (const struct schema_type *part = t; part; part = variant_of(part, o)) {
        int rc = check_members(part, o, p, e);
        if (rc) {
            return rc;
        }
    }
    json_object_object_foreach(o, key, value)
    {
        (void)value;
        if (!knows_member(t, o, key)) {
            struct place at = {p, key, 0, p->depth + 1};
            CLEANUP_FREE char *path = path_text(&at);
            return err_set(e, EINVAL, "Parameter '%s' is unexpected", path);
        }
    }
    return 0;
}

static int check_array(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    if (!json_object_is_type(o, json_type_array)) {
        return fail_type(p, "array", e);
    }
    size_t n = json_object_array_length(o);
    for (size_t i = 0; i < n; i++) {
        struct place at = {p, NULL, i, p->depth + 1};
        int rc = check(t->element, json_object_array_get_idx(o, i), &at, e);
        if (rc) {
            return rc;
        }
    }
    return 0;
}

static bool kind_accepts(const struct schema_type *t, struct json_object *o)
{
    switch (t->kind) {
    case SCHEMA_STR:
        return json_object_is_type(o, json_type_string);
    case SCHEMA_ENUM:
        return json_object_is_type(o, json_type_string);
    case SCHEMA_BOOL:
        return json_object_is_type(o, json_type_boolean);
    case SCHEMA_INT:
        return json_object_is_type(o, json_type_int);
    case SCHEMA_NUMBER:
        return json_object_is_type(o, json_type_double) || json_object_is_type(o, json_type_int);
    case SCHEMA_NULL:
        return o == NULL;
    case SCHEMA_ARRAY:
        return json_object_is_type(o, json_type_array);
    case SCHEMA_OBJECT:
        return json_object_is_type(o, json_type_object);
    case SCHEMA_ANY:
    case SCHEMA_ALTERNATE:
        return true;
    }
    return false;
}

static int check_alternate(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    for (unsigned i = 0; t->alternatives[i]; i++) {
        /* Of a string and an enum, the enum is meant only when the value is one of its own. */
        const struct schema_type *a = t->alternatives[i];
        bool other_string = a->kind == SCHEMA_ENUM && t->alternatives[i + 1] && kind_accepts(a, o) &&
                            !is_enum_value(a, json_object_get_string(o));
        if (kind_accepts(a, o) && !other_string) {
            return check(a, o, p, e);
        }
    }
    return fail_type(p, t->name, e);
}

struct check_call {
    const struct schema_type *t;
    struct json_object *o;
    const struct place *p;
    struct err *e;
    int rc;
    bool done;
    struct co *waiter; /* set when no stack was to be had at once */
};

static int check_here(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e);

static void check_elsewhere(void *opaque)
{
    struct check_call *c = opaque;
    c->rc = check_here(c->t, c->o, c->p, c->e);
    c->done = true;
    if (c->waiter) {
        co_wake(c->waiter);
    }
}

static int check(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    if (p->depth > MAX_DEPTH) {
        return err_set(e, EINVAL, "Parameters are nested too deeply");
    }
    if (co_self() && p->depth && p->depth % STACK_DEPTH == 0) {
        struct check_call c = {.t = t, .o = o, .p = p, .e = e};
        co_start(co_loop(), check_elsewhere, &c);
        while (!c.done) {
            c.waiter = co_self();
            co_wait();
        }
        return c.rc;
    }
    return check_here(t, o, p, e);
}

static int check_here(const struct schema_type *t, struct json_object *o, const struct place *p, struct err *e)
{
    switch (t->kind) {
    case SCHEMA_STR:
        return kind_accepts(t, o) ? 0 : fail_type(p, "string", e);
    case SCHEMA_BOOL:
        return kind_accepts(t, o) ? 0 : fail_type(p, "boolean", e);
    case SCHEMA_NUMBER:
        return kind_accepts(t, o) ? 0 : fail_type(p, "number", e);
    case SCHEMA_NULL:
        return kind_accepts(t, o) ? 0 : fail_type(p, "null", e);
    case SCHEMA_INT:
        return check_int(t, o, p, e);
    case SCHEMA_ENUM:
        return check_enum(t, o, p, e);
    case SCHEMA_ARRAY:
        return check_array(t, o, p, e);
    case SCHEMA_OBJECT:
        return check_object(t, o, p, e);
    case SCHEMA_ALTERNATE:
        return check_alternate(t, o, p, e);
    case SCHEMA_ANY:
        break;
    }
    return 0;
}

int schema_check(const struct schema_type *t, struct json_object *o, struct err *e)
{
    CLEANUP_JSON struct json_object *empty = o || t->kind != SCHEMA_OBJECT ? NULL : json_object_new_object();
    struct place root = {0};
    return check(t, empty ? empty : o, &root, e);
}

bool schema_has(struct json_object *o, const char *name)
{
    return json_object_object_get_ex(o, name, NULL);
}

struct json_object *schema_any(struct json_object *o, const char *name)
{
    struct json_object *v = NULL;
    json_object_object_get_ex(o, name, &v);
    return v;
}

const char *schema_str(struct json_object *o, const char *name)
{
    struct json_object *v = schema_any(o, name);
    return v ? json_object_get_string(v) : NULL;
}

bool schema_bool(struct json_object *o, const char *name)
{
    return json_object_get_boolean(schema_any(o, name));
}

int64_t schema_int(struct json_object *o, const char *name)
{
    return json_object_get_int64(schema_any(o, name));
}

uint64_t schema_uint(struct json_object *o, const char *name)
{
    return json_object_get_uint64(schema_any(o, name));
}

double schema_number(struct json_object *o, const char *name)
{
    return json_object_get_double(schema_any(o, name));
}

int schema_enum(struct json_object *o, const char *name, const struct schema_type *t)
{
    const char *s = schema_str(o, name);
    for (int i = 0; s && t->values[i]; i++) {
        if (!strcmp(t->values[i], s)) {
            return i;
        }
    }
    return 0;
}
