/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/co.h"

#include "loop/impl.h"

#include <assert.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#define ASAN 1
#else
#define ASAN 0
#endif

/* Address space; memory only as far as it is touched. Sanitizers make frames several times bigger. */
#define STACK_SIZE (ASAN ? (size_t)1 << 20 : (size_t)1 << 18)
#define GUARD_SIZE ((size_t)1 << 16) /* covers the biggest page size in use, and frames that skip a page */
#define MAX_POOLED 512

enum co_state {
    CO_RUNNING, /* or started something that runs now */
    CO_WAITING, /* in co_wait() */
    CO_PARKED,  /* in co_park() */
    CO_READY,
};

/* Lives at the top of its own stack's mapping. */
struct co {
    struct co_ctx ctx;
    struct co_ctx *back; /* who runs when this one waits */
    struct co *back_co;  /* the same; NULL for the thread */
    struct co *next;     /* ready list, pool */
    struct loop *loop;
    co_fn *fn;
    void *arg;
    void *mapping;
    enum co_state state;
    bool woken;  /* co_wake() came while it was not in co_wait() */
    bool waking; /* ready because of co_wake() */
    bool finished;
    bool idle_io;
};

struct deferred {
    struct deferred *next;
    co_fn *fn;
    void *arg;
};

static _Thread_local struct co *self;

struct co *co_self(void)
{
    return self;
}

struct loop *co_loop(void)
{
    return self ? self->loop : NULL;
}

/* --- switching ------------------------------------------------------------------------------------------------ */

#if ASAN
static _Thread_local struct co_ctx *came_from; /* whose bounds finish_switch tells us */

static void before_switch(struct co_ctx *from, struct co_ctx *to, bool last)
{
    came_from = from;
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->bottom, to->size);
}

static void after_switch(struct co_ctx *here)
{
    __sanitizer_finish_switch_fiber(here ? here->fake_stack : NULL, &came_from->bottom, &came_from->size);
}

static void stack_reused(struct co *co)
{
    ASAN_UNPOISON_MEMORY_REGION((char *)co->mapping + GUARD_SIZE, STACK_SIZE);
}

static void stack_mapped(char *stack)
{
    __lsan_register_root_region(stack, STACK_SIZE);
}

static void stack_unmapped(char *stack)
{
    __lsan_unregister_root_region(stack, STACK_SIZE);
    ASAN_UNPOISON_MEMORY_REGION(stack, STACK_SIZE);
}
#else
static void before_switch(struct co_ctx *from, struct co_ctx *to, bool last)
{
}
static void after_switch(struct co_ctx *here)
{
}
static void stack_reused(struct co *co)
{
}
static void stack_mapped(char *stack)
{
}
static void stack_unmapped(char *stack)
{
}
#endif

static void ctx_switch(struct co_ctx *from, struct co_ctx *to)
{
    before_switch(from, to, false);
    co_switch(&from->sp, to->sp);
    after_switch(from);
}

static void entry(void)
{
    after_switch(NULL);
    struct co *co = self;
    co->fn(co->arg);
    co->finished = true;
    before_switch(&co->ctx, co->back, true);
    self = co->back_co;
    co_switch(&co->ctx.sp, co->back->sp);
    __builtin_unreachable();
}

/* --- stacks --------------------------------------------------------------------------------------------------- */

static struct co *co_alloc(struct loop *l)
{
    struct co *co = l->free_cos;
    if (co) {
        l->free_cos = co->next;
        l->n_free_cos--;
        stack_reused(co);
        return co;
    }
    char *mapping = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
        return NULL;
    }
    if (mprotect(mapping, GUARD_SIZE, PROT_NONE)) {
        munmap(mapping, GUARD_SIZE + STACK_SIZE);
        return NULL;
    }
    stack_mapped(mapping + GUARD_SIZE);
    co = (struct co *)(mapping + GUARD_SIZE + ((STACK_SIZE - sizeof(struct co)) & ~(size_t)63));
    co->mapping = mapping;
    return co;
}

static void co_unmap(struct co *co)
{
    char *mapping = co->mapping;
    stack_unmapped(mapping + GUARD_SIZE);
    munmap(mapping, GUARD_SIZE + STACK_SIZE);
}

static struct co *co_new(struct loop *l, co_fn *fn, void *arg)
{
    struct co *co = co_alloc(l);
    if (!co) {
        return NULL;
    }
    l->live_cos++;
    char *bottom = (char *)co->mapping + GUARD_SIZE;
    size_t size = (size_t)((char *)co - bottom);
    *co = (struct co){.loop = l, .fn = fn, .arg = arg, .mapping = co->mapping, .state = CO_READY};
    co->ctx = (struct co_ctx){.sp = co_switch_prepare(bottom, size, entry), .bottom = bottom, .size = size};
    return co;
}

