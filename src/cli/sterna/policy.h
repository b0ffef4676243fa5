/* SPDX-License-Identifier: BSD-2-Clause */
/* The small options that scripts pass to every VMM: who the guest is, what follows on its wishes, what messages look
 * like, and the hardware that there is not. */
#pragma once

#include "cli/sterna/options.h"
#include "machine/vm.h"

/* -msg, -D, -trace: what the log does. Before anything else. */
int policy_log(const GArray *opts, struct log *log, struct err *e);
/* -name, -uuid, -no-reboot, -no-shutdown, -action, -global, -overcommit; and errors for displays, network cards and
 * clocks that are not there. An error is about *bad. */
int policy_apply(const GArray *opts, struct vm *vm, const struct opt **bad, struct err *e);
