/* SPDX-License-Identifier: BSD-2-Clause */
/* Control and status registers of supervisor and user mode (manual volume II). */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"

#define CSR_SIP 0x144

uint32_t rv_sip(const struct rv_hart *h)
{
    return atomic_load_explicit(&h->irq, memory_order_acquire) | (h->stip ? RV_IP_STIP : 0);
}

uint64_t rv_time(const struct rv_hart *h)
{
    uint64_t ns = guest_clock_ns(h->a->c.clock), hz = h->a->c.timebase_hz;
    return hz == 10000000 ? ns / 100 : (uint64_t)((unsigned __int128)ns * hz / 1000000000);
}

static void irq_check(struct rv_hart *h)
{
    if (rv_sip(h) & h->sie) {
        atomic_fetch_or(&h->attention, RV_ATT_IRQ);
    }
}

static uint64_t sstatus_read(struct rv_hart *h, unsigned num)
{
    return h->sstatus | RV_SR_UXL | ((h->sstatus & RV_SR_FS) == RV_SR_FS ? RV_SR_SD : 0);
}

static enum rv_csr_result sstatus_write(struct rv_hart *h, uint64_t val)
{
    uint64_t old = h->sstatus, now = val & RV_SSTATUS_WRITABLE;
    if (!rv_has(h, RV_F)) {
        now &= ~RV_SR_FS;
    }
    h->sstatus = now;
    if ((old ^ now) & RV_SR_MXR) {
        rv_tlb_flush(h);
    }
    if ((old ^ now) & RV_SR_SUM) {
        rv_tlb_select(h);
    }
    if (now & ~old & RV_SR_SIE) {
        irq_check(h);
    }
    return RV_CSR_OK;
}

static uint64_t sie_read(struct rv_hart *h, unsigned num)
{
    return h->sie;
}
static enum rv_csr_result sie_write(struct rv_hart *h, uint64_t val)
{
    h->sie = val & RV_SIE_WRITABLE;
    irq_check(h);
    return RV_CSR_OK;
}

static uint64_t sip_read(struct rv_hart *h, unsigned num)
{
    h->stip = rv_time(h) >= h->stimecmp;
    return rv_sip(h);
}
static enum rv_csr_result sip_write(struct rv_hart *h, uint64_t val)
{
    if (val & RV_IP_SSIP) {
        atomic_fetch_or(&h->irq, RV_IP_SSIP);
    } else {
        atomic_fetch_and(&h->irq, ~RV_IP_SSIP);
    }
    irq_check(h);
    return RV_CSR_OK;
}

#define PLAIN(name, mask)                                                                                              \
    static uint64_t name##_read(struct rv_hart *h, unsigned num)                                                       \
    {                                                                                                                  \
        return h->name;                                                                                                \
    }                                                                                                                  \
    static enum rv_csr_result name##_write(struct rv_hart *h, uint64_t val)                                            \
    {                                                                                                                  \
        h->name = val & (mask);                                                                                        \
        return RV_CSR_OK;                                                                                              \
    }
PLAIN(sscratch, ~0ull)
PLAIN(sepc, ~1ull)
PLAIN(scause, ~0ull)
PLAIN(stval, ~0ull)
PLAIN(scounteren, 0xffffffffull)

static uint64_t stvec_read(struct rv_hart *h, unsigned num)
{
    return h->stvec;
}
static enum rv_csr_result stvec_write(struct rv_hart *h, uint64_t val)
{
    if ((val & 3) < 2) { /* the other modes are reserved: WARL, keep what was */
        h->stvec = val;
    }
    return RV_CSR_OK;
}

static uint64_t senvcfg_read(struct rv_hart *h, unsigned num)
{
    return h->senvcfg;
}
uint64_t rv_senvcfg_mask(const struct rv_hart *h, uint64_t val)
{
    uint64_t mask = 1 | (rv_has(h, RV_ZICBOM) ? 7ull << 4 : 0) | (rv_has(h, RV_ZICBOZ) ? 1ull << 7 : 0);
    return (val >> 4 & 3) == 2 ? mask & ~(3ull << 4) : mask; /* reserved CBIE */
}
static enum rv_csr_result senvcfg_write(struct rv_hart *h, uint64_t val)
{
    h->senvcfg = val & rv_senvcfg_mask(h, val);
    return RV_CSR_OK;
}

static uint64_t satp_read(struct rv_hart *h, unsigned num)
{
    return h->satp;
}
static bool satp_mode(const struct rv_hart *h, uint64_t val)
{
    unsigned mode = (unsigned)(val >> 60);
    return mode == 0 || mode == 8 || (mode == 9 && rv_has(h, RV_SV48));
}
bool rv_satp_good(const struct rv_hart *h, uint64_t val)
{
    return satp_mode(h, val) && (val >> 60 || !val);
}
static enum rv_csr_result satp_write(struct rv_hart *h, uint64_t val)
{
    if (!satp_mode(h, val)) {
        return RV_CSR_OK; /* an unsupported mode makes the whole write void */
    }
    if (val != h->satp) {
        h->satp = val >> 60 ? val : 0;
        rv_tlb_flush(h);
    }
    return RV_CSR_LOOKUP;
}

static uint64_t stimecmp_read(struct rv_hart *h, unsigned num)
{
    return h->stimecmp;
}
static enum rv_csr_result stimecmp_write(struct rv_hart *h, uint64_t val)
{
    rv_timer_set(h, val);
    return RV_CSR_OK;
}
static bool has_sstc(struct rv_hart *h, unsigned num)
{
    return rv_has(h, RV_SSTC);
}

