/* SPDX-License-Identifier: BSD-2-Clause */
/* What users say of a volume: how to make one, and which keys to change. Texts are QEMU's. */
#include "block/luks/luks.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "crypto/secret.h"

#include <string.h>

int luks_password(struct block_graph *g, const char *id, const char *prefix, const char **out, struct err *e)
{
    if (!id) {
        return err_set(e, EINVAL, "Parameter '%skey-secret' is required for cipher", prefix);
    }
    const struct secret *s = graph_object(g, "secret", id);
    if (!s) {
        return err_set(e, ENOENT, "No secret with id '%s'", id);
    }
    if (!g_utf8_validate((const char *)s->data, (gssize)s->len, NULL)) {
        return err_set(e, EINVAL, "Data from secret %s is not valid UTF-8", id);
    }
    *out = (const char *)s->data;
    return 0;
}

static int read_name(struct jread *r, const char *key, const char *const *names, int dflt)
{
    const char *s = jread_str_or(r, key, NULL);
    if (!s || r->rc < 0) {
        return dflt;
    }
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], s) == 0) {
            return i;
        }
    }
    r->rc = err_set(r->e, EINVAL, "Parameter '%s' does not accept value '%s'", key, s);
    return dflt;
}

/* --- making ----------------------------------------------------------------------------------------------------- */

const char *const luks_create_keys[] = {"key-secret",     "cipher-alg", "cipher-mode", "ivgen-alg",
                                        "ivgen-hash-alg", "hash-alg",   "iter-time",   NULL};

int luks_create_read(struct block_graph *g, struct json_object *o, const char *prefix, struct luks_create *c,
                     struct err *e)
{
    struct jread r = jread_init(o, NULL, e);
    const char *secret = jread_str_or(&r, "key-secret", NULL);
    struct cipher_spec spec = {
        .alg = (enum cipher_alg)read_name(&r, "cipher-alg", cipher_alg_names, CIPHER_AES_256),
        .mode = (enum cipher_mode)read_name(&r, "cipher-mode", cipher_mode_names, CIPHER_XTS),
        .ivgen = (enum ivgen_alg)read_name(&r, "ivgen-alg", ivgen_names, IVGEN_PLAIN64),
        .ivgen_hash = (enum crypto_hash)read_name(&r, "ivgen-hash-alg", crypto_hash_names, CRYPTO_SHA256),
    };
    bool with_hash = jread_has(&r, "ivgen-hash-alg") || spec.ivgen == IVGEN_ESSIV;
    enum crypto_hash hash = (enum crypto_hash)read_name(&r, "hash-alg", crypto_hash_names, CRYPTO_SHA256);
    c->iter_time = jread_size_or(&r, "iter-time", LUKS_ITER_TIME);
    c->iter_time = c->iter_time ? c->iter_time : LUKS_ITER_TIME;
    int rc = jread_end_lax(&r);
    rc = rc < 0 ? rc : luks_password(g, secret, prefix, &c->password, e);
    rc = rc < 0 ? rc : luks_lay_out(&c->h, &spec, with_hash, hash, e);
    if (rc == 0) { /* whether the parts go together is seen now, not when half of the image is there */
        static const uint8_t any[CIPHER_KEY_MAX];
        struct cipher *cipher = NULL;
        rc = cipher_create(&spec, any, c->h.key_bytes, &cipher, e);
        cipher_destroy(cipher);
    }
    return rc;
}

static int write_header(const struct luks_header *h, const struct luks_store *st)
{
    uint8_t b[LUKS_HEADER_BYTES];
    luks_encode(h, b);
    int rc = st->write(st->opaque, 0, sizeof(b), b);
    return rc < 0 ? rc : st->flush(st->opaque);
}

int luks_format(struct luks_create *c, const struct luks_store *st, uint8_t *key, struct err *e)
{
    struct luks_new_key k = {key, c->password, c->iter_time};
    int rc = crypto_random(key, c->h.key_bytes, e);
    rc = rc < 0 ? rc : luks_set_digest(&c->h, key, c->iter_time, e);
    if (rc == 0 && (rc = write_header(&c->h, st)) < 0) {
        return err_set_errno(e, -rc, "Unable to write LUKS header");
    }
    return rc < 0 ? rc : luks_slot_activate(&c->h, st, 0, &k, e);
}

/* --- changing keys ---------------------------------------------------------------------------------------------- */

struct amend {
    struct block_graph *g;
    struct luks_header *h;
    const struct luks_store *st;
    const char *opened_with, *new_secret, *old_secret, *secret;
    bool activate, have_slot, have_time, force;
    uint64_t slot, iter_time;
};

static unsigned count_active(const struct luks_header *h)
{
    unsigned n = 0;
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        n += h->slots[i].active;
    }
    return n;
}

static int no_such_slot(const struct amend *a, struct err *e)
{
    return err_set(e, EINVAL, "Invalid keyslot %u specified, must be between 0 and %u", (unsigned)a->slot,
                   LUKS_SLOTS - 1);
}

