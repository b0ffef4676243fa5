/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutines: code that waits reads top to bottom. Each belongs to one loop and runs on its thread; a switch is
 * a few function calls' work. Stacks (256 KiB of address space of which untouched pages cost nothing, guard pages
 * below) are pooled per loop. Keep big buffers off the stack.
 *
 * Everything here that waits may be called only inside a coroutine (co_self() != NULL).
 */
#pragma once

#include "loop/loop.h"

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct co;
typedef void co_fn(void *arg);

/* Runs fn at once, on a stack of its own, until its first wait; the caller goes on then. Nothing to free. */
void co_start(struct loop *l, co_fn *fn, void *arg);
/* Like co_start, but first runs in the loop's next turn. */
void co_start_later(struct loop *l, co_fn *fn, void *arg);
/* The one that is running; NULL outside. */
struct co *co_self(void);
struct loop *co_loop(void);
/* Stops until co_wake(); a wake that came before is not lost (one is remembered; those that come before a woken one has
 * run count as one). Only co_wait() consumes wakes: the other functions that wait are not disturbed by them. */
void co_wait(void);
/* Makes it run again, soon, never nested in the caller. Loop thread. */
void co_wake(struct co *co);
/* Lets everything else that is ready run first. */
void co_yield (void);
void co_sleep(uint64_t ns);

/*
 * Whether the reads and writes of files by this coroutine, and by those that it starts with co_start() from then on,
 * get the idle I/O priority class: a disk's scheduler serves them when nobody else wants anything. False at first.
 */
void co_set_idle_io(bool idle);
bool co_idle_io(void);
/* Runs the loop until fn (as a coroutine) has returned; its result. For main() of tools and for tests: not inside
 * a coroutine. */
int co_run(struct loop *l, int (*fn)(void *arg), void *arg);

/* --- waiting for each other -------------------------------------------------------------------------------- */

/* First come, first served. */
struct co_queue {
    struct co_waiter *head, *tail;
};
void co_queue_wait(struct co_queue *q);
/* No longer than that (CLOCK_MONOTONIC): false, it was woken by time alone and has left the queue. */
bool co_queue_wait_until(struct co_queue *q, uint64_t deadline_ns);
bool co_queue_wake_one(struct co_queue *q); /* false: nobody waits */
void co_queue_wake_all(struct co_queue *q);
static inline bool co_queue_empty(const struct co_queue *q)
{
    return !q->head;
}

/* Zero-initialised. Handed over in order; not recursive. */
struct co_mutex {
    bool held;
    struct co *owner;
    struct co_queue waiters;
};
void co_lock(struct co_mutex *m);
void co_unlock(struct co_mutex *m);

/* Many readers or one writer; a waiting writer holds back new readers. Zero-initialised. */
struct co_rwlock {
    unsigned readers;
    bool writer;
    unsigned writers_waiting;
    struct co_queue waiters;
};
void co_rdlock(struct co_rwlock *l);
void co_wrlock(struct co_rwlock *l);
void co_rwunlock(struct co_rwlock *l);

/* --- system calls that wait only the coroutine: negative errno on failure ----------------------------------- */

/* As preadv/pwritev: may be short. `rwf` is RWF_DSYNC etc. or 0. The iovec must live until return. */
ssize_t co_preadv(int fd, const struct iovec *iov, int n, uint64_t off);
ssize_t co_pwritev(int fd, const struct iovec *iov, int n, uint64_t off, int rwf);
int co_fdatasync(int fd);
int co_fallocate(int fd, int mode, uint64_t off, uint64_t len);
/* Until fd is ready for `events` (POLLIN…) or `timeout_ns` passed (UINT64_MAX: never): revents, or -ETIMEDOUT. */
int co_poll(int fd, short events, uint64_t timeout_ns);
/* fn(arg) on a worker thread; its result. */
int co_work(int (*fn)(void *arg), void *arg);
