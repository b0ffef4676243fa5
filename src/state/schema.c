/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/schema.h"

#include "base/cleanup.h"
#include "state/range.h"

#include <inttypes.h>
#include <string.h>

static const char *const type_names[] = {
    [STATE_TYPE_BOOL] = "bool", [STATE_TYPE_U8] = "u8",   [STATE_TYPE_U16] = "u16",     [STATE_TYPE_U32] = "u32",
    [STATE_TYPE_U64] = "u64",   [STATE_TYPE_I64] = "i64", [STATE_TYPE_BYTES] = "bytes", [STATE_TYPE_STRUCT] = "struct",
};

/* --- ranges ------------------------------------------------------------------------------------------------------- */

static uint64_t type_max(enum state_type t)
{
    switch (t) {
    case STATE_TYPE_BOOL:
        return 1;
    case STATE_TYPE_U8:
        return UINT8_MAX;
    case STATE_TYPE_U16:
        return UINT16_MAX;
    case STATE_TYPE_U32:
        return UINT32_MAX;
    case STATE_TYPE_I64:
        return INT64_MAX;
    default:
        return UINT64_MAX;
    }
}

struct state_range state_range(enum state_type t, uint64_t min, uint64_t max)
{
    struct state_range r = {.is_signed = t == STATE_TYPE_I64, .min = min, .max = max};
    if (!min && !max) {
        r.min = r.is_signed ? (uint64_t)INT64_MIN : 0;
        r.max = type_max(t);
    } else if (!r.is_signed && !max) {
        r.max = type_max(t);
    }
    return r;
}

bool state_in_range(struct state_range r, uint64_t v)
{
    return r.is_signed ? (int64_t)v >= (int64_t)r.min && (int64_t)v <= (int64_t)r.max : v >= r.min && v <= r.max;
}

int state_range_err(struct state_range r, const char *name, uint64_t v, struct err *e)
{
    if (r.is_signed) {
        return err_set(e, ERANGE, "'%s' is %" PRId64 ", which is not within %" PRId64 " to %" PRId64, name, (int64_t)v,
                       (int64_t)r.min, (int64_t)r.max);
    }
    return err_set(e, ERANGE, "'%s' is %" PRIu64 ", which is not within %" PRIu64 " to %" PRIu64, name, v, r.min,
                   r.max);
}

bool state_name_ok(const char *s)
{
    size_t n = 0, slashes = 0;
    for (; s[n]; n++) {
        slashes += s[n] == '/';
        if (!g_ascii_islower(s[n]) && !g_ascii_isdigit(s[n]) && !strchr("-_./", s[n])) {
            return false;
        }
    }
    return n > 0 && n < 256 && slashes < 2 && s[0] != '/' && s[n - 1] != '/';
}

/* --- from a table ------------------------------------------------------------------------------------------------- */

static struct json_object *number(enum state_type t, uint64_t v)
{
    return t == STATE_TYPE_I64 ? json_object_new_int64((int64_t)v) : json_object_new_uint64(v);
}

static struct json_object *fields_json(const struct state_field *fields, unsigned version);

static struct json_object *field_json(const struct state_field *fields, const struct state_field *f, unsigned version)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(f->name));
    json_object_object_add(o, "type", json_object_new_string(type_names[f->type]));
    if (f->count != 1 || f->type == STATE_TYPE_BYTES || f->used) {
        json_object_object_add(o, "count", json_object_new_uint64(f->count));
    }
    if (f->used) {
        const struct state_field *u = state_field_at(fields, f->used - 1);
        json_object_object_add(o, "used", json_object_new_string(u->name));
    }
    if (f->since > 1) {
        json_object_object_add(o, "since", json_object_new_uint64(f->since));
    }
    if (f->min) {
        json_object_object_add(o, "min", number(f->type, f->min));
    }
    if (f->max) {
        json_object_object_add(o, "max", number(f->type, f->max));
    }
    if (f->dflt) {
        json_object_object_add(o, "default", number(f->type, f->dflt));
    }
    if (f->flags & STATE_ANCILLARY) {
        json_object_object_add(o, "ancillary", json_object_new_boolean(true));
    }
    if (f->sub) {
        json_object_object_add(o, "fields", fields_json(f->sub, version));
    }
    if (f->help) {
        json_object_object_add(o, "help", json_object_new_string(f->help));
    }
    return o;
}

