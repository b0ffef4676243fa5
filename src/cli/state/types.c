/* SPDX-License-Identifier: BSD-2-Clause */
/* What the releases read, by their machine types. */
#include "cli/state/state.h"
#include "machine/machine.h"

int state_type_compat(const char *type, const struct state_compat **out, const char **name, struct err *e)
{
    const struct machine_release *r = machine_type_find(type, e);
    if (!r) {
        return -EINVAL;
    }
    *out = r->state;
    *name = r->info->name;
    return 0;
}
