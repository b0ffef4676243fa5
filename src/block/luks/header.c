/* SPDX-License-Identifier: BSD-2-Clause */
/* The header: read, checked, written. */
#include "block/luks/luks.h"

#include "base/checked.h"
#include "base/endian.h"

#include <string.h>

enum {
    AT_CIPHER = 8,
    AT_MODE = 40,
    AT_HASH = 72,
    AT_PAYLOAD = 104,
    AT_KEY_BYTES = 108,
    AT_DIGEST = 112,
    AT_SALT = 132,
    AT_ITERATIONS = 164,
    AT_UUID = 168,
    AT_SLOTS = 208,
    HEADER_SECTORS = 2,
    AREA_ALIGN = 8, /* sectors */
};
enum { SLOT_ACTIVE = 0x00ac71f3, SLOT_INACTIVE = 0x0000dead };

static const uint8_t magic[6] = {'L', 'U', 'K', 'S', 0xba, 0xbe};

bool luks_probe(const uint8_t *buf, size_t len)
{
    return len >= 8 && memcmp(buf, magic, sizeof(magic)) == 0 && load_be16(buf + 6) == 1;
}

uint64_t luks_payload_offset(const struct luks_header *h)
{
    return (uint64_t)h->payload * CIPHER_SECTOR;
}

size_t luks_material_bytes(const struct luks_header *h)
{
    return round_up((uint64_t)h->key_bytes * LUKS_STRIPES, CIPHER_SECTOR);
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static void load_fields(struct luks_header *h, const uint8_t *b)
{
    memcpy(h->cipher, b + AT_CIPHER, sizeof(h->cipher));
    memcpy(h->mode, b + AT_MODE, sizeof(h->mode));
    memcpy(h->hash_name, b + AT_HASH, sizeof(h->hash_name));
    memcpy(h->uuid, b + AT_UUID, sizeof(h->uuid));
    h->uuid[sizeof(h->uuid) - 1] = '\0';
    h->payload = load_be32(b + AT_PAYLOAD);
    h->key_bytes = load_be32(b + AT_KEY_BYTES);
    memcpy(h->digest, b + AT_DIGEST, sizeof(h->digest));
    memcpy(h->salt, b + AT_SALT, sizeof(h->salt));
    h->iterations = load_be32(b + AT_ITERATIONS);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        const uint8_t *s = b + AT_SLOTS + i * LUKS_SLOT_BYTES;
        h->slots[i].active = load_be32(s) == SLOT_ACTIVE;
        h->slots[i].iterations = load_be32(s + 4);
        memcpy(h->slots[i].salt, s + 8, LUKS_SALT);
        h->slots[i].material = load_be32(s + 40);
        h->slots[i].stripes = load_be32(s + 44);
    }
}

static int check_names(const struct luks_header *h, struct err *e)
{
    const struct {
        const char *text, *what;
    } names[] = {{h->cipher, "cipher name"}, {h->mode, "cipher mode"}, {h->hash_name, "hash spec"}};
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!memchr(names[i].text, '\0', sizeof(h->cipher))) {
            return err_set(e, EINVAL, "LUKS header %s is not NUL terminated", names[i].what);
        }
    }
    return 0;
}

static uint64_t material_end(const struct luks_header *h, unsigned i)
{
    return h->slots[i].material + div_round_up((uint64_t)h->key_bytes * LUKS_STRIPES, CIPHER_SECTOR);
}

static int check_slot(const struct luks_header *h, unsigned i, uint32_t state, struct err *e)
{
    const struct luks_slot *s = &h->slots[i];
    if (s->stripes != LUKS_STRIPES) {
        return err_set(e, EINVAL, "Keyslot %u is corrupted (stripes %u != %d)", i, s->stripes, LUKS_STRIPES);
    }
    if (s->material < HEADER_SECTORS) {
        return err_set(e, EINVAL, "Keyslot %u is overlapping with the LUKS header", i);
    }
    if (state != SLOT_ACTIVE && state != SLOT_INACTIVE) {
        return err_set(e, EINVAL, "Keyslot %u state (active/disable) is corrupted", i);
    }
    if (s->active && s->iterations == 0) {
        return err_set(e, EINVAL, "Keyslot %u iteration count is zero", i);
    }
    if (s->active && s->iterations > LUKS_MAX_ITERATIONS) {
        return err_set(e, EINVAL, "Keyslot %u iteration count %u is larger than %u", i, s->iterations,
                       LUKS_MAX_ITERATIONS);
    }
    if (material_end(h, i) > h->payload) {
        return err_set(e, EINVAL, "Keyslot %u is overlapping with the encrypted payload", i);
    }
    return 0;
}

