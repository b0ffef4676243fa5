/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decoded blocks, found by physical address. One arena per hart, filled from the front; when it is full everything
 * goes. Each page that has blocks has a record and, in guest_ram.code[], the hart's bit (law 3 in rv.h).
 *
 * A block whose only instruction lies across two pages depends on the translation of both: it lives in one of a few
 * slots that only jc[] points to, and jc[] is emptied whenever translation or code changes.
 */
#include "cpu/riscv/rv.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <string.h>
#include <sys/mman.h>

#define BLOCK_BUCKETS 16384u
#define PAGE_BUCKETS  1024u
#define CROSS_SLOTS   64u

struct code_page {
    struct code_page *hash_next, *unsettled_next;
    struct rv_block *blocks;
    uint64_t ppn;
    bool unsettled;
};

struct cross {
    uint64_t tag; /* of its entry in jc */
    struct rv_block *blk;
};

struct rv_cache {
    uint8_t *arena;
    size_t size, used;
    uint64_t generation;
    struct rv_block *block[BLOCK_BUCKETS];
    struct code_page *page[PAGE_BUCKETS];
    struct code_page *unsettled;
    struct cross cross[CROSS_SLOTS];
};

struct rv_cache *rv_cache_create(size_t bytes)
{
    struct rv_cache *c = g_new0(struct rv_cache, 1);
    c->arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->arena == MAP_FAILED) {
        g_free(c);
        return NULL;
    }
    c->size = bytes;
    for (unsigned i = 0; i < CROSS_SLOTS; i++) {
        c->cross[i].blk = g_malloc0(sizeof(struct rv_block) + 2 * sizeof(struct rv_insn) + 8);
    }
    return c;
}

static uint8_t *code_mark(const struct rv_hart *h, uint64_t ppn)
{
    const struct guest_ram *r = guest_ram_find(h->a->c.mem, ppn << GUEST_PAGE_BITS);
    return r ? &r->code[ppn - (r->gpa >> GUEST_PAGE_BITS)] : NULL;
}

static void unmark_all(struct rv_hart *h)
{
    for (unsigned i = 0; i < PAGE_BUCKETS; i++) {
        for (const struct code_page *p = h->cache->page[i]; p; p = p->hash_next) {
            uint8_t *mark = code_mark(h, p->ppn);
            if (mark) {
                __atomic_fetch_and(mark, (uint8_t) ~(1u << h->id), __ATOMIC_SEQ_CST);
            }
        }
    }
}

void rv_cache_destroy(struct rv_hart *h)
{
    struct rv_cache *c = h->cache;
    if (!c) {
        return;
    }
    unmark_all(h);
    for (unsigned i = 0; i < CROSS_SLOTS; i++) {
        g_free(c->cross[i].blk);
    }
    munmap(c->arena, c->size);
    g_free(c);
    h->cache = NULL;
}

uint64_t rv_cache_generation(const struct rv_hart *h)
{
    return h->cache->generation;
}

size_t rv_cache_bytes(const struct rv_hart *h)
{
    return h->cache->used + sizeof(struct rv_cache) + sizeof(struct rv_hart);
}

void rv_cache_flush(struct rv_hart *h)
{
    struct rv_cache *c = h->cache;
    unmark_all(h);
    memset(c->block, 0, sizeof(c->block));
    memset(c->page, 0, sizeof(c->page));
    c->unsettled = NULL;
    c->used = 0;
    c->generation++;
    rv_jc_flush(h);
}

/* --- the table by virtual address --- */

static unsigned filter_bit(uint64_t va)
{
    return (unsigned)((va >> 12) ^ (va >> 24)) & 4095;
}

void rv_jc_flush(struct rv_hart *h)
{
    memset(h->jc, 0, sizeof(h->jc));
    h->jc[0].tag = 2; /* entry 0 is that of address 0, so its empty tag must be another */
    memset(h->jc_filter, 0, sizeof(h->jc_filter));
}

void rv_jc_flush_page(struct rv_hart *h, uint64_t va)
{
    /* the page before may hold an instruction that ends in this one */
    for (unsigned back = 0; back < 2; back++, va -= GUEST_PAGE_SIZE) {
        unsigned b = filter_bit(va);
        if (h->jc_filter[b / 64] >> (b % 64) & 1) {
            rv_jc_flush(h);
            return;
        }
    }
}

static struct rv_block *enter(struct rv_hart *h, uint64_t pc, struct rv_block *b)
{
    unsigned f = filter_bit(pc);
    h->jc_filter[f / 64] |= 1ull << (f % 64);
    h->jc[pc >> 1 & (RV_JC_SIZE - 1)] = (struct rv_jc){.tag = pc | h->mode, .blk = b};
    return b;
}

