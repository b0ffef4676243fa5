/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encrypted images. What a data cluster holds is encrypted, sector by sector; metadata and compressed clusters are not.
 *
 *     method   cipher                       number of a sector
 *     1 AES    AES-128-CBC, plain64; the    of the guest's disk: equal data at equal places looks equal in all
 *              key is 16 bytes of password  images with that password. For old images only: a guest may not run on it
 *     2 LUKS   as its header says, which    of the file that holds the cluster (the external data file if there is
 *              the header extension names   one)
 *
 * So a LUKS cluster that moves is encrypted anew, and a cluster that was only allocated holds noise, not zeroes:
 * preallocated clusters are marked as zeroes (version 2, which cannot, gets them written).
 */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/luks/crypt.h"

#include <inttypes.h>
#include <stdlib.h>

struct q_crypt {
    struct cipher *cipher;   /* NULL: opened to be looked at only */
    struct luks_header luks; /* method 2 */
    char *secret;            /* the id of the one that opened it */
};

static const char *const methods[] = {"none", "aes", "luks"};

void qcow2_crypt_finish(struct qcow2 *s)
{
    struct q_crypt *c = take(s->crypt);
    if (c) {
        cipher_destroy(c->cipher);
        g_free(c->secret);
        g_free(c);
    }
}

/* --- the LUKS header --------------------------------------------------------------------------------------------- */

static int store_read(void *opaque, uint64_t off, size_t len, void *buf)
{
    struct qcow2 *s = opaque;
    return range_ok(off, len, s->crypt_len) ? file_read_buf(s->file, s->crypt_off + off, len, buf) : -EIO;
}

static int store_write(void *opaque, uint64_t off, size_t len, const void *buf)
{
    struct qcow2 *s = opaque;
    return range_ok(off, len, s->crypt_len) ? file_write_buf(s, s->crypt_off + off, len, buf) : -EIO;
}

static int store_flush(void *opaque)
{
    struct qcow2 *s = opaque;
    return edge_flush(s->file);
}

static struct luks_store store_of(struct qcow2 *s)
{
    return (struct luks_store){s, store_read, store_write, store_flush};
}

int qcow2_crypt_read_ext(struct qcow2 *s, const uint8_t *data, uint32_t len, struct err *e)
{
    if (s->h.crypt_method != CRYPT_LUKS) {
        return err_set(e, EINVAL, "CRYPTO header extension only expected with LUKS encryption method");
    }
    if (len != 16) {
        return err_set(e, EINVAL, "CRYPTO header extension size %" PRIu32 ", but expected size 16", len);
    }
    s->crypt_off = load_be64(data);
    s->crypt_len = load_be64(data + 8);
    if (s->crypt_off & (s->cluster_size - 1)) {
        return err_set(e, EINVAL,
                       "Encryption header offset '%" PRIu64 "' is not a multiple of cluster size '%" PRIu64 "'",
                       s->crypt_off, s->cluster_size);
    }
    if (s->crypt_len > QCOW2_MAX_CRYPT_HEADER || !range_ok(s->crypt_off, s->crypt_len, QCOW2_MAX_HOST) ||
        !s->crypt_off) {
        return err_set(e, EINVAL, "Encryption header offset '%" PRIu64 "' or length '%" PRIu64 "' invalid",
                       s->crypt_off, s->crypt_len);
    }
    return 0;
}

/* --- opening -------------------------------------------------------------------------------------------------------
 */

static const struct cipher_spec aes_spec = {.alg = CIPHER_AES_128, .mode = CIPHER_CBC, .ivgen = IVGEN_PLAIN64};

static int aes_cipher(const char *password, struct cipher **out, struct err *e)
{
    uint8_t key[16] = {0};
    memcpy(key, password, strnlen(password, sizeof(key)));
    int rc = cipher_create(&aes_spec, key, sizeof(key), out, e);
    explicit_bzero(key, sizeof(key));
    return rc;
}

static int luks_cipher(struct qcow2 *s, const char *password, struct cipher **out, struct err *e)
{
    struct luks_store st = store_of(s);
    uint8_t key[CIPHER_KEY_MAX];
    int rc = luks_unlock(&s->crypt->luks, &st, password, key, e);
    rc = rc < 0 ? rc : cipher_create(&s->crypt->luks.spec, key, s->crypt->luks.key_bytes, out, e);
    explicit_bzero(key, sizeof(key));
    return rc;
}

