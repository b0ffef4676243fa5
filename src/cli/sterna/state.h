/* SPDX-License-Identifier: BSD-2-Clause */
/* -state: the file that says what the machine is made of, read as the options that would make it. */
#pragma once

#include "cli/sterna/setup.h"

/*
 * Opens the file that -state names; without -state there is one that is nowhere. When it describes a machine, `p->opts`
 * becomes what its sections say, and what else was given; options that say what the machine is made of are refused
 * then.
 */
int state_open(struct program *p, struct err *e);
/* p->opts become what the sections (struct config_section *, which must stay) say, and what else was given. */
void state_take_sections(struct program *p, const GPtrArray *sections);
/* Blames the section that `o` is, or the option as it was given. Returns the error's code, negative. */
int state_blame(struct program *p, const struct opt *o, struct err *e);
/* The section [machine], when the machine came from a file. */
int state_blame_machine(struct program *p, struct err *e);
/* p->opts came from a file. */
bool state_is_resumed(const struct program *p);
/* p->opts, and over them the keys of [machine] as options. */
GArray *state_lay_machine(struct program *p, struct json_object *values);
/* What the file will say of the machine that -machine and its kind have made. */
void state_note_machine(struct program *p);
/* [drive], [throttle], [nbd-server], [export]: what no option makes. [co] */
int state_add_drive(struct program *p, const char *value, struct err *e);
int state_add_throttle(struct program *p, const char *value, struct err *e);
int state_start_server(struct program *p, const char *value, struct err *e);
int state_add_export(struct program *p, const char *value, struct err *e);
/* A job goes on. One that cannot is logged, and left out of the file. [co] */
int state_resume_job(struct program *p, const char *value, struct err *e);
/* One that came with a machine: its section. [co] */
int state_make_job(struct program *p, const char *id, struct json_object *values, struct err *e);
