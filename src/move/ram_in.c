/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/ram_in.h"

#include "base/cleanup.h"
#include "base/large.h"
#include "base/memory.h"
#include "base/zero.h"
#include "loop/co.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

enum {
    BLOCKS_MAX = 16,
    MAP_MIN = 16,     /* pages: less is read, as a mapping costs more */
    MAPS_MAX = 32768, /* the kernel allows twice as many by default */
    READ_PAGES = 256,
    AHEAD = 8 << 20, /* bytes made ready before they come */
};

/* Mapped from a file. */
struct mapped {
    unsigned block, pages;
    uint64_t page;
};

struct ram_in {
    struct vm *vm;
    unsigned n;
    uint8_t *block[BLOCKS_MAX];
    GArray *maps; /* struct mapped, ascending */
    bool touched; /* and stays so: there, or known to be zero */
    bool ahead;   /* memory is made ready before it is needed */
    bool working; /* a coroutine does so: */
    unsigned ahead_block;
    uint64_t ready[BLOCKS_MAX]; /* bytes of the block: below them it is done, or was written to */
    uint64_t ahead_to;          /* of ahead_block */
    struct co_queue settled;
};

static size_t size_of(const struct ram_in *r, unsigned i)
{
    return guest_ram_get(r->vm->mem, i)->size;
}

void ram_in_destroy(struct ram_in *r)
{
    if (!r) {
        return;
    }
    for (unsigned i = 0; i < r->n; i++) {
        if (r->block[i]) {
            munmap(r->block[i], size_of(r, i));
        }
    }
    g_array_unref(r->maps);
    g_free(r);
}

struct ram_in *ram_in_create(struct vm *vm, struct err *e)
{
    struct ram_in *r = g_new0(struct ram_in, 1);
    const struct guest_ram *ram;
    r->vm = vm;
    r->maps = g_array_new(FALSE, FALSE, sizeof(struct mapped));
    for (; (ram = guest_ram_get(vm->mem, r->n)); r->n++) {
        /* as the guest's own, whose place it takes in whole tables and large pages: the guest stands still then */
        uint8_t *p = memory_map(&ram->policy, ram->size, 0);
        if (!p) {
            err_set(e, ENOMEM, "RAM '%s': no memory to load %" PRIu64 " MiB beside it", ram->name, ram->size >> 20);
            ram_in_destroy(r);
            return NULL;
        }
        r->block[r->n] = p;
    }
    return r;
}

static uint8_t *at(struct ram_in *r, unsigned block, uint64_t page)
{
    return r->block[block] + (page << GUEST_PAGE_BITS);
}

/* What the machine has and does not use: the kernel moves it as it is. */
static bool take_spare(struct ram_in *r, unsigned i)
{
    struct guest_ram *ram = guest_ram_get(r->vm->mem, i);
    bool spare = ram->spare;
    ram->spare = false;
    return spare && mremap(ram->host, ram->size, ram->size, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
                           r->block[i]) == r->block[i];
}

static int populate(void *opaque)
{
    const struct ram_in *r = opaque;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < r->n; i++) {
        const struct guest_ram *ram = guest_ram_get(r->vm->mem, i);
        rc = ram->policy.prealloc ? memory_populate(&ram->policy, r->block[i], ram->size) : 0;
    }
    return rc;
}

int ram_in_preallocate(struct ram_in *r, struct err *e)
{
    bool all = true, any = false;
    for (unsigned i = 0; i < r->n; i++) {
        bool wanted = guest_ram_get(r->vm->mem, i)->policy.prealloc;
        any |= wanted;
        all &= !wanted || take_spare(r, i);
    }
    r->touched |= any;
    int rc = all ? 0 : co_work(populate, r);
    return rc < 0 ? err_set_errno(e, -rc, "RAM: no memory to load it beside what the machine has") : 0;
}

void ram_in_give_back(struct ram_in *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        struct guest_ram *ram = guest_ram_get(r->vm->mem, i);
        if (ram->spare) {
            madvise(ram->host, ram->size, MADV_DONTNEED);
        }
        ram->spare = false;
    }
}

void ram_in_expect_all(struct ram_in *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        madvise(r->block[i], size_of(r, i), MADV_HUGEPAGE);
    }
}

void ram_in_work_ahead(struct ram_in *r)
{
    r->ahead = !r->touched;
}

struct piece {
    uint8_t *at;
    size_t len;
};

/* What the kernel would do, clearing included, when the first byte comes: a third of what a byte costs here. */
static int make_ready(void *opaque)
{
    const struct piece *p = opaque;
    return madvise(p->at, p->len, MADV_POPULATE_WRITE);
}

static void work_ahead(void *opaque)
{
    struct ram_in *r = opaque;
    uint64_t *ready = &r->ready[r->ahead_block];
    while (r->ahead && *ready < r->ahead_to) {
        struct piece p = {r->block[r->ahead_block] + *ready, MIN(LARGE_PAGE, r->ahead_to - *ready)};
        *ready += p.len;
        r->ahead = co_work(make_ready, &p) == 0; /* Linux before 5.14, or no memory: it is had when it is needed */
    }
    r->working = false;
    co_queue_wake_all(&r->settled);
}

/*
 * Bytes up to `end` are about to come, as zeroes or not. Most come in order first, and here and there later: only what
 * lies behind all that has come is made ready.
 */
