/* SPDX-License-Identifier: BSD-2-Clause */
#include "state/manifest.h"

#include "base/cleanup.h"
#include "state/format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS_MAX = 4096, DEVICES_MAX = 65536, NAME_MAX_BYTES = 1024, FILE_MAX_BYTES = 4096, JSON_DEPTH = 64 };

struct block {
    const char *name; /* borrowed from the JSON */
    uint64_t pages;
};

struct state_manifest {
    struct json_object *json;
    GArray *blocks;       /* struct block */
    GPtrArray *paths;     /* borrowed from the JSON */
    GHashTable *schemas;  /* section -> struct state_schema */
    GHashTable *sections; /* path -> struct state_schema, borrowed */
};

static void destroy_schema(gpointer s)
{
    state_schema_destroy(s);
}

static struct state_manifest *new_manifest(struct json_object *json)
{
    struct state_manifest *m = g_new0(struct state_manifest, 1);
    m->json = json;
    m->blocks = g_array_new(FALSE, FALSE, sizeof(struct block));
    m->paths = g_ptr_array_new();
    m->schemas = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, destroy_schema);
    m->sections = g_hash_table_new(g_str_hash, g_str_equal);
    return m;
}

void state_manifest_destroy(struct state_manifest *m)
{
    if (!m) {
        return;
    }
    g_hash_table_unref(m->sections);
    g_hash_table_unref(m->schemas);
    g_ptr_array_unref(m->paths);
    g_array_unref(m->blocks);
    json_object_put(m->json);
    g_free(m);
}

/* --- making one --------------------------------------------------------------------------------------------------- */

static struct json_object *member(struct state_manifest *m, const char *key)
{
    return json_object_object_get(m->json, key);
}

struct state_manifest *state_manifest_create(const char *machine, const char *release)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "machine", json_object_new_string(machine));
    json_object_object_add(o, "release", json_object_new_string(release));
    json_object_object_add(o, "page-size", json_object_new_int(STATE_PAGE));
    json_object_object_add(o, "ram", json_object_new_array());
    json_object_object_add(o, "disks", json_object_new_array());
    json_object_object_add(o, "schemas", json_object_new_object());
    json_object_object_add(o, "devices", json_object_new_array());
    return new_manifest(o);
}

void state_manifest_add(struct state_manifest *m, const char *key, struct json_object *value)
{
    json_object_object_add(m->json, key, value);
}

void state_manifest_set_tag(struct state_manifest *m, const char *tag)
{
    state_manifest_add(m, "tag", json_object_new_string(tag));
}

void state_manifest_set_parent(struct state_manifest *m, const char *tag, const uint8_t *digest, const char *file)
{
    char hex[2 * STATE_DIGEST_BYTES + 1];
    for (unsigned i = 0; i < STATE_DIGEST_BYTES; i++) {
        snprintf(hex + (size_t)2 * i, 3, "%02x", digest[i]);
    }
    state_manifest_add(m, "parent", json_object_new_string(tag));
    state_manifest_add(m, "parent-digest", json_object_new_string(hex));
    if (file) {
        state_manifest_add(m, "parent-file", json_object_new_string(file));
    }
}

unsigned state_manifest_add_ram(struct state_manifest *m, const char *name, uint64_t size)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(name));
    json_object_object_add(o, "size", json_object_new_uint64(size));
    json_object_array_add(member(m, "ram"), o);
    struct block b = {.name = json_object_get_string(json_object_object_get(o, "name")), .pages = size / STATE_PAGE};
    g_array_append_val(m->blocks, b);
    return m->blocks->len - 1;
}

void state_manifest_add_disk(struct state_manifest *m, struct json_object *disk)
{
    json_object_array_add(member(m, "disks"), disk);
}

static struct state_schema *add_schema(struct state_manifest *m, const char *section, struct json_object *json,
                                       struct err *e)
{
    struct state_schema *schema = state_schema_parse(json, e);
    if (schema && strcmp(schema->base.name, section)) {
        err_set(e, EINVAL, "schema '%s' says that it is of section '%s'", section, schema->base.name);
        state_schema_destroy(take(schema));
    }
    if (schema) {
        g_hash_table_insert(m->schemas, g_strdup(section), schema);
    }
    return schema;
}

