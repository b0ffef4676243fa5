/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/objects.h"

#include "base/cleanup.h"
#include "machine/machine.h"
#include "machine/state.h"
#include "state/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* A member of the manifest: what the devices' chunks would have if they came now, as base64. */
#define TOLD "state-now"
enum { TOLD_MAX = 4 << 20 /* bytes; more would crowd the manifest */ };

/* --- out ------------------------------------------------------------------------------------------------------------
 */

int objects_out_init(struct objects_out *o, struct vm *vm, const char *compat, const char *const *force_drop,
                     struct err *e)
{
    *o = (struct objects_out){.vm = vm, .force_drop = force_drop};
    o->devices = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    o->dropped = g_ptr_array_new_with_free_func(g_free);
    o->release = vm->machine ? vm->machine->release : NULL;
    if (o->release && compat) {
        o->release = machine_type_find_until(compat, vm->as_release, e);
        return o->release ? 0 : -EINVAL;
    }
    return 0;
}

void objects_out_forget(struct objects_out *o)
{
    state_manifest_destroy(take(o->manifest));
    g_ptr_array_set_size(o->devices, 0);
    g_ptr_array_set_size(o->dropped, 0);
}

void objects_out_finish(struct objects_out *o)
{
    state_manifest_destroy(take(o->manifest));
    g_clear_pointer(&o->devices, g_ptr_array_unref);
    g_clear_pointer(&o->dropped, g_ptr_array_unref);
}

static int get_devices(struct objects_out *o, const struct state_policy *p, struct err *e)
{
    struct vm_state *st = vm_state_create(o->vm);
    int rc = 0;
    vm_state_get(st);
    for (unsigned i = 0; rc == 0 && i < st->n; i++) {
        const struct vm_state_item *it = &st->item[i];
        GByteArray *payload = state_encode(it->path, it->section, it->st, p, e);
        if (payload) {
            state_manifest_add_device(o->manifest, it->path, it->section, p);
            state_manifest_set_place(o->manifest, it->place);
            g_ptr_array_add(o->devices, payload);
        }
        rc = payload ? 0 : -EINVAL;
    }
    vm_state_destroy(st);
    return rc;
}

int objects_out_get(struct objects_out *o, struct err *e)
{
    const struct machine_release *as = o->release;
    const struct guest_ram *r;
    const struct state_policy p = {.compat = as ? as->state : NULL,
                                   .reader = as ? as->info->name : NULL,
                                   .force_drop = o->force_drop,
                                   .dropped = o->dropped};
    objects_out_forget(o);
    o->manifest = state_manifest_create(as ? as->info->name : "none", STERNA_RELEASE);
    if (o->tag) {
        state_manifest_set_tag(o->manifest, o->tag);
    }
    for (unsigned i = 0; (r = guest_ram_get(o->vm->mem, i)); i++) {
        state_manifest_add_ram(o->manifest, r->name, r->size);
    }
    return get_devices(o, &p, e);
}

void objects_out_tell(struct objects_out *o)
{
    struct json_object *list = json_object_new_array();
    size_t bytes = 0;
    for (guint i = 0; i < o->devices->len; i++) {
        const GByteArray *p = g_ptr_array_index(o->devices, i);
        CLEANUP_FREE char *text = g_base64_encode(p->data, p->len);
        json_object_array_add(list, json_object_new_string(text));
        bytes += p->len;
    }
    if (bytes > TOLD_MAX) {
        json_object_put(list);
    } else {
        state_manifest_add(o->manifest, TOLD, list);
    }
}

int objects_out_write(const struct objects_out *o, struct state_writer *w)
{
    int rc = 0;
    for (guint i = 0; i < o->devices->len; i++) {
        const GByteArray *p = g_ptr_array_index(o->devices, i);
        rc = state_write_device(w, p->data, p->len);
    }
    return rc;
}

/* --- in -------------------------------------------------------------------------------------------------------------
 */

void objects_in_init(struct objects_in *o, struct vm *vm, const char *name)
{
    *o = (struct objects_in){.vm = vm, .name = name};
    o->devices = g_ptr_array_new_with_free_func((GDestroyNotify)g_byte_array_unref);
    o->dropped = g_ptr_array_new_with_free_func(g_free);
    o->lifted = g_ptr_array_new_with_free_func(g_free);
}

void objects_in_finish(struct objects_in *o)
{
    vm_state_destroy(take(o->state));
    g_clear_pointer(&o->devices, g_ptr_array_unref);
    g_clear_pointer(&o->dropped, g_ptr_array_unref);
    g_clear_pointer(&o->lifted, g_ptr_array_unref);
}

void objects_in_add(struct objects_in *o, const GByteArray *payload)
{
    GByteArray *own = g_byte_array_sized_new(payload->len);
    g_ptr_array_add(o->devices, g_byte_array_append(own, payload->data, payload->len));
}

static int check_machine(const struct objects_in *o, const struct state_manifest *m, struct err *e)
{
    const char *here = o->vm->machine ? o->vm->machine->release->info->name : "none";
    const char *there = state_manifest_machine(m);
    return strcmp(there, here) == 0
               ? 0
               : err_set(e, EINVAL, "%s is the state of a machine '%s', this one is '%s'", o->name, there, here);
}

