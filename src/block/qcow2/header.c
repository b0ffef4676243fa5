/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <stdlib.h>

struct table {
    const char *what;
    uint64_t off, entries, size, max; /* size of an entry; max: bytes */
};

/* QEMU's limits and texts. */
static int table_ok(const struct q_header *h, const struct table *t, struct err *e)
{
    if (t->entries > t->max / t->size) {
        return err_set(e, EFBIG, "%s too large", t->what);
    }
    uint64_t mask = (UINT64_C(1) << h->cluster_bits) - 1;
    if (!range_ok(t->off, t->entries * t->size, INT64_MAX) || (t->off & mask)) {
        return err_set(e, EINVAL, "%s offset invalid", t->what);
    }
    return 0;
}

static void load_fields(struct q_header *h, const uint8_t *b)
{
    h->version = load_be32(b + 4);
    h->backing_offset = load_be64(b + 8);
    h->backing_size = load_be32(b + 16);
    h->cluster_bits = load_be32(b + 20);
    h->size = load_be64(b + 24);
    h->crypt_method = load_be32(b + 32);
    h->l1_size = load_be32(b + 36);
    h->l1_offset = load_be64(b + 40);
    h->reftable_offset = load_be64(b + 48);
    h->reftable_clusters = load_be32(b + 56);
    h->nb_snapshots = load_be32(b + 60);
    h->snapshots_offset = load_be64(b + 64);
    h->refcount_order = 4;
    h->length = QCOW2_V2_HEADER;
}

static int load_v3(struct q_header *h, const uint8_t *b, size_t len, struct err *e)
{
    if (len < QCOW2_V3_HEADER) {
        return err_set(e, EINVAL, "qcow2 header too short");
    }
    h->incompat = load_be64(b + 72);
    h->compat = load_be64(b + 80);
    h->autoclear = load_be64(b + 88);
    h->refcount_order = load_be32(b + 96);
    h->length = load_be32(b + 100);
    if (h->length < QCOW2_V3_HEADER) {
        return err_set(e, EINVAL, "qcow2 header too short");
    }
    if (h->length > UINT64_C(1) << h->cluster_bits) {
        return err_set(e, EINVAL, "qcow2 header exceeds cluster size");
    }
    if (h->length > 104 && len > 104) {
        h->compression = b[104];
    }
    if (h->refcount_order > 6) {
        return err_set(e, EINVAL, "Reference count entry width too large; may not exceed 64 bits");
    }
    return 0;
}

static int check_tables(const struct q_header *h, struct err *e)
{
    const struct table tables[] = {
        {"Reference count table", h->reftable_offset, h->reftable_clusters, UINT64_C(1) << h->cluster_bits,
         QCOW2_MAX_REFTABLE},
        {"Active L1 table", h->l1_offset, h->l1_size, 8, QCOW2_MAX_L1},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++) {
        int rc = table_ok(h, &tables[i], e);
        if (rc < 0) {
            return rc;
        }
    }
    unsigned l2_bits = h->cluster_bits - ((h->incompat & INC_EXTL2) ? 4 : 3);
    unsigned shift = h->cluster_bits + l2_bits;
    uint64_t need = (h->size >> shift) + ((h->size & ((UINT64_C(1) << shift) - 1)) != 0);
    if (h->size > INT64_MAX || need > INT32_MAX) {
        return err_set(e, EFBIG, "Image is too big");
    }
    if (h->l1_size < need) {
        return err_set(e, EINVAL, "L1 table is too small");
    }
    return 0;
}

