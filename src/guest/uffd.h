/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * userfaultfd(2), as guest/pages.c needs it. Source document: the kernel's
 * Documentation/admin-guide/mm/userfaultfd.rst. Works for everybody where the kernel is 5.11 or newer: faults from user
 * mode only are asked for when no others are allowed. All return 0 or a negative errno; any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uffd {
    int fd;
    bool unpopulated; /* pages that were never touched can be protected too */
};

/* UFFD_USER_ONLY: also where more is allowed. */
enum uffd_mode { UFFD_WRITES = 1, UFFD_MISSES = 2, UFFD_USER_ONLY = 4 };

int uffd_open(struct uffd *u, enum uffd_mode mode);
void uffd_close(struct uffd *u); /* whoever waits goes on */

int uffd_register(struct uffd *u, void *at, size_t len, enum uffd_mode mode);
void uffd_unregister(struct uffd *u, void *at, size_t len); /* protections go, whoever waits goes on */

int uffd_protect(struct uffd *u, void *at, size_t len);
int uffd_unprotect(struct uffd *u, void *at, size_t len); /* whoever waits there goes on */
/* Puts pages where none are; those that are there already stay and are no error. Whoever waits there goes on. */
int uffd_copy(struct uffd *u, void *to, const void *from, size_t len);
int uffd_zero(struct uffd *u, void *to, size_t len);
void uffd_wake(struct uffd *u, void *at, size_t len);

/* The next access that waits: 1; 0: none now. */
struct uffd_fault {
    uint8_t *at;
    bool protected; /* a store to a protected page; else the page is missing */
};
int uffd_next(struct uffd *u, struct uffd_fault *f);
