/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that a socket takes pages from: all of it comes, in its order, and what is under way outlives the memory. */
#include "move/lend.h"

#include "base/cleanup.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <glib.h>

enum { SIZE = 16 << 20, SMALL = 4096 };

struct pair {
    int ours, theirs;
    struct lend *lend;
    uint8_t *memory;
};

/* Byte `at` of what is sent. */
static uint8_t byte_of(size_t at)
{
    return (uint8_t)(at * UINT64_C(0x9E3779B97F4A7C15) >> 56);
}

static void open_pair(struct pair *p)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    *p = (struct pair){.ours = fds[0], .theirs = fds[1], .lend = lend_create(fds[0])};
    assert_non_null(p->lend);
    p->memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(p->memory, MAP_FAILED);
    for (size_t i = 0; i < SIZE; i++) {
        p->memory[i] = byte_of(i);
    }
    lend_add(p->lend, p->memory, SIZE);
}

static void close_pair(struct pair *p)
{
    lend_destroy(p->lend);
    if (p->memory) {
        munmap(p->memory, SIZE);
    }
    close(p->ours);
    close(p->theirs);
}

/* Reads until there is nothing, or so many bytes; checks them, which come from byte `at` of all on. */
static size_t check_next(struct pair *p, size_t at, size_t max)
{
    CLEANUP_FREE uint8_t *got = g_malloc(max);
    size_t all = 0;
    for (ssize_t n; all < max && (n = read(p->theirs, got, max - all)) > 0; all += (size_t)n) {
        for (ssize_t i = 0; i < n; i++) {
            assert_int_equal(got[i], byte_of(at + all + (size_t)i));
        }
    }
    return all;
}

static void test_all_comes_in_its_order(void **state)
{
    struct pair p;
    open_pair(&p);
    size_t got = 0, full = 0;
    for (size_t at = 0; at < SIZE;) {
        assert_true(lend_takes(p.lend, p.memory + at, SIZE - at) || SIZE - at < 65536);
        ssize_t n = lend_send(p.lend, p.memory + at, SIZE - at);
        if (n == -EAGAIN) {
            full++;
            got += check_next(&p, got, 77777);
        } else {
            assert_true(n > 0);
            at += (size_t)n;
        }
    }
    assert_true(full > 0);
    got += check_next(&p, got, SIZE);
    assert_int_equal(got, SIZE);
    close_pair(&p);
}

/* What has begun to go this way ends so: it is in the pipe, however little is left of it. */
static void test_which_bytes_are_taken(void **state)
{
    struct pair p;
    open_pair(&p);
    assert_false(lend_takes(NULL, p.memory, SIZE));
    assert_false(lend_takes(p.lend, &p, SIZE));
    assert_false(lend_takes(p.lend, p.memory + SIZE, SIZE));
    assert_false(lend_takes(p.lend, p.memory, SMALL));
    assert_true(lend_takes(p.lend, p.memory + SIZE / 2, SIZE / 2));
    int size = 1; /* the least that the kernel allows */
    setsockopt(p.ours, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    size_t at = 0;
    for (ssize_t n; at < SIZE && (n = lend_send(p.lend, p.memory + at, SIZE - at)) > 0;) {
        at += (size_t)n;
    }
    assert_true(at < SIZE);
    assert_true(lend_takes(p.lend, p.memory + at, SMALL));
    close_pair(&p);
}

static void test_the_end_leaves_what_is_under_way(void **state)
{
    struct pair p;
    open_pair(&p);
    ssize_t sent = lend_send(p.lend, p.memory, SIZE);
    assert_true(sent > 0);
    lend_destroy(p.lend);
    munmap(p.memory, SIZE);
    p.lend = NULL;
    p.memory = NULL;
    CLEANUP_FREE uint8_t *other = g_malloc(SIZE);
    memset(other, 0xEE, SIZE);
    assert_int_equal(check_next(&p, 0, SIZE), sent);
    close_pair(&p);
}

static void test_a_reader_who_is_gone(void **state)
{
    struct pair p;
    open_pair(&p);
    close(p.theirs);
    assert_int_equal(lend_send(p.lend, p.memory, SIZE), -EPIPE);
    p.theirs = dup(p.ours);
    close_pair(&p);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_comes_in_its_order),
        cmocka_unit_test(test_which_bytes_are_taken),
        cmocka_unit_test(test_the_end_leaves_what_is_under_way),
        cmocka_unit_test(test_a_reader_who_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
