/* SPDX-License-Identifier: BSD-2-Clause */
/* -drive: QEMU's old way to say node, backend and device in one option, turned into the three. */
#pragma once

#include "base/err.h"
#include "machine/vm.h"

/* What the drives given so far have used up; zero-initialised. */
struct drive_counters {
    unsigned next_index[3]; /* per interface: of the generated ids "virtio0", "none0", "pflash0" */
};

/*
 * Opens the image and makes the backend; *device gets the options of the device that if=virtio asks for (NULL: none;
 * owned by the caller), to be added after the machine is there. `text` is the option's value. `overlay`: -snapshot was
 * given. [co]
 */
int drive_add(struct vm *vm, struct drive_counters *c, const char *text, bool overlay, struct json_object **device,
              struct err *e);
