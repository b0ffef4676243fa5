/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The anti-forensic splitter of LUKS (on-disk format specification 1.2.3, section 2.4): a key becomes `stripes` times
 * as many bytes, all of which are needed to get it back. Any thread.
 */
#pragma once

#include "crypto/hash.h"

/* `out`: len * stripes bytes; stripes ≥ 1. */
int af_split(enum crypto_hash h, const uint8_t *key, size_t len, uint32_t stripes, uint8_t *out);
void af_merge(enum crypto_hash h, const uint8_t *in, size_t len, uint32_t stripes, uint8_t *key);
