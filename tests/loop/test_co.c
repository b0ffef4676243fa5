/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/co.h"

#include "base/cleanup.h"
#include "loop/impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

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

/* --- order ---------------------------------------------------------------------------------------------------- */

struct trace {
    GString *text;
    struct loop *l;
    struct co *co;
};

static void child(void *arg)
{
    struct trace *t = arg;
    g_string_append(t->text, "b");
    co_yield ();
    g_string_append(t->text, "d");
}

static int parent(void *arg)
{
    struct trace *t = arg;
    assert_ptr_equal(co_loop(), t->l);
    g_string_append(t->text, "a");
    co_start(t->l, child, t);
    g_string_append(t->text, "c");
    co_yield ();
    co_yield ();
    g_string_append(t->text, "e");
    return 42;
}

static void test_start_runs_until_first_wait(void **state)
{
    struct trace t = {.text = g_string_new(NULL), .l = *state};
    assert_null(co_self());
    assert_int_equal(co_run(*state, parent, &t), 42);
    assert_null(co_self());
    assert_string_equal(t.text->str, "abcde");
    g_string_free(t.text, TRUE);
}

static void later(void *arg)
{
    struct trace *t = arg;
    g_string_append(t->text, "l");
}

static void test_start_later(void **state)
{
    struct trace t = {.text = g_string_new(NULL)};
    co_start_later(*state, later, &t);
    assert_string_equal(t.text->str, "");
    assert_true(loop_turn(*state, false));
    assert_string_equal(t.text->str, "l");
    assert_false(loop_turn(*state, false));
    g_string_free(t.text, TRUE);
}

static void waits_twice(void *arg)
{
    struct trace *t = arg;
    t->co = co_self();
    co_wake(t->co); /* remembered */
    co_wait();
    g_string_append(t->text, "1");
    co_wait();
    g_string_append(t->text, "2");
    t->co = NULL;
}

static void test_wake_is_remembered_once(void **state)
{
    struct trace t = {.text = g_string_new(NULL)};
    co_start(*state, waits_twice, &t);
    assert_string_equal(t.text->str, "1");
    loop_turn(*state, false);
    assert_string_equal(t.text->str, "1");
    co_wake(t.co);
    co_wake(t.co);
    assert_string_equal(t.text->str, "1"); /* never nested in the caller */
    loop_turn(*state, false);
    assert_string_equal(t.text->str, "12");
    g_string_free(t.text, TRUE);
}

static void sleeps_then_waits(void *arg)
{
    struct trace *t = arg;
    t->co = co_self();
    uint64_t t0 = loop_now_ns();
    co_sleep(5000000);
    assert_true(loop_now_ns() - t0 >= 5000000); /* the wake below does not end the sleep … */
    g_string_append(t->text, "s");
    co_wait(); /* … and is not lost either */
    g_string_append(t->text, "w");
    t->co = NULL;
}

static void test_wake_during_io_wait_is_kept(void **state)
{
    struct trace t = {.text = g_string_new(NULL)};
    co_start(*state, sleeps_then_waits, &t);
    co_wake(t.co);
    while (t.co) {
        loop_turn(*state, true);
    }
    assert_string_equal(t.text->str, "sw");
    g_string_free(t.text, TRUE);
}

/* --- locks ---------------------------------------------------------------------------------------------------- */

struct locks {
    struct co_mutex mutex;
    struct co_rwlock rw;
    struct co_queue queue;
    int inside, readers, writers, most_readers, running, order;
};

static void locker(void *arg)
{
    struct locks *k = arg;
    for (int i = 0; i < 50; i++) {
        co_lock(&k->mutex);
        assert_int_equal(k->inside++, 0);
        co_yield ();
        k->inside--;
        co_unlock(&k->mutex);
    }
    k->running--;
}

static void test_mutex_excludes(void **state)
{
    struct locks k = {.running = 20};
    for (int i = 0; i < 20; i++) {
        co_start(*state, locker, &k);
    }
    while (k.running) {
        loop_turn(*state, true);
    }
    assert_false(k.mutex.held);
}

static void reader(void *arg)
{
    struct locks *k = arg;
    for (int i = 0; i < 50; i++) {
        co_rdlock(&k->rw);
        k->readers++;
        assert_int_equal(k->writers, 0);
        k->most_readers = MAX(k->most_readers, k->readers);
        co_yield ();
        k->readers--;
        co_rwunlock(&k->rw);
    }
    k->running--;
}

