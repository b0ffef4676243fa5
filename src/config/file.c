/* SPDX-License-Identifier: BSD-2-Clause */
#include "config/file.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "config/file_int.h"
#include "loop/co.h"

#include <assert.h>
#include <string.h>

struct edit {
    enum { SET, DELETE } op;
    char *kind, *name;
    struct json_object *value;
};

struct config_change {
    struct config_file *f;
    GArray *edits; /* struct edit */
    struct co *waiter;
    bool done;
    int rc;
    struct err err;
    uint64_t generation;
};

/* --- what a change is ----------------------------------------------------------------------------------------------
 */

static void edit_clear(void *p)
{
    struct edit *ed = p;
    g_free(ed->kind);
    g_free(ed->name);
    json_object_put(ed->value);
}

struct config_change *config_change_begin(struct config_file *f)
{
    struct config_change *c = g_new0(struct config_change, 1);
    c->f = f;
    c->edits = g_array_new(FALSE, TRUE, sizeof(struct edit));
    g_array_set_clear_func(c->edits, edit_clear);
    return c;
}

static void add_edit(struct config_change *c, struct edit ed)
{
    ed.kind = g_strdup(ed.kind);
    ed.name = g_strdup(ed.name);
    ed.value = json_clone(ed.value);
    g_array_append_val(c->edits, ed);
}

void config_change_set(struct config_change *c, const char *kind, const char *name, struct json_object *values)
{
    add_edit(c, (struct edit){SET, (char *)(uintptr_t)kind, (char *)(uintptr_t)name, values});
}

void config_change_delete(struct config_change *c, const char *kind, const char *name)
{
    add_edit(c, (struct edit){DELETE, (char *)(uintptr_t)kind, (char *)(uintptr_t)name, NULL});
}

void config_change_abort(struct config_change *c)
{
    if (c) {
        g_array_free(c->edits, TRUE);
        err_clear(&c->err);
        g_free(c);
    }
}

/* All of it or, with an error, nothing: the caller drops `d` then. */
static int apply(struct config_doc *d, struct config_change *c)
{
    int rc = 0;
    for (guint i = 0; i < c->edits->len && rc == 0; i++) {
        const struct edit *ed = &g_array_index(c->edits, struct edit, i);
        if (ed->op == SET) {
            rc = config_doc_set(d, ed->kind, ed->name, ed->value, &c->err);
        } else {
            config_doc_delete(d, ed->kind, ed->name);
        }
    }
    return rc;
}

/* --- one generation ------------------------------------------------------------------------------------------------
 */

/* What differs; borrowed from the two. */
static GArray *differences(const struct config_doc *old, const struct config_doc *new)
{
    GArray *refs = g_array_new(FALSE, FALSE, sizeof(struct config_ref));
    for (guint i = 0; i < old->sections->len; i++) {
        const struct config_text *t = g_ptr_array_index(old->sections, i);
        if (!config_doc_find(new, t->kind, t->name, NULL)) {
            struct config_ref r = {t->kind, t->name, true};
            g_array_append_val(refs, r);
        }
    }
    for (guint i = 0; i < new->sections->len; i++) {
        const struct config_text *t = g_ptr_array_index(new->sections, i);
        const struct config_text *was = config_doc_find(old, t->kind, t->name, NULL);
        if (was != t && (!was || !json_object_equal(was->pub.values, t->pub.values))) {
            struct config_ref r = {t->kind, t->name, false};
            g_array_append_val(refs, r);
        }
    }
    return refs;
}

/* Law 5. */
static bool reads_back(const struct config_file *f, const struct config_doc *d, const GString *text, struct err *e)
{
    struct config_doc *again = NULL;
    if (text->len > CONFIG_MOST_BYTES) {
        err_set(e, E2BIG, "state file '%s' cannot become larger than %d bytes", f->shown, CONFIG_MOST_BYTES);
        return false;
    }
    const GByteArray bytes = {(guint8 *)text->str, (guint)text->len};
    bool same = config_parse(f->shown, &bytes, false, &again, e) == 0 && again->sections->len == d->sections->len &&
                again->generation == d->generation;
    for (guint i = 0; same && i < d->sections->len; i++) {
        const struct config_text *a = g_ptr_array_index(again->sections, i);
        const struct config_text *b = g_ptr_array_index(d->sections, i);
        same = !strcmp(a->kind, b->kind) && !g_strcmp0(a->name, b->name) &&
               json_object_equal(a->pub.values, b->pub.values);
    }
    config_doc_free(again);
    if (!same && !err_is_set(e)) {
        err_set(e, EINVAL, "state file '%s': what was to be written would not read back as the same", f->shown);
    }
    return same;
}

static int put_work(void *opaque)
{
    return config_put(opaque);
}

static int put_fresh_work(void *opaque)
{
    return config_put_new(opaque);
}

static int run_put(struct config_put *p, int (*work)(void *opaque))
{
    return co_self() ? co_work(work, p) : work(p);
}

int config_file_write(struct config_file *f, struct config_doc *d, bool keep, struct err *e)
{
    GString *text = config_print(d);
    struct config_put p = {
        .fs = f->fs, .dir = f->dir, .name = f->name, .text = text, .was = f->was, .keep = keep && f->in_place};
    if (!reads_back(f, d, text, e)) {
        g_string_free(text, TRUE);
        return -e->code;
    }
    int rc = run_put(&p, put_work);
    if (p.foreign && p.visible) {
        log_warn(f->log, "somebody else changed state file '%s' while it was in use; what they wrote is in '%s%s'",
                 f->shown, f->shown, CONFIG_PREV);
    }
    if (p.visible) {
        if (f->was) {
            g_string_free(f->was, TRUE);
        }
        f->was = text;
        f->in_place = rc == 0; /* what failed is nothing to go back to */
    } else {
        g_string_free(text, TRUE);
    }
    return rc < 0 ? config_put_failed(&p, f->shown, rc, e) : 0;
}

