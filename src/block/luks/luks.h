/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * LUKS version 1: the header that holds a volume's key, eight times over, each time under another password. Used by the
 * driver "luks" and by qcow2 (crypt method 2).
 *
 * Source document: "LUKS On-Disk Format Specification", version 1.2.3.
 *
 * LAYOUT. Integers are big-endian; offsets of areas are in sectors of 512 bytes from the header's start.
 *
 *       0  "LUKS" ba be, u16 version = 1
 *       8  cipher name[32] ("aes"), cipher mode[32] ("xts-plain64", "cbc-essiv:sha256"), hash[32] ("sha256")
 *     104  u32 payload offset, u32 key bytes
 *     112  digest[20] of the key, its salt[32], u32 its iterations
 *     168  uuid[40]
 *     208  8 key slots of 48 bytes: u32 state (00ac71f3 in use, 0000dead not), u32 iterations, salt[32],
 *          u32 offset of the key material, u32 stripes = 4000
 *     592  end; then, each at a multiple of 4096 bytes, the key material of the slots; then the payload
 *
 * Key material: the key, split into `stripes` times its length (crypto/afsplit.h), encrypted like a payload of its own
 * whose first sector has number 0, with the slot's key: PBKDF2 of password, salt and iterations. The key is right when
 * PBKDF2 of it, the digest's salt and iterations give the digest.
 *
 * INVARIANTS of the file, at every instant a crash may come:
 *
 *  1. A slot that is in use holds key material that was stable, together with the slot's salt and iterations, before
 *     the slot's state said so.
 *  2. No change makes the last usable key go before another is stable, unless that is what was asked for.
 *  3. Key material is destroyed only after it is stable that its slot is not in use: a slot in use always opens.
 *
 * The header is larger than a sector, and a sector is what is written in one piece; the state of a slot lies within
 * one. So a slot is changed in these steps, each stable before the next (slots.c):
 *
 *     activate     key material; the slot's other fields   |   state "in use"
 *     erase        state "not in use"                      |   random bytes over the key material, fields zeroed
 *     replace      activate a spare slot | erase | activate | erase the spare slot
 *
 * LIMITS, before anything is allocated or computed: key bytes are those of a cipher that we know (at most 64); areas
 * lie behind the header, before the payload and apart from each other; stripes are 4000; iterations at most
 * LUKS_MAX_ITERATIONS (minutes).
 */
#pragma once

#include "block/graph.h"
#include "crypto/cipher.h"

#define LUKS_HEADER_BYTES   592
#define LUKS_SLOTS          8
#define LUKS_SLOT_BYTES     48
#define LUKS_STRIPES        4000
#define LUKS_SALT           32
#define LUKS_DIGEST         20
#define LUKS_MIN_ITERATIONS 1000
#define LUKS_MAX_ITERATIONS 500000000u
#define LUKS_ITER_TIME      2000 /* ms, when nothing is said */

struct luks_slot {
    bool active;
    uint32_t iterations, material, stripes; /* material: sectors */
    uint8_t salt[LUKS_SALT];
};

struct luks_header {
    char cipher[32], mode[32], hash_name[32], uuid[40]; /* as stored; NUL-terminated */
    uint32_t payload, key_bytes;                        /* payload: sectors */
    uint8_t digest[LUKS_DIGEST], salt[LUKS_SALT];
    uint32_t iterations;
    struct luks_slot slots[LUKS_SLOTS];
    /* what the names mean */
    struct cipher_spec spec;
    enum crypto_hash hash;
};

/* Where a header is; offsets count from its start. Data-path functions: 0 or negative errno. [co] */
struct luks_store {
    void *opaque;
    int (*read)(void *opaque, uint64_t off, size_t len, void *buf);
    int (*write)(void *opaque, uint64_t off, size_t len, const void *buf);
    int (*flush)(void *opaque);
};

