/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/machine.h"

#include "base/nearest.h"

#include <string.h>

/* Options that every type takes. */
static const char *const common_options[] = {"dumpdtb", "type", NULL};

static bool is_type(const struct machine_type_info *i, const char *name)
{
    return !strcmp(i->name, name) || (i->alias && !strcmp(i->alias, name));
}

const struct machine_release *machine_type_find(const char *name, struct err *e)
{
    const char *names[16];
    unsigned n = 0;
    for (const struct machine_release *r = machine_releases; r->info; r++) {
        if (name ? is_type(r->info, name) : r->info->is_default) {
            return r;
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

int machine_check_options(const struct machine_release *r, struct json_object *options, struct err *e)
{
    if (!options) {
        return 0;
    }
    json_object_object_foreach(options, key, val)
    {
        if (listed(common_options, key) || listed(r->board->options, key)) {
            continue;
        }
        const char *near = nearest_word(key, common_options);
        near = !near && r->board->options ? nearest_word(key, r->board->options) : near;
        if (near) {
            return err_set(e, EINVAL, "Property '%s-machine.%s' not found; did you mean '%s'?", r->info->name, key,
                           near);
        }
        return err_set(e, EINVAL, "Property '%s-machine.%s' not found", r->info->name, key);
    }
    return 0;
}
