/* SPDX-License-Identifier: BSD-2-Clause */
#include "config/vm_state.h"

#include "base/cleanup.h"
#include "base/events.h"
#include "base/json.h"
#include "config/vm_sections.h"
#include "job/job.h"

#include <string.h>

/* --- notes -------------------------------------------------------------------------------------------------------- */

static char *note_key(const char *kind, const char *name)
{
    return g_strconcat(kind, "\n", name ? name : "", NULL);
}

void vm_state_note(struct vm_state *s, const char *kind, const char *name, struct json_object *values)
{
    char *key = note_key(kind, name);
    if (values) {
        g_hash_table_insert(s->notes, key, json_clone(values));
    } else {
        g_hash_table_remove(s->notes, key);
        g_free(key);
    }
}

struct json_object *vm_state_noted(const struct vm_state *s, const char *kind, const char *name)
{
    CLEANUP_FREE char *key = note_key(kind, name);
    return g_hash_table_lookup(s->notes, key);
}

static void put_json(void *o)
{
    json_object_put(o);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static bool same_section(const struct vm_section *x, const struct config_section *y)
{
    return !strcmp(x->kind, y->kind) && !g_strcmp0(x->name, y->name);
}

static bool is_among(GPtrArray *sections, const struct config_section *y)
{
    for (guint i = 0; i < sections->len; i++) {
        if (same_section(g_ptr_array_index(sections, i), y)) {
            return true;
        }
    }
    return false;
}

/* What makes the file say `sections`; NULL: it does. */
static struct config_change *difference(struct vm_state *s, GPtrArray *sections)
{
    struct config_change *c = NULL;
    const struct config_section *y;
    for (unsigned i = 0; (y = config_file_section(s->file, i)); i++) {
        if (!is_among(sections, y)) {
            c = c ? c : config_change_begin(s->file);
            config_change_delete(c, y->kind, y->name);
        }
    }
    for (guint i = 0; i < sections->len; i++) {
        const struct vm_section *x = g_ptr_array_index(sections, i);
        y = config_file_find(s->file, x->kind, x->name);
        if (!y || !json_object_equal(x->values, y->values)) {
            c = c ? c : config_change_begin(s->file);
            config_change_set(c, x->kind, x->name, x->values);
        }
    }
    return c;
}

int vm_state_refresh(struct vm_state *s, struct err *e)
{
    co_lock(&s->lock);
    g_autoptr(GPtrArray) sections = vm_sections(s);
    struct config_change *c = difference(s, sections);
    int rc = c ? config_change_commit(c, NULL, e) : 0;
    co_unlock(&s->lock);
    return rc;
}

bool vm_state_is_live(const struct vm_state *s)
{
    return s && s->on_disk && s->begun;
}

int vm_state_update(struct vm_state *s, struct err *e)
{
    return vm_state_is_live(s) ? vm_state_refresh(s, e) : 0;
}

/* --- what the machine calls ----------------------------------------------------------------------------------------
 */

static int on_changed(void *opaque, struct err *e)
{
    return vm_state_update(opaque, e);
}

static void forget_switch(struct vm_state *s, const struct job *j)
{
    for (guint i = s->pending->len; i-- > 0;) {
        if (g_array_index(s->pending, struct vm_state_switch, i).job == j) {
            g_array_remove_index(s->pending, i);
        }
    }
}

static int on_switching(void *opaque, struct job *j, struct node *from, struct node *to, struct err *e)
{
    struct vm_state *s = opaque;
    forget_switch(s, j);
    if (from) {
        const struct vm_state_switch x = {j, from, to};
        g_array_append_val(s->pending, x);
    }
    int rc = vm_state_update(s, e);
    if (rc < 0) {
        forget_switch(s, j);
    }
    return rc;
}

static void on_job_ended(void *opaque, struct job *j)
{
    struct vm_state *s = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    forget_switch(s, j);
    if (vm_state_update(s, &e) < 0) {
        log_error(s->o.vm->log, "job '%s' has ended, but the state file does not say so: %s", j->id ? j->id : "",
                  err_text(&e));
    }
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void tell_change(void *opaque, uint64_t generation, const struct config_ref *changed, unsigned n)
{
    struct vm_state *s = opaque;
    struct json_object *data = json_object_new_object(), *list = json_object_new_array();
    for (unsigned i = 0; i < n; i++) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "kind", json_object_new_string(changed[i].kind));
        if (changed[i].name) {
            json_object_object_add(o, "name", json_object_new_string(changed[i].name));
        }
        json_object_object_add(o, "deleted", json_object_new_boolean(changed[i].deleted));
        json_object_array_add(list, o);
    }
    json_object_object_add(data, "generation", json_object_new_uint64(generation));
    json_object_object_add(data, "sections", list);
    event_emit(s->o.vm->bus, "STATE_CHANGED", data);
}

int vm_state_open(const struct vm_state_options *o, struct vm_state **out, struct err *e)
{
    const struct config_options c = {.path = o->path,
                                     .snapshot = o->snapshot,
                                     .release = o->release,
                                     .kinds = vm_state_kinds,
                                     .log = o->vm->log,
                                     .loop = o->vm->loop,
                                     .fs = o->fs};
    struct config_file *f;
    int rc = config_file_open(&c, &f, e);
    if (rc < 0) {
        return rc;
    }
    struct vm_state *s = g_new0(struct vm_state, 1);
    s->o = *o;
    s->o.path = s->o.release = NULL;
    s->file = f;
    s->on_disk = o->path != NULL;
    s->notes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, put_json);
    s->pending = g_array_new(false, false, sizeof(struct vm_state_switch));
    s->folder = g_get_current_dir();
    *out = s;
    return 0;
}

void vm_state_close(struct vm_state *s)
{
    if (s) {
        vm_set_keeper(s->o.vm, NULL);
        config_file_drain(s->file);
        config_file_close(s->file);
        g_hash_table_destroy(s->notes);
        g_array_free(s->pending, true);
        g_free(s->folder);
        g_free(s);
    }
}

struct config_file *vm_state_file(struct vm_state *s)
{
    return s->file;
}

void vm_state_set_arriving(struct vm_state *s, bool arriving)
{
    s->arriving = arriving;
}

struct json_object *vm_state_describe(struct vm_state *s)
{
    g_autoptr(GPtrArray) sections = vm_sections(s);
    struct json_object *list = json_object_new_array();
    for (guint i = 0; i < sections->len; i++) {
        const struct vm_section *x = g_ptr_array_index(sections, i);
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "kind", json_object_new_string(x->kind));
        if (x->name) {
            json_object_object_add(o, "name", json_object_new_string(x->name));
        }
        json_object_object_add(o, "values", json_object_get(x->values));
        json_object_array_add(list, o);
    }
    return list;
}

int vm_state_begin(struct vm_state *s, struct err *e)
{
    s->begun = true;
    if (s->on_disk) {
        const struct vm_keeper k = {on_changed, on_switching, on_job_ended, s};
        config_file_watch(s->file, tell_change, s);
        vm_set_keeper(s->o.vm, &k);
    }
    return vm_state_update(s, e);
}
