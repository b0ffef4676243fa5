/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/loop.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define MS UINT64_C(1000000)

static int setup(void **state)
{
    *state = loop_create(LOOP_AUTO, NULL);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    loop_destroy(*state);
    return 0;
}

static void test_engine_is_the_one_asked_for(void **state)
{
    const char *env = getenv("STERNA_LOOP");
    if (env && *env) {
        assert_string_equal(loop_engine_name(*state), strcmp(env, "epoll") ? "io_uring" : "epoll");
    }
    assert_ptr_equal(loop_current(), *state);
    CLEANUP_FREE char *was = g_strdup(env);
    CLEANUP_ERR struct err e = ERR_INIT;
    setenv("STERNA_LOOP", "kqueue", 1);
    assert_null(loop_create(LOOP_AUTO, &e));
    assert_string_equal(err_text(&e), "STERNA_LOOP is 'kqueue': 'uring' and 'epoll' are known");
    setenv("STERNA_LOOP", was ? was : "", 1);
}

/* --- timers --------------------------------------------------------------------------------------------------- */

enum { TIMERS = 200 };

struct clocks;

struct one_clock {
    struct timer t;
    struct clocks *all;
};

struct clocks {
    struct one_clock c[TIMERS];
    uint64_t last;
    unsigned fired;
};

static void tick(void *opaque)
{
    struct one_clock *c = opaque;
    assert_false(timer_armed(&c->t));
    assert_true(loop_now_ns() >= c->t.at_ns);
    assert_true(c->t.at_ns >= c->all->last);
    c->all->last = c->t.at_ns;
    c->all->fired++;
}

static void test_timers_fire_in_order(void **state)
{
    struct clocks all = {0};
    uint64_t now = loop_now_ns();
    srand(1);
    for (int i = 0; i < TIMERS; i++) {
        all.c[i].all = &all;
        timer_init(&all.c[i].t, *state, tick, &all.c[i]);
        timer_arm(&all.c[i].t, now + (unsigned)rand() % (30 * MS));
    }
    unsigned armed = TIMERS;
    for (int i = 0; i < TIMERS; i += 3) { /* some move, some go */
        if (i % 2) {
            timer_arm(&all.c[i].t, now + (unsigned)rand() % (30 * MS));
        } else {
            timer_cancel(&all.c[i].t);
            timer_cancel(&all.c[i].t);
            armed--;
        }
    }
    while (all.fired < armed) {
        loop_turn(*state, true);
    }
    assert_false(loop_turn(*state, false));
    assert_int_equal(all.fired, armed);
}

static void note_time(void *opaque)
{
    *(uint64_t *)opaque = loop_now_ns();
}

static void test_timers_are_precise(void **state)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20 || (i < 5000 && best >= 700000); i++) {
        uint64_t at = loop_now_ns() + 300000;
        uint64_t fired = 0;
        struct timer t;
        timer_init(&t, *state, note_time, &fired);
        timer_arm(&t, at);
        while (!fired) {
            loop_turn(*state, true);
        }
        assert_true(fired >= at);
        best = MIN(best, fired - at);
    }
    print_message("%s: timer late by %" G_GUINT64_FORMAT " ns at best\n", loop_engine_name(*state), best);
    assert_true(best < 700000); /* a millisecond timer would be late by 700 us at least */
}

static void again(void *opaque)
{
    struct one_clock *c = opaque;
    c->all->fired++;
    timer_arm(&c->t, 0);
}

static void test_overdue_timer_starves_nobody(void **state)
{
    struct clocks all = {0};
    all.c[0].all = &all;
    timer_init(&all.c[0].t, *state, again, &all.c[0]);
    timer_arm(&all.c[0].t, 0);
    for (unsigned i = 1; i <= 10; i++) {
        assert_true(loop_turn(*state, true));
        assert_int_equal(all.fired, i);
    }
    timer_cancel(&all.c[0].t);
}

/* --- events --------------------------------------------------------------------------------------------------- */

