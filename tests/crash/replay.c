/* SPDX-License-Identifier: BSD-2-Clause */
#include "replay.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <string.h>

enum { SECTOR = 512, SAMPLES = 1 << REPLAY_EXHAUSTIVE };

static uint64_t number(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return *seed >> 33;
}

static void set_size(struct memdisk *d, uint64_t size)
{
    d->data = g_realloc(d->data, size + 1);
    if (size > d->size) {
        memset(d->data + d->size, 0, size - d->size);
    }
    d->size = size;
}

/* torn: NULL, or the seed of which sectors arrive. */
static void apply(struct memdisk *d, const struct mem_op *op, uint64_t *torn)
{
    if (op->kind == MEM_SIZE) {
        set_size(d, op->len);
    }
    for (uint64_t at = op->off, end = op->off + op->len; op->kind == MEM_WRITE && at < end;) {
        uint64_t stop = min_u64(end, (at | (SECTOR - 1)) + 1);
        if (!torn || number(torn) % 2) {
            if (d->size < stop) {
                set_size(d, stop);
            }
            memcpy(d->data + at, op->data + (at - op->off), stop - at);
        }
        at = stop;
    }
}

struct interval {
    struct replay *r;
    const struct memdisk *base; /* with all that is certain */
    GArray *ops;                /* unsigned: log entries that are not */
    unsigned at;
    replay_fn *fn;
    void *opaque;
};

/* One crash: `in` says which of the outstanding ones arrived; `torn` is the one of which only a part did, or -1. */
static void one(struct interval *v, const uint8_t *in, int torn)
{
    struct memdisk d = {.data = g_malloc(v->base->size + 1), .size = v->base->size};
    memcpy(d.data, v->base->data, d.size);
    CLEANUP_FREE char *bits = g_malloc0(v->ops->len + 1);
    for (unsigned i = 0; i < v->ops->len; i++) {
        bits[i] = !in[i] ? '-' : (int)i == torn ? 't' : 'w';
        if (in[i]) {
            const struct mem_op *op = &g_array_index(v->r->log, struct mem_op, g_array_index(v->ops, unsigned, i));
            apply(&d, op, (int)i == torn ? &v->r->seed : NULL);
        }
    }
    v->r->points++;
    v->fn(v->opaque, &d, v->at, bits);
    memdisk_finish(&d);
}

static void with_torn(struct interval *v, const uint8_t *in)
{
    unsigned pick = v->ops->len ? number(&v->r->seed) % v->ops->len : 0;
    for (unsigned i = 0; i < v->ops->len; i++, pick = (pick + 1) % v->ops->len) {
        const struct mem_op *op = &g_array_index(v->r->log, struct mem_op, g_array_index(v->ops, unsigned, pick));
        if (in[pick] && op->kind == MEM_WRITE && op->off / SECTOR != (op->off + op->len - 1) / SECTOR) {
            one(v, in, (int)pick);
            return;
        }
    }
}

static void sample(struct interval *v, unsigned how, uint8_t *in)
{
    unsigned n = v->ops->len, pick = number(&v->r->seed) % n;
    for (unsigned i = 0; i < n; i++) {
        switch (how % 5) {
        case 0:
            in[i] = i <= pick;
            break;
        case 1:
            in[i] = i != pick;
            break;
        case 2:
            in[i] = i == pick;
            break;
        case 3:
            in[i] = number(&v->r->seed) % 2;
            break;
        default:
            in[i] = number(&v->r->seed) % 8 != 0;
        }
    }
}

static void one_interval(struct interval *v)
{
    unsigned n = v->ops->len;
    CLEANUP_FREE uint8_t *in = g_malloc0(n + 1);
    unsigned all = n <= REPLAY_EXHAUSTIVE ? 1u << n : SAMPLES;
    bool exhaustive = n <= REPLAY_EXHAUSTIVE && (!v->r->most || all <= v->r->most);
    unsigned count = v->r->most && v->r->most < all ? v->r->most : all;
    for (unsigned k = 0; k < count; k++) {
        if (exhaustive) {
            for (unsigned i = 0; i < n; i++) {
                in[i] = k >> i & 1;
            }
        } else {
            sample(v, k, in);
        }
        one(v, in, -1);
        with_torn(v, in);
    }
}

/* Behind which entry everything is certain, entry by entry: a flush covers what lay before its beginning. */
void replay_run(struct replay *r, replay_fn *fn, void *opaque)
{
    struct memdisk base = {.data = g_malloc(r->start->size + 1), .size = r->start->size};
    memcpy(base.data, r->start->data, base.size);
    struct interval v = {r, &base, g_array_new(FALSE, FALSE, sizeof(unsigned)), 0, fn, opaque};
    unsigned long before = 0;
    for (unsigned i = 0; i <= r->log->len; i++) {
        const struct mem_op *op = i < r->log->len ? &g_array_index(r->log, struct mem_op, i) : NULL;
        if (op && op->kind != MEM_FLUSHED) {
            g_array_append_val(v.ops, i);
            continue;
        }
        v.at = i;
        if (v.ops->len || !before) {
            one_interval(&v);
        }
        before = r->points;
        while (op && v.ops->len && g_array_index(v.ops, unsigned, 0) < op->off) {
            apply(&base, &g_array_index(r->log, struct mem_op, g_array_index(v.ops, unsigned, 0)), NULL);
            g_array_remove_index(v.ops, 0);
        }
    }
    g_array_free(v.ops, TRUE);
    memdisk_finish(&base);
}
