/* SPDX-License-Identifier: BSD-2-Clause */
/* A state struct becomes a device's chunk. */
#include "base/cleanup.h"
#include "base/endian.h"
#include "state/range.h"
#include "state/section.h"
#include "state/stream.h"

#include <inttypes.h>
#include <string.h>

uint64_t state_member_get(enum state_type t, const void *at)
{
    switch (t) {
    case STATE_TYPE_BOOL:
        return *(const bool *)at;
    case STATE_TYPE_U8:
        return *(const uint8_t *)at;
    case STATE_TYPE_U16:
        return *(const uint16_t *)at;
    case STATE_TYPE_U32:
        return *(const uint32_t *)at;
    default:
        return *(const uint64_t *)at;
    }
}

void state_member_set(enum state_type t, void *at, uint64_t v)
{
    switch (t) {
    case STATE_TYPE_BOOL:
        *(bool *)at = v;
        break;
    case STATE_TYPE_U8:
        *(uint8_t *)at = (uint8_t)v;
        break;
    case STATE_TYPE_U16:
        *(uint16_t *)at = (uint16_t)v;
        break;
    case STATE_TYPE_U32:
        *(uint32_t *)at = (uint32_t)v;
        break;
    default:
        *(uint64_t *)at = v;
        break;
    }
}

uint64_t state_elements(const struct state_field *fields, const struct state_field *f, const void *base)
{
    const struct state_field *u = f->used ? state_field_at(fields, f->used - 1) : NULL;
    return u ? state_member_get(u->type, (const uint8_t *)base + u->offset) : f->count;
}

/* --- the policy --------------------------------------------------------------------------------------------------- */

const struct state_compat *state_policy_compat(const struct state_policy *p, const char *section)
{
    for (const struct state_compat *c = p ? p->compat : NULL; c && c->section; c++) {
        if (!strcmp(c->section, section)) {
            return c;
        }
    }
    return NULL;
}

bool state_policy_drops(const struct state_policy *p, const char *section, const char *name)
{
    if (!p || !p->force_drop) {
        return false;
    }
    CLEANUP_FREE char *full = g_strdup_printf("%s:%s", section, name);
    return g_strv_contains(p->force_drop, name) || g_strv_contains(p->force_drop, full);
}

void state_policy_dropped(const struct state_policy *p, const char *path, const char *name, const char *what)
{
    if (p && p->dropped) {
        g_ptr_array_add(p->dropped, g_strdup_printf("%s: %s: %s", path, name, what));
    }
}

/* --- encoding ----------------------------------------------------------------------------------------------------- */

struct encode {
    const char *path;
    const struct state_section *s;
    const struct state_policy *p;
    unsigned version; /* of the section */
    GByteArray *out;
    struct err *e;
};

static const char *reader_name(const struct encode *c)
{
    return c->p && c->p->reader ? c->p->reader : "the reader";
}

static bool is_default(const struct state_field *fields, const struct state_field *f, const void *base)
{
    const uint8_t *at = (const uint8_t *)base + f->offset;
    uint64_t n = MIN(state_elements(fields, f, base), f->count);
    for (uint64_t i = 0; i < n; i++, at += f->stride) {
        if (f->type == STATE_TYPE_BYTES) {
            if (*at) {
                return false;
            }
            continue;
        }
        for (const struct state_field *s = f->sub; s && s->type != STATE_END; s++) {
            if (!is_default(f->sub, s, at)) {
                return false;
            }
        }
        if (f->type != STATE_TYPE_STRUCT && state_member_get(f->type, at) != f->dflt) {
            return false;
        }
    }
    return true;
}

/* A field that the reader's version does not have. */
static int leave_out(struct encode *c, const struct state_field *fields, const struct state_field *f, const void *base)
{
    if ((f->flags & STATE_ANCILLARY) || is_default(fields, f, base)) {
        return 0;
    }
    if (state_policy_drops(c->p, c->s->name, f->name)) {
        state_policy_dropped(c->p, c->path, f->name, f->help ? f->help : "its value");
        return 0;
    }
    return err_set(
        c->e, ENOTSUP,
        "field '%s' came with version %u of section '%s' and is in use, %s reads version %u: the guest would "
        "lose %s; naming it in force-drop saves without it",
        f->name, f->since, c->s->name, reader_name(c), c->version, f->help ? f->help : "its value");
}

static int encode_number(struct encode *c, const struct state_field *f, const void *at)
{
    uint64_t v = state_member_get(f->type, at);
    struct state_range r = state_range(f->type, f->min, f->max);
    if (!state_in_range(r, v)) {
        return state_range_err(r, f->name, v, c->e);
    }
    uint8_t le[8];
    store_le64(le, v);
    g_byte_array_append(c->out, le, state_width(f->type));
    return 0;
}

