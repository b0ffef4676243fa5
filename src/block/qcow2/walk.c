/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"

#include <inttypes.h>
#include <stdlib.h>

enum { BATCH_BYTES = 1 << 20, BATCH_TABLES = 1024, READERS = 16, RUN = 64 };

/* Tables that are read together. */
struct batch {
    struct qcow2 *s;
    const uint64_t *l1;
    uint32_t index[BATCH_TABLES], count, next; /* next: who is read next */
    uint8_t *buf;
    unsigned running;
    struct co *parent;
    int rc;
};

static uint64_t offset_of(const struct batch *b, uint32_t i)
{
    return b->l1[b->index[i]] & L1E_OFFSET;
}

static void reader(void *arg)
{
    struct batch *b = arg;
    uint64_t size = b->s->cluster_size;
    while (b->next < b->count && b->rc == 0) {
        uint32_t first = b->next, n = 1;
        while (n < RUN && first + n < b->count && offset_of(b, first + n) == offset_of(b, first) + n * size) {
            n++;
        }
        b->next += n;
        int rc = file_read_buf(b->s->file, offset_of(b, first), n * size, b->buf + first * size);
        b->rc = b->rc < 0 ? b->rc : rc;
    }
    if (--b->running == 0) {
        co_wake(b->parent);
    }
}

static int read_batch(struct batch *b)
{
    unsigned n = min_u64(b->count, READERS);
    b->next = 0;
    b->rc = 0;
    b->running = n + 1; /* one for us, so that we are woken once */
    for (unsigned i = 0; i < n; i++) {
        co_start(co_loop(), reader, b);
    }
    if (--b->running) {
        do {
            co_wait();
        } while (b->running);
    }
    return b->rc;
}

/* The next tables from *at on. */
static int fill_batch(struct batch *b, uint32_t *at, uint32_t n, uint32_t max)
{
    b->count = 0;
    for (; *at < n && b->count < max; ++*at) {
        uint64_t off = b->l1[*at] & L1E_OFFSET;
        if (off & (b->s->cluster_size - 1)) {
            return qcow2_corrupt(b->s, true, -1, -1, "L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx32 ")",
                                 off, *at);
        }
        if (off) {
            b->index[b->count++] = *at;
        }
    }
    return 0;
}

int l2_walk(struct qcow2 *s, const uint64_t *l1, uint32_t n, l2_fn *fn, void *opaque)
{
    uint32_t max = max_u64(min_u64(BATCH_BYTES >> s->cluster_bits, BATCH_TABLES), 1), at = 0;
    struct batch *b = g_new(struct batch, 1);
    *b = (struct batch){.s = s, .l1 = l1, .parent = co_self()};
    b->buf = block_buf_alloc(s->file->child, (size_t)max << s->cluster_bits);
    int rc = b->buf ? 0 : -ENOMEM;
    while (at < n && rc == 0) {
        rc = fill_batch(b, &at, n, max);
        rc = rc < 0 || !b->count ? rc : read_batch(b);
        for (uint32_t i = 0; i < b->count && rc == 0; i++) {
            rc = fn(opaque, b->index[i], offset_of(b, i), b->buf + ((size_t)i << s->cluster_bits));
        }
    }
    free(b->buf);
    g_free(b);
    return rc;
}
