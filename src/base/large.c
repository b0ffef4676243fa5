/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/large.h"

#include <sys/mman.h>

uint8_t *large_map(size_t size, size_t beside, int prot)
{
    size_t all = size + 2 * beside + LARGE_PAGE;
    uint8_t *p = mmap(NULL, all, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    size_t before = (LARGE_PAGE - ((uintptr_t)p + beside) % LARGE_PAGE) % LARGE_PAGE;
    if (before) {
        munmap(p, before);
    }
    munmap(p + before + size + 2 * beside, LARGE_PAGE - before);
    return p + before + beside;
}
