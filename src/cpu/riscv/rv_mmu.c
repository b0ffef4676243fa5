/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Address translation (manual volume II, "Supervisor"): Bare, Sv39 and Sv48, A and D bits set by "hardware" when the
 * model has Svadu, page faults otherwise; and every data access that the inline fast path does not take: TLB misses,
 * misaligned ones, device registers, first stores to clean pages and to pages of code.
 */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"

#include "base/checked.h"
#include "guest/hold.h"

#include <string.h>

#define PTE_V      0x01u
#define PTE_R      0x02u
#define PTE_W      0x04u
#define PTE_X      0x08u
#define PTE_U      0x10u
#define PTE_G      0x20u
#define PTE_A      0x40u
#define PTE_D      0x80u
#define PTE_PPN(p) ((p) >> 10 & ((1ull << 44) - 1))

static bool fault(struct rv_hart *h, uint64_t va, enum rv_access how, bool access)
{
    static const enum rv_cause page[] = {RV_LOAD_PAGE, RV_STORE_PAGE, RV_FETCH_PAGE};
    static const enum rv_cause acc[] = {RV_LOAD_ACCESS, RV_STORE_ACCESS, RV_FETCH_ACCESS};
    rv_trap_set(h, access ? acc[how] : page[how], va);
    return false;
}

/* RAM that is still to come (guest/pages.h): the instruction begins again when it is there. */
static bool is_there(struct rv_hart *h, uint64_t pa)
{
    if (guest_mem_is_missing(h->a->c.mem, pa)) {
        rv_trap_set(h, RV_MISSING, pa);
        return false;
    }
    return true;
}

/* Whether a leaf permits the access in the current mode. */
static bool permitted(const struct rv_hart *h, uint64_t pte, enum rv_access how)
{
    if (pte & PTE_U) {
        if (h->mode == RV_S && (how == RV_EXEC || !(h->sstatus & RV_SR_SUM))) {
            return false;
        }
    } else if (h->mode == RV_U) {
        return false;
    }
    switch (how) {
    case RV_READ:
        return pte & PTE_R || (pte & PTE_X && h->sstatus & RV_SR_MXR);
    case RV_WRITE:
        return pte & PTE_W;
    default:
        return pte & PTE_X;
    }
}

struct walk {
    uint64_t pa, span; /* span: bytes that the leaf maps */
    bool dirty;        /* stores need no further update of the PTE */
};

