/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory for a guest: how it is to be had, and the object memory-backend-ram, by which users say so. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct object_kind;

/* All zero: it comes as it is used. */
struct memory_policy {
    bool reserve;     /* room for all of it is set aside at once */
    bool merge;       /* the host may keep one copy of pages that are alike */
    bool no_dump;     /* core dumps leave it out */
    bool prealloc;    /* all of it is there before anybody uses it */
    unsigned threads; /* that see to that; 0: one */
};

/* `size` bytes to read and write, between `beside` inaccessible ones, as large_map() (base/large.h); the policy, but
 * for prealloc. NULL: errno. */
uint8_t *memory_map(const struct memory_policy *p, size_t size, size_t beside);
/* What prealloc wants: all of it is there afterwards, in large pages where the host has them, and holds what it held.
 * Takes its time; any thread. 0 or a negative errno, when some of it may be there. */
int memory_populate(const struct memory_policy *p, uint8_t *at, size_t size);

/* What an object memory-backend-… is about; found by that type (object_registry_lookup()). */
struct memory_backend {
    uint64_t size;
    struct memory_policy policy;
    bool used; /* a machine's RAM is as it says */
};
extern const struct object_kind memory_backend_ram_kind;
