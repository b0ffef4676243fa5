/* SPDX-License-Identifier: BSD-2-Clause */
/* Ciphers: the standards' vectors, and every combination against the plainest way to do it. */
#include "crypto/cipher.h"

#include "base/cleanup.h"
#include "base/endian.h"

#include <nettle/cbc.h>
#include <nettle/ctr.h>
#include <nettle/nettle-meta.h>
#include <nettle/xts.h>

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void unhex(const char *text, uint8_t *out)
{
    for (size_t i = 0; text[2 * i]; i++) {
        out[i] = (uint8_t)(g_ascii_xdigit_value(text[2 * i]) << 4 | g_ascii_xdigit_value(text[2 * i + 1]));
    }
}

struct vector {
    struct cipher_spec spec;
    const char *key; /* NULL: 0, 1, 2 … */
    uint64_t sector;
    const char *begins, *digest; /* of the ciphertext of 00 01 … ff 00 … ff; SHA-256 */
};

#define E_128  "27182818284590452353602874713526"
#define PI_128 "31415926535897932384626433832795"
#define E_256  "2718281828459045235360287471352662497757247093699959574966967627"
#define PI_256 "3141592653589793238462643383279502884197169399375105820974944592"

static const struct vector vectors[] = {
    /* IEEE 1619-2007, vectors 4, 10 and 14 */
    {{CIPHER_AES_128, CIPHER_XTS, IVGEN_PLAIN64, 0},
     E_128 PI_128,
     0,
     "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c",
     "ebee4d64dd2395bb2d6a2d37a0a48ecb2bf4913cfc99d27c2214f2f4144715ea"},
    {{CIPHER_AES_256, CIPHER_XTS, IVGEN_PLAIN64, 0},
     E_256 PI_256,
     0xff,
     "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
     "e97e974fa393af794f7a4684395814cf820de60a01eaec677d87b452e316b364"},
    {{CIPHER_AES_256, CIPHER_XTS, IVGEN_PLAIN64, 0},
     E_256 PI_256,
     0xffffffffff,
     "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23",
     "afba71abc4e95b186d89a63a5437c1bafcfd1a18ca273970c534aba4f8d05282"},
    /* another implementation's */
    {{CIPHER_AES_256, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_SHA256},
     NULL,
     5,
     "48c016b397feb53b0a508d772a0084ec",
     "6ef879e13c4b85b88c38111727c4e7825905e49d1d50e77d598e604b385047d1"},
    {{CIPHER_AES_256, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_SHA256},
     NULL,
     UINT64_C(1) << 33,
     "930f70626937bf176f2158b54f05ea40",
     "5fb57c2dbb469cd4a60edb1efcc33b5d781438b6b27f18308e99634f1d0829f9"},
    {{CIPHER_AES_256, CIPHER_CTR, IVGEN_PLAIN64, 0},
     NULL,
     7,
     "600513a7cf480ba72619758607c2d4b7",
     "0483f5e3514fb1fed977fa9fab79fa284038e68567b9c3ed2eb1a90f7059f566"},
    {{CIPHER_AES_128, CIPHER_CBC, IVGEN_PLAIN64, 0},
     NULL,
     (UINT64_C(1) << 32) + 3,
     "cc99a244d2a0bcbe026c8e5db98e952a",
     "6a486cfe45405017f60f13d7929ecb28357123592ffde43e3a212696e26ec082"},
    {{CIPHER_AES_128, CIPHER_CBC, IVGEN_PLAIN, 0}, /* which forgets the upper half */
     NULL,
     (UINT64_C(1) << 32) + 3,
     "bc60e1e2e150bcbf75b7e377b1946aae",
     "5b261dfbccbc504202dee8881faa3bd85542fcbb87ce111b80172f5790755564"},
};

static struct cipher *make(const struct cipher_spec *spec, const uint8_t *key)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct cipher *c = NULL;
    int rc = cipher_create(spec, key, cipher_key_len(spec->alg, spec->mode), &c, &e);
    if (rc < 0) {
        fail_msg("%s-%s: %s", cipher_alg_names[spec->alg], cipher_mode_names[spec->mode], err_text(&e));
    }
    return c;
}

