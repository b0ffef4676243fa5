/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory that runs short: the allocations that the code under test expects may fail (g_try_malloc and its kin,
 * posix_memalign) go through here, by the linker's --wrap. Any thread.
 */
#pragma once

#include <stdbool.h>

struct memory_fault {
    unsigned in; /* the so manieth allocation from now fails; 0: none */
    bool on;     /* and all that come after it */
};
/* From now on; what was asked for before is forgotten, and returned. */
struct memory_fault memory_fails(struct memory_fault f);
unsigned memory_failed(void); /* how often one did, ever */
