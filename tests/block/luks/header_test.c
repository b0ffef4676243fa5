/* SPDX-License-Identifier: BSD-2-Clause */
/* The LUKS header: where things lie, and that no field is believed. */
#include "block/luks/luks.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "support.h"

static void lay_out(struct luks_header *h, enum cipher_alg alg, enum cipher_mode mode)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct cipher_spec spec = {alg, mode, IVGEN_PLAIN64, CRYPTO_SHA256};
    assert_int_equal(luks_lay_out(h, &spec, false, CRYPTO_SHA256, &e), 0);
    h->iterations = 1000;
    h->slots[0].active = true;
    h->slots[0].iterations = 1000;
}

/* As others lay it out. */
static void test_places(void **state)
{
    static const struct {
        enum cipher_alg alg;
        enum cipher_mode mode;
        unsigned key, material, second, payload;
    } known[] = {
        {CIPHER_AES_256, CIPHER_XTS, 64, 256000, 262144, 2068480},
        {CIPHER_AES_128, CIPHER_CBC, 16, 64000, 69632, 528384},
        {CIPHER_TWOFISH_256, CIPHER_CBC, 32, 128000, 135168, 1052672},
        {CIPHER_SERPENT_192, CIPHER_CTR, 24, 96256, 102400, 790528}, /* 187.5 sectors */
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(known); i++) {
        struct luks_header h;
        lay_out(&h, known[i].alg, known[i].mode);
        assert_int_equal(h.key_bytes, known[i].key);
        assert_int_equal(luks_material_bytes(&h), known[i].material);
        assert_int_equal(h.slots[0].material, 8);
        assert_int_equal(h.slots[1].material * 512, known[i].second);
        assert_int_equal(luks_payload_offset(&h), known[i].payload);
    }
}

static void test_round_trip(void **state)
{
    struct luks_header h, back;
    uint8_t b[LUKS_HEADER_BYTES], again[LUKS_HEADER_BYTES];
    lay_out(&h, CIPHER_SERPENT_256, CIPHER_XTS);
    memset(h.digest, 0x11, sizeof(h.digest));
    memset(h.salt, 0x22, sizeof(h.salt));
    memset(h.slots[5].salt, 0x33, LUKS_SALT);
    luks_encode(&h, b);
    assert_true(luks_probe(b, sizeof(b)));
    assert_false(luks_probe(b, 7));
    assert_memory_equal(b, "LUKS\xba\xbe\0\1serpent", 16);
    assert_string_equal((char *)b + 40, "xts-plain64");
    assert_string_equal((char *)b + 72, "sha256");
    assert_int_equal(load_be32(b + 208), 0x00ac71f3);
    assert_int_equal(load_be32(b + 256), 0x0000dead);
    assert_int_equal(luks_decode(&back, b, NULL), 0);
    assert_int_equal(back.spec.alg, CIPHER_SERPENT_256);
    assert_int_equal(back.hash, CRYPTO_SHA256);
    luks_encode(&back, again);
    assert_memory_equal(b, again, sizeof(b));
    b[7] = 2;
    assert_false(luks_probe(b, sizeof(b)));
}

struct change {
    unsigned at;
    const char *text; /* 32 bytes, zeroes behind; NULL: value */
    uint32_t value;
    const char *error; /* "": none */
};

#define SLOT(n, field) (208 + 48 * (n) + (field))
enum { STATE = 0, ITERATIONS = 4, MATERIAL = 40, STRIPES = 44 };

