/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "nbd": an export of an NBD server as a disk. Protocol: the NBD project's doc/proto.md, spoken by libnbd. What happens
 * when the connection breaks is in link.h; here is what an export means to the block layer.
 *
 * Sizes of requests: the server's minimum block is our alignment. A server that names none takes any byte when it
 * describes extents or when its size is no multiple of 512, else 512.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "block/drivers.h"
#include "block/existing.h"
#include "block/nbd/link.h"
#include "block/options.h"
#include "block/reopen.h"

#include <libnbd.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR      512
#define MAX_PAYLOAD (32u << 20) /* what every server takes */
#define SECOND_NS   1000000000ull
#define HOLE        1u /* NBD_STATE_HOLE, NBD_STATE_ZERO of base:allocation */
#define ZERO        2u

struct nbd_node {
    struct nbd_link link;
    bool depths; /* the context counts layers: 0 not there, 1 here, more: below */
    /* What the last reply about extents said beyond what was asked for: good for whoever walks on, for a moment. */
    GArray *ahead; /* struct nbd_extent */
    guint ahead_next;
    uint64_t ahead_off, ahead_until_ns;
};

/* --- options ---------------------------------------------------------------------------------------------------- */

static uint64_t read_seconds(struct jread *r, const char *key, struct err *e, int *rc)
{
    int64_t s = jread_int_or(r, key, 0);
    if (s < 0 || s > UINT32_MAX) {
        *rc = err_set(e, EINVAL, "Parameter '%s' expects a number of seconds from 0 to 4294967295", key);
        return 0;
    }
    return (uint64_t)s * SECOND_NS;
}

static int read_creds(struct node *n, const char *id, struct nbd_config *c, struct err *e)
{
    struct tls_creds *t = graph_object(n->graph, "tls-creds", id);
    if (!t) {
        return err_set(e, EINVAL, "No TLS credentials with id '%s'", id);
    }
    int rc = tls_creds_check_endpoint(t, false, e);
    if (rc < 0) {
        return rc;
    }
    if (t->kind == TLS_ANON || t->priority || t->password_id) {
        return err_set(e, ENOTSUP,
                       "TLS credentials '%s': the NBD client takes x509 certificates and pre-shared keys, without "
                       "'priority' and 'passwordid'",
                       id);
    }
    c->creds = tls_creds_ref(t);
    return 0;
}

static int check_hostname(struct nbd_config *c, const char *given, struct err *e)
{
    const char *name = given ? given : c->address.type == NBD_INET ? c->address.host : NULL;
    bool certificates = c->creds && c->creds->kind == TLS_X509 && c->creds->verify_peer;
    if (certificates && !name) {
        return err_set(e, EINVAL, "No hostname for certificate validation");
    }
    c->tls_hostname = certificates ? g_strdup(name) : NULL;
    return 0;
}

static int read_config(struct node *n, struct json_object *options, struct nbd_config *c, struct err *e)
{
    int rc = nbd_address_read(&c->address, options, e), wrong = 0;
    if (rc < 0) {
        return rc;
    }
    struct jread r = jread_init(options, NULL, e);
    c->export_name = g_strdup(jread_str_or(&r, "export", NULL));
    c->context = g_strdup(jread_str_or(&r, "x-dirty-bitmap", "base:allocation"));
    c->tls = jread_bool_or(&r, "tls", false);
    c->reconnect_ns = read_seconds(&r, "reconnect-delay", e, &wrong);
    c->open_timeout_ns = read_seconds(&r, "open-timeout", e, &wrong);
    const char *creds = jread_str_or(&r, "tls-creds", NULL), *hostname = jread_str_or(&r, "tls-hostname", NULL);
    rc = jread_end_lax(&r);
    rc = rc ? rc : wrong;
    if (!rc && creds) {
        rc = read_creds(n, creds, c, e);
    }
    if (!rc && c->tls && !creds) {
        rc = err_set(e, EINVAL,
                     "TLS needs credentials: an object tls-creds-x509 or tls-creds-psk, named by 'tls-creds'");
    }
    if (!rc && strlen(c->export_name ? c->export_name : "") > 4096) {
        rc = err_set(e, EINVAL, "export name too long to send to server");
    }
    if (!rc && strlen(c->context) > 4096) {
        rc = err_set(e, EINVAL, "x-dirty-bitmap query too long to send to server");
    }
    return rc ? rc : check_hostname(c, hostname, e);
}

