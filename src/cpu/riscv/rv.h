/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RISC-V interpreter: its data, and which file does what.
 * Source documents: RISC-V ISA manual volumes I and II (20240411), SBI 2.0.
 *
 *      rv_accel.c   the accelerator's vtable: create, pause, resume, registers of the whole machine
 *      rv_hart.c    one thread per hart, sleeping and waking, its timer, requests between harts
 *      rv_exec.c    the loop; rv_insns.def lists every instruction with its meaning
 *      rv_decode.c  guest code -> struct rv_insn; rv_cache.c keeps the decoded blocks
 *      rv_mmu.c     page walks, the software TLBs, everything that is not the fast path of a load or store
 *      rv_csr.c rv_trap.c rv_sbi.c rv_fp.c rv_regs.c rv_state.c rv_model.c
 *
 * Laws:
 * 1. A struct rv_hart belongs to its thread while that thread is inside rv_exec (in_guest), else to whoever holds
 *    hart->mutex, or to the loop thread while the machine is paused. Others reach it only through atomics
 *    (attention, irq) and the mailbox under its mutex.
 * 2. attention is looked at on entry to every block. Whoever posts first changes what the hart must see, then sets
 *    a bit, then looks at in_guest; the hart sets in_guest, then looks at attention (all seq_cst). So a hart found
 *    outside the guest serves the request before its next instruction.
 * 3. Instruction fetch sees stores to code after FENCE.I (own or SBI RFENCE) and after a resume, and never later:
 *    code_mark() tells each hart that holds decoded code of a page once, on the first store; the hart drops the
 *    page at its FENCE.I. A page whose mark is newer than the other harts' last write-TLB flush (they may still
 *    store without looking at the mark) is dropped at every FENCE.I until they have flushed.
 * 4. Blocks link directly only to blocks of the same virtual page; every other transfer goes through jc[] or
 *    rv_block_lookup(), which translate.
 */
#pragma once

#include "guest/accel.h"

#include <pthread.h>
#include <time.h>

#define RV_MAX_HARTS 8
#define RV_PAGE_MASK (~(uint64_t)0xfff)

/* --- decoded code ------------------------------------------------------------------------------------------- */

/* rd is 32, a slot nobody reads, where the guest names x0 as destination. For stores and branches rd holds rs2. */
struct rv_insn {
    uint16_t op;
    uint8_t rd;
    uint8_t rs1;
    union {
        int32_t imm; /* branches, jumps and auipc: relative to the block's first byte */
        struct {
            uint8_t rs2, rs3, rm, pad;
        };
    };
};

#define RV_BLOCK_INSNS 64
#define RV_PA_NONE     (~(uint64_t)0)

struct rv_block {
    struct rv_block *link[2]; /* successors in the same page: fallen through, taken */
    struct rv_block *hash_next, *page_next;
    uint64_t pa;    /* RV_PA_NONE: its instruction crosses pages; never linked or hashed */
    uint16_t len;   /* bytes of guest code */
    uint8_t n;      /* decoded instructions */
    uint8_t icount; /* guest instructions */
    uint32_t pad;
    struct rv_insn insn[]; /* n of them, then n bytes: offset of each from the first, in halfwords */
};

static inline const uint8_t *rv_block_offsets(const struct rv_block *b)
{
    return (const uint8_t *)&b->insn[b->n];
}

/* --- translation -------------------------------------------------------------------------------------------- */

#define RV_TLB_BITS  10
#define RV_TLB_SIZE  (1u << RV_TLB_BITS)
#define RV_ITLB_SIZE 256u
#define RV_JC_SIZE   4096u

struct rv_tlbe {
    uint64_t tag;  /* page address, or all ones */
    uintptr_t add; /* host = guest virtual + add */
};
/* One set per kind of data access: user; supervisor; supervisor with SUM. */
enum { RV_TLB_U, RV_TLB_S, RV_TLB_SUM, RV_TLB_SETS };
struct rv_tlb {
    struct rv_tlbe r[RV_TLB_SIZE], w[RV_TLB_SIZE];
};
struct rv_itlbe {
    uint64_t tag; /* page address | mode, or all ones */
    uint64_t pa;
};
/* The block at a virtual address: tag = pc | mode. Unused entries hold a tag that cannot be looked up there. */
struct rv_jc {
    uint64_t tag;
    struct rv_block *blk;
};

enum rv_access { RV_READ, RV_WRITE, RV_EXEC };

/* --- model -------------------------------------------------------------------------------------------------- */

