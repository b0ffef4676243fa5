/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the machine is made of, with the machine: the member "make-up" of the manifest, a list of sections as
 * query-state gives them. A destination that has no machine yet makes the one that comes of it; any other does not look
 * at it. Loop thread.
 */
#pragma once

#include "machine/vm.h"
#include "state/manifest.h"

void makeup_tell(const struct vm *vm, struct state_manifest *m);
/*
 * There is a machine that `m` fits, or, if only that was asked, there could be. Nothing happens where there is one
 * already. `want`: what the source wants besides; NULL: nothing. [co]
 */
int makeup_take(struct vm *vm, const struct state_manifest *m, struct json_object *want, const char *folder,
                bool only_asked, struct err *e);
/*
 * The source's state file says that the machine has gone before anybody else may run it, so that a restart there cannot
 * be one too many. When it cannot, or `cancelled` becomes true meanwhile, it says that it is here. [co]
 */
int makeup_keep_away(struct vm *vm, const bool *cancelled, struct err *e);
/* After all it has not gone. [co] */
void makeup_stays(struct vm *vm);
/* The machine is here: what is made of it belongs to it. [co] */
void makeup_arrived(struct vm *vm);