static void test_vectors(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(vectors); i++) {
        const struct vector *v = &vectors[i];
        uint8_t key[CIPHER_KEY_MAX], plain[CIPHER_SECTOR], out[CIPHER_SECTOR], want[32];
        for (size_t k = 0; k < sizeof(plain); k++) {
            plain[k] = (uint8_t)k;
        }
        memcpy(key, plain, sizeof(key));
        if (v->key) {
            unhex(v->key, key);
        }
        struct cipher *c = make(&v->spec, key);
        cipher_encrypt(c, v->sector, out, plain, sizeof(out));
        unhex(v->begins, want);
        assert_memory_equal(out, want, strlen(v->begins) / 2);
        uint8_t digest[32];
        crypto_hash(CRYPTO_SHA256, out, sizeof(out), digest);
        unhex(v->digest, want);
        assert_memory_equal(digest, want, 32);
        cipher_decrypt(c, v->sector, out, out, sizeof(out));
        assert_memory_equal(out, plain, sizeof(out));
        cipher_destroy(c);
    }
}

/* --- every combination, sector by sector ------------------------------------------------------------------------ */

static const struct nettle_cipher *impl_of(enum cipher_alg a)
{
    static const struct nettle_cipher *const list[] = {
        &nettle_aes128,
        &nettle_aes192,
        &nettle_aes256,
        NULL,
        NULL,
        &nettle_cast128,
        &nettle_serpent128,
        &nettle_serpent192,
        &nettle_serpent256,
        &nettle_twofish128,
        &nettle_twofish192,
        &nettle_twofish256,
    };
    return list[a];
}

static void reference(const struct cipher_spec *s, const uint8_t *key, uint64_t sector, const uint8_t *in, uint8_t *out)
{
    const struct nettle_cipher *f = impl_of(s->alg);
    CLEANUP_FREE void *ctx = g_malloc0(f->context_size), *other = g_malloc0(8192);
    uint8_t iv[16] = {0};
    f->set_encrypt_key(ctx, key);
    store_le64(iv, s->ivgen == IVGEN_PLAIN ? (uint32_t)sector : sector);
    if (s->ivgen == IVGEN_ESSIV) {
        uint8_t digest[CRYPTO_HASH_MAX];
        enum cipher_alg alg;
        crypto_hash(s->ivgen_hash, key, cipher_key_len(s->alg, s->mode), digest);
        assert_true(cipher_find(cipher_family(s->alg), crypto_hash_size(s->ivgen_hash), &alg));
        impl_of(alg)->set_encrypt_key(other, digest);
        impl_of(alg)->encrypt(other, 16, iv, iv);
    }
    switch (s->mode) {
    case CIPHER_ECB:
        f->encrypt(ctx, CIPHER_SECTOR, out, in);
        break;
    case CIPHER_CBC:
        cbc_encrypt(ctx, f->encrypt, f->block_size, iv, CIPHER_SECTOR, out, in);
        break;
    case CIPHER_CTR:
        ctr_crypt(ctx, f->encrypt, f->block_size, iv, CIPHER_SECTOR, out, in);
        break;
    default:
        f->set_encrypt_key(other, key + f->key_size);
        xts_encrypt_message(ctx, other, f->encrypt, iv, CIPHER_SECTOR, out, in);
        break;
    }
}