/* --- header.c --- */
/* The magic number and a version that we know. */
bool luks_probe(const uint8_t *buf, size_t len);
/* Checks everything. */
int luks_decode(struct luks_header *h, const uint8_t b[LUKS_HEADER_BYTES], struct err *e);
void luks_encode(const struct luks_header *h, uint8_t b[LUKS_HEADER_BYTES]);
int luks_read_header(struct luks_header *h, const struct luks_store *st, struct err *e);
/* Bytes from the header's start to the payload. */
uint64_t luks_payload_offset(const struct luks_header *h);
/* Bytes of one slot's key material, whole sectors. */
size_t luks_material_bytes(const struct luks_header *h);
/* A header for these algorithms, with its areas laid out and no key yet. */
int luks_lay_out(struct luks_header *h, const struct cipher_spec *spec, bool with_ivgen_hash, enum crypto_hash hash,
                 struct err *e);
/* QCryptoBlockInfoLUKS, without "format". */
struct json_object *luks_info(const struct luks_header *h);

/* The 48 bytes of one slot, which begin with its state, and where they are. */
void luks_encode_slot(const struct luks_header *h, unsigned slot, uint8_t b[LUKS_SLOT_BYTES]);
uint64_t luks_slot_offset(unsigned slot);

/* All that data is read and written by; keys may differ. */
bool luks_same_volume(const struct luks_header *a, const struct luks_header *b);

/* --- slots.c; all [co]; what takes processor time is done by worker threads --- */
/* The volume's key (h->key_bytes), by whichever slot the password opens. */
int luks_unlock(const struct luks_header *h, const struct luks_store *st, const char *password, uint8_t *key,
                struct err *e);
/* 1: the password opens this slot; 0: it does not. */
int luks_slot_opens(const struct luks_header *h, const struct luks_store *st, unsigned slot, const char *password,
                    struct err *e);
struct luks_new_key {
    const uint8_t *key;   /* of the volume */
    const char *password; /* to come into a slot */
    uint64_t iter_time;   /* ms */
};
/* The slot must not be in use. */
int luks_slot_activate(struct luks_header *h, const struct luks_store *st, unsigned slot, const struct luks_new_key *k,
                       struct err *e);
/* Also one that is in use: at no time is there less than the old key or the new one. */
int luks_slot_replace(struct luks_header *h, const struct luks_store *st, unsigned slot, const struct luks_new_key *k,
                      struct err *e);
int luks_slot_erase(struct luks_header *h, const struct luks_store *st, unsigned slot, struct err *e);
/* Makes the digest of a new volume's key. */
int luks_set_digest(struct luks_header *h, const uint8_t *key, uint64_t iter_time, struct err *e);

/* --- options.c --- */
/* QCryptoBlockCreateOptionsLUKS, read and checked. */
struct luks_create {
    struct luks_header h; /* laid out */
    const char *password; /* the secret's */
    uint64_t iter_time;
};
extern const char *const luks_create_keys[]; /* what luks_create_read() takes; NULL-terminated */
/* `prefix`: before "key-secret" in messages. The object must outlive `c`. */
int luks_create_read(struct block_graph *g, struct json_object *o, const char *prefix, struct luks_create *c,
                     struct err *e);
/* Writes header and first slot, and random bytes nowhere else; the volume's key goes to `key` (CIPHER_KEY_MAX). */
int luks_format(struct luks_create *c, const struct luks_store *st, uint8_t *key, struct err *e);
/* QCryptoBlockAmendOptionsLUKS, done. */
struct luks_amend {
    const char *opened_with; /* the id of the secret that the volume was opened with */
    bool force;
};
int luks_amend(struct block_graph *g, struct luks_header *h, const struct luks_store *st, struct json_object *o,
               const struct luks_amend *how, struct err *e);
/* The text of the secret, borrowed. `id` NULL: an error that names "<prefix>key-secret". */
int luks_password(struct block_graph *g, const char *id, const char *prefix, const char **out, struct err *e);
