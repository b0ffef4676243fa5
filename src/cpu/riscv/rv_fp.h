/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Floating point by the host's FPU. Inside the guest the host's sticky flags are the guest's (plus h->fflags), and the
 * host rounds as frm says where it can (h->host_rm); rv_fp_enter/leave bracket that, also around calls out to
 * devices. Operands and results are register images: singles NaN-boxed.
 */
#pragma once

#include "cpu/riscv/rv.h"

#define RV_NX 1u
#define RV_UF 2u
#define RV_OF 4u
#define RV_DZ 8u
#define RV_NV 16u

void rv_fp_enter(struct rv_hart *h);
void rv_fp_leave(struct rv_hart *h);
unsigned rv_fp_flags(struct rv_hart *h);
void rv_fp_set_flags(struct rv_hart *h, unsigned flags);
void rv_fp_set_frm(struct rv_hart *h, unsigned frm);

typedef uint64_t rv_fp_fn(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c);

/* Runs fn under rounding mode rm (0..4). */
uint64_t rv_fp_rounded(struct rv_hart *h, rv_fp_fn *fn, const uint64_t v[3], unsigned rm);

/* Arithmetic: depends on the rounding mode. */
rv_fp_fn rv_add_s, rv_sub_s, rv_mul_s, rv_div_s, rv_sqrt_s, rv_madd_s, rv_msub_s, rv_nmsub_s, rv_nmadd_s;
rv_fp_fn rv_add_d, rv_sub_d, rv_mul_d, rv_div_d, rv_sqrt_d, rv_madd_d, rv_msub_d, rv_nmsub_d, rv_nmadd_d;
rv_fp_fn rv_cvt_s_d, rv_cvt_s_w, rv_cvt_s_wu, rv_cvt_s_l, rv_cvt_s_lu, rv_cvt_d_l, rv_cvt_d_lu;
/* To integers; b is the rounding mode, any of 0..4, whatever the host's. */
rv_fp_fn rv_cvt_w_s, rv_cvt_wu_s, rv_cvt_l_s, rv_cvt_lu_s, rv_cvt_w_d, rv_cvt_wu_d, rv_cvt_l_d, rv_cvt_lu_d;
/* The rest is exact. */
rv_fp_fn rv_cvt_d_s, rv_cvt_d_w, rv_cvt_d_wu, rv_min_s, rv_max_s, rv_min_d, rv_max_d;
rv_fp_fn rv_eq_s, rv_lt_s, rv_le_s, rv_eq_d, rv_lt_d, rv_le_d, rv_class_s, rv_class_d;
rv_fp_fn rv_sgnj_s, rv_sgnjn_s, rv_sgnjx_s;
