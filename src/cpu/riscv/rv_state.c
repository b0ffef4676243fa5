/* SPDX-License-Identifier: BSD-2-Clause */
/* A hart's state as data. The machine is paused: see law 1. */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"

#include "base/cleanup.h"

#include <inttypes.h>
#include <string.h>

struct hart_state {
    uint64_t extensions; /* of enum rv_ext */
    uint64_t pc, x[32], f[32];
    uint8_t priv, hsm;
    bool wfi, ssip;
    uint64_t sstatus, sie, stvec, scounteren, senvcfg, sscratch, sepc, scause, stval, satp, stimecmp;
    uint8_t fflags, frm;
    uint64_t instret, reservation_address, reservation_value;
    uint64_t start_pc, start_opaque;
};

static const struct state_field fields[] = {
    STATE_U64(struct hart_state, extensions, .help = "a bit per extension of the instruction set that is on"),
    STATE_U64(struct hart_state, pc),
    STATE_U64S(struct hart_state, x),
    STATE_U64S(struct hart_state, f),
    STATE_U8(struct hart_state, priv, .max = RV_S, .help = "0: user, 1: supervisor mode"),
    STATE_U8(struct hart_state, hsm, .max = RV_HSM_SUSPENDED, .help = "state by SBI HSM"),
    STATE_BOOL(struct hart_state, wfi, .help = "waits for an interrupt"),
    STATE_BOOL(struct hart_state, ssip, .help = "software interrupt pending"),
    STATE_U64(struct hart_state, sstatus, .help = "without SD and UXL"),
    STATE_U64(struct hart_state, sie),
    STATE_U64(struct hart_state, stvec),
    STATE_U64(struct hart_state, scounteren),
    STATE_U64(struct hart_state, senvcfg),
    STATE_U64(struct hart_state, sscratch),
    STATE_U64(struct hart_state, sepc),
    STATE_U64(struct hart_state, scause),
    STATE_U64(struct hart_state, stval),
    STATE_U64(struct hart_state, satp),
    STATE_U64(struct hart_state, stimecmp),
    STATE_U8(struct hart_state, fflags, .max = 31),
    STATE_U8(struct hart_state, frm, .max = 7),
    STATE_U64(struct hart_state, instret),
    STATE_U64(struct hart_state, reservation_address, .help = "of LR, bit 0: of a word; all ones: none"),
    STATE_U64(struct hart_state, reservation_value, .help = "what LR read: SC succeeds while it is there"),
    STATE_U64(struct hart_state, start_pc, .help = "where SBI HSM start wants it"),
    STATE_U64(struct hart_state, start_opaque),
    {0},
};
static const char *const derived[] = {
    "sip.stip", "sip.seip", "sstatus.sd", "sstatus.uxl", "fcsr", "time", "cycle", "tlb", "decoded code", NULL,
};

static void get(void *object, void *st)
{
    struct rv_hart *h = object;
    struct hart_state *s = st;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&h->mutex);
    *s = (struct hart_state){
        .extensions = h->a->model.exts,
        .pc = h->pc,
        .priv = (uint8_t)h->mode,
        .hsm = (uint8_t)h->hsm,
        .wfi = h->wfi,
        .ssip = atomic_load(&h->irq) & RV_IP_SSIP,
        .sstatus = h->sstatus,
        .sie = h->sie,
        .stvec = h->stvec,
        .scounteren = h->scounteren,
        .senvcfg = h->senvcfg,
        .sscratch = h->sscratch,
        .sepc = h->sepc,
        .scause = h->scause,
        .stval = h->stval,
        .satp = h->satp,
        .stimecmp = h->stimecmp,
        .fflags = (uint8_t)rv_fp_flags(h),
        .frm = (uint8_t)h->frm,
        .instret = h->instret,
        .reservation_address = h->res_addr,
        .reservation_value = h->res_val,
        .start_pc = h->start_pc,
        .start_opaque = h->start_opaque,
    };
    memcpy(s->x, h->x, sizeof(s->x));
    memcpy(s->f, h->f, sizeof(s->f));
}

