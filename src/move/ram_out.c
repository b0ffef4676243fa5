/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/ram_out.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "base/zero.h"
#include "guest/pages.h"
#include "loop/co.h"
#include "move/dirty.h"
#include "move/lanes.h"

#include <errno.h>
#include <string.h>
#include <zstd.h>

enum {
    BATCH = 256,       /* pages taken at once */
    COPIED = 64,       /* pages on the loop: their copies stay in its processor's cache until they are sent */
    FRAME = 64,        /* pages compressed at once: what a lazy load must read for one of them */
    EARLY = 16,        /* pages taken with one that must not wait */
    GAP = 8,           /* pages that did not change, taken as if they had rather than beginning anew */
    COPIES = 64 << 20, /* bytes of copies from which on they are written before their turn */
    LIMIT = 128 << 20, /* bytes of copies from which on the guest is slowed down */
};

/* What the worker makes of some pages. */
struct batch {
    const struct ram_out *o;
    unsigned block, n;
    uint64_t first;
    uint8_t *buf, *own, *packed, *what; /* buf: `own`, or the guest's */
    uint8_t *base;                      /* the same pages of o->base; NULL: there is none */
    bool base_now;                      /* it is read by the worker */
    bool on_loop;                       /* it takes less time than a worker would need to begin */
    ZSTD_CCtx *zstd;
    struct state_run run[BATCH];
    const void *data[BATCH];
    unsigned runs;
    uint8_t *crcs; /* of live pages that go over several connections, in the order of the runs */
};

/* --- the worker's part ----------------------------------------------------------------------------------------------
 */

static void pack(struct batch *b, struct state_run *r, const void **data, size_t *used)
{
    size_t room = ZSTD_compressBound(r->bytes);
    size_t n = ZSTD_compressCCtx(b->zstd, b->packed + *used, room, *data, r->bytes, b->o->zstd_level);
    if (!ZSTD_isError(n) && n <= r->bytes - r->bytes / 32) {
        r->kind = STATE_PAGES_ZSTD;
        r->bytes = n;
        *data = b->packed + *used;
        *used += n;
    }
}

/* Runs of pages of a kind, those that were taken before left out. */
static void make_runs(struct batch *b)
{
    size_t used = 0;
    b->runs = 0;
    for (unsigned i = 0, to; i < b->n; i = to) {
        unsigned max = b->zstd && b->what[i] == PAGE_DATA ? FRAME : BATCH;
        for (to = i; to < b->n && to - i < max && b->what[to] == b->what[i]; to++) {
        }
        if (b->what[i] == PAGE_TAKEN_BEFORE) {
            continue;
        }
        bool zero = b->what[i] == PAGE_ZERO;
        struct state_run *r = &b->run[b->runs];
        *r = (struct state_run){.block = b->block,
                                .kind = zero ? STATE_PAGES_ZERO : STATE_PAGES_RAW,
                                .live = !zero && b->o->live,
                                .page = b->first + i,
                                .pages = to - i};
        r->bytes = zero ? 0 : (uint64_t)r->pages * STATE_PAGE;
        b->data[b->runs] = zero ? NULL : b->buf + (size_t)i * GUEST_PAGE_SIZE;
        if (b->zstd && !zero) {
            pack(b, r, &b->data[b->runs], &used);
        }
        b->runs++;
    }
}

static int read_base(struct batch *b)
{
    return lineage_read(b->o->base, b->block, b->first, b->n, b->base, b->base_now) < 0 ? -EBADMSG : 0;
}

static void leave_out_same(struct batch *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        const uint8_t *then = b->base + (size_t)i * GUEST_PAGE_SIZE, *now = b->buf + (size_t)i * GUEST_PAGE_SIZE;
        bool same = b->what[i] == PAGE_ZERO   ? buf_is_zero(then, GUEST_PAGE_SIZE)
                    : b->what[i] == PAGE_DATA ? memcmp(then, now, GUEST_PAGE_SIZE) == 0
                                              : false;
        b->what[i] = same ? PAGE_TAKEN_BEFORE : b->what[i];
    }
}

static void make_crcs(struct batch *b)
{
    uint8_t *to = b->crcs;
    for (unsigned i = 0; i < b->runs; i++) {
        for (uint64_t at = 0; b->run[i].live && at < b->run[i].bytes; at += STATE_PAGE, to += LANE_CRC) {
            store_le32(to, crc32c(0, (const uint8_t *)b->data[i] + at, STATE_PAGE));
        }
    }
}

