/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/ram_in.h"

#include "base/cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

enum { BLOCKS_MAX = 16 };

struct ram_in {
    struct vm *vm;
    unsigned n;
    uint8_t *block[BLOCKS_MAX];
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
    g_free(r);
}

struct ram_in *ram_in_create(struct vm *vm, struct err *e)
{
    struct ram_in *r = g_new0(struct ram_in, 1);
    const struct guest_ram *ram;
    r->vm = vm;
    for (; (ram = guest_ram_get(vm->mem, r->n)); r->n++) {
        void *p = mmap(NULL, ram->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
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

int ram_in_chunk(struct ram_in *r, struct state_reader *from)
{
    struct state_run run;
    int rc;
    while ((rc = state_read_run(from, &run)) > 0) {
        uint8_t *to = at(r, run.block, run.page);
        size_t len = (size_t)run.pages << GUEST_PAGE_BITS;
        if (run.kind == STATE_PAGES_ZERO) {
            madvise(to, len, MADV_DONTNEED);
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

void ram_in_replace(struct ram_in *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        uint8_t *to = guest_ram_get(r->vm->mem, i)->host;
        size_t size = size_of(r, i);
        if (mremap(r->block[i], size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
            memcpy(to, r->block[i], size);
            munmap(r->block[i], size);
        }
        r->block[i] = NULL;
    }
}