int header_parse(struct q_header *h, const uint8_t *b, size_t len, struct err *e)
{
    *h = (struct q_header){0};
    if (len < 4 || load_be32(b) != QCOW2_MAGIC) {
        return err_set(e, EINVAL, "Image is not in qcow2 format");
    }
    if (len < QCOW2_V2_HEADER) {
        return err_set(e, EINVAL, "qcow2 header too short");
    }
    load_fields(h, b);
    if (h->version < 2 || h->version > 3) {
        return err_set(e, ENOTSUP, "Unsupported qcow2 version %" PRIu32, h->version);
    }
    if (h->cluster_bits < QCOW2_MIN_BITS || h->cluster_bits > QCOW2_MAX_BITS) {
        return err_set(e, EINVAL, "Unsupported cluster size: 2^%" PRIu32, h->cluster_bits);
    }
    int rc = h->version >= 3 ? load_v3(h, b, len, e) : 0;
    if (rc < 0) {
        return rc;
    }
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;
    if (h->backing_offset > cluster) {
        return err_set(e, EINVAL, "Invalid backing file offset");
    }
    if ((h->incompat & ~(uint64_t)INC_KNOWN) == 0) {
        if ((h->incompat & INC_EXTL2) && h->cluster_bits < 14) {
            return err_set(e, EINVAL,
                           "Clusters of 2^%" PRIu32 " bytes are too small for extended L2 entries; at least 2^14",
                           h->cluster_bits);
        }
        rc = check_tables(h, e);
    }
    return rc;
}

static char *text_dup(const uint8_t *data, uint32_t len)
{
    return g_strndup((const char *)data, len);
}

static int read_ext(struct qcow2 *s, uint32_t type, const uint8_t *data, uint32_t len, struct err *e)
{
    switch (type) {
    case EXT_BACKING_FORMAT:
        if (len > 63) {
            return err_set(e, EINVAL, "ERROR: ext_backing_format: len=%" PRIu32 " too large (>=%u)", len, 64u);
        }
        g_free(s->n->backing_format);
        s->n->backing_format = text_dup(data, len);
        return 0;
    case EXT_DATA_FILE:
        g_free(s->data_filename);
        s->data_filename = text_dup(data, len);
        return 0;
    case EXT_BITMAPS:
        return bitmaps_read_ext(s, data, len, e);
    case EXT_GAP:
        return 0;
    case EXT_CRYPTO: { /* kept like those that we do not know */
        int rc = qcow2_crypt_read_ext(s, data, len, e);
        if (rc < 0) {
            return rc;
        }
        break;
    }
    default:
        break;
    }
    struct q_ext x = {.type = type, .len = len, .data = g_memdup2(data, len)};
    g_array_append_val(s->exts, x);
    return 0;
}

int header_read_exts(struct qcow2 *s, const uint8_t *b, size_t len, struct err *e)
{
    uint64_t at = s->h.length, end = s->h.backing_offset ? s->h.backing_offset : s->cluster_size;
    unsigned known = s->h.version >= 3 ? 105 : QCOW2_V2_HEADER;
    if (s->h.length > known && s->h.length <= len) {
        s->header_tail = g_bytes_new(b + known, s->h.length - known);
    }
    end = min_u64(end, len);
    while (at + 8 <= end) {
        uint32_t type = load_be32(b + at), n = load_be32(b + at + 4);
        at += 8;
        if (n > end - at) {
            return err_set(e, EINVAL, "Header extension too large");
        }
        if (type == EXT_END) {
            return 0;
        }
        int rc = read_ext(s, type, b + at, n, e);
        if (rc < 0) {
            return rc;
        }
        at += round_up(n, 8);
    }
    return 0;
}

char *header_unknown_features(const struct qcow2 *s, uint64_t unknown)
{
    GString *t = g_string_new(NULL);
    for (unsigned i = 0; i < s->exts->len; i++) {
        const struct q_ext *x = &g_array_index(s->exts, struct q_ext, i);
        for (uint32_t at = 0; x->type == EXT_FEATURES && at + 2 < x->len; at += 48) {
            const uint8_t *f = x->data + at;
            if (f[0] == 0 && f[1] < 64 && (unknown & (UINT64_C(1) << f[1])) && f[2]) {
                CLEANUP_FREE char *raw = g_strndup((const char *)f + 2, MIN(46, x->len - at - 2));
                CLEANUP_FREE char *name = g_utf8_make_valid(raw, -1);
                g_string_append_printf(t, "%s%s", t->len ? ", " : "", name);
                unknown &= ~(UINT64_C(1) << f[1]);
            }
        }
    }
    if (unknown) {
        g_string_append_printf(t, "%sUnknown incompatible feature: %" PRIx64, t->len ? ", " : "", unknown);
    }
    return g_string_free(t, FALSE);
}

struct range {
    uint64_t from, to;
};

