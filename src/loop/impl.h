/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of this folder share; nobody else includes it. */
#pragma once

#include "loop/co.h"
#include "loop/loop.h"

#include <linux/ioprio.h>
#include <stdatomic.h>

#define NS_PER_S   UINT64_C(1000000000)
#define NS_PER_MS  UINT64_C(1000000)
#define NO_TIMEOUT UINT64_MAX

/* --- engines ------------------------------------------------------------------------------------------------ */

enum io_op { IO_READ, IO_WRITE, IO_SYNC, IO_ALLOCATE, IO_POLL };

/* A coroutine's call on its way through the pool. */
struct work_item {
    struct work_item *next;
    int (*fn)(void *opaque);
    void (*done)(void *opaque, int rc);
    void *opaque;
    int rc;
    bool heap; /* freed once done has been called */
};

/* One system call that a coroutine waits for; lives on that coroutine's stack. */
/* The idle I/O priority class, as io_uring and ioprio_set() take it. */
#define IDLE_PRIORITY IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)

struct io_req {
    enum io_op op;
    int fd;
    const struct iovec *iov;
    int n;
    uint64_t off, len;
    int flags; /* RWF_*, fallocate's mode, or POLL* */
    struct co *co;
    ssize_t res;
    bool done;
    bool idle;              /* IO_READ, IO_WRITE: of the idle I/O priority class */
    struct work_item work;  /* epoll engine */
    struct fd_watch *watch; /* epoll engine, IO_POLL */
};
void io_req_done(struct io_req *r, ssize_t res);

struct engine_ops {
    const char *name;
    int (*create)(struct loop *l, struct err *e);
    void (*destroy)(struct loop *l); /* also of something half created */
    /* Waits until something happened or for timeout_ns (0: looks only), finishes requests, calls the watches. */
    void (*wait)(struct loop *l, uint64_t timeout_ns);
    /* Ends in io_req_done(), perhaps at once. */
    void (*start)(struct loop *l, struct io_req *r);
    /* An IO_POLL that has not ended ends soon, whatever its result. */
    void (*cancel_poll)(struct loop *l, struct io_req *r);
};
extern const struct engine_ops uring_engine, epoll_engine;

/* --- file descriptor watches: an epoll set, of which the uring engine polls the descriptor ------------------- */

struct watch_set {
    int epfd;
    struct fd_slot **by_fd;
    unsigned by_fd_len;
    unsigned slots;
    struct fd_slot *always; /* descriptors that epoll does not take (plain files): ready at all times */
    struct fd_watch *dead;  /* destroyed while callbacks run */
    bool dispatching;
};
int watch_set_init(struct watch_set *ws, int wake_fd);
void watch_set_finish(struct watch_set *ws);
static inline bool watch_set_always_ready(const struct watch_set *ws)
{
    return ws->always != NULL;
}
/* Waits and calls back. */
void watch_set_wait(struct watch_set *ws, uint64_t timeout_ns);

/* --- the loop ----------------------------------------------------------------------------------------------- */

struct deferred;

/* An execution context: of a coroutine, or of the thread itself. */
struct co_ctx {
    void *sp;
    const void *bottom; /* for the address sanitizer, as is fake_stack */
    size_t size;
    void *fake_stack;
};

struct co_list {
    struct co *head, *tail;
};

struct loop {
    const struct engine_ops *ops;
    void *engine; /* its private state */
    struct watch_set watches;

    int wake_fd;
    atomic_bool sleeping; /* a setter of events must write wake_fd */
    atomic_bool stopping;
    _Atomic(struct loop_event *) pending; /* pushed by any thread, newest first */
    struct loop_event *batch;             /* taken over by the loop thread, oldest first */

    struct timer **heap;
    unsigned timers, heap_room;
    struct deferred *defer_head, **defer_tail;
    bool ran; /* something was called in this turn */

    struct workers *workers; /* created with the first piece of work */

    struct co_ctx main_ctx;
    struct co_list ready;
    struct co *free_cos;
    unsigned n_free_cos, live_cos;
    struct deferred *starved_head, **starved_tail; /* coroutines for which no stack could be had yet */
};

/* Wakes the loop thread out of its wait when it is in it. Any thread, async-signal-safe. */
void loop_kick(struct loop *l);

/* timers.c */
uint64_t timers_timeout(const struct loop *l, uint64_t now);
bool timers_run(struct loop *l);

/* workers.c: the item lives until done has been called. */
void workers_submit(struct loop *l, struct work_item *item);
void workers_destroy(struct loop *l); /* waits for what runs */

/* co.c: stops the running coroutine until co_unpark(); co_wake() is remembered meanwhile but does not end it. */
void co_park(void);
void co_unpark(struct co *co);
bool co_run_ready(struct loop *l);
void co_finish(struct loop *l); /* frees pooled stacks */

/* switch_*.S, switch_ucontext.c. Prepares a stack on which the first co_switch() calls entry(), which must not return.
 */
void *co_switch_prepare(void *bottom, size_t size, void (*entry)(void));
/* Saves this context in *from and continues `to`. */
void co_switch(void **from, void *to);
