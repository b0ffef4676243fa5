/* SPDX-License-Identifier: BSD-2-Clause */
/* CRC-32C (Castagnoli, reflected, RFC 3720 appendix B.4). Start with 0; pass the result on to continue. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t len);
