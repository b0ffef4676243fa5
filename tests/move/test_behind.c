/* SPDX-License-Identifier: BSD-2-Clause */
/* A file that is written behind the back of who fills it: every byte where it belongs, and no error is lost. */
#include "move/behind.h"

#include "base/cleanup.h"
#include "loop/co.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20 };

static uint8_t byte_of(size_t i)
{
    return (uint8_t)(i * 2654435761u >> 13);
}

struct place {
    uint64_t at;
    size_t len;
    bool direct;
};

/* In pieces of many lengths; what is before the place stays. */
static void write_there(const struct place *p, const uint8_t *data)
{
    CLEANUP_FREE char *path = g_strdup_printf("%s/behind.XXXXXX", g_get_tmp_dir());
    CLEANUP_CLOSE int fd = mkstemp(path);
    assert_true(fd >= 0);
    int direct = p->direct ? open(path, O_WRONLY | O_DIRECT) : -1; /* -1, too, where there is no such thing */
    struct behind *b = behind_create(co_loop(), fd, direct, p->at);
    for (size_t at = 0, n; at < p->len; at += n) {
        n = MIN(p->len - at, (at * 7919) % (3 * MIB) + 1);
        assert_int_equal(behind_write(b, data + at, n), 0);
    }
    assert_int_equal(behind_finish(b), 0);
    behind_destroy(b);
    CLEANUP_FREE uint8_t *there = g_malloc(p->at + p->len + 1);
    memset(there, 1, p->at);
    assert_int_equal(pread(fd, there, p->at + p->len + 1, 0), p->at + p->len);
    assert_memory_equal(there + p->at, data, p->len);
    for (size_t i = 0; i < p->at; i++) {
        assert_int_equal(there[i], 0);
    }
    unlink(path);
}

static int all_is_there(void *arg)
{
    static const struct place places[] = {{0, 0, true},
                                          {0, 1, true},
                                          {4095, 2, true},
                                          {0, 8 * MIB, true},
                                          {0, 13 * MIB + 4097, true},
                                          {68, 17 * MIB + 5, true},
                                          {4 * MIB - 1, 2, true},
                                          {4096, 5 * MIB, false},
                                          {3, 9 * MIB, false}};
    CLEANUP_FREE uint8_t *data = g_malloc(18 * MIB);
    for (size_t i = 0; i < 18 * MIB; i++) {
        data[i] = byte_of(i);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        write_there(&places[i], data);
    }
    return 0;
}

/* Who goes on is told by the next write, who had written everything by the finish. */
static int errors_are_kept(void *arg)
{
    CLEANUP_FREE uint8_t *data = g_malloc0(4 * MIB);
    for (unsigned writes = 1; writes < 12; writes += 10) {
        CLEANUP_CLOSE int fd = open("/dev/full", O_WRONLY);
        struct behind *b = behind_create(co_loop(), fd, -1, 0);
        int rc = 0;
        for (unsigned i = 0; i < writes; i++) {
            rc = behind_write(b, data, 4 * MIB - (writes == 1));
        }
        assert_int_equal(rc, writes == 1 ? 0 : -ENOSPC);
        assert_int_equal(behind_finish(b), -ENOSPC);
        behind_destroy(b);
    }
    return 0;
}

/* Given up in the middle: nothing waits, and nothing is used any more. */
static int given_up(void *arg)
{
    CLEANUP_FREE uint8_t *data = g_malloc0(9 * MIB);
    CLEANUP_CLOSE int fd = open("/dev/null", O_WRONLY);
    struct behind *b = behind_create(co_loop(), fd, -1, 0);
    assert_int_equal(behind_write(b, data, 9 * MIB), 0);
    behind_destroy(b);
    behind_destroy(NULL);
    return 0;
}

static void in_coroutine(void **state)
{
    struct loop *l = loop_create(LOOP_AUTO, NULL);
    int (*fn)(void *arg) = *(int (**)(void *)) * state;
    assert_int_equal(co_run(l, fn, NULL), 0);
    loop_destroy(l);
}

int main(void)
{
    static int (*const tests[])(void *) = {all_is_there, errors_are_kept, given_up};
    static const char *const names[] = {"all is there", "errors are kept", "given up"};
    struct CMUnitTest all[G_N_ELEMENTS(tests)];
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        all[i] = (struct CMUnitTest){
            .name = names[i], .test_func = in_coroutine, .initial_state = (void *)(uintptr_t)&tests[i]};
    }
    return cmocka_run_group_tests(all, NULL, NULL);
}
