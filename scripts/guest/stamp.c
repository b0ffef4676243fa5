/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The demo's and the tests' load inside the guest. Every 4 KiB block it writes carries its place, a sequence number and
 * a checksum, so that a block which is lost, torn or in the wrong place is recognised.
 *
 *   stamp fill DEV MIB                  writes the first MIB, sequence number 0          → "FILL-DONE"
 *   stamp run DEV MIB IOPS SECONDS      random O_DIRECT writes (0 seconds: for ever); prints a line a second:
 *                                       "W t=1 seq=300 p50us=210 p99us=400 maxus=900"; "ACK off=… seq=…" for each
 *                                       write with -a (what the host may rely on)
 *   stamp verify DEV MIB                → "VERIFY-OK blocks=N blank=0" or "VERIFY-BAD …"
 *   stamp mem MIB                       the same with pages of its memory, as fast as it can, at the lowest priority
 *                                       → "MEM-READY", "M seq=…" ten times a second, "MEM-BAD …", and on the word
 *                                       "verify" "MEM-OK pages=N seq=N"
 *   stamp tick MS                       prints '.' every MS milliseconds: the host times the gaps
 *
 * A run remembers the last sequence number of each block; on the word "verify" on standard input it stops
 * writing, reads every block back and compares with what it remembers: "VERIFY-OK …".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SHOWN = 8, BLOCK = 4096, CHUNK = 1 << 20, WORDS = BLOCK / 8, LAT_MAX = 1 << 16 };
#define MAGIC 0x616e726574532e31ull

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t checksum(const uint64_t *b)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (int i = 0; i < WORDS - 1; i++) {
        h = (h ^ b[i]) * 0x100000001b3ull;
    }
    return h;
}

static void stamp(uint64_t *b, uint64_t off, uint64_t seq)
{
    uint64_t r = off ^ (seq << 40);
    b[0] = MAGIC;
    b[1] = off;
    b[2] = seq;
    for (int i = 3; i < WORDS - 1; i++) {
        b[i] = next_random(&r);
    }
    b[WORDS - 1] = checksum(b);
}

enum verdict { BLANK, GOOD, BAD };

static enum verdict inspect(const uint64_t *b, uint64_t off)
{
    if (b[0] == 0) {
        for (int i = 1; i < WORDS; i++) {
            if (b[i]) {
                return BAD;
            }
        }
        return BLANK;
    }
    return b[0] == MAGIC && b[1] == off && b[WORDS - 1] == checksum(b) ? GOOD : BAD;
}

static void *buffer(size_t n)
{
    void *p;
    if (posix_memalign(&p, BLOCK, n)) {
        puts("STAMP-ERROR no memory");
        exit(1);
    }
    return p;
}

static int open_disk(const char *path)
{
    int fd = open(path, O_RDWR | O_DIRECT);
    if (fd < 0) {
        printf("STAMP-ERROR %s: %m\n", path);
        exit(1);
    }
    return fd;
}

static int fill(int fd, uint64_t bytes)
{
    uint8_t *buf = buffer(CHUNK);
    for (uint64_t off = 0; off < bytes; off += CHUNK) {
        for (size_t i = 0; i < CHUNK; i += BLOCK) {
            stamp((uint64_t *)(buf + i), off + i, 0);
        }
        if (pwrite(fd, buf, CHUNK, off) != CHUNK) {
            printf("STAMP-ERROR write at %llu: %m\n", (unsigned long long)off);
            return 1;
        }
    }
    if (fsync(fd)) {
        printf("STAMP-ERROR fsync: %m\n");
        return 1;
    }
    puts("FILL-DONE");
    return 0;
}

/* seen: the last acknowledged sequence number of each block, or NULL when nothing is remembered. */
static int verify(int fd, uint64_t bytes, const uint64_t *seen)
{
    uint8_t *buf = buffer(CHUNK);
    uint64_t bad = 0, blank = 0, stale = 0;
    for (uint64_t off = 0; off < bytes; off += CHUNK) {
        if (pread(fd, buf, CHUNK, off) != CHUNK) {
            printf("VERIFY-BAD read at %llu: %m\n", (unsigned long long)off);
            return 1;
        }
        for (size_t i = 0; i < CHUNK; i += BLOCK) {
            const uint64_t *b = (const uint64_t *)(buf + i);
            enum verdict v = inspect(b, off + i);
            bad += v == BAD;
            blank += v == BLANK;
            uint64_t found = v == BLANK ? 0 : b[2], want = seen ? seen[(off + i) / BLOCK] : found;
            if (v != BAD && found != want && stale++ < SHOWN) {
                printf("STALE off=%llu seq=%llu, written was %llu\n", (unsigned long long)(off + i),
                       (unsigned long long)found, (unsigned long long)want);
            }
        }
    }
    printf("%s blocks=%llu bad=%llu stale=%llu blank=%llu\n", bad || stale ? "VERIFY-BAD" : "VERIFY-OK",
           (unsigned long long)(bytes / BLOCK), (unsigned long long)bad, (unsigned long long)stale,
           (unsigned long long)blank);
    return bad || stale;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void report(uint64_t t0, uint64_t seq, uint32_t *lat, size_t n)
{
    if (!n) {
        return;
    }
    qsort(lat, n, sizeof(*lat), by_value);
    printf("W t=%llu seq=%llu p50us=%u p99us=%u maxus=%u\n", (unsigned long long)((now_us() - t0) / 1000000),
           (unsigned long long)seq, lat[n / 2], lat[n * 99 / 100], lat[n - 1]);
}

static int told_to_verify(void)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    char line[64];
    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLIN)) {
        return 0;
    }
    ssize_t n = read(0, line, sizeof(line) - 1);
    line[n > 0 ? n : 0] = 0;
    return strstr(line, "verify") != NULL;
}