static int encode_fields(struct encode *c, const struct state_field *fields, unsigned version, const void *base)
{
    for (const struct state_field *f = fields; f && f->type != STATE_END; f++) {
        const uint8_t *at = (const uint8_t *)base + f->offset;
        uint64_t n = state_elements(fields, f, base);
        int rc = n > f->count ? err_set(c->e, ERANGE, "%" PRIu64 " of '%s' are in use, there is room for %u", n,
                                        f->name, f->count)
                              : 0;
        if (rc == 0 && f->since > version) {
            rc = leave_out(c, fields, f, base);
            n = 0;
        }
        if (f->type == STATE_TYPE_BYTES && rc == 0) {
            g_byte_array_append(c->out, at, (guint)n);
            continue;
        }
        for (uint64_t i = 0; i < n && rc == 0; i++, at += f->stride) {
            rc = f->type == STATE_TYPE_STRUCT ? encode_fields(c, f->sub, version, at) : encode_number(c, f, at);
            if (rc < 0 && f->type == STATE_TYPE_STRUCT) {
                err_wrap(c->e, "'%s', element %" PRIu64, f->name, i);
            }
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static void put_name(GByteArray *out, const char *name)
{
    uint8_t le[2];
    store_le16(le, (uint16_t)strlen(name));
    g_byte_array_append(out, le, 2);
    g_byte_array_append(out, (const uint8_t *)name, (guint)strlen(name));
}

static int encode_part(struct encode *c, const char *name, const struct state_field *fields, unsigned version,
                       const void *st)
{
    put_name(c->out, name);
    guint at = c->out->len;
    g_byte_array_set_size(c->out, at + 8);
    int rc = encode_fields(c, fields, version == 0 ? UINT_MAX : version, st);
    store_le32(c->out->data + at, version);
    store_le32(c->out->data + at + 4, c->out->len - at - 8);
    return rc;
}

static int encode_subsection(struct encode *c, const struct state_subsection *b, const char *const *known,
                             const void *st)
{
    if (!b->needed(st)) {
        return 0;
    }
    if (!known || g_strv_contains(known, b->name)) {
        return encode_part(c, b->name, b->fields, 0, st) < 0 ? err_wrap(c->e, "subsection '%s'", b->name) : 0;
    }
    if (state_policy_drops(c->p, c->s->name, b->name)) {
        state_policy_dropped(c->p, c->path, b->name, b->loss ? b->loss : "subsection");
        return 0;
    }
    return err_set(c->e, ENOTSUP,
                   "subsection '%s' of section '%s' is needed and %s does not read it: the guest would lose %s; naming "
                   "it in force-drop saves without it",
                   b->name, c->s->name, reader_name(c), b->loss ? b->loss : "what it holds");
}

static int encode(struct encode *c, const void *st)
{
    const struct state_compat *compat = state_policy_compat(c->p, c->s->name);
    c->version = compat ? compat->version : c->s->version;
    if (!c->version) {
        return err_set(c->e, ENOTSUP, "%s has no device with section '%s'", reader_name(c), c->s->name);
    }
    if (c->version > c->s->version || c->version < c->s->min_version) {
        return err_set(c->e, ENOTSUP, "%s reads version %u of section '%s', this program writes %u to %u",
                       reader_name(c), c->version, c->s->name, c->s->min_version, c->s->version);
    }
    put_name(c->out, c->path);
    int rc = encode_part(c, c->s->name, c->s->fields, c->version, st);
    for (const struct state_subsection *b = c->s->subsections; b && b->name && rc == 0; b++) {
        rc = encode_subsection(c, b, compat ? compat->subsections : NULL, st);
    }
    if (rc == 0 && c->out->len > STATE_DEVICE_MAX) {
        rc = err_set(c->e, E2BIG, "its state has more than %d bytes", STATE_DEVICE_MAX);
    }
    return rc;
}

GByteArray *state_encode(const char *path, const struct state_section *s, const void *st, const struct state_policy *p,
                         struct err *e)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    struct encode c = {.path = path, .s = s, .p = p, .out = out, .e = e};
    if (encode(&c, st) < 0) {
        err_wrap(e, "device '%s'", path);
        return NULL;
    }
    return take(out);
}

GByteArray *state_save(const char *path, const struct state_section *s, void *object, const struct state_policy *p,
                       struct err *e)
{
    CLEANUP_FREE void *st = g_malloc0(s->size);
    s->get(object, st);
    return state_encode(path, s, st, p, e);
}
