/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/dirty.h"

#include "base/zero.h"
#include "guest/pages.h"

#include <string.h>

enum { BLOCKS_MAX = 16, AHEAD = 4 };

struct dirty {
    struct vm *vm;
    uint8_t *map[BLOCKS_MAX]; /* one byte a page, 1: dirty */
    _Atomic uint64_t pages;
    bool last; /* dirty_last() */
};

static uint64_t pages_of(const struct guest_ram *r)
{
    return r->size >> GUEST_PAGE_BITS;
}

int dirty_create(struct vm *vm, struct dirty **out, struct err *e)
{
    const struct guest_ram *r;
    int rc = guest_dirty_log_start(vm->mem, DIRTY_MOVE, e);
    if (rc) {
        return rc;
    }
    struct dirty *d = g_new0(struct dirty, 1);
    d->vm = vm;
    for (unsigned i = 0; i < BLOCKS_MAX && (r = guest_ram_get(vm->mem, i)); i++) {
        d->map[i] = g_malloc(pages_of(r));
        memset(d->map[i], 1, pages_of(r));
        d->pages += pages_of(r);
    }
    vm->accel_ops->dirty_log_changed(vm->accel);
    *out = d;
    return 0;
}

void dirty_destroy(struct dirty *d)
{
    if (!d) {
        return;
    }
    guest_dirty_log_stop(d->vm->mem, DIRTY_MOVE);
    for (unsigned i = 0; i < BLOCKS_MAX; i++) {
        g_free(d->map[i]);
    }
    g_free(d);
}

static uint64_t harvest_block(struct dirty *d, uint8_t *map, uint8_t *log, uint64_t pages)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < pages;) {
        uint64_t word = 0;
        if (i % 8 == 0 && pages - i >= 8) {
            memcpy(&word, log + i, 8);
            if (!(word & UINT64_C(0x0101010101010101) * DIRTY_MOVE)) {
                i += 8;
                continue;
            }
        }
        if (__atomic_load_n(&log[i], __ATOMIC_RELAXED) & DIRTY_MOVE) {
            __atomic_fetch_and(&log[i], (uint8_t)~DIRTY_MOVE, __ATOMIC_SEQ_CST);
            found++;
            d->pages += !map[i];
            map[i] = 1;
        }
        i++;
    }
    return found;
}

/*
 * The log is cleared first, then cached permissions to store are dropped, then pages are read: a store that was not
 * logged is over by then. (RV law: a hart marks a page when it gets the permission, accel.h.)
 */
uint64_t dirty_harvest(struct dirty *d)
{
    struct guest_ram *r;
    uint64_t found = 0;
    for (unsigned i = 0; i < BLOCKS_MAX && (r = guest_ram_get(d->vm->mem, i)); i++) {
        uint8_t *log = atomic_load(&r->dirty);
        found += log ? harvest_block(d, d->map[i], log, pages_of(r)) : 0;
    }
    if (found) {
        d->vm->accel_ops->dirty_log_changed(d->vm->accel);
    }
    return found;
}

void dirty_last(struct dirty *d)
{
    d->last = true;
}

/* It has been written to since it was harvested, and will be again: what could be sent is of no use there. */
static bool is_dirty_again(const struct dirty *d, const uint8_t *log, uint64_t page)
{
    return log && !d->last && __atomic_load_n(&log[page], __ATOMIC_RELAXED) & DIRTY_MOVE;
}

uint64_t dirty_pages(const struct dirty *d)
{
    return d->pages;
}

uint64_t dirty_next(const struct dirty *d, unsigned block, uint64_t page)
{
    uint64_t pages = pages_of(guest_ram_get(d->vm->mem, block));
    const uint8_t *found = page < pages ? memchr(d->map[block] + page, 1, pages - page) : NULL;
    return found ? (uint64_t)(found - d->map[block]) : UINT64_MAX;
}

int dirty_take(struct dirty *d, unsigned block, uint64_t first, unsigned n, uint8_t *buf, uint8_t *what)
{
    struct guest_ram *r = guest_ram_get(d->vm->mem, block);
    uint8_t *map = d->map[block], *log = atomic_load(&r->dirty);
    for (unsigned i = 0; i < n; i++) {
        what[i] = PAGE_TAKEN_BEFORE;
        if (!map[first + i] || is_dirty_again(d, log, first + i)) {
            continue;
        }
        /* A copy, if there is one, is what is sent: the guest may write to the page at the same time, and the log
         * tells. */
        const uint8_t *from = r->host + ((first + i) << GUEST_PAGE_BITS);
        __builtin_prefetch(from + AHEAD * GUEST_PAGE_SIZE);
        what[i] = buf_is_zero(from, GUEST_PAGE_SIZE) ? PAGE_ZERO : PAGE_DATA;
        if (what[i] == PAGE_DATA && buf) {
            memcpy(buf + (size_t)i * GUEST_PAGE_SIZE, from, GUEST_PAGE_SIZE);
        }
        map[first + i] = 0;
        d->pages--;
    }
    return 0;
}
