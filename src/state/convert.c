/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/convert.h"

#include "base/cleanup.h"
#include "state/device.h"
#include "state/range.h"

#include <inttypes.h>
#include <string.h>

struct convert {
    struct state_reader *r;
    const struct state_convert *o;
    const struct state_manifest *from;
    struct state_manifest *to;
    struct state_writer *w; /* NULL: nothing is written */
    const char *path;       /* of the device at hand */
    const char *section;
    struct err *e;
};

/* --- schemas ------------------------------------------------------------------------------------------------------ */

/* Takes out of a list of fields those that came later than `version`. */
static void prune(struct json_object *fields, unsigned version)
{
    for (size_t i = json_object_array_length(fields); i-- > 0;) {
        struct json_object *f = json_object_array_get_idx(fields, i), *sub = NULL;
        if (json_object_get_int64(json_object_object_get(f, "since")) > version) {
            json_object_array_del_idx(fields, i, 1);
        } else if (json_object_object_get_ex(f, "fields", &sub)) {
            prune(sub, version);
        }
    }
}

static struct json_object *copy_of(struct json_object *o)
{
    struct json_object *c = NULL;
    json_object_deep_copy(o, &c, NULL);
    return c;
}

/* The schema as the target reads it; the caller's reference. */
static struct json_object *target_schema(const struct state_policy *p, struct json_object *schema)
{
    struct json_object *o = copy_of(schema), *subs = NULL;
    const struct state_compat *compat =
        state_policy_compat(p, json_object_get_string(json_object_object_get(o, "section")));
    if (!compat) {
        return o;
    }
    if (compat->version < json_object_get_uint64(json_object_object_get(o, "version"))) {
        json_object_object_add(o, "version", json_object_new_uint64(compat->version));
        json_object_object_add(o, "min-version",
                               json_object_new_uint64(MIN(
                                   compat->version, json_object_get_uint64(json_object_object_get(o, "min-version")))));
        prune(json_object_object_get(o, "fields"), compat->version);
    }
    json_object_object_get_ex(o, "subsections", &subs);
    for (size_t i = subs && compat->subsections ? json_object_array_length(subs) : 0; i-- > 0;) {
        struct json_object *name = json_object_object_get(json_object_array_get_idx(subs, i), "name");
        if (!g_strv_contains(compat->subsections, json_object_get_string(name))) {
            json_object_array_del_idx(subs, i, 1);
        }
    }
    return o;
}

static struct state_manifest *target_manifest(const struct convert *c)
{
    struct json_object *json = state_manifest_json(c->from);
    struct state_manifest *m = state_manifest_create(c->o->machine ? c->o->machine : state_manifest_machine(c->from),
                                                     state_manifest_release(c->from));
    for (unsigned b = 0; b < state_manifest_blocks(c->from); b++) {
        state_manifest_add_ram(m, state_manifest_block_name(c->from, b),
                               state_manifest_block_pages(c->from, b) * STATE_PAGE);
    }
    struct json_object *schemas = json_object_object_get(json, "schemas");
    for (unsigned i = 0; i < state_manifest_devices(c->from); i++) {
        const char *path = state_manifest_device_path(c->from, i);
        const char *section = state_manifest_schema(c->from, path)->base.name;
        const struct state_compat *compat = state_policy_compat(c->o->policy, section);
        if (compat && !compat->version) { /* the target has no such device */
            continue;
        }
        CLEANUP_JSON struct json_object *s = target_schema(c->o->policy, json_object_object_get(schemas, section));
        state_manifest_add_schema(m, path, s);
        state_manifest_set_place(m, state_manifest_device_place(c->from, i));
    }
    static const char *const own[] = {"machine", "release", "page-size", "ram", "schemas", "devices", NULL};
    static const char *const based[] = {"parent", "parent-digest", "parent-file", NULL};
    json_object_object_foreach(json, key, value)
    {
        if (!g_strv_contains(own, key) && !(c->o->nparents && g_strv_contains(based, key))) {
            state_manifest_add(m, key, copy_of(value));
        }
    }
    return m;
}

