/* SPDX-License-Identifier: BSD-2-Clause */
/* Rounding to nearest with ties away from zero (RMM), which no host FPU has. */
#pragma once

#include "cpu/riscv/rv_fp.h"

/* fn, one of the arithmetic functions of rv_fp.h, applied to v under RMM; flags as for the other modes. */
uint64_t rv_soft_away(struct rv_hart *h, rv_fp_fn *fn, const uint64_t v[3]);
