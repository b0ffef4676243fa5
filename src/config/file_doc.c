/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state file's text in memory, and changes of it. Sections are shared between documents, so that a copy is cheap;
 * one that changes is copied first.
 *
 * What a comment belongs to: comment lines that touch the key or section below them, and a comment behind a value, go
 * when that goes. All others stay where they are.
 */
#include "config/file_int.h"

#include "base/cleanup.h"

#include <string.h>

static const char banner[] =
    "# What a machine of Sterna is made of. Its VMM rewrites this file; while no VMM uses it, it may be edited:\n"
    "# 'sterna-state config-seal FILE' then puts the last line right.\n";

struct config_entry *config_entry_new(const char *key, struct json_object *value)
{
    struct config_entry *en = g_new0(struct config_entry, 1);
    en->key = g_strdup(key);
    en->value = value;
    en->lead = g_strdup("");
    en->tail = g_strdup("");
    return en;
}

void config_entry_free(void *p)
{
    struct config_entry *en = p;
    g_free(en->lead);
    g_free(en->text);
    g_free(en->tail);
    g_free(en->key);
    json_object_put(en->value);
    g_free(en);
}

static struct config_entry *entry_copy(const struct config_entry *en)
{
    struct config_entry *c = g_new(struct config_entry, 1);
    *c = *en;
    c->lead = g_strdup(en->lead);
    c->text = g_strdup(en->text);
    c->tail = g_strdup(en->tail);
    c->key = g_strdup(en->key);
    c->value = json_object_get(en->value);
    return c;
}

struct config_text *config_text_new(const char *kind, const char *name)
{
    struct config_text *t = g_new0(struct config_text, 1);
    t->refs = 1;
    t->kind = g_strdup(kind);
    t->name = g_strdup(name);
    t->lead = g_strdup("");
    t->tail = g_strdup("");
    t->entries = g_ptr_array_new_with_free_func(config_entry_free);
    t->pub = (struct config_section){t->kind, t->name, NULL};
    return t;
}

struct config_text *config_text_copy(const struct config_text *t)
{
    struct config_text *c = config_text_new(t->kind, t->name);
    g_free(c->lead);
    g_free(c->tail);
    c->lead = g_strdup(t->lead);
    c->text = g_strdup(t->text);
    c->tail = g_strdup(t->tail);
    c->line = t->line;
    c->pub.values = json_object_get(t->pub.values);
    for (guint i = 0; i < t->entries->len; i++) {
        g_ptr_array_add(c->entries, entry_copy(g_ptr_array_index(t->entries, i)));
    }
    return c;
}

struct config_text *config_text_ref(struct config_text *t)
{
    t->refs++;
    return t;
}

void config_text_unref(void *p)
{
    struct config_text *t = p;
    if (!t || --t->refs) {
        return;
    }
    json_object_put(t->pub.values);
    g_ptr_array_free(t->entries, TRUE);
    g_free(t->kind);
    g_free(t->name);
    g_free(t->lead);
    g_free(t->text);
    g_free(t->tail);
    g_free(t);
}

/* --- documents -----------------------------------------------------------------------------------------------------
 */

static struct config_doc *doc_alloc(void)
{
    struct config_doc *d = g_new0(struct config_doc, 1);
    d->sections = g_ptr_array_new_with_free_func(config_text_unref);
    return d;
}

static void set_release(struct config_doc *d, const char *release)
{
    struct config_text *head = config_text_copy(d->head);
    struct config_entry *en = NULL;
    for (guint i = 0; i < head->entries->len && !en; i++) {
        struct config_entry *at = g_ptr_array_index(head->entries, i);
        en = strcmp(at->key, "release") ? NULL : at;
    }
    if (!en) {
        en = config_entry_new("release", NULL);
        g_ptr_array_add(head->entries, en);
    }
    if (!en->value || strcmp(json_object_get_string(en->value), release) != 0) {
        json_object_put(en->value);
        en->value = json_object_new_string(release);
        g_free(take(en->text));
    }
    config_text_unref(d->head);
    d->head = head;
}

struct config_doc *config_doc_new(const char *release)
{
    struct config_doc *d = doc_alloc();
    struct config_entry *en = config_entry_new("format", json_object_new_int(CONFIG_FORMAT));
    g_free(en->lead);
    en->lead = g_strdup(banner);
    d->head = config_text_new(NULL, NULL);
    d->lead = g_strdup("\n");
    g_ptr_array_add(d->head->entries, en);
    if (release) {
        set_release(d, release);
    }
    return d;
}

struct config_doc *config_doc_copy(const struct config_doc *d)
{
    struct config_doc *c = doc_alloc();
    c->head = config_text_ref(d->head);
    c->lead = g_strdup(d->lead);
    c->generation = d->generation;
    c->edited = d->edited;
    for (guint i = 0; i < d->sections->len; i++) {
        g_ptr_array_add(c->sections, config_text_ref(g_ptr_array_index(d->sections, i)));
    }
    return c;
}