static int take_batch(void *opaque)
{
    struct batch *b = opaque;
    int rc = b->o->dirty ? dirty_take(b->o->dirty, b->block, b->first, b->n, b->o->live ? NULL : b->buf, b->what)
                         : pages_take(b->o->vm->pages, b->block, b->first, b->n, b->buf, b->what);
    if (rc == 0 && b->base) {
        rc = b->base_now ? read_base(b) : 0;
        if (rc == 0) {
            leave_out_same(b);
        }
    }
    if (rc == 0) {
        make_runs(b);
    }
    if (rc == 0 && b->crcs) {
        make_crcs(b);
    }
    return rc;
}

/* --- the coroutine's ------------------------------------------------------------------------------------------------
 */

static uint64_t data_bytes(const struct batch *b)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < b->runs; i++) {
        n += b->run[i].bytes;
    }
    return n;
}

static void aim(struct batch *b, unsigned block, uint64_t first, unsigned n)
{
    b->block = block;
    b->first = first;
    b->n = n;
    b->buf = b->o->live ? guest_ram_get(b->o->vm->mem, block)->host + (first << GUEST_PAGE_BITS) : b->own;
}

static int write_batch(struct batch *b, unsigned block, uint64_t first, unsigned n)
{
    aim(b, block, first, n);
    int rc = *b->o->cancelled ? -ECANCELED : b->base && !b->base_now ? read_base(b) : 0;
    rc = rc < 0 ? rc : b->on_loop ? take_batch(b) : co_work(take_batch, b);
    if (rc == 0 && b->runs && b->o->pace) {
        rc = b->o->pace(b->o->opaque, data_bytes(b));
    }
    if (rc < 0 || b->runs == 0) {
        return rc;
    }
    if (b->runs == 1 && b->run[0].kind == STATE_PAGES_ZERO) { /* the writer joins it with its neighbours */
        return state_write_zero_pages(b->o->w, block, b->run[0].page, b->run[0].pages);
    }
    return state_write_runs(b->o->w, b->run, b->data, b->runs);
}

/* Copies that are too many. */
static int write_early(struct batch *b)
{
    struct pages *p = b->o->vm->pages;
    unsigned block = 0;
    uint64_t page = 0;
    int rc = 0;
    while (rc == 0 && pages_copied(p) > COPIES / 2 && pages_next_copy(p, &block, &page)) {
        page -= page % EARLY;
        uint64_t left = (guest_ram_get(b->o->vm->mem, block)->size >> GUEST_PAGE_BITS) - page;
        rc = write_batch(b, block, page, (unsigned)MIN(EARLY, left));
        page += EARLY;
    }
    return rc;
}

/* Whether the page may be another one than the base's. */
static bool changed(const struct ram_out *o, const struct guest_ram *r, uint64_t page)
{
    const uint8_t *log = o->since ? atomic_load(&r->dirty) : NULL;
    return !log || __atomic_load_n(&log[page], __ATOMIC_RELAXED) & o->since;
}

/* Pages from `at` on, to be written together; *skip of them before are as in the base. */
static unsigned next_changed(const struct ram_out *o, const struct guest_ram *r, uint64_t at, uint64_t *skip)
{
    uint64_t pages = r->size >> GUEST_PAGE_BITS, from = at, to;
    while (from < pages && !changed(o, r, from)) {
        from++;
    }
    *skip = from - at;
    uint64_t end = from;
    for (to = from; to < pages && to - from < BATCH && to - end <= GAP; to++) {
        end = changed(o, r, to) ? to + 1 : end;
    }
    return (unsigned)(end - from);
}

static int write_all(struct batch *b)
{
    const struct ram_out *o = b->o;
    const struct guest_ram *r;
    uint64_t done = 0, total = 0;
    int rc = 0;
    for (unsigned i = 0; (r = guest_ram_get(o->vm->mem, i)); i++) {
        total += r->size;
    }
    for (unsigned i = 0; rc == 0 && (r = guest_ram_get(o->vm->mem, i)); i++) {
        for (uint64_t at = 0, skip, pages = r->size >> GUEST_PAGE_BITS; rc == 0 && at < pages;) {
            unsigned n = next_changed(o, r, at, &skip);
            pages_pass(o->vm->pages, i, at, skip);
            rc = n ? write_batch(b, i, at + skip, n) : 0;
            rc = rc == 0 && pages_copied(o->vm->pages) > COPIES ? write_early(b) : rc;
            at += skip + n;
            done += (skip + n) << GUEST_PAGE_BITS;
            if (rc == 0 && o->progress) {
                o->progress(o->opaque, done, total);
            }
        }
    }
    return rc;
}

