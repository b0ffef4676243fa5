/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/co.h"

#include "loop/impl.h"

#include <assert.h>

struct co_waiter {
    struct co_waiter *next;
    struct co *co;
    bool writer; /* of a co_rwlock */
};

static void wait_in(struct co_queue *q, bool writer)
{
    struct co_waiter w = {.co = co_self(), .writer = writer};
    *(q->tail ? &q->tail->next : &q->head) = &w;
    q->tail = &w;
    co_park();
}

void co_queue_wait(struct co_queue *q)
{
    wait_in(q, false);
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
        wait_in(&l->waiters, false);
    } else {
        l->readers++;
    }
}

void co_wrlock(struct co_rwlock *l)
{
    if (l->writer || l->readers || l->waiters.head) {
        l->writers_waiting++;
        wait_in(&l->waiters, true);
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
