/* SPDX-License-Identifier: BSD-2-Clause */
/* Key slots: opening one with a password, and the steps in which one is changed. */
#include "block/luks/luks.h"

#include "base/cleanup.h"
#include "crypto/afsplit.h"

#include <inttypes.h>
#include <string.h>

static void wipe_free(uint8_t *p, size_t len)
{
    if (p) {
        explicit_bzero(p, len);
    }
    g_free(p);
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

struct
try {
    const struct luks_header *h;
    unsigned slot;
    const char *password;
    uint8_t *material, key[CIPHER_KEY_MAX];
};

static struct crypto_pbkdf2 slot_kdf(const struct luks_header *h, unsigned slot, const char *password)
{
    const struct luks_slot *s = &h->slots[slot];
    return (struct crypto_pbkdf2){h->hash, password, s->salt, strlen(password), LUKS_SALT, s->iterations};
}

static void digest_of(const struct luks_header *h, const uint8_t *key, uint8_t *out)
{
    struct crypto_pbkdf2 p = {h->hash, key, h->salt, h->key_bytes, LUKS_SALT, h->iterations};
    crypto_pbkdf2(&p, out, LUKS_DIGEST);
}

/* The material's own cipher, from password and salt. */
static int slot_cipher(const struct luks_header *h, unsigned slot, const char *password, struct cipher **out)
{
    uint8_t key[CIPHER_KEY_MAX];
    struct crypto_pbkdf2 p = slot_kdf(h, slot, password);
    crypto_pbkdf2(&p, key, h->key_bytes);
    int rc = cipher_create(&h->spec, key, h->key_bytes, out, NULL);
    explicit_bzero(key, sizeof(key));
    return rc;
}

static int try_work(void *arg)
{
    struct try *t = arg;
    const struct luks_header *h = t->h;
    struct cipher *c;
    uint8_t digest[LUKS_DIGEST];
    int rc = slot_cipher(h, t->slot, t->password, &c);
    if (rc < 0) {
        return rc;
    }
    cipher_decrypt(c, 0, t->material, t->material, luks_material_bytes(h));
    cipher_destroy(c);
    af_merge(h->hash, t->material, h->key_bytes, LUKS_STRIPES, t->key);
    digest_of(h, t->key, digest);
    return memcmp(digest, h->digest, LUKS_DIGEST) == 0;
}

/* 1 and the key, 0, or an error. */
static int try_slot(const struct luks_header *h, const struct luks_store *st, struct try *t, struct err *e)
{
    size_t len = luks_material_bytes(h);
    t->h = h;
    t->material = g_try_malloc(len);
    if (!t->material) {
        return err_set(e, ENOMEM, "Not enough memory for a key slot");
    }
    int rc = st->read(st->opaque, (uint64_t)h->slots[t->slot].material * CIPHER_SECTOR, len, t->material);
    if (rc < 0) {
        err_set_errno(e, -rc, "Failed to read key material");
    } else if ((rc = co_work(try_work, t)) < 0) {
        err_set_errno(e, -rc, "Failed to open keyslot %u", t->slot);
    }
    wipe_free(t->material, len);
    return rc;
}

int luks_slot_opens(const struct luks_header *h, const struct luks_store *st, unsigned slot, const char *password,
                    struct err *e)
{
    struct try t = {.slot = slot, .password = password};
    int rc = h->slots[slot].active ? try_slot(h, st, &t, e) : 0;
    explicit_bzero(t.key, sizeof(t.key));
    return rc;
}

int luks_unlock(const struct luks_header *h, const struct luks_store *st, const char *password, uint8_t *key,
                struct err *e)
{
    struct try t = {.password = password};
    struct cipher *c = NULL; /* what cannot work at all is said before anybody waits */
    int rc = cipher_create(&h->spec, t.key, h->key_bytes, &c, e), found = 0;
    cipher_destroy(c);
    for (t.slot = 0; rc == 0 && t.slot < LUKS_SLOTS && !found; t.slot++) {
        found = h->slots[t.slot].active ? try_slot(h, st, &t, e) : 0;
        rc = found < 0 ? found : 0;
    }
    if (found > 0) {
        memcpy(key, t.key, h->key_bytes);
    }
    explicit_bzero(t.key, sizeof(t.key));
    return rc < 0 || found ? rc : err_set(e, EACCES, "Invalid password, cannot unlock any keyslot");
}

/* --- how many iterations ---------------------------------------------------------------------------------------- */

/* So many that they take `ms` here, divided by `share`. */
static int count_iterations(enum crypto_hash hash, size_t key_len, uint64_t ms, unsigned share, uint32_t *out,
                            struct err *e)
{
    uint64_t rate = crypto_pbkdf2_rate(hash, key_len);
    if (rate > UINT64_MAX / ms) {
        return err_set_errno(e, ERANGE, "PBKDF iterations %" PRIu64 " too large to scale", rate);
    }
    uint64_t n = rate * ms / 1000 / share;
    if (n > LUKS_MAX_ITERATIONS) {
        return err_set_errno(e, ERANGE, "PBKDF iterations %" PRIu64 " larger than %u", n, LUKS_MAX_ITERATIONS);
    }
    *out = (uint32_t)MAX(n, LUKS_MIN_ITERATIONS);
    return 0;
}

struct digest_work {
    struct luks_header *h;
    const uint8_t *key;
    uint64_t iter_time;
    struct err *e;
};

static int digest_work(void *arg)
{
    struct digest_work *w = arg;
    struct luks_header *h = w->h;
    int rc = crypto_random(h->salt, LUKS_SALT, w->e);
    /* An eighth of a slot's, as others do: a wrong password costs one slot each, the digest is for the right one. */
    rc = rc < 0 ? rc : count_iterations(h->hash, LUKS_DIGEST, w->iter_time, 8, &h->iterations, w->e);
    if (rc == 0) {
        digest_of(h, w->key, h->digest);
    }
    return rc;
}

int luks_set_digest(struct luks_header *h, const uint8_t *key, uint64_t iter_time, struct err *e)
{
    struct digest_work w = {h, key, iter_time, e};
    return co_work(digest_work, &w);
}

/* --- changing --------------------------------------------------------------------------------------------------- */

/* A slot's new content, that can be stored anywhere. */
struct content {
    const struct luks_header *h;
    const struct luks_new_key *k;
    struct luks_slot slot; /* salt and iterations */
    uint8_t *material;
    struct err *e;
};

static int content_work(void *arg)
{
    struct content *c = arg;
    struct luks_header h = *c->h;
    struct cipher *cipher;
    size_t len = luks_material_bytes(&h);
    int rc = crypto_random(c->slot.salt, LUKS_SALT, c->e);
    rc = rc < 0 ? rc : count_iterations(h.hash, h.key_bytes, c->k->iter_time, 1, &c->slot.iterations, c->e);
    if (rc < 0) {
        return rc;
    }
    h.slots[0] = c->slot;
    rc = af_split(h.hash, c->k->key, h.key_bytes, LUKS_STRIPES, c->material);
    rc = rc < 0 ? rc : slot_cipher(&h, 0, c->k->password, &cipher);
    if (rc < 0) {
        return err_set_errno(c->e, -rc, "Failed to split the key");
    }
    cipher_encrypt(cipher, 0, c->material, c->material, len);
    cipher_destroy(cipher);
    return 0;
}

static int content_make(struct content *c, struct err *e)
{
    c->e = e;
    c->material = g_try_malloc0(luks_material_bytes(c->h));
    return c->material ? co_work(content_work, c) : err_set(e, ENOMEM, "Not enough memory for a key slot");
}

static int write_slot(const struct luks_header *h, const struct luks_store *st, unsigned slot, size_t len)
{
    uint8_t b[LUKS_SLOT_BYTES];
    luks_encode_slot(h, slot, b);
    return st->write(st->opaque, luks_slot_offset(slot), len, b);
}

static int write_state(struct luks_header *h, const struct luks_store *st, unsigned slot, bool active)
{
    bool before = h->slots[slot].active;
    h->slots[slot].active = active;
    int rc = write_slot(h, st, slot, 4);
    rc = rc < 0 ? rc : st->flush(st->opaque);
    if (rc < 0) {
        h->slots[slot].active = before;
    }
    return rc;
}

static uint64_t material_offset(const struct luks_header *h, unsigned slot)
{
    return (uint64_t)h->slots[slot].material * CIPHER_SECTOR;
}

/* Into a slot that is not in use. */
static int content_store(const struct content *c, struct luks_header *h, const struct luks_store *st, unsigned slot,
                         struct err *e)
{
    struct luks_slot *s = &h->slots[slot];
    s->iterations = c->slot.iterations;
    memcpy(s->salt, c->slot.salt, LUKS_SALT);
    int rc = st->write(st->opaque, material_offset(h, slot), luks_material_bytes(h), c->material);
    rc = rc < 0 ? rc : write_slot(h, st, slot, LUKS_SLOT_BYTES);
    rc = rc < 0 ? rc : st->flush(st->opaque);
    rc = rc < 0 ? rc : write_state(h, st, slot, true);
    return rc < 0 ? err_set_errno(e, -rc, "Failed to write to keyslot %u", slot) : 0;
}

int luks_slot_erase(struct luks_header *h, const struct luks_store *st, unsigned slot, struct err *e)
{
    size_t len = luks_material_bytes(h);
    CLEANUP_FREE uint8_t *noise = g_try_malloc(len);
    int rc = noise ? crypto_random(noise, len, NULL) : -ENOMEM;
    rc = rc < 0 ? rc : write_state(h, st, slot, false);
    if (rc == 0) {
        struct luks_slot *s = &h->slots[slot];
        s->iterations = 0;
        memset(s->salt, 0, LUKS_SALT);
        rc = st->write(st->opaque, material_offset(h, slot), len, noise);
        rc = rc < 0 ? rc : write_slot(h, st, slot, LUKS_SLOT_BYTES);
        rc = rc < 0 ? rc : st->flush(st->opaque);
    }
    return rc < 0 ? err_set_errno(e, -rc, "Failed to erase keyslot %u", slot) : 0;
}

int luks_slot_activate(struct luks_header *h, const struct luks_store *st, unsigned slot, const struct luks_new_key *k,
                       struct err *e)
{
    struct content c = {.h = h, .k = k};
    int rc = content_make(&c, e);
    rc = rc < 0 ? rc : content_store(&c, h, st, slot, e);
    g_free(c.material);
    return rc;
}

static int spare_slot(const struct luks_header *h, unsigned not )
{
    for (int i = LUKS_SLOTS - 1; i >= 0; i--) {
        if (!h->slots[i].active && (unsigned)i != not ) {
            return i;
        }
    }
    return -1; /* the other seven are in use: there is a key without this one */
}

int luks_slot_replace(struct luks_header *h, const struct luks_store *st, unsigned slot, const struct luks_new_key *k,
                      struct err *e)
{
    struct content c = {.h = h, .k = k};
    int spare = spare_slot(h, slot), rc = content_make(&c, e);
    if (rc == 0 && spare >= 0) {
        rc = content_store(&c, h, st, (unsigned)spare, e);
    }
    rc = rc < 0 ? rc : luks_slot_erase(h, st, slot, e);
    rc = rc < 0 ? rc : content_store(&c, h, st, slot, e);
    if (rc == 0 && spare >= 0) {
        rc = luks_slot_erase(h, st, (unsigned)spare, e);
    }
    g_free(c.material);
    return rc;
}
