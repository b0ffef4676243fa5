/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/co.h"

#include "loop/impl.h"

#include <assert.h>

struct co_waiter {
    struct co_waiter *next;
    struct co *co;
    struct co_queue *queue; /* NULL: it waits there no more */
    bool writer;            /* of a co_rwlock */
};

static void wait_in(struct co_queue *q, struct co_waiter *w)
{
    w->co = co_self();
    w->queue = q;
    *(q->tail ? &q->tail->next : &q->head) = w;
    q->tail = w;
    co_park();
}

void co_queue_wait(struct co_queue *q)
{
    wait_in(q, &(struct co_waiter){0});
}

struct patience {
    struct co_waiter w;
    bool late;
};

static void lose_patience(void *opaque)
{
    struct patience *p = opaque;
    struct co_queue *q = p->w.queue;
    struct co_waiter *before = NULL;
    if (!q) { /* woken in this very turn */
        return;
    }
    while ((before ? before->next : q->head) != &p->w) {
        before = before ? before->next : q->head;
    }
    *(before ? &before->next : &q->head) = p->w.next;
    q->tail = q->tail == &p->w ? before : q->tail;
    p->late = true;
    co_unpark(p->w.co);
}

bool co_queue_wait_until(struct co_queue *q, uint64_t deadline_ns)
{
    struct patience p = {0};
    struct timer t;
    timer_init(&t, co_loop(), lose_patience, &p);
    timer_arm(&t, deadline_ns);
    wait_in(q, &p.w);
    timer_cancel(&t);
    return !p.late;
}

bool co_queue_wake_one(struct co_queue *q)
{
    struct co_waiter *w = q->head;
    if (!w) {
        return false;
    }
    q->head = w->next;
    if (!q->head) {
        q->tail = NULL;
    }
    w->queue = NULL;
    co_unpark(w->co);
    return true;
}

void co_queue_wake_all(struct co_queue *q)
{
    while (co_queue_wake_one(q)) {
    }
}

void co_lock(struct co_mutex *m)
{
    assert(m->owner != co_self());
    if (m->held) {
        co_queue_wait(&m->waiters); /* co_unlock() made it ours */
        return;
    }
    m->held = true;
    m->owner = co_self();
}

void co_unlock(struct co_mutex *m)
{
    assert(m->held && m->owner == co_self());
    m->owner = m->waiters.head ? m->waiters.head->co : NULL;
    m->held = co_queue_wake_one(&m->waiters);
}

/* Lets in the first writer, or all readers before it. */
static void rw_admit(struct co_rwlock *l)
{
    while (l->waiters.head && !l->writer) {
        if (!l->waiters.head->writer) {
            l->readers++;
        } else if (l->readers) {
            return;
        } else {
            l->writer = true;
            l->writers_waiting--;
        }
        co_queue_wake_one(&l->waiters);
    }
}

void co_rdlock(struct co_rwlock *l)
{
    if (l->writer || l->writers_waiting) {
        wait_in(&l->waiters, &(struct co_waiter){.writer = false});
    } else {
        l->readers++;
    }
}

void co_wrlock(struct co_rwlock *l)
{
    if (l->writer || l->readers || l->waiters.head) {
        l->writers_waiting++;
        wait_in(&l->waiters, &(struct co_waiter){.writer = true});
    } else {
        l->writer = true;
    }
}

void co_rwunlock(struct co_rwlock *l)
{
    assert(l->writer || l->readers);
    if (l->writer) {
        l->writer = false;
    } else {
        l->readers--;
    }
    rw_admit(l);
}