static int run(int fd, uint64_t bytes, double iops, uint64_t seconds, int ack)
{
    uint64_t *b = buffer(BLOCK), *seen = calloc(bytes / BLOCK, sizeof(*seen));
    static uint32_t lat[LAT_MAX];
    uint64_t rng = now_us(), seq = 0, t0 = now_us(), second = t0;
    size_t n = 0;
    puts("RUN-READY");
    while (!seconds || now_us() - t0 < seconds * 1000000) {
        while (iops > 0 && (now_us() - t0) * iops / 1e6 < seq) {
            usleep(300);
        }
        uint64_t off = next_random(&rng) % (bytes / BLOCK) * BLOCK, a;
        stamp(b, off, ++seq);
        a = now_us();
        if (pwrite(fd, b, BLOCK, off) != BLOCK) {
            printf("STAMP-ERROR write at %llu: %m\n", (unsigned long long)off);
            return 1;
        }
        lat[n < LAT_MAX ? n++ : n - 1] = now_us() - a;
        seen[off / BLOCK] = seq;
        if (ack) {
            printf("ACK off=%llu seq=%llu\n", (unsigned long long)off, (unsigned long long)seq);
        }
        if (now_us() - second >= 1000000) {
            report(t0, seq, lat, n);
            n = 0;
            second = now_us();
            if (told_to_verify()) {
                break;
            }
        }
    }
    fsync(fd);
    printf("RUN-DONE seq=%llu\n", (unsigned long long)seq);
    return verify(fd, bytes, seen);
}

/* What a page holds and what the table remembers of it must be of one instant, whatever was saved and loaded. */
static int mem_page_bad(const uint64_t *b, uint64_t off, uint64_t seen)
{
    if (inspect(b, off) == GOOD && b[2] == seen) {
        return 0;
    }
    printf("MEM-BAD page=%llu holds off=%llu seq=%llu, written was %llu\n", (unsigned long long)(off / BLOCK),
           (unsigned long long)b[1], (unsigned long long)b[2], (unsigned long long)seen);
    return 1;
}

static int mem(uint64_t bytes)
{
    uint8_t *buf = buffer(bytes);
    uint64_t n = bytes / BLOCK, *seen = calloc(n, sizeof(*seen)), rng = 1, seq = 0, second;
    for (uint64_t i = 0; i < n; i++) {
        stamp((uint64_t *)(buf + i * BLOCK), i * BLOCK, 0);
    }
    puts("MEM-READY");
    if (nice(19) < 0) { /* a tick beside it must tell of the machine, not of the guest's scheduler */
        return 1;
    }
    second = now_us();
    for (;;) {
        uint64_t i = next_random(&rng) % n, *b = (uint64_t *)(buf + i * BLOCK);
        if (mem_page_bad(b, i * BLOCK, seen[i])) {
            return 1;
        }
        stamp(b, i * BLOCK, ++seq);
        seen[i] = seq;
        if (seq % 16 == 0 && now_us() - second >= 100000) {
            printf("M seq=%llu\n", (unsigned long long)seq);
            second = now_us();
            if (told_to_verify()) {
                break;
            }
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        if (mem_page_bad((uint64_t *)(buf + i * BLOCK), i * BLOCK, seen[i])) {
            return 1;
        }
    }
    printf("MEM-OK pages=%llu seq=%llu\n", (unsigned long long)n, (unsigned long long)seq);
    return 0;
}

static int tick(unsigned ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    for (;;) {
        t.tv_nsec += (long)ms * 1000000;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        if (write(1, ".", 1) != 1) {
            return 1;
        }
    }
}

int main(int argc, char **argv)
{
    int ack = argc > 1 && !strcmp(argv[1], "-a");
    argv += ack;
    argc -= ack;
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *verb = argc > 1 ? argv[1] : "";
    if (!strcmp(verb, "tick") && argc == 3) {
        return tick(atoi(argv[2]));
    }
    if (!strcmp(verb, "mem") && argc == 3) {
        return mem(strtoull(argv[2], NULL, 10) << 20);
    }
    if (argc < 4) {
        puts("STAMP-ERROR usage: stamp fill|run|verify DEV MIB [IOPS SECONDS] | stamp mem MIB | stamp tick MS");
        return 2;
    }
    int fd = open_disk(argv[2]);
    uint64_t bytes = strtoull(argv[3], NULL, 10) << 20;
    if (!strcmp(verb, "fill")) {
        return fill(fd, bytes);
    }
    if (!strcmp(verb, "verify")) {
        return verify(fd, bytes, NULL);
    }
    if (!strcmp(verb, "run") && argc == 6) {
        return run(fd, bytes, atof(argv[4]), strtoull(argv[5], NULL, 10), ack);
    }
    puts("STAMP-ERROR unknown verb");
    return 2;
}
