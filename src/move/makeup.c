/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/makeup.h"

#include "base/cleanup.h"

void makeup_tell(const struct vm *vm, struct state_manifest *m)
{
    struct json_object *sections = vm->make_up.tell ? vm->make_up.tell(vm->make_up.opaque) : NULL;
    if (sections) {
        state_manifest_add(m, "make-up", sections);
    }
}

int makeup_take(struct vm *vm, const struct state_manifest *m, struct json_object *want, const char *folder,
                bool only_asked, struct err *e)
{
    struct json_object *all = state_manifest_json(m), *sections = json_object_object_get(all, "make-up");
    const struct vm_arrival a = {.type = state_manifest_machine(m),
                                 .make_up = json_object_is_type(sections, json_type_array) ? sections : NULL,
                                 .disks = json_object_object_get(want, "disks"),
                                 .folder = folder,
                                 .only_asked = only_asked};
    if (vm->machine || !vm->make_up.make) {
        return 0;
    }
    return vm->make_up.make(vm->make_up.opaque, &a, e);
}

static int keep(struct vm *vm, struct err *e)
{
    return vm->keeper.changed ? vm->keeper.changed(vm->keeper.opaque, e) : 0;
}

void makeup_stays(struct vm *vm)
{
    if (vm->moved_away) {
        vm->moved_away = false;
        keep(vm, NULL);
    }
}

int makeup_keep_away(struct vm *vm, const bool *cancelled, struct err *e)
{
    vm->moved_away = true;
    int rc = keep(vm, e);
    if (rc == 0 && !*cancelled) {
        return 0;
    }
    makeup_stays(vm);
    return rc < 0 ? err_wrap(e, "The machine stays, for its state file cannot say that it has gone") : 0;
}

void makeup_arrived(struct vm *vm)
{
    if (vm->make_up.arrived) {
        vm->make_up.arrived(vm->make_up.opaque);
    }
}