const struct state_field *state_field_at(const struct state_field *fields, size_t offset)
{
    for (const struct state_field *f = fields; f && f->type != STATE_END; f++) {
        if (f->offset == offset) {
            return f;
        }
    }
    return NULL;
}

static struct json_object *fields_json(const struct state_field *fields, unsigned version)
{
    struct json_object *a = json_object_new_array();
    for (const struct state_field *f = fields; f && f->type != STATE_END; f++) {
        if (f->since <= version) {
            json_object_array_add(a, field_json(fields, f, version));
        }
    }
    return a;
}

struct json_object *state_schema_json(const struct state_section *s, unsigned version, const char *const *subsections)
{
    version = version ? version : s->version;
    struct json_object *o = json_object_new_object(), *subs = json_object_new_array();
    json_object_object_add(o, "section", json_object_new_string(s->name));
    json_object_object_add(o, "version", json_object_new_uint64(version));
    json_object_object_add(o, "min-version", json_object_new_uint64(MIN(version, s->min_version)));
    json_object_object_add(o, "fields", fields_json(s->fields, version));
    for (const struct state_subsection *b = s->subsections; b && b->name; b++) {
        if (subsections && !g_strv_contains(subsections, b->name)) {
            continue;
        }
        struct json_object *sub = json_object_new_object();
        json_object_object_add(sub, "name", json_object_new_string(b->name));
        json_object_object_add(sub, "fields", fields_json(b->fields, UINT_MAX));
        if (b->loss) {
            json_object_object_add(sub, "loss", json_object_new_string(b->loss));
        }
        json_object_array_add(subs, sub);
    }
    json_object_object_add(o, "subsections", subs);
    return o;
}

/* What is for people, and what a reader may do without: neither is promised to anybody. */
static void strip(struct json_object *o)
{
    if (json_object_is_type(o, json_type_array)) {
        for (size_t i = json_object_array_length(o); i-- > 0;) {
            struct json_object *x = json_object_array_get_idx(o, i);
            if (json_object_get_boolean(json_object_object_get(x, "ancillary"))) {
                json_object_array_del_idx(o, i, 1);
            } else {
                strip(x);
            }
        }
    } else if (json_object_is_type(o, json_type_object)) {
        json_object_object_del(o, "help");
        json_object_object_del(o, "loss");
        json_object_object_foreach(o, key, value)
        {
            (void)key;
            strip(value);
        }
    }
}

char *state_schema_hash(const struct state_section *s)
{
    return state_schema_hash_as(s, 0, NULL);
}

char *state_schema_hash_as(const struct state_section *s, unsigned version, const char *const *subsections)
{
    CLEANUP_JSON struct json_object *o = state_schema_json(s, version, subsections);
    strip(o);
    return g_compute_checksum_for_string(G_CHECKSUM_SHA256, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
                                         -1);
}

/* --- from JSON ---------------------------------------------------------------------------------------------------- */

struct parse {
    unsigned fields; /* so far */
    struct err *e;
};

static int get_number(struct json_object *o, const char *key, enum state_type t, uint64_t *out, struct parse *p)
{
    struct json_object *v = NULL;
    if (!json_object_object_get_ex(o, key, &v)) {
        return 0;
    }
    if (!json_object_is_type(v, json_type_int) || (t != STATE_TYPE_I64 && json_object_get_int64(v) < 0)) {
        return err_set(p->e, EINVAL, "'%s' is not a number that the type can hold", key);
    }
    *out = t == STATE_TYPE_I64 ? (uint64_t)json_object_get_int64(v) : json_object_get_uint64(v);
    return 0;
}

static const char *get_string(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;
    bool there = json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string);
    return there ? json_object_get_string(v) : NULL;
}

static int get_name(struct json_object *o, const char *key, char **out, struct parse *p)
{
    const char *name = get_string(o, key);
    if (!name || !state_name_ok(name)) {
        return err_set(p->e, EINVAL, "there is no '%s', or it is not a name", key);
    }
    *out = g_strdup(name);
    return 0;
}

