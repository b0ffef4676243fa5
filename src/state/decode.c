/* SPDX-License-Identifier: BSD-2-Clause */
/* A device's chunk becomes a state struct. */
#include "base/cleanup.h"
#include "base/endian.h"
#include "state/device.h"
#include "state/manifest.h"
#include "state/range.h"

#include <inttypes.h>
#include <string.h>

/* --- values into a struct ----------------------------------------------------------------------------------------- */

struct decode {
    const char *path;
    const struct state_section *s;
    const struct state_policy *p;
    struct err *e;
};

static void set_defaults(const struct state_field *fields, void *base)
{
    for (const struct state_field *f = fields; f && f->type != STATE_END; f++) {
        uint8_t *at = (uint8_t *)base + f->offset;
        for (unsigned i = 0; i < f->count && f->type != STATE_TYPE_BYTES; i++, at += f->stride) {
            if (f->type == STATE_TYPE_STRUCT) {
                set_defaults(f->sub, at);
            } else {
                state_member_set(f->type, at, f->dflt);
            }
        }
    }
}

static const struct state_field *find_field(const struct state_field *fields, const char *name)
{
    for (const struct state_field *f = fields; f && f->type != STATE_END; f++) {
        if (!strcmp(f->name, name)) {
            return f;
        }
    }
    return NULL;
}

static int put_number(struct decode *c, const struct state_field *f, struct json_object *v, void *at)
{
    bool is_bool = json_object_is_type(v, json_type_boolean), neg = !is_bool && json_object_get_int64(v) < 0;
    uint64_t x = is_bool ? (uint64_t)json_object_get_boolean(v)
                 : neg   ? (uint64_t)json_object_get_int64(v)
                         : json_object_get_uint64(v);
    struct state_range r = state_range(f->type, f->min, f->max);
    if (neg != (r.is_signed && (int64_t)x < 0) || !state_in_range(r, x)) { /* a number of the other signedness */
        return state_range_err(r, f->name, x, c->e);
    }
    state_member_set(f->type, at, x);
    return 0;
}

struct place {
    const struct state_schema_field *from;
    const struct state_field *to;
    void *base; /* of the struct that the field lies in */
};

static int put_struct(struct decode *c, const struct state_schema_field *from, unsigned n, const struct state_field *to,
                      struct json_object *values, void *base);

static int put_bytes(struct decode *c, const struct place *w, struct json_object *v)
{
    const char *hex = json_object_get_string(v);
    uint8_t *at = (uint8_t *)w->base + w->to->offset;
    for (size_t i = 0; hex[2 * i]; i++) {
        at[i] = (uint8_t)(g_ascii_xdigit_value(hex[2 * i]) << 4 | g_ascii_xdigit_value(hex[2 * i + 1]));
    }
    return 0;
}

static int put_elements(struct decode *c, const struct place *w, struct json_object *v, uint64_t n)
{
    uint8_t *at = (uint8_t *)w->base + w->to->offset;
    for (uint64_t i = 0; i < n; i++, at += w->to->stride) {
        struct json_object *o = w->from->is_array ? json_object_array_get_idx(v, i) : v;
        int rc = w->to->type == STATE_TYPE_STRUCT ? put_struct(c, w->from->sub, w->from->nsub, w->to->sub, o, at)
                                                  : put_number(c, w->to, o, at);
        if (rc < 0) {
            return w->from->is_array ? err_wrap(c->e, "'%s', element %" PRIu64, w->to->name, i) : rc;
        }
    }
    return 0;
}

static uint64_t length_of(const struct state_schema_field *from, struct json_object *v)
{
    return from->type == STATE_TYPE_BYTES ? (uint64_t)json_object_get_string_len(v) / 2
           : from->is_array               ? json_object_array_length(v)
                                          : 1;
}

static bool is_number(enum state_type t)
{
    return t >= STATE_TYPE_BOOL && t <= STATE_TYPE_I64;
}

static int put_field(struct decode *c, const struct state_field *fields, const struct place *w, struct json_object *v)
{
    const struct state_field *to = w->to;
    if (w->from->type != to->type && !(is_number(w->from->type) && is_number(to->type))) {
        return err_set(c->e, EINVAL, "'%s' is of another type there than here", to->name);
    }
    uint64_t n = length_of(w->from, v);
    if (n > to->count || (n < to->count && w->from->used < 0 && !to->used)) {
        return err_set(c->e, ERANGE, "'%s' has %" PRIu64 " elements there and %u here", to->name, n, to->count);
    }
    if (to->used) {
        const struct state_field *u = state_field_at(fields, to->used - 1);
        state_member_set(u->type, (uint8_t *)w->base + u->offset, n);
    }
    return to->type == STATE_TYPE_BYTES ? put_bytes(c, w, v) : put_elements(c, w, v, n);
}

/* What the stream has and we do not know. */
static int skip_field(struct decode *c, const struct state_schema_field *f)
{
    if (f->flags & STATE_ANCILLARY) {
        return 0;
    }
    if (state_policy_drops(c->p, c->s->name, f->name)) {
        state_policy_dropped(c->p, c->path, f->name, "this program does not know the field");
        return 0;
    }
    return err_set(c->e, ENOTSUP,
                   "this program does not know its field '%s'; saving again for this program's release (compat=), or "
                   "naming it in force-drop, does without it",
                   f->name);
}