/* A generation that failed may be in FILE, where nobody acknowledged it: what is true is put over it, at once if the
 * disk lets us, and otherwise by the next change. */
static void put_back(struct config_file *f)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_doc *d = config_doc_copy(f->doc);
    config_doc_stamp(d, ++f->number, f->release);
    if (config_file_write(f, d, false, &e) < 0) {
        log_warn(f->log, "%s; it may hold a change that failed, until the next change", err_text(&e));
        config_doc_free(d);
        return;
    }
    config_doc_free(f->doc);
    f->doc = d;
    if (f->changed) {
        f->changed(f->changed_opaque, d->generation, NULL, 0);
    }
}

static int write_generation(struct config_file *f, struct config_doc *d, struct err *e)
{
    config_doc_stamp(d, f->number + 1, f->release);
    if (!f->shown || f->snapshot) {
        f->number++;
        return 0;
    }
    const GString *before = f->was;
    int rc = config_file_write(f, d, true, e);
    bool seen = f->was != before;
    f->number += rc == 0 || seen;
    if (rc < 0 && seen) {
        put_back(f);
    }
    return rc;
}

/* All that could be applied becomes a generation; the result goes to all of them. */
static int flush_batch(struct config_file *f, struct config_doc *d, struct err *e)
{
    GArray *refs = differences(f->doc, d);
    int rc = refs->len ? write_generation(f, d, e) : 0;
    if (rc == 0 && refs->len) {
        struct config_doc *old = f->doc;
        f->doc = d;
        if (f->changed) {
            f->changed(f->changed_opaque, d->generation, (struct config_ref *)(void *)refs->data, refs->len);
        }
        config_doc_free(old);
    } else {
        config_doc_free(d);
    }
    g_array_free(refs, TRUE);
    return rc;
}

static void finish(struct config_change *c, int rc, const struct err *e)
{
    c->generation = c->f->doc->generation;
    if (rc < 0 && !err_is_set(&c->err)) {
        err_set(&c->err, e->code, "%s", err_text(e));
    }
    c->done = true;
    if (c->waiter) {
        co_wake(c->waiter);
    }
}

static void flush(struct config_file *f)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    GPtrArray *batch = f->pending;
    struct config_doc *d = config_doc_copy(f->doc);
    f->pending = g_ptr_array_new();
    for (guint i = 0; i < batch->len; i++) {
        struct config_change *c = g_ptr_array_index(batch, i);
        struct config_doc *with = config_doc_copy(d);
        c->rc = apply(with, c);
        config_doc_free(c->rc < 0 ? with : d);
        d = c->rc < 0 ? d : with;
    }
    int rc = flush_batch(f, d, &e);
    for (guint i = 0; i < batch->len; i++) {
        struct config_change *c = g_ptr_array_index(batch, i);
        c->rc = c->rc < 0 ? c->rc : rc;
        finish(c, c->rc, &e);
    }
    g_ptr_array_free(batch, TRUE);
}

static void flusher(void *opaque)
{
    struct config_file *f = opaque;
    while (f->pending->len) {
        flush(f);
    }
    f->busy = false;
    co_queue_wake_all(&f->idle);
}

int config_change_commit(struct config_change *c, uint64_t *generation, struct err *e)
{
    struct config_file *f = c->f;
    c->waiter = co_self();
    assert(c->waiter || !f->busy);
    g_ptr_array_add(f->pending, c);
    if (!c->waiter) {
        flusher(f);
    } else if (!f->busy) {
        f->busy = true;
        co_start(f->loop, flusher, f);
    }
    while (!c->done) {
        co_wait();
    }
    int rc = c->rc;
    if (rc < 0) {
        err_move(e, &c->err);
    } else if (generation) {
        *generation = c->generation;
    }
    config_change_abort(c);
    return rc;
}

void config_file_drain(struct config_file *f)
{
    while (f->busy) {
        co_queue_wait(&f->idle);
    }
}

void config_file_watch(struct config_file *f, config_changed_fn *fn, void *opaque)
{
    f->changed = fn;
    f->changed_opaque = opaque;
}

int config_file_save_as(struct config_file *f, const char *path, struct err *e)
{
    CLEANUP_FREE char *folder = g_path_get_dirname(path);
    CLEANUP_FREE char *name = g_path_get_basename(path);
    struct config_lock lock = {.fd = -1};
    int rc = f->fs == &config_host_fs ? config_lock_take(&lock, path, false, e) : 0;
    if (rc < 0) {
        return rc;
    }
    void *dir = f->fs->open(f->fs->opaque, folder, &rc);
    struct config_doc *d = config_doc_copy(f->doc);
    config_doc_stamp(d, MAX(f->doc->generation, 1), f->release);
    GString *text = config_print(d);
    struct config_put p = {.fs = f->fs, .dir = dir, .name = name, .text = text, .step = "open the folder of"};
    rc = dir ? run_put(&p, put_fresh_work) : rc;
    if (rc < 0) {
        config_put_failed(&p, path, rc, e);
    }
    if (dir) {
        f->fs->close(dir);
    }
    g_string_free(text, TRUE);
    config_doc_free(d);
    config_lock_drop(&lock);
    return rc;
}
