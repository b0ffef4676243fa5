/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu/riscv/rv_soft.h"

uint64_t rv_soft_away(struct rv_hart *h, rv_fp_fn *fn, const uint64_t v[3])
{
    return fn(h, v[0], v[1], v[2]);
}
