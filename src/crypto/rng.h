/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sources of random bytes for guests: qom-types "rng-builtin" (the kernel's generator) and "rng-random" (a file or
 * device, /dev/urandom when none is named). Loop thread; nothing here waits.
 */
#pragma once

#include "base/objects.h"

#include <sys/types.h>

struct rng; /* shared: its object and each device that uses it hold one reference */

extern const struct object_kind rng_builtin_kind, rng_random_kind; /* impl: struct rng * */

struct rng *rng_create_builtin(void);
struct rng *rng_ref(struct rng *r);
void rng_unref(struct rng *r); /* NULL is fine */
/* Up to n bytes: how many, at least one; -EAGAIN: none now, rng_fd() becomes readable; -ENODATA: the file has ended. */
ssize_t rng_read(struct rng *r, void *buf, size_t n);
int rng_fd(const struct rng *r); /* -1: it never runs out */
