/* SPDX-License-Identifier: BSD-2-Clause */
/* `accel=interp`. */
#pragma once

#include "guest/accel.h"

extern const struct accel_ops rv_interp_ops;