void config_doc_free(struct config_doc *d)
{
    if (!d) {
        return;
    }
    config_text_unref(d->head);
    g_ptr_array_free(d->sections, TRUE);
    g_free(d->lead);
    g_free(d);
}

void config_doc_stamp(struct config_doc *d, uint64_t generation, const char *release)
{
    d->generation = generation;
    d->edited = false;
    if (release) {
        set_release(d, release);
    }
}

const char *config_doc_release(const struct config_doc *d)
{
    for (guint i = 0; i < d->head->entries->len; i++) {
        const struct config_entry *en = g_ptr_array_index(d->head->entries, i);
        if (!strcmp(en->key, "release")) {
            return json_object_get_string(en->value);
        }
    }
    return NULL;
}

struct config_text *config_doc_find(const struct config_doc *d, const char *kind, const char *name, guint *at)
{
    for (guint i = 0; i < d->sections->len; i++) {
        struct config_text *t = g_ptr_array_index(d->sections, i);
        if (!strcmp(t->kind, kind) && !g_strcmp0(t->name, name)) {
            if (at) {
                *at = i;
            }
            return t;
        }
    }
    return NULL;
}

/* --- changes -------------------------------------------------------------------------------------------------------
 */

/* Where the comment that touches what is below begins: behind the last empty line. */
static size_t attached(const char *lead)
{
    size_t from = strlen(lead);
    while (from) {
        size_t start = from - 1;
        while (start && lead[start - 1] != '\n') {
            start--;
        }
        if (start + strspn(lead + start, " \t") == from - 1) {
            break;
        }
        from = start;
    }
    return from;
}

/* What stays of the lines before something that goes: "" or lines with a comment among them. g_malloc'd. */
static char *staying(const char *lead)
{
    char *stays = g_strndup(lead, attached(lead));
    if (!strpbrk(stays, "#;")) {
        *stays = '\0';
    }
    return stays;
}

/* One empty line between the two is enough. */
static void prepend(char **lead, const char *text)
{
    size_t n = strlen(text);
    while (**lead == '\n' && n > 1 && text[n - 1] == '\n' && text[n - 2] == '\n') {
        n--;
    }
    char *both = g_strdup_printf("%.*s%s", (int)n, text, *lead);
    g_free(*lead);
    *lead = both;
}

/* Before the section with this number, or the file's end. */
static void keep_before(struct config_doc *d, guint at, const char *text)
{
    if (!*text) {
        return;
    }
    if (at >= d->sections->len) {
        prepend(&d->lead, text);
        return;
    }
    struct config_text *t = config_text_copy(g_ptr_array_index(d->sections, at));
    prepend(&t->lead, text);
    config_text_unref(g_ptr_array_index(d->sections, at));
    g_ptr_array_index(d->sections, at) = t;
}

void config_doc_delete(struct config_doc *d, const char *kind, const char *name)
{
    guint at;
    struct config_text *t = config_doc_find(d, kind, name, &at);
    if (!t) {
        return;
    }
    GString *stays = g_string_new(NULL);
    CLEANUP_FREE char *first = staying(t->lead);
    g_string_append(stays, first);
    for (guint i = 0; i < t->entries->len; i++) {
        const struct config_entry *en = g_ptr_array_index(t->entries, i);
        CLEANUP_FREE char *text = staying(en->lead);
        g_string_append(stays, text);
    }
    g_ptr_array_remove_index(d->sections, at);
    keep_before(d, at, stays->str);
    g_string_free(stays, TRUE);
}

static struct config_entry *find_entry(const GPtrArray *entries, const char *key, guint *at)
{
    for (guint i = 0; i < entries->len; i++) {
        struct config_entry *en = g_ptr_array_index(entries, i);
        if (!strcmp(en->key, key)) {
            *at = i;
            return en;
        }
    }
    return NULL;
}

static void update_entry(struct config_entry *old, const struct config_entry *new)
{
    bool same = json_object_get_type(old->value) == json_object_get_type(new->value) &&
                json_object_equal(old->value, new->value);
    if (!same) {
        json_object_put(old->value);
        old->value = json_object_get(new->value);
        g_free(take(old->text));
    }
}

/* Old entries keep their places; a new one comes behind the one that it follows in `to`. What stood before the
 * section's last entries and stays is returned. */