void state_manifest_add_schema(struct state_manifest *m, const char *path, struct json_object *schema)
{
    const char *section = json_object_get_string(json_object_object_get(schema, "section"));
    struct state_schema *s = g_hash_table_lookup(m->schemas, section);
    if (!s) {
        s = add_schema(m, section, schema, NULL);
        g_assert(s); /* made from a table, or read from a stream */
        json_object_object_add(member(m, "schemas"), section, json_object_get(schema));
    }
    if (path) {
        struct json_object *o = json_object_new_object(), *p = json_object_new_string(path);
        json_object_object_add(o, "path", p);
        json_object_object_add(o, "section", json_object_new_string(section));
        json_object_array_add(member(m, "devices"), o);
        g_ptr_array_add(m->paths, (gpointer)(uintptr_t)json_object_get_string(p));
        g_hash_table_insert(m->sections, (gpointer)(uintptr_t)json_object_get_string(p), s);
    }
}

void state_manifest_add_device(struct state_manifest *m, const char *path, const struct state_section *s,
                               const struct state_policy *p)
{
    const struct state_compat *c = state_policy_compat(p, s->name);
    CLEANUP_JSON struct json_object *schema = state_schema_json(s, c ? c->version : 0, c ? c->subsections : NULL);
    state_manifest_add_schema(m, path, schema);
}

void state_manifest_set_place(struct state_manifest *m, const char *place)
{
    struct json_object *all = member(m, "devices");
    if (place) {
        json_object_object_add(json_object_array_get_idx(all, json_object_array_length(all) - 1), "place",
                               json_object_new_string(place));
    }
}

/* --- reading one -------------------------------------------------------------------------------------------------- */

static const char *text_of(struct json_object *o, const char *key)
{
    struct json_object *v = NULL;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string)) {
        return NULL;
    }
    const char *s = json_object_get_string(v);
    int n = json_object_get_string_len(v);
    int max = strcmp(key, "parent-file") ? NAME_MAX_BYTES : FILE_MAX_BYTES;
    return n > 0 && n <= max && strlen(s) == (size_t)n ? s : NULL;
}

static struct json_object *list_of(struct json_object *o, const char *key, size_t max, struct err *e)
{
    struct json_object *a = NULL;
    if (!json_object_object_get_ex(o, key, &a) || !json_object_is_type(a, json_type_array)) {
        err_set(e, EINVAL, "there is no list '%s'", key);
        return NULL;
    }
    if (json_object_array_length(a) > max) {
        err_set(e, E2BIG, "'%s' has more than %zu elements", key, max);
        return NULL;
    }
    return a;
}

static int read_blocks(struct state_manifest *m, struct err *e)
{
    struct json_object *a = list_of(m->json, "ram", BLOCKS_MAX, e), *size = NULL;
    for (size_t i = 0; a && i < json_object_array_length(a); i++) {
        struct json_object *o = json_object_array_get_idx(a, i);
        struct block b = {.name = text_of(o, "name")};
        if (!b.name || !json_object_object_get_ex(o, "size", &size) || !json_object_is_type(size, json_type_int) ||
            json_object_get_int64(size) < 0 || json_object_get_uint64(size) % STATE_PAGE) {
            return err_set(e, EINVAL, "RAM block %zu has no name, or no size in whole pages", i);
        }
        b.pages = json_object_get_uint64(size) / STATE_PAGE;
        for (guint k = 0; k < m->blocks->len; k++) {
            if (!strcmp(g_array_index(m->blocks, struct block, k).name, b.name)) {
                return err_set(e, EINVAL, "RAM block '%s' is there twice", b.name);
            }
        }
        g_array_append_val(m->blocks, b);
    }
    return a ? 0 : -EINVAL;
}

static int read_schemas(struct state_manifest *m, struct err *e)
{
    struct json_object *all = member(m, "schemas");
    if (!json_object_is_type(all, json_type_object)) {
        return err_set(e, EINVAL, "there is no object 'schemas'");
    }
    json_object_object_foreach(all, name, schema)
    {
        if (!add_schema(m, name, schema, e)) {
            return -EINVAL;
        }
    }
    return 0;
}

static int read_devices(struct state_manifest *m, struct err *e)
{
    struct json_object *a = list_of(m->json, "devices", DEVICES_MAX, e);
    for (size_t i = 0; a && i < json_object_array_length(a); i++) {
        struct json_object *o = json_object_array_get_idx(a, i);
        const char *path = text_of(o, "path"), *section = text_of(o, "section");
        if (!path || !section) {
            return err_set(e, EINVAL, "device %zu has no path or no section", i);
        }
        struct state_schema *s = g_hash_table_lookup(m->schemas, section);
        if (!s) {
            return err_set(e, EINVAL, "device '%s': there is no schema of its section '%s'", path, section);
        }
        if (!g_hash_table_insert(m->sections, (gpointer)(uintptr_t)path, s)) {
            return err_set(e, EINVAL, "device '%s' is there twice", path);
        }
        g_ptr_array_add(m->paths, (gpointer)(uintptr_t)path);
    }
    return a ? 0 : -EINVAL;
}