/* --- open and close --------------------------------------------------------------------------------------------- */

static void set_limits(struct node *n, const struct nbd_export *x)
{
    uint32_t min = x->min_block;
    if (!min) {
        min = x->has_context || x->size % SECTOR ? 1 : SECTOR;
    }
    uint32_t max = x->max_block ? MIN(x->max_block, MAX_PAYLOAD) : MAX_PAYLOAD;
    n->limits.request_align = min;
    n->limits.max_transfer = max;
    n->limits.max_zero = max;
    n->limits.max_discard = round_down(INT32_MAX, min);
    n->limits.opt_transfer = x->opt_block > min ? x->opt_block : 0;
}

/* What the export does not offer. */
static int check_export(struct node *n, struct err *e)
{
    const struct nbd_link *k = &((struct nbd_node *)n->priv)->link;
    const struct nbd_export *x = &k->export;
    bool other_context = strcmp(k->config.context, "base:allocation") != 0;
    if (other_context && !x->has_context) {
        return err_set(e, EINVAL, "requested x-dirty-bitmap '%s' not found", k->config.context);
    }
    if (x->read_only && !n->read_only) {
        if (!n->auto_read_only) {
            return err_set(e, EACCES, "Could not open image: Permission denied");
        }
        n->read_only = true;
    }
    if (x->min_block && !is_pow2(x->min_block)) {
        return err_set(e, EINVAL, "The NBD server's block size %u is not a power of two", x->min_block);
    }
    return 0;
}

static void set_filename(struct node *n)
{
    const struct nbd_config *c = &((struct nbd_node *)n->priv)->link.config;
    char *name = nbd_address_filename(&c->address, c->export_name, c->tls);
    g_free(n->filename);
    n->filename = name ? name : options_json_filename(n->options);
}

static int nbd_open(struct node *n, struct json_object *options, struct err *e)
{
    struct nbd_node *s = n->priv;
    struct nbd_config config = {0};
    int rc = read_config(n, options, &config, e);
    if (rc < 0) {
        nbd_config_finish(&config);
        return rc;
    }
    rc = nbd_link_open(&s->link, graph_loop(n->graph), &config, e);
    if (rc < 0) {
        return rc;
    }
    rc = check_export(n, e);
    if (rc < 0) {
        nbd_link_close(&s->link);
        return rc;
    }
    s->depths = !strcmp(s->link.config.context, "qemu:allocation-depth");
    s->ahead = g_array_new(false, false, sizeof(struct nbd_extent));
    n->size = s->link.export.size;
    set_limits(n, &s->link.export);
    set_filename(n);
    return 0;
}

static void nbd_set_patience(struct node *n, bool patient)
{
    nbd_link_set_patience(&((struct nbd_node *)n->priv)->link, patient);
}

static void nbd_close_node(struct node *n)
{
    struct nbd_node *s = n->priv;
    nbd_link_close(&s->link);
    g_array_free(s->ahead, true);
}

/* --- data ------------------------------------------------------------------------------------------------------- */

static void forget_ahead(struct nbd_node *s)
{
    g_array_set_size(s->ahead, 0);
    s->ahead_next = 0;
}

/* The library takes one buffer: the caller's if it is in one piece, else one to copy from or to. */
static void *flat_buffer(const struct iovs *v, size_t voff, uint64_t len, void **owned)
{
    struct iovec one;
    size_t got;
    *owned = NULL;
    if (iovs_window(v, voff, len, &one, 1, &got) == 1 && got == len) {
        return one.iov_base;
    }
    return *owned = calloc(1, len); /* zeroes: what a server leaves out must not be somebody else's memory */
}

