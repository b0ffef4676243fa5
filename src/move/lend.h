/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Memory from which a socket takes whole pages, where a write would have the kernel make a copy of them first
 * (vmsplice(2), splice(2)). The other side reads what the memory holds when it reads: only for what can be told from
 * what was meant, or does not change until the other side has it (state/stream.h, law 8).
 *
 * Loop thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct lend;

/* For the connected socket `fd`, which stays the caller's; NULL: there is no pipe for it. */
struct lend *lend_create(int fd);
/* From now on of this memory, too, which may go at any time: what is under way stays. More than 16 pieces are not. */
void lend_add(struct lend *l, const void *memory, size_t size);
/* That is how these bytes go, all or their first ones; `l` may be NULL. */
bool lend_takes(const struct lend *l, const void *buf, size_t len);
/* Sends some of them. Bytes; -EAGAIN: the socket is full, and the same is to be sent next; -errno. */
ssize_t lend_send(struct lend *l, const void *buf, size_t len);
void lend_destroy(struct lend *l); /* what is under way arrives; NULL is fine */