static void co_free(struct co *co)
{
    struct loop *l = co->loop;
    l->live_cos--;
    if (l->n_free_cos >= MAX_POOLED) {
        co_unmap(co);
        return;
    }
    co->next = l->free_cos;
    l->free_cos = co;
    l->n_free_cos++;
}

void co_finish(struct loop *l)
{
    while (l->free_cos) {
        struct co *co = l->free_cos;
        l->free_cos = co->next;
        co_unmap(co);
    }
    l->n_free_cos = 0;
}

/* --- running -------------------------------------------------------------------------------------------------- */

static void make_ready(struct co *co)
{
    struct co_list *r = &co->loop->ready;
    co->state = CO_READY;
    co->next = NULL;
    *(r->tail ? &r->tail->next : &r->head) = co;
    r->tail = co;
}

/* Until its next wait or its end. */
static void run(struct co *co)
{
    struct co_ctx *here = self ? &self->ctx : &co->loop->main_ctx;
    co->back = here;
    co->back_co = self;
    co->state = CO_RUNNING;
    self = co;
    ctx_switch(here, &co->ctx);
    if (co->finished) {
        co_free(co);
    }
}

static void to_back(enum co_state state)
{
    struct co *co = self;
    co->state = state;
    self = co->back_co;
    ctx_switch(&co->ctx, co->back);
}

/* No stack could be had: they start when others have ended. */
static void starve(struct loop *l, co_fn *fn, void *arg)
{
    if (!l->live_cos) {
        g_error("no memory for a single coroutine"); /* nobody is left who could free any */
    }
    struct deferred *d = g_new0(struct deferred, 1);
    d->fn = fn;
    d->arg = arg;
    *l->starved_tail = d;
    l->starved_tail = &d->next;
}

static void feed_starved(struct loop *l)
{
    while (l->starved_head && (l->free_cos || !l->live_cos)) {
        struct deferred *d = l->starved_head;
        struct co *co = co_new(l, d->fn, d->arg);
        if (!co) {
            return;
        }
        l->starved_head = d->next;
        if (!l->starved_head) {
            l->starved_tail = &l->starved_head;
        }
        g_free(d);
        make_ready(co);
    }
}

void co_set_idle_io(bool idle)
{
    self->idle_io = idle;
}

bool co_idle_io(void)
{
    return self && self->idle_io;
}

void co_start(struct loop *l, co_fn *fn, void *arg)
{
    struct co *co = co_new(l, fn, arg);
    if (co) {
        co->idle_io = co_idle_io();
        run(co);
    } else {
        starve(l, fn, arg);
    }
}

void co_start_later(struct loop *l, co_fn *fn, void *arg)
{
    struct co *co = co_new(l, fn, arg);
    if (co) {
        make_ready(co);
    } else {
        starve(l, fn, arg);
    }
}

bool co_run_ready(struct loop *l)
{
    struct co *co = l->ready.head;
    bool any = co != NULL;
    l->ready = (struct co_list){0}; /* who becomes ready from here on runs in the next turn */
    while (co) {
        struct co *next = co->next;
        run(co);
        co = next;
    }
    if (l->starved_head) {
        feed_starved(l);
    }
    return any;
}

/* --- waiting and waking --------------------------------------------------------------------------------------- */

void co_wait(void)
{
    assert(self);
    if (self->woken) {
        self->woken = false;
        return;
    }
    to_back(CO_WAITING);
    self->waking = false;
}

void co_wake(struct co *co)
{
    if (co->state == CO_WAITING) {
        co->waking = true;
        make_ready(co);
    } else if (!co->waking) {
        co->woken = true;
    }
}

void co_park(void)
{
    assert(self);
    to_back(CO_PARKED);
}

void co_unpark(struct co *co)
{
    assert(co->state == CO_PARKED);
    make_ready(co);
}

void co_yield (void)
{
    assert(self);
    make_ready(self);
    to_back(CO_READY);
}

static void sleep_over(void *opaque)
{
    co_unpark(opaque);
}

void co_sleep(uint64_t ns)
{
    struct timer t;
    timer_init(&t, co_loop(), sleep_over, self);
    uint64_t now = loop_now_ns();
    timer_arm(&t, ns > UINT64_MAX - now ? UINT64_MAX : now + ns);
    co_park();
}

struct main_call {
    int (*fn)(void *arg);
    void *arg;
    int rc;
    bool done;
};

static void main_co(void *arg)
{
    struct main_call *call = arg;
    call->rc = call->fn(call->arg);
    call->done = true;
}

int co_run(struct loop *l, int (*fn)(void *arg), void *arg)
{
    assert(!self);
    struct main_call call = {.fn = fn, .arg = arg};
    co_start_later(l, main_co, &call);
    while (!call.done) {
        loop_turn(l, true);
    }
    return call.rc;
}
