/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encryption of sectors of 512 bytes: a block cipher of nettle, a mode, and how a sector's number becomes its
 * initialization vector. A cipher is made once and then only read: any number of threads may use it at a time.
 *
 * Modes: ECB, CBC, CTR as NIST SP 800-38A has them; XTS as IEEE 1619-2007 (a sector is a whole number of blocks, so
 * nothing is ever stolen). Vectors: plain (32 bits, little-endian), plain64, essiv (plain64, encrypted with the digest
 * of the key), as Linux dm-crypt has them.
 */
#pragma once

#include "crypto/hash.h"

#include <stdbool.h>

enum { CIPHER_SECTOR = 512, CIPHER_KEY_MAX = 64 };

/* Each in the order of the list of names, NULL-terminated, which is QEMU's. */
enum cipher_alg {
    CIPHER_AES_128,
    CIPHER_AES_192,
    CIPHER_AES_256,
    CIPHER_DES, /* known by name only */
    CIPHER_3DES,
    CIPHER_CAST5_128,
    CIPHER_SERPENT_128,
    CIPHER_SERPENT_192,
    CIPHER_SERPENT_256,
    CIPHER_TWOFISH_128,
    CIPHER_TWOFISH_192,
    CIPHER_TWOFISH_256,
};
enum cipher_mode { CIPHER_ECB, CIPHER_CBC, CIPHER_XTS, CIPHER_CTR };
enum ivgen_alg { IVGEN_PLAIN, IVGEN_PLAIN64, IVGEN_ESSIV };
extern const char *const cipher_alg_names[], *const cipher_mode_names[], *const ivgen_names[];

struct cipher_spec {
    enum cipher_alg alg;
    enum cipher_mode mode;
    enum ivgen_alg ivgen;
    enum crypto_hash ivgen_hash; /* essiv */
};

/* "aes", "serpent" …: what stands before the dash of the algorithm's name. */
bool cipher_find(const char *family, size_t key_len, enum cipher_alg *out);
const char *cipher_family(enum cipher_alg alg);
/* Bytes of key: twice the cipher's own for XTS. 0: there is no such cipher here. */
size_t cipher_key_len(enum cipher_alg alg, enum cipher_mode mode);

struct cipher;
/* Says why when the parts do not go together: XTS with blocks of 8 bytes, a digest that is no key, a wrong length. */
int cipher_create(const struct cipher_spec *spec, const uint8_t *key, size_t len, struct cipher **out, struct err *e);
void cipher_destroy(struct cipher *c); /* wipes the key; NULL is fine */
/* `len` bytes, whole sectors, of which the first has number `sector`. dst == src, or they do not overlap. */
void cipher_encrypt(const struct cipher *c, uint64_t sector, uint8_t *dst, const uint8_t *src, size_t len);
void cipher_decrypt(const struct cipher *c, uint64_t sector, uint8_t *dst, const uint8_t *src, size_t len);

/* One message of AES-256-CBC, whole blocks, in place. */
void aes256_cbc_decrypt(const uint8_t key[32], const uint8_t iv[16], uint8_t *buf, size_t len);
