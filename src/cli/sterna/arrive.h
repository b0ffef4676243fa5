/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A program that was started as -state FILE -incoming … and nothing else: the machine that comes says what it is made
 * of (move/makeup.h), and is made of that here. docs/migration.md says what of it belongs to a host, and stays there.
 */
#pragma once

#include "cli/sterna/setup.h"
#include "config/file.h"

/* The state file is open: from now on the machine tells what it is made of, and what comes is taken if p->arriving. */
void arrive_prepare(struct program *p);
/* "[kind "name"] of the source's machine: " before the text, and what can be done behind it. The error's code,
 * negative. */
int arrive_blame(const struct config_section *s, struct err *e);
/* The program ends, and its nodes are closed. Images that were made for a machine that never came go. */
void arrive_forget(struct program *p);

/* --- arrive_disks.c ----------------------------------------------------------------------------------------------- */

/* One that the source copies. */
struct arriving_disk {
    char *name, *path;
    const char *format; /* static; "raw" too */
    uint64_t size;
};
void arriving_disk_free(void *disk);
const struct config_section *arrive_find(const GPtrArray *sections, const char *kind, const char *name);
/* Whether `name` stands anywhere in `values` as a text. */
bool arrive_names(struct json_object *values, const char *name);
bool arrive_any_names(const GPtrArray *sections, const char *name); /* in the values of any */
/*
 * `want`: an entry of WANT's disks. Its blockdev in `sections` (struct config_section *, whose values are the caller's
 * alone) becomes what it will be here, and what only stood below it goes. *out: the image to be made; NULL: the node is
 * there already.
 */
int arrive_plan_disk(struct program *p, GPtrArray *sections, struct json_object *want, const char *folder,
                     struct arriving_disk **out, struct err *e);
/* The file must not be there. [co] */
int arrive_make_disk(struct program *p, const struct arriving_disk *d, struct err *e);