/* --- pages --- */

static bool all_settled(const struct rv_hart *h)
{
    for (unsigned i = 0; i < h->a->n; i++) {
        struct rv_hart *o = h->a->hart[i];
        if (o != h && atomic_load(&o->in_guest) && atomic_load(&o->wtlb_done) != atomic_load(&o->wtlb_seq)) {
            return false;
        }
    }
    return true;
}

static struct code_page *page_find(const struct rv_cache *c, uint64_t ppn)
{
    struct code_page *p = c->page[ppn % PAGE_BUCKETS];
    while (p && p->ppn != ppn) {
        p = p->hash_next;
    }
    return p;
}

static void *arena_take(struct rv_cache *c, size_t bytes)
{
    void *p = c->arena + c->used;
    c->used += round_up(bytes, 16);
    return p;
}

/* The record of a page about to be decoded from, marked in code[]. The arena must have room. */
static struct code_page *page_mark(struct rv_hart *h, uint64_t pa)
{
    struct rv_cache *c = h->cache;
    uint64_t ppn = pa >> GUEST_PAGE_BITS;
    struct code_page *p = page_find(c, ppn);
    if (!p) {
        p = arena_take(c, sizeof(*p));
        *p = (struct code_page){.hash_next = c->page[ppn % PAGE_BUCKETS], .ppn = ppn};
        c->page[ppn % PAGE_BUCKETS] = p;
    }
    uint8_t bit = (uint8_t)(1u << h->id);
    uint8_t *mark = code_mark(h, ppn);
    if (!(__atomic_load_n(mark, __ATOMIC_RELAXED) & bit)) {
        __atomic_fetch_or(mark, bit, __ATOMIC_SEQ_CST);
        rv_wtlb_drop_host(h, guest_ram_ptr(h->a->c.mem, ppn << GUEST_PAGE_BITS, GUEST_PAGE_SIZE));
        if (h->a->n > 1) {
            rv_hart_drop_write_permission(h->a, h, false);
            if (!p->unsettled) {
                p->unsettled = true;
                p->unsettled_next = c->unsettled;
                c->unsettled = p;
            }
        }
    }
    return p;
}

static void page_drop(struct rv_hart *h, struct code_page *p)
{
    struct rv_cache *c = h->cache;
    for (struct rv_block *b = p->blocks; b; b = b->page_next) {
        struct rv_block **at = &c->block[b->pa >> 1 & (BLOCK_BUCKETS - 1)];
        while (*at != b) {
            at = &(*at)->hash_next;
        }
        *at = b->hash_next;
    }
    p->blocks = NULL;
}

static void unsettled_drop(struct rv_hart *h)
{
    struct rv_cache *c = h->cache;
    bool settled = all_settled(h);
    for (struct code_page *p = c->unsettled; p; p = p->unsettled_next) {
        page_drop(h, p);
        p->unsettled = !settled;
    }
    if (settled) {
        c->unsettled = NULL;
    }
}

void rv_fence_i(struct rv_hart *h)
{
    uint64_t stale[RV_STALE_PAGES];
    unsigned n;
    bool all;
    {
        CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
        n = h->mail.stale;
        all = h->mail.stale_all;
        memcpy(stale, h->mail.stale_ppn, n * sizeof(stale[0]));
        h->mail.stale = 0;
        h->mail.stale_all = false;
    }
    if (all) {
        rv_cache_flush(h);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        struct code_page *p = page_find(h->cache, stale[i]);
        if (p) {
            page_drop(h, p);
        }
    }
    bool dropped = n || h->cache->unsettled;
    unsettled_drop(h);
    if (dropped) {
        rv_jc_flush(h);
    }
}

static void stale_add(struct rv_hart *h, uint64_t ppn)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
    for (unsigned i = 0; i < h->mail.stale; i++) {
        if (h->mail.stale_ppn[i] == ppn) {
            return;
        }
    }
    if (h->mail.stale == RV_STALE_PAGES) {
        h->mail.stale_all = true;
        return;
    }
    h->mail.stale_ppn[h->mail.stale++] = ppn;
}

