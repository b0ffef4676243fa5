/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Digests, keys from passwords (PBKDF2, RFC 8018, with HMAC), and random bytes. Pure functions of their arguments: any
 * thread.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* In the order of crypto_hash_names[]. */
enum crypto_hash {
    CRYPTO_MD5,
    CRYPTO_SHA1,
    CRYPTO_SHA224,
    CRYPTO_SHA256,
    CRYPTO_SHA384,
    CRYPTO_SHA512,
    CRYPTO_RIPEMD160,
};
enum { CRYPTO_HASH_MAX = 64 }; /* bytes of the largest digest */

extern const char *const crypto_hash_names[]; /* "md5" …, NULL-terminated */
size_t crypto_hash_size(enum crypto_hash h);
/* `out`: crypto_hash_size(h) bytes. */
void crypto_hash(enum crypto_hash h, const void *data, size_t len, uint8_t *out);

struct crypto_pbkdf2 {
    enum crypto_hash hash;
    const void *password, *salt;
    size_t password_len, salt_len;
    uint32_t iterations; /* at least 1 */
};
void crypto_pbkdf2(const struct crypto_pbkdf2 *p, uint8_t *out, size_t out_len);
/* Iterations that the calling thread makes in a second of its processor time, for a key of so many bytes. Takes some
 * hundredths of a second. */
uint64_t crypto_pbkdf2_rate(enum crypto_hash h, size_t key_len);

int crypto_random(void *buf, size_t len, struct err *e);
