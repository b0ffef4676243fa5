/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest/pages.h"

#include "base/cleanup.h"
#include "loop/loop.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#define BASE  0x80000000ull
#define PAGES 2000u
#define SIZE  ((uint64_t)PAGES * GUEST_PAGE_SIZE)

struct vm {
    struct guest_mem *mem;
    struct pages *pages;
    uint8_t *ram, *then; /* `then`: as it was at the instant */
    struct writer {
        struct vm *vm;
        pthread_t thread;
        unsigned seed;
        bool through_mem; /* as devices do, else as harts do */
    } writer[2];
    _Atomic bool pause, stop;
    _Atomic unsigned paused;
};

/* Every fourth page is zero. */
static void fill_pattern(uint8_t *ram)
{
    unsigned x = 1;
    for (uint64_t i = 0; i < SIZE; i++) {
        x = x * 1103515245 + 12345;
        ram[i] = (i >> GUEST_PAGE_BITS) % 4 == 3 ? 0 : (uint8_t)(x >> 16);
    }
}

static int setup(void **state)
{
    struct vm *vm = g_new0(struct vm, 1);
    *state = vm;
    vm->mem = guest_mem_create();
    if (guest_ram_add(vm->mem, "low", BASE, SIZE / 2, NULL) || guest_ram_add(vm->mem, "ram", 2 * BASE, SIZE, NULL)) {
        return -1;
    }
    vm->pages = pages_create(vm->mem);
    vm->ram = guest_ram_get(vm->mem, 1)->host;
    vm->then = g_malloc(SIZE);
    fill_pattern(vm->ram);
    return 0;
}

static int teardown(void **state)
{
    struct vm *vm = *state;
    pages_destroy(vm->pages);
    guest_mem_destroy(vm->mem);
    g_free(vm->then);
    g_free(vm);
    return 0;
}

/* --- a guest: threads that store all over RAM, and can be held --- */

static void *writer_main(void *opaque)
{
    struct writer *w = opaque;
    struct vm *vm = w->vm;
    unsigned x = w->seed;
    while (!vm->stop) {
        if (vm->pause) {
            vm->paused++;
            while (vm->pause) {
                nanosleep(&(struct timespec){0, 100000}, NULL);
            }
            vm->paused--;
        }
        x = x * 1103515245 + 12345;
        uint64_t at = (x >> 8) % (SIZE / 8) * 8;
        if (w->through_mem) {
            uint64_t v = x;
            assert_int_equal(0, guest_mem_write(vm->mem, 2 * BASE + at, &v, 8));
        } else {
            *(volatile uint64_t *)(void *)(vm->ram + at) = x;
        }
        if (x % 64 == 0) {
            nanosleep(&(struct timespec){0, 50000}, NULL);
        }
    }
    return NULL;
}

static void guest_start(struct vm *vm, bool through_mem)
{
    for (unsigned i = 0; i < 2; i++) {
        vm->writer[i] = (struct writer){vm, .seed = i + 7, .through_mem = through_mem || i};
        pthread_create(&vm->writer[i].thread, NULL, writer_main, &vm->writer[i]);
    }
}

static void guest_hold(struct vm *vm)
{
    vm->pause = true;
    while (vm->paused < 2) {
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
}

static void guest_go(struct vm *vm)
{
    vm->pause = false;
    while (vm->paused) {
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
}

static void guest_end(struct vm *vm)
{
    vm->stop = true;
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(vm->writer[i].thread, NULL);
    }
}

/* Takes pages and compares them with what they were; each must come once. */
static void take_and_compare(struct vm *vm, uint64_t first, unsigned n, uint8_t *seen)
{
    static const uint8_t zero[GUEST_PAGE_SIZE];
    CLEANUP_FREE uint8_t *buf = g_malloc((size_t)n * GUEST_PAGE_SIZE);
    CLEANUP_FREE uint8_t *what = g_malloc(n);
    assert_int_equal(0, pages_take(vm->pages, 1, first, n, buf, what));
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *got = what[i] == PAGE_ZERO ? zero : buf + (size_t)i * GUEST_PAGE_SIZE;
        if (what[i] == PAGE_TAKEN_BEFORE) {
            assert_int_equal(1, seen[first + i]);
            continue;
        }
        assert_int_equal(0, seen[first + i]++);
        assert_memory_equal(got, vm->then + ((first + i) << GUEST_PAGE_BITS), GUEST_PAGE_SIZE);
    }
}

