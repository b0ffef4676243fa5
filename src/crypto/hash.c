/* SPDX-License-Identifier: BSD-2-Clause */
#include "crypto/hash.h"

#include <glib.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <nettle/hmac.h>
#include <nettle/nettle-meta.h>
#include <nettle/pbkdf2.h>
#include <string.h>
#include <time.h>

const char *const crypto_hash_names[] = {"md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", NULL};

static const struct nettle_hash *const impls[] = {
    &nettle_md5, &nettle_sha1, &nettle_sha224, &nettle_sha256, &nettle_sha384, &nettle_sha512, &nettle_ripemd160,
};

/* Room for the state of any of them. */
union state {
    struct md5_ctx md5;
    struct sha1_ctx sha1;
    struct sha256_ctx sha256;
    struct sha512_ctx sha512;
    struct ripemd160_ctx ripemd160;
};

size_t crypto_hash_size(enum crypto_hash h)
{
    return impls[h]->digest_size;
}

void crypto_hash(enum crypto_hash h, const void *data, size_t len, uint8_t *out)
{
    union state s;
    impls[h]->init(&s);
    impls[h]->update(&s, len, data);
    impls[h]->digest(&s, impls[h]->digest_size, out);
    explicit_bzero(&s, sizeof(s));
}

struct hmac {
    const struct nettle_hash *hash;
    union state outer, inner, state;
};

static void update(void *ctx, size_t len, const uint8_t *data)
{
    struct hmac *m = ctx;
    hmac_update(&m->state, m->hash, len, data);
}

static void digest(void *ctx, size_t len, uint8_t *out)
{
    struct hmac *m = ctx;
    hmac_digest(&m->outer, &m->inner, &m->state, m->hash, len, out);
}

void crypto_pbkdf2(const struct crypto_pbkdf2 *p, uint8_t *out, size_t out_len)
{
    struct hmac m = {.hash = impls[p->hash]};
    hmac_set_key(&m.outer, &m.inner, &m.state, m.hash, p->password_len, p->password);
    pbkdf2(&m, update, digest, m.hash->digest_size, p->iterations, p->salt_len, p->salt, out_len, out);
    explicit_bzero(&m, sizeof(m));
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t crypto_pbkdf2_rate(enum crypto_hash h, size_t key_len)
{
    static const uint64_t enough = 8000000; /* ns: long beside the clock's steps */
    uint8_t *key = g_malloc(key_len);
    struct crypto_pbkdf2 p = {h, "password", "salt", 8, 4, 8192};
    uint64_t ns = 1;
    for (;;) {
        uint64_t start = cpu_ns();
        crypto_pbkdf2(&p, key, key_len);
        ns = MAX(cpu_ns() - start, 1);
        if (ns >= enough || p.iterations > UINT32_MAX / 4) {
            break;
        }
        p.iterations *= 2;
    }
    g_free(key);
    return (uint64_t)((double)p.iterations * 1e9 / (double)ns);
}

int crypto_random(void *buf, size_t len, struct err *e)
{
    int rc = gnutls_rnd(GNUTLS_RND_KEY, buf, len);
    return rc ? err_set(e, EIO, "Unable to get random bytes: %s", gnutls_strerror(rc)) : 0;
}