static void writer(void *arg)
{
    struct locks *k = arg;
    for (int i = 0; i < 50; i++) {
        co_wrlock(&k->rw);
        assert_int_equal(k->writers++, 0);
        assert_int_equal(k->readers, 0);
        co_yield ();
        k->writers--;
        co_rwunlock(&k->rw);
        co_yield ();
    }
    k->running--;
}

static void test_rwlock(void **state)
{
    struct locks k = {.running = 12};
    for (int i = 0; i < 12; i++) {
        co_start(*state, i % 4 == 3 ? writer : reader, &k);
    }
    while (k.running) {
        loop_turn(*state, true);
    }
    assert_true(k.most_readers > 1);
    assert_int_equal(k.rw.readers + k.rw.writer + k.rw.writers_waiting, 0);
}

static void queuer(void *arg)
{
    struct locks *k = arg;
    int mine = k->running++;
    co_queue_wait(&k->queue);
    assert_int_equal(k->order++, mine);
}

static void test_queue_is_fifo(void **state)
{
    struct locks k = {0};
    for (int i = 0; i < 10; i++) {
        co_start(*state, queuer, &k);
    }
    assert_true(co_queue_wake_one(&k.queue));
    loop_turn(*state, false);
    assert_int_equal(k.order, 1);
    co_queue_wake_all(&k.queue);
    assert_true(co_queue_empty(&k.queue));
    assert_false(co_queue_wake_one(&k.queue));
    loop_turn(*state, false);
    assert_int_equal(k.order, 10);
}

/* One that waits so long, and then notes in `text` who it is: in lower case when only its time was up. */
struct patient {
    struct co_queue *queue;
    GString *text;
    uint64_t deadline_ns;
    char name;
};

static void be_patient(void *arg)
{
    const struct patient *p = arg;
    bool woken = co_queue_wait_until(p->queue, p->deadline_ns);
    g_string_append_c(p->text, woken ? p->name : g_ascii_tolower(p->name));
}

static void test_queue_wait_ends_in_time(void **state)
{
    struct locks k = {0};
    GString *text = g_string_new(NULL);
    uint64_t soon = loop_now_ns() + 2000000;
    struct patient all[] = {{&k.queue, text, soon, 'A'},       {&k.queue, text, UINT64_MAX, 'B'},
                            {&k.queue, text, soon + 1, 'C'},   {&k.queue, text, soon + 2, 'D'},
                            {&k.queue, text, UINT64_MAX, 'E'}, {&k.queue, text, soon + 3, 'F'}};
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        co_start(*state, be_patient, &all[i]);
    }
    while (text->len < 4) { /* first, middle and last leave it */
        loop_turn(*state, true);
    }
    assert_true(loop_now_ns() >= soon);
    assert_string_equal(text->str, "acdf");
    co_start(*state, be_patient, &all[1]); /* its end is where it should be */
    assert_true(co_queue_wake_one(&k.queue) && co_queue_wake_one(&k.queue) && co_queue_wake_one(&k.queue));
    assert_true(co_queue_empty(&k.queue));
    loop_turn(*state, false);
    assert_string_equal(text->str, "acdfBEB");
    g_string_free(text, TRUE);
}

/* Its time is up in the turn in which it is woken: it was woken, and is nowhere any more. */
static void test_queue_wake_beats_the_clock(void **state)
{
    struct locks k = {0};
    GString *text = g_string_new(NULL);
    struct patient late = {&k.queue, text, loop_now_ns() + 1000000, 'A'};
    co_start(*state, be_patient, &late);
    co_queue_wake_all(&k.queue);
    g_usleep(2000);
    while (!text->len) {
        loop_turn(*state, false);
    }
    assert_string_equal(text->str, "A");
    assert_true(co_queue_empty(&k.queue) && !k.queue.tail);
    g_string_free(text, TRUE);
}

/* --- system calls --------------------------------------------------------------------------------------------- */

static int temp_file(void)
{
    char name[] = "/tmp/sterna-test-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    unlink(name);
    return fd;
}