static void keep(struct vm *vm, enum pages_way way, bool ahead)
{
    CLEANUP_FREE uint8_t *seen = g_malloc0(PAGES);
    guest_start(vm, way == PAGES_SOFT);
    for (unsigned round = 0; round < 2; round++) {
        guest_hold(vm);
        assert_int_equal(0, pages_watch(vm->pages, way, NULL));
        assert_int_equal(way, pages_way(vm->pages));
        guest_go(vm);
        if (ahead) {
            pages_protect_ahead(vm->pages);
        }
        guest_hold(vm);
        assert_int_equal(0, pages_freeze(vm->pages, NULL));
        memcpy(vm->then, vm->ram, SIZE);
        guest_go(vm);
        memset(seen, 0, PAGES);
        unsigned block = 0;
        uint64_t page = 0;
        for (uint64_t at = 0; at < PAGES; at += 50) {
            nanosleep(&(struct timespec){0, 200000}, NULL);
            take_and_compare(vm, at, MIN(50, PAGES - at), seen);
            if (at == 500) { /* some of those that were copied, before their turn */
                for (unsigned i = 0; i < 20 && pages_next_copy(vm->pages, &block, &page); i++, page++) {
                    assert_int_equal(1, block);
                    assert_true(page >= 550);
                    take_and_compare(vm, page, 1, seen);
                }
            }
        }
        assert_null(memchr(seen, 0, PAGES));
        assert_int_equal(0, pages_copied(vm->pages));
        pages_end(vm->pages);
    }
    guest_end(vm);
    assert_true(memcmp(vm->ram, vm->then, SIZE) != 0);
}

static bool uffd_here(struct vm *vm)
{
    bool can = pages_watch(vm->pages, PAGES_UFFD, NULL) == 0;
    pages_end(vm->pages);
    return can;
}

static void kept_by_uffd(void **state)
{
    if (!uffd_here(*state)) {
        skip();
    }
    keep(*state, PAGES_UFFD, false);
}

static void kept_by_uffd_protected_ahead(void **state)
{
    if (!uffd_here(*state)) {
        skip();
    }
    keep(*state, PAGES_UFFD, true);
}

static void kept_by_those_who_store(void **state)
{
    keep(*state, PAGES_SOFT, true);
}

/* Ended in the middle: everybody goes on, nothing is left. */
static void given_up(void **state)
{
    struct vm *vm = *state;
    enum pages_way ways[] = {PAGES_SOFT, PAGES_UFFD};
    for (unsigned i = 0; i < 2; i++) {
        if (ways[i] == PAGES_UFFD && !uffd_here(vm)) {
            continue;
        }
        vm->stop = false;
        guest_start(vm, ways[i] == PAGES_SOFT);
        for (unsigned at = 0; at < 3; at++) {
            guest_hold(vm);
            assert_int_equal(0, pages_watch(vm->pages, ways[i], NULL));
            if (at) {
                assert_int_equal(0, pages_freeze(vm->pages, NULL));
            }
            guest_go(vm);
            nanosleep(&(struct timespec){0, 5000000}, NULL);
            while (at && !pages_copied(vm->pages)) { /* a loaded host may not run it for a while */
                nanosleep(&(struct timespec){0, 1000000}, NULL);
            }
            pages_end(vm->pages);
            assert_int_equal(0, pages_copied(vm->pages));
        }
        guest_end(vm);
    }
}

