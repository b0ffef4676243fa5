/* SPDX-License-Identifier: BSD-2-Clause */
/* Every accelerator there is: an explicit table, NULL-terminated; the first is the default. */
#pragma once

#include "guest/accel.h"

extern const struct accel_ops *const accel_table[];
