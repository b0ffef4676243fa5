// SPDX-License-Identifier: BSD-2-Clause
/*
 * A variable store in a flash bank, as firmware has one: driven through /dev/mem, for guests whose kernel has no
 * driver.
 *
 *   nvram ADDRESS query           what the bank says of itself (CFI)
 *   nvram ADDRESS set BLOCK TEXT  erases block BLOCK, programs TEXT into it (in buffers), says SET when the bank is
 * ready nvram ADDRESS get BLOCK       prints the text nvram ADDRESS count BLOCK     programs one word after the other,
 * and says COUNT n as soon as each is ready nvram ADDRESS counted BLOCK   how many there are
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 32 << 20, BLOCK = 256 << 10, BUFFER = 2048 };

static volatile uint32_t *bank;

static uint32_t wait_ready(void)
{
    while ((bank[0] & 0x00800080) != 0x00800080) {
    }
    return bank[0] & 0x003a003a;
}

static void show_array(void)
{
    bank[0] = 0x00ff00ff;
}

static void erase(uint32_t at)
{
    bank[at / 4] = 0x00200020;
    bank[at / 4] = 0x00d000d0;
    if (wait_ready()) {
        printf("ERASE-FAILED\n");
        exit(1);
    }
}

static void program(uint32_t at, const uint32_t *words, uint32_t n)
{
    bank[at / 4] = 0x00e800e8;
    bank[at / 4] = (n - 1) * 0x00010001;
    for (uint32_t i = 0; i < n; i++) {
        bank[at / 4 + i] = words[i];
    }
    bank[at / 4] = 0x00d000d0;
    if (wait_ready()) {
        printf("PROGRAM-FAILED\n");
        exit(1);
    }
}

static void set(uint32_t at, const char *text)
{
    static char bytes[BUFFER];
    erase(at);
    strncpy(bytes, text, sizeof(bytes) - 1);
    program(at, (const uint32_t *)(const void *)bytes, (uint32_t)(strlen(bytes) + 4) / 4);
    printf("SET\n");
}

static void get(uint32_t at)
{
    char c;
    show_array();
    printf("GET ");
    for (uint32_t i = 0; i < BLOCK && (c = (char)(bank[(at + i) / 4] >> i % 4 * 8)) != 0 && c != (char)0xff; i++) {
        putchar(c);
    }
    printf("\n");
}

static void count(uint32_t at)
{
    erase(at);
    for (uint32_t i = 0; i < BLOCK / 4; i++) {
        program(at + 4 * i, &i, 1);
        printf("COUNT %u\n", i + 1);
        fflush(stdout);
    }
}

static void counted(uint32_t at)
{
    uint32_t n = 0;
    show_array();
    while (n < BLOCK / 4 && bank[at / 4 + n] == n) {
        n++;
    }
    printf("COUNTED %u\n", n);
}

static void query(void)
{
    bank[0x55] = 0x00980098;
    printf("QUERY %c%c%c set %u size 2^%u\n", bank[0x10] & 0xff, bank[0x11] & 0xff, bank[0x12] & 0xff,
           bank[0x13] & 0xff, 1 + (bank[0x27] & 0xff));
    show_array();
}

int main(int argc, char **argv)
{
    int fd = open("/dev/mem", O_RDWR | O_SYNC);
    if (argc < 3 || fd < 0) {
        perror("nvram");
        return 1;
    }
    void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)strtoull(argv[1], NULL, 0));
    uint32_t at = argc > 3 ? (uint32_t)atoi(argv[3]) % (SIZE / BLOCK) * BLOCK : 0;
    if (p == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    bank = p;
    if (!strcmp(argv[2], "query")) {
        query();
    } else if (!strcmp(argv[2], "set") && argc > 4) {
        set(at, argv[4]);
    } else if (!strcmp(argv[2], "get")) {
        get(at);
    } else if (!strcmp(argv[2], "count")) {
        count(at);
    } else if (!strcmp(argv[2], "counted")) {
        counted(at);
    } else {
        return 2;
    }
    return 0;
}