static int write_dirty(struct batch *b)
{
    const struct ram_out *o = b->o;
    const struct guest_ram *r;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && (r = guest_ram_get(o->vm->mem, i)); i++) {
        uint64_t pages = r->size >> GUEST_PAGE_BITS, at = 0;
        while (rc == 0 && (at = dirty_next(o->dirty, i, at)) != UINT64_MAX) {
            unsigned n = (unsigned)MIN(b->on_loop && !o->live ? COPIED : BATCH, pages - at);
            rc = write_batch(b, i, at, n);
            at += n;
            if (b->on_loop) {
                co_yield ();
            }
        }
    }
    return rc;
}

static struct batch *batch_create(const struct ram_out *o)
{
    struct batch *b = g_new0(struct batch, 1);
    b->o = o;
    b->on_loop = o->dirty && !o->lanes && !o->zstd_level;
    b->what = g_malloc(BATCH);
    if (!o->live) {
        b->own = g_malloc((size_t)BATCH * GUEST_PAGE_SIZE);
    }
    if (o->lanes) {
        b->crcs = g_malloc(BATCH * LANE_CRC);
    }
    if (o->base) {
        b->base = g_malloc((size_t)BATCH * GUEST_PAGE_SIZE);
        b->base_now = lineage_has_read_now(o->base);
    }
    if (o->zstd_level) {
        b->zstd = ZSTD_createCCtx();
        b->packed = g_malloc((BATCH / FRAME + BATCH) * ZSTD_compressBound(GUEST_PAGE_SIZE) +
                             ZSTD_compressBound((size_t)BATCH * GUEST_PAGE_SIZE));
    }
    return b;
}

static void batch_destroy(struct batch *b)
{
    ZSTD_freeCCtx(b->zstd);
    g_free(b->packed);
    g_free(b->base);
    g_free(b->own);
    g_free(b->crcs);
    g_free(b->what);
    g_free(b);
}

/* --- several connections -------------------------------------------------------------------------------------------
 */

/* Those who take batches, one for each connection. */
struct crew {
    const struct ram_out *o;
    unsigned block, working;
    uint64_t page; /* what lies before was taken */
    int rc;
    struct co_queue done;
};

struct hand {
    struct crew *crew;
    unsigned lane;
};

static bool next_batch(struct crew *c, struct batch *b)
{
    const struct guest_ram *r;
    while ((r = guest_ram_get(c->o->vm->mem, c->block))) {
        uint64_t at = dirty_next(c->o->dirty, c->block, c->page);
        if (at != UINT64_MAX) {
            aim(b, c->block, at, (unsigned)MIN(BATCH, (r->size >> GUEST_PAGE_BITS) - at));
            c->page = at + b->n;
            return true;
        }
        c->block++;
        c->page = 0;
    }
    return false;
}

static int send_batch(const struct ram_out *o, struct batch *b, unsigned lane)
{
    int rc = *o->cancelled ? -ECANCELED : co_work(take_batch, b);
    if (rc == 0 && b->runs && o->pace) {
        rc = o->pace(o->opaque, data_bytes(b));
    }
    if (rc < 0 || !b->runs) {
        return rc;
    }
    return lanes_out_put(o->lanes, lane, &(struct lane_load){b->run, b->data, b->crcs, b->runs});
}

static void hand_main(void *opaque)
{
    struct hand h = *(struct hand *)opaque;
    struct crew *c = h.crew;
    struct batch *b = batch_create(c->o);
    while (c->rc == 0 && next_batch(c, b)) {
        int rc = send_batch(c->o, b, h.lane);
        c->rc = c->rc ? c->rc : rc;
        if (c->o->progress) {
            c->o->progress(c->o->opaque, 0, 0);
        }
    }
    batch_destroy(b);
    c->working--;
    co_queue_wake_all(&c->done);
}

static int write_by_lanes(const struct ram_out *o)
{
    struct crew c = {.o = o, .working = lanes_out_count(o->lanes)};
    for (unsigned i = 0; i < lanes_out_count(o->lanes); i++) {
        co_start(o->vm->loop, hand_main, &(struct hand){&c, i});
    }
    while (c.working) {
        co_queue_wait(&c.done);
    }
    return c.rc;
}

/* --- all of it -----------------------------------------------------------------------------------------------------
 */

int ram_out_write(const struct ram_out *o)
{
    if (o->lanes) {
        return write_by_lanes(o);
    }
    struct batch *b = batch_create(o);
    if (!o->dirty) {
        pages_set_limit(o->vm->pages, LIMIT);
    }
    int rc = o->dirty ? write_dirty(b) : write_all(b);
    batch_destroy(b);
    return rc == 0 ? state_write_flush(o->w) : rc;
}
