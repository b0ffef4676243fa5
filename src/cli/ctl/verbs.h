/* SPDX-License-Identifier: BSD-2-Clause */
/* Every verb, each in the file of its name. */
#pragma once

#include "cli/ctl/ctl.h"

extern const struct ctl_verb verb_backup, verb_commit, verb_cont, verb_copy, verb_disks, verb_events, verb_jobs,
    verb_migrate, verb_qmp, verb_quit, verb_snapshot, verb_state, verb_status, verb_stop, verb_stream, verb_top,
    verb_wait;
