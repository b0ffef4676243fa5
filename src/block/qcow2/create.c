/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/dirty.h"
#include "block/newfile.h"
#include "block/options.h"

#include <inttypes.h>
#include <stdlib.h>

const struct create_option qcow2_create_options[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"cluster_size", "size", "qcow2 cluster size"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"compression_type", "str", "Compression method used for image cluster compression"},
    {"copy_on_read", "bool (on/off)", "Ask whoever opens the image to copy what is read from the base image", true},
    {"data_file", "str", "File name of an external data file"},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"},
    {"encrypt.cipher-alg", "str", "Name of encryption cipher algorithm"},
    {"encrypt.cipher-mode", "str", "Name of encryption cipher mode"},
    {"encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'"},
    {"encrypt.hash-alg", "str", "Name of encryption hash algorithm"},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"encrypt.ivgen-alg", "str", "Name of IV generator algorithm"},
    {"encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm"},
    {"encrypt.key-secret", "str", "ID of secret providing qcow AES key or LUKS passphrase"},
    {"encryption", "bool (on/off)", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"},
    {"extended_l2", "bool (on/off)", "Extended L2 tables"},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"refcount_bits", "num", "Width of a reference count entry in bits"},
    {"size", "size", "Virtual disk size"},
    {NULL, NULL, NULL},
};

struct plan {
    uint64_t size, cluster_size;
    const char *backing_file, *backing_fmt;
    struct json_object *file, *data_file;
    bool have_size, data_raw, extl2, lazy, hint;
    int version, prealloc, compression;
    int64_t refcount_bits;
    struct q_crypt_create crypt;
};

/* Command-line spelling becomes QAPI's. */
struct json_object *qcow2_normalise(struct json_object *opts, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_foreach(opts, key, value)
    {
        CLEANUP_FREE char *k = g_strdelimit(g_strdup(key), "_", '-');
        json_object_object_add(o, k, json_object_get(value));
    }
    return options_expand(o, e);
}

static int read_version(struct jread *r, int *version, struct err *e)
{
    const char *compat = jread_str_or(r, "compat", NULL), *v = jread_str_or(r, "version", NULL);
    const char *t = v ? v : compat;
    *version = 3;
    if (!t || !strcmp(t, "v3") || !strcmp(t, "1.1")) {
        return 0;
    }
    if (!strcmp(t, "v2") || !strcmp(t, "0.10")) {
        *version = 2;
        return 0;
    }
    return err_set(e, EINVAL, "Invalid compatibility level: '%s' (v2 or 0.10, v3 or 1.1)", t);
}

static int plan_read(struct block_graph *g, struct json_object *o, struct plan *p, struct err *e)
{
    static const char *const compressions[] = {"zlib", "zstd", NULL};
    struct jread r = jread_init(o, NULL, e);
    p->have_size = jread_has(&r, "size");
    p->size = jread_size_or(&r, "size", 0);
    p->cluster_size = jread_size_or(&r, "cluster-size", 64 << 10);
    p->backing_file = jread_str_or(&r, "backing-file", NULL);
    p->backing_fmt = jread_str_or(&r, "backing-fmt", NULL);
    p->file = jread_any(&r, "file");
    p->data_file = jread_any(&r, "data-file");
    p->data_raw = jread_bool_or(&r, "data-file-raw", false);
    p->extl2 = jread_bool_or(&r, "extended-l2", false);
    p->lazy = jread_bool_or(&r, "lazy-refcounts", false);
    p->hint = jread_bool_or(&r, "copy-on-read", false);
    p->prealloc = jread_enum_or(&r, "preallocation", prealloc_names, PREALLOC_OFF);
    p->compression = jread_enum_or(&r, "compression-type", compressions, COMPRESS_ZLIB);
    p->refcount_bits = jread_int_or(&r, "refcount-bits", 16);
    int rc = read_version(&r, &p->version, e);
    bool legacy = jread_bool_or(&r, "encryption", false);
    struct json_object *encrypt = jread_any(&r, "encrypt");
    rc = rc < 0 || r.rc < 0 ? rc : qcow2_crypt_create_read(g, encrypt, legacy, &p->crypt, e);
    if (rc < 0) {
        jread_end_lax(&r);
        return rc;
    }
    return jread_end(&r);
}

