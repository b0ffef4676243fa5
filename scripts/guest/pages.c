/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the benchmark's guest does with its memory while it is moved. MIB is a power of two.
 *
 *   pages dirty MIB RATE    writes to RATE pages a second, chosen at random, at the lowest priority
 *                           → "DIRTY-READY", "D seq=N" once a second
 *   pages touch MIB         reads all pages in random order, again and again → "TOUCH-READY"; on the word "mark"
 *                           "MARKED", and on "report" "T slow=N p50us=… p99us=… maxus=…" of the reads since then that
 *                           took SLOW_US or more: those whose page was not there
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, SLOW_US = 20, SLOW_MAX = 1 << 16, LOOK = 64 };

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Each page of `n` once before any comes again. */
static uint64_t next_page(uint64_t i, uint64_t n)
{
    return (i * 1664525 + 1013904223) & (n - 1);
}

static int told(const char *word)
{
    static char line[64];
    struct pollfd p = {.fd = 0, .events = POLLIN};
    if (poll(&p, 1, 0) == 1 && p.revents & POLLIN) {
        ssize_t n = read(0, line, sizeof(line) - 1);
        line[n > 0 ? n : 0] = 0;
    }
    if (!strstr(line, word)) {
        return 0;
    }
    line[0] = 0;
    return 1;
}

static int dirty(volatile uint64_t *mem, uint64_t n, uint64_t rate)
{
    uint64_t begin, second, seq = 0, i = 0;
    puts("DIRTY-READY");
    if (nice(19) < 0) {
        return 1;
    }
    begin = second = now_us();
    for (;;) {
        uint64_t now = now_us();
        for (; seq < (now - begin) * rate / 1000000; i = next_page(i, n)) {
            mem[i * WORDS] = ++seq;
        }
        if (now - second >= 1000000) {
            printf("D seq=%llu\n", (unsigned long long)seq);
            second = now;
        }
        usleep(500);
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void touch(const volatile uint64_t *mem, uint64_t n)
{
    static uint32_t slow[SLOW_MAX];
    size_t count = 0;
    uint64_t reads = 0, i = 0;
    puts("TOUCH-READY");
    for (;; i = next_page(i, n)) {
        uint64_t before = now_us(), took;
        (void)mem[i * WORDS];
        took = now_us() - before;
        if (took >= SLOW_US && count < SLOW_MAX) {
            slow[count++] = took;
        }
        if (++reads % LOOK == 0 && told("mark")) {
            count = 0;
            puts("MARKED");
        } else if (reads % LOOK == 0 && told("report")) {
            qsort(slow, count, sizeof(*slow), by_value);
            printf("T slow=%zu p50us=%u p99us=%u maxus=%u\n", count, count ? slow[count / 2] : 0,
                   count ? slow[count * 99 / 100] : 0, count ? slow[count - 1] : 0);
            count = 0;
        }
    }
}

int main(int argc, char **argv)
{
    uint64_t bytes = argc > 2 ? strtoull(argv[2], NULL, 10) << 20 : 0;
    uint8_t *mem;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (bytes & (bytes - 1) || !bytes || posix_memalign((void **)&mem, PAGE, bytes)) {
        puts("PAGES-ERROR usage: pages dirty MIB RATE | pages touch MIB");
        return 2;
    }
    for (uint64_t at = 0; at < bytes; at += PAGE) {
        *(uint64_t *)(void *)(mem + at) = at + 1;
    }
    if (argc == 4 && !strcmp(argv[1], "dirty")) {
        return dirty((void *)mem, bytes / PAGE, strtoull(argv[3], NULL, 10));
    }
    touch((void *)mem, bytes / PAGE);
}
