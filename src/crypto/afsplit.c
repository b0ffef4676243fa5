/* SPDX-License-Identifier: BSD-2-Clause */
#include "crypto/afsplit.h"

#include "base/endian.h"

#include <glib.h>
#include <string.h>

static void xor_into(uint8_t *to, const uint8_t *from, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        to[i] ^= from[i];
    }
}

/* Each piece of a digest's length becomes the digest of its number and itself. */
static void diffuse(enum crypto_hash h, uint8_t *block, size_t len)
{
    size_t size = crypto_hash_size(h);
    uint8_t in[4 + CRYPTO_HASH_MAX], out[CRYPTO_HASH_MAX];
    for (size_t at = 0; at < len; at += size) {
        size_t n = MIN(size, len - at);
        store_be32(in, (uint32_t)(at / size));
        memcpy(in + 4, block + at, n);
        crypto_hash(h, in, 4 + n, out);
        memcpy(block + at, out, n);
    }
    explicit_bzero(in, sizeof(in));
    explicit_bzero(out, sizeof(out));
}

int af_split(enum crypto_hash h, const uint8_t *key, size_t len, uint32_t stripes, uint8_t *out)
{
    uint8_t *sum = g_malloc0(len);
    int rc = stripes > 1 ? crypto_random(out, len * (stripes - 1), NULL) : 0;
    for (uint32_t i = 0; rc == 0 && i < stripes - 1; i++) {
        xor_into(sum, out + i * len, len);
        diffuse(h, sum, len);
    }
    if (rc == 0) {
        xor_into(sum, key, len);
        memcpy(out + (stripes - 1) * len, sum, len);
    }
    explicit_bzero(sum, len);
    g_free(sum);
    return rc;
}

void af_merge(enum crypto_hash h, const uint8_t *in, size_t len, uint32_t stripes, uint8_t *key)
{
    memset(key, 0, len);
    for (uint32_t i = 0; i < stripes - 1; i++) {
        xor_into(key, in + i * len, len);
        diffuse(h, key, len);
    }
    xor_into(key, in + (stripes - 1) * len, len);
}