static int put_struct(struct decode *c, const struct state_schema_field *from, unsigned n, const struct state_field *to,
                      struct json_object *values, void *base)
{
    for (unsigned i = 0; i < n; i++) {
        struct place w = {.from = &from[i], .to = find_field(to, from[i].name), .base = base};
        struct json_object *v = json_object_object_get(values, from[i].name);
        int rc = w.to ? put_field(c, to, &w, v) : skip_field(c, &from[i]);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* What we have and the stream has not. */
static int check_missing(struct decode *c, const struct state_schema_field *from, unsigned n,
                         const struct state_field *to, unsigned version)
{
    for (const struct state_field *f = to; f && f->type != STATE_END; f++) {
        const struct state_schema_field *s = NULL;
        for (unsigned i = 0; i < n && !s; i++) {
            s = strcmp(from[i].name, f->name) ? NULL : &from[i];
        }
        if (!s && f->since <= version && !(f->flags & STATE_ANCILLARY)) {
            return err_set(c->e, EINVAL, "its field '%s' is missing", f->name);
        }
        if (s && f->sub && check_missing(c, s->sub, s->nsub, f->sub, version) < 0) {
            return err_wrap(c->e, "'%s'", f->name);
        }
    }
    return 0;
}

/* --- the parts ---------------------------------------------------------------------------------------------------- */

static int check_version(struct decode *c, unsigned version)
{
    const struct state_section *s = c->s;
    const struct state_compat *as = state_policy_compat(c->p, s->name);
    unsigned newest = as ? as->version : s->version;
    if (version > newest) {
        return err_set(
            c->e, ENOTSUP,
            "section '%s' is in version %u, this program reads up to %u: it must be saved for a machine type "
            "of this release (compat=)",
            s->name, version, newest);
    }
    if (version < s->min_version) {
        return err_set(c->e, ENOTSUP, "section '%s' is in version %u, this program reads from %u on", s->name, version,
                       s->min_version);
    }
    for (const struct state_block *b = s->blocked; b && b->name; b++) {
        if (b->version != version) {
            continue;
        }
        if (!c->p || !c->p->allow || !g_strv_contains(c->p->allow, b->name)) {
            return err_set(c->e, EPERM, "section '%s' in version %u is blocked: %s; state-allow=%s lifts that", s->name,
                           version, b->why, b->name);
        }
        if (c->p->lifted) {
            g_ptr_array_add(c->p->lifted, g_strdup_printf("%s: %s: %s", c->path, b->name, b->why));
        }
    }
    return 0;
}

static int put_part(struct decode *c, const struct state_device_part *part, const struct state_field *to,
                    unsigned version, void *st)
{
    const struct state_schema_part *schema = part->schema;
    if (check_missing(c, schema->fields, schema->n, to, version) < 0) {
        return -EINVAL;
    }
    return put_struct(c, schema->fields, schema->n, to, part->values, st);
}

static int put_subsection(struct decode *c, const struct state_device_part *part, void *st)
{
    const char *name = part->schema->name, *loss = part->schema->loss;
    const struct state_compat *as = state_policy_compat(c->p, c->s->name);
    bool known = !as || !as->subsections || g_strv_contains(as->subsections, name);
    for (const struct state_subsection *b = c->s->subsections; b && b->name; b++) {
        if (known && !strcmp(b->name, name)) {
            return put_part(c, part, b->fields, UINT_MAX, st) < 0 ? err_wrap(c->e, "subsection '%s'", name) : 0;
        }
    }
    if (state_policy_drops(c->p, c->s->name, name)) {
        state_policy_dropped(c->p, c->path, name, loss ? loss : "subsection");
        return 0;
    }
    return err_set(c->e, ENOTSUP,
                   "this program does not know subsection '%s' of section '%s': the guest would lose %s; naming it in "
                   "force-drop loads without it",
                   name, c->s->name, loss ? loss : "what it holds");
}

static int check_section(struct decode *c, const struct state_schema *schema)
{
    return strcmp(schema->base.name, c->s->name)
               ? err_set(c->e, EINVAL, "it is a '%s' there and a '%s' here", schema->base.name, c->s->name)
               : check_version(c, schema->version);
}

int state_check_readable(const struct state_manifest *m, const char *path, const struct state_section *s,
                         const struct state_policy *p, struct err *e)
{
    const struct state_schema *schema = state_manifest_schema(m, path);
    struct decode c = {.path = path, .s = s, .p = p, .e = e};
    int rc = schema ? check_section(&c, schema) : err_set(e, ENOENT, "it is not there");
    return rc < 0 ? err_wrap(e, "device '%s'", path) : 0;
}

static int put_device(struct decode *c, const struct state_device *d, void *st)
{
    int rc = check_section(c, d->schema);
    if (rc < 0) {
        return rc;
    }
    set_defaults(c->s->fields, st);
    for (const struct state_subsection *b = c->s->subsections; b && b->name; b++) {
        set_defaults(b->fields, st);
    }
    rc = put_part(c, &d->parts[0], c->s->fields, d->schema->version, st);
    for (unsigned i = 1; i < d->n && rc == 0; i++) {
        rc = put_subsection(c, &d->parts[i], st);
    }
    return rc;
}

int state_decode(const struct state_manifest *m, const struct state_section *s, const GByteArray *payload,
                 const struct state_policy *p, void *st, struct err *e)
{
    struct state_device *d = state_device_read(m, payload->data, payload->len, e);
    if (!d) {
        return -EINVAL;
    }
    struct decode c = {.path = d->path, .s = s, .p = p, .e = e};
    int rc = put_device(&c, d, st);
    if (rc < 0) {
        err_wrap(e, "device '%s'", d->path);
    }
    state_device_destroy(d);
    return rc;
}
