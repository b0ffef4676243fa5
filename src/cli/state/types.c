/* SPDX-License-Identifier: BSD-2-Clause */
/* What the releases read, by their machine types. */
#include "cli/state/state.h"
#include "machine/machine.h"

int state_type_compat(const char *type, const struct state_compat **out, const char **name, struct err *e)
{
    *out = NULL; /* one release so far: it reads what this one writes */
    *name = type ? type : "virt";
    return machine_type_find(type, e) ? 0 : -EINVAL;
}
