/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Threads for calls that block. Work is taken in order; a thread is started when work comes and none is idle, up to
 * MAX_WORKERS; one that stayed idle for a while ends.
 */
#include "base/cleanup.h"
#include "loop/impl.h"

#include <signal.h>
#include <time.h>

enum { MAX_WORKERS = 64, IDLE_SECONDS = 10 };

struct workers {
    pthread_mutex_t mutex;
    pthread_cond_t work;  /* for a worker: something is queued, or the pool ends */
    pthread_cond_t ended; /* for workers_destroy(): a thread has gone */
    struct work_item *head, **tail;
    unsigned queued, threads, idle;
    bool ending;
    _Atomic(struct work_item *) finished; /* newest first */
    struct loop_event *finished_event;
};

static void deliver(void *opaque)
{
    struct workers *w = opaque;
    struct work_item *newest = atomic_exchange(&w->finished, NULL);
    struct work_item *oldest = NULL;
    while (newest) {
        struct work_item *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct work_item item = *oldest;
        if (item.heap) {
            g_free(oldest);
        }
        oldest = item.next;
        if (item.done) {
            item.done(item.opaque, item.rc);
        }
    }
}

static void run_item(struct workers *w, struct work_item *item)
{
    item->rc = item->fn(item->opaque);
    struct work_item *head = atomic_load(&w->finished);
    do {
        item->next = head;
    } while (!atomic_compare_exchange_weak(&w->finished, &head, item));
    if (!head) { /* otherwise whoever put `head` there sets it */
        loop_event_set(w->finished_event);
    }
}

/* With the mutex held. False: idle for too long. */
static bool wait_for_work(struct workers *w)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_SECONDS;
    w->idle++;
    int rc = 0;
    while (!w->head && !w->ending && rc != ETIMEDOUT) {
        rc = pthread_cond_timedwait(&w->work, &w->mutex, &until);
    }
    w->idle--;
    return w->head != NULL;
}

static void *worker_main(void *opaque)
{
    struct workers *w = opaque;
    pthread_mutex_lock(&w->mutex);
    while (w->head || wait_for_work(w)) {
        struct work_item *item = w->head;
        w->head = item->next;
        if (!w->head) {
            w->tail = &w->head;
        }
        w->queued--;
        pthread_mutex_unlock(&w->mutex);
        run_item(w, item);
        pthread_mutex_lock(&w->mutex);
    }
    w->threads--;
    pthread_cond_broadcast(&w->ended);
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static struct workers *workers_create(struct loop *l)
{
    struct workers *w = g_new0(struct workers, 1);
    w->tail = &w->head;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->work, &attr);
    pthread_cond_init(&w->ended, &attr);
    pthread_condattr_destroy(&attr);
    w->finished_event = loop_event_create(l, deliver, w);
    return w;
}

void workers_destroy(struct loop *l)
{
    struct workers *w = l->workers;
    if (!w) {
        return;
    }
    pthread_mutex_lock(&w->mutex);
    w->ending = true;
    pthread_cond_broadcast(&w->work);
    while (w->threads) {
        pthread_cond_wait(&w->ended, &w->mutex);
    }
    pthread_mutex_unlock(&w->mutex);
    deliver(w); /* owners free what they passed in `done` */
    loop_event_destroy(w->finished_event);
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->ended);
    pthread_mutex_destroy(&w->mutex);
    g_free(w);
    l->workers = NULL;
}

static int start_thread(struct workers *w)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the main thread's */
    pthread_t t;
    int rc = pthread_create(&t, &attr, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return rc;
}

void workers_submit(struct loop *l, struct work_item *item)
{
    if (!l->workers) {
        l->workers = workers_create(l);
    }
    struct workers *w = l->workers;
    bool here = false;
    pthread_mutex_lock(&w->mutex);
    item->next = NULL;
    if (w->queued >= w->idle && w->threads < MAX_WORKERS) {
        if (start_thread(w) == 0) {
            w->threads++;
        } else {
            here = w->threads == 0;
        }
    }
    if (!here) {
        *w->tail = item;
        w->tail = &item->next;
        w->queued++;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->mutex);
    if (here) { /* the system gives us no thread at all: late is better than never */
        run_item(w, item);
    }
}
