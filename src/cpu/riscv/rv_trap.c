/* SPDX-License-Identifier: BSD-2-Clause */
/* Traps: all go to supervisor mode, as if everything were delegated. */
#include "cpu/riscv/rv.h"

void rv_trap_set(struct rv_hart *h, enum rv_cause cause, uint64_t tval)
{
    h->trap_cause = cause;
    h->trap_tval = tval;
}

static void enter(struct rv_hart *h, uint64_t cause, uint64_t tval, uint64_t target)
{
    h->sepc = h->pc;
    h->scause = cause;
    h->stval = tval;
    uint64_t s = h->sstatus & ~(RV_SR_SPP | RV_SR_SPIE | RV_SR_SIE);
    s |= h->mode == RV_S ? RV_SR_SPP : 0;
    s |= h->sstatus & RV_SR_SIE ? RV_SR_SPIE : 0;
    h->sstatus = s;
    h->mode = RV_S;
    h->pc = target;
    rv_tlb_select(h);
}

void rv_trap(struct rv_hart *h)
{
    enter(h, h->trap_cause, h->trap_tval, h->stvec & ~3ull);
}

bool rv_sret(struct rv_hart *h)
{
    if (h->mode == RV_U) {
        return false;
    }
    uint64_t s = h->sstatus;
    h->mode = s & RV_SR_SPP ? RV_S : RV_U;
    h->sstatus = (s & ~(RV_SR_SPP | RV_SR_SIE)) | (s & RV_SR_SPIE ? RV_SR_SIE : 0) | RV_SR_SPIE;
    h->pc = h->sepc;
    rv_tlb_select(h);
    if (rv_sip(h) & h->sie) {
        atomic_fetch_or(&h->attention, RV_ATT_IRQ);
    }
    return true;
}

static void interrupt(struct rv_hart *h)
{
    static const unsigned order[] = {9, 1, 5}; /* external, software, timer */
    if (h->mode == RV_S && !(h->sstatus & RV_SR_SIE)) {
        return;
    }
    uint32_t ready = rv_sip(h) & (uint32_t)h->sie;
    for (unsigned i = 0; ready && i < 3; i++) {
        unsigned n = order[i];
        if (ready >> n & 1) {
            uint64_t base = h->stvec & ~3ull;
            enter(h, 1ull << 63 | n, 0, (h->stvec & 3) == 1 ? base + 4 * n : base);
            return;
        }
    }
}

bool rv_attention(struct rv_hart *h)
{
    uint32_t bits = atomic_exchange(&h->attention, 0);
    if (bits & RV_ATT_WTLB) {
        uint64_t seq = atomic_load(&h->wtlb_seq);
        rv_wtlb_flush(h);
        atomic_store(&h->wtlb_done, seq);
    }
    if (bits & RV_ATT_MAIL) {
        rv_hart_serve_mail(h);
    }
    if (bits & RV_ATT_PAUSE) {
        /* Perhaps of a pause that is over, slept through: then nobody will say again what else was to be looked at. */
        atomic_fetch_or(&h->attention, RV_ATT_IRQ);
        return false;
    }
    rv_timer_eval(h);
    interrupt(h);
    return true;
}
