/* SPDX-License-Identifier: BSD-2-Clause */
/* -drive: QEMU's old way to say node, backend and device in one option, turned into the three. */
#pragma once

#include "machine/vm.h"
#include "monitor/command.h"

/* What the drives given so far have used up; zero-initialised. */
struct drive_counters {
    uint64_t used[3]; /* indexes, per interface: a bit each; of the generated ids "virtio0", "none0", "pflash0" */
};

/*
 * Opens the image and makes the backend; *device gets the options of the device that if=virtio asks for (NULL: none;
 * owned by the caller), to be added after the machine is there; if=pflash gives the machine's flash bank its content.
 * `text` is the option's value. `overlay`: -snapshot was given. Errors do not repeat the option. [co]
 */
int drive_add(struct mon_env *env, struct drive_counters *c, const char *text, bool overlay,
              struct json_object **device, struct err *e);
