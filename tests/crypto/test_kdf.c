/* SPDX-License-Identifier: BSD-2-Clause */
/* Keys from passwords, and the splitter that spreads a key over many bytes. */
#include "crypto/afsplit.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

static char *hex(const uint8_t *b, size_t n)
{
    GString *s = g_string_new(NULL);
    for (size_t i = 0; i < n; i++) {
        g_string_append_printf(s, "%02x", b[i]);
    }
    return g_string_free(s, FALSE);
}

static void test_pbkdf2(void **state)
{
    static const struct {
        enum crypto_hash hash;
        const char *password, *salt;
        uint32_t iterations;
        const char *key;
    } vectors[] = {
        /* RFC 6070 */
        {CRYPTO_SHA1, "password", "salt", 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6"},
        {CRYPTO_SHA1, "password", "salt", 2, "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957"},
        {CRYPTO_SHA1, "password", "salt", 4096, "4b007901b765489abead49d926f721d065a429c1"},
        {CRYPTO_SHA1, "passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096,
         "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038"},
        /* RFC 7914 */
        {CRYPTO_SHA256, "passwd", "salt", 1,
         "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc49ca9cccf179b645991664b39d77ef317c71b845b1e30"
         "bd509112041d3a19783"},
        /* another implementation's */
        {CRYPTO_MD5, "password", "salt", 1000, "8d189946a32d883622a16ae18af0632f5791d5e7"},
        {CRYPTO_SHA224, "password", "salt", 1000, "d3bcf320fd918908eafcaa460faf40e201f6508d"},
        {CRYPTO_SHA384, "password", "salt", 1000, "3bd37e2236941d4a77b1b5b714c6f913fabb6b08"},
        {CRYPTO_RIPEMD160, "password", "salt", 1000, "b5c5682c46fdb315930cfc54e82d0987e6ef938f"},
        {CRYPTO_SHA512, "passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096,
         "8c0511f4c6e597c6ac6315d8f0362e225f3c501495ba23b868"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(vectors); i++) {
        size_t len = strlen(vectors[i].key) / 2;
        CLEANUP_FREE uint8_t *key = g_malloc(len);
        struct crypto_pbkdf2 p = {vectors[i].hash,         vectors[i].password,
                                  vectors[i].salt,         strlen(vectors[i].password),
                                  strlen(vectors[i].salt), vectors[i].iterations};
        crypto_pbkdf2(&p, key, len);
        CLEANUP_FREE char *text = hex(key, len);
        assert_string_equal(text, vectors[i].key);
    }
}

static void test_rate(void **state)
{
    uint64_t one = crypto_pbkdf2_rate(CRYPTO_SHA256, 32), two = crypto_pbkdf2_rate(CRYPTO_SHA256, 64);
    assert_true(one > 1000);
    assert_true(two < one); /* two digests for each iteration */
}

static void test_hashes(void **state)
{
    static const char *const of_abc[] = {
        "900150983cd24fb0d6963f7d28e17f72",
        "a9993e364706816aba3e25717850c26c9cd0d89d",
        "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce8"
        "0e"
        "2a9ac94fa54ca49f",
        "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
    };
    for (int h = 0; crypto_hash_names[h]; h++) {
        uint8_t out[CRYPTO_HASH_MAX];
        crypto_hash(h, "abc", 3, out);
        CLEANUP_FREE char *text = hex(out, crypto_hash_size(h));
        assert_string_equal(text, of_abc[h]);
    }
}

/* What an independent implementation makes of the bytes 37 i + 11. */
static void test_merge(void **state)
{
    static const struct {
        enum crypto_hash hash;
        size_t len;
        uint32_t stripes;
        const char *key;
    } vectors[] = {
        {CRYPTO_SHA1, 32, 5, "25f1ca63b46c0b263ea4894ae0c44852f4d35278e5d28beea9b3d4e35469dee1"},
        {CRYPTO_SHA256, 64, 4,
         "f20e42318d6a13140530e2f14fdb867e37e5c370eabb0e4dfd0009020f07944f025faf28ae54a64aafcf253f27ced8d49d8041acca6a6"
         "3a1b6ca0f36f40f0f85"},
        {CRYPTO_SHA512, 24, 3, "08feb946b617993e5686792d398a2ec8300e40c61ac4f62b"},
        {CRYPTO_RIPEMD160, 16, 7, "3b922621cf7a5f309239ef706e8c203c"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(vectors); i++) {
        size_t n = vectors[i].len * vectors[i].stripes;
        CLEANUP_FREE uint8_t *in = g_malloc(n), *key = g_malloc(vectors[i].len);
        for (size_t k = 0; k < n; k++) {
            in[k] = (uint8_t)(k * 37 + 11);
        }
        af_merge(vectors[i].hash, in, vectors[i].len, vectors[i].stripes, key);
        CLEANUP_FREE char *text = hex(key, vectors[i].len);
        assert_string_equal(text, vectors[i].key);
    }
}

static void test_split(void **state)
{
    static const size_t lens[] = {16, 24, 32, 48, 64};
    uint8_t key[64], back[64];
    for (size_t i = 0; i < sizeof(key); i++) {
        key[i] = (uint8_t)(i * 7 + 1);
    }
    for (int h = 0; crypto_hash_names[h]; h++) {
        for (size_t i = 0; i < G_N_ELEMENTS(lens); i++) {
            size_t len = lens[i];
            for (uint32_t stripes = 1; stripes <= 4000; stripes = stripes * 9 + 1) {
                CLEANUP_FREE uint8_t *out = g_malloc(len * stripes);
                assert_int_equal(af_split(h, key, len, stripes, out), 0);
                af_merge(h, out, len, stripes, back);
                assert_memory_equal(back, key, len);
                out[len * stripes / 2] ^= 1; /* no byte can be missed */
                af_merge(h, out, len, stripes, back);
                assert_memory_not_equal(back, key, len);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hashes), cmocka_unit_test(test_pbkdf2), cmocka_unit_test(test_rate),
        cmocka_unit_test(test_merge),  cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests_name("kdf", tests, NULL, NULL);
}