static int check_l1(const struct plan *p, uint64_t size, struct err *e)
{
    uint64_t clusters = (size >> log2_floor(p->cluster_size)) + ((size & (p->cluster_size - 1)) != 0);
    if (div_round_up(clusters, p->cluster_size / (p->extl2 ? 16 : 8)) > QCOW2_MAX_L1 / 8) {
        return err_set(e, EFBIG, "The image size is too large (try using a larger cluster size)");
    }
    return 0;
}

static int plan_check(struct plan *p, struct err *e)
{
    const char *v3 = "compatibility level 1.1 and above (use version=v3 or greater)";
    if (!is_pow2(p->cluster_size) || p->cluster_size < 512 || p->cluster_size > 2 << 20) {
        return err_set(e, EINVAL, "Cluster size must be a power of two between %d and %dk", 512, 2048);
    }
    if (p->extl2 && p->version < 3) {
        return err_set(e, EINVAL, "Extended L2 entries are only supported with %s", v3);
    }
    if (p->extl2 && p->cluster_size < 16384) {
        return err_set(e, EINVAL, "Extended L2 entries are only supported with cluster sizes of at least %u bytes",
                       16384);
    }
    if (p->refcount_bits < 1 || p->refcount_bits > 64 || !is_pow2(p->refcount_bits)) {
        return err_set(e, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits");
    }
    if (p->version < 3 && p->refcount_bits != 16) {
        return err_set(e, EINVAL,
                       "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
                       "version=v3 or greater)");
    }
    if (p->lazy && p->version < 3) {
        return err_set(e, EINVAL, "Lazy refcounts only supported with %s", v3);
    }
    if (p->hint && p->version < 3) {
        return err_set(e, EINVAL, "The copy-on-read hint is only supported with %s", v3);
    }
    if (p->data_file && p->version < 3) {
        return err_set(e, EINVAL, "External data files are only supported with %s", v3);
    }
    if (p->compression != COMPRESS_ZLIB && p->version < 3) {
        return err_set(e, EINVAL, "Non-zlib compression type is only supported with %s", v3);
    }
    if (p->data_raw && !p->data_file) {
        return err_set(e, EINVAL, "data-file-raw requires data-file");
    }
    if (p->data_raw && p->backing_file) {
        return err_set(e, EINVAL, "Backing file and data-file-raw cannot be used at the same time");
    }
    if (p->backing_fmt && !p->backing_file) {
        return err_set(e, EINVAL, "Backing format cannot be used without backing file");
    }
    if (p->backing_file && p->prealloc != PREALLOC_OFF && !p->extl2) {
        return err_set(e, EINVAL,
                       "Backing file and preallocation can only be used at the same time if extended_l2 is on");
    }
    if (p->backing_file && strlen(p->backing_file) > 1023) {
        return err_set(e, EINVAL, "Backing file name too long");
    }
    if (p->size > INT64_MAX - 512) {
        return err_set(e, EFBIG, "The image size is too large (try using a larger cluster size)");
    }
    p->size = round_up(p->size, 512);
    return 0;
}

/* Header, a refcount table of one cluster, and the block that counts these three. */
static int write_seed(struct edge *file, const struct plan *p, const char *data_name)
{
    struct node fake = {.graph = file->child->graph};
    struct edge *f = file;
    struct qcow2 s = {.n = &fake, .file = f, .data = f, .cluster_size = p->cluster_size};
    s.cluster_bits = log2_floor(p->cluster_size);
    s.exts = g_array_new(FALSE, FALSE, sizeof(struct q_ext));
    s.has_data_file = p->data_file != NULL;
    s.data_filename = (char *)(uintptr_t)data_name;
    s.h = (struct q_header){.version = p->version,
                            .cluster_bits = s.cluster_bits,
                            .reftable_offset = p->cluster_size,
                            .reftable_clusters = 1,
                            .refcount_order = log2_floor(p->refcount_bits),
                            .length = p->version < 3 ? QCOW2_V2_HEADER : QCOW2_V3_HEADER + 8,
                            .compression = p->compression};
    s.h.incompat =
        (p->data_file ? INC_DATA_FILE : 0) | (p->extl2 ? INC_EXTL2 : 0) | (p->compression ? INC_COMPRESSION : 0);
    s.no_ahead = true;
    s.h.compat = (p->lazy ? COMPAT_LAZY : 0) | (p->hint ? COMPAT_COPY_ON_READ : 0);
    s.h.autoclear = p->data_raw ? AUTOCLEAR_RAW : 0;
    uint8_t *b = g_try_malloc0(3 * p->cluster_size);
    int64_t n = b ? header_encode(&s, b, p->cluster_size) : -ENOMEM;
    int rc = n < 0 ? (int)n : 0;
    if (rc == 0) {
        store_be64(b + p->cluster_size, 2 * p->cluster_size);
        for (unsigned i = 0; i < 3; i++) {
            refcount_store(&s, b + 2 * p->cluster_size, i, 1);
        }
        rc = file_write_buf(&s, 0, 3 * p->cluster_size, b);
    }
    g_free(b);
    g_array_free(s.exts, TRUE);
    return rc;
}

static int backing_size(struct block_graph *g, const char *image, struct plan *p, struct err *e)
{
    CLEANUP_FREE char *path = path_combine(image, p->backing_file);
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "read-only", json_object_new_boolean(true));
    if (p->backing_fmt) {
        json_object_object_add(o, "driver", json_object_new_string(p->backing_fmt));
    }
    struct node *n;
    int rc = node_open_filename(g, path, o, &n, e);
    if (rc < 0) {
        return err_wrap(e, "Could not open backing file to get its size");
    }
    p->size = n->size;
    node_unref(n);
    return 0;
}