static char *merge(GPtrArray *old, const GPtrArray *to)
{
    GString *stays = g_string_new(NULL);
    guint at;
    for (guint i = 0; i < old->len;) {
        struct config_entry *en = g_ptr_array_index(old, i);
        const struct config_entry *new = find_entry(to, en->key, &at);
        if (new) {
            prepend(&en->lead, stays->str);
            g_string_truncate(stays, 0);
            update_entry(en, new);
            i++;
            continue;
        }
        CLEANUP_FREE char *text = staying(en->lead);
        g_string_append(stays, text);
        g_ptr_array_remove_index(old, i);
    }
    guint place = 0;
    for (guint i = 0; i < to->len; i++) {
        const struct config_entry *new = g_ptr_array_index(to, i);
        if (find_entry(old, new->key, &at)) {
            place = at + 1;
        } else {
            g_ptr_array_insert(old, (gint)place++, entry_copy(new));
        }
    }
    return g_string_free(stays, FALSE);
}

static int check_lines(const struct config_text *t, struct err *e)
{
    int rc = 0;
    GString *line = g_string_new(NULL);
    for (guint i = 0; i < t->entries->len && rc == 0; i++) {
        const struct config_entry *en = g_ptr_array_index(t->entries, i);
        g_string_printf(line, "%s = ", en->key);
        config_value_print(line, en->value);
        if (line->len + strlen(en->tail) > CONFIG_MOST_LINE) {
            rc = err_set(e, E2BIG, "the value of '%s' cannot be kept: a line has at most %d bytes", en->key,
                         CONFIG_MOST_LINE);
        }
    }
    g_string_free(line, TRUE);
    return rc;
}

static bool name_is_fine(const char *name)
{
    return !name || (*name && strlen(name) <= CONFIG_MOST_NAME && g_utf8_validate(name, -1, NULL));
}

/* A new section stands behind those of its kind. */
static void add_section(struct config_doc *d, struct config_text *t)
{
    guint at = d->sections->len;
    for (guint i = 0; i < d->sections->len; i++) {
        const struct config_text *other = g_ptr_array_index(d->sections, i);
        at = strcmp(other->kind, t->kind) ? at : i + 1;
    }
    g_free(t->lead);
    t->lead = g_strdup("\n");
    g_ptr_array_insert(d->sections, (gint)at, t);
}

static int blame_section(const char *kind, const char *name, struct err *e)
{
    return name ? err_wrap(e, "[%s \"%s\"]", kind, name) : err_wrap(e, "[%s]", kind);
}

/* Puts `t`, whose entries are done, in the place of the old one. Takes t. */
static int replace(struct config_doc *d, struct config_text *t, guint at, bool is_new, struct err *e)
{
    int rc = check_lines(t, e);
    if (rc == 0 && !name_is_fine(t->name)) {
        rc = err_set(e, EINVAL, "the name is empty, longer than %d bytes or not valid UTF-8", CONFIG_MOST_NAME);
    }
    if (rc == 0 && is_new && d->sections->len >= CONFIG_MOST_SECTIONS) {
        rc = err_set(e, E2BIG, "there are %d sections, and there cannot be more", CONFIG_MOST_SECTIONS);
    }
    if (rc < 0) {
        blame_section(t->kind, t->name, e);
        config_text_unref(t);
        return rc;
    }
    if (is_new) {
        add_section(d, t);
    } else {
        config_text_unref(g_ptr_array_index(d->sections, at));
        g_ptr_array_index(d->sections, at) = t;
    }
    return 0;
}

/* Takes `to`, the entries as they shall be. */
static int set_entries(struct config_doc *d, const struct config_ref *ref, GPtrArray *to, struct err *e)
{
    guint at = 0;
    const struct config_text *old = config_doc_find(d, ref->kind, ref->name, &at);
    struct config_text *t = old ? config_text_copy(old) : config_text_new(ref->kind, ref->name);
    const struct config_entry *bad;
    CLEANUP_FREE char *stays = merge(t->entries, to);
    g_ptr_array_free(to, TRUE);
    json_object_put(t->pub.values);
    t->pub.values = config_unflatten(t->entries, &bad, e);
    if (!t->pub.values) {
        blame_section(ref->kind, ref->name, e);
        config_text_unref(t);
        return -EINVAL;
    }
    int rc = replace(d, t, at, !old, e);
    if (rc == 0 && old) {
        keep_before(d, at + 1, stays);
    }
    return rc;
}

int config_doc_set(struct config_doc *d, const char *kind, const char *name, struct json_object *values, struct err *e)
{
    const struct config_text *old = config_doc_find(d, kind, name, NULL);
    if (old && json_object_equal(old->pub.values, values)) {
        return 0;
    }
    GPtrArray *to = g_ptr_array_new_with_free_func(config_entry_free);
    int rc = config_flatten(values, to, e);
    if (rc < 0) {
        g_ptr_array_free(to, TRUE);
        return blame_section(kind, name, e);
    }
    return set_entries(d, &(struct config_ref){kind, name, false}, to, e);
}
