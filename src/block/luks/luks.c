/* SPDX-License-Identifier: BSD-2-Clause */
/* The driver "luks": a volume in a file of its own, header first (block/luks/luks.h). */
#include "block/luks/luks.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "block/drivers.h"
#include "block/luks/crypt.h"
#include "block/newfile.h"

#include <string.h>

struct luks_state {
    struct luks_header h;
    struct cipher *cipher; /* NULL: opened to be looked at only */
    char *secret;          /* the id of the one that opened it */
};

static int store_read(void *opaque, uint64_t off, size_t len, void *buf)
{
    struct edge *file = opaque;
    uint64_t size = edge_size(file);
    return range_ok(off, len, size) ? edge_read_buf(file, off, len, buf) : -EIO;
}

static int store_write(void *opaque, uint64_t off, size_t len, const void *buf)
{
    return edge_write_buf(opaque, off, len, buf, 0);
}

static int store_flush(void *opaque)
{
    return edge_flush(opaque);
}

static struct luks_store store_of(struct edge *file)
{
    return (struct luks_store){file, store_read, store_write, store_flush};
}

static int luks_driver_probe(const uint8_t *buf, size_t len, const char *filename, struct err *e)
{
    return luks_probe(buf, len) ? PROBE_YES : PROBE_NO;
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int make_cipher(struct node *n, const struct luks_store *st, const char *secret, struct err *e)
{
    struct luks_state *s = n->priv;
    const char *password;
    uint8_t key[CIPHER_KEY_MAX];
    int rc = luks_password(n->graph, secret, "", &password, e);
    rc = rc < 0 ? rc : luks_unlock(&s->h, st, password, key, e);
    rc = rc < 0 ? rc : cipher_create(&s->h.spec, key, s->h.key_bytes, &s->cipher, e);
    explicit_bzero(key, sizeof(key));
    s->secret = rc < 0 ? NULL : g_strdup(secret);
    return rc;
}

static int set_size(struct node *n, struct err *e)
{
    struct luks_state *s = n->priv;
    uint64_t size = edge_size(n->file), start = luks_payload_offset(&s->h);
    if (size < start) {
        return err_set(e, EIO,
                       "Image '%s': the LUKS payload begins at %" G_GUINT64_FORMAT ", behind the end of the file",
                       n->file->child->filename, start);
    }
    node_set_size(n, round_down(size - start, CIPHER_SECTOR));
    return 0;
}

static int luks_open(struct node *n, struct json_object *options, struct err *e)
{
    struct luks_state *s = n->priv;
    struct edge *file;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &file, e);
    if (rc < 0) {
        return rc;
    }
    struct jread r = jread_init(options, NULL, e);
    const char *secret = jread_str_or(&r, "key-secret", NULL);
    rc = jread_end_lax(&r);
    struct luks_store st = store_of(file);
    rc = rc < 0 ? rc : luks_read_header(&s->h, &st, e);
    if (rc == 0 && !graph_is_metadata_only(n->graph)) {
        rc = make_cipher(n, &st, secret, e);
    }
    rc = rc < 0 ? rc : set_size(n, e);
    if (rc < 0) {
        cipher_destroy(s->cipher);
        g_free(s->secret);
        return rc;
    }
    n->limits.request_align = CIPHER_SECTOR;
    n->limits.opt_transfer = file->child->limits.opt_transfer;
    return 0;
}

static void luks_close(struct node *n)
{
    struct luks_state *s = n->priv;
    cipher_destroy(s->cipher);
    g_free(s->secret);
}

/* --- data ------------------------------------------------------------------------------------------------------- */

static int read_cipher(void *opaque, uint64_t off, const struct iovs *v)
{
    return edge_read(opaque, off, v->size, v, 0, 0);
}

static int write_cipher(void *opaque, uint64_t off, const struct iovs *v)
{
    return edge_write(opaque, off, v->size, v, 0, 0);
}

static struct crypt_run run_of(struct node *n, crypt_io_fn *io, uint64_t off, uint64_t len)
{
    struct luks_state *s = n->priv;
    return (struct crypt_run){.cipher = s->cipher,
                              .io = io,
                              .opaque = n->file,
                              .file = n->file->child,
                              .off = luks_payload_offset(&s->h) + off,
                              .sector = off / CIPHER_SECTOR,
                              .len = len};
}

static int luks_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct crypt_run r = run_of(n, read_cipher, off, len);
    return r.cipher ? crypt_read(&r, v, voff) : -EIO;
}

static int luks_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct crypt_run r = run_of(n, write_cipher, off, len);
    return r.cipher ? crypt_write(&r, v, voff) : -EIO;
}

static int luks_flush(struct node *n)
{
    return edge_flush(n->file);
}

static int luks_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct luks_state *s = n->priv;
    uint64_t end;
    if (!add_ok(size, luks_payload_offset(&s->h), &end) || end > INT64_MAX) {
        return err_set(e, EFBIG, "The requested file size is too large");
    }
    int rc = edge_truncate(n->file, end, exact, prealloc, e);
    return rc < 0 ? rc : set_size(n, e);
}

/* --- information ------------------------------------------------------------------------------------------------ */

static int luks_get_info(struct node *n, struct driver_info *out)
{
    out->encrypted = true;
    return 0;
}

static struct json_object *luks_specific_info(struct node *n)
{
    struct luks_state *s = n->priv;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "type", json_object_new_string("luks"));
    json_object_object_add(o, "data", luks_info(&s->h));
    return o;
}

/* --- making and changing ---------------------------------------------------------------------------------------- */

