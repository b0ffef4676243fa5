/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu/accels.h"

#include "cpu/riscv/rv_accel.h"

const struct accel_ops *const accel_table[] = {&rv_interp_ops, NULL};
