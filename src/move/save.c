/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "guest/pages.h"
#include "machine/machine.h"
#include "machine/state.h"
#include "move/lineage.h"
#include "move/ram_out.h"
#include "move/turn.h"
#include "state/section.h"

#include <errno.h>

enum { ZSTD_LEVEL = 1 };

struct vm_save {
    struct vm *vm;
    struct vm_save_opts o;
    bool has_turn, cancelled, frozen;
    const struct machine_release *release; /* in whose format */
    struct state_manifest *manifest;
    GPtrArray *devices;   /* GByteArray: payloads */
    GPtrArray *dropped;   /* char *: vm_save_dropped() */
    struct lineage *base; /* the state that this one is based on; NULL: none */
    char *base_file;
    const struct move_sink *to;
    uint64_t size, pause_ns;
};

static void forget_instant(struct vm_save *s)
{
    state_manifest_destroy(take(s->manifest));
    g_ptr_array_set_size(s->devices, 0);
}

static void name_parent(const struct vm_save *s)
{
    const char *tag = state_manifest_tag(state_reader_manifest(lineage_reader(s->base, 0)));
    state_manifest_set_parent(s->manifest, tag ? tag : lineage_name(s->base, 0),
                              state_index_digest(lineage_index(s->base, 0)), s->base_file);
}

/* State of all objects as bytes, and the manifest that describes them. Held still. */
static int describe(struct vm_save *s, struct err *e)
{
    struct vm *vm = s->vm;
    struct vm_state *st = vm_state_create(vm);
    const struct guest_ram *r;
    int rc = 0;
    const struct machine_release *as = s->release;
    const struct state_policy p = {.compat = as ? as->state : NULL,
                                   .reader = as ? as->info->name : NULL,
                                   .force_drop = s->o.force_drop,
                                   .dropped = s->dropped};
    forget_instant(s);
    g_ptr_array_set_size(s->dropped, 0);
    s->manifest = state_manifest_create(as ? as->info->name : "none", STERNA_RELEASE);
    if (s->o.tag) {
        state_manifest_set_tag(s->manifest, s->o.tag);
    }
    if (s->base) {
        name_parent(s);
    }
    for (unsigned i = 0; (r = guest_ram_get(vm->mem, i)); i++) {
        state_manifest_add_ram(s->manifest, r->name, r->size);
    }
    vm_state_get(st);
    for (unsigned i = 0; rc == 0 && i < st->n; i++) {
        const struct vm_state_item *it = &st->item[i];
        GByteArray *payload = state_encode(it->path, it->section, it->st, &p, e);
        if (payload) {
            state_manifest_add_device(s->manifest, it->path, it->section, &p);
            g_ptr_array_add(s->devices, payload);
        }
        rc = payload ? 0 : -EINVAL;
    }
    vm_state_destroy(st);
    return rc;
}

static int protect_ahead(void *opaque)
{
    pages_protect_ahead(opaque);
    return 0;
}

/* In whose format it is saved; NULL: there is no machine. */
static int choose_release(struct vm_save *s, struct err *e)
{
    s->release = s->vm->machine ? s->vm->machine->release : NULL;
    if (s->release && s->o.compat) {
        s->release = machine_type_find(s->o.compat, e);
        s->o.compat = NULL; /* borrowed for the call only */
        return s->release ? 0 : -EINVAL;
    }
    return 0;
}

int vm_save_create(struct vm *vm, const struct vm_save_opts *o, struct vm_save **out, struct err *e)
{
    if (!vm->accel) {
        return err_set(e, ENOTSUP, "A machine without memory and harts has no state to save");
    }
    struct vm_save *s = g_new0(struct vm_save, 1);
    s->vm = vm;
    s->o = *o;
    s->devices = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    s->dropped = g_ptr_array_new_with_free_func(g_free);
    move_turn_take(vm);
    s->has_turn = true;
    vm_quiesce(vm);
    int rc = choose_release(s, e);
    rc = rc < 0 ? rc : describe(s, e);
    rc = rc < 0 ? rc : pages_watch(vm->pages, vm->accel_ops->sees_stores ? PAGES_SEEN : PAGES_AUTO, e);
    s->pause_ns = vm_unquiesce(vm);
    forget_instant(s);
    if (rc < 0) {
        vm_save_destroy(s);
        return rc;
    }
    co_work(protect_ahead, vm->pages);
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
    if (s->vm->accel) {
        s->vm->accel_ops->dirty_log_changed(s->vm->accel);
    }
    s->frozen = true;
    for (guint i = 0; i < s->dropped->len; i++) {
        log_warn(s->vm->log, "left out of the saved machine: %s", (const char *)g_ptr_array_index(s->dropped, i));
    }
    return 0;
}

const GPtrArray *vm_save_dropped(const struct vm_save *s)
{
    return s->dropped;
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
    state_write_manifest(w, s->manifest);
    for (guint i = 0; i < s->devices->len; i++) {
        const GByteArray *p = g_ptr_array_index(s->devices, i);
        state_write_device(w, p->data, p->len);
    }
    if (s->vm->first_used) {
        state_write_chunk(w, STATE_RFST, s->vm->first_used->data, s->vm->first_used->len);
    }
    const struct ram_out ram = {.vm = s->vm,
                                .w = w,
                                .base = s->base,
                                .zstd_level = s->o.compress ? ZSTD_LEVEL : 0,
                                .cancelled = &s->cancelled,
                                .progress = s->o.progress,
                                .opaque = s->o.opaque};
    int rc = ram_out_write(&ram);
    pages_end(s->vm->pages);
    s->frozen = false;
    return rc < 0 ? rc : state_write_stop(w, NULL);
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
        move_turn_give(s->vm);
    }
    forget_instant(s);
    lineage_close(s->base);
    g_free(s->base_file);
    g_ptr_array_unref(s->devices);
    g_ptr_array_unref(s->dropped);
    g_free(s);
}