/* The numbers are part of saved states: new ones come at the end. */
enum rv_ext {
    RV_I,
    RV_F,
    RV_D,
    RV_ZBA,
    RV_ZBB,
    RV_ZBS,
    RV_ZICBOM,
    RV_ZICBOZ,
    RV_ZIHINTPAUSE,
    RV_ZICOND,
    RV_SSTC,
    RV_SVADU,
    RV_SV48,
    RV_ZIHINTNTL,
    RV_EXTS
};
struct rv_model {
    uint32_t exts; /* bit per enum rv_ext */
};

/* --- state -------------------------------------------------------------------------------------------------- */

enum { RV_U = 0, RV_S = 1 };
enum rv_cause {
    RV_FETCH_MISALIGNED = 0,
    RV_FETCH_ACCESS = 1,
    RV_ILLEGAL = 2,
    RV_BREAKPOINT = 3,
    RV_LOAD_MISALIGNED = 4,
    RV_LOAD_ACCESS = 5,
    RV_STORE_MISALIGNED = 6,
    RV_STORE_ACCESS = 7,
    RV_ECALL_U = 8,
    RV_FETCH_PAGE = 12,
    RV_LOAD_PAGE = 13,
    RV_STORE_PAGE = 15,
    RV_MISSING =
        64 /* ours, never seen by the guest: the page of RAM at trap_tval is to come first, then it goes on here */
};

#define RV_SR_SIE           (1ull << 1)
#define RV_SR_SPIE          (1ull << 5)
#define RV_SR_SPP           (1ull << 8)
#define RV_SR_FS            (3ull << 13)
#define RV_SR_SUM           (1ull << 18)
#define RV_SR_MXR           (1ull << 19)
#define RV_SR_UXL           (2ull << 32)
#define RV_SR_SD            (1ull << 63)

#define RV_SSTATUS_WRITABLE (RV_SR_SIE | RV_SR_SPIE | RV_SR_SPP | RV_SR_FS | RV_SR_SUM | RV_SR_MXR)
#define RV_SIE_WRITABLE     (RV_IP_SSIP | RV_IP_STIP | RV_IP_SEIP)

#define RV_IP_SSIP          (1u << 1)
#define RV_IP_STIP          (1u << 5)
#define RV_IP_SEIP          (1u << 9)

/* Bits of rv_hart.attention. */
enum {
    RV_ATT_IRQ = 1,   /* an interrupt input, an enable or the timer changed */
    RV_ATT_PAUSE = 2, /* leave the loop */
    RV_ATT_MAIL = 4,  /* rv_hart.mail has requests */
    RV_ATT_WTLB = 8,  /* drop write permissions */
};

enum rv_hsm { RV_HSM_STARTED = 0, RV_HSM_STOPPED = 1, RV_HSM_START_PENDING = 2, RV_HSM_SUSPENDED = 4 };

#define RV_MAIL_RANGES 8
#define RV_STALE_PAGES 64

/* What others ask of a hart; under hart->mutex. */
struct rv_mail {
    bool fence_i, flush_all, flush_code;
    unsigned ranges;
    struct {
        uint64_t start, size;
    } range[RV_MAIL_RANGES];
    /* Pages whose decoded code went stale; beyond the room: everything did. */
    unsigned stale;
    bool stale_all;
    uint64_t stale_ppn[RV_STALE_PAGES];
};

struct rv_cache;
struct rv_accel;

struct rv_hart {
    uint64_t x[33]; /* x[32]: where writes to x0 go */
    uint64_t f[32];
    uint64_t pc;
    uint64_t instret;
    struct rv_tlb *tlb; /* the set in use */
    _Atomic uint32_t attention;
    unsigned mode; /* RV_U, RV_S */
    uint64_t tmp;  /* result of a slow load */
    uint64_t res_addr, res_val;
    uint64_t sstatus;              /* without SD and UXL */
    unsigned frm, host_rm, fflags; /* fflags: those that the host's FPU does not hold now */

    uint64_t trap_cause, trap_tval;
    uint64_t sie, stvec, sscratch, sepc, scause, stval, satp, stimecmp, scounteren, senvcfg;
    _Atomic uint32_t irq; /* SSIP and SEIP */
    bool stip;
    bool wfi;
    bool held; /* what it wrote to a register is not done yet: guest/hold.h */
    enum rv_hsm hsm;

    struct rv_cache *cache;
    struct rv_jc jc[RV_JC_SIZE];
    uint64_t jc_filter[64]; /* a bit per hash of a page that has entries in jc */
    struct rv_itlbe itlb[RV_ITLB_SIZE];
    struct rv_tlb tlbs[RV_TLB_SETS];
    bool tlb_used[RV_TLB_SETS];
    uint64_t super_lo, super_hi; /* virtual addresses in here may be mapped by superpages */