static int io_main(void *arg)
{
    CLEANUP_CLOSE int fd = temp_file();
    char a[1000];
    char b[3000];
    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    struct iovec w[2] = {{a, sizeof(a)}, {b, sizeof(b)}};
    assert_int_equal(co_pwritev(fd, w, 2, 5000, 0), 4000);
    assert_int_equal(co_fdatasync(fd), 0);
    assert_int_equal(co_pwritev(fd, w, 1, 9000, RWF_DSYNC), 1000);
    char r[2000];
    struct iovec v = {r, sizeof(r)};
    assert_int_equal(co_preadv(fd, &v, 1, 4500), 2000);
    assert_int_equal(r[499], 0);
    assert_int_equal(r[500], 'a');
    assert_int_equal(r[1499], 'a');
    assert_int_equal(r[1500], 'b');
    assert_int_equal(co_preadv(fd, &v, 1, 9500), 500);
    assert_int_equal(co_preadv(fd, &v, 1, 10000), 0);
    assert_int_equal(co_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
    assert_int_equal(co_preadv(fd, &v, 1, 5000), 2000);
    assert_int_equal(r[0], 0);
    assert_int_equal(co_preadv(-1, &v, 1, 0), -EBADF);
    assert_int_equal(co_pwritev(-1, &v, 1, 0, 0), -EBADF);
    assert_int_equal(co_fdatasync(-1), -EBADF);
    assert_int_equal(co_fallocate(fd, 0, 0, 0), -EINVAL);
    return 0;
}

static void test_io(void **state)
{
    assert_int_equal(co_run(*state, io_main, NULL), 0);
}

enum { STRESS_COS = 300, STRESS_STEPS = 20 };

struct stress {
    int fd, running;
};

static void stress_co(void *arg)
{
    struct stress *s = arg;
    unsigned me = (unsigned)--s->running;
    for (unsigned i = 0; i < STRESS_STEPS; i++) {
        unsigned v[16];
        for (unsigned k = 0; k < 16; k++) {
            v[k] = me * 1000 + i + k;
        }
        struct iovec iov = {v, sizeof(v)};
        uint64_t off = me * sizeof(v);
        assert_int_equal(co_pwritev(s->fd, &iov, 1, off, 0), sizeof(v));
        unsigned got[16] = {0};
        iov.iov_base = got;
        assert_int_equal(co_preadv(s->fd, &iov, 1, off), sizeof(v));
        assert_memory_equal(v, got, sizeof(v));
        if (i % 8 == me % 8) {
            co_sleep(1000 * me);
        }
    }
    s->running++;
}

static void test_io_stress(void **state)
{
    struct stress s = {.fd = temp_file(), .running = STRESS_COS};
    for (int i = 0; i < STRESS_COS; i++) {
        co_start(*state, stress_co, &s);
    }
    while (s.running < STRESS_COS) {
        loop_turn(*state, true);
    }
    close(s.fd);
}

/* More requests in one turn than the submission queue holds. */
static void test_io_overcommitted(void **state)
{
    struct stress s = {.fd = temp_file(), .running = 2000};
    for (int i = 0; i < 2000; i++) {
        co_start_later(*state, stress_co, &s);
    }
    loop_turn(*state, true);
    while (s.running < 2000) {
        loop_turn(*state, true);
    }
    close(s.fd);
}

static void poke(void *arg)
{
    int *fds = arg;
    co_sleep(3000000);
    assert_int_equal(write(fds[1], "x", 1), 1);
}

static int poll_main(void *arg)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    uint64_t t0 = loop_now_ns();
    assert_int_equal(co_poll(fds[0], POLLIN, 10000000), -ETIMEDOUT);
    uint64_t dt = loop_now_ns() - t0;
    assert_true(dt >= 10000000 && dt < UINT64_C(30000000000));
    assert_int_equal(co_poll(fds[0], POLLIN, 0), -ETIMEDOUT);
    assert_int_equal(co_poll(fds[0], POLLIN | POLLOUT, UINT64_MAX), POLLOUT);
    co_start(co_loop(), poke, fds);
    assert_int_equal(co_poll(fds[0], POLLIN, UINT64_MAX), POLLIN);
    assert_int_equal(co_poll(fds[0], POLLIN, 1000000000), POLLIN);
    close(fds[1]);
    assert_true(co_poll(fds[0], POLLIN, UINT64_MAX) & POLLHUP);
    close(fds[0]);
    return 7;
}

/* --- priority ------------------------------------------------------------------------------------------------- */

static struct engine_ops watching;
static const struct engine_ops *watched;
static GString *priorities;

static void note_priority(struct loop *l, struct io_req *r)
{
    g_string_append(priorities, r->op == IO_POLL ? "" : r->idle ? "i" : "n");
    watched->start(l, r);
}

