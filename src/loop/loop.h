/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event loop: one thread that owns the block graph, jobs, monitor, exports and device back ends.
 *
 * Two engines do the waiting: io_uring, and epoll with a pool of worker threads where io_uring is refused
 * (or when the environment says STERNA_LOOP=epoll; STERNA_LOOP=uring insists).  Callers cannot tell them apart.
 *
 * Everything here is for the loop's own thread unless it says "any thread".
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;

enum loop_engine { LOOP_AUTO, LOOP_URING, LOOP_EPOLL };

/* LOOP_AUTO obeys STERNA_LOOP, then tries io_uring, then epoll. */
struct loop *loop_create(enum loop_engine engine, struct err *e);
/* All timers, watches, events and coroutines of this loop must be gone. NULL is fine. */
void loop_destroy(struct loop *l);
/* "io_uring" or "epoll". */
const char *loop_engine_name(const struct loop *l);
/* The loop whose thread this is; NULL on other threads. */
struct loop *loop_current(void);

/* Runs turns until loop_stop(). Nesting is not allowed: code that waits is a coroutine. */
void loop_run(struct loop *l);
/* Any thread. */
void loop_stop(struct loop *l);
/* One turn; waits for something to do when `wait`. True when anything ran. For tests and start-up code only. */
bool loop_turn(struct loop *l, bool wait);
/* CLOCK_MONOTONIC, nanoseconds, as of now (not cached). */
uint64_t loop_now_ns(void);

/* A call on the loop thread at a time. Embed it; init once; arm as often as wanted (re-arming moves it). */
struct timer {
    struct loop *loop;
    void (*fn)(void *opaque);
    void *opaque;
    uint64_t at_ns; /* CLOCK_MONOTONIC */
    unsigned slot;  /* place in the loop's heap + 1; 0 = not armed */
};
void timer_init(struct timer *t, struct loop *l, void (*fn)(void *opaque), void *opaque);
void timer_arm(struct timer *t, uint64_t at_ns);
void timer_cancel(struct timer *t); /* legal when not armed */
bool timer_armed(const struct timer *t);

/* A call on the loop thread that any thread (or signal handler) can ask for; asking several times before it
 * runs gives one call. */
struct loop_event;
struct loop_event *loop_event_create(struct loop *l, void (*fn)(void *opaque), void *opaque);
void loop_event_destroy(struct loop_event *ev); /* loop thread; a pending call is dropped; NULL is fine */
void loop_event_set(struct loop_event *ev);     /* any thread, async-signal-safe, never blocks */

/* A call on the loop thread soon after this one returns, once. Loop thread only; use events across threads. */
void loop_defer(struct loop *l, void (*fn)(void *opaque), void *opaque);

/* A call whenever fd is readable/writable (level-triggered, POLLIN | POLLOUT …; POLLERR and POLLHUP come unasked).
 * Several may watch one fd. Destroy them before fd is closed. A negative fd gives NULL. */
struct fd_watch;
struct fd_watch *fd_watch_create(struct loop *l, int fd, short events, void (*fn)(void *opaque, short revents),
                                 void *opaque);
void fd_watch_set(struct fd_watch *w, short events); /* 0 pauses it */
void fd_watch_destroy(struct fd_watch *w);           /* also from its own callback; NULL is fine */

/* fn(opaque) on a worker thread, then done(opaque, result of fn) on the loop thread. */
void loop_work(struct loop *l, int (*fn)(void *opaque), void (*done)(void *opaque, int rc), void *opaque);