static int unlock(struct qcow2 *s, const char *secret, struct err *e)
{
    const char *password;
    int rc = luks_password(s->n->graph, secret, "encrypt.", &password, e);
    if (rc < 0) {
        return rc;
    }
    rc = s->h.crypt_method == CRYPT_AES ? aes_cipher(password, &s->crypt->cipher, e)
                                        : luks_cipher(s, password, &s->crypt->cipher, e);
    s->crypt->secret = rc < 0 ? NULL : g_strdup(secret);
    return rc;
}

static int open_header(struct qcow2 *s, struct err *e)
{
    struct luks_store st = store_of(s);
    if (s->h.size % CIPHER_SECTOR) {
        return err_set(e, EINVAL, "The size of an encrypted image must be a multiple of %d", CIPHER_SECTOR);
    }
    if (s->h.crypt_method == CRYPT_LUKS && !s->crypt_len) {
        return err_set(e, EINVAL, "Missing CRYPTO header for crypt method %" PRIu32, s->h.crypt_method);
    }
    return s->h.crypt_method == CRYPT_LUKS ? luks_read_header(&s->crypt->luks, &st, e) : 0;
}

/* "encrypt": its format must be the image's; without encryption nothing else is looked at. */
static int read_options(struct qcow2 *s, struct json_object *options, const char **secret, struct err *e)
{
    struct json_object *o = NULL;
    CLEANUP_JSON struct json_object *none = json_object_new_object();
    const char *is = methods[s->h.crypt_method];
    bool given = json_object_object_get_ex(options, "encrypt", &o);
    if (given && !json_object_is_type(o, json_type_object)) {
        return err_set(e, EINVAL, "Invalid parameter type for 'encrypt', expected: object");
    }
    struct jread r = jread_init(given ? o : none, NULL, e);
    const char *format = jread_str_or(&r, "format", is);
    *secret = jread_str_or(&r, "key-secret", NULL);
    if (strcmp(format, is) != 0) {
        jread_end_lax(&r);
        return s->h.crypt_method == CRYPT_NONE
                   ? err_set(e, EINVAL, "No encryption in image header, but options specified format '%s'", format)
                   : err_set(e, EINVAL, "Header reported '%s' encryption format but options specify '%s'", is, format);
    }
    return s->h.crypt_method == CRYPT_NONE ? jread_end_lax(&r) : jread_end(&r);
}

int qcow2_crypt_open(struct qcow2 *s, struct json_object *options, struct err *e)
{
    const char *secret = NULL;
    if (s->h.crypt_method > CRYPT_LUKS) {
        return err_set(e, ENOTSUP, "Unsupported encryption method %" PRIu32, s->h.crypt_method);
    }
    if (s->h.crypt_method == CRYPT_AES && graph_is_for_guest(s->n->graph)) {
        return err_set(e, ENOTSUP, "Use of AES-CBC encrypted qcow2 images is no longer supported in system emulators");
    }
    int rc = read_options(s, options, &secret, e);
    if (rc < 0 || s->h.crypt_method == CRYPT_NONE) {
        return rc;
    }
    if (s->h.crypt_method == CRYPT_LUKS && !s->crypt_len) {
        return err_set(e, EINVAL, "Missing CRYPTO header for crypt method %d", CRYPT_LUKS);
    }
    s->crypt = g_new0(struct q_crypt, 1);
    rc = open_header(s, e);
    if (rc == 0 && !graph_is_metadata_only(s->n->graph)) {
        rc = unlock(s, secret, e);
    }
    return rc;
}

int qcow2_crypt_read_again(struct qcow2 *s, struct qcow2 *old, struct err *e)
{
    struct luks_header now = {0};
    struct luks_store st = store_of(s);
    int rc = s->h.crypt_method == CRYPT_LUKS ? luks_read_header(&now, &st, e) : 0;
    if (rc == 0 && s->h.crypt_method == CRYPT_LUKS) {
        if (!luks_same_volume(&now, &old->crypt->luks)) {
            return err_set(e, EINVAL, "Image '%s' is encrypted with another key than when it was opened; open it again",
                           s->n->filename);
        }
        old->crypt->luks = now;
    }
    s->crypt = rc < 0 ? NULL : old->crypt;
    return rc;
}

/* --- data -----------------------------------------------------------------------------------------------------------
 */