static int read_manifest(struct state_manifest *m, struct err *e)
{
    struct json_object *ps = NULL, *tag = NULL;
    if (!text_of(m->json, "machine") || !text_of(m->json, "release")) {
        return err_set(e, EINVAL, "there is no 'machine' or no 'release'");
    }
    if (!json_object_object_get_ex(m->json, "page-size", &ps) || json_object_get_int64(ps) != STATE_PAGE) {
        return err_set(e, ENOTSUP, "'page-size' is not %d, the only one that is supported", STATE_PAGE);
    }
    for (const char *const *k = (const char *const[]){"tag", "parent", "parent-digest", "parent-file", NULL}; *k; k++) {
        if (json_object_object_get_ex(m->json, *k, &tag) && !text_of(m->json, *k)) {
            return err_set(e, EINVAL, "'%s' is not a text of 1 to %d bytes", *k,
                           strcmp(*k, "parent-file") ? NAME_MAX_BYTES : FILE_MAX_BYTES);
        }
    }
    const char *digest = state_manifest_parent_digest(m);
    if (digest && strspn(digest, "0123456789abcdef") != (size_t)2 * STATE_DIGEST_BYTES) {
        return err_set(e, EINVAL, "'parent-digest' is not 64 hexadecimal digits");
    }
    int rc = read_blocks(m, e);
    rc = rc < 0 ? rc : read_schemas(m, e);
    return rc < 0 ? rc : read_devices(m, e);
}

struct state_manifest *state_manifest_parse(const char *text, size_t len, struct err *e)
{
    struct json_tokener *tok = json_tokener_new_ex(JSON_DEPTH);
    json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *o = len <= STATE_MANIFEST_MAX ? json_tokener_parse_ex(tok, text, (int)len) : NULL;
    enum json_tokener_error jerr = json_tokener_get_error(tok);
    bool whole = o && jerr == json_tokener_success && json_tokener_get_parse_end(tok) == len;
    json_tokener_free(tok);
    if (!whole || !json_object_is_type(o, json_type_object)) {
        json_object_put(o);
        err_set(e, EINVAL, "the manifest is not a JSON object%s%s", jerr == json_tokener_success ? "" : ": ",
                jerr == json_tokener_success ? "" : json_tokener_error_desc(jerr));
        return NULL;
    }
    struct state_manifest *m = new_manifest(o);
    if (read_manifest(m, e) < 0) {
        err_wrap(e, "the manifest");
        state_manifest_destroy(m);
        return NULL;
    }
    return m;
}

/* --- asking ------------------------------------------------------------------------------------------------------- */

const char *state_manifest_machine(const struct state_manifest *m)
{
    return text_of(m->json, "machine");
}

const char *state_manifest_release(const struct state_manifest *m)
{
    return text_of(m->json, "release");
}

const char *state_manifest_tag(const struct state_manifest *m)
{
    return text_of(m->json, "tag");
}

const char *state_manifest_parent(const struct state_manifest *m)
{
    return text_of(m->json, "parent");
}

const char *state_manifest_parent_file(const struct state_manifest *m)
{
    return text_of(m->json, "parent-file");
}

const char *state_manifest_parent_digest(const struct state_manifest *m)
{
    return text_of(m->json, "parent-digest");
}

unsigned state_manifest_blocks(const struct state_manifest *m)
{
    return m->blocks->len;
}

const char *state_manifest_block_name(const struct state_manifest *m, unsigned block)
{
    return g_array_index(m->blocks, struct block, block).name;
}

uint64_t state_manifest_block_pages(const struct state_manifest *m, unsigned block)
{
    return g_array_index(m->blocks, struct block, block).pages;
}

unsigned state_manifest_devices(const struct state_manifest *m)
{
    return m->paths->len;
}

const char *state_manifest_device_place(const struct state_manifest *m, unsigned i)
{
    return text_of(json_object_array_get_idx(json_object_object_get(m->json, "devices"), i), "place");
}

const char *state_manifest_device_path(const struct state_manifest *m, unsigned i)
{
    return m->paths->pdata[i];
}

const struct state_schema *state_manifest_schema(const struct state_manifest *m, const char *path)
{
    return g_hash_table_lookup(m->sections, path);
}

struct json_object *state_manifest_json(const struct state_manifest *m)
{
    return m->json;
}