/* --- devices ------------------------------------------------------------------------------------------------------ */

static void lose(struct convert *c, const char *name, const char *what)
{
    if (state_policy_drops(c->o->policy, c->section, name)) {
        state_policy_dropped(c->o->policy, c->path, name, what);
    } else {
        g_ptr_array_add(c->o->lost, g_strdup_printf("%s: %s: %s", c->path, name, what));
    }
}

static bool at_default(const struct state_schema_field *f, struct json_object *v)
{
    if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            if (!at_default(f, json_object_array_get_idx(v, i))) {
                return false;
            }
        }
        return true;
    }
    if (f->type == STATE_TYPE_BYTES) {
        const char *hex = json_object_get_string(v);
        return strspn(hex, "0") == strlen(hex);
    }
    if (f->type != STATE_TYPE_STRUCT) {
        bool neg = f->type == STATE_TYPE_I64;
        uint64_t x = neg ? (uint64_t)json_object_get_int64(v) : json_object_get_uint64(v);
        return json_object_is_type(v, json_type_boolean) ? json_object_get_boolean(v) == (f->dflt != 0) : x == f->dflt;
    }
    for (unsigned i = 0; i < f->nsub; i++) {
        if (!at_default(&f->sub[i], json_object_object_get(v, f->sub[i].name))) {
            return false;
        }
    }
    return true;
}

/* What the help in the schema says of a field is not kept in its parsed form: its name has to do. */
static void check_fields(struct convert *c, const struct state_schema_field *f, unsigned n, unsigned version,
                         struct json_object *values)
{
    for (unsigned i = 0; i < n; i++) {
        struct json_object *v = json_object_object_get(values, f[i].name);
        if (f[i].since > version && !(f[i].flags & STATE_ANCILLARY) && !at_default(&f[i], v)) {
            CLEANUP_FREE char *what = g_strdup_printf("a field of version %u", f[i].since);
            lose(c, f[i].name, what);
        }
        size_t len = json_object_is_type(v, json_type_array) ? json_object_array_length(v) : 0;
        for (size_t k = 0; k < len && f[i].since <= version && f[i].sub; k++) {
            check_fields(c, f[i].sub, f[i].nsub, version, json_object_array_get_idx(v, k));
        }
        if (f[i].sub && !f[i].is_array && f[i].since <= version) {
            check_fields(c, f[i].sub, f[i].nsub, version, v);
        }
    }
}

/* Puts the device's values under the target's schema. */
static void retarget(struct convert *c, struct state_device *d)
{
    const struct state_schema *to = state_manifest_schema(c->to, d->path);
    unsigned kept = 1;
    check_fields(c, d->schema->base.fields, d->schema->base.n, to->version, d->parts[0].values);
    d->parts[0].schema = &to->base;
    for (unsigned i = 1; i < d->n; i++) {
        const struct state_schema_part *old = d->parts[i].schema, *sub = state_schema_subsection(to, old->name);
        if (!sub) {
            lose(c, old->name, old->loss ? old->loss : "a subsection");
            json_object_put(d->parts[i].values);
            continue;
        }
        d->parts[kept++] = (struct state_device_part){.schema = sub, .values = d->parts[i].values};
    }
    d->n = kept;
    d->schema = to;
}

static int convert_device(struct convert *c, const struct state_chunk *k)
{
    const GByteArray *b = state_read_payload(c->r, STATE_DEVICE_MAX);
    if (!b) {
        return state_reader_error(c->r, c->e);
    }
    struct state_device *d = state_device_read(c->from, b->data, b->len, c->e);
    if (!d) {
        return err_wrap(c->e, "%s: chunk DEVS at offset %" PRIu64, state_reader_source(c->r)->name, k->offset);
    }
    int rc = 0;
    c->path = d->path;
    c->section = d->schema->base.name;
    if (!state_manifest_schema(c->to, d->path)) {
        lose(c, c->section, "the whole device");
    } else {
        retarget(c, d);
    }
    if (c->w && state_manifest_schema(c->to, d->path)) {
        g_autoptr(GByteArray) out = state_device_write(d, c->e);
        rc = out ? state_write_device(c->w, out->data, out->len) : -EINVAL;
    }
    state_device_destroy(d);
    return rc;
}