static const struct create_option luks_create_options[] = {
    {"size", "size", "Virtual disk size"},
    {"key-secret", "str", "ID of the secret that provides the keyslot passphrase"},
    {"cipher-alg", "str", "Name of encryption cipher algorithm"},
    {"cipher-mode", "str", "Name of encryption cipher mode"},
    {"ivgen-alg", "str", "Name of IV generator algorithm"},
    {"ivgen-hash-alg", "str", "Name of IV generator hash algorithm"},
    {"hash-alg", "str", "Name of encryption hash algorithm"},
    {"iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {NULL, NULL, NULL},
};

static int format(struct block_graph *g, struct node *n, struct luks_create *c, uint64_t size, int prealloc,
                  struct err *e)
{
    struct edge *file;
    uint8_t key[CIPHER_KEY_MAX];
    uint64_t start = luks_payload_offset(&c->h), end;
    if (!add_ok(size, start, &end) || end > INT64_MAX) {
        return err_set(e, EINVAL, "The requested file size is too large");
    }
    int rc = edge_open(n, &(struct edge_spec){"create", PERM_READ | PERM_WRITE | PERM_RESIZE, PERM_ALL}, &file, e);
    if (rc < 0) {
        return rc;
    }
    rc = edge_truncate(file, end, false, prealloc, e);
    struct luks_store st = store_of(file);
    rc = rc < 0 ? rc : luks_format(c, &st, key, e);
    explicit_bzero(key, sizeof(key));
    edge_close(file);
    return rc;
}

static int luks_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    struct luks_create c;
    struct jread r = jread_init(opts, NULL, e);
    struct json_object *file = jread_any(&r, "file");
    uint64_t size = jread_size(&r, "size");
    int prealloc = jread_enum_or(&r, "preallocation", prealloc_names, PREALLOC_OFF);
    int rc = jread_end_lax(&r);
    struct node *n;
    if (rc == 0 && !file) {
        rc = err_set(e, EINVAL, "Parameter 'file' is missing");
    }
    rc = rc < 0 ? rc : luks_create_read(g, opts, "", &c, e);
    if (rc < 0) {
        return rc;
    }
    rc = newfile_open(g, file, &n, e);
    if (rc == 0) {
        prealloc = prealloc == PREALLOC_METADATA ? PREALLOC_OFF : prealloc; /* it is all there already */
        rc = format(g, n, &c, round_up(min_u64(size, INT64_MAX), CIPHER_SECTOR), prealloc, e);
        node_unref(n);
    }
    return rc;
}

static int luks_measure(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *m,
                        struct err *e)
{
    struct luks_create c;
    struct jread r = jread_init(opts, NULL, e);
    uint64_t size = source ? source->size : jread_size(&r, "size");
    int rc = jread_end_lax(&r);
    rc = rc < 0 ? rc : luks_create_read(g, opts, "", &c, e);
    if (rc == 0) {
        m->required = m->fully_allocated = luks_payload_offset(&c.h) + round_up(size, CIPHER_SECTOR);
    }
    return rc;
}

const struct create_option luks_amend_options[] = {
    {"state", "str", "Select new state of affected keyslots (active/inactive)"},
    {"keyslot", "num", "Select a single keyslot to modify explicitly"},
    {"old-secret", "str", "Select all keyslots that match this password"},
    {"new-secret", "str", "New secret to set in the matching keyslots. Empty string to erase"},
    {"iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {NULL, NULL, NULL},
};

/* Others may have changed keys since it was opened, but what is read and written goes by the rest as it was. */
static int read_again(struct node *n, const struct luks_store *st, struct err *e)
{
    struct luks_header now, *h = &((struct luks_state *)n->priv)->h;
    int rc = luks_read_header(&now, st, e);
    if (rc < 0) {
        return rc;
    }
    if (!luks_same_volume(&now, h)) {
        return err_set(e, EINVAL, "Image '%s' holds another LUKS volume than when it was opened; open it again",
                       n->file->child->filename);
    }
    *h = now;
    return 0;
}

/* The header is nobody else's while it changes, though the payload may be. */
static int luks_driver_amend(struct node *n, struct json_object *opts, bool force,
                             const struct amend_progress *progress, struct err *e)
{
    struct luks_state *s = n->priv;
    struct edge *file = n->file;
    unsigned perm = file->own_perm, shared = file->own_shared;
    int rc = edge_set_perm(file, PERM_READ | PERM_WRITE, PERM_READ | PERM_WRITE_SAME, e);
    if (rc < 0) {
        return rc;
    }
    struct luks_store st = store_of(file);
    rc = read_again(n, &st, e);
    rc = rc < 0 ? rc : luks_amend(n->graph, &s->h, &st, opts, &(struct luks_amend){s->secret, force}, e);
    n->write_gen++;
    int rc2 = edge_set_perm(file, perm, shared, rc < 0 ? NULL : e);
    return rc < 0 ? rc : rc2;
}

static int luks_driver_read_again(struct node *n, struct err *e)
{
    struct luks_store st = store_of(n->file);
    int rc = read_again(n, &st, e);
    return rc < 0 ? rc : set_size(n, e);
}

static const char *const luks_option_names[] = {"key-secret", NULL};

const struct block_driver luks_driver = {
    .name = "luks",
    .priv_size = sizeof(struct luks_state),
    .passes_perms = true,
    .can_be_created = true,
    .option_names = luks_option_names,
    .strong_options = luks_option_names,
    .probe = luks_driver_probe,
    .open = luks_open,
    .close = luks_close,
    .read_again = luks_driver_read_again,
    .create = luks_create,
    .create_options = luks_create_options,
    .measure = luks_measure,
    .amend = luks_driver_amend,
    .amend_options = luks_amend_options,
    .read = luks_read,
    .write = luks_write,
    .flush = luks_flush,
    .truncate = luks_truncate,
    .get_info = luks_get_info,
    .specific_info = luks_specific_info,
};
