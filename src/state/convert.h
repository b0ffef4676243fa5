/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A stream becomes another: for an older reader, with its parents' pages, in another layout. By the schemas in the
 * stream alone; what the target reads is told as the VMM is told it (state/section.h).
 */
#pragma once

#include "state/manifest.h"
#include "state/stream.h"

struct state_convert {
    const struct state_policy *policy;   /* compat, reader, force_drop, dropped; NULL: as it is */
    const char *machine;                 /* the machine type it then says; NULL: as it is */
    struct state_reader *const *parents; /* the parent, its parent …: all that there are; with read_at */
    unsigned nparents;
    struct state_write_options write;
    const struct state_sink *sink; /* NULL: only says what would be lost */
    GPtrArray *lost;               /* of char *: "PATH: NAME: what", what is not to be dropped; appended */
};
/*
 * Reads `r` to its end. -ENOTSUP when something would be lost that policy.force_drop does not name: all of it is in
 * `lost`, and what went into the sink is no whole stream.
 */
int state_convert(struct state_reader *r, const struct state_convert *c, struct err *e);