static int parse_fields(struct json_object *o, struct state_schema_field **out, unsigned *n, unsigned depth,
                        struct parse *p);

static int parse_type(struct json_object *o, struct state_schema_field *f, unsigned depth, struct parse *p)
{
    const char *name = get_string(o, "type");
    for (unsigned t = STATE_TYPE_BOOL; name && t <= STATE_TYPE_STRUCT; t++) {
        if (!strcmp(name, type_names[t])) {
            f->type = t;
        }
    }
    if (!f->type) {
        return err_set(p->e, EINVAL, "type '%s' is not known", name ? name : "");
    }
    if (f->type != STATE_TYPE_STRUCT) {
        return 0;
    }
    int rc = parse_fields(o, &f->sub, &f->nsub, depth + 1, p);
    return rc < 0 ? rc : f->nsub ? 0 : err_set(p->e, EINVAL, "the struct is empty");
}

static int parse_count(struct json_object *o, struct state_schema_field *before, unsigned n,
                       struct state_schema_field *f, struct parse *p)
{
    uint64_t count = 1;
    int rc = get_number(o, "count", STATE_TYPE_U32, &count, p);
    f->is_array = json_object_object_get_ex(o, "count", NULL) && f->type != STATE_TYPE_BYTES;
    f->count = (unsigned)count;
    f->used = -1;
    if (rc < 0) {
        return rc;
    }
    if (!count || count > STATE_COUNT_MAX) {
        return err_set(p->e, E2BIG, "count %" PRIu64 " is not within 1 to %d", count, STATE_COUNT_MAX);
    }
    const char *used = get_string(o, "used");
    for (unsigned i = 0; used && i < n; i++) {
        bool fits = before[i].type >= STATE_TYPE_U8 && before[i].type <= STATE_TYPE_U64 && !before[i].is_array;
        if (fits && !strcmp(before[i].name, used)) {
            f->used = (int)i;
        }
    }
    return used && f->used < 0 ? err_set(p->e, EINVAL, "no number named '%s' stands before it", used) : 0;
}

static int parse_field(struct json_object *o, struct state_schema_field *before, unsigned n, unsigned depth,
                       struct parse *p)
{
    struct state_schema_field *f = &before[n];
    uint64_t since = 1;
    struct json_object *anc = NULL;
    int rc = json_object_is_type(o, json_type_object) ? get_name(o, "name", &f->name, p)
                                                      : err_set(p->e, EINVAL, "a field is not an object");
    if (rc < 0) {
        return rc;
    }
    if (parse_type(o, f, depth, p) < 0 || parse_count(o, before, n, f, p) < 0 ||
        get_number(o, "since", STATE_TYPE_U32, &since, p) < 0 || get_number(o, "min", f->type, &f->min, p) < 0 ||
        get_number(o, "max", f->type, &f->max, p) < 0 || get_number(o, "default", f->type, &f->dflt, p) < 0) {
        return err_wrap(p->e, "field '%s'", f->name);
    }
    f->since = (unsigned)MIN(since, UINT32_MAX);
    f->flags = json_object_object_get_ex(o, "ancillary", &anc) && json_object_get_boolean(anc) ? STATE_ANCILLARY : 0;
    for (unsigned i = 0; i < n; i++) {
        if (!strcmp(before[i].name, f->name)) {
            return err_set(p->e, EINVAL, "field '%s' is there twice", f->name);
        }
    }
    return 0;
}

static int parse_fields(struct json_object *o, struct state_schema_field **out, unsigned *n, unsigned depth,
                        struct parse *p)
{
    struct json_object *a = NULL;
    if (!json_object_object_get_ex(o, "fields", &a) || !json_object_is_type(a, json_type_array)) {
        return err_set(p->e, EINVAL, "there is no list 'fields'");
    }
    size_t len = json_object_array_length(a);
    if (len > STATE_FIELDS_MAX - p->fields || depth > STATE_DEPTH_MAX) {
        return err_set(p->e, E2BIG, "there are more than %d fields, or they are nested deeper than %d",
                       STATE_FIELDS_MAX, STATE_DEPTH_MAX);
    }
    p->fields += (unsigned)len;
    *out = g_new0(struct state_schema_field, len + 1);
    for (*n = 0; *n < len; ++*n) {
        int rc = parse_field(json_object_array_get_idx(a, *n), *out, *n, depth, p);
        if (rc < 0) {
            ++*n; /* the one half-built is freed too */
            return rc;
        }
    }
    return 0;
}

