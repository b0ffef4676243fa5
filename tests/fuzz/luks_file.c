/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/luks/luks.h"
#include "crypto/afsplit.h"
#include "image.h"

#include <string.h>

enum { AT_ITERATIONS = 164, AT_DIGEST = 112, ITERATIONS = 4 /* fewer than */ };

static void few_iterations(uint8_t *p)
{
    store_be32(p, load_be32(p) % ITERATIONS);
}

/* The volume's key, as the slot keeps it. */
static void put_key(uint8_t *file, size_t size, const struct luks_header *h, unsigned slot, const uint8_t *key)
{
    const struct luks_slot *s = &h->slots[slot];
    size_t len = luks_material_bytes(h), at = (size_t)s->material * CIPHER_SECTOR;
    struct crypto_pbkdf2 p = {h->hash, FUZZ_PASSWORD, s->salt, strlen(FUZZ_PASSWORD), LUKS_SALT, s->iterations};
    CLEANUP_FREE uint8_t *material = g_malloc0(len);
    uint8_t slot_key[CIPHER_KEY_MAX];
    struct cipher *c = NULL;
    crypto_pbkdf2(&p, slot_key, h->key_bytes);
    if (at < size && cipher_create(&h->spec, slot_key, h->key_bytes, &c, NULL) == 0) {
        af_split(h->hash, key, h->key_bytes, LUKS_STRIPES, material);
        cipher_encrypt(c, 0, material, material, len);
        memcpy(file + at, material, MIN(len, size - at));
    }
    cipher_destroy(c);
}

void luks_file_keys(uint8_t *file, size_t size)
{
    static const uint8_t key[CIPHER_KEY_MAX] = "the key of the volume";
    struct luks_header h;
    if (size < LUKS_HEADER_BYTES) {
        return;
    }
    few_iterations(file + AT_ITERATIONS);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        few_iterations(file + luks_slot_offset(i) + 4);
    }
    if (luks_decode(&h, file, NULL) < 0) {
        return;
    }
    struct crypto_pbkdf2 p = {h.hash, key, h.salt, h.key_bytes, LUKS_SALT, h.iterations};
    crypto_pbkdf2(&p, file + AT_DIGEST, LUKS_DIGEST);
    bool done = false; /* one is enough: splitting takes its time */
    for (unsigned i = 0; i < LUKS_SLOTS && !done; i++) {
        if (h.slots[i].active) {
            put_key(file, size, &h, i, key);
            done = true;
        }
    }
}

struct json_object *luks_file_change(uint8_t b)
{
    static const char *const secrets[] = {FUZZ_SECRET, FUZZ_OTHER_SECRET};
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "state", json_object_new_string(b & 1 ? "active" : "inactive"));
    if (b & 1) {
        json_object_object_add(o, "new-secret", json_object_new_string(secrets[b >> 1 & 1]));
        json_object_object_add(o, "iter-time", json_object_new_int(1));
    } else if (b & 2) {
        json_object_object_add(o, "old-secret", json_object_new_string(secrets[b >> 2 & 1]));
    }
    if (b & 8) {
        json_object_object_add(o, "keyslot", json_object_new_int(b >> 4));
    }
    return o;
}
