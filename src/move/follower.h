/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk that follows its machine: at the destination, where the guest runs already, its image is an overlay of the
 * source's disk, which is served by NBD through a sub-channel. What is read is kept, and a stream job brings the rest.
 *
 *      judge ──▶ connect ──▶ start ──▶ step … step ──▶ done
 *                               │  connection broken
 *                               └──▶ reconnect
 *
 * From connect on the image's header names a backing image that cannot be opened: who opens it by itself, after a
 * crash, is told, and does not read zeroes for what is missing. The end of the stream takes that away. While the
 * connection is broken, requests for what is missing wait for some seconds, then the guest is stopped (io-error);
 * `cont` tries again.
 *
 * Loop thread; [co] waits.
 */
#pragma once

#include "machine/vm.h"
#include "move/mux.h"

struct follower;
struct job_limit;

/* [co] Whether `n` can be such an overlay: it has room for a backing image, has none, and is empty. */
int follower_judge(struct node *n, const char *name, struct err *e);
/* `b` has a medium that was judged. `changed`, borrowed, is woken when there may be something to do. */
struct follower *follower_create(struct vm *vm, struct backend *b, const char *name, struct co_queue *changed);
/* [co] The guest does not run. The source serves export `name` on sub-channel `id`. Undone by follower_destroy(). */
int follower_connect(struct follower *f, struct mux *m, unsigned id, struct err *e);
/* [co] Before the guest runs. The stream keeps within `limit`, which is borrowed. */
void follower_start(struct follower *f, struct job_limit *limit);
/* [co] Looks after it: finds that all is there, or goes on with what has failed; to be called again later then. */
void follower_step(struct follower *f);
bool follower_is_done(const struct follower *f);
bool follower_works(const struct follower *f); /* or is done: nothing is to be done now */
/* Bytes that are not known to be here. */
uint64_t follower_left(const struct follower *f);
/* A new connection. */
int follower_reconnect(struct follower *f, struct mux *m, unsigned id, struct err *e);
/* [co] Not done: the image is not whole. NULL is fine. */
void follower_destroy(struct follower *f);