static int check_areas(const struct luks_header *h, const uint8_t *b, struct err *e)
{
    if (h->payload < HEADER_SECTORS) {
        return err_set(e, EINVAL, "LUKS payload is overlapping with the header");
    }
    if (h->iterations == 0) {
        return err_set(e, EINVAL, "LUKS key iteration count is zero");
    }
    if (h->iterations > LUKS_MAX_ITERATIONS) {
        return err_set(e, EINVAL, "LUKS key iteration count %u is larger than %u", h->iterations, LUKS_MAX_ITERATIONS);
    }
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        int rc = check_slot(h, i, load_be32(b + AT_SLOTS + i * LUKS_SLOT_BYTES), e);
        if (rc < 0) {
            return rc;
        }
        uint64_t start = h->slots[i].material, len = material_end(h, i) - start;
        for (unsigned k = 0; k < i; k++) {
            if (ranges_overlap(start, len, h->slots[k].material, len)) {
                return err_set(e, EINVAL, "Keyslots %u and %u are overlapping in the header", k, i);
            }
        }
    }
    return 0;
}

static int find_name(const char *const *names, const char *name, size_t len)
{
    for (int i = 0; names[i]; i++) {
        if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0) {
            return i;
        }
    }
    return -1;
}

/* "xts-plain64", "cbc-essiv:sha256"; and "ecb", which needs no vector. */
static int parse_mode(struct luks_header *h, struct err *e)
{
    const char *mode = h->mode, *dash = strchr(mode, '-'), *colon = dash ? strchr(dash, ':') : NULL;
    int m, g = IVGEN_PLAIN, hash = -1;
    if (!dash && strcmp(mode, "ecb") != 0) {
        return err_set(e, EINVAL, "Unexpected cipher mode string format '%s'", mode);
    }
    if (colon && (hash = find_name(crypto_hash_names, colon + 1, strlen(colon + 1))) < 0) {
        return err_set(e, ENOTSUP, "Hash algorithm '%s' not supported", colon + 1);
    }
    size_t len = dash ? (size_t)(dash - mode) : strlen(mode);
    if ((m = find_name(cipher_mode_names, mode, len)) < 0) {
        return err_set(e, ENOTSUP, "Cipher mode '%.*s' not supported", (int)len, mode);
    }
    if (dash) {
        len = colon ? (size_t)(colon - dash - 1) : strlen(dash + 1);
        if ((g = find_name(ivgen_names, dash + 1, len)) < 0) {
            return err_set(e, ENOTSUP, "IV generator '%.*s' not supported", (int)len, dash + 1);
        }
    }
    h->spec.mode = (enum cipher_mode)m;
    h->spec.ivgen = (enum ivgen_alg)g;
    h->spec.ivgen_hash = hash < 0 ? CRYPTO_SHA256 : (enum crypto_hash)hash;
    return 0;
}

static int parse_names(struct luks_header *h, struct err *e)
{
    int rc = parse_mode(h, e);
    if (rc < 0) {
        return rc;
    }
    uint32_t len = h->key_bytes;
    if (h->spec.mode == CIPHER_XTS) {
        if (len % 2) {
            return err_set(e, EINVAL, "XTS cipher key length should be a multiple of 2");
        }
        len /= 2;
    }
    if (!cipher_find(h->cipher, len, &h->spec.alg)) {
        return err_set(e, ENOTSUP, "Algorithm '%s' with key size %u bytes not supported", h->cipher, len);
    }
    int hash = find_name(crypto_hash_names, h->hash_name, strlen(h->hash_name));
    if (hash < 0) {
        return err_set(e, ENOTSUP, "Hash algorithm '%s' not supported", h->hash_name);
    }
    h->hash = (enum crypto_hash)hash;
    if (h->spec.ivgen == IVGEN_ESSIV && !strchr(h->mode, ':')) {
        return err_set(e, EINVAL, "Missing IV generator hash specification");
    }
    return 0;
}

int luks_decode(struct luks_header *h, const uint8_t b[LUKS_HEADER_BYTES], struct err *e)
{
    *h = (struct luks_header){0};
    if (memcmp(b, magic, sizeof(magic)) != 0) {
        return err_set(e, EINVAL, "Volume is not in LUKS format");
    }
    if (load_be16(b + 6) != 1) {
        return err_set(e, ENOTSUP, "LUKS version %u is not supported", load_be16(b + 6));
    }
    load_fields(h, b);
    int rc = check_names(h, e);
    rc = rc < 0 ? rc : check_areas(h, b, e);
    return rc < 0 ? rc : parse_names(h, e);
}

int luks_read_header(struct luks_header *h, const struct luks_store *st, struct err *e)
{
    uint8_t b[LUKS_HEADER_BYTES];
    int rc = st->read(st->opaque, 0, sizeof(b), b);
    return rc < 0 ? err_set_errno(e, -rc, "Unable to read LUKS header") : luks_decode(h, b, e);
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

void luks_encode(const struct luks_header *h, uint8_t b[LUKS_HEADER_BYTES])
{
    memset(b, 0, LUKS_HEADER_BYTES);
    memcpy(b, magic, sizeof(magic));
    store_be16(b + 6, 1);
    memcpy(b + AT_CIPHER, h->cipher, sizeof(h->cipher));
    memcpy(b + AT_MODE, h->mode, sizeof(h->mode));
    memcpy(b + AT_HASH, h->hash_name, sizeof(h->hash_name));
    memcpy(b + AT_UUID, h->uuid, sizeof(h->uuid));
    store_be32(b + AT_PAYLOAD, h->payload);
    store_be32(b + AT_KEY_BYTES, h->key_bytes);
    memcpy(b + AT_DIGEST, h->digest, sizeof(h->digest));
    memcpy(b + AT_SALT, h->salt, sizeof(h->salt));
    store_be32(b + AT_ITERATIONS, h->iterations);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        luks_encode_slot(h, i, b + luks_slot_offset(i));
    }
}