/* --- RAM ---------------------------------------------------------------------------------------------------------- */

static void put_pages(struct convert *c, const struct state_run *run, uint64_t first, uint64_t n, const uint8_t *data)
{
    for (uint64_t i = 0; c->w && i < n; i++) {
        state_write_page(c->w, run->block, first + i, data + i * STATE_PAGE);
    }
}

/* In the order of the stream. */
static void copy_ram(struct convert *c)
{
    struct state_run run;
    while (state_read_run(c->r, &run) > 0) {
        if (!c->w || c->o->nparents) {
            continue;
        }
        if (run.kind == STATE_PAGES_ZERO) {
            state_write_zero_pages(c->w, run.block, run.page, run.pages);
        } else if (run.kind == STATE_PAGES_SAME) {
            state_write_same_pages(c->w, &run);
        } else {
            CLEANUP_FREE uint8_t *buf = g_malloc((size_t)run.pages * STATE_PAGE);
            if (state_read_run_data(c->r, buf) == 0) {
                put_pages(c, &run, run.page, run.pages, buf);
            }
        }
    }
}

struct level {
    struct state_source src;
    struct state_index *x;
};

static int same_blocks(const struct convert *c, struct state_reader *parent)
{
    const struct state_manifest *a = c->from, *b = state_reader_manifest(parent);
    bool same = state_manifest_blocks(a) == state_manifest_blocks(b);
    for (unsigned i = 0; same && i < state_manifest_blocks(a); i++) {
        same = !strcmp(state_manifest_block_name(a, i), state_manifest_block_name(b, i)) &&
               state_manifest_block_pages(a, i) == state_manifest_block_pages(b, i);
    }
    return same ? 0
                : err_set(c->e, EINVAL, "state '%s' has other RAM blocks than the one that is based on it",
                          state_manifest_tag(b) ? state_manifest_tag(b) : "");
}

/* The chain's names, from the newest to one without a parent. */
static int check_chain(const struct convert *c)
{
    const struct state_manifest *m = c->from;
    for (unsigned i = 0; i < c->o->nparents; i++) {
        const struct state_manifest *p = state_reader_manifest(c->o->parents[i]);
        const char *want = state_manifest_parent(m), *have = state_manifest_tag(p);
        if (!want || g_strcmp0(want, have) != 0) {
            return err_set(c->e, EINVAL, "the parent of this state is '%s', not '%s'", want ? want : "(none)",
                           have ? have : "(without a name)");
        }
        int rc = same_blocks(c, c->o->parents[i]);
        if (rc < 0) {
            return rc;
        }
        m = p;
    }
    const char *more = c->o->nparents ? state_manifest_parent(m) : NULL;
    return more ? err_set(c->e, EINVAL, "the chain of parents ends before state '%s'", more) : 0;
}

/* The first run of any level that holds this page or begins after it; *at: that page. */
static const struct state_run *next_run(const struct level *l, unsigned n, unsigned block, uint64_t page,
                                        const struct level **from)
{
    const struct state_run *best = NULL;
    for (unsigned i = 0; i < n; i++) {
        const struct state_run *r = state_index_next(l[i].x, block, page);
        if (r && (!best || MAX(r->page, page) < MAX(best->page, page))) {
            best = r;
            *from = &l[i];
        }
    }
    return best;
}

