/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that a socket's other end reads from: what comes is what was sent, whatever becomes of the memory since. */
#include "move/lend.h"

#include "base/cleanup.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <glib.h>

enum { PARTS = 64, LARGE = 64 << 20 };

struct pair {
    int ours, theirs;
    struct lend *lend;
};

static void open_pair(struct pair *p)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    *p = (struct pair){.ours = fds[0], .theirs = fds[1], .lend = lend_create(fds[0])};
    assert_non_null(p->lend);
}

static void close_pair(struct pair *p)
{
    lend_destroy(p->lend);
    close(p->ours);
    close(p->theirs);
}

/* What the part `n` of all that is sent consists of. */
static void fill(uint8_t *to, size_t len, unsigned n)
{
    for (size_t i = 0; i < len; i += 8) {
        uint64_t x = (n * UINT64_C(1000003) + i) * UINT64_C(0x9E3779B97F4A7C15);
        memcpy(to + i, &x, 8);
    }
}

/* Reads until there is nothing, or so many bytes; checks them, which come from byte `at` of all on. */
static size_t check_next(struct pair *p, size_t at, size_t max)
{
    CLEANUP_FREE uint8_t *want = g_malloc(LEND_PART), *got = g_malloc(LEND_PART);
    size_t all = 0;
    while (all < max) {
        size_t in = (at + all) % LEND_PART;
        ssize_t n = read(p->theirs, got, MIN(max - all, LEND_PART - in));
        if (n <= 0) {
            assert_true(n < 0 && errno == EAGAIN);
            break;
        }
        fill(want, LEND_PART, (unsigned)((at + all) / LEND_PART));
        assert_memory_equal(got, want + in, (size_t)n);
        all += (size_t)n;
    }
    return all;
}

/* A reader who is slow, and takes pieces of any length: the ring is gone through many times. */
static void test_all_comes_as_it_was_sent(void **state)
{
    struct pair p;
    open_pair(&p);
    size_t got = 0, full = 0;
    for (unsigned i = 0; i < PARTS; i++) {
        uint8_t *m;
        while (!(m = lend_room(p.lend))) {
            got += check_next(&p, got, 100001);
        }
        assert_true(lend_has(p.lend, m) && lend_has(p.lend, m + LEND_PART - 1));
        fill(m, LEND_PART, i);
        for (size_t at = 0; at < LEND_PART;) {
            ssize_t n = lend_send(p.lend, m + at, LEND_PART - at);
            if (n == -EAGAIN) {
                full++;
                got += check_next(&p, got, 77777);
            } else {
                assert_true(n > 0);
                at += (size_t)n;
            }
        }
    }
    assert_true(full > 0);
    got += check_next(&p, got, SIZE_MAX);
    assert_int_equal(got, (size_t)PARTS * LEND_PART);
    close_pair(&p);
}

/* The law, where the socket takes more than the ring has. */
static void test_nothing_is_had_again_before_it_was_read(void **state)
{
    struct pair p;
    open_pair(&p);
    int size = LARGE;
    if (setsockopt(p.ours, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0) {
        close_pair(&p);
        skip(); /* root's alone */
    }
    uint8_t *m;
    unsigned n = 0;
    for (; (m = lend_room(p.lend)); n++) {
        assert_true(n < PARTS);
        fill(m, LEND_PART, n);
        for (size_t at = 0; at < LEND_PART;) {
            ssize_t sent = lend_send(p.lend, m + at, LEND_PART - at);
            assert_true(sent > 0);
            at += (size_t)sent;
        }
    }
    assert_true(n > 1);
    size_t got = check_next(&p, 0, LEND_PART - 1);
    assert_null(lend_room(p.lend)); /* its last byte */
    got += check_next(&p, got, LEND_PART);
    m = lend_room(p.lend);
    assert_non_null(m);
    memset(m, 0xEE, LEND_PART);
    got += check_next(&p, got, SIZE_MAX);
    assert_int_equal(got, (size_t)n * LEND_PART);
    close_pair(&p);
}

/* It arrives although the memory is given back. */
static void test_the_end_leaves_what_is_under_way(void **state)
{
    struct pair p;
    open_pair(&p);
    uint8_t *m = lend_room(p.lend);
    assert_non_null(m);
    fill(m, LEND_PART, 0);
    ssize_t sent = lend_send(p.lend, m, LEND_PART);
    assert_true(sent > 0);
    lend_destroy(p.lend);
    p.lend = NULL;
    CLEANUP_FREE uint8_t *other = g_malloc(16 * LEND_PART);
    memset(other, 0xEE, 16 * LEND_PART);
    assert_int_equal(check_next(&p, 0, SIZE_MAX), sent);
    close_pair(&p);
}

static void test_a_reader_who_is_gone(void **state)
{
    struct pair p;
    open_pair(&p);
    close(p.theirs);
    uint8_t *m = lend_room(p.lend);
    assert_non_null(m);
    memset(m, 1, LEND_PART);
    assert_int_equal(lend_send(p.lend, m, LEND_PART), -EPIPE);
    assert_false(lend_has(p.lend, &p));
    assert_false(lend_has(NULL, m));
    p.theirs = dup(p.ours);
    close_pair(&p);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_comes_as_it_was_sent),
        cmocka_unit_test(test_nothing_is_had_again_before_it_was_read),
        cmocka_unit_test(test_the_end_leaves_what_is_under_way),
        cmocka_unit_test(test_a_reader_who_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