static int read_cipher(void *opaque, uint64_t off, const struct iovs *v)
{
    struct qcow2 *s = opaque;
    return file_read(s->data, off, v->size, v, 0);
}

static int write_cipher(void *opaque, uint64_t off, const struct iovs *v)
{
    struct qcow2 *s = opaque;
    return file_write(s, s->data, off, v->size, v, 0);
}

static struct crypt_run run_of(struct qcow2 *s, crypt_io_fn *io, const struct q_place *at)
{
    return (struct crypt_run){.cipher = s->crypt->cipher,
                              .io = io,
                              .opaque = s,
                              .file = s->data->child,
                              .off = at->host,
                              .sector = (s->h.crypt_method == CRYPT_AES ? at->guest : at->host) / CIPHER_SECTOR,
                              .len = at->len};
}

/* Not whole sectors: only the machine's state is read so. */
static int read_around(struct qcow2 *s, const struct q_place *at, const struct iovs *v, size_t voff)
{
    uint64_t skip = at->host % CIPHER_SECTOR;
    struct q_place whole = {at->guest - skip, at->host - skip, round_up(at->len + skip, CIPHER_SECTOR)};
    uint8_t *buf = block_buf_alloc(s->data->child, whole.len);
    if (!buf) {
        return -ENOMEM;
    }
    struct iovec iov;
    struct iovs b = IOVS_BUF(&iov, buf, whole.len);
    struct crypt_run r = run_of(s, read_cipher, &whole);
    int rc = crypt_read(&r, &b, 0);
    if (rc == 0) {
        iovs_from_buf(v, voff, buf + skip, at->len);
    }
    free(buf);
    return rc;
}

int data_read(struct qcow2 *s, const struct q_place *at, const struct iovs *v, size_t voff)
{
    if (!s->crypt) {
        return file_read(s->data, at->host, at->len, v, voff);
    }
    if (!s->crypt->cipher) {
        return -EIO;
    }
    if ((at->host | at->len) % CIPHER_SECTOR) {
        return read_around(s, at, v, voff);
    }
    struct crypt_run r = run_of(s, read_cipher, at);
    return crypt_read(&r, v, voff);
}

int data_write(struct qcow2 *s, const struct q_place *at, const struct iovs *v, size_t voff)
{
    if (!s->crypt) {
        return file_write(s, s->data, at->host, at->len, v, voff);
    }
    if (!s->crypt->cipher || (at->host | at->len) % CIPHER_SECTOR) {
        return -EIO;
    }
    struct crypt_run r = run_of(s, write_cipher, at);
    return crypt_write(&r, v, voff);
}

struct json_object *qcow2_crypt_info(const struct qcow2 *s)
{
    struct json_object *o = s->h.crypt_method == CRYPT_LUKS ? luks_info(&s->crypt->luks) : json_object_new_object();
    json_object_object_add(o, "format", json_object_new_string(methods[s->h.crypt_method]));
    return o;
}

/* --- making and changing --------------------------------------------------------------------------------------------
 */

static int check_keys(struct json_object *o, const char *const *known, struct err *e)
{
    json_object_object_foreach(o, key, v)
    {
        if (strcmp(key, "format") != 0 && !g_strv_contains(known, key)) {
            return err_set(e, EINVAL, "Parameter 'encrypt.%s' is unexpected", key);
        }
    }
    return 0;
}

int qcow2_crypt_create_read(struct block_graph *g, struct json_object *o, bool legacy, struct q_crypt_create *c,
                            struct err *e)
{
    static const char *const aes_keys[] = {"key-secret", NULL};
    struct json_object *none = NULL, *format = NULL, *secret = NULL;
    if (!o && !legacy) {
        return 0;
    }
    if (o && !json_object_is_type(o, json_type_object)) {
        return err_set(e, EINVAL, "Invalid parameter type for 'encrypt', expected: object");
    }
    bool given = o && json_object_object_get_ex(o, "format", &format);
    if (given && legacy) {
        return err_set(e, EINVAL, "'encrypt.format' and its alias 'encryption' can't be used at the same time");
    }
    if (!given && !legacy) {
        return err_set(e, EINVAL, "Parameter 'encrypt.format' is missing");
    }
    const char *name = legacy ? "aes" : json_object_get_string(format);
    if (strcmp(name, "aes") != 0 && strcmp(name, "luks") != 0) {
        return err_set(e, EINVAL, "Parameter 'format' does not accept value '%s'", name);
    }
    c->method = strcmp(name, "aes") == 0 ? CRYPT_AES : CRYPT_LUKS;
    o = o ? o : (none = json_object_new_object());
    int rc = check_keys(o, c->method == CRYPT_AES ? aes_keys : luks_create_keys, e);
    if (rc == 0 && c->method == CRYPT_LUKS) {
        rc = luks_create_read(g, o, "encrypt.", &c->luks, e);
    } else if (rc == 0) {
        json_object_object_get_ex(o, "key-secret", &secret);
        rc = luks_password(g, secret ? json_object_get_string(secret) : NULL, "encrypt.", &c->luks.password, e);
    }
    json_object_put(none);
    return rc;
}

