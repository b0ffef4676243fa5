/* SPDX-License-Identifier: BSD-2-Clause */
/* Whether there is anything in a buffer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

bool buf_is_zero(const void *buf, size_t len); /* SIMD; true when len is 0 */
