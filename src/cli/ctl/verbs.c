/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/verbs.h"

const struct ctl_verb *const ctl_verbs[] = {
    &verb_backup, &verb_commit,  &verb_cont,   &verb_copy, &verb_disks,    &verb_events,
    &verb_jobs,   &verb_migrate, &verb_qmp,    &verb_quit, &verb_snapshot, &verb_state,
    &verb_status, &verb_stop,    &verb_stream, &verb_top,  &verb_wait,     NULL,
};