static void count(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void test_event_set_often_runs_once(void **state)
{
    unsigned n = 0;
    struct loop_event *ev = loop_event_create(*state, count, &n);
    loop_event_set(ev);
    loop_event_set(ev);
    assert_int_equal(n, 0);
    assert_true(loop_turn(*state, true));
    assert_int_equal(n, 1);
    assert_false(loop_turn(*state, false));
    loop_event_set(ev);
    loop_turn(*state, true);
    assert_int_equal(n, 2);
    loop_event_set(ev);
    loop_event_destroy(ev); /* dropped */
    loop_event_destroy(NULL);
    assert_false(loop_turn(*state, false));
    assert_int_equal(n, 2);
}

struct chain {
    struct loop_event *ev[3];
    unsigned order[3], n;
};

static void first_destroys_second(void *opaque)
{
    struct chain *c = opaque;
    c->order[c->n++] = 1;
    loop_event_destroy(c->ev[1]);
    c->ev[1] = NULL;
}

static void second(void *opaque)
{
    struct chain *c = opaque;
    c->order[c->n++] = 2;
}

static void third(void *opaque)
{
    struct chain *c = opaque;
    c->order[c->n++] = 3;
}

static void test_event_destroyed_while_pending(void **state)
{
    struct chain c = {0};
    c.ev[0] = loop_event_create(*state, first_destroys_second, &c);
    c.ev[1] = loop_event_create(*state, second, &c);
    c.ev[2] = loop_event_create(*state, third, &c);
    for (int i = 0; i < 3; i++) {
        loop_event_set(c.ev[i]);
    }
    loop_turn(*state, true);
    assert_int_equal(c.n, 2);
    assert_int_equal(c.order[0], 1);
    assert_int_equal(c.order[1], 3);
    loop_event_destroy(c.ev[0]);
    loop_event_destroy(c.ev[2]);
}

enum { THREADS = 4, EVENTS = 5, SETS = 20000 };

struct storm {
    struct loop *l;
    struct loop_event *ev[EVENTS];
    atomic_uint asked[EVENTS];
    unsigned seen[EVENTS];
    unsigned calls;
};

struct storm_event {
    struct storm *s;
    int i;
};

static void storm_call(void *opaque)
{
    struct storm_event *se = opaque;
    se->s->seen[se->i] = atomic_load(&se->s->asked[se->i]);
    se->s->calls++;
}

static void *storm_thread(void *arg)
{
    struct storm *s = arg;
    for (unsigned i = 0; i < SETS; i++) {
        atomic_fetch_add(&s->asked[i % EVENTS], 1);
        loop_event_set(s->ev[i % EVENTS]);
        if (i % 512 == 0) {
            usleep(50); /* lets the loop go to sleep now and then */
        }
    }
    return NULL;
}

/* No request may be lost: after the last one there is a call that sees it. */
static void test_events_from_threads(void **state)
{
    struct storm s = {.l = *state};
    struct storm_event se[EVENTS];
    pthread_t t[THREADS];
    for (int i = 0; i < EVENTS; i++) {
        se[i] = (struct storm_event){&s, i};
        s.ev[i] = loop_event_create(*state, storm_call, &se[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&t[i], NULL, storm_thread, &s);
    }
    bool all = false;
    while (!all) {
        loop_turn(*state, true);
        all = true;
        for (int i = 0; i < EVENTS; i++) {
            all &= s.seen[i] == THREADS * SETS / EVENTS;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
    }
    for (int i = 0; i < EVENTS; i++) {
        loop_event_destroy(s.ev[i]);
    }
    assert_true(s.calls > 0);
}

struct ping {
    struct loop *l;
    struct loop_event *ev;
    _Atomic uint64_t sent;
    uint64_t best;
    atomic_uint rounds;
};

static void pinged(void *opaque)
{
    struct ping *p = opaque;
    p->best = MIN(p->best, loop_now_ns() - atomic_load(&p->sent));
    if (atomic_fetch_add(&p->rounds, 1) == 199) {
        loop_stop(p->l);
    }
}

static void *pinger(void *arg)
{
    struct ping *p = arg;
    for (unsigned i = 0; i < 200; i++) {
        usleep(200); /* it sleeps by now */
        atomic_store(&p->sent, loop_now_ns());
        loop_event_set(p->ev);
        while (atomic_load(&p->rounds) <= i) {
            usleep(20);
        }
    }
    return NULL;
}

static void test_event_latency(void **state)
{
    struct ping p = {.l = *state, .best = UINT64_MAX};
    p.ev = loop_event_create(*state, pinged, &p);
    pthread_t t;
    pthread_create(&t, NULL, pinger, &p);
    loop_run(*state);
    pthread_join(t, NULL);
    loop_event_destroy(p.ev);
    print_message("%s: event to call out of sleep: %" G_GUINT64_FORMAT " ns at best\n", loop_engine_name(*state),
                  p.best);
    assert_true(p.best < 2 * MS);
}

static void *stopper(void *arg)
{
    usleep(20000);
    loop_stop(arg);
    return NULL;
}

static void test_idle_costs_nothing_and_stop_wakes(void **state)
{
    struct rusage before;
    struct rusage after;
    loop_turn(*state, false);
    pthread_t t;
    pthread_create(&t, NULL, stopper, *state);
    getrusage(RUSAGE_THREAD, &before);
    loop_run(*state);
    getrusage(RUSAGE_THREAD, &after);
    pthread_join(t, NULL);
    assert_true(after.ru_nvcsw - before.ru_nvcsw < 20);
    loop_stop(*state); /* before it runs: it returns at once */
    loop_run(*state);
}

/* --- deferred calls ------------------------------------------------------------------------------------------- */

struct defer {
    struct loop *l;
    unsigned n;
};

static void defers_again(void *opaque)
{
    struct defer *d = opaque;
    if (++d->n < 3) {
        loop_defer(d->l, defers_again, d);
    }
}

static void test_defer(void **state)
{
    struct defer d = {.l = *state};
    loop_defer(*state, defers_again, &d);
    assert_int_equal(d.n, 0);
    for (unsigned i = 1; i <= 3; i++) {
        assert_true(loop_turn(*state, true));
        assert_int_equal(d.n, i);
    }
    assert_false(loop_turn(*state, false));
}

/* --- watches -------------------------------------------------------------------------------------------------- */

struct eyes {
    struct fd_watch *in, *out, *other;
    unsigned ins, outs, others;
    short last;
};

static void saw_in(void *opaque, short revents)
{
    struct eyes *y = opaque;
    y->ins++;
    y->last = revents;
}

static void saw_out(void *opaque, short revents)
{
    struct eyes *y = opaque;
    y->outs++;
    assert_true(revents & POLLOUT);
}

static void destroys_itself_and_other(void *opaque, short revents)
{
    struct eyes *y = opaque;
    y->others++;
    fd_watch_destroy(y->other);
    y->other = NULL;
    fd_watch_destroy(y->in);
    y->in = NULL;
}

static void test_watches_are_level_triggered(void **state)
{
    struct eyes y = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    y.in = fd_watch_create(*state, fds[0], POLLIN, saw_in, &y);
    assert_false(loop_turn(*state, false));
    assert_int_equal(write(fds[1], "ab", 2), 2);
    for (unsigned i = 1; i <= 5; i++) {
        assert_true(loop_turn(*state, true));
        assert_int_equal(y.ins, i);
        assert_int_equal(y.last, POLLIN);
    }
    fd_watch_set(y.in, 0);
    loop_turn(*state, false);
    assert_false(loop_turn(*state, false));
    unsigned paused = y.ins;
    y.out = fd_watch_create(*state, fds[0], POLLOUT, saw_out, &y); /* a second watch of the same descriptor */
    assert_true(loop_turn(*state, true));
    assert_int_equal(y.ins, paused);
    assert_int_equal(y.outs, 1);
    fd_watch_set(y.in, POLLIN);
    loop_turn(*state, true);
    assert_true(y.ins > paused && y.outs > 1);
    fd_watch_destroy(y.out);
    y.other = fd_watch_create(*state, fds[0], POLLIN, destroys_itself_and_other, &y);
    loop_turn(*state, true);
    assert_int_equal(y.others, 1);
    assert_null(y.in);
    loop_turn(*state, false);
    assert_false(loop_turn(*state, false));
    y.in = fd_watch_create(*state, fds[0], POLLIN, saw_in, &y);
    close(fds[1]);
    loop_turn(*state, true);
    assert_true(y.last & POLLHUP);
    fd_watch_destroy(y.in);
    close(fds[0]);
    fd_watch_destroy(NULL);
    assert_null(fd_watch_create(*state, -1, POLLIN, saw_in, &y));
}

/* The number comes back for another file while the old one's watch has just gone. */
static void test_watch_of_reused_number(void **state)
{
    struct eyes y = {0};
    for (int i = 0; i < 50; i++) {
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        y.in = fd_watch_create(*state, fds[0], POLLIN, saw_in, &y);
        unsigned before = y.ins;
        assert_false(loop_turn(*state, false));
        if (i % 2) {
            assert_int_equal(write(fds[1], "x", 1), 1);
            loop_turn(*state, true);
            assert_true(y.ins > before);
        }
        fd_watch_destroy(y.in);
        close(fds[0]);
        close(fds[1]);
        loop_turn(*state, false);
    }
}

static void test_watch_of_plain_file_is_always_ready(void **state)
{
    struct eyes y = {0};
    FILE *f = tmpfile();
    y.in = fd_watch_create(*state, fileno(f), POLLIN, saw_in, &y);
    assert_true(loop_turn(*state, true));
    assert_true(loop_turn(*state, true));
    assert_int_equal(y.ins, 2);
    assert_int_equal(y.last, POLLIN);
    fd_watch_set(y.in, 0);
    assert_false(loop_turn(*state, false));
    fd_watch_destroy(y.in);
    fclose(f);
}

/* --- workers -------------------------------------------------------------------------------------------------- */

enum { JOBS = 500 };

struct jobs {
    pthread_t loop_thread;
    atomic_uint ran;
    unsigned done;
};

static int job_run(void *opaque)
{
    struct jobs *j = opaque;
    assert_false(pthread_equal(pthread_self(), j->loop_thread));
    assert_null(loop_current());
    usleep(100);
    return (int)atomic_fetch_add(&j->ran, 1);
}

static void job_done(void *opaque, int rc)
{
    struct jobs *j = opaque;
    assert_true(pthread_equal(pthread_self(), j->loop_thread));
    assert_true(rc >= 0 && rc < JOBS);
    j->done++;
}

static unsigned threads_now(void)
{
    struct stat st;
    assert_int_equal(stat("/proc/self/task", &st), 0);
    return (unsigned)st.st_nlink - 2;
}

static void test_work(void **state)
{
    struct jobs j = {.loop_thread = pthread_self()};
    unsigned before = threads_now();
    for (int i = 0; i < JOBS; i++) {
        loop_work(*state, job_run, job_done, &j);
    }
    assert_true(threads_now() > before);
    assert_true(threads_now() <= before + 64);
    while (j.done < JOBS) {
        loop_turn(*state, true);
    }
    assert_int_equal(j.ran, JOBS);
}

static void test_destroy_waits_for_work(void **state)
{
    struct jobs j = {.loop_thread = pthread_self()};
    struct loop *l = loop_create(LOOP_AUTO, NULL);
    for (int i = 0; i < 20; i++) {
        loop_work(l, job_run, job_done, &j);
    }
    loop_destroy(l);
    assert_int_equal(j.ran, 20);
    assert_int_equal(j.done, 20);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_engine_is_the_one_asked_for),
        T(test_timers_fire_in_order),
        T(test_timers_are_precise),
        T(test_overdue_timer_starves_nobody),
        T(test_event_set_often_runs_once),
        T(test_event_destroyed_while_pending),
        T(test_events_from_threads),
        T(test_event_latency),
        T(test_idle_costs_nothing_and_stop_wakes),
        T(test_defer),
        T(test_watches_are_level_triggered),
        T(test_watch_of_reused_number),
        T(test_watch_of_plain_file_is_always_ready),
        T(test_work),
        T(test_destroy_waits_for_work),
    };
    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
