/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "guest/pages.h"
#include "move/lineage.h"
#include "move/migrate.h"
#include "move/objects.h"
#include "move/ram_out.h"
#include "move/turn.h"
#include "state/manifest.h"

#include <errno.h>
#include <string.h>

enum { ZSTD_LEVEL = 1 };

struct vm_save {
    struct vm *vm;
    struct vm_save_opts o;
    bool has_turn, cancelled, frozen;
    struct objects_out objects;
    struct lineage *base;   /* the state that this one is based on; NULL: none */
    enum guest_dirty log;   /* what changes from the instant on; 0: not known */
    enum guest_dirty since; /* what changed since `base`; likewise */
    char *base_file;
    const struct move_sink *to;
    uint64_t size, pause_ns;
};

/* Held still. */
static int describe(struct vm_save *s, struct err *e)
{
    int rc = objects_out_get(&s->objects, e);
    if (rc == 0 && s->base) {
        const char *tag = state_manifest_tag(state_reader_manifest(lineage_reader(s->base, 0)));
        state_manifest_set_parent(s->objects.manifest, tag ? tag : lineage_name(s->base, 0),
                                  state_index_digest(lineage_index(s->base, 0)), s->base_file);
    }
    return rc;
}

/* Most of what would take long at the instant. */
static int go_ahead(void *opaque)
{
    const struct vm_save *s = opaque;
    guest_dirty_log_start(s->vm->mem, s->log, NULL);
    pages_protect_ahead(s->vm->pages);
    return 0;
}

/* Held still. What changed since the last save is known from then on to the end of this one, which may be of no avail.
 */
static void log_from_now(struct vm_save *s)
{
    const struct vm_saved *last = &s->vm->saved;
    if (guest_dirty_log_start(s->vm->mem, s->log, NULL) < 0) {
        s->log = 0;
    }
    bool knows = s->base && last->log &&
                 !memcmp(last->digest, state_index_digest(lineage_index(s->base, 0)), sizeof(last->digest));
    s->since = knows ? last->log : 0;
}

static void stop_log(const struct vm_save *s, enum guest_dirty who)
{
    if (who) {
        guest_dirty_log_stop(s->vm->mem, who);
    }
}

int vm_save_create(struct vm *vm, const struct vm_save_opts *o, struct vm_save **out, struct err *e)
{
    if (!vm->accel) {
        return err_set(e, ENOTSUP, "A machine without memory and harts has no state to save");
    }
    int rc = migrate_check_none(vm, e);
    if (rc < 0) {
        return rc;
    }
    struct vm_save *s = g_new0(struct vm_save, 1);
    s->vm = vm;
    s->o = *o;
    move_turn_take(vm, NULL);
    s->has_turn = true;
    vm_await_quiet(vm);
    vm_quiesce(vm);
    rc = objects_out_init(&s->objects, vm, o->compat, o->force_drop, e);
    s->o.compat = NULL; /* borrowed for the call only */
    s->objects.tag = o->tag;
    rc = rc < 0 ? rc : describe(s, e);
    rc = rc < 0 ? rc : pages_watch(vm->pages, vm->accel_ops->sees_stores ? PAGES_SEEN : PAGES_AUTO, e);
    s->pause_ns = vm_unquiesce(vm);
    objects_out_forget(&s->objects);
    if (rc < 0) {
        vm_save_destroy(s);
        return rc;
    }
    s->log = vm->saved.log == DIRTY_SINCE_A ? DIRTY_SINCE_B : DIRTY_SINCE_A;
    co_work(go_ahead, s);
    *out = s;
    return 0;
}

int vm_save_set_parent(struct vm_save *s, const struct move_source *parent, const char *file, struct err *e)
{
    s->base_file = g_strdup(file);
    return lineage_open(s->vm, parent, false, &s->base, e);
}

int vm_save_instant(struct vm_save *s, struct err *e)
{
    int rc = describe(s, e);
    rc = rc < 0 ? rc : pages_freeze(s->vm->pages, e);
    if (rc < 0) {
        return rc;
    }
    log_from_now(s);
    if (s->vm->accel) {
        s->vm->accel_ops->dirty_log_changed(s->vm->accel);
    }
    s->frozen = true;
    for (guint i = 0; i < s->objects.dropped->len; i++) {
        log_warn(s->vm->log, "left out of the saved machine: %s",
                 (const char *)g_ptr_array_index(s->objects.dropped, i));
    }
    return 0;
}

const GPtrArray *vm_save_dropped(const struct vm_save *s)
{
    return s->objects.dropped;
}

static int write_out(void *opaque, const void *buf, size_t len)
{
    struct vm_save *s = opaque;
    int rc = s->cancelled ? -ECANCELED : s->to->write(s->to->opaque, s->size, buf, len);
    s->size += rc == 0 ? len : 0;
    return rc;
}

static int write_stream(struct vm_save *s, struct state_writer *w)
{
    state_write_manifest(w, s->objects.manifest);
    objects_out_write(&s->objects, w);
    if (s->vm->first_used) {
        state_write_chunk(w, STATE_RFST, s->vm->first_used->data, s->vm->first_used->len);
    }
    const struct ram_out ram = {.vm = s->vm,
                                .w = w,
                                .base = s->base,
                                .since = s->since,
                                .zstd_level = s->o.compress ? ZSTD_LEVEL : 0,
                                .cancelled = &s->cancelled,
                                .progress = s->o.progress,
                                .opaque = s->o.opaque};
    int rc = ram_out_write(&ram);
    pages_end(s->vm->pages);
    s->frozen = false;
    struct state_totals totals;
    rc = rc < 0 ? rc : state_write_stop(w, &totals);
    if (rc == 0) {
        stop_log(s, s->vm->saved.log);
        s->vm->saved.log = s->log;
        s->log = 0;
        memcpy(s->vm->saved.digest, totals.digest, sizeof(totals.digest));
    }
    return rc;
}

int vm_save_write(struct vm_save *s, const struct move_sink *to, struct err *e)
{
    const struct state_sink sink = {write_out, s, to->name};
    const struct state_write_options wo = {.aligned = true, .index = true};
    struct state_writer *w = state_writer_create(&sink, &wo);
    s->to = to;
    s->size = 0;
    int rc = write_stream(s, w);
    if (s->cancelled) {
        rc = err_set(e, ECANCELED, "saving the machine was cancelled");
    } else if (rc == -EBADMSG) {
        err_set(e, EBADMSG, "%s: the state that it is to be based on, %s, could not be read", to->name,
                lineage_name(s->base, 0));
    } else if (rc < 0 && state_writer_error(w, e) == 0) {
        err_set(e, -rc, "%s: no memory to keep what the guest changes while it is saved", to->name);
    }
    state_writer_destroy(w);
    return rc;
}

void vm_save_cancel(struct vm_save *s)
{
    s->cancelled = true;
}

uint64_t vm_save_pause_ns(const struct vm_save *s)
{
    return s->pause_ns;
}

uint64_t vm_save_size(const struct vm_save *s)
{
    return s->size;
}

void vm_save_destroy(struct vm_save *s)
{
    if (!s) {
        return;
    }
    if (s->has_turn) {
        pages_end(s->vm->pages);
        stop_log(s, s->log);
        move_turn_give(s->vm);
    }
    objects_out_finish(&s->objects);
    lineage_close(s->base);
    g_free(s->base_file);
    g_free(s);
}
