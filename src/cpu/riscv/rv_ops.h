/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers of the decoded operations, in the order of rv_insns.def. */
#pragma once

enum rv_op {
#define INSN(name, ext, fmt, mask, match, ...) RV_OP_##name,
#define FUSED(name, ...)                       RV_OP_##name,
#include "cpu/riscv/rv_insns.def"
#undef INSN
#undef FUSED
    RV_OPS
};
