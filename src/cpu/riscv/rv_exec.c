/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The loop. Each line of rv_insns.def becomes a label; every handler ends in its own indirect jump to the next.
 *
 * pc is the virtual address of the block's first byte and never moves inside a block; the address of an instruction is
 * looked up only when it traps. instret is advanced by the whole block on entry and taken back by a trap.
 */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"
#include "cpu/riscv/rv_ops.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define SIGN        (1ull << 63)
#define BOX(v)      (0xffffffff00000000ull | (uint32_t)(v))
#define SX32(v)     ((uint64_t)(int64_t)(int32_t)(v))

/* The vocabulary of rv_insns.def. */
#define A         (h->x[ip->rs1])
#define B         (h->x[ip->rs2])
#define SB        (h->x[ip->rd]) /* rs2 of stores and branches */
#define IMM       ((int64_t)ip->imm)
#define RD(v)     (h->x[ip->rd] = (uint64_t)(v))
#define FA        (h->f[ip->rs1])
#define FB        (h->f[ip->rs2])
#define FC        (h->f[ip->rs3])
#define FD(v)     (h->f[ip->rd] = (v), h->sstatus |= RV_SR_FS)

#define INSN_PC() (pc + rv_block_offsets(blk)[ip - blk->insn] * 2u)
#define RELOAD()  (pc = h->pc, tlb = h->tlb)
#define TRAP(cause, tval)                                                                                              \
    do {                                                                                                               \
        rv_trap_set(h, cause, tval);                                                                                   \
        goto trap;                                                                                                     \
    } while (0)

#define DISPATCH() goto *labels[ip->op]
#define ENTER(b)                                                                                                       \
    do {                                                                                                               \
        blk = (b);                                                                                                     \
        if (unlikely(atomic_load_explicit(&h->attention, memory_order_relaxed))) {                                     \
            goto attention;                                                                                            \
        }                                                                                                              \
        h->instret += blk->icount;                                                                                     \
        ip = blk->insn;                                                                                                \
        DISPATCH();                                                                                                    \
    } while (0)
/* To the block at pc, whatever page it is in. */
#define LOOKUP()                                                                                                       \
    do {                                                                                                               \
        const struct rv_jc *j_ = &h->jc[pc >> 1 & (RV_JC_SIZE - 1)];                                                   \
        if (likely(j_->tag == (pc | h->mode))) {                                                                       \
            ENTER(j_->blk);                                                                                            \
        }                                                                                                              \
        goto lookup;                                                                                                   \
    } while (0)
/* Ends the block towards pc + delta: 0 = by falling through, 1 = by jumping. */
#define TAKE(k, delta)                                                                                                 \
    do {                                                                                                               \
        struct rv_block *next_ = blk->link[k];                                                                         \
        from = pc;                                                                                                     \
        pc += (uint64_t)(delta);                                                                                       \
        if (likely(next_)) {                                                                                           \
            ENTER(next_);                                                                                              \
        }                                                                                                              \
        slot = &blk->link[k];                                                                                          \
        goto follow;                                                                                                   \
    } while (0)
#define BRANCH(cond)                                                                                                   \
    if (cond) {                                                                                                        \
        TAKE(1, IMM);                                                                                                  \
    } else {                                                                                                           \
        TAKE(0, blk->len);                                                                                             \
    }

#define TLB_HIT(side, a, T)                                                                                            \
    const struct rv_tlbe *e = &tlb->side[(a) >> 12 & (RV_TLB_SIZE - 1)];                                               \
    if (likely(e->tag == ((a) & (RV_PAGE_MASK | (sizeof(T) - 1)))))

#define LOAD(T)                                                                                                        \
    T v;                                                                                                               \
    uint64_t a = A + IMM;                                                                                              \
    TLB_HIT(r, a, T)                                                                                                   \
    {                                                                                                                  \
        v = *(const T *)(a + e->add);                                                                                  \
    }                                                                                                                  \
    else                                                                                                               \
    {                                                                                                                  \
        if (!rv_load_slow(h, a, sizeof(T))) {                                                                          \
            goto trap;                                                                                                 \
        }                                                                                                              \
        v = (T)h->tmp;                                                                                                 \
    }
#define STORE(T, val)                                                                                                  \
    uint64_t a = A + IMM;                                                                                              \
    TLB_HIT(w, a, T)                                                                                                   \
    {                                                                                                                  \
        *(T *)(a + e->add) = (T)(val);                                                                                 \
    }                                                                                                                  \
    else if (!rv_store_slow(h, a, sizeof(T), val))                                                                     \
    {                                                                                                                  \
        goto trap;                                                                                                     \
    }

#define AMO_PTR(T)                                                                                                     \
    uint64_t a = A;                                                                                                    \
    T *p;                                                                                                              \
    TLB_HIT(w, a, T)                                                                                                   \
    {                                                                                                                  \
        p = (T *)(a + e->add);                                                                                         \
    }                                                                                                                  \
    else if (!(p = rv_amo_slow(h, a, sizeof(T))))                                                                      \
    {                                                                                                                  \
        goto trap;                                                                                                     \
    }