uint64_t luks_slot_offset(unsigned slot)
{
    return AT_SLOTS + slot * LUKS_SLOT_BYTES;
}

void luks_encode_slot(const struct luks_header *h, unsigned slot, uint8_t b[LUKS_SLOT_BYTES])
{
    const struct luks_slot *s = &h->slots[slot];
    store_be32(b, s->active ? SLOT_ACTIVE : SLOT_INACTIVE);
    store_be32(b + 4, s->iterations);
    memcpy(b + 8, s->salt, LUKS_SALT);
    store_be32(b + 40, s->material);
    store_be32(b + 44, s->stripes);
}

int luks_lay_out(struct luks_header *h, const struct cipher_spec *spec, bool with_ivgen_hash, enum crypto_hash hash,
                 struct err *e)
{
    *h = (struct luks_header){.spec = *spec, .hash = hash};
    g_strlcpy(h->cipher, cipher_family(spec->alg), sizeof(h->cipher));
    g_strlcpy(h->hash_name, crypto_hash_names[hash], sizeof(h->hash_name));
    g_snprintf(h->mode, sizeof(h->mode), "%s-%s%s%s", cipher_mode_names[spec->mode], ivgen_names[spec->ivgen],
               with_ivgen_hash ? ":" : "", with_ivgen_hash ? crypto_hash_names[spec->ivgen_hash] : "");
    h->key_bytes = (uint32_t)cipher_key_len(spec->alg, spec->mode);
    if (!h->key_bytes) {
        return err_set(e, ENOTSUP, "Algorithm '%s' not supported", cipher_alg_names[spec->alg]);
    }
    char *uuid = g_uuid_string_random();
    g_strlcpy(h->uuid, uuid, sizeof(h->uuid));
    g_free(uuid);
    uint32_t sectors = (uint32_t)round_up(luks_material_bytes(h) / CIPHER_SECTOR, AREA_ALIGN), at = AREA_ALIGN;
    for (unsigned i = 0; i < LUKS_SLOTS; i++, at += sectors) {
        h->slots[i].material = at;
        h->slots[i].stripes = LUKS_STRIPES;
    }
    h->payload = at;
    return 0;
}

/* --- for people ------------------------------------------------------------------------------------------------- */

static struct json_object *slot_info(const struct luks_slot *s)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "active", json_object_new_boolean(s->active));
    if (s->active) {
        json_object_object_add(o, "iters", json_object_new_int64(s->iterations));
        json_object_object_add(o, "stripes", json_object_new_int64(s->stripes));
    }
    json_object_object_add(o, "key-offset", json_object_new_uint64((uint64_t)s->material * CIPHER_SECTOR));
    return o;
}

struct json_object *luks_info(const struct luks_header *h)
{
    struct json_object *o = json_object_new_object(), *slots = json_object_new_array();
    json_object_object_add(o, "cipher-alg", json_object_new_string(cipher_alg_names[h->spec.alg]));
    json_object_object_add(o, "cipher-mode", json_object_new_string(cipher_mode_names[h->spec.mode]));
    json_object_object_add(o, "ivgen-alg", json_object_new_string(ivgen_names[h->spec.ivgen]));
    if (h->spec.ivgen == IVGEN_ESSIV) {
        json_object_object_add(o, "ivgen-hash-alg", json_object_new_string(crypto_hash_names[h->spec.ivgen_hash]));
    }
    json_object_object_add(o, "hash-alg", json_object_new_string(crypto_hash_names[h->hash]));
    json_object_object_add(o, "payload-offset", json_object_new_uint64(luks_payload_offset(h)));
    json_object_object_add(o, "master-key-iters", json_object_new_int64(h->iterations));
    json_object_object_add(o, "uuid", json_object_new_string(h->uuid));
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        json_object_array_add(slots, slot_info(&h->slots[i]));
    }
    json_object_object_add(o, "slots", slots);
    return o;
}

bool luks_same_volume(const struct luks_header *a, const struct luks_header *b)
{
    return a->payload == b->payload && a->key_bytes == b->key_bytes && a->hash == b->hash &&
           a->iterations == b->iterations && !strcmp(a->cipher, b->cipher) && !strcmp(a->mode, b->mode) &&
           !memcmp(a->salt, b->salt, LUKS_SALT) && !memcmp(a->digest, b->digest, LUKS_DIGEST);
}