static void reach(struct ram_in *r, unsigned block, uint64_t end, bool zero)
{
    if (!r->ahead || (r->working && block != r->ahead_block)) {
        return;
    }
    end = MIN((end + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE, size_of(r, block));
    r->ready[block] = MAX(r->ready[block], end);
    r->ahead_block = block;
    r->ahead_to = zero ? 0 : MIN(end + AHEAD, size_of(r, block));
    if (!r->working && r->ready[block] < r->ahead_to) {
        r->working = true;
        co_start(r->vm->loop, work_ahead, r);
    }
}

void ram_in_settle(struct ram_in *r)
{
    r->ahead = false;
    while (r->working) {
        co_queue_wait(&r->settled);
    }
}

static int touch(void *opaque)
{
    const struct ram_in *r = opaque;
    for (unsigned i = 0; i < r->n; i++) {
        if (madvise(r->block[i], size_of(r, i), MADV_POPULATE_READ) == 0) {
            continue;
        }
        for (size_t k = 0; k < size_of(r, i); k += GUEST_PAGE_SIZE) { /* Linux before 5.14 */
            (void)*(volatile uint8_t *)(r->block[i] + k);
        }
    }
    return 0;
}

int ram_in_touch(struct ram_in *r)
{
    r->touched = true;
    return co_work(touch, r);
}

uint8_t *ram_in_place(struct ram_in *r, unsigned block, uint64_t page, uint64_t pages, bool zero)
{
    uint64_t there = block < r->n ? size_of(r, block) >> GUEST_PAGE_BITS : 0;
    if (!pages || page >= there || pages > there - page) {
        return NULL;
    }
    reach(r, block, (page + pages) << GUEST_PAGE_BITS, zero);
    return at(r, block, page);
}

void ram_in_clear(struct ram_in *r, uint8_t *to, size_t len)
{
    if (!r->touched) {
        madvise(to, len, MADV_DONTNEED);
    } else if (!buf_is_zero(to, len)) {
        memset(to, 0, len);
    }
}

int ram_in_chunk(struct ram_in *r, struct state_reader *from)
{
    struct state_run run;
    int rc;
    while ((rc = state_read_run(from, &run)) > 0) {
        uint8_t *to = at(r, run.block, run.page);
        size_t len = (size_t)run.pages << GUEST_PAGE_BITS;
        reach(r, run.block, (run.page + run.pages) << GUEST_PAGE_BITS, run.kind == STATE_PAGES_ZERO);
        if (run.kind == STATE_PAGES_ZERO) {
            ram_in_clear(r, to, len);
        } else if (run.kind == STATE_PAGES_SAME) {
            memmove(to, at(r, run.other_block, run.other_page), len);
        } else {
            rc = state_read_run_data(from, to);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return rc;
}

static int map_piece(struct ram_in *r, const struct mapped *m, int fd, uint64_t offset, struct err *e)
{
    void *to = at(r, m->block, m->page);
    size_t len = (size_t)m->pages << GUEST_PAGE_BITS;
    if (mmap(to, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) ==
        MAP_FAILED) {
        return err_set_errno(e, errno, "RAM '%s' cannot be mapped from the file",
                             guest_ram_get(r->vm->mem, m->block)->name);
    }
    g_array_append_val(r->maps, *m);
    return 0;
}

static int map_block(struct ram_in *r, const struct lineage *from, unsigned block, struct err *e)
{
    uint64_t pages = size_of(r, block) >> GUEST_PAGE_BITS, offset;
    int rc = 0;
    for (struct mapped m = {.block = block}; rc == 0 && m.page < pages; m.page += m.pages) {
        bool zero;
        m.pages = (unsigned)MIN(pages - m.page, INT32_MAX);
        int fd = lineage_place(from, block, m.page, &m.pages, &offset, &zero);
        if (fd >= 0 && m.pages >= MAP_MIN && r->maps->len < MAPS_MAX) {
            rc = map_piece(r, &m, fd, offset, e);
        } else if (!zero) {
            m.pages = MIN(m.pages, READ_PAGES);
            rc = lineage_read(from, block, m.page, m.pages, at(r, block, m.page), false);
            rc = rc < 0 ? err_set_errno(e, -rc, "%s: RAM could not be read", lineage_name(from, 0)) : 0;
        }
    }
    return rc;
}

int ram_in_map(struct ram_in *r, const struct lineage *from, struct err *e)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < r->n; i++) {
        rc = map_block(r, from, i, e);
    }
    return rc;
}

/* One mapping, or a part of it, as the kernel moves no more at a time. */
static void move(uint8_t *to, uint8_t *from, size_t size)
{
    if (size && mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
        memcpy(to, from, size);
        munmap(from, size);
    }
}

void ram_in_replace(struct ram_in *r)
{
    for (unsigned i = 0, k = 0; i < r->n; i++) {
        struct guest_ram *ram = guest_ram_get(r->vm->mem, i);
        uint64_t done = 0;
        ram->of_file = ram->spare = false;
        for (const struct mapped *m; k < r->maps->len && (m = &g_array_index(r->maps, struct mapped, k))->block == i;
             k++) {
            uint64_t from = m->page << GUEST_PAGE_BITS, size = (uint64_t)m->pages << GUEST_PAGE_BITS;
            move(ram->host + done, r->block[i] + done, from - done);
            move(ram->host + from, r->block[i] + from, size);
            done = from + size;
            ram->of_file = true;
        }
        move(ram->host + done, r->block[i] + done, ram->size - done);
        r->block[i] = NULL;
    }
}
