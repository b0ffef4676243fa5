/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory that the other end of a unix socket reads from, where a write would have the kernel make a copy first. The
 * pages go into the socket themselves (vmsplice(2), splice(2)), so they must stay as they are until the other end has
 * read them: the memory is a ring, and a part of it is had again when what the socket still holds is less than what
 * came after it (SIOCOUTQ, unix(7)).
 *
 * LAW. Only for a socket whose other end is read by read(2): who passes pages on by splice(2), as a proxy may, holds
 * them for longer than the socket does. So the two ends find out first that nobody is between: ANSW's `reader`,
 * docs/migration.md.
 *
 * Loop thread, but the memory itself.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { LEND_PART = 256 << 10 }; /* bytes of what lend_room() returns */

#define LEND_READER "reader" /* machine_release_says() */

struct lend;

/* For the connected unix socket `fd`, which stays the caller's; NULL: there is no memory or no pipe for it. */
struct lend *lend_create(int fd);
/* LEND_PART bytes, at a page's beginning, which nobody reads any more; NULL: not yet. */
uint8_t *lend_room(struct lend *l);
bool lend_has(const struct lend *l, const void *buf); /* it is of this memory; `l` may be NULL */
/* Sends some of it, which is the caller's until lend_room() returns it again. Bytes; -EAGAIN: the socket is full, and
 * the same is to be sent next; -errno. */
ssize_t lend_send(struct lend *l, const void *buf, size_t len);
void lend_destroy(struct lend *l); /* what is under way arrives; NULL is fine */
