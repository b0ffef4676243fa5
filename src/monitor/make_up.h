/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands and the state file (config/vm_state.h): what a command has changed is durable before it is answered. */
#pragma once

#include "monitor/command.h"

/* Before it runs: remembers what cannot be seen of what it makes. */
void make_up_before(struct mon_ctx *c, const char *command, struct json_object *args);
/* After it ran well: 0 when the file says what it did. On failure what it made is taken away again; where that cannot
 * be, the error says so. [co] */
int make_up_after(struct mon_ctx *c, const char *command, struct json_object *args, struct err *e);
/* A chardev was made with these options. One on an inherited file descriptor is not kept: it cannot be had again. */
void make_up_note_chardev(struct mon_env *env, struct json_object *options);
/* Whether it makes a job that goes on after a restart. */
bool make_up_is_job(const char *command);
