/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/loop.h"

#include "base/cleanup.h"
#include "loop/impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>

struct deferred {
    struct deferred *next;
    void (*fn)(void *opaque);
    void *opaque;
};

struct loop_event {
    struct loop *loop;
    void (*fn)(void *opaque);
    void *opaque;
    atomic_bool pending;
    struct loop_event *next; /* the loop's while it is pending */
};

static _Thread_local struct loop *current;

struct loop *loop_current(void)
{
    return current;
}

uint64_t loop_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* --- life --------------------------------------------------------------------------------------------------- */

static int choose_engine(enum loop_engine *engine, struct err *e)
{
    const char *env = getenv("STERNA_LOOP");
    if (*engine != LOOP_AUTO || !env || !*env) {
        return 0;
    }
    if (!strcmp(env, "epoll")) {
        *engine = LOOP_EPOLL;
    } else if (!strcmp(env, "uring") || !strcmp(env, "io_uring")) {
        *engine = LOOP_URING;
    } else {
        return err_set(e, EINVAL, "STERNA_LOOP is '%s': 'uring' and 'epoll' are known", env);
    }
    return 0;
}

static int start_engine(struct loop *l, const struct engine_ops *ops, struct err *e)
{
    l->ops = ops;
    int rc = ops->create(l, e);
    if (rc) {
        ops->destroy(l);
        l->ops = NULL;
    }
    return rc;
}

static int setup(struct loop *l, enum loop_engine engine, struct err *e)
{
    int rc = choose_engine(&engine, e);
    if (rc) {
        return rc;
    }
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->wake_fd < 0) {
        return err_set_errno(e, errno, "cannot create an eventfd");
    }
    if (engine == LOOP_EPOLL) {
        return start_engine(l, &epoll_engine, e);
    }
    CLEANUP_ERR struct err why = ERR_INIT;
    rc = start_engine(l, &uring_engine, &why);
    if (rc && engine == LOOP_AUTO) {
        return start_engine(l, &epoll_engine, e);
    }
    if (rc) {
        err_move(e, &why);
    }
    return rc;
}

struct loop *loop_create(enum loop_engine engine, struct err *e)
{
    struct loop *l = g_new0(struct loop, 1);
    l->wake_fd = -1;
    l->watches.epfd = -1;
    l->defer_tail = &l->defer_head;
    l->starved_tail = &l->starved_head;
    if (setup(l, engine, e)) {
        loop_destroy(l);
        return NULL;
    }
    prctl(PR_SET_TIMERSLACK, 1UL);
    if (!current) {
        current = l;
    }
    return l;
}

static void drop_deferred(struct deferred *d)
{
    while (d) {
        struct deferred *next = d->next;
        g_free(d);
        d = next;
    }
}

void loop_destroy(struct loop *l)
{
    if (!l) {
        return;
    }
    workers_destroy(l);
    co_finish(l);
    if (l->ops) {
        l->ops->destroy(l);
    }
    drop_deferred(l->defer_head);
    drop_deferred(l->starved_head);
    if (l->wake_fd >= 0) {
        close(l->wake_fd);
    }
    free(l->heap);
    if (current == l) {
        current = NULL;
    }
    g_free(l);
}

const char *loop_engine_name(const struct loop *l)
{
    return l->ops->name;
}

/* --- events ------------------------------------------------------------------------------------------------- */

void loop_kick(struct loop *l)
{
    /* Either we see that it sleeps, or it sees what we stored before: both sides store first and then look. */
    if (atomic_load(&l->sleeping) && atomic_exchange(&l->sleeping, false)) {
        int saved = errno;
        uint64_t one = 1;
        ssize_t n = write(l->wake_fd, &one, sizeof(one));
        (void)n; /* fails only when 2^64 - 2 writes went before, and the descriptor is readable then */
        errno = saved;
    }
}

struct loop_event *loop_event_create(struct loop *l, void (*fn)(void *opaque), void *opaque)
{
    struct loop_event *ev = g_new0(struct loop_event, 1);
    ev->loop = l;
    ev->fn = fn;
    ev->opaque = opaque;
    return ev;
}

