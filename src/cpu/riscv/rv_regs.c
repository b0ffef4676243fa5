/* SPDX-License-Identifier: BSD-2-Clause */
/* The registers as dumps, saved states and debuggers see them. The machine is paused. */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"

#include <glib.h>

/* Ids: the kind in the high half, the number in the low one. "priv", "hsm"... are not registers of the manual but
 * belong to a hart's state all the same. */
enum kind { K_X = 1 << 16, K_F = 2 << 16, K_CSR = 3 << 16, K_OTHER = 4 << 16, K_MASK = ~0xffff };
enum other { O_PC, O_PRIV, O_HSM, O_WFI, O_INSTRET, O_RES_ADDR, O_RES_VAL, O_START_PC, O_START_OPAQUE };

static const struct accel_reg others[] = {
    {"pc", 64, K_OTHER | O_PC},
    {"priv", 2, K_OTHER | O_PRIV},
    {"hsm", 3, K_OTHER | O_HSM},
    {"wfi", 1, K_OTHER | O_WFI},
    {"instret", 64, K_OTHER | O_INSTRET},
    {"reservation_address", 64, K_OTHER | O_RES_ADDR},
    {"reservation_value", 64, K_OTHER | O_RES_VAL},
    {"start_pc", 64, K_OTHER | O_START_PC},
    {"start_opaque", 64, K_OTHER | O_START_OPAQUE},
};
#define OTHERS (sizeof(others) / sizeof(others[0]))

static const char *const x_names[32] = {"x0",  "x1",  "x2",  "x3",  "x4",  "x5",  "x6",  "x7",  "x8",  "x9",  "x10",
                                        "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21",
                                        "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "x31"};
static const char *const f_names[32] = {"f0",  "f1",  "f2",  "f3",  "f4",  "f5",  "f6",  "f7",  "f8",  "f9",  "f10",
                                        "f11", "f12", "f13", "f14", "f15", "f16", "f17", "f18", "f19", "f20", "f21",
                                        "f22", "f23", "f24", "f25", "f26", "f27", "f28", "f29", "f30", "f31"};

void rv_regs_build(struct rv_accel *a)
{
    GArray *t = g_array_new(FALSE, FALSE, sizeof(struct accel_reg));
    g_array_append_vals(t, others, OTHERS);
    for (unsigned i = 1; i < 32; i++) {
        g_array_append_vals(t, &(struct accel_reg){x_names[i], 64, K_X | i}, 1);
    }
    for (unsigned i = 0; i < 32 && a->model.exts >> RV_F & 1; i++) {
        g_array_append_vals(t, &(struct accel_reg){f_names[i], 64, K_F | i}, 1);
    }
    for (unsigned i = 0; i < rv_csr_table_n; i++) {
        if (rv_csr_table[i].saved) {
            g_array_append_vals(t, &(struct accel_reg){rv_csr_table[i].name, 64, K_CSR | i}, 1);
        }
    }
    a->regs_n = t->len;
    a->regs = (struct accel_reg *)(void *)g_array_free(t, FALSE);
}

static uint64_t *other_slot(struct rv_hart *h, unsigned n)
{
    switch (n) {
    case O_PC:
        return &h->pc;
    case O_INSTRET:
        return &h->instret;
    case O_RES_ADDR:
        return &h->res_addr;
    case O_RES_VAL:
        return &h->res_val;
    case O_START_PC:
        return &h->start_pc;
    case O_START_OPAQUE:
        return &h->start_opaque;
    default:
        return NULL;
    }
}

uint64_t rv_reg_get(struct rv_hart *h, unsigned id)
{
    unsigned n = id & 0xffff;
    switch (id & K_MASK) {
    case K_X:
        return n < 32 ? h->x[n] : 0;
    case K_F:
        return n < 32 ? h->f[n] : 0;
    case K_CSR:
        return n < rv_csr_table_n ? rv_csr_table[n].read(h, rv_csr_table[n].num) : 0;
    case K_OTHER:
        if (other_slot(h, n)) {
            return *other_slot(h, n);
        }
        return n == O_PRIV ? h->mode : n == O_HSM ? (uint64_t)h->hsm : n == O_WFI ? h->wfi : 0;
    default:
        return 0;
    }
}

static int set_other(struct rv_hart *h, unsigned n, uint64_t val)
{
    static const uint8_t hsm_ok[] = {
        [RV_HSM_STARTED] = 1, [RV_HSM_STOPPED] = 1, [RV_HSM_START_PENDING] = 1, [RV_HSM_SUSPENDED] = 1};
    if (other_slot(h, n)) {
        *other_slot(h, n) = n == O_PC || n == O_START_PC ? val & ~1ull : val;
        return 0;
    }
    switch (n) {
    case O_PRIV:
        if (val > RV_S) {
            return -EINVAL;
        }
        h->mode = (unsigned)val;
        rv_tlb_select(h);
        return 0;
    case O_HSM:
        if (val >= sizeof(hsm_ok) || !hsm_ok[val]) {
            return -EINVAL;
        }
        h->hsm = (enum rv_hsm)val;
        return 0;
    case O_WFI:
        h->wfi = val != 0;
        return 0;
    default:
        return -ENOENT;
    }
}

int rv_reg_set(struct rv_hart *h, unsigned id, uint64_t val)
{
    unsigned n = id & 0xffff;
    switch (id & K_MASK) {
    case K_X:
        if (n == 0 || n > 31) {
            return -ENOENT;
        }
        h->x[n] = val;
        return 0;
    case K_F:
        if (n > 31) {
            return -ENOENT;
        }
        h->f[n] = val;
        return 0;
    case K_CSR:
        if (n >= rv_csr_table_n || !rv_csr_table[n].write) {
            return -ENOENT;
        }
        {
            /* flags and rounding mode mark FS dirty when the guest writes them; a debugger must not */
            uint64_t fs = h->sstatus & RV_SR_FS;
            rv_csr_table[n].write(h, val);
            if (rv_csr_table[n].num < 4) {
                h->sstatus = (h->sstatus & ~RV_SR_FS) | fs;
            }
        }
        return 0;
    case K_OTHER:
        return set_other(h, n, val);
    default:
        return -ENOENT;
    }
}