int objects_check_ram(struct vm *vm, const struct state_manifest *m, const char *name, struct err *e)
{
    const struct guest_ram *r;
    unsigned i = 0;
    for (; (r = guest_ram_get(vm->mem, i)) && i < state_manifest_blocks(m); i++) {
        uint64_t pages = state_manifest_block_pages(m, i);
        if (strcmp(state_manifest_block_name(m, i), r->name) != 0 || pages != r->size >> GUEST_PAGE_BITS) {
            return err_set(e, EINVAL, "%s has %" PRIu64 " MiB of RAM '%s', this machine has %" PRIu64 " MiB of '%s'",
                           name, pages >> (20 - GUEST_PAGE_BITS), state_manifest_block_name(m, i), r->size >> 20,
                           r->name);
        }
    }
    if (r || i < state_manifest_blocks(m)) {
        return err_set(e, EINVAL, "%s has %u blocks of RAM, this machine has another number", name,
                       state_manifest_blocks(m));
    }
    return 0;
}

static const struct state_compat *known(const struct vm *vm)
{
    return vm->as_release ? vm->as_release->state : NULL;
}

static int check_devices(const struct objects_in *o, const struct state_manifest *m, struct vm_state *st, struct err *e)
{
    const struct state_policy p = {.compat = known(o->vm), .allow = o->state_allow, .force_drop = o->force_drop};
    for (unsigned i = 0; i < state_manifest_devices(m); i++) {
        const char *path = state_manifest_device_path(m, i), *place = state_manifest_device_place(m, i);
        const struct vm_state_item *it = vm_state_find(st, path);
        if (!it) {
            return err_set(e, ENOENT, "%s: the saved machine has '%s', this one has not", o->name, path);
        }
        int rc = state_check_readable(m, path, it->section, &p, e);
        if (rc < 0) {
            return err_wrap(e, "%s", o->name);
        }
        if (place && it->place && strcmp(place, it->place) != 0) {
            return err_set(e, EINVAL, "%s: '%s' is at %s there and at %s here; give it the same place", o->name, path,
                           place, it->place);
        }
    }
    for (unsigned i = 0; i < st->n; i++) {
        if (!state_manifest_schema(m, st->item[i].path)) {
            return err_set(e, ENOENT, "%s: the saved machine has no '%s', this one has", o->name, st->item[i].path);
        }
    }
    return 0;
}

int objects_in_check_manifest(const struct objects_in *o, const struct state_manifest *m, struct err *e)
{
    struct vm_state *st = vm_state_create(o->vm);
    int rc = check_machine(o, m, e);
    rc = rc < 0 ? rc : objects_check_ram(o->vm, m, o->name, e);
    rc = rc < 0 ? rc : check_devices(o, m, st, e);
    vm_state_destroy(st);
    return rc;
}

static int decode(struct objects_in *o, const struct state_manifest *m, const GByteArray *payload, bool *seen,
                  struct err *e)
{
    const struct state_policy p = {.compat = known(o->vm),
                                   .allow = o->state_allow,
                                   .force_drop = o->force_drop,
                                   .dropped = o->dropped,
                                   .lifted = o->lifted};
    CLEANUP_FREE char *path = state_device_path(payload->data, payload->len, e);
    struct vm_state_item *it = path ? vm_state_find(o->state, path) : NULL;
    if (!path) {
        return -EINVAL;
    }
    if (!it) {
        return err_set(e, ENOENT, "the saved machine has '%s', this one has not", path);
    }
    seen[it - o->state->item] = true;
    return state_decode(m, it->section, payload, &p, it->st, e);
}

int objects_in_prepare(struct objects_in *o, const struct state_manifest *m, struct err *e)
{
    int rc = check_machine(o, m, e);
    vm_state_destroy(take(o->state));
    if (rc < 0) {
        return rc;
    }
    struct vm_state *st = o->state = vm_state_create(o->vm);
    CLEANUP_FREE bool *seen = g_new0(bool, st->n + 1);
    g_ptr_array_set_size(o->dropped, 0);
    g_ptr_array_set_size(o->lifted, 0);
    for (guint i = 0; rc == 0 && i < o->devices->len; i++) {
        rc = decode(o, m, g_ptr_array_index(o->devices, i), seen, e);
    }
    for (unsigned i = 0; rc == 0 && i < st->n; i++) {
        if (!seen[i]) {
            rc = err_set(e, ENOENT, "the saved machine has no '%s', this one has", st->item[i].path);
        }
    }
    rc = rc < 0 ? rc : vm_state_check(st, e);
    if (rc < 0) {
        err_wrap(e, "%s", o->name);
        vm_state_destroy(take(o->state));
    }
    return rc;
}

int objects_in_judge(struct objects_in *o, const struct state_manifest *m, struct err *e)
{
    struct json_object *list = json_object_object_get(state_manifest_json(m), TOLD);
    if (!json_object_is_type(list, json_type_array)) {
        return 0;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *text = json_object_array_get_idx(list, i);
        gsize len = 0;
        CLEANUP_FREE guchar *data =
            json_object_is_type(text, json_type_string) ? g_base64_decode(json_object_get_string(text), &len) : NULL;
        g_ptr_array_add(o->devices, g_byte_array_append(g_byte_array_new(), data, (guint)len));
    }
    int rc = objects_in_prepare(o, m, e);
    vm_state_destroy(take(o->state));
    g_ptr_array_set_size(o->devices, 0);
    return rc;
}

void objects_in_commit(struct objects_in *o)
{
    struct log *log = o->vm->log;
    for (guint i = 0; i < o->lifted->len; i++) {
        log_warn(log, "loaded although it is blocked: %s", (const char *)g_ptr_array_index(o->lifted, i));
    }
    for (guint i = 0; i < o->dropped->len; i++) {
        log_warn(log, "left out of the loaded machine: %s", (const char *)g_ptr_array_index(o->dropped, i));
    }
    vm_state_put(o->state);
}