static const struct change changes[] = {
    {0, NULL, 0x4c554b53, ""},
    {0, NULL, 0x4c554b54, "Volume is not in LUKS format"},
    {4, NULL, 0xbabe0002, "LUKS version 2 is not supported"},
    {4, NULL, 0xbabe0000, "LUKS version 0 is not supported"},
    {8, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, "LUKS header cipher name is not NUL terminated"},
    {40, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, "LUKS header cipher mode is not NUL terminated"},
    {72, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 0, "LUKS header hash spec is not NUL terminated"},
    {8, "", 0, "Algorithm '' with key size 32 bytes not supported"},
    {8, "aess", 0, "Algorithm 'aess' with key size 32 bytes not supported"},
    {8, "des", 0, "Algorithm 'des' with key size 32 bytes not supported"},
    {8, "twofish", 0, ""},
    {40, "", 0, "Unexpected cipher mode string format ''"},
    {40, "xts", 0, "Unexpected cipher mode string format 'xts'"},
    {40, "xts:plain64", 0, "Unexpected cipher mode string format 'xts:plain64'"},
    {40, "xts-", 0, "IV generator '' not supported"},
    {40, "xts-plain65", 0, "IV generator 'plain65' not supported"},
    {40, "xts-plain65:", 0, "Hash algorithm '' not supported"},
    {40, "xts-plain64:sha257", 0, "Hash algorithm 'sha257' not supported"},
    {40, "foo-plain64", 0, "Cipher mode 'foo' not supported"},
    {40, "-plain64", 0, "Cipher mode '' not supported"},
    {40, "xts-essiv", 0, "Missing IV generator hash specification"},
    {40, "xts-essiv:sha256", 0, ""},
    {40, "xts-plain:sha1", 0, ""},
    {40, "cbc-plain64", 0, "Algorithm 'aes' with key size 64 bytes not supported"},
    {72, "", 0, "Hash algorithm '' not supported"},
    {72, "whirlpool", 0, "Hash algorithm 'whirlpool' not supported"},
    {104, NULL, 0, "LUKS payload is overlapping with the header"},
    {104, NULL, 1, "LUKS payload is overlapping with the header"},
    {104, NULL, 4000, "Keyslot 7 is overlapping with the encrypted payload"},
    {104, NULL, UINT32_MAX, ""},
    {108, NULL, 0, "Algorithm 'aes' with key size 0 bytes not supported"},
    {108, NULL, 33, "XTS cipher key length should be a multiple of 2"},
    {108, NULL, 20, "Algorithm 'aes' with key size 10 bytes not supported"},
    {108, NULL, UINT32_MAX, "Keyslot 0 is overlapping with the encrypted payload"},
    {164, NULL, 0, "LUKS key iteration count is zero"},
    {164, NULL, UINT32_MAX, "LUKS key iteration count 4294967295 is larger than 500000000"},
    {SLOT(0, STATE), NULL, 5, "Keyslot 0 state (active/disable) is corrupted"},
    {SLOT(7, STATE), NULL, 0, "Keyslot 7 state (active/disable) is corrupted"},
    {SLOT(0, STATE), NULL, 0x0000dead, ""},
    {SLOT(0, ITERATIONS), NULL, 0, "Keyslot 0 iteration count is zero"},
    {SLOT(0, ITERATIONS), NULL, 500000001, "Keyslot 0 iteration count 500000001 is larger than 500000000"},
    {SLOT(1, ITERATIONS), NULL, 0, ""},
    {SLOT(0, MATERIAL), NULL, 0, "Keyslot 0 is overlapping with the LUKS header"},
    {SLOT(0, MATERIAL), NULL, 1, "Keyslot 0 is overlapping with the LUKS header"},
    {SLOT(0, MATERIAL), NULL, 512, "Keyslots 0 and 1 are overlapping in the header"},
    {SLOT(0, MATERIAL), NULL, UINT32_MAX, "Keyslot 0 is overlapping with the encrypted payload"},
    {SLOT(7, MATERIAL), NULL, 8, "Keyslots 0 and 7 are overlapping in the header"},
    {SLOT(0, STRIPES), NULL, 3999, "Keyslot 0 is corrupted (stripes 3999 != 4000)"},
    {SLOT(3, STRIPES), NULL, UINT32_MAX, "Keyslot 3 is corrupted (stripes 4294967295 != 4000)"},
};

static void test_fields(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        const struct change *c = &changes[i];
        CLEANUP_ERR struct err e = ERR_INIT;
        struct luks_header h;
        uint8_t b[LUKS_HEADER_BYTES];
        lay_out(&h, CIPHER_AES_256, CIPHER_XTS);
        luks_encode(&h, b);
        if (c->text) {
            memset(b + c->at, 0, 32);
            memcpy(b + c->at, c->text, strlen(c->text));
        } else {
            store_be32(b + c->at, c->value);
        }
        int rc = luks_decode(&h, b, &e);
        assert_int_equal(rc < 0, *c->error != 0);
        assert_string_equal(rc < 0 ? err_text(&e) : "", c->error);
    }
}

/* "ecb" needs no vector, and has none in its name when others made it. */
static void test_plain_ecb(void **state)
{
    struct luks_header h;
    uint8_t b[LUKS_HEADER_BYTES];
    lay_out(&h, CIPHER_AES_256, CIPHER_ECB);
    luks_encode(&h, b);
    memset(b + 40, 0, 32);
    memcpy(b + 40, "ecb", 3);
    assert_int_equal(luks_decode(&h, b, NULL), 0);
    assert_int_equal(h.spec.mode, CIPHER_ECB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_plain_ecb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
