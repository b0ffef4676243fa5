/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/machine.h"

#include "base/nearest.h"

#include <string.h>

const struct machine_type_info machine_types[] = {
    {"none", NULL, "empty machine", false, 0},
    {"virt-0.1", "virt", "RISC-V VirtIO board, as QEMU's", true, 8},
    {NULL},
};

/* "none" has no board, hence no type here. */
static const struct machine_type *const boards[] = {&machine_virt, NULL};
/* Options that every type takes. */
static const char *const common_options[] = {"dumpdtb", "type", NULL};

static bool is_type(const struct machine_type_info *i, const char *name)
{
    return !strcmp(i->name, name) || (i->alias && !strcmp(i->alias, name));
}

const struct machine_type *machine_type_find(const char *name, struct err *e)
{
    const char *names[16];
    unsigned n = 0;
    for (unsigned i = 0; boards[i]; i++) {
        if (name ? is_type(&boards[i]->info, name) : boards[i]->info.is_default) {
            return boards[i];
        }
    }
    for (const struct machine_type_info *i = machine_types; i->name && n < 14; i++) {
        names[n++] = i->name;
        if (i->alias) {
            names[n++] = i->alias;
        }
    }
    names[n] = NULL;
    const char *near = name ? nearest_word(name, names) : NULL;
    if (near) {
        err_set(e, EINVAL, "unsupported machine type '%s'; did you mean '%s'? '-M help' lists all", name, near);
    } else {
        err_set(e, EINVAL, "unsupported machine type '%s'; '-M help' lists all", name);
    }
    return NULL;
}

static bool listed(const char *const *list, const char *word)
{
    for (; list && *list; list++) {
        if (!strcmp(*list, word)) {
            return true;
        }
    }
    return false;
}

int machine_check_options(const struct machine_type *t, struct json_object *options, struct err *e)
{
    if (!options) {
        return 0;
    }
    json_object_object_foreach(options, key, val)
    {
        if (listed(common_options, key) || listed(t->options, key)) {
            continue;
        }
        const char *near = nearest_word(key, common_options);
        near = !near && t->options ? nearest_word(key, t->options) : near;
        if (near) {
            return err_set(e, EINVAL, "Property '%s-machine.%s' not found; did you mean '%s'?", t->info.name, key,
                           near);
        }
        return err_set(e, EINVAL, "Property '%s-machine.%s' not found", t->info.name, key);
    }
    return 0;
}
