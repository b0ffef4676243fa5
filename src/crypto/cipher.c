/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sectors are worked on in batches, so that the block cipher gets long runs of independent blocks, which is where the
 * processor's instructions are fast: XTS masks a whole batch before and after one call; CBC, whose blocks depend on
 * each other within a sector, encrypts the same block of each sector of the batch side by side.
 */
#include "crypto/cipher.h"

#include "base/endian.h"

#include <glib.h>
#include <nettle/aes.h>
#include <nettle/cbc.h>
#include <nettle/ctr.h>
#include <nettle/memxor.h>
#include <nettle/nettle-meta.h>
#include <string.h>

enum { BATCH = 16, BLOCK_MAX = 16 }; /* sectors; bytes */

const char *const cipher_alg_names[] = {
    "aes-128",     "aes-192",     "aes-256",     "des",         "3des",        "cast5-128", "serpent-128",
    "serpent-192", "serpent-256", "twofish-128", "twofish-192", "twofish-256", NULL,
};
const char *const cipher_mode_names[] = {"ecb", "cbc", "xts", "ctr", NULL};
const char *const ivgen_names[] = {"plain", "plain64", "essiv", NULL};

static const struct {
    const char *family;
    const struct nettle_cipher *impl; /* NULL: not here */
} algs[] = {
    [CIPHER_AES_128] = {"aes", &nettle_aes128},
    [CIPHER_AES_192] = {"aes", &nettle_aes192},
    [CIPHER_AES_256] = {"aes", &nettle_aes256},
    [CIPHER_DES] = {"des", NULL},
    [CIPHER_3DES] = {"3des", NULL},
    [CIPHER_CAST5_128] = {"cast5", &nettle_cast128},
    [CIPHER_SERPENT_128] = {"serpent", &nettle_serpent128},
    [CIPHER_SERPENT_192] = {"serpent", &nettle_serpent192},
    [CIPHER_SERPENT_256] = {"serpent", &nettle_serpent256},
    [CIPHER_TWOFISH_128] = {"twofish", &nettle_twofish128},
    [CIPHER_TWOFISH_192] = {"twofish", &nettle_twofish192},
    [CIPHER_TWOFISH_256] = {"twofish", &nettle_twofish256},
};

bool cipher_find(const char *family, size_t key_len, enum cipher_alg *out)
{
    for (size_t i = 0; i < G_N_ELEMENTS(algs); i++) {
        if (algs[i].impl && algs[i].impl->key_size == key_len && strcmp(algs[i].family, family) == 0) {
            *out = (enum cipher_alg)i;
            return true;
        }
    }
    return false;
}

const char *cipher_family(enum cipher_alg alg)
{
    return algs[alg].family;
}

size_t cipher_key_len(enum cipher_alg alg, enum cipher_mode mode)
{
    size_t len = algs[alg].impl ? algs[alg].impl->key_size : 0;
    return mode == CIPHER_XTS ? 2 * len : len;
}

/* --- keys ------------------------------------------------------------------------------------------------------- */

struct schedule {
    const struct nettle_cipher *impl;
    void *enc, *dec;
};

struct cipher {
    enum cipher_mode mode;
    enum ivgen_alg ivgen;
    struct schedule data, tweak, essiv; /* tweak: of XTS */
};

static void schedule_init(struct schedule *s, const struct nettle_cipher *impl, const uint8_t *key)
{
    s->impl = impl;
    s->enc = g_malloc0(impl->context_size);
    s->dec = g_malloc0(impl->context_size);
    impl->set_encrypt_key(s->enc, key);
    impl->set_decrypt_key(s->dec, key);
}

static void schedule_finish(struct schedule *s)
{
    if (s->impl) {
        explicit_bzero(s->enc, s->impl->context_size);
        explicit_bzero(s->dec, s->impl->context_size);
        g_free(s->enc);
        g_free(s->dec);
    }
}

void cipher_destroy(struct cipher *c)
{
    if (c) {
        schedule_finish(&c->data);
        schedule_finish(&c->tweak);
        schedule_finish(&c->essiv);
        g_free(c);
    }
}