void rv_code_written(void *accel, uint64_t gpa, uint64_t len)
{
    struct rv_accel *a = accel;
    for (uint64_t p = gpa >> GUEST_PAGE_BITS, last = (gpa + len - 1) >> GUEST_PAGE_BITS; p <= last; p++) {
        uint8_t *mark = code_mark(a->hart[0], p);
        uint8_t harts = mark ? __atomic_load_n(mark, __ATOMIC_SEQ_CST) : 0;
        for (unsigned i = 0; i < a->n; i++) {
            if (harts >> i & 1) {
                stale_add(a->hart[i], p);
            }
        }
        if (mark) {
            __atomic_fetch_and(mark, (uint8_t)~harts, __ATOMIC_SEQ_CST);
        }
    }
}

/* --- blocks --- */

#define BLOCK_ROOM                                                                                                     \
    (sizeof(struct rv_block) + RV_BLOCK_INSNS * (sizeof(struct rv_insn) + 1) + sizeof(struct code_page) + 64)

static struct rv_block *decode_at(struct rv_hart *h, uint64_t pa, const uint8_t *code, unsigned avail)
{
    struct rv_cache *c = h->cache;
    if (c->size - c->used < BLOCK_ROOM) {
        rv_cache_flush(h);
    }
    struct code_page *p = page_mark(h, pa);
    struct rv_block *b = (struct rv_block *)(c->arena + c->used);
    uint8_t off[RV_BLOCK_INSNS];
    memset(b, 0, sizeof(*b));
    unsigned n = rv_decode(h->a->decoder, code, avail, b, off);
    if (!n) {
        return NULL;
    }
    memcpy(&b->insn[n], off, n);
    arena_take(c, sizeof(*b) + n * (sizeof(struct rv_insn) + 1));
    b->pa = pa;
    b->page_next = p->blocks;
    p->blocks = b;
    struct rv_block **bucket = &c->block[pa >> 1 & (BLOCK_BUCKETS - 1)];
    b->hash_next = *bucket;
    *bucket = b;
    return b;
}

/* The one instruction at the very end of a page. */
static struct rv_block *decode_cross(struct rv_hart *h, uint64_t pc, uint64_t pa, const uint8_t *first)
{
    uint64_t pa2;
    if (!rv_translate(h, pc + 2, RV_EXEC, &pa2)) {
        return NULL;
    }
    const uint8_t *second = guest_ram_ptr(h->a->c.mem, pa2, 2);
    if (!second) {
        rv_trap_set(h, RV_FETCH_ACCESS, pc + 2);
        return NULL;
    }
    struct rv_cache *c = h->cache;
    if (c->size - c->used < BLOCK_ROOM) {
        rv_cache_flush(h);
    }
    page_mark(h, pa);
    page_mark(h, pa2);
    uint8_t code[4] = {first[0], first[1], second[0], second[1]}, off[RV_BLOCK_INSNS];
    struct cross *x = &c->cross[(pc >> 12) % CROSS_SLOTS];
    struct rv_jc *old = &h->jc[x->tag >> 1 & (RV_JC_SIZE - 1)];
    if (old->blk == x->blk) {
        *old = (struct rv_jc){.tag = old == &h->jc[0] ? 2 : 0};
    }
    memset(x->blk, 0, sizeof(*x->blk));
    unsigned n = rv_decode(h->a->decoder, code, sizeof(code), x->blk, off);
    memcpy(&x->blk->insn[n], off, n);
    x->blk->pa = RV_PA_NONE;
    x->tag = pc | h->mode;
    return x->blk;
}

struct rv_block *rv_block_lookup(struct rv_hart *h, uint64_t pc)
{
    struct rv_itlbe *i = &h->itlb[pc >> 12 & (RV_ITLB_SIZE - 1)];
    uint64_t tag = (pc & RV_PAGE_MASK) | h->mode, pa;
    if (i->tag == tag) {
        pa = i->pa | (pc & ~RV_PAGE_MASK);
    } else {
        if (!rv_translate(h, pc, RV_EXEC, &pa)) {
            return NULL;
        }
        *i = (struct rv_itlbe){.tag = tag, .pa = pa & RV_PAGE_MASK};
    }
    struct rv_block *b = h->cache->block[pa >> 1 & (BLOCK_BUCKETS - 1)];
    while (b && b->pa != pa) {
        b = b->hash_next;
    }
    if (b) {
        return enter(h, pc, b);
    }
    const uint8_t *code = guest_ram_ptr(h->a->c.mem, pa, 2);
    if (!code) {
        rv_trap_set(h, RV_FETCH_ACCESS, pc);
        return NULL;
    }
    unsigned avail = GUEST_PAGE_SIZE - (unsigned)(pa & (GUEST_PAGE_SIZE - 1));
    b = decode_at(h, pa, code, avail);
    if (!b) {
        b = decode_cross(h, pc, pa, code);
    }
    return b ? enter(h, pc, b) : NULL;
}
