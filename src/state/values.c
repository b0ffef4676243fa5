/* SPDX-License-Identifier: BSD-2-Clause */
/* The values of a part, from bytes to JSON and back, by its schema. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "state/range.h"
#include "state/schema.h"

#include <inttypes.h>
#include <string.h>

struct cursor {
    const uint8_t *p;
    size_t left;
    unsigned values; /* that may still be made */
    struct err *e;
};

unsigned state_width(enum state_type t)
{
    switch (t) {
    case STATE_TYPE_BOOL:
    case STATE_TYPE_U8:
        return 1;
    case STATE_TYPE_U16:
        return 2;
    case STATE_TYPE_U32:
        return 4;
    default:
        return 8;
    }
}

static const uint8_t *get(struct cursor *c, size_t n, const char *name)
{
    if (n > c->left) {
        err_set(c->e, EINVAL, "'%s' needs %zu bytes, %zu are left", name, n, c->left);
        return NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    c->left -= n;
    return p;
}

static struct json_object *read_number(struct cursor *c, const struct state_schema_field *f)
{
    const uint8_t *p = get(c, state_width(f->type), f->name);
    if (!p) {
        return NULL;
    }
    unsigned w = state_width(f->type);
    uint64_t v = w == 1 ? *p : w == 2 ? load_le16(p) : w == 4 ? load_le32(p) : load_le64(p);
    struct state_range r = state_range(f->type, f->min, f->max);
    if (!state_in_range(r, v)) {
        state_range_err(r, f->name, v, c->e);
        return NULL;
    }
    return f->type == STATE_TYPE_BOOL  ? json_object_new_boolean(v)
           : f->type == STATE_TYPE_I64 ? json_object_new_int64((int64_t)v)
                                       : json_object_new_uint64(v);
}

static struct json_object *read_bytes(struct cursor *c, const struct state_schema_field *f, uint64_t n)
{
    const uint8_t *p = get(c, n, f->name);
    if (!p) {
        return NULL;
    }
    CLEANUP_FREE char *hex = g_malloc(2 * n + 1);
    for (size_t i = 0; i < n; i++) {
        hex[2 * i] = "0123456789abcdef"[p[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[p[i] & 15];
    }
    return json_object_new_string_len(hex, (int)(2 * n));
}

static struct json_object *read_fields(struct cursor *c, const struct state_schema_field *f, unsigned n);

static struct json_object *read_one(struct cursor *c, const struct state_schema_field *f)
{
    if (!c->values) {
        err_set(c->e, E2BIG, "there are more than %d values", STATE_VALUES_MAX);
        return NULL;
    }
    c->values--;
    return f->type == STATE_TYPE_STRUCT ? read_fields(c, f->sub, f->nsub) : read_number(c, f);
}

static struct json_object *read_array(struct cursor *c, const struct state_schema_field *f, uint64_t n)
{
    CLEANUP_JSON struct json_object *a = json_object_new_array();
    for (uint64_t i = 0; i < n; i++) {
        struct json_object *o = read_one(c, f);
        if (!o) {
            err_wrap(c->e, "'%s', element %" PRIu64, f->name, i);
            return NULL;
        }
        json_object_array_add(a, o);
    }
    return take(a);
}

/* How many elements a field has beside the values `o` that were read before it. */
static int elements(const struct state_schema_field *fields, unsigned i, struct json_object *o, uint64_t *out,
                    struct err *e)
{
    const struct state_schema_field *f = &fields[i];
    struct json_object *v = NULL;
    *out = f->count;
    if (f->used >= 0) {
        json_object_object_get_ex(o, fields[f->used].name, &v);
        *out = json_object_get_uint64(v);
        if (*out > f->count) {
            return err_set(e, ERANGE, "'%s' says that %" PRIu64 " of '%s' are in use, there is room for %u",
                           fields[f->used].name, *out, f->name, f->count);
        }
    }
    return 0;
}

static struct json_object *read_fields(struct cursor *c, const struct state_schema_field *f, unsigned n)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    for (unsigned i = 0; i < n; i++) {
        uint64_t count;
        if (elements(f, i, o, &count, c->e) < 0) {
            return NULL;
        }
        struct json_object *v = f[i].type == STATE_TYPE_BYTES ? read_bytes(c, &f[i], count)
                                : f[i].is_array               ? read_array(c, &f[i], count)
                                                              : read_one(c, &f[i]);
        if (!v) {
            return NULL;
        }
        json_object_object_add(o, f[i].name, v);
    }
    return take(o);
}

struct json_object *state_values_read(const struct state_schema_part *p, const void *data, size_t len, struct err *e)
{
    struct cursor c = {.p = data, .left = len, .values = STATE_VALUES_MAX, .e = e};
    CLEANUP_JSON struct json_object *o = read_fields(&c, p->fields, p->n);
    if (o && c.left) {
        err_set(e, EINVAL, "%zu bytes follow the last field", c.left);
        return NULL;
    }
    return take(o);
}

/* --- and back ----------------------------------------------------------------------------------------------------- */

static int write_number(const struct state_schema_field *f, struct json_object *v, GByteArray *out, struct err *e)
{
    bool is_bool = f->type == STATE_TYPE_BOOL;
    if (!json_object_is_type(v, is_bool ? json_type_boolean : json_type_int) ||
        (!is_bool && f->type != STATE_TYPE_I64 && json_object_get_int64(v) < 0)) {
        return err_set(e, EINVAL, "'%s' is not %s", f->name, is_bool ? "true or false" : "a number of its type");
    }
    uint64_t x = is_bool                     ? (uint64_t)json_object_get_boolean(v)
                 : f->type == STATE_TYPE_I64 ? (uint64_t)json_object_get_int64(v)
                                             : json_object_get_uint64(v);
    struct state_range r = state_range(f->type, f->min, f->max);
    if (!state_in_range(r, x)) {
        return state_range_err(r, f->name, x, e);
    }
    uint8_t le[8];
    store_le64(le, x);
    g_byte_array_append(out, le, state_width(f->type));
    return 0;
}

static int write_bytes(const struct state_schema_field *f, struct json_object *v, uint64_t n, GByteArray *out,
                       struct err *e)
{
    const char *hex = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
    if (strlen(hex) != 2 * n || strspn(hex, "0123456789abcdef") != 2 * n) {
        return err_set(e, EINVAL, "'%s' is not %" PRIu64 " bytes in lower-case hexadecimal digits", f->name, n);
    }
    for (size_t i = 0; i < n; i++) {
        uint8_t b = (uint8_t)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
        g_byte_array_append(out, &b, 1);
    }
    return 0;
}

static int write_fields(const struct state_schema_field *f, unsigned n, struct json_object *o, GByteArray *out,
                        struct err *e);

static int write_one(const struct state_schema_field *f, struct json_object *v, GByteArray *out, struct err *e)
{
    return f->type == STATE_TYPE_STRUCT ? write_fields(f->sub, f->nsub, v, out, e) : write_number(f, v, out, e);
}

static int write_array(const struct state_schema_field *f, struct json_object *v, uint64_t n, GByteArray *out,
                       struct err *e)
{
    if (!json_object_is_type(v, json_type_array) || json_object_array_length(v) != n) {
        return err_set(e, EINVAL, "'%s' is not a list of %" PRIu64, f->name, n);
    }
    for (size_t i = 0; i < n; i++) {
        if (write_one(f, json_object_array_get_idx(v, i), out, e) < 0) {
            return err_wrap(e, "'%s', element %zu", f->name, i);
        }
    }
    return 0;
}

static int write_fields(const struct state_schema_field *f, unsigned n, struct json_object *o, GByteArray *out,
                        struct err *e)
{
    for (unsigned i = 0; i < n; i++) {
        struct json_object *v = NULL;
        uint64_t count;
        if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, f[i].name, &v)) {
            return err_set(e, EINVAL, "'%s' is missing", f[i].name);
        }
        int rc = elements(f, i, o, &count, e);
        if (rc == 0) {
            rc = f[i].type == STATE_TYPE_BYTES ? write_bytes(&f[i], v, count, out, e)
                 : f[i].is_array               ? write_array(&f[i], v, count, out, e)
                                               : write_one(&f[i], v, out, e);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

int state_values_write(const struct state_schema_part *p, struct json_object *values, GByteArray *out, struct err *e)
{
    return write_fields(p->fields, p->n, values, out, e);
}