/* The digest of the key is a key of the same family. */
static int essiv_init(struct cipher *c, const struct cipher_spec *spec, const uint8_t *key, size_t len, struct err *e)
{
    static const struct {
        const char *family, *name;
    } families[] = {{"aes", "AES"}, {"serpent", "Serpent"}, {"twofish", "Twofish"}};
    const char *family = algs[spec->alg].family;
    size_t size = crypto_hash_size(spec->ivgen_hash);
    for (size_t i = 0; i < G_N_ELEMENTS(families); i++) {
        enum cipher_alg alg;
        if (strcmp(families[i].family, family) != 0) {
            continue;
        }
        if (!cipher_find(family, size, &alg)) {
            return err_set(e, EINVAL, "No %s cipher with key size %zu available", families[i].name, size);
        }
        uint8_t digest[CRYPTO_HASH_MAX];
        crypto_hash(spec->ivgen_hash, key, len, digest);
        schedule_init(&c->essiv, algs[alg].impl, digest);
        explicit_bzero(digest, sizeof(digest));
        return 0;
    }
    return err_set(e, EINVAL, "Cipher %s not supported with essiv", cipher_alg_names[spec->alg]);
}

int cipher_create(const struct cipher_spec *spec, const uint8_t *key, size_t len, struct cipher **out, struct err *e)
{
    const struct nettle_cipher *impl = algs[spec->alg].impl;
    size_t want = cipher_key_len(spec->alg, spec->mode);
    if (!impl) {
        return err_set(e, ENOTSUP, "Algorithm '%s' not supported", cipher_alg_names[spec->alg]);
    }
    if (spec->mode == CIPHER_XTS && impl->block_size != BLOCK_MAX) {
        return err_set(e, ENOTSUP, "Unsupported cipher mode %s", cipher_mode_names[spec->mode]);
    }
    if (len != want) {
        return err_set(e, EINVAL, "Cipher key length %zu should be %zu", len, want);
    }
    struct cipher *c = g_new0(struct cipher, 1);
    c->mode = spec->mode;
    c->ivgen = spec->ivgen;
    schedule_init(&c->data, impl, key);
    if (spec->mode == CIPHER_XTS) {
        schedule_init(&c->tweak, impl, key + impl->key_size);
    }
    int rc = spec->ivgen == IVGEN_ESSIV ? essiv_init(c, spec, key, len, e) : 0;
    if (rc < 0) {
        cipher_destroy(c);
        return rc;
    }
    *out = c;
    return 0;
}

/* --- modes ------------------------------------------------------------------------------------------------------ */

/* Of `n` sectors, one behind the other, each as long as a block. */
static void make_ivs(const struct cipher *c, uint64_t sector, unsigned n, uint8_t *iv)
{
    size_t size = c->data.impl->block_size;
    memset(iv, 0, n * size);
    for (unsigned i = 0; i < n; i++) {
        if (c->ivgen == IVGEN_PLAIN) {
            store_le32(iv + i * size, (uint32_t)(sector + i));
        } else {
            store_le64(iv + i * size, sector + i);
        }
    }
    if (c->ivgen == IVGEN_ESSIV) {
        c->essiv.impl->encrypt(c->essiv.enc, n * size, iv, iv);
    }
}

/* The masks of all blocks: each is the one before times x in GF(2^128). */
static void xts_masks(const struct cipher *c, unsigned n, uint8_t *iv, uint8_t *mask)
{
    c->tweak.impl->encrypt(c->tweak.enc, n * BLOCK_MAX, iv, iv);
    for (unsigned i = 0; i < n; i++) {
        uint64_t lo = load_le64(iv + i * BLOCK_MAX), hi = load_le64(iv + i * BLOCK_MAX + 8);
        for (unsigned at = 0; at < CIPHER_SECTOR; at += BLOCK_MAX) {
            uint64_t carry = -(hi >> 63) & 0x87;
            store_le64(mask, lo);
            store_le64(mask + 8, hi);
            mask += BLOCK_MAX;
            hi = hi << 1 | lo >> 63;
            lo = lo << 1 ^ carry;
        }
    }
}

static void xts(const struct cipher *c, bool encrypt, uint8_t *iv, uint8_t *dst, const uint8_t *src, size_t len)
{
    uint8_t mask[BATCH * CIPHER_SECTOR];
    const struct nettle_cipher *f = c->data.impl;
    xts_masks(c, (unsigned)(len / CIPHER_SECTOR), iv, mask);
    memxor3(dst, src, mask, len);
    if (encrypt) {
        f->encrypt(c->data.enc, len, dst, dst);
    } else {
        f->decrypt(c->data.dec, len, dst, dst);
    }
    memxor(dst, mask, len);
}