/* Many copies slow the guest down, and it still goes on. */
static void limited(void **state)
{
    struct vm *vm = *state;
    assert_int_equal(0, pages_watch(vm->pages, PAGES_SOFT, NULL));
    assert_int_equal(0, pages_freeze(vm->pages, NULL));
    pages_set_limit(vm->pages, 10 * GUEST_PAGE_SIZE);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (uint64_t i = 0; i < 40; i++) {
        guest_mem_write(vm->mem, 2 * BASE + i * 2 * GUEST_PAGE_SIZE, "x", 1);
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    assert_true((b.tv_sec - a.tv_sec) * 1000000000ll + b.tv_nsec - a.tv_nsec > 10000000);
    assert_int_equal(40, pages_copied(vm->pages) / GUEST_PAGE_SIZE);
}

static void a_wish_that_is_none(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    setenv("STERNA_PAGES", "user", 1);
    assert_int_equal(0, pages_check_wish(&e));
    setenv("STERNA_PAGES", "usre", 1);
    assert_int_equal(-EINVAL, pages_check_wish(&e));
    unsetenv("STERNA_PAGES");
    assert_non_null(strstr(err_text(&e), "'usre'"));
    assert_int_equal(0, pages_check_wish(&e));
}

/* Without the right to see the kernel's own faults: a system call stores into RAM that is being kept. */
static void kernel_stores_for_the_unprivileged(void **state)
{
    struct vm *vm = *state;
    uint8_t was[GUEST_PAGE_SIZE], got[GUEST_PAGE_SIZE], what;
    int fds[2];
    setenv("STERNA_PAGES", "user", 1);
    bool there = pages_watch(vm->pages, PAGES_AUTO, NULL) == 0;
    unsetenv("STERNA_PAGES");
    if (!there) {
        skip();
    }
    pages_protect_ahead(vm->pages);
    assert_int_equal(0, pages_freeze(vm->pages, NULL));
    assert_int_equal(0, pipe(fds));
    assert_int_equal(5, write(fds[1], "hello", 5));
    memcpy(was, vm->ram, sizeof(was));
    assert_int_equal(-1, read(fds[0], vm->ram, 5)); /* that is how it would fail */
    assert_int_equal(EFAULT, errno);
    assert_memory_equal(was, vm->ram, sizeof(was));
    guest_mem_will_write(vm->mem, 2 * BASE, 5);
    assert_int_equal(5, read(fds[0], vm->ram, 5));
    assert_memory_equal("hello", vm->ram, 5);
    assert_int_equal(0, pages_take(vm->pages, 1, 0, 1, got, &what));
    assert_int_equal(PAGE_DATA, what);
    assert_memory_equal(got, was, sizeof(was));
    close(fds[0]);
    close(fds[1]);
}

/* --- filling --- */

struct filler {
    struct vm *vm;
    _Atomic unsigned urgent, relaxed, failed;
    _Atomic uint64_t bad; /* page that cannot be had */
};

static int fetch(void *opaque, unsigned block, uint64_t first, unsigned n, uint8_t *buf, bool urgent)
{
    struct filler *f = opaque;
    if (block == 0) {
        memset(buf, 0, (size_t)n * GUEST_PAGE_SIZE);
        return 0;
    }
    if (f->bad >= first && f->bad < first + n) {
        return -EIO;
    }
    memcpy(buf, f->vm->then + (first << GUEST_PAGE_BITS), (size_t)n * GUEST_PAGE_SIZE);
    atomic_fetch_add(urgent ? &f->urgent : &f->relaxed, n);
    return 0;
}

static void failed(void *opaque, unsigned block, uint64_t page, int rc)
{
    struct filler *f = opaque;
    assert_int_equal(13, page);
    assert_int_equal(-EIO, rc);
    f->failed++;
}

static void *reader_main(void *opaque)
{
    struct vm *vm = opaque;
    unsigned x = 5;
    for (unsigned i = 0; i < 3000; i++) {
        x = x * 1103515245 + 12345;
        uint64_t at = (x >> 8) % SIZE;
        assert_int_equal(vm->then[at], *(volatile uint8_t *)(vm->ram + at));
    }
    return NULL;
}

static void filled_while_in_use(void **state)
{
    struct vm *vm = *state;
    struct filler f = {.vm = vm, .bad = UINT64_MAX};
    if (!pages_can_fill(vm->pages)) {
        skip();
    }
    memcpy(vm->then, vm->ram, SIZE);
    memset(vm->ram, 0xee, SIZE);
    assert_int_equal(0, pages_prepare_fill(vm->pages, &(struct pages_source){&f, fetch, failed}, NULL));
    pages_empty(vm->pages);
    pthread_t t[2];
    for (unsigned i = 0; i < 2; i++) {
        pthread_create(&t[i], NULL, reader_main, vm);
    }
    while (!f.urgent) { /* a loaded host may not run them for a while */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    for (uint64_t at = 0; at < PAGES; at += 100) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        assert_int_equal(0, pages_fill(vm->pages, 1, at, 100));
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(t[i], NULL);
    }
    pages_end(vm->pages);
    assert_memory_equal(vm->then, vm->ram, SIZE);
    assert_true(f.urgent > 0 && f.relaxed > 0);
}

/* -overcommit mem-lock=on */
static void filled_although_locked(void **state)
{
    struct vm *vm = *state;
    if (mlock(vm->ram, SIZE) < 0) {
        skip();
    }
    filled_while_in_use(state);
}

struct access {
    struct vm *vm;
    _Atomic bool done;
    uint8_t seen;
};

static void *access_main(void *opaque)
{
    struct access *a = opaque;
    a->seen = *(volatile uint8_t *)(a->vm->ram + 13 * GUEST_PAGE_SIZE + 5);
    a->done = true;
    return NULL;
}

/* Nobody sees anything in its place; who can stop is told, who cannot waits. */
static void page_that_cannot_be_had(void **state)
{
    struct vm *vm = *state;
    struct filler f = {.vm = vm, .bad = 13};
    struct access a = {.vm = vm};
    const uint64_t gpa = 2 * BASE + 13 * GUEST_PAGE_SIZE + 5;
    pthread_t t;
    if (!pages_can_fill(vm->pages)) {
        skip();
    }
    memcpy(vm->then, vm->ram, SIZE);
    assert_int_equal(0, pages_prepare_fill(vm->pages, &(struct pages_source){&f, fetch, failed}, NULL));
    pages_empty(vm->pages);
    assert_int_equal(-EIO, pages_fill(vm->pages, 1, 0, 50));
    assert_int_equal(0, f.failed);
    assert_int_equal(vm->then[12 * GUEST_PAGE_SIZE], vm->ram[12 * GUEST_PAGE_SIZE]); /* its neighbours are fine */
    while (guest_mem_is_missing(vm->mem, 2 * BASE + 12 * GUEST_PAGE_SIZE)) { /* who brought it says so right after */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    assert_true(guest_mem_is_missing(vm->mem, gpa));
    assert_int_equal(-EIO, guest_mem_fetch(vm->mem, gpa));
    assert_int_equal(1, f.failed);
    assert_true(guest_mem_is_missing(vm->mem, gpa));
    pthread_create(&t, NULL, access_main, &a);
    while (f.failed < 3) { /* it is asked for again and again */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    assert_false(a.done);
    f.bad = UINT64_MAX;
    pthread_join(t, NULL);
    assert_int_equal(vm->then[13 * GUEST_PAGE_SIZE + 5], a.seen);
    assert_int_equal(0, guest_mem_fetch(vm->mem, gpa));
    assert_int_equal(0, guest_mem_fetch(vm->mem, 2 * BASE + 1000 * GUEST_PAGE_SIZE));
    assert_false(guest_mem_is_missing(vm->mem, 2 * BASE + 1000 * GUEST_PAGE_SIZE));
    assert_int_equal(0, pages_fill(vm->pages, 1, 0, PAGES_FILL_MAX));
}

/* --- what the loop needs --- */

static void on_come(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* Told when some have come. */
static void until_there(struct loop *l, struct vm *vm, uint64_t at, uint64_t len, struct loop_event *tell,
                        const unsigned *told)
{
    while (guest_mem_awaits(vm->mem, at, len, tell)) {
        for (unsigned was = *told; *told == was;) {
            loop_turn(l, true);
        }
    }
}

/* The loop asks and is told to look again, also when it was to no avail; it waits for no page. */
static void asked_for_by_the_loop(void **state)
{
    struct vm *vm = *state;
    struct filler f = {.vm = vm, .bad = 13};
    const uint64_t at = 2 * BASE + 5 * GUEST_PAGE_SIZE, bad = 2 * BASE + 13 * GUEST_PAGE_SIZE;
    unsigned told = 0;
    if (!pages_can_fill(vm->pages)) {
        skip();
    }
    struct loop *l = loop_create(LOOP_AUTO, NULL);
    struct loop_event *tell = loop_event_create(l, on_come, &told);
    memcpy(vm->then, vm->ram, SIZE);
    assert_int_equal(0, pages_prepare_fill(vm->pages, &(struct pages_source){&f, fetch, failed}, NULL));
    pages_empty(vm->pages);
    until_there(l, vm, at, 3 * GUEST_PAGE_SIZE, tell, &told);
    assert_true(told > 0);
    assert_memory_equal(vm->then + 5 * GUEST_PAGE_SIZE, vm->ram + 5 * GUEST_PAGE_SIZE, 3 * GUEST_PAGE_SIZE);
    told = 0;
    while (told < 3) {
        assert_true(guest_mem_awaits(vm->mem, bad - 1, 2, tell));
        loop_turn(l, true);
    }
    assert_true(f.failed >= 2);
    f.bad = UINT64_MAX;
    until_there(l, vm, bad, 1, tell, &told);
    assert_true(guest_mem_awaits(vm->mem, bad + 900 * GUEST_PAGE_SIZE, 1, tell));
    guest_mem_discard(vm->mem, bad + 500 * GUEST_PAGE_SIZE, 1); /* no matter what was there */
    assert_false(guest_mem_is_missing(vm->mem, bad + 500 * GUEST_PAGE_SIZE));
    assert_int_equal(0, vm->ram[513 * GUEST_PAGE_SIZE]);
    guest_mem_forget(vm->mem, tell);
    loop_event_destroy(tell);
    pages_end(vm->pages);
    loop_destroy(l);
}

/* The same for pages that are still to come: the kernel reads one and stores into another. */
static void kernel_meets_pages_that_are_to_come(void **state)
{
    struct vm *vm = *state;
    struct filler f = {.vm = vm, .bad = UINT64_MAX};
    const struct pages_source from = {&f, fetch, failed};
    int fds[2];
    setenv("STERNA_PAGES", "user", 1);
    bool can = pages_can_fill(vm->pages);
    memcpy(vm->then, vm->ram, SIZE);
    assert_int_equal(can ? 0 : -1, can ? pages_prepare_fill(vm->pages, &from, NULL) : -1);
    unsetenv("STERNA_PAGES");
    if (!can) {
        skip();
    }
    pages_empty(vm->pages);
    assert_int_equal(0, pipe(fds));
    assert_int_equal(-1, write(fds[1], vm->ram, 5));
    guest_mem_will_read(vm->mem, 2 * BASE, 5);
    assert_int_equal(5, write(fds[1], vm->ram, 5));
    guest_mem_will_write(vm->mem, 2 * BASE + 100 * GUEST_PAGE_SIZE, 5);
    assert_int_equal(5, read(fds[0], vm->ram + 100 * GUEST_PAGE_SIZE, 5));
    assert_memory_equal(vm->then, vm->ram + 100 * GUEST_PAGE_SIZE, 5);
    assert_memory_equal(vm->then + 100 * GUEST_PAGE_SIZE + 5, vm->ram + 100 * GUEST_PAGE_SIZE + 5, 4000);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(kept_by_uffd, setup, teardown),
        cmocka_unit_test_setup_teardown(kept_by_uffd_protected_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(kept_by_those_who_store, setup, teardown),
        cmocka_unit_test_setup_teardown(given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(limited, setup, teardown),
        cmocka_unit_test(a_wish_that_is_none),
        cmocka_unit_test_setup_teardown(kernel_stores_for_the_unprivileged, setup, teardown),
        cmocka_unit_test_setup_teardown(filled_while_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(filled_although_locked, setup, teardown),
        cmocka_unit_test_setup_teardown(asked_for_by_the_loop, setup, teardown),
        cmocka_unit_test_setup_teardown(kernel_meets_pages_that_are_to_come, setup, teardown),
        cmocka_unit_test_setup_teardown(page_that_cannot_be_had, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