static bool walk(struct rv_hart *h, uint64_t va, enum rv_access how, struct walk *w)
{
    int levels = h->satp >> 60 == 8 ? 3 : 4;
    unsigned width = 12 + 9 * (unsigned)levels;
    if ((uint64_t)((int64_t)(va << (64 - width)) >> (64 - width)) != va) {
        return fault(h, va, how, false);
    }
    uint64_t table = (h->satp & ((1ull << 44) - 1)) << 12;
    for (int level = levels - 1; level >= 0; level--) {
        unsigned shift = 12 + 9 * (unsigned)level;
        uint64_t at = table + (va >> shift & 511) * 8;
        uint64_t *slot = guest_ram_ptr(h->a->c.mem, at, 8);
        if (!slot) {
            return fault(h, va, how, true);
        }
        if (!is_there(h, at)) {
            return false;
        }
        uint64_t pte = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
    again:
        /* no Svnapot, no Svpbmt: the bits above the PPN are reserved */
        if (!(pte & PTE_V) || (pte & (PTE_R | PTE_W)) == PTE_W || pte >> 54) {
            return fault(h, va, how, false);
        }
        if (!(pte & (PTE_R | PTE_X))) {
            if (pte & (PTE_U | PTE_A | PTE_D)) {
                return fault(h, va, how, false);
            }
            table = PTE_PPN(pte) << 12;
            continue;
        }
        uint64_t span = 1ull << shift;
        if (!permitted(h, pte, how) || (PTE_PPN(pte) << 12) & (span - 1)) {
            return fault(h, va, how, false);
        }
        uint64_t want = pte | PTE_A | (how == RV_WRITE ? PTE_D : 0);
        if (want != pte) {
            if (!rv_has(h, RV_SVADU)) {
                return fault(h, va, how, false);
            }
            guest_mem_will_write(h->a->c.mem, at, 8);
            if (!__atomic_compare_exchange_n(slot, &pte, want, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
                goto again;
            }
            guest_mem_mark_written(h->a->c.mem, at, 8);
        }
        *w = (struct walk){.pa = (PTE_PPN(pte) << 12) + (va & (span - 1)), .span = span, .dirty = want & PTE_D};
        return true;
    }
    return fault(h, va, how, false);
}

static bool translate(struct rv_hart *h, uint64_t va, enum rv_access how, struct walk *w)
{
    if (h->satp >> 60 == 0) {
        *w = (struct walk){.pa = va, .span = GUEST_PAGE_SIZE, .dirty = true};
        return is_there(h, w->pa);
    }
    if (!walk(h, va, how, w) || !is_there(h, w->pa)) {
        return false;
    }
    if (w->span > GUEST_PAGE_SIZE) {
        h->super_lo = min_u64(h->super_lo, va & ~(w->span - 1));
        h->super_hi = max_u64(h->super_hi, va | (w->span - 1));
    }
    return true;
}

bool rv_translate(struct rv_hart *h, uint64_t va, enum rv_access how, uint64_t *pa)
{
    struct walk w;
    if (!translate(h, va, how, &w)) {
        return false;
    }
    *pa = w.pa;
    return true;
}

/* --- TLB --- */

static void set_flush(struct rv_hart *h, unsigned i)
{
    if (h->tlb_used[i]) {
        memset(&h->tlbs[i], 0xff, sizeof(h->tlbs[i]));
        h->tlb_used[i] = false;
    }
}

void rv_tlb_flush(struct rv_hart *h)
{
    for (unsigned i = 0; i < RV_TLB_SETS; i++) {
        set_flush(h, i);
    }
    h->tlb_used[h->tlb - h->tlbs] = true;
    memset(h->itlb, 0xff, sizeof(h->itlb));
    h->super_lo = UINT64_MAX;
    h->super_hi = 0;
    rv_jc_flush(h);
}

void rv_tlb_flush_page(struct rv_hart *h, uint64_t va)
{
    if (va >= h->super_lo && va <= h->super_hi) {
        rv_tlb_flush(h);
        return;
    }
    uint64_t page = va & RV_PAGE_MASK;
    unsigned at = va >> 12 & (RV_TLB_SIZE - 1);
    for (unsigned i = 0; i < RV_TLB_SETS; i++) {
        if (h->tlbs[i].r[at].tag == page) {
            h->tlbs[i].r[at].tag = ~0ull;
        }
        if (h->tlbs[i].w[at].tag == page) {
            h->tlbs[i].w[at].tag = ~0ull;
        }
    }
    h->itlb[va >> 12 & (RV_ITLB_SIZE - 1)].tag = ~0ull;
    rv_jc_flush_page(h, page);
}

void rv_tlb_flush_range(struct rv_hart *h, uint64_t va, uint64_t size)
{
    if (size > 32 * GUEST_PAGE_SIZE) {
        rv_tlb_flush(h);
        return;
    }
    uint64_t first = va & RV_PAGE_MASK;
    for (uint64_t n = ((va - first) + size + GUEST_PAGE_SIZE - 1) >> 12, i = 0; i < n; i++) {
        rv_tlb_flush_page(h, first + (i << 12));
    }
}

void rv_wtlb_flush(struct rv_hart *h)
{
    for (unsigned i = 0; i < RV_TLB_SETS; i++) {
        if (h->tlb_used[i]) {
            memset(h->tlbs[i].w, 0xff, sizeof(h->tlbs[i].w));
        }
    }
}

void rv_wtlb_drop_host(struct rv_hart *h, const uint8_t *host_page)
{
    for (unsigned i = 0; i < RV_TLB_SETS; i++) {
        for (unsigned k = 0; h->tlb_used[i] && k < RV_TLB_SIZE; k++) {
            struct rv_tlbe *e = &h->tlbs[i].w[k];
            if (e->tag + e->add == (uintptr_t)host_page) {
                e->tag = ~0ull;
            }
        }
    }
}

void rv_tlb_select(struct rv_hart *h)
{
    unsigned i = h->mode == RV_U ? RV_TLB_U : h->sstatus & RV_SR_SUM ? RV_TLB_SUM : RV_TLB_S;
    h->tlb = &h->tlbs[i];
    h->tlb_used[i] = true;
}

static void tlb_enter(struct rv_tlbe *side, uint64_t va, const uint8_t *host)
{
    uint64_t page = va & RV_PAGE_MASK;
    side[va >> 12 & (RV_TLB_SIZE - 1)] = (struct rv_tlbe){.tag = page, .add = (uintptr_t)host - va};
}

/* --- slow accesses --- */

/* Readable host address of va, entered in the TLB; NULL with *mmio set: a device's register at *pa; else a trap. */
static uint8_t *read_ptr(struct rv_hart *h, uint64_t va, uint64_t *pa, bool *mmio)
{
    struct walk w;
    *mmio = false;
    if (!translate(h, va, RV_READ, &w)) {
        return NULL;
    }
    *pa = w.pa;
    uint8_t *host = guest_ram_ptr(h->a->c.mem, w.pa, 1);
    if (!host) {
        *mmio = true;
        return NULL;
    }
    tlb_enter(h->tlb->r, va, host);
    return host;
}

/* The same for stores. The page's dirt is marked; decoded code of it is reported stale before the store, which
 * law 3 allows: the hart that stores is inside an instruction and no FENCE.I of its own can come between. */
static uint8_t *write_ptr(struct rv_hart *h, uint64_t va, uint64_t *pa, bool *mmio)
{
    struct walk w;
    *mmio = false;
    if (!translate(h, va, RV_WRITE, &w)) {
        return NULL;
    }
    *pa = w.pa;
    struct guest_ram *r = guest_ram_find(h->a->c.mem, w.pa);
    if (!r) {
        *mmio = true;
        return NULL;
    }
    uint64_t page = (w.pa - r->gpa) >> GUEST_PAGE_BITS;
    uint8_t *dirty = atomic_load_explicit(&r->dirty, memory_order_acquire);
    if (dirty) {
        __atomic_store_n(&dirty[page], GUEST_DIRTY, __ATOMIC_RELAXED);
    }
    const uint8_t *guard = atomic_load_explicit(&r->store_guard, memory_order_acquire);
    if (guard && __atomic_load_n(&guard[page], __ATOMIC_ACQUIRE)) {
        guest_mem_will_write(h->a->c.mem, w.pa, 1);
    }
    if (__atomic_load_n(&r->code[page], __ATOMIC_SEQ_CST)) {
        rv_code_written(h->a, w.pa & RV_PAGE_MASK, GUEST_PAGE_SIZE);
    }
    uint8_t *host = r->host + (w.pa - r->gpa);
    tlb_enter(h->tlb->w, va, host);
    return host;
}

static uint64_t load_host(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    switch (size) {
    case 1:
        return *p;
    case 2: {
        uint16_t v2;
        memcpy(&v2, p, 2);
        return v2;
    }
    case 4: {
        uint32_t v4;
        memcpy(&v4, p, 4);
        return v4;
    }
    default:
        memcpy(&v, p, 8);
        return v;
    }
}

static void store_host(uint8_t *p, unsigned size, uint64_t v)
{
    switch (size) {
    case 1:
        *p = (uint8_t)v;
        break;
    case 2:
        memcpy(p, &v, 2);
        break;
    case 4:
        memcpy(p, &v, 4);
        break;
    default:
        memcpy(p, &v, 8);
    }
}

/* Byte by byte; both pages are translated before the first byte is stored. */
static bool load_bytes(struct rv_hart *h, uint64_t va, unsigned size)
{
    uint64_t v = 0, pa;
    bool mmio;
    for (unsigned i = 0; i < size; i++) {
        const uint8_t *p = read_ptr(h, va + i, &pa, &mmio);
        if (!p) {
            return mmio ? fault(h, va + i, RV_READ, true) : false;
        }
        v |= (uint64_t)*p << (8 * i);
    }
    h->tmp = v;
    return true;
}

static bool store_bytes(struct rv_hart *h, uint64_t va, unsigned size, uint64_t val)
{
    uint8_t *p[8];
    uint64_t pa;
    bool mmio;
    for (unsigned i = 0; i < size; i++) {
        p[i] = write_ptr(h, va + i, &pa, &mmio);
        if (!p[i]) {
            return mmio ? fault(h, va + i, RV_WRITE, true) : false;
        }
    }
    for (unsigned i = 0; i < size; i++) {
        *p[i] = (uint8_t)(val >> (8 * i));
    }
    return true;
}

bool rv_load_slow(struct rv_hart *h, uint64_t va, unsigned size)
{
    uint64_t pa;
    bool mmio;
    if ((va & ~RV_PAGE_MASK) + size > GUEST_PAGE_SIZE) {
        return load_bytes(h, va, size);
    }
    const uint8_t *p = read_ptr(h, va, &pa, &mmio);
    if (p) {
        h->tmp = load_host(p, size);
        return true;
    }
    if (!mmio) {
        return false;
    }
    if (pa & (size - 1)) {
        return fault(h, va, RV_READ, true);
    }
    rv_fp_leave(h);
    bool ok = mmio_read(h->a->c.mem, pa, size, &h->tmp);
    rv_fp_enter(h);
    return ok || fault(h, va, RV_READ, true);
}

bool rv_store_slow(struct rv_hart *h, uint64_t va, unsigned size, uint64_t val)
{
    uint64_t pa;
    bool mmio;
    if ((va & ~RV_PAGE_MASK) + size > GUEST_PAGE_SIZE) {
        return store_bytes(h, va, size, val);
    }
    uint8_t *p = write_ptr(h, va, &pa, &mmio);
    if (p) {
        store_host(p, size, val);
        return true;
    }
    if (!mmio) {
        return false;
    }
    if (pa & (size - 1)) {
        return fault(h, va, RV_WRITE, true);
    }
    rv_fp_leave(h);
    bool ok = mmio_write(h->a->c.mem, pa, size, val);
    rv_fp_enter(h);
    if (guest_is_held(h->a->c.mem)) {
        h->held = true;
        atomic_fetch_or(&h->attention, RV_ATT_PAUSE);
    }
    return ok || fault(h, va, RV_WRITE, true);
}

void *rv_amo_slow(struct rv_hart *h, uint64_t va, unsigned size)
{
    if (va & (size - 1)) {
        rv_trap_set(h, RV_STORE_MISALIGNED, va);
        return NULL;
    }
    uint64_t pa;
    bool mmio;
    uint8_t *p = write_ptr(h, va, &pa, &mmio);
    if (mmio) {
        fault(h, va, RV_WRITE, true);
    }
    return p;
}

bool rv_lr_check(struct rv_hart *h, uint64_t va, unsigned size)
{
    if (va & (size - 1)) {
        rv_trap_set(h, RV_LOAD_MISALIGNED, va);
        return false;
    }
    uint64_t pa;
    bool mmio;
    return read_ptr(h, va, &pa, &mmio) || (mmio && fault(h, va, RV_READ, true));
}

#define CBO_BYTES 64u

static bool cbo_enabled(const struct rv_hart *h, unsigned op)
{
    static const uint64_t bit[] = {[0] = 3u << 4, [1] = 1u << 6, [2] = 1u << 6, [4] = 1u << 7};
    return h->mode != RV_U || h->senvcfg & bit[op];
}

bool rv_cbo(struct rv_hart *h, uint64_t va, unsigned op)
{
    uint64_t pa;
    bool mmio;
    if (!cbo_enabled(h, op)) {
        rv_trap_set(h, RV_ILLEGAL, rv_fetch_raw(h, h->pc));
        return false;
    }
    va &= ~(uint64_t)(CBO_BYTES - 1);
    if (op == 4) {
        uint8_t *p = write_ptr(h, va, &pa, &mmio);
        if (p) {
            memset(p, 0, CBO_BYTES);
            return true;
        }
        return mmio ? fault(h, va, RV_WRITE, true) : false;
    }
    /* the host's caches are coherent: just the checks; a page that may be read will do, faults are those of stores */
    if (read_ptr(h, va, &pa, &mmio) || mmio) {
        return true;
    }
    if (h->trap_cause != RV_MISSING) {
        rv_trap_set(h, h->trap_cause == RV_LOAD_PAGE ? RV_STORE_PAGE : RV_STORE_ACCESS, va);
    }
    return false;
}

uint64_t rv_fetch_raw(struct rv_hart *h, uint64_t pc)
{
    uint64_t raw = 0, pa;
    uint64_t cause = h->trap_cause, tval = h->trap_tval;
    for (unsigned i = 0; i < 2 && (i == 0 || (raw & 3) == 3); i++) {
        const uint8_t *p = rv_translate(h, pc + 2 * i, RV_EXEC, &pa) ? guest_ram_ptr(h->a->c.mem, pa, 2) : NULL;
        if (p) {
            raw |= load_host(p, 2) << (16 * i);
        }
    }
    h->trap_cause = cause;
    h->trap_tval = tval;
    return raw;
}