void loop_event_set(struct loop_event *ev)
{
    if (atomic_exchange(&ev->pending, true)) {
        return;
    }
    struct loop *l = ev->loop; /* once it is pushed its callback may run and destroy it */
    struct loop_event *head = atomic_load(&l->pending);
    do {
        ev->next = head;
    } while (!atomic_compare_exchange_weak(&l->pending, &head, ev));
    loop_kick(l);
}

/* Appends what other threads pushed to the batch, oldest first. */
static void take_pending(struct loop *l)
{
    struct loop_event *newest = atomic_exchange(&l->pending, NULL);
    struct loop_event *oldest = NULL;
    while (newest) {
        struct loop_event *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    struct loop_event **tail = &l->batch;
    while (*tail) {
        tail = &(*tail)->next;
    }
    *tail = oldest;
}

void loop_event_destroy(struct loop_event *ev)
{
    if (!ev) {
        return;
    }
    if (atomic_load(&ev->pending)) {
        take_pending(ev->loop);
        for (struct loop_event **p = &ev->loop->batch; *p; p = &(*p)->next) {
            if (*p == ev) {
                *p = ev->next;
                break;
            }
        }
    }
    g_free(ev);
}

static void run_events(struct loop *l)
{
    if (atomic_load_explicit(&l->pending, memory_order_relaxed)) {
        take_pending(l);
    }
    while (l->batch) {
        struct loop_event *ev = l->batch;
        l->batch = ev->next;
        atomic_exchange(&ev->pending, false); /* from here on it may be set again */
        l->ran = true;
        ev->fn(ev->opaque);
    }
}

/* --- deferred calls ------------------------------------------------------------------------------------------ */

void loop_defer(struct loop *l, void (*fn)(void *opaque), void *opaque)
{
    struct deferred *d = g_new0(struct deferred, 1);
    d->fn = fn;
    d->opaque = opaque;
    *l->defer_tail = d;
    l->defer_tail = &d->next;
}

static void run_deferred(struct loop *l)
{
    struct deferred *d = l->defer_head;
    l->defer_head = NULL;
    l->defer_tail = &l->defer_head;
    while (d) {
        struct deferred one = *d;
        g_free(d);
        d = one.next;
        l->ran = true;
        one.fn(one.opaque);
    }
}

/* --- turns --------------------------------------------------------------------------------------------------- */

static bool busy(struct loop *l)
{
    return l->defer_head || l->ready.head || l->batch || atomic_load(&l->pending) || atomic_load(&l->stopping);
}

bool loop_turn(struct loop *l, bool wait)
{
    assert(!co_self());
    struct loop *outer = current;
    current = l;
    l->ran = false;
    uint64_t timeout = 0;
    if (wait && !busy(l)) {
        timeout = timers_timeout(l, l->timers ? loop_now_ns() : 0);
        atomic_store(&l->sleeping, true);
        if (busy(l)) {
            timeout = 0;
        }
    }
    l->ops->wait(l, timeout);
    atomic_store(&l->sleeping, false);
    run_events(l);
    if (l->timers && timers_run(l)) {
        l->ran = true;
    }
    run_deferred(l);
    if (co_run_ready(l)) {
        l->ran = true;
    }
    current = outer;
    return l->ran;
}

void loop_run(struct loop *l)
{
    struct loop *outer = current;
    current = l;
    prctl(PR_SET_TIMERSLACK, 1UL); /* a property of the thread, which may not be the one that created the loop */
    while (!atomic_exchange(&l->stopping, false)) {
        loop_turn(l, true);
    }
    current = outer;
}

void loop_stop(struct loop *l)
{
    atomic_store(&l->stopping, true);
    loop_kick(l);
}

void loop_work(struct loop *l, int (*fn)(void *opaque), void (*done)(void *opaque, int rc), void *opaque)
{
    struct work_item *item = g_new0(struct work_item, 1);
    item->fn = fn;
    item->done = done;
    item->opaque = opaque;
    item->heap = true;
    workers_submit(l, item);
}