/* The instruction set has to be the same: programs have looked, and use it. */
static int check_extensions(const struct rv_hart *h, uint64_t there, struct err *e)
{
    uint64_t here = h->a->model.exts, differ = here ^ there;
    if (!differ) {
        return 0;
    }
    unsigned i = (unsigned)__builtin_ctzll(differ);
    const char *name = rv_ext_name(i);
    if (!name) {
        return err_set(e, EINVAL, "it has an extension of the instruction set that is not known here (bit %u)", i);
    }
    return err_set(e, EINVAL, "the extension '%s' of the instruction set is %s there and %s here; give -cpu max,%s=%s",
                   name, there >> i & 1 ? "on" : "off", here >> i & 1 ? "on" : "off", name,
                   there >> i & 1 ? "on" : "off");
}

static int check_csrs(const struct rv_hart *h, const struct hart_state *s, struct err *e)
{
    const struct {
        const char *name;
        uint64_t value;
        bool good;
    } csr[] = {
        {"sstatus", s->sstatus, !(s->sstatus & ~RV_SSTATUS_WRITABLE) && (rv_has(h, RV_F) || !(s->sstatus & RV_SR_FS))},
        {"sie", s->sie, !(s->sie & ~(uint64_t)RV_SIE_WRITABLE)},
        {"stvec", s->stvec, (s->stvec & 3) < 2},
        {"scounteren", s->scounteren, s->scounteren <= UINT32_MAX},
        {"senvcfg", s->senvcfg, !(s->senvcfg & ~rv_senvcfg_mask(h, s->senvcfg))},
        {"sepc", s->sepc, !(s->sepc & 1)},
        {"satp", s->satp, rv_satp_good(h, s->satp)},
        {"fflags", s->fflags, s->fflags < 32},
        {"frm", s->frm, s->frm < 8},
        {"pc", s->pc, !(s->pc & 1)},
        {"start_pc", s->start_pc, !(s->start_pc & 1)},
        {"x0", s->x[0], s->x[0] == 0},
        {"priv", s->priv, s->priv <= RV_S},
        {"hsm", s->hsm,
         s->hsm == RV_HSM_STARTED || s->hsm == RV_HSM_STOPPED || s->hsm == RV_HSM_START_PENDING ||
             s->hsm == RV_HSM_SUSPENDED},
    };
    for (unsigned i = 0; i < sizeof(csr) / sizeof(csr[0]); i++) {
        if (!csr[i].good) {
            return err_set(e, EINVAL, "%s cannot be 0x%" PRIx64, csr[i].name, csr[i].value);
        }
    }
    return 0;
}

static int check(void *object, const void *st, struct err *e)
{
    const struct rv_hart *h = object;
    const struct hart_state *s = st;
    int rc = check_extensions(h, s->extensions, e);
    return rc < 0 ? rc : check_csrs(h, s, e);
}

static void put_registers(struct rv_hart *h, const struct hart_state *s)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&h->mutex);
    memcpy(h->x, s->x, sizeof(s->x));
    memcpy(h->f, s->f, sizeof(s->f));
    h->x[0] = 0;
    h->pc = s->pc;
    h->mode = s->priv;
    h->hsm = (enum rv_hsm)s->hsm;
    h->wfi = s->wfi;
    h->sstatus = s->sstatus;
    h->sie = s->sie;
    h->stvec = s->stvec;
    h->scounteren = s->scounteren;
    h->senvcfg = s->senvcfg;
    h->sscratch = s->sscratch;
    h->sepc = s->sepc;
    h->scause = s->scause;
    h->stval = s->stval;
    h->satp = s->satp;
    h->stimecmp = s->stimecmp;
    rv_fp_set_flags(h, s->fflags);
    rv_fp_set_frm(h, s->frm);
    h->instret = s->instret;
    h->res_addr = s->reservation_address;
    h->res_val = s->reservation_value;
    h->start_pc = s->start_pc;
    h->start_opaque = s->start_opaque;
    if (s->ssip) {
        atomic_fetch_or(&h->irq, RV_IP_SSIP);
    } else {
        atomic_fetch_and(&h->irq, ~RV_IP_SSIP);
    }
}

static void put(void *object, const void *st)
{
    struct rv_hart *h = object;
    put_registers(h, st);
    rv_tlb_select(h);
    rv_tlb_flush(h);
    rv_cache_flush(h);
    rv_timer_look(h);
    rv_hart_post(h, RV_ATT_IRQ);
}

const struct state_section rv_hart_state = {
    .name = "riscv-hart",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct hart_state),
    .fields = fields,
    .derived = derived,
    .get = get,
    .check = check,
    .put = put,
};