    struct rv_accel *a;
    unsigned id;
    pthread_t thread;
    bool thread_up;
    pthread_mutex_t mutex;
    pthread_cond_t cond; /* CLOCK_MONOTONIC */
    struct rv_mail mail;
    bool want_pause, paused, quit, awaits_page;
    _Atomic uint64_t pages_ns;       /* that it has waited for pages */
    uint64_t nap_until;              /* host ns; 0: no nap */
    uint64_t start_pc, start_opaque; /* RV_HSM_START_PENDING */
    _Atomic bool in_guest;
    timer_t timer;    /* CLOCK_MONOTONIC; made and armed by the thread */
    bool timer_tried; /* to make it; then timer_rc, an errno, says how that went */
    int timer_rc;
    _Atomic uint64_t armed;               /* host ns when it goes off, UINT64_MAX: it does not */
    _Atomic uint64_t mail_seq, mail_done; /* requests posted, served */
    _Atomic uint64_t wtlb_seq, wtlb_done;
};

struct rv_decoder;

struct rv_accel {
    struct accel_config c;
    struct rv_model model;
    struct rv_decoder *decoder;
    unsigned n;
    struct rv_hart *hart[RV_MAX_HARTS];
    struct accel_reg *regs;
    size_t regs_n;
    pthread_mutex_t pages_mutex;           /* of the rest */
    unsigned pages_waiting;                /* harts that wait for pages */
    uint64_t pages_since_ns, pages_all_ns; /* since when all of them do; how long they did */
};

static inline bool rv_has(const struct rv_hart *h, enum rv_ext x)
{
    return h->a->model.exts >> x & 1;
}

/* --- rv_exec.c: runs until pause, WFI, stop. h->pc is exact before and after. */
void rv_exec(struct rv_hart *h);

/* --- rv_decode.c */
struct rv_decoder *rv_decoder_create(const struct rv_model *m);
void rv_decoder_destroy(struct rv_decoder *d);
/* Decodes at most `max` instructions from `code`, `avail` bytes, into insn/off; returns their number and the bytes and
 * guest instructions they take. 0: the first one needs more bytes than there are. */
unsigned rv_decode(const struct rv_decoder *d, const uint8_t *code, unsigned avail, struct rv_block *b, uint8_t *off);
/* Guest instructions that the first n of the block stand for. */
unsigned rv_insn_count(const struct rv_block *b, unsigned n);

/* --- rv_cache.c: decoded blocks of one hart; the hart's thread only. */
struct rv_cache *rv_cache_create(size_t bytes);
void rv_cache_destroy(struct rv_hart *h);
/* The block at virtual address pc, decoded now if need be and entered in jc. NULL: trap_cause and trap_tval are set. */
struct rv_block *rv_block_lookup(struct rv_hart *h, uint64_t pc);
/* How often everything was dropped: pointers to blocks taken before are dead when it has changed. */
uint64_t rv_cache_generation(const struct rv_hart *h);
size_t rv_cache_bytes(const struct rv_hart *h);
void rv_cache_flush(struct rv_hart *h);
void rv_jc_flush(struct rv_hart *h);
void rv_jc_flush_page(struct rv_hart *h, uint64_t va);
/* FENCE.I on this hart (law 3). */
void rv_fence_i(struct rv_hart *h);
/* Any thread: [gpa, +len) was stored to and may be decoded somewhere. */
void rv_code_written(void *accel, uint64_t gpa, uint64_t len);

/* --- rv_mmu.c */
/* Physical address of va; false: trap_cause and trap_tval are set. `leaf_size` may be NULL. */
bool rv_translate(struct rv_hart *h, uint64_t va, enum rv_access how, uint64_t *pa);
bool rv_load_slow(struct rv_hart *h, uint64_t va, unsigned size); /* into h->tmp */
bool rv_store_slow(struct rv_hart *h, uint64_t va, unsigned size, uint64_t val);
/* Host address for an atomic read-modify-write of aligned RAM; NULL: trap set. */
void *rv_amo_slow(struct rv_hart *h, uint64_t va, unsigned size);
bool rv_lr_check(struct rv_hart *h, uint64_t va, unsigned size);
/* CBO instructions: 0 inval, 1 clean, 2 flush, 4 zero. False: trap set. */
bool rv_cbo(struct rv_hart *h, uint64_t va, unsigned op);
void rv_tlb_flush(struct rv_hart *h);
void rv_tlb_flush_page(struct rv_hart *h, uint64_t va);
void rv_tlb_flush_range(struct rv_hart *h, uint64_t va, uint64_t size);
void rv_wtlb_flush(struct rv_hart *h);
/* Drops write permission to one host page. */
void rv_wtlb_drop_host(struct rv_hart *h, const uint8_t *host_page);
/* After a change of mode or of SUM. */
void rv_tlb_select(struct rv_hart *h);
/* The instruction's bytes, for stval. */
uint64_t rv_fetch_raw(struct rv_hart *h, uint64_t pc);