static int nbd_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct nbd_node *s = n->priv;
    struct nbd_request r = {.op = NBD_OP_READ, .off = off, .len = len};
    if (!v) { /* a prefetch: the server may be able to get ready for what comes */
        r.op = NBD_OP_CACHE;
        return s->link.export.can_cache ? nbd_link_do(&s->link, &r) : 0;
    }
    void *owned;
    r.buf = flat_buffer(v, voff, len, &owned);
    int rc = r.buf ? nbd_link_do(&s->link, &r) : -ENOMEM;
    if (!rc && owned) {
        iovs_from_buf(v, voff, owned, len);
    }
    free(owned);
    return rc;
}

static int nbd_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct nbd_node *s = n->priv;
    struct nbd_request r = {.op = NBD_OP_WRITE, .off = off, .len = len};
    void *owned;
    r.flags = flags & REQ_FUA && !n->no_flush ? LIBNBD_CMD_FLAG_FUA : 0;
    r.buf = flat_buffer(v, voff, len, &owned);
    if (owned) {
        iovs_to_buf(v, voff, owned, len);
    }
    forget_ahead(s);
    int rc = r.buf ? nbd_link_do(&s->link, &r) : -ENOMEM;
    forget_ahead(s);
    free(owned);
    return rc;
}

static int nbd_zero_range(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct nbd_node *s = n->priv;
    struct nbd_request r = {.op = NBD_OP_ZERO, .off = off, .len = len};
    bool fast = flags & REQ_NO_FALLBACK;
    if (!s->link.export.can_zero || (fast && !s->link.export.can_fast_zero)) {
        return -ENOTSUP;
    }
    r.flags = (flags & REQ_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE) | (fast ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
    forget_ahead(s);
    int rc = nbd_link_do(&s->link, &r);
    forget_ahead(s);
    return rc;
}

static int nbd_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct nbd_node *s = n->priv;
    struct nbd_request r = {.op = NBD_OP_TRIM, .off = off, .len = len};
    if (!s->link.export.can_trim) {
        return -ENOTSUP;
    }
    forget_ahead(s);
    int rc = nbd_link_do(&s->link, &r);
    forget_ahead(s);
    return rc;
}

static int nbd_flush_export(struct node *n)
{
    struct nbd_node *s = n->priv;
    struct nbd_request r = {.op = NBD_OP_FLUSH};
    return s->link.export.can_flush ? nbd_link_do(&s->link, &r) : 0;
}

static bool nbd_supports_fua(struct node *n)
{
    return ((struct nbd_node *)n->priv)->link.export.can_fua;
}

/* --- extents ---------------------------------------------------------------------------------------------------- */

static unsigned extent_flags(const struct nbd_node *s, uint32_t flags)
{
    if (s->depths && flags > ZERO) {
        flags = ZERO;
    }
    unsigned x = EXT_OFFSET | (flags & HOLE ? 0 : EXT_DATA) | (flags & ZERO ? EXT_ZERO : 0);
    return x & (EXT_DATA | EXT_ZERO) ? x | EXT_ALLOCATED : x;
}

/* At most `len` bytes of the extent at `off`, if it came with the last reply. */
static bool take_ahead(struct nbd_node *s, uint64_t off, uint64_t len, struct nbd_extent *x)
{
    if (s->ahead_next >= s->ahead->len || off != s->ahead_off || loop_now_ns() >= s->ahead_until_ns) {
        return false;
    }
    struct nbd_extent *next = &g_array_index(s->ahead, struct nbd_extent, s->ahead_next);
    *x = (struct nbd_extent){min_u64(next->len, len), next->flags};
    next->len -= x->len;
    s->ahead_next += !next->len;
    s->ahead_off += x->len;
    return true;
}

/*
 * A server whose extents end within one of its blocks: what comes before that block stands; the block itself, when it
 * is the first, is taken as data.
 */
static void align_extents(GArray *list, uint32_t align)
{
    for (guint i = 0; i < list->len; i++) {
        struct nbd_extent *x = &g_array_index(list, struct nbd_extent, i);
        if (x->len % align == 0) {
            continue;
        }
        bool whole = x->len > align;
        if (whole) {
            x->len = round_down(x->len, align);
        } else if (i == 0) {
            *x = (struct nbd_extent){align, 0};
        }
        g_array_set_size(list, whole || i == 0 ? i + 1 : i);
        break;
    }
}

