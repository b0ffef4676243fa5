/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/state.h"

#include "device/pci.h"
#include "machine/machine.h"

#include <string.h>

static void add(void *opaque, const char *path, const struct state_section *section, void *object)
{
    const struct vm_state_item i = {g_strdup(path), NULL, section, object, g_malloc0(section->size)};
    g_array_append_val((GArray *)opaque, i);
}

static void add_harts(struct vm *vm, GArray *list)
{
    const struct accel_ops *ops = vm->accel_ops;
    for (unsigned i = 0; i < vm->machine->board.harts; i++) {
        g_autofree char *path = g_strdup_printf("/machine/hart%u", i);
        add(list, path, ops->hart_state, ops->hart_object(vm->accel, i));
    }
}

struct vm_state *vm_state_create(struct vm *vm)
{
    struct vm_state *s = g_new0(struct vm_state, 1);
    GArray *list = g_array_new(false, false, sizeof(struct vm_state_item));
    add(list, "/machine/clock", &guest_clock_state, &vm->clock);
    if (vm->machine) {
        add_harts(vm, list);
        vm->machine->type->state_objects(vm->machine, add, list);
    }
    for (guint i = 0; i < vm->devices->len; i++) {
        struct device *d = g_ptr_array_index(vm->devices, i);
        add(list, d->path, d->cls->state, d);
        g_array_index(list, struct vm_state_item, list->len - 1).place = device_place(d);
    }
    s->vm = vm;
    s->n = list->len;
    s->item = (struct vm_state_item *)(void *)g_array_free(list, false);
    return s;
}

void vm_state_destroy(struct vm_state *s)
{
    if (!s) {
        return;
    }
    for (unsigned i = 0; i < s->n; i++) {
        g_free(s->item[i].path);
        g_free(s->item[i].place);
        g_free(s->item[i].st);
    }
    g_free(s->item);
    g_free(s);
}

struct vm_state_item *vm_state_find(struct vm_state *s, const char *path)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (!strcmp(s->item[i].path, path)) {
            return &s->item[i];
        }
    }
    return NULL;
}

void vm_state_get(struct vm_state *s)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct vm_state_item *it = &s->item[i];
        memset(it->st, 0, it->section->size);
        it->section->get(it->object, it->st);
    }
}

int vm_state_check(const struct vm_state *s, struct err *e)
{
    for (unsigned i = 0; i < s->n; i++) {
        const struct vm_state_item *it = &s->item[i];
        int rc = it->section->check ? it->section->check(it->object, it->st, e) : 0;
        if (rc < 0) {
            err_wrap(e, "state of '%s'", it->path);
            return rc;
        }
    }
    return 0;
}

void vm_state_put(struct vm_state *s)
{
    if (s->vm->machine && s->vm->machine->board.pci) {
        /* A window may move to where another one still is. */
        pci_bus_unmap_bars(s->vm->machine->board.pci);
    }
    for (unsigned i = 0; i < s->n; i++) {
        const struct vm_state_item *it = &s->item[i];
        it->section->put(it->object, it->st);
    }
}