uint64_t qcow2_crypt_header_len(const struct q_crypt_create *c)
{
    return c->method == CRYPT_LUKS ? luks_payload_offset(&c->luks.h) : 0;
}

/* Clusters for the LUKS header, all zeroes. */
static int reserve(struct qcow2 *s, uint64_t len)
{
    uint64_t off, n = q_clusters(s, len);
    co_lock(&s->lock);
    int rc = clusters_alloc(s, n, &off);
    co_unlock(&s->lock);
    if (rc < 0) {
        return rc;
    }
    s->crypt_off = off;
    s->crypt_len = len;
    meta_add(s, off, n << s->cluster_bits, META_HEADER);
    s->file_high = max_u64(s->file_high, off + (n << s->cluster_bits));
    uint64_t end = off + (n << s->cluster_bits);
    if (edge_size(s->file) < end) {
        rc = edge_truncate(s->file, end, false, PREALLOC_OFF, NULL);
        rc = rc == -ENOTSUP ? -ENOSPC : rc;
    }
    return rc < 0 ? rc : edge_zero(s->file, off, end - off, 0);
}

static void add_ext(struct qcow2 *s)
{
    struct q_ext x = {.type = EXT_CRYPTO, .len = 16, .data = g_malloc(16)};
    store_be64(x.data, s->crypt_off);
    store_be64(x.data + 8, s->crypt_len);
    g_array_append_val(s->exts, x);
}

static int create_luks(struct qcow2 *s, struct q_crypt_create *c, struct err *e)
{
    uint8_t key[CIPHER_KEY_MAX];
    int rc = reserve(s, qcow2_crypt_header_len(c));
    if (rc < 0) {
        return err_set_errno(e, -rc, "Cannot allocate cluster for LUKS header size %" PRIu64,
                             qcow2_crypt_header_len(c));
    }
    struct luks_store st = store_of(s);
    rc = luks_format(&c->luks, &st, key, e);
    rc = rc < 0 ? rc : cipher_create(&c->luks.h.spec, key, c->luks.h.key_bytes, &s->crypt->cipher, e);
    explicit_bzero(key, sizeof(key));
    s->crypt->luks = c->luks.h;
    return rc;
}

int qcow2_crypt_create(struct qcow2 *s, struct q_crypt_create *c, struct err *e)
{
    if (c->method == CRYPT_NONE) {
        return 0;
    }
    s->crypt = g_new0(struct q_crypt, 1);
    int rc = c->method == CRYPT_AES ? aes_cipher(c->luks.password, &s->crypt->cipher, e) : create_luks(s, c, e);
    if (rc < 0) {
        return rc;
    }
    s->h.crypt_method = c->method;
    s->n->limits.request_align = CIPHER_SECTOR;
    if (c->method == CRYPT_LUKS) {
        add_ext(s);
    }
    rc = qcow2_refs_stable(s); /* refcounts before the header names the clusters */
    rc = rc < 0 ? rc : header_write(s);
    return rc < 0 ? err_set_errno(e, -rc, "Could not write encryption header") : 0;
}

int qcow2_crypt_amend(struct qcow2 *s, struct json_object *o, bool force, struct err *e)
{
    if (s->h.crypt_method == CRYPT_NONE) {
        return err_set(e, EINVAL, "Can't amend encryption options - encryption not present");
    }
    if (s->h.crypt_method != CRYPT_LUKS) {
        return err_set(e, ENOTSUP, "Only LUKS encryption options can be amended");
    }
    struct luks_store st = store_of(s);
    return luks_amend(s->n->graph, &s->crypt->luks, &st, o, &(struct luks_amend){s->crypt->secret, force}, e);
}
