/* SPDX-License-Identifier: BSD-2-Clause */
/* -M -m -smp -cpu -accel -kernel … turned into a struct machine_config, and the lists that "help" prints. */
#pragma once

#include "cli/sterna/options.h"
#include "machine/vm.h"

/* The strings inside point into `opts` and into what this struct owns. */
struct machine_opts {
    struct machine_config config;
    struct json_object *keep; /* owns parsed option groups */
};

/* Zero-initialise; release with machine_opts_finish(). */
int machine_opts_parse(struct machine_opts *m, const GArray *opts, struct err *e);
void machine_opts_finish(struct machine_opts *m);
/* True when one of -M -cpu -accel asked for help, which is printed then. */
bool machine_opts_help(const GArray *opts);