static void cbc_encrypt_batch(const struct cipher *c, uint8_t *iv, uint8_t *dst, const uint8_t *src, size_t len)
{
    size_t size = c->data.impl->block_size, n = len / CIPHER_SECTOR;
    for (size_t at = 0; at < CIPHER_SECTOR; at += size) { /* iv: the last block of each sector */
        for (size_t i = 0; i < n; i++) {
            memxor(iv + i * size, src + i * CIPHER_SECTOR + at, size);
        }
        c->data.impl->encrypt(c->data.enc, n * size, iv, iv);
        for (size_t i = 0; i < n; i++) {
            memcpy(dst + i * CIPHER_SECTOR + at, iv + i * size, size);
        }
    }
}

static void cbc_decrypt_batch(const struct cipher *c, const uint8_t *iv, uint8_t *dst, const uint8_t *src, size_t len)
{
    uint8_t cipher[BATCH * CIPHER_SECTOR];
    size_t size = c->data.impl->block_size;
    if (dst == src) {
        memcpy(cipher, src, len);
        src = cipher;
    }
    c->data.impl->decrypt(c->data.dec, len, dst, src);
    for (size_t at = 0; at < len; at += CIPHER_SECTOR) {
        memxor(dst + at, iv + at / CIPHER_SECTOR * size, size);
        memxor(dst + at + size, src + at, CIPHER_SECTOR - size);
    }
}

static void ctr(const struct cipher *c, uint8_t *iv, uint8_t *dst, const uint8_t *src, size_t len)
{
    size_t size = c->data.impl->block_size;
    for (size_t at = 0; at < len; at += CIPHER_SECTOR) {
        ctr_crypt(c->data.enc, c->data.impl->encrypt, size, iv + at / CIPHER_SECTOR * size, CIPHER_SECTOR, dst + at,
                  src + at);
    }
}

static void crypt_batch(const struct cipher *c, bool encrypt, uint64_t sector, uint8_t *dst, const uint8_t *src,
                        size_t len)
{
    uint8_t iv[BATCH * BLOCK_MAX];
    if (c->mode != CIPHER_ECB) {
        make_ivs(c, sector, (unsigned)(len / CIPHER_SECTOR), iv);
    }
    switch (c->mode) {
    case CIPHER_XTS:
        xts(c, encrypt, iv, dst, src, len);
        break;
    case CIPHER_CTR:
        ctr(c, iv, dst, src, len);
        break;
    case CIPHER_CBC:
        if (encrypt) {
            cbc_encrypt_batch(c, iv, dst, src, len);
        } else {
            cbc_decrypt_batch(c, iv, dst, src, len);
        }
        break;
    default:
        if (encrypt) {
            c->data.impl->encrypt(c->data.enc, len, dst, src);
        } else {
            c->data.impl->decrypt(c->data.dec, len, dst, src);
        }
        break;
    }
}

static void crypt_sectors(const struct cipher *c, bool encrypt, uint64_t sector, uint8_t *dst, const uint8_t *src,
                          size_t len)
{
    for (size_t at = 0; at < len; at += BATCH * CIPHER_SECTOR) {
        crypt_batch(c, encrypt, sector + at / CIPHER_SECTOR, dst + at, src + at, MIN(len - at, BATCH * CIPHER_SECTOR));
    }
}

void cipher_encrypt(const struct cipher *c, uint64_t sector, uint8_t *dst, const uint8_t *src, size_t len)
{
    crypt_sectors(c, true, sector, dst, src, len);
}

void cipher_decrypt(const struct cipher *c, uint64_t sector, uint8_t *dst, const uint8_t *src, size_t len)
{
    crypt_sectors(c, false, sector, dst, src, len);
}

void aes256_cbc_decrypt(const uint8_t key[32], const uint8_t iv[16], uint8_t *buf, size_t len)
{
    struct aes256_ctx ctx;
    uint8_t chain[16];
    memcpy(chain, iv, sizeof(chain));
    aes256_set_decrypt_key(&ctx, key);
    cbc_decrypt(&ctx, (nettle_cipher_func *)aes256_decrypt, sizeof(chain), chain, len, buf, buf);
    explicit_bzero(&ctx, sizeof(ctx));
}