/* What the file's header needs behind the first sector until it is another. */
struct in_use {
    struct range list, name;
};

struct writer {
    uint8_t *b;
    size_t at, size;
    struct in_use old;
    uint64_t gap; /* what does not fit into the first sector goes on here; 0: behind it */
    bool full;
};

static void put(struct writer *w, const void *data, size_t len, size_t padded)
{
    if (w->full || padded > w->size - w->at) {
        w->full = true;
        return;
    }
    if (len) {
        memcpy(w->b + w->at, data, len);
    }
    memset(w->b + w->at + len, 0, padded - len);
    w->at += padded;
}

enum { SECTOR = 512, EXT_HEAD = 8 };

static void put_ext(struct writer *w, uint32_t type, const void *data, uint32_t len)
{
    uint8_t head[EXT_HEAD];
    bool last = w->at + EXT_HEAD + round_up(len, 8) + EXT_HEAD > SECTOR; /* no room for another's head */
    if (w->gap && last && type != EXT_END) {
        store_be32(head, EXT_GAP);
        store_be32(head + 4, w->gap - w->at - EXT_HEAD);
        w->full |= w->gap > w->size || w->at + EXT_HEAD > SECTOR;
        put(w, head, EXT_HEAD, EXT_HEAD);
        w->at = w->gap;
        w->gap = 0;
    }
    store_be32(head, type);
    store_be32(head + 4, len);
    put(w, head, EXT_HEAD, EXT_HEAD);
    put(w, data, len, round_up(len, 8));
}

enum { FEATURE_NAMES_ROOM = 4096 }; /* smaller clusters have better uses for it */