static uint64_t fflags_read(struct rv_hart *h, unsigned num)
{
    return rv_fp_flags(h);
}
static enum rv_csr_result fflags_write(struct rv_hart *h, uint64_t val)
{
    rv_fp_set_flags(h, val & 31);
    h->sstatus |= RV_SR_FS;
    return RV_CSR_OK;
}
static uint64_t frm_read(struct rv_hart *h, unsigned num)
{
    return h->frm;
}
static enum rv_csr_result frm_write(struct rv_hart *h, uint64_t val)
{
    rv_fp_set_frm(h, val & 7);
    h->sstatus |= RV_SR_FS;
    return RV_CSR_OK;
}
static uint64_t fcsr_read(struct rv_hart *h, unsigned num)
{
    return rv_fp_flags(h) | h->frm << 5;
}
static enum rv_csr_result fcsr_write(struct rv_hart *h, uint64_t val)
{
    fflags_write(h, val);
    return frm_write(h, val >> 5);
}
static bool fs_on(struct rv_hart *h, unsigned num)
{
    return h->sstatus & RV_SR_FS && rv_has(h, RV_F);
}

static uint64_t time_read(struct rv_hart *h, unsigned num)
{
    return rv_time(h);
}
/* cycle counts instructions too: one each. The block that reads is in already, the reading instruction is not. */
static uint64_t instret_read(struct rv_hart *h, unsigned num)
{
    return h->instret - 1;
}
static uint64_t zero_read(struct rv_hart *h, unsigned num)
{
    return 0;
}
static bool counter_allowed(struct rv_hart *h, unsigned num)
{
    return h->mode == RV_S || h->scounteren >> (num & 31) & 1;
}

#define RW(n_, number)                                                                                                 \
    {                                                                                                                  \
        .num = number, .name = #n_, .read = n_##_read, .write = n_##_write, .saved = true                              \
    }
#define HPM(n)                                                                                                         \
    {                                                                                                                  \
        .num = 0xc00 + n, .name = "hpmcounter" #n, .read = zero_read, .allowed = counter_allowed                       \
    }
#define FCSR(n_, number)                                                                                               \
    {                                                                                                                  \
        .num = number, .name = #n_, .read = n_##_read, .write = n_##_write, .allowed = fs_on, .saved = true            \
    }

const struct rv_csr_desc rv_csr_table[] = {
    FCSR(fflags, 0x001),
    FCSR(frm, 0x002),
    {.num = 0x003, .name = "fcsr", .read = fcsr_read, .write = fcsr_write, .allowed = fs_on},
    RW(sstatus, 0x100),
    RW(sie, 0x104),
    RW(stvec, 0x105),
    RW(scounteren, 0x106),
    RW(senvcfg, 0x10a),
    RW(sscratch, 0x140),
    RW(sepc, 0x141),
    RW(scause, 0x142),
    RW(stval, 0x143),
    RW(sip, CSR_SIP),
    {.num = 0x14d,
     .name = "stimecmp",
     .read = stimecmp_read,
     .write = stimecmp_write,
     .allowed = has_sstc,
     .saved = true},
    RW(satp, 0x180),
    {.num = 0xc00, .name = "cycle", .read = instret_read, .allowed = counter_allowed},
    {.num = 0xc01, .name = "time", .read = time_read, .allowed = counter_allowed},
    {.num = 0xc02, .name = "instret", .read = instret_read, .allowed = counter_allowed},
    HPM(3),
    HPM(4),
    HPM(5),
    HPM(6),
    HPM(7),
    HPM(8),
    HPM(9),
    HPM(10),
    HPM(11),
    HPM(12),
    HPM(13),
    HPM(14),
    HPM(15),
    HPM(16),
    HPM(17),
    HPM(18),
    HPM(19),
    HPM(20),
    HPM(21),
    HPM(22),
    HPM(23),
    HPM(24),
    HPM(25),
    HPM(26),
    HPM(27),
    HPM(28),
    HPM(29),
    HPM(30),
    HPM(31),
};
const unsigned rv_csr_table_n = sizeof(rv_csr_table) / sizeof(rv_csr_table[0]);

static const struct rv_csr_desc *find(unsigned num)
{
    unsigned lo = 0, hi = rv_csr_table_n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (rv_csr_table[mid].num < num) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < rv_csr_table_n && rv_csr_table[lo].num == num ? &rv_csr_table[lo] : NULL;
}

enum rv_csr_result rv_csr_op(struct rv_hart *h, unsigned num, unsigned funct3, uint64_t src, bool write)
{
    const struct rv_csr_desc *d = find(num);
    if (!d || (num >> 8 & 3) > h->mode || (write && !d->write) || (d->allowed && !d->allowed(h, num))) {
        return RV_CSR_ILLEGAL;
    }
    uint64_t old = d->read(h, num);
    enum rv_csr_result r = RV_CSR_OK;
    if (num == CSR_SIP && funct3 != 1 && !(src & RV_IP_SSIP)) {
        write = false; /* an IPI that arrives between reading and writing must not get lost */
    }
    if (write) {
        r = d->write(h, funct3 == 1 ? src : funct3 == 2 ? old | src : old & ~src);
    }
    h->tmp = old;
    return r;
}
