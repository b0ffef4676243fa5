/* SPDX-License-Identifier: BSD-2-Clause */
/* Whether a table is sound. */
#include "state/range.h"
#include "state/section.h"

#include <inttypes.h>
#include <string.h>

static int check_used(const struct state_field *fields, const struct state_field *f, struct err *e)
{
    const struct state_field *u = f->used ? state_field_at(fields, f->used - 1) : NULL;
    if (f->used && (!u || u >= f || u->count != 1 || u->type < STATE_TYPE_U8 || u->type > STATE_TYPE_U64)) {
        return err_set(e, EINVAL, "'%s': `used` is not an unsigned number that stands before it", f->name);
    }
    return 0;
}

static int check_place(const struct state_field *f, size_t size, struct err *e)
{
    bool bytes = f->type == STATE_TYPE_BYTES;
    if (!f->count || !f->stride || f->offset > size || (uint64_t)f->count * f->stride > size - f->offset) {
        return err_set(e, EINVAL, "'%s' does not lie in the struct", f->name);
    }
    if (bytes ? f->stride != 1 : f->type != STATE_TYPE_STRUCT && f->stride != state_width(f->type)) {
        return err_set(e, EINVAL, "'%s' has %zu bytes, its type another number", f->name, f->stride);
    }
    return 0;
}

static int check_fields(const struct state_field *fields, size_t size, unsigned version, struct err *e)
{
    for (const struct state_field *f = fields; f && f->type != STATE_END; f++) {
        if (!f->name || !state_name_ok(f->name) || f->type > STATE_TYPE_STRUCT) {
            return err_set(e, EINVAL, "field %td has no name that can be, or no type", f - fields);
        }
        int rc = check_place(f, size, e);
        rc = rc < 0 ? rc : check_used(fields, f, e);
        for (const struct state_field *g = fields; g < f && rc == 0; g++) {
            rc = strcmp(g->name, f->name) ? 0 : err_set(e, EINVAL, "'%s' is there twice", f->name);
        }
        if (rc < 0) {
            return rc;
        }
        bool number = f->type >= STATE_TYPE_BOOL && f->type <= STATE_TYPE_I64;
        bool may_lack = f->since > 1 || (f->flags & STATE_ANCILLARY); /* then the default is taken */
        struct state_range r = state_range(f->type, f->min, f->max);
        if (f->since > version || (number && may_lack && !state_in_range(r, f->dflt)) ||
            (f->type == STATE_TYPE_STRUCT) != !!f->sub) {
            return err_set(e, EINVAL,
                           "'%s': newer than its section, its default out of range, or a struct without fields",
                           f->name);
        }
        if (f->sub && check_fields(f->sub, f->stride, version, e) < 0) {
            return err_wrap(e, "'%s'", f->name);
        }
    }
    return 0;
}

static int check_section(const struct state_section *s, struct err *e)
{
    if (!state_name_ok(s->name) || !s->version || !s->min_version || s->min_version > s->version) {
        return err_set(e, EINVAL, "its name or its versions cannot be");
    }
    if (!s->size || !s->get || !s->put || check_fields(s->fields, s->size, s->version, e) < 0) {
        return err_is_set(e) ? -EINVAL : err_set(e, EINVAL, "size, get or put are missing");
    }
    for (const struct state_subsection *b = s->subsections; b && b->name; b++) {
        if (!state_name_ok(b->name) || !b->needed || !b->loss) {
            return err_set(e, EINVAL, "subsection '%s': name, needed or loss are missing", b->name);
        }
        if (check_fields(b->fields, s->size, 1, e) < 0) {
            return err_wrap(e, "subsection '%s'", b->name);
        }
    }
    return 0;
}

int state_section_check(const struct state_section *s, struct err *e)
{
    return check_section(s, e) < 0 ? err_wrap(e, "section '%s'", s->name) : 0;
}