static void put_feature_names(struct writer *w)
{
    static const struct {
        uint8_t type, bit;
        char name[46];
    } names[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    _Static_assert(sizeof(names[0]) == 48, "feature name entry");
    put_ext(w, EXT_FEATURES, names, sizeof(names));
}

static void put_fields(const struct qcow2 *s, struct writer *w)
{
    const struct q_header *h = &s->h;
    uint8_t b[QCOW2_V3_HEADER + 8] = {0};
    store_be32(b, QCOW2_MAGIC);
    store_be32(b + 4, h->version);
    store_be32(b + 20, h->cluster_bits);
    store_be64(b + 24, h->size);
    store_be32(b + 32, h->crypt_method);
    store_be32(b + 36, h->l1_size);
    store_be64(b + 40, h->l1_offset);
    store_be64(b + 48, h->reftable_offset);
    store_be32(b + 56, h->reftable_clusters);
    store_be32(b + 60, h->nb_snapshots);
    store_be64(b + 64, h->snapshots_offset);
    if (h->version < 3) {
        put(w, b, QCOW2_V2_HEADER, QCOW2_V2_HEADER);
        return;
    }
    store_be64(b + 72, h->incompat);
    store_be64(b + 80, h->compat);
    store_be64(b + 88, h->autoclear);
    store_be32(b + 96, h->refcount_order);
    store_be32(b + 100, h->length);
    b[104] = h->compression;
    if (h->length <= QCOW2_V3_HEADER) {
        put(w, b, QCOW2_V3_HEADER, QCOW2_V3_HEADER);
    } else {
        gsize n = 0;
        const void *tail = s->header_tail ? g_bytes_get_data(s->header_tail, &n) : NULL;
        put(w, b, 105, 105);
        put(w, tail ? tail : b + 105, tail ? n : 0, h->length - 105);
    }
}

/* The first place from `from` on that none of them has. */
static uint64_t first_fit(const struct range *busy, unsigned n, uint64_t from, uint64_t len)
{
    for (unsigned i = 0; i < n; i++) {
        if (from < busy[i].to && from + len > busy[i].from && busy[i].from < busy[i].to) {
            return first_fit(busy, n, busy[i].to, len);
        }
    }
    return from;
}

/* Behind the list, as it must be, and clear of what the file has there, if there is room. */
static void put_name(const char *name, struct writer *w)
{
    size_t n = strlen(name);
    const struct range busy[] = {w->old.list, w->old.name};
    uint64_t at = first_fit(busy, G_N_ELEMENTS(busy), w->at, n);
    if (at + n <= w->size) {
        w->at = at;
    }
    store_be64(w->b + 8, w->at);
    store_be32(w->b + 16, n);
    put(w, name, n, n);
}

/* w: at the beginning. Returns the length or -ENOSPC. */
static int64_t encode(const struct qcow2 *s, struct writer w, bool names)
{
    bool have_names = false;
    put_fields(s, &w);
    if (s->n->backing_format) {
        put_ext(&w, EXT_BACKING_FORMAT, s->n->backing_format, strlen(s->n->backing_format));
    }
    if (s->has_data_file && s->data_filename) {
        put_ext(&w, EXT_DATA_FILE, s->data_filename, strlen(s->data_filename));
    }
    for (unsigned i = 0; i < s->exts->len; i++) {
        const struct q_ext *x = &g_array_index(s->exts, struct q_ext, i);
        have_names |= x->type == EXT_FEATURES;
        if (x->type != EXT_FEATURES || (names && s->h.version >= 3)) {
            put_ext(&w, x->type, x->data, x->len);
        }
    }
    if (s->h.version >= 3 && !have_names && names && w.size >= FEATURE_NAMES_ROOM) {
        put_feature_names(&w);
    }
    if (s->n_bitmaps) {
        uint8_t x[24] = {0};
        store_be32(x, s->n_bitmaps);
        store_be64(x + 8, s->bitmap_dir_len);
        store_be64(x + 16, s->bitmap_dir);
        put_ext(&w, EXT_BITMAPS, x, sizeof(x));
    }
    put_ext(&w, EXT_END, "", 0);
    if (s->n->backing_filename && !w.full) {
        put_name(s->n->backing_filename, &w);
    }
    return w.full ? -ENOSPC : (int64_t)w.at;
}

static int64_t encode_any(const struct qcow2 *s, const struct writer *w)
{
    int64_t n = encode(s, *w, true);
    return n == -ENOSPC ? encode(s, *w, false) : n; /* nothing depends on the names of features */
}

int64_t header_encode(const struct qcow2 *s, uint8_t *buf, size_t size)
{
    return encode_any(s, &(struct writer){.b = buf, .size = size});
}

/* --- writing it again ---------------------------------------------------------------------------------------------
 */

/*
 * A sector is written whole or not at all, the first cluster is not. So what lies behind the first sector is written
 * first, where the file's own list and name of the backing file, which hold until then, do not need it; then the first
 * sector, which changes all at once. Where the new list needs the place of the old one, it is written twice: behind it,
 * with an extension that spans the gap, and then to where it belongs.
 */

static uint64_t behind_sector(uint64_t at, uint64_t size)
{
    return min_u64(max_u64(at, SECTOR), size);
}

static struct in_use in_use_of(const uint8_t *b, uint64_t size)
{
    uint64_t at = load_be32(b + 4) < 3 ? QCOW2_V2_HEADER : load_be32(b + 100), from = 0, name = load_be64(b + 8);
    for (uint32_t type; at + EXT_HEAD <= size && (type = load_be32(b + at)) != EXT_END;) {
        at += EXT_HEAD + round_up(load_be32(b + at + 4), 8);
        from = type == EXT_GAP ? at : from;
    }
    return (struct in_use){
        .list = {behind_sector(from, size), behind_sector(at + EXT_HEAD, size)},
        .name = {behind_sector(name, size), behind_sector(name + load_be32(b + 16), size)},
    };
}

static bool differ(const uint8_t *a, const uint8_t *b, const struct range *r)
{
    return r->from < r->to && memcmp(a + r->from, b + r->from, r->to - r->from);
}

static int encode_over(const struct qcow2 *s, const uint8_t *old, uint8_t *b, uint64_t gap)
{
    struct writer w = {.b = b, .size = s->cluster_size, .old = in_use_of(old, s->cluster_size), .gap = gap};
    memset(b, 0, SECTOR);
    memcpy(b + SECTOR, old + SECTOR, s->cluster_size - SECTOR);
    int64_t n = encode_any(s, &w);
    return n < 0 ? (int)n : 0;
}

static int write_sectors(struct qcow2 *s, const uint8_t *old, const uint8_t *b)
{
    uint64_t last = s->cluster_size;
    int rc = 0;
    while (last > SECTOR && old[last - 1] == b[last - 1]) {
        last--;
    }
    if (last > SECTOR) {
        rc = file_write_buf(s, SECTOR, round_up(last, SECTOR) - SECTOR, b + SECTOR);
        rc = rc < 0 ? rc : qcow2_barrier(s);
    }
    rc = rc < 0 ? rc : file_write_buf(s, 0, SECTOR, b);
    return rc < 0 ? rc : qcow2_barrier(s);
}

/* The file gets the same clear of what `old` and `b`, as it is to be, take; then these are made anew. Where there is no
 * room for both, clusters are small and names very long, nothing is done. */
static int step_aside(struct qcow2 *s, uint8_t *old, uint8_t *b)
{
    uint64_t size = s->cluster_size;
    struct in_use o = in_use_of(old, size), n = in_use_of(b, size);
    const struct range busy[] = {o.list, o.name, n.list};
    int rc = encode_over(s, old, b, round_up(first_fit(busy, G_N_ELEMENTS(busy), SECTOR, n.list.to), 8));
    if (rc == 0) {
        rc = write_sectors(s, old, b);
        if (rc < 0) {
            return rc;
        }
        memcpy(old, b, size);
    }
    return encode_over(s, old, b, 0);
}

int header_rewrite(struct qcow2 *s)
{
    CLEANUP_FREE uint8_t *b = g_try_malloc0(s->cluster_size), *old = g_try_malloc(s->cluster_size);
    int rc = b && old ? meta_check(s, 0, s->cluster_size, META_HEADER) : -ENOMEM;
    rc = rc < 0 ? rc : file_read_buf(s->file, 0, s->cluster_size, old);
    rc = rc < 0 ? rc : encode_over(s, old, b, 0);
    if (rc < 0) {
        return rc;
    }
    struct in_use o = in_use_of(old, s->cluster_size);
    rc = differ(old, b, &o.list) || differ(old, b, &o.name) ? step_aside(s, old, b) : 0;
    rc = rc < 0 ? rc : write_sectors(s, old, b);
    s->unsure = s->unsure_all = rc < 0;
    if (rc == 0) {
        s->h.backing_offset = load_be64(b + 8);
        s->h.backing_size = load_be32(b + 16);
    }
    return rc;
}

/* Nobody else may change what it says meanwhile. */
int header_write(struct qcow2 *s)
{
    co_lock(&s->lock);
    co_lock(&s->wb_lock);
    int rc = header_rewrite(s);
    co_unlock(&s->wb_lock);
    co_unlock(&s->lock);
    return rc;
}

int header_put64(struct qcow2 *s, unsigned at, uint64_t value)
{
    uint8_t b[8];
    store_be64(b, value);
    return file_write_buf(s, at, sizeof(b), b);
}

int header_put32(struct qcow2 *s, unsigned at, uint32_t value)
{
    uint8_t b[4];
    store_be32(b, value);
    return file_write_buf(s, at, sizeof(b), b);
}

int header_switch(struct qcow2 *s, const struct q_header *h, bool *written)
{
    enum { FROM = 24 };
    uint8_t b[72];
    store_be64(b + 24, h->size);
    store_be32(b + 32, h->crypt_method);
    store_be32(b + 36, h->l1_size);
    store_be64(b + 40, h->l1_offset);
    store_be64(b + 48, h->reftable_offset);
    store_be32(b + 56, h->reftable_clusters);
    store_be32(b + 60, h->nb_snapshots);
    store_be64(b + 64, h->snapshots_offset);
    int rc = file_write_buf(s, FROM, sizeof(b) - FROM, b + FROM);
    *written = rc == 0;
    rc = rc < 0 ? rc : qcow2_barrier(s);
    s->unsure = rc < 0; /* not before: others would settle it */
    return rc;
}

int header_set_incompat(struct qcow2 *s, uint64_t value)
{
    if (s->h.version < 3) {
        return -ENOTSUP;
    }
    int rc = header_put64(s, 72, value);
    if (rc == 0) {
        rc = edge_flush(s->file);
    }
    if (rc == 0) {
        s->h.incompat = value;
    }
    return rc;
}