static int merge_block(struct convert *c, const struct level *l, unsigned n, unsigned block)
{
    uint8_t buf[STATE_PAGE];
    const struct level *from = NULL;
    const struct state_run *run;
    for (uint64_t page = 0; (run = next_run(l, n, block, page, &from)); page++) {
        page = MAX(page, run->page);
        int rc = state_index_read_pages(&from->src, from->x, run, (uint32_t)(page - run->page), 1, buf);
        if (rc < 0) {
            return err_set_errno(c->e, -rc, "%s: page %" PRIu64 " of RAM block '%s'", from->src.name, page,
                                 state_manifest_block_name(c->from, block));
        }
        put_pages(c, run, page, 1, buf);
    }
    return 0;
}

/* Each page from the newest state that has it. */
static int merge_ram(struct convert *c)
{
    unsigned n = c->o->nparents + 1;
    CLEANUP_FREE struct level *l = g_new0(struct level, n);
    int rc = 0;
    for (unsigned i = 0; i < n && rc == 0; i++) {
        struct state_reader *r = i ? c->o->parents[i - 1] : c->r;
        l[i].src = *state_reader_source(r);
        l[i].x = state_index_read(r, c->e);
        rc = l[i].x ? 0 : -EINVAL;
        if (rc == 0 && i) {
            rc = state_index_check_parent(l[i].x, state_reader_manifest(i > 1 ? c->o->parents[i - 2] : c->r),
                                          l[i].src.name, c->e);
        }
    }
    for (unsigned b = 0; b < state_manifest_blocks(c->from) && rc == 0; b++) {
        rc = merge_block(c, l, n, b);
    }
    for (unsigned i = 0; i < n; i++) {
        state_index_destroy(l[i].x);
    }
    return rc;
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static int copy_other(struct convert *c, const struct state_chunk *k)
{
    if (k->type == STATE_RIDX) {
        return 0;
    }
    if (!state_type_safe_to_copy(k->type)) {
        return state_type_ancillary(k->type)
                   ? 0
                   : err_set(c->e, ENOTSUP, "the chunk at offset %" PRIu64 " is not known, and must not be left out",
                             k->offset);
    }
    const GByteArray *b = state_read_payload(c->r, STATE_MANIFEST_MAX);
    if (b && c->w) {
        state_write_chunk(c->w, k->type, b->data, b->len);
    }
    return 0;
}

static int convert(struct convert *c)
{
    struct state_chunk k;
    int rc = check_chain(c);
    if (rc == 0 && c->w) {
        rc = state_write_manifest(c->w, c->to);
    }
    while (rc == 0 && (rc = state_read_next(c->r, &k)) > 0) {
        rc = 0;
        if (k.type == STATE_DEVS) {
            rc = convert_device(c, &k);
        } else if (k.type == STATE_RAMP) {
            copy_ram(c);
        } else {
            rc = copy_other(c, &k);
        }
    }
    if (rc == 0 && c->o->nparents && c->w) {
        rc = merge_ram(c);
    }
    if (rc == 0 && c->o->lost->len) {
        rc =
            err_set(c->e, ENOTSUP, "%u thing%s would be lost, the first is %s; naming it in force-drop does without it",
                    c->o->lost->len, c->o->lost->len > 1 ? "s" : "", (const char *)c->o->lost->pdata[0]);
    }
    if (rc == 0 && c->w) {
        rc = state_write_stop(c->w, NULL);
    }
    return rc;
}

int state_convert(struct state_reader *r, const struct state_convert *o, struct err *e)
{
    struct convert c = {.r = r, .o = o, .from = state_reader_manifest(r), .e = e};
    state_reader_keep_unknown(r);
    c.to = target_manifest(&c);
    c.w = o->sink ? state_writer_create(o->sink, &o->write) : NULL;
    int rc = convert(&c);
    if (rc < 0 && !err_is_set(e) && state_reader_error(r, e) == 0 && c.w) {
        state_writer_error(c.w, e);
    }
    state_writer_destroy(c.w);
    state_manifest_destroy(c.to);
    return rc;
}