static int read_byte(int fd)
{
    char byte = 0;
    struct iovec iov = {&byte, 1};
    assert_int_equal(co_preadv(fd, &iov, 1, 0), 1);
    assert_int_equal(co_pwritev(fd, &iov, 1, 0, 0), 1);
    return byte;
}

static void read_in_child(void *arg)
{
    assert_int_equal(read_byte(*(int *)arg), 7);
}

static int use_priorities(void *arg)
{
    int fd = *(int *)arg;
    char seven = 7;
    assert_int_equal(pwrite(fd, &seven, 1, 0), 1);
    assert_false(co_idle_io());
    read_byte(fd);
    co_set_idle_io(true);
    assert_int_equal(read_byte(fd), 7);
    co_start(co_loop(), read_in_child, arg);
    co_start_later(co_loop(), read_in_child, arg); /* somebody else's work */
    co_set_idle_io(false);
    read_byte(fd);
    co_sleep(50000000);
    return 0;
}

static void test_idle_io(void **state)
{
    struct loop *l = *state;
    int fd = memfd_create("x", MFD_CLOEXEC);
    priorities = g_string_new(NULL);
    watched = l->ops;
    watching = *l->ops;
    watching.start = note_priority;
    l->ops = &watching;
    assert_int_equal(co_run(l, use_priorities, &fd), 0);
    l->ops = watched;
    assert_int_equal(priorities->len, 10);
    unsigned idle = 0;
    for (size_t i = 0; i < priorities->len; i++) {
        idle += priorities->str[i] == 'i';
    }
    assert_int_equal(idle, 4); /* of the coroutine while it was idle, and of its child */
    g_string_free(priorities, TRUE);
    close(fd);
}

static void test_poll(void **state)
{
    assert_int_equal(co_run(*state, poll_main, NULL), 7);
}

static int add_one(void *arg)
{
    usleep(1000);
    return *(int *)arg + 1;
}

static void work_co(void *arg)
{
    int *n = arg;
    int v = *n;
    assert_int_equal(co_work(add_one, &v), v + 1);
    ++*n;
}

static void test_work(void **state)
{
    int n = 0;
    for (int i = 0; i < 200; i++) {
        co_start(*state, work_co, &n);
    }
    while (n < 200) {
        loop_turn(*state, true);
    }
}

/* --- cost ----------------------------------------------------------------------------------------------------- */

static void nothing(void *arg)
{
}

static void switches(void *arg)
{
    int *running = arg;
    for (int i = 0; i < 500; i++) {
        co_yield ();
    }
    --*running;
}

/* Processor time: what others do on this machine does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t cost_of_create(struct loop *l)
{
    enum { N = SANITIZED ? 1000 : 50000 };
    uint64_t t0 = cpu_ns();
    for (int i = 0; i < N; i++) {
        co_start(l, nothing, NULL);
    }
    return (cpu_ns() - t0) / N;
}

/* Many in one turn, so that the turn itself hardly counts. */
static uint64_t cost_of_switches(struct loop *l)
{
    int running = 100;
    for (int i = 0; i < 100; i++) {
        co_start(l, switches, &running);
    }
    uint64_t t0 = cpu_ns();
    while (running) {
        loop_turn(l, true);
    }
    return (cpu_ns() - t0) / (100 * 500);
}

static void test_cost(void **state)
{
    uint64_t create = UINT64_MAX, there_and_back = UINT64_MAX;
    co_start(*state, nothing, NULL);
    for (int i = 0; i < 10; i++) {
        create = MIN(create, cost_of_create(*state));
        there_and_back = MIN(there_and_back, cost_of_switches(*state));
    }
    print_message("%s: create + end %" G_GUINT64_FORMAT " ns, wait + wake %" G_GUINT64_FORMAT " ns\n",
                  loop_engine_name(*state), create, there_and_back);
    if (!SANITIZED) {
        assert_true(create < 2000);
        assert_true(there_and_back < 2000);
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_start_runs_until_first_wait),
        T(test_start_later),
        T(test_wake_is_remembered_once),
        T(test_wake_during_io_wait_is_kept),
        T(test_mutex_excludes),
        T(test_rwlock),
        T(test_queue_is_fifo),
        T(test_queue_wait_ends_in_time),
        T(test_queue_wake_beats_the_clock),
        T(test_io),
        T(test_io_stress),
        T(test_io_overcommitted),
        T(test_idle_io),
        T(test_poll),
        T(test_work),
        T(test_cost),
    };
    return cmocka_run_group_tests_name("coroutines", tests, NULL, NULL);
}
