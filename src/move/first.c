/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/first.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <pthread.h>
#include <string.h>

enum { HEAD = 8, ENTRY = 16, RUNS_MAX = 16384 };

struct first {
    struct vm *vm;
    pthread_mutex_t mutex;
    GArray *runs; /* struct state_run */
    unsigned known;
};

static bool fits(const struct vm *vm, const struct state_run *r)
{
    const struct guest_ram *ram = guest_ram_get(vm->mem, r->block);
    return ram && r->pages && range_ok(r->page, r->pages, ram->size >> GUEST_PAGE_BITS);
}

static void parse(struct first *f, const GByteArray *b)
{
    uint64_t n = b && b->len >= HEAD ? load_le32(b->data) : 0;
    for (uint64_t i = 0; i < n && i < RUNS_MAX && HEAD + (i + 1) * ENTRY <= b->len; i++) {
        const uint8_t *p = b->data + HEAD + i * ENTRY;
        struct state_run r = {.page = load_le64(p), .pages = load_le32(p + 8), .block = load_le16(p + 12)};
        if (fits(f->vm, &r)) {
            g_array_append_val(f->runs, r);
        }
    }
    f->known = f->runs->len;
}

struct first *first_create(struct vm *vm, const GByteArray *saved)
{
    struct first *f = g_new0(struct first, 1);
    f->vm = vm;
    f->runs = g_array_new(FALSE, FALSE, sizeof(struct state_run));
    pthread_mutex_init(&f->mutex, NULL);
    parse(f, saved ? saved : vm->first_used);
    return f;
}

void first_destroy(struct first *f)
{
    if (f) {
        pthread_mutex_destroy(&f->mutex);
        g_array_unref(f->runs);
        g_free(f);
    }
}

unsigned first_count(const struct first *f)
{
    return f->known;
}

struct state_run first_get(const struct first *f, unsigned i)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock((pthread_mutex_t *)(uintptr_t)&f->mutex);
    return g_array_index(f->runs, struct state_run, i);
}

void first_add(struct first *f, unsigned block, uint64_t page, unsigned n)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    struct state_run r = {.block = block, .page = page, .pages = n};
    struct state_run *last =
        f->runs->len > f->known ? &g_array_index(f->runs, struct state_run, f->runs->len - 1) : NULL;
    if (last && last->block == block && last->page + last->pages == page && n <= UINT32_MAX - last->pages) {
        last->pages += n;
    } else if (f->runs->len < RUNS_MAX) {
        g_array_append_val(f->runs, r);
    }
}

void first_keep(struct first *f)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    GByteArray *b = g_byte_array_new();
    g_byte_array_set_size(b, HEAD + f->runs->len * ENTRY);
    memset(b->data, 0, b->len);
    store_le32(b->data, f->runs->len);
    for (guint i = 0; i < f->runs->len; i++) {
        const struct state_run *r = &g_array_index(f->runs, struct state_run, i);
        uint8_t *p = b->data + HEAD + (size_t)i * ENTRY;
        store_le64(p, r->page);
        store_le32(p + 8, r->pages);
        store_le16(p + 12, (uint16_t)r->block);
    }
    if (f->vm->first_used) {
        g_byte_array_unref(f->vm->first_used);
    }
    f->vm->first_used = b;
}