#define AMO(T, op)                                                                                                     \
    AMO_PTR(T)                                                                                                         \
    T b = (T)B;                                                                                                        \
    RD((int64_t)(op))
/* In a compare-and-swap loop; the result is sign-extended whatever T is. */
#define AMO_CAS(T, keep_b)                                                                                             \
    AMO_PTR(T)                                                                                                         \
    T b = (T)B, v = __atomic_load_n(p, __ATOMIC_RELAXED);                                                              \
    while (!__atomic_compare_exchange_n(p, &v, (keep_b) ? b : v, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {         \
    }                                                                                                                  \
    RD(sizeof(T) == 4 ? SX32(v) : (uint64_t)v)
/* The reservation is the address and the value seen there: SC compares and swaps. */
#define LR(T)                                                                                                          \
    uint64_t a = A;                                                                                                    \
    T v;                                                                                                               \
    if (unlikely(!rv_lr_check(h, a, sizeof(T)))) {                                                                     \
        goto trap;                                                                                                     \
    }                                                                                                                  \
    v = __atomic_load_n((T *)(a + tlb->r[a >> 12 & (RV_TLB_SIZE - 1)].add), __ATOMIC_SEQ_CST);                         \
    h->res_addr = a | (sizeof(T) == 4);                                                                                \
    h->res_val = (uint64_t)v;                                                                                          \
    RD((int64_t)v)
#define SC(T)                                                                                                          \
    AMO_PTR(T)                                                                                                         \
    T v = (T)h->res_val;                                                                                               \
    bool ok = h->res_addr == (a | (sizeof(T) == 4)) &&                                                                 \
              __atomic_compare_exchange_n(p, &v, (T)B, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);                     \
    h->res_addr = ~0ull;                                                                                               \
    RD(!ok)

/* Only store-to-load order needs an instruction on hosts with total store order; elsewhere the rest is cheap. */
#define FENCE()                                                                                                        \
    if ((ip->imm >> 24 & 5) && (ip->imm >> 20 & 10)) {                                                                 \
        atomic_thread_fence(memory_order_seq_cst);                                                                     \
    } else {                                                                                                           \
        atomic_thread_fence(memory_order_acq_rel);                                                                     \
    }

#define CSR(f3, src, write)                                                                                            \
    switch (rv_csr_op(h, (uint32_t)ip->imm >> 20, f3, src, write)) {                                                   \
    case RV_CSR_OK:                                                                                                    \
        RD(h->tmp);                                                                                                    \
        tlb = h->tlb;                                                                                                  \
        TAKE(0, blk->len);                                                                                             \
    case RV_CSR_LOOKUP:                                                                                                \
        RD(h->tmp);                                                                                                    \
        tlb = h->tlb;                                                                                                  \
        pc += blk->len;                                                                                                \
        LOOKUP();                                                                                                      \
    default:                                                                                                           \
        goto illegal;                                                                                                  \
    }
#define SFENCE()                                                                                                       \
    if (ip->rs1) {                                                                                                     \
        rv_tlb_flush_page(h, A);                                                                                       \
    } else {                                                                                                           \
        rv_tlb_flush(h);                                                                                               \
    }
#define CBO(op_)                                                                                                       \
    h->pc = INSN_PC();                                                                                                 \
    if (!rv_cbo(h, A, op_)) {                                                                                          \
        goto trap;                                                                                                     \
    }

#define FP()                                                                                                           \
    if (unlikely(!(h->sstatus & RV_SR_FS))) {                                                                          \
        goto illegal;                                                                                                  \
    }
#define FP_RM()                                                                                                        \
    FP();                                                                                                              \
    unsigned rm = ip->rm == 7 ? h->frm : ip->rm;                                                                       \
    if (unlikely(rm > 4)) {                                                                                            \
        goto illegal;                                                                                                  \
    }
#define FP_ROUNDED(fn, a_, b_, c_)                                                                                     \
    if (likely(rm == h->host_rm)) {                                                                                    \
        FD(fn(h, a_, b_, c_));                                                                                         \
    } else {                                                                                                           \
        const uint64_t v_[3] = {a_, b_, c_};                                                                           \
        FD(rv_fp_rounded(h, fn, v_, rm));                                                                              \
    }
#define FP2(fn)                                                                                                        \
    FP_RM();                                                                                                           \
    FP_ROUNDED(fn, FA, FB, 0)
#define FP3(fn)                                                                                                        \
    FP_RM();                                                                                                           \
    FP_ROUNDED(fn, FA, FB, FC)
#define FCVT_FP(fn)                                                                                                    \
    FP_RM();                                                                                                           \
    FP_ROUNDED(fn, A, 0, 0)
#define FCVT_INT(fn)                                                                                                   \
    FP_RM();                                                                                                           \
    h->sstatus |= RV_SR_FS;                                                                                            \
    RD(fn(h, FA, rm, 0))
#define FPX(fn)                                                                                                        \
    FP();                                                                                                              \
    FD(fn(h, FA, FB, 0))
#define FPI(fn)                                                                                                        \
    FP();                                                                                                              \
    h->sstatus |= RV_SR_FS;                                                                                            \
    RD(fn(h, FA, FB, 0))

static inline uint64_t mulhsu(uint64_t a, uint64_t b)
{
    return (uint64_t)((unsigned __int128)a * b >> 64) - ((int64_t)a < 0 ? b : 0);
}
static inline uint64_t div_s(uint64_t a, uint64_t b)
{
    return b == 0 ? ~0ull : b == ~0ull ? 0 - a : (uint64_t)((int64_t)a / (int64_t)b);
}
static inline uint64_t rem_s(uint64_t a, uint64_t b)
{
    return b == 0 ? a : b == ~0ull ? 0 : (uint64_t)((int64_t)a % (int64_t)b);
}
static inline uint64_t div_w(uint64_t a, uint64_t b)
{
    int32_t x = (int32_t)a, y = (int32_t)b;
    return y == 0 ? ~0ull : y == -1 ? SX32(0u - (uint32_t)x) : SX32(x / y);
}
static inline uint64_t rem_w(uint64_t a, uint64_t b)
{
    int32_t x = (int32_t)a, y = (int32_t)b;
    return y == 0 ? SX32(x) : y == -1 ? 0 : SX32(x % y);
}
static inline uint64_t ror64(uint64_t a, uint64_t by)
{
    by &= 63;
    return a >> by | a << ((64 - by) & 63);
}
static inline uint64_t ror32(uint64_t a, uint64_t by)
{
    uint32_t w = (uint32_t)a;
    by &= 31;
    return SX32(w >> by | w << ((32 - by) & 31));
}
static inline uint64_t orc_b(uint64_t a)
{
    a |= a >> 4 & 0x0f0f0f0f0f0f0f0full;
    a |= a >> 2 & 0x0303030303030303ull;
    a |= a >> 1;
    return (a & 0x0101010101010101ull) * 255;
}

static void run(struct rv_hart *h)
{
    static const void *const labels[] = {
#define INSN(name, ext, fmt, mask, match, ...) &&L_##name,
#define FUSED(name, ...)                       &&L_##name,
#include "cpu/riscv/rv_insns.def"
#undef INSN
#undef FUSED
    };
    const struct rv_insn *ip = NULL;
    const struct rv_tlb *tlb = h->tlb;
    struct rv_block *blk = NULL, **slot = NULL;
    uint64_t pc = h->pc, from = 0;

    goto attention;

#define INSN(name, ext, fmt, mask, match, ...)                                                                         \
    L_##name:                                                                                                          \
    {                                                                                                                  \
        __VA_ARGS__;                                                                                                   \
        ip++;                                                                                                          \
        DISPATCH();                                                                                                    \
    }
#define FUSED(name, ...) INSN(name, I, NO, 0, 0, __VA_ARGS__)
#include "cpu/riscv/rv_insns.def"
#undef INSN
#undef FUSED

follow:
    /* blk ended without a link to pc: find the block, and link when both lie in one page */
    {
        const struct rv_jc *j = &h->jc[pc >> 1 & (RV_JC_SIZE - 1)];
        struct rv_block *next = j->blk;
        if ((pc ^ from) & RV_PAGE_MASK) {
            if (likely(j->tag == (pc | h->mode))) {
                ENTER(next);
            }
            goto lookup;
        }
        uint64_t generation = rv_cache_generation(h);
        if (j->tag != (pc | h->mode)) {
            next = rv_block_lookup(h, pc);
            if (!next) {
                goto fetch_fault;
            }
        }
        if (generation == rv_cache_generation(h) && next->pa != RV_PA_NONE && blk->pa != RV_PA_NONE) {
            *slot = next;
        }
        ENTER(next);
    }
lookup : {
    struct rv_block *next = rv_block_lookup(h, pc);
    if (!next) {
        goto fetch_fault;
    }
    ENTER(next);
}
attention:
    h->pc = pc;
    if (!rv_attention(h)) {
        return;
    }
    RELOAD();
    LOOKUP();
ecall:
    h->pc = pc + blk->len - 4;
    if (h->mode == RV_U) {
        rv_trap_set(h, RV_ECALL_U, 0);
        goto trap_here;
    }
    h->pc += 4;
    if (!rv_sbi_call(h)) {
        return;
    }
    RELOAD();
    LOOKUP();
leave:
    return;
illegal:
    h->pc = INSN_PC();
    rv_trap_set(h, RV_ILLEGAL, rv_fetch_raw(h, h->pc));
trap:
    h->pc = INSN_PC();
    h->instret -= blk->icount - rv_insn_count(blk, (unsigned)(ip - blk->insn));
trap_here:
    if (unlikely(h->trap_cause == RV_MISSING)) {
        return;
    }
    rv_trap(h);
    RELOAD();
    if (unlikely(atomic_load_explicit(&h->attention, memory_order_relaxed))) {
        goto attention; /* a guest whose trap vector traps never enters a block */
    }
    LOOKUP();
fetch_fault:
    h->pc = pc;
    goto trap_here;
}

void rv_exec(struct rv_hart *h)
{
    rv_fp_enter(h);
    run(h);
    rv_fp_leave(h);
}