static int ask(struct node *n, uint64_t off, uint64_t len, struct nbd_extent *x)
{
    struct nbd_node *s = n->priv;
    uint32_t align = n->limits.request_align;
    uint64_t from = round_down(off, align), lead = off - from;
    uint64_t end = min_u64(round_up(min_u64(off + len, from + (1u << 31) - align), align), n->size);
    struct nbd_request r = {.op = NBD_OP_STATUS, .off = from, .len = end - from};
    r.extents = g_array_new(false, false, sizeof(struct nbd_extent));
    int rc = nbd_link_do(&s->link, &r);
    align_extents(r.extents, align);
    if (!rc && (!r.extents->len || g_array_index(r.extents, struct nbd_extent, 0).len <= lead)) {
        rc = -EIO; /* no answer: nobody would get on */
    }
    if (rc < 0) {
        g_array_free(r.extents, true);
        return rc;
    }
    g_array_index(r.extents, struct nbd_extent, 0).len -= lead;
    g_array_free(s->ahead, true);
    s->ahead = r.extents;
    s->ahead_next = 0;
    s->ahead_off = off;
    s->ahead_until_ns = loop_now_ns() + SECOND_NS;
    take_ahead(s, off, len, x);
    return 0;
}

static int nbd_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct nbd_node *s = n->priv;
    *out = (struct extent){.len = len, .flags = EXT_DATA | EXT_ALLOCATED | EXT_OFFSET, .offset = off, .file = n};
    struct nbd_extent x = {0};
    if (!s->link.has_context || !want_zero) {
        return 0;
    }
    int rc = take_ahead(s, off, len, &x) ? 0 : ask(n, off, len, &x);
    if (rc < 0) {
        return rc;
    }
    out->len = x.len;
    out->flags = extent_flags(s, x.flags);
    return 0;
}

/* --- size ------------------------------------------------------------------------------------------------------- */

static int nbd_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    if (prealloc != PREALLOC_OFF) {
        return err_set(e, ENOTSUP, "Unsupported preallocation mode '%s'", prealloc_names[prealloc]);
    }
    if (exact && size != n->size) {
        return err_set(e, ENOTSUP, "Cannot resize NBD nodes");
    }
    return size > n->size ? err_set(e, EINVAL, "Cannot grow NBD nodes") : 0;
}

/* Nothing of its own changes; what may be done with the export stays the server's business. */
static int nbd_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    const struct nbd_node *s = n->priv;
    if (s->link.export.read_only && !r->as.read_only) {
        if (!r->as.auto_read_only) {
            return err_set(e, EACCES, "Can't reopen read-only NBD mount as read/write");
        }
        r->as.read_only = true;
    }
    return 0;
}

static int nbd_create_image(struct block_graph *g, struct json_object *opts, struct err *e)
{
    return block_create_on_existing(g, &nbd_driver, opts, e);
}

static const char *const nbd_option_names[] = {
    "server",          "host",         "port", "path", "export", "tls", "tls-creds", "tls-hostname", "x-dirty-bitmap",
    "reconnect-delay", "open-timeout", NULL};
static const char *const nbd_reopen_names[] = {NULL};
static const char *const nbd_schemes[] = {"nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+tcp", "nbds+unix", NULL};

const struct block_driver nbd_driver = {
    .name = "nbd",
    .priv_size = sizeof(struct nbd_node),
    .is_protocol = true,
    .prefetches = true,
    .can_be_created = true,
    .option_names = nbd_option_names,
    .schemes = nbd_schemes,
    .parse_filename = nbd_parse_filename,
    .open = nbd_open,
    .close = nbd_close_node,
    .set_patience = nbd_set_patience,
    .reopen_names = nbd_reopen_names,
    .reopen_prepare = nbd_reopen_prepare,
    .create = nbd_create_image,
    .create_options = existing_create_options,
    .read = nbd_read,
    .write = nbd_write,
    .zero = nbd_zero_range,
    .discard = nbd_discard,
    .flush = nbd_flush_export,
    .status = nbd_status,
    .truncate = nbd_truncate,
    .supports_fua = nbd_supports_fua,
};
