/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/machine.h"

#include "base/nearest.h"
#include "state/section.h"

#include <string.h>

/* Options that every type takes. */
static const char *const common_options[] = {"dump-guest-core", "dumpdtb", "mem-merge", "memory-backend", "type", NULL};

static bool is_type(const struct machine_type_info *i, const char *name)
{
    return !strcmp(i->name, name) || (i->alias && !strcmp(i->alias, name));
}

#define ALIAS "virt"

/* The newest has the alias, and is the default. */
static const struct machine_release *find_until(const char *name, const struct machine_release *last)
{
    const struct machine_release *r = machine_releases;
    for (; r->info && strcmp(r->info->name, last->info->name); r++) {
        if (name && !strcmp(r->info->name, name)) {
            return r;
        }
    }
    bool newest = !name || !strcmp(name, ALIAS) || !strcmp(name, last->info->name);
    return newest ? last : NULL;
}

const struct machine_release *machine_type_find_until(const char *name, const struct machine_release *last,
                                                      struct err *e)
{
    const struct machine_release *r = last ? find_until(name, last) : machine_type_find(name, e);
    if (last && !r) {
        err_set(e, EINVAL, "unsupported machine type '%s': the release of '%s' knows no such", name, last->info->name);
    }
    return r;
}

bool machine_type_seen(const struct machine_type_info *t, const struct machine_release *last,
                       struct machine_type_info *as)
{
    *as = *t;
    if (!last || !t->max_harts) { /* "none" is older than all */
        return true;
    }
    const struct machine_release *r = find_until(t->name, last);
    as->is_default = r == last;
    as->alias = r == last ? ALIAS : NULL;
    return r;
}

const struct state_compat *machine_release_knows(const struct machine_release *r, const char *section)
{
    const struct state_policy p = {.compat = r ? r->state : NULL};
    return r ? state_policy_compat(&p, section) : NULL;
}

bool machine_release_says(const struct machine_release *r, const char *word)
{
    return !r || !g_strv_contains(r->unsaid, word);
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