/* --- rv_csr.c */
enum rv_csr_result { RV_CSR_OK, RV_CSR_LOOKUP, RV_CSR_ILLEGAL }; /* LOOKUP: translation may have changed */
/* funct3 as encoded (1..3: write, set, clear); `write` false for set/clear with x0. Old value in h->tmp. */
enum rv_csr_result rv_csr_op(struct rv_hart *h, unsigned num, unsigned funct3, uint64_t src, bool write);
struct rv_csr_desc {
    uint16_t num;
    const char *name;
    uint64_t (*read)(struct rv_hart *h, unsigned num);
    enum rv_csr_result (*write)(struct rv_hart *h, uint64_t val); /* NULL: read-only */
    bool (*allowed)(struct rv_hart *h, unsigned num);             /* beyond the mode check; may be NULL */
    bool saved;                                                   /* part of a hart's saved state */
};
extern const struct rv_csr_desc rv_csr_table[];
extern const unsigned rv_csr_table_n;
/* Bits of senvcfg that writing `val` changes; whether satp can be `val`. */
uint64_t rv_senvcfg_mask(const struct rv_hart *h, uint64_t val);
bool rv_satp_good(const struct rv_hart *h, uint64_t val);
uint32_t rv_sip(const struct rv_hart *h);
uint64_t rv_time(const struct rv_hart *h);

/* --- rv_trap.c */
void rv_trap(struct rv_hart *h); /* trap_cause/trap_tval at h->pc */
void rv_trap_set(struct rv_hart *h, enum rv_cause cause, uint64_t tval);
bool rv_sret(struct rv_hart *h); /* false: illegal here */
/* Serves attention at an instruction boundary; false: leave rv_exec. */
bool rv_attention(struct rv_hart *h);

/* --- rv_sbi.c: ECALL from supervisor mode; h->pc is behind it. False: leave rv_exec. */
bool rv_sbi_call(struct rv_hart *h);

/* Version, implementation and extensions, a line each: g_free. */
char *rv_sbi_describe(const struct rv_accel *a);

/* --- rv_hart.c */
struct rv_hart *rv_hart_create(struct rv_accel *a, unsigned id);
void rv_hart_destroy(struct rv_hart *h);
int rv_hart_start_thread(struct rv_hart *h, struct err *e);
void rv_hart_reset(struct rv_hart *h);
void rv_hart_pause(struct rv_hart *h); /* asks */
void rv_hart_wait_paused(struct rv_hart *h);
void rv_hart_resume(struct rv_hart *h);
void rv_hart_nap(struct rv_hart *h, uint64_t until_ns);
/* Any thread: sets attention bits and wakes the hart if it sleeps. */
void rv_hart_post(struct rv_hart *h, uint32_t bits);
void rv_hart_page_came(struct rv_hart *h); /* a page that it may wait for. Any thread. */
void rv_hart_irq(struct rv_hart *h, uint32_t bit, bool level);
/* Posts to the mailbox of each hart in `mask` (fill is called with the mutex held) and, unless self is NULL, waits
 * until all have served it; self, a hart in rv_exec, serves its own mail meanwhile. */
void rv_hart_request(struct rv_accel *a, struct rv_hart *self, uint64_t mask,
                     void (*fill)(struct rv_mail *m, const void *arg), const void *arg);
void rv_hart_serve_mail(struct rv_hart *h);
void rv_hart_drop_write_permission(struct rv_accel *a, const struct rv_hart *except, bool wait);
void rv_timer_set(struct rv_hart *h, uint64_t stimecmp);
void rv_timer_look(struct rv_hart *h); /* stip from the clock; also while it is paused */
void rv_timer_eval(struct rv_hart *h); /* and re-arms */

/* --- rv_model.c */
/* `compat`: features that come before those of `cpu`; may be NULL. */
int rv_model_parse(const char *cpu, const char *compat, struct rv_model *m, struct err *e);
/* As in -cpu; NULL: it has none (the base). */
const char *rv_ext_name(unsigned ext);
int rv_model_describe(const struct rv_model *m, void *fdt, int node);

/* --- rv_regs.c */
void rv_regs_build(struct rv_accel *a);
uint64_t rv_reg_get(struct rv_hart *h, unsigned id);
int rv_reg_set(struct rv_hart *h, unsigned id, uint64_t val);

/* --- rv_state.c: the object is a struct rv_hart */
extern const struct state_section rv_hart_state;