static void try(const struct cipher_spec *s, uint64_t sector, size_t sectors)
{
    uint8_t key[CIPHER_KEY_MAX];
    size_t len = sectors * CIPHER_SECTOR;
    CLEANUP_FREE uint8_t *in = g_malloc(len), *out = g_malloc(len), *want = g_malloc(len);
    for (size_t i = 0; i < sizeof(key); i++) {
        key[i] = (uint8_t)(i * 13 + 5);
    }
    for (size_t i = 0; i < len; i++) {
        in[i] = (uint8_t)(i * i >> 3);
    }
    struct cipher *c = make(s, key);
    for (size_t i = 0; i < sectors; i++) {
        reference(s, key, sector + i, in + i * CIPHER_SECTOR, want + i * CIPHER_SECTOR);
    }
    cipher_encrypt(c, sector, out, in, len);
    assert_memory_equal(out, want, len);
    cipher_decrypt(c, sector, out, want, len);
    assert_memory_equal(out, in, len);
    cipher_encrypt(c, sector, in, in, len); /* in place */
    assert_memory_equal(in, want, len);
    cipher_decrypt(c, sector, in, in, len);
    assert_memory_equal(in, out, len);
    cipher_destroy(c);
}

static void test_combinations(void **state)
{
    static const uint64_t sectors[] = {0, 1, 0xfffffffe, UINT64_C(0x123456789ab)};
    unsigned tried = 0;
    for (int a = 0; cipher_alg_names[a]; a++) {
        for (int m = 0; impl_of(a) && cipher_mode_names[m]; m++) {
            for (int g = 0; ivgen_names[g]; g++) {
                bool small = impl_of(a)->block_size == 8;
                if (small && (m == CIPHER_XTS || g == IVGEN_ESSIV)) {
                    continue;
                }
                for (size_t i = 0; i < G_N_ELEMENTS(sectors); i++) {
                    try(&(struct cipher_spec){a, m, g, CRYPTO_SHA256}, sectors[i], 1 + i * 13);
                    tried++;
                }
            }
        }
    }
    assert_int_equal(tried, 4 * (9 * 4 * 3 + 3 * 2));
    try(&(struct cipher_spec){CIPHER_TWOFISH_256, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_MD5}, 9, 3);
    try(&(struct cipher_spec){CIPHER_AES_256, CIPHER_XTS, IVGEN_ESSIV, CRYPTO_SHA256}, 9, 40);
}

static void test_refused(void **state)
{
    static const struct {
        struct cipher_spec spec;
        size_t len;
        const char *text;
    } wrong[] = {
        {{CIPHER_CAST5_128, CIPHER_XTS, 0, 0}, 32, "Unsupported cipher mode xts"},
        {{CIPHER_DES, CIPHER_CBC, 0, 0}, 8, "Algorithm 'des' not supported"},
        {{CIPHER_3DES, CIPHER_CBC, 0, 0}, 24, "Algorithm '3des' not supported"},
        {{CIPHER_AES_128, CIPHER_XTS, 0, 0}, 16, "Cipher key length 16 should be 32"},
        {{CIPHER_AES_256, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_SHA1}, 32, "No AES cipher with key size 20 available"},
        {{CIPHER_SERPENT_256, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_SHA512},
         32,
         "No Serpent cipher with key size 64 available"},
        {{CIPHER_TWOFISH_256, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_SHA224},
         32,
         "No Twofish cipher with key size 28 available"},
        {{CIPHER_CAST5_128, CIPHER_CBC, IVGEN_ESSIV, CRYPTO_MD5}, 16, "Cipher cast5-128 not supported with essiv"},
    };
    uint8_t key[CIPHER_KEY_MAX] = {1};
    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct cipher *c = NULL;
        assert_true(cipher_create(&wrong[i].spec, key, wrong[i].len, &c, &e) < 0);
        assert_null(c);
        assert_string_equal(err_text(&e), wrong[i].text);
    }
    cipher_destroy(NULL);
}

static void test_aes_message(void **state)
{
    /* NIST SP 800-38A, F.2.6 */
    uint8_t key[32], iv[16], buf[64], want[64];
    unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", key);
    unhex("000102030405060708090a0b0c0d0e0f", iv);
    unhex("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
          "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
          buf);
    unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
          "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
          want);
    aes256_cbc_decrypt(key, iv, buf, sizeof(buf));
    assert_memory_equal(buf, want, sizeof(want));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_combinations),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_aes_message),
    };
    return cmocka_run_group_tests_name("cipher", tests, NULL, NULL);
}