static int activate(struct amend *a, struct err *e)
{
    const char *old, *new;
    uint8_t key[CIPHER_KEY_MAX];
    if (!a->new_secret) {
        return err_set(e, EINVAL, "'new-secret' is required to activate a keyslot");
    }
    if (a->old_secret) {
        return err_set(e, EINVAL, "'old-secret' must not be given when activating keyslots");
    }
    if (a->have_slot && a->slot >= LUKS_SLOTS) {
        return no_such_slot(a, e);
    }
    if (a->have_slot && a->h->slots[a->slot].active && !a->force) {
        return err_set(e, EINVAL, "Refusing to overwrite active keyslot %u - please erase it first", (unsigned)a->slot);
    }
    unsigned slot = a->have_slot ? (unsigned)a->slot : 0;
    while (!a->have_slot && slot < LUKS_SLOTS && a->h->slots[slot].active) {
        slot++;
    }
    if (slot == LUKS_SLOTS) {
        return err_set(e, EINVAL, "Can't add a keyslot - all keyslots are in use");
    }
    int rc = luks_password(a->g, a->secret ? a->secret : a->opened_with, "", &old, e);
    rc = rc < 0 ? rc : luks_password(a->g, a->new_secret, "", &new, e);
    rc = rc < 0 ? rc : luks_unlock(a->h, a->st, old, key, e);
    if (rc == 0) {
        struct luks_new_key k = {key, new, a->have_time && a->iter_time ? a->iter_time : LUKS_ITER_TIME};
        rc = a->h->slots[slot].active ? luks_slot_replace(a->h, a->st, slot, &k, e)
                                      : luks_slot_activate(a->h, a->st, slot, &k, e);
        explicit_bzero(key, sizeof(key));
    }
    return rc;
}

static int erase_slot(struct amend *a, const char *old, struct err *e)
{
    unsigned slot = (unsigned)a->slot;
    if (a->slot >= LUKS_SLOTS) {
        return no_such_slot(a, e);
    }
    if (old) {
        int opens = luks_slot_opens(a->h, a->st, slot, old, e);
        if (opens <= 0) {
            return opens < 0
                       ? opens
                       : err_set(e, EINVAL,
                                 "Given keyslot %u doesn't contain the given old password for erase operation", slot);
        }
    }
    if (!a->force && !a->h->slots[slot].active) {
        return err_set(e, EINVAL, "Given keyslot %u is already erased (inactive) ", slot);
    }
    if (!a->force && count_active(a->h) == 1) {
        return err_set(e, EINVAL,
                       "Attempt to erase the only active keyslot %u which will erase all the data in the image "
                       "irreversibly - refusing operation",
                       slot);
    }
    return luks_slot_erase(a->h, a->st, slot, e);
}

static int erase_matching(struct amend *a, const char *old, struct err *e)
{
    bool match[LUKS_SLOTS] = {false};
    unsigned count = 0;
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        int rc = luks_slot_opens(a->h, a->st, i, old, e);
        if (rc < 0) {
            return rc;
        }
        match[i] = rc == 1;
        count += match[i];
    }
    if (count == 0) {
        return err_set(e, EINVAL, "No keyslots match given (old) password for erase operation");
    }
    if (!a->force && count == count_active(a->h)) {
        return err_set(e, EINVAL,
                       "All the active keyslots match the (old) password that was given and erasing them will erase "
                       "all the data in the image irreversibly - refusing operation");
    }
    int rc = 0;
    for (unsigned i = 0; i < LUKS_SLOTS && rc == 0; i++) {
        rc = match[i] ? luks_slot_erase(a->h, a->st, i, e) : 0;
    }
    return rc;
}

static int erase(struct amend *a, struct err *e)
{
    const char *old = NULL;
    const struct {
        bool given;
        const char *name;
    } others[] = {{a->new_secret, "new-secret"}, {a->have_time, "iter-time"}, {a->secret, "secret"}};
    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        if (others[i].given) {
            return err_set(e, EINVAL, "'%s' must not be given when erasing keyslots", others[i].name);
        }
    }
    int rc = a->old_secret ? luks_password(a->g, a->old_secret, "", &old, e) : 0;
    if (rc < 0) {
        return rc;
    }
    if (a->have_slot) {
        return erase_slot(a, old, e);
    }
    return old ? erase_matching(a, old, e)
               : err_set(e, EINVAL,
                         "To erase keyslot(s), either explicit keyslot index or the password currently contained in "
                         "them must be given");
}

int luks_amend(struct block_graph *g, struct luks_header *h, const struct luks_store *st, struct json_object *o,
               const struct luks_amend *how, struct err *e)
{
    static const char *const states[] = {"active", "inactive", NULL};
    struct amend a = {.g = g, .h = h, .st = st, .opened_with = how->opened_with, .force = how->force};
    struct jread r = jread_init(o, NULL, e);
    (void)jread_str(&r, "state");
    a.activate = read_name(&r, "state", states, 0) == 0;
    a.new_secret = jread_str_or(&r, "new-secret", NULL);
    a.old_secret = jread_str_or(&r, "old-secret", NULL);
    a.secret = jread_str_or(&r, "secret", NULL);
    a.have_slot = jread_has(&r, "keyslot");
    a.slot = (uint64_t)jread_int_or(&r, "keyslot", 0);
    a.have_time = jread_has(&r, "iter-time");
    a.iter_time = jread_size_or(&r, "iter-time", 0);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    return a.activate ? activate(&a, e) : erase(&a, e);
}
