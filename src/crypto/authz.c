/* SPDX-License-Identifier: BSD-2-Clause */
#include "crypto/authz.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LISTFILE_MAX = 1 << 20 };

static const char *const policy_names[] = {"deny", "allow", NULL};
static const char *const format_names[] = {"exact", "glob", NULL};

struct rule {
    char *match;
    bool allow, glob;
};

struct authz {
    unsigned refs;
    char *identity;   /* authz-simple; NULL: judged by rules */
    GPtrArray *rules; /* struct rule * */
    bool allow;       /* when no rule matches */
    char *filename;   /* authz-listfile */
    bool refresh;
    struct stat seen; /* of the file as it was read */
};

static void rule_free(void *p)
{
    struct rule *r = p;
    g_free(r->match);
    g_free(r);
}

static struct authz *authz_new(void)
{
    struct authz *a = g_new0(struct authz, 1);
    a->refs = 1;
    a->rules = g_ptr_array_new_with_free_func(rule_free);
    return a;
}

struct authz *authz_ref(struct authz *a)
{
    a->refs++;
    return a;
}

void authz_unref(struct authz *a)
{
    if (a && --a->refs == 0) {
        g_ptr_array_unref(a->rules);
        g_free(a->identity);
        g_free(a->filename);
        g_free(a);
    }
}

static void authz_destroy(void *impl)
{
    authz_unref(impl);
}

static bool authz_in_use(void *impl)
{
    struct authz *a = impl;
    return a->refs > 1;
}

/* --- rules ------------------------------------------------------------------------------------------------------ */

static int read_rule(struct json_object *o, GPtrArray *rules, struct err *e)
{
    struct jread r = jread_init(o, NULL, e);
    const char *match = jread_str(&r, "match");
    if (!jread_has(&r, "policy")) {
        jread_str(&r, "policy"); /* says that it is missing */
    }
    bool allow = jread_enum_or(&r, "policy", policy_names, 0) == 1;
    bool glob = jread_enum_or(&r, "format", format_names, 0) == 1;
    struct rule *rule = g_new0(struct rule, 1);
    *rule = (struct rule){.match = g_strdup(match), .allow = allow, .glob = glob};
    g_ptr_array_add(rules, rule);
    return jread_end(&r);
}

/* {"policy": …, "rules": […]}: replaces what `a` has, or leaves it as it is. */
static int read_list(struct authz *a, struct json_object *o, struct err *e)
{
    GPtrArray *rules = g_ptr_array_new_with_free_func(rule_free);
    struct jread r = jread_init(o, NULL, e);
    bool allow = jread_enum_or(&r, "policy", policy_names, 0) == 1;
    struct json_object *list = jread_any(&r, "rules");
    int rc = jread_end_lax(&r);
    if (!rc && list && !json_object_is_type(list, json_type_array)) {
        rc = err_set(e, EINVAL, "Invalid parameter type for 'rules', expected: array");
    }
    for (size_t i = 0; !rc && list && i < json_object_array_length(list); i++) {
        struct json_object *rule = json_object_array_get_idx(list, i);
        rc = json_object_is_type(rule, json_type_object)
                 ? read_rule(rule, rules, e)
                 : err_set(e, EINVAL, "Invalid parameter type for 'rules[%zu]', expected: object", i);
    }
    if (rc) {
        g_ptr_array_unref(rules);
        return rc;
    }
    g_ptr_array_unref(a->rules);
    a->rules = rules;
    a->allow = allow;
    return 0;
}

static int read_file(struct authz *a, struct err *e)
{
    CLEANUP_FREE char *text = NULL;
    gsize len;
    GError *error = NULL;
    struct stat st;
    if (stat(a->filename, &st) < 0) {
        return err_set_errno(e, errno, "Unable to read '%s'", a->filename);
    }
    if (st.st_size > LISTFILE_MAX) {
        return err_set(e, EFBIG, "Unable to read '%s': longer than %d bytes", a->filename, LISTFILE_MAX);
    }
    if (!g_file_get_contents(a->filename, &text, &len, &error)) {
        int rc = err_set(e, ENOENT, "Unable to read '%s': %s", a->filename, error->message);
        g_error_free(error);
        return rc;
    }
    a->seen = st;
    CLEANUP_JSON struct json_object *o = json_tokener_parse(text);
    if (!o || !json_object_is_type(o, json_type_object)) {
        return err_set(e, EINVAL, "File '%s' must contain a JSON object", a->filename);
    }
    return read_list(a, o, e);
}

static bool has_changed(const struct authz *a)
{
    struct stat st;
    return stat(a->filename, &st) == 0 &&
           (st.st_ino != a->seen.st_ino || st.st_size != a->seen.st_size ||
            st.st_mtim.tv_sec != a->seen.st_mtim.tv_sec || st.st_mtim.tv_nsec != a->seen.st_mtim.tv_nsec);
}

bool authz_is_allowed(struct authz *a, const char *identity)
{
    if (a->identity) {
        return !strcmp(a->identity, identity);
    }
    if (a->filename && a->refresh && has_changed(a)) {
        read_file(a, NULL);
    }
    for (guint i = 0; i < a->rules->len; i++) {
        const struct rule *r = g_ptr_array_index(a->rules, i);
        if (r->glob ? g_pattern_match_simple(r->match, identity) : !strcmp(r->match, identity)) {
            return r->allow;
        }
    }
    return a->allow;
}

/* --- kinds ------------------------------------------------------------------------------------------------------ */

static int simple_create(struct object_make *m, void **impl, struct err *e)
{
    struct jread r = jread_init(m->props, NULL, e);
    const char *identity = jread_str(&r, "identity");
    int rc = jread_end_lax(&r);
    if (rc) {
        return rc;
    }
    struct authz *a = authz_new();
    a->identity = g_strdup(identity);
    *impl = a;
    return 0;
}

static int list_create(struct object_make *m, void **impl, struct err *e)
{
    struct authz *a = authz_new();
    int rc = read_list(a, m->props, e);
    if (rc) {
        authz_unref(a);
        return rc;
    }
    *impl = a;
    return 0;
}

static int listfile_create(struct object_make *m, void **impl, struct err *e)
{
    struct authz *a = authz_new();
    struct jread r = jread_init(m->props, NULL, e);
    a->filename = g_strdup(jread_str(&r, "filename"));
    a->refresh = jread_bool_or(&r, "refresh", true);
    int rc = jread_end_lax(&r);
    if (!rc) {
        rc = read_file(a, e);
    }
    if (rc) {
        authz_unref(a);
        return rc;
    }
    *impl = a;
    return 0;
}

static const char *const simple_props[] = {"identity", NULL};
static const char *const list_props[] = {"policy", "rules", NULL};
static const char *const listfile_props[] = {"filename", "refresh", NULL};

const struct object_kind authz_simple_kind = {
    .name = "authz-simple",
    .props = simple_props,
    .create = simple_create,
    .destroy = authz_destroy,
    .in_use = authz_in_use,
};
const struct object_kind authz_list_kind = {
    .name = "authz-list",
    .props = list_props,
    .create = list_create,
    .destroy = authz_destroy,
    .in_use = authz_in_use,
};
const struct object_kind authz_listfile_kind = {
    .name = "authz-listfile",
    .props = listfile_props,
    .create = listfile_create,
    .destroy = authz_destroy,
    .in_use = authz_in_use,
};