/* The image exists, empty: the rest is done by the driver itself. */
static int fill(struct block_graph *g, struct node *file, struct node *data, struct plan *p, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "file", json_object_new_string(file->name));
    json_object_object_add(o, "backing", NULL);
    json_object_object_add(o, "read-only", json_object_new_boolean(false));
    json_object_object_add(o, "active", json_object_new_boolean(true)); /* as its file: newfile_open() */
    if (data) {
        json_object_object_add(o, "data-file", json_object_new_string(data->name));
    }
    struct node *n;
    struct edge *ed = NULL;
    int rc = node_open(g, o, &n, e);
    if (rc < 0) {
        return rc;
    }
    rc = qcow2_crypt_create(n->priv, &p->crypt, e);
    if (rc == 0 && p->backing_file) {
        rc = qcow2_change_backing(n, p->backing_file, p->backing_fmt, e);
    }
    rc = rc < 0 ? rc : edge_open(n, &(struct edge_spec){"create", PERM_WRITE | PERM_RESIZE, PERM_ALL}, &ed, e);
    rc = rc < 0 ? rc : edge_truncate(ed, p->size, true, p->prealloc, e);
    int rc2 = rc < 0 ? 0 : edge_flush(ed);
    edge_close(ed);
    node_unref(n);
    return rc < 0 ? rc : rc2 < 0 ? err_set_errno(e, -rc2, "Could not write the new image") : 0;
}

static int create_on(struct block_graph *g, struct node *file, struct node *data, struct plan *p, struct err *e)
{
    struct edge *ed;
    if (!p->have_size && p->backing_file) {
        int rc = backing_size(g, file->filename, p, e);
        if (rc < 0) {
            return rc;
        }
    } else if (!p->have_size) {
        return err_set(e, EINVAL, "Parameter 'size' is missing");
    }
    int rc = check_l1(p, p->size, e);
    rc = rc < 0
             ? rc
             : edge_open(file, &(struct edge_spec){"create", PERM_READ | PERM_WRITE | PERM_RESIZE, PERM_ALL}, &ed, e);
    if (rc < 0) {
        return rc;
    }
    (void)edge_truncate(ed, 0, false, PREALLOC_OFF, NULL); /* a device keeps its size */
    rc = write_seed(ed, p, data ? data->filename : NULL);
    edge_close(ed);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not write qcow2 header of '%s'", file->filename);
    }
    return fill(g, file, data, p, e);
}