static int parse_subsections(struct json_object *o, struct state_schema *s, struct parse *p)
{
    struct json_object *a = NULL;
    if (!json_object_object_get_ex(o, "subsections", &a)) {
        return 0;
    }
    size_t len = json_object_is_type(a, json_type_array) ? json_object_array_length(a) : STATE_FIELDS_MAX + 1;
    if (len > STATE_FIELDS_MAX) {
        return err_set(p->e, EINVAL, "'subsections' is not a list, or too long a one");
    }
    s->subs = g_new0(struct state_schema_part, len + 1);
    for (size_t i = 0; i < len; i++) {
        struct state_schema_part *sub = &s->subs[s->nsubs++];
        struct json_object *so = json_object_array_get_idx(a, i);
        int rc = json_object_is_type(so, json_type_object) ? get_name(so, "name", &sub->name, p)
                                                           : err_set(p->e, EINVAL, "a subsection is not an object");
        if (rc == 0 && state_schema_subsection(s, sub->name) != sub) {
            rc = err_set(p->e, EINVAL, "subsection '%s' is there twice", sub->name);
        }
        if (rc == 0 && parse_fields(so, &sub->fields, &sub->n, 0, p) < 0) {
            rc = err_wrap(p->e, "subsection '%s'", sub->name);
        }
        if (rc < 0) {
            return rc;
        }
        sub->loss = g_strdup(get_string(so, "loss"));
    }
    return 0;
}

static int parse_schema(struct json_object *o, struct state_schema *s, struct parse *p)
{
    uint64_t version = 0, min = 1;
    if (!json_object_is_type(o, json_type_object)) {
        return err_set(p->e, EINVAL, "a schema is not an object");
    }
    int rc = get_name(o, "section", &s->base.name, p);
    if (rc < 0) {
        return rc;
    }
    if (get_number(o, "version", STATE_TYPE_U32, &version, p) < 0 ||
        get_number(o, "min-version", STATE_TYPE_U32, &min, p) < 0 ||
        parse_fields(o, &s->base.fields, &s->base.n, 0, p) < 0 || parse_subsections(o, s, p) < 0) {
        return err_wrap(p->e, "section '%s'", s->base.name);
    }
    if (!version || version > UINT32_MAX || min > version) {
        return err_set(p->e, EINVAL, "section '%s': there is no version, or none that can be", s->base.name);
    }
    s->version = (unsigned)version;
    s->min_version = (unsigned)min;
    return 0;
}

struct state_schema *state_schema_parse(struct json_object *o, struct err *e)
{
    struct state_schema *s = g_new0(struct state_schema, 1);
    struct parse p = {.e = e};
    if (parse_schema(o, s, &p) < 0) {
        state_schema_destroy(s);
        return NULL;
    }
    return s;
}

static void free_fields(struct state_schema_field *f, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        free_fields(f[i].sub, f[i].nsub);
        g_free(f[i].name);
    }
    g_free(f);
}

static void free_part(struct state_schema_part *p)
{
    free_fields(p->fields, p->n);
    g_free(p->name);
    g_free(p->loss);
}

void state_schema_destroy(struct state_schema *s)
{
    if (!s) {
        return;
    }
    free_part(&s->base);
    for (unsigned i = 0; i < s->nsubs; i++) {
        free_part(&s->subs[i]);
    }
    g_free(s->subs);
    g_free(s);
}

const struct state_schema_part *state_schema_subsection(const struct state_schema *s, const char *name)
{
    for (unsigned i = 0; i < s->nsubs; i++) {
        if (!strcmp(s->subs[i].name, name)) {
            return &s->subs[i];
        }
    }
    return NULL;
}