int qcow2_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    CLEANUP_JSON struct json_object *o = qcow2_normalise(opts, e);
    struct plan p = {0};
    struct node *file = NULL, *data = NULL;
    int rc = o ? plan_read(g, o, &p, e) : -EINVAL;
    rc = rc < 0 || p.file ? rc : err_set(e, EINVAL, "Parameter 'file' is missing");
    rc = rc < 0 ? rc : plan_check(&p, e);
    rc = rc < 0 ? rc : newfile_open(g, p.file, &file, e);
    if (rc == 0 && p.data_file) {
        rc = newfile_open(g, p.data_file, &data, e);
    }
    rc = rc < 0 ? rc : create_on(g, file, data, &p, e);
    node_unref(data);
    node_unref(file);
    return rc;
}

/* --- how large it will be ----------------------------------------------------------------------------------------- */

/* Bytes of clusters that the source's data will fill. */
static int data_size(struct node *source, uint64_t cluster, uint64_t *out)
{
    struct hollow_layers hollow = {0};
    *out = 0;
    for (uint64_t off = 0, len; off < source->size; off += len) {
        struct extent x;
        struct node *n = node_skip_filters(source);
        int depth, rc = node_status_above(source, NULL, off, source->size - off, &x, &depth);
        for (int i = 0; rc == 0 && i < depth && n; i++) {
            n = node_backing(n);
        }
        rc = rc < 0 || !n ? rc : node_status_holes(n, depth, &hollow, &x);
        if (rc < 0) {
            return rc;
        }
        len = x.len;
        if (!(x.flags & EXT_ZERO)) { /* to the end of the last cluster, which then is done with */
            uint64_t end = round_up(off + len, cluster);
            *out += end - round_down(off, cluster);
            len = end - off;
        }
    }
    return 0;
}

/* The clusters that count `clusters` others and themselves. */
static uint64_t refcount_clusters(uint64_t clusters, uint64_t cluster, unsigned bits)
{
    uint64_t per_block = cluster * 8 / bits, per_table = cluster / 8, blocks = 0, tables = 0;
    for (uint64_t last = UINT64_MAX; last != blocks + tables;) {
        last = blocks + tables;
        blocks = div_round_up(clusters + blocks + tables, per_block);
        tables = div_round_up(blocks, per_table);
    }
    return blocks + tables;
}

/* The file with every cluster allocated; QEMU docs/interop/qcow2.txt, "Host cluster management". */
static uint64_t full_size(const struct plan *p, uint64_t size)
{
    uint64_t cluster = p->cluster_size, l2_tables = div_round_up(size / cluster, cluster / (p->extl2 ? 16 : 8));
    uint64_t l1 = round_up(l2_tables * 8, cluster), bytes = cluster + l2_tables * cluster + l1 + size;
    bytes += refcount_clusters(bytes / cluster, cluster, (unsigned)p->refcount_bits) * cluster;
    return bytes + round_up(qcow2_crypt_header_len(&p->crypt), cluster);
}

int qcow2_measure(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *r,
                  struct err *e)
{
    CLEANUP_JSON struct json_object *o = qcow2_normalise(opts, e);
    struct plan p = {0};
    int rc = o ? plan_read(g, o, &p, e) : -EINVAL;
    if (rc == 0 && p.version < 3 && p.refcount_bits != 16) {
        return err_set(e, EINVAL,
                       "Different refcount widths than 16 bits require compatibility level 1.1 or above (use "
                       "compat=1.1 or greater)");
    }
    rc = rc < 0 ? rc : plan_check(&p, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t size = source ? source->size : p.size, cluster = p.cluster_size, data = 0;
    bool all = p.prealloc == PREALLOC_FULL || p.prealloc == PREALLOC_FALLOC;
    all |= source && p.backing_file; /* how much the backing file will spare is not known */
    uint64_t aligned = size <= INT64_MAX - cluster ? round_up(size, cluster) : INT64_MAX;
    rc = check_l1(&p, aligned, e);
    if (rc < 0) {
        return rc;
    }
    rc = source && !p.backing_file ? data_size(source, cluster, &data) : 0;
    if (rc < 0) {
        return err_set_errno(e, -rc, "Unable to get block status");
    }
    r->fully_allocated = full_size(&p, aligned);
    r->required = r->fully_allocated - aligned + (all ? aligned : min_u64(data, aligned));
    r->has_bitmaps = p.version >= 3 && source && node_keeps_bitmaps(source);
    r->bitmaps = r->has_bitmaps ? bitmaps_measure(source, cluster) : 0;
    return 0;
}
