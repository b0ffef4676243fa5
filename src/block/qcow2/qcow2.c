/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening, closing, and what an image says about itself. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/qcow2/bitmap.h"
#include "block/qcow2/snapshots.h"

#include <inttypes.h>
#include <stdlib.h>

#define CACHE_MAX (UINT64_C(32) << 20)

static int qcow2_probe(const uint8_t *buf, size_t len, const char *filename, struct err *e)
{
    bool magic = len >= 8 && load_be32(buf) == QCOW2_MAGIC && load_be32(buf + 4) >= 2;
    return magic ? PROBE_YES : PROBE_NO;
}

/* --- options ------------------------------------------------------------------------------------------------------ */

struct sizes {
    uint64_t total, l2, l2_entry, rb;
    bool all_given;
};

static int cache_sizes(struct qcow2 *s, const struct sizes *z, struct err *e)
{
    uint64_t slice = z->l2_entry ? z->l2_entry : min_u64(s->cluster_size, 64 << 10);
    if (slice < 512 || slice > s->cluster_size || !is_pow2(slice)) {
        return err_set(e, EINVAL,
                       "L2 cache entry size must be a power of two between 512 and the cluster size (%" PRIu64 ")",
                       s->cluster_size);
    }
    uint64_t tables = q_clusters(s, s->h.size), need = (tables >> s->l2_bits) + 1;
    need = max_u64(need * s->cluster_size, 4 * slice);
    uint64_t l2 = z->l2 ? z->l2 : min_u64(need, CACHE_MAX), rb = z->rb ? z->rb : 4 * s->cluster_size;
    if (!z->rb) {
        rb = max_u64(rb, 256 << 10);
    }
    if (z->total || z->all_given) {
        if (z->all_given) {
            return err_set(e, EINVAL,
                           "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
        }
        if (z->l2 > z->total || z->rb > z->total) {
            return err_set(e, EINVAL, "%s may not exceed cache-size",
                           z->l2 > z->total ? "l2-cache-size" : "refcount-cache-size");
        }
        l2 = z->l2 ? z->l2 : z->total - min_u64(z->total, z->rb ? z->rb : min_u64(rb, z->total / 4));
        rb = z->rb ? z->rb : z->total - l2;
    }
    s->slice_bits = log2_floor(slice / s->l2e_size);
    cache_init(&s->l2, s->file, slice, max_u64(min_u64(l2 / slice, UINT32_MAX), 4), "l2_load");
    cache_init(&s->rb, s->file, s->cluster_size, max_u64(min_u64(rb >> s->cluster_bits, UINT32_MAX), 4),
               "refblock_load");
    return 0;
}

static const char *const overlap_templates[] = {"none", "constant", "cached", "all", NULL};
static const struct {
    const char *name;
    unsigned bit, level; /* on from this template upwards */
} overlap_kinds[] = {
    {"main-header", META_HEADER, 1},
    {"active-l1", META_L1, 1},
    {"active-l2", META_L2, 2},
    {"refcount-table", META_REFTABLE, 1},
    {"refcount-block", META_REFBLOCK, 2},
    {"snapshot-table", META_SNAPSHOTS, 1},
    {"inactive-l1", META_INACTIVE_L1, 2},
    {"inactive-l2", META_INACTIVE_L2, 3},
    {"bitmap-directory", META_BITMAPS, 1},
};

static int read_overlap(struct qcow2 *s, struct json_object *v, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    if (json_object_is_type(v, json_type_string)) {
        json_object_object_add(o, "template", json_object_get(v));
        v = o;
    }
    struct jread r = jread_init(v ? v : o, "overlap-check", e);
    const char *name = jread_str_or(&r, "template", "cached");
    unsigned level = 0;
    while (overlap_templates[level] && strcmp(overlap_templates[level], name)) {
        level++;
    }
    if (!overlap_templates[level]) {
        jread_end_lax(&r);
        return err_set(e, EINVAL,
                       "Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any of the following: "
                       "none, constant, cached, all",
                       name);
    }
    s->overlap = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(overlap_kinds); i++) {
        if (jread_bool_or(&r, overlap_kinds[i].name, level >= overlap_kinds[i].level)) {
            s->overlap |= overlap_kinds[i].bit;
        }
    }
    return jread_end(&r);
}

static const char *const option_names[] = {
    "data-file",
    "encrypt",
    "for-check",
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
    NULL,
};

static const char *const strong_options[] = {"encrypt.key-secret", NULL};

int qcow2_read_options(struct qcow2 *s, struct json_object *options, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    struct sizes z = {
        jread_size_or(&r, "cache-size", 0),
        jread_size_or(&r, "l2-cache-size", 0),
        jread_size_or(&r, "l2-cache-entry-size", 0),
        jread_size_or(&r, "refcount-cache-size", 0),
        jread_has(&r, "cache-size") && jread_has(&r, "l2-cache-size") && jread_has(&r, "refcount-cache-size"),
    };
    bool lazy = s->h.compat & COMPAT_LAZY, lazy_given = jread_has(&r, "lazy-refcounts");
    s->lazy = jread_bool_or(&r, "lazy-refcounts", lazy);
    s->discard[FREE_REQUEST] = jread_bool_or(&r, "pass-discard-request", s->n->discard_unmap);
    s->discard[FREE_SNAPSHOT] = jread_bool_or(&r, "pass-discard-snapshot", true);
    s->discard[FREE_OTHER] = jread_bool_or(&r, "pass-discard-other", false);
    s->discard_no_unref = jread_bool_or(&r, "discard-no-unref", false);
    int64_t seconds = jread_int_or(&r, "cache-clean-interval", 600);
    struct json_object *overlap = jread_any(&r, "overlap-check");
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (s->lazy && lazy_given && s->h.version < 3) {
        return err_set(e, EINVAL, "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
    }
    if (s->discard_no_unref && s->h.version < 3) {
        return err_set(e, EINVAL, "discard-no-unref is only supported since qcow2 version 3");
    }
    if (seconds < 0 || seconds > UINT32_MAX) {
        return err_set(e, EINVAL, "Cache clean interval too big");
    }
    s->clean_interval = (uint64_t)seconds * UINT64_C(1000000000);
    rc = read_overlap(s, overlap, e);
    return rc < 0 ? rc : cache_sizes(s, &z, e);
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

static void clean_caches(void *opaque)
{
    struct qcow2 *s = opaque;
    cache_drop_unused(&s->l2);
    cache_drop_unused(&s->rb);
    timer_arm(&s->clean_timer, loop_now_ns() + s->clean_interval);
}

void qcow2_arm_cleaning(struct qcow2 *s)
{
    if (s->clean_timer.loop) {
        timer_cancel(&s->clean_timer);
    }
    if (s->clean_interval) {
        timer_init(&s->clean_timer, graph_loop(s->n->graph), clean_caches, s);
        timer_arm(&s->clean_timer, loop_now_ns() + s->clean_interval);
    }
}

static void qcow2_finish(struct qcow2 *s)
{
    if (s->clean_timer.loop) {
        timer_cancel(&s->clean_timer);
    }
    cache_finish(&s->l2);
    cache_finish(&s->rb);
    for (unsigned i = 0; s->exts && i < s->exts->len; i++) {
        g_free(g_array_index(s->exts, struct q_ext, i).data);
    }
    if (s->exts) {
        g_array_free(take(s->exts), TRUE);
    }
    bitmaps_forget(s);
    g_clear_pointer(&s->header_tail, g_bytes_unref);
    g_clear_pointer(&s->data_filename, g_free);
    qcow2_crypt_finish(s);
    g_clear_pointer(&s->l1, g_free);
    g_clear_pointer(&s->reftable, g_free);
    g_clear_pointer(&s->snapshots, g_ptr_array_unref);
    bitmap_destroy(take(s->l1_dirty));
    bitmap_destroy(take(s->rt_dirty));
    g_clear_pointer(&s->meta, g_hash_table_destroy);
    g_queue_clear_full(&s->freed, g_free);
    compress_finish(s);
}

static int load_table(struct qcow2 *s, uint64_t off, uint64_t n, uint64_t **out)
{
    uint64_t *t = g_try_malloc0_n(n + 1, 8);
    if (!t) {
        return -ENOMEM;
    }
    int rc = file_read_buf(s->file, off, n * 8, t);
    for (uint64_t i = 0; i < n; i++) {
        t[i] = load_be64(&t[i]);
    }
    g_free(*out);
    *out = t;
    return rc;
}

/* A table that the file is far too short for would be memory for nothing. */
static int load_tables(struct qcow2 *s, struct err *e)
{
    s->rt_size = s->h.reftable_clusters << (s->cluster_bits - 3);
    s->rt_offset = s->h.reftable_offset;
    s->rt_moved = false;
    int rc = load_table(s, s->h.l1_offset, s->h.l1_size, &s->l1);
    rc = rc < 0 ? rc : load_table(s, s->h.reftable_offset, s->rt_size, &s->reftable);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not read L1 or refcount table");
    }
    bitmap_destroy(s->l1_dirty);
    bitmap_destroy(s->rt_dirty);
    s->l1_dirty = bitmap_create(s->h.l1_size ? s->h.l1_size : 1);
    s->rt_dirty = bitmap_create(s->rt_size);
    return s->l1_dirty && s->rt_dirty ? 0 : err_set(e, ENOMEM, "out of memory");
}

static int check_features(struct qcow2 *s, struct err *e)
{
    uint64_t unknown = s->h.incompat & ~(uint64_t)INC_KNOWN;
    bool flagged = s->h.incompat & INC_COMPRESSION;
    if (s->h.compression > COMPRESS_ZSTD) {
        return err_set(e, ENOTSUP, "qcow2: unknown compression type: %u", s->h.compression);
    }
    if (flagged != (s->h.compression != COMPRESS_ZLIB)) {
        return err_set(e, EINVAL,
                       flagged ? "qcow2: Compression type incompatible feature bit must not be set"
                               : "qcow2: Compression type incompatible feature bit must be set");
    }
    if (unknown) {
        CLEANUP_FREE char *names = header_unknown_features(s, unknown);
        return err_set(e, ENOTSUP, "Unsupported qcow2 feature(s): %s", names);
    }
    if ((s->h.incompat & INC_CORRUPT) && !s->n->read_only && !s->for_check) {
        return err_set(e, EACCES, "qcow2: Image is corrupt; cannot be opened read/write");
    }
    if (s->has_data_file && s->h.nb_snapshots) {
        return err_set(e, EINVAL, "internal snapshots with an external data file");
    }
    return 0;
}

static void set_geometry(struct qcow2 *s)
{
    s->cluster_bits = s->h.cluster_bits;
    s->cluster_size = UINT64_C(1) << s->cluster_bits;
    s->extl2 = s->h.incompat & INC_EXTL2;
    s->l2e_size = s->extl2 ? 16 : 8;
    s->l2_bits = s->cluster_bits - (s->extl2 ? 4 : 3);
    s->sc_bits = s->cluster_bits - (s->extl2 ? 5 : 0);
    s->rb_bits = s->cluster_bits + 3 - s->h.refcount_order;
    s->has_data_file = s->h.incompat & INC_DATA_FILE;
    s->data_raw = s->has_data_file && (s->h.autoclear & AUTOCLEAR_RAW);
}

static int read_backing_name(struct qcow2 *s, const uint8_t *cluster, struct err *e)
{
    const char *name = (const char *)cluster + s->h.backing_offset;
    if (!s->h.backing_offset) {
        return 0;
    }
    if (s->h.backing_size > MIN(1023u, s->cluster_size - s->h.backing_offset)) {
        return err_set(e, EINVAL, "Backing file name too long");
    }
    if (s->h.backing_size && *name) {
        g_free(s->n->backing_filename);
        s->n->backing_filename = g_strndup(name, s->h.backing_size);
    }
    return 0;
}

static int read_header(struct qcow2 *s, struct err *e)
{
    uint8_t head[512] = {0};
    size_t len = min_u64(sizeof(head), edge_size(s->file));
    int rc = file_read_buf(s->file, 0, sizeof(head), head);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not read qcow2 header");
    }
    rc = header_parse(&s->h, head, len, e);
    if (rc == 0 && s->h.reftable_clusters == 0 && !s->for_check) { /* a repair makes a new one */
        rc = err_set(e, EINVAL, "Image does not contain a reference count table");
    }
    if (rc < 0) {
        return rc;
    }
    set_geometry(s);
    CLEANUP_FREE uint8_t *cluster = g_try_malloc(s->cluster_size + 1);
    rc = cluster ? file_read_buf(s->file, 0, s->cluster_size, cluster) : -ENOMEM;
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not read qcow2 header");
    }
    s->exts = g_array_new(FALSE, FALSE, sizeof(struct q_ext));
    s->bitmaps = bitmaps_new();
    rc = header_read_exts(s, cluster, s->cluster_size, e);
    if (rc == 0) {
        rc = check_features(s, e);
    }
    rc = rc < 0 ? rc : read_backing_name(s, cluster, e);
    if (rc == 0 && (s->h.autoclear & AUTOCLEAR_BITMAPS) && !s->n_bitmaps) {
        s->h.autoclear &= ~(uint64_t)AUTOCLEAR_BITMAPS;
    }
    return rc;
}

/* The core leaves out what a node that is read-only does not need. */
#define CHILD_PERM (PERM_READ | PERM_WRITE | PERM_RESIZE)

static int open_data_file(struct qcow2 *s, struct json_object *options, struct err *e)
{
    s->data = s->file;
    if (graph_is_metadata_only(s->n->graph)) {
        return 0; /* nobody asks for data */
    }
    if (!s->has_data_file && (s->h.autoclear & AUTOCLEAR_RAW)) {
        return err_set(e, EINVAL, "data-file-raw requires a data file");
    }
    if (!s->has_data_file) {
        return json_object_object_get_ex(options, "data-file", NULL)
                   ? err_set(e, EINVAL, "'data-file' can only be set for images with an external data file")
                   : 0;
    }
    CLEANUP_JSON struct json_object *o = json_clone(options);
    if (!json_object_object_get_ex(o, "data-file", NULL)) {
        if (!s->data_filename || !*s->data_filename) {
            return err_set(e, EINVAL, "'data-file' is required for this image");
        }
        CLEANUP_FREE char *path = node_path_combine(s->file->child, s->data_filename);
        if (!path) {
            return err_set(e, EINVAL, "Cannot use relative data file name '%s' here", s->data_filename);
        }
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "driver", json_object_new_string("file"));
        json_object_object_add(d, "filename", json_object_new_string(path));
        json_object_object_add(o, "data-file", d);
    }
    return node_open_child(s->n, o, &(struct edge_spec){"data-file", CHILD_PERM, PERM_READ | PERM_WRITE_SAME}, &s->data,
                           e);
}

int qcow2_prepare_writing(struct qcow2 *s, struct err *e)
{
    int rc = meta_build(s);
    uint64_t keep = s->h.autoclear & AUTOCLEAR_KNOWN;
    if (rc == 0 && s->h.version >= 3 && !(s->h.incompat & INC_CORRUPT) && s->h.autoclear != keep) {
        s->h.autoclear = keep;
        rc = header_put64(s, 88, keep);
        rc = rc < 0 ? rc : qcow2_barrier(s);
    }
    if (rc == 0 && (s->h.incompat & INC_DIRTY) && !s->for_check) {
        g_autoptr(GString) text = g_string_new(NULL);
        struct check_result r = {.text = text};
        rc = qcow2_check(s->n, &r, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS, e);
        node_report_repair(s->n, &r);
        if (rc == 0 && (r.check_errors || r.corruptions > r.corruptions_fixed)) {
            rc = -EIO;
        }
        if (rc < 0) {
            err_clear(e);
            return err_set_errno(e, -rc, "Could not repair dirty image '%s'", s->n->filename);
        }
    }
    return rc < 0 ? err_set_errno(e, -rc, "Could not update qcow2 header of '%s'", s->n->filename) : 0;
}

static void set_limits(struct qcow2 *s)
{
    struct block_limits *l = &s->n->limits;
    l->request_align = s->crypt ? CIPHER_SECTOR : 1;
    l->mem_align = s->data->child->limits.mem_align;
    l->discard_align = s->cluster_size;
    l->opt_transfer = s->cluster_size;
}

/* What follows the header. */
static int read_tables(struct qcow2 *s, struct json_object *options, struct err *e)
{
    int rc = qcow2_read_options(s, options, e);
    rc = rc < 0 ? rc : load_tables(s, e);
    s->snapshots_unread = s->for_check;
    rc = rc < 0 || s->for_check ? rc : snaps_open(s, e);
    if (rc < 0) {
        return rc;
    }
    node_set_size(s->n, round_down(s->h.size, 512));
    set_limits(s);
    s->file_high = edge_size(s->file);
    return bitmaps_load(s, e);
}

static int open_inner(struct qcow2 *s, struct json_object *options, struct err *e)
{
    struct node *n = s->n;
    int rc =
        node_open_child(n, options, &(struct edge_spec){"file", CHILD_PERM, PERM_READ | PERM_WRITE_SAME}, &s->file, e);
    if (rc < 0) {
        return rc;
    }
    if (!*n->filename) {
        g_free(n->filename);
        n->filename = g_strdup(s->file->child->filename);
    }
    struct jread r = jread_init(options, NULL, e);
    s->for_check = jread_bool_or(&r, "for-check", false);
    rc = jread_end_lax(&r);
    rc = rc < 0 ? rc : read_header(s, e);
    rc = rc < 0 ? rc : qcow2_crypt_open(s, options, e);
    rc = rc < 0 ? rc : open_data_file(s, options, e);
    rc = rc < 0 ? rc : read_tables(s, options, e);
    rc = rc < 0 || n->read_only || n->inactive ? rc : qcow2_prepare_writing(s, e);
    if (rc == 0) {
        qcow2_arm_cleaning(s);
    }
    return rc;
}

static void init(struct qcow2 *s, struct node *n)
{
    s->n = n;
    s->snapshots = snaps_new();
    g_queue_init(&s->freed);
    g_queue_init(&s->flights);
    g_queue_init(&s->ops);
    g_queue_init(&s->states);
}

static int qcow2_open(struct node *n, struct json_object *options, struct err *e)
{
    struct qcow2 *s = n->priv;
    init(s, n);
    int rc = open_inner(s, options, e);
    if (rc < 0) {
        qcow2_finish(s);
    }
    return rc;
}

static bool is_settled(const struct qcow2 *s)
{
    return node_is_unwritten(s->n) && !s->l2.dirty.length && !s->rb.dirty.length && !(s->h.incompat & INC_DIRTY);
}

/* Scripts look for these words. */
static void tell_unwritten(const struct qcow2 *s, int rc)
{
    struct log *log = graph_log(s->n->graph);
    if (s->l2.dirty.length) {
        log_error(log, "Failed to flush the L2 table cache: %s", strerror(-rc));
    }
    if (s->rb.dirty.length) {
        log_error(log, "Failed to flush the refcount block cache: %s", strerror(-rc));
    }
    if (!s->l2.dirty.length && !s->rb.dirty.length) {
        log_error(log, "Could not write metadata of image '%s' when closing it: %s", s->n->filename, strerror(-rc));
    }
}

static void qcow2_close(struct node *n)
{
    struct qcow2 *s = n->priv;
    bool writing = !n->read_only && !n->inactive && !s->corrupt && s->meta;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (writing && qcow2_bitmaps_store(n, &e) < 0) {
        log_error(graph_log(n->graph), "%s", err_text(&e));
    }
    if (writing && !is_settled(s)) {
        int rc = qcow2_settle(s);
        rc = rc < 0 ? rc : file_trim(s);
        if (rc < 0) {
            tell_unwritten(s, rc);
        }
    }
    qcow2_finish(s);
}

/* --- other programs' turn to use the image ------------------------------------------------------------------------ */

static int qcow2_inactivate(struct node *n, struct err *e)
{
    struct qcow2 *s = n->priv;
    if (s->corrupt) {
        return 0; /* nothing is written any more */
    }
    int rc = qcow2_bitmaps_store(n, e);
    if (rc < 0) {
        return rc;
    }
    rc = qcow2_settle(s);
    rc = rc < 0 ? rc : file_trim(s);
    return rc < 0 ? err_set_errno(e, -rc, "Could not write metadata of image '%s'", n->filename) : 0;
}

/* Of two states of one node, only one's bitmaps are the node's. */
static void show_bitmaps(struct qcow2 *s, bool shown)
{
    GPtrArray *of_node = s->n->bitmaps;
    for (guint i = 0; s->bitmaps && i < s->bitmaps->len; i++) {
        const struct q_bitmap *q = g_ptr_array_index(s->bitmaps, i);
        if (q->b && shown) {
            g_ptr_array_add(of_node, q->b);
        } else if (q->b) {
            g_ptr_array_remove(of_node, q->b);
        }
    }
}

static void drop_bitmaps(struct qcow2 *s)
{
    for (guint i = 0; s->bitmaps && i < s->bitmaps->len; i++) {
        dirty_bitmap_destroy(take(((struct q_bitmap *)g_ptr_array_index(s->bitmaps, i))->b));
    }
}

static int read_image(struct qcow2 *s, struct qcow2 *old, struct err *e)
{
    int rc = read_header(s, e);
    if (rc == 0 && (s->has_data_file != old->has_data_file || s->h.crypt_method != old->h.crypt_method)) {
        rc = err_set(e, EINVAL, "Image '%s' is of another kind than when it was opened; open it again", s->n->filename);
    }
    rc = rc < 0 || !old->crypt ? rc : qcow2_crypt_read_again(s, old, e);
    return rc < 0 ? rc : read_tables(s, s->n->options, e);
}

static int qcow2_read_again(struct node *n, struct err *e)
{
    struct qcow2 *s = n->priv;
    CLEANUP_FREE struct qcow2 *old = g_memdup2(s, sizeof(*s));
    CLEANUP_FREE char *backing = take(n->backing_filename), *format = take(n->backing_format);
    if (s->clean_timer.loop) {
        timer_cancel(&s->clean_timer);
    }
    old->clean_timer = (struct timer){0};
    show_bitmaps(old, false);
    *s = (struct qcow2){.file = old->file, .data = old->data, .for_check = old->for_check};
    init(s, n);
    int rc = read_image(s, old, e);
    if (rc < 0) {
        drop_bitmaps(s);
        s->crypt = NULL;
        qcow2_finish(s);
        *s = *old;
        show_bitmaps(s, true);
        g_free(n->backing_filename);
        g_free(n->backing_format);
        n->backing_filename = take(backing);
        n->backing_format = take(format);
    } else {
        drop_bitmaps(old);
        old->crypt = NULL;
        qcow2_finish(old);
    }
    qcow2_arm_cleaning(s);
    return rc;
}

static int qcow2_activate(struct node *n, struct err *e)
{
    return qcow2_prepare_writing(n->priv, e);
}

/* --- flushing ------------------------------------------------------------------------------------------------------
 */

static int qcow2_flush(struct node *n)
{
    struct qcow2 *s = n->priv;
    if (n->read_only) {
        return 0;
    }
    bitmaps_round(s);
    return qcow2_writeback(s, true);
}

/* --- information -------------------------------------------------------------------------------------------------- */

static int qcow2_get_info(struct node *n, struct driver_info *out)
{
    struct qcow2 *s = n->priv;
    out->cluster_size = s->cluster_size;
    out->encrypted = s->crypt != NULL;
    out->vm_state_offset = (int64_t)vmstate_offset(s);
    out->is_dirty = s->h.incompat & INC_DIRTY;
    out->copy_on_read = s->h.compat & COMPAT_COPY_ON_READ;
    return 0;
}

static struct json_object *qcow2_specific_info(struct node *n)
{
    struct qcow2 *s = n->priv;
    struct json_object *d = json_object_new_object(), *o = json_object_new_object();
    json_object_object_add(d, "compat", json_object_new_string(s->h.version < 3 ? "0.10" : "1.1"));
    if (s->h.version >= 3 && s->has_data_file) {
        if (s->data_filename) {
            json_object_object_add(d, "data-file", json_object_new_string(s->data_filename));
        }
        json_object_object_add(d, "data-file-raw", json_object_new_boolean(s->data_raw));
    }
    json_object_object_add(d, "compression-type", json_object_new_string(s->h.compression ? "zstd" : "zlib"));
    if (s->h.version >= 3) {
        json_object_object_add(d, "lazy-refcounts", json_object_new_boolean(s->h.compat & COMPAT_LAZY));
    }
    if (s->crypt) {
        json_object_object_add(d, "encrypt", qcow2_crypt_info(s));
    }
    json_object_object_add(d, "refcount-bits", json_object_new_int(1 << s->h.refcount_order));
    if (s->h.version >= 3) {
        json_object_object_add(d, "corrupt", json_object_new_boolean(s->h.incompat & INC_CORRUPT));
        json_object_object_add(d, "extended-l2", json_object_new_boolean(s->extl2));
        if (s->h.compat & COMPAT_COPY_ON_READ) { /* others do not know of it */
            json_object_object_add(d, "copy-on-read", json_object_new_boolean(true));
        }
        if (s->bitmaps->len) {
            json_object_object_add(d, "bitmaps", bitmaps_info(s));
        }
    }
    json_object_object_add(o, "type", json_object_new_string("qcow2"));
    json_object_object_add(o, "data", d);
    return o;
}

const struct block_driver qcow2_driver = {
    .name = "qcow2",
    .priv_size = sizeof(struct qcow2),
    .takes_backing = true,
    .can_be_created = true,
    .option_names = option_names,
    .strong_options = strong_options,
    .probe = qcow2_probe,
    .open = qcow2_open,
    .inactivate = qcow2_inactivate,
    .read_again = qcow2_read_again,
    .activate = qcow2_activate,
    .reopen_names = qcow2_reopen_names,
    .reopen_prepare = qcow2_reopen_prepare,
    .reopen_swap = qcow2_reopen_swap,
    .reopen_activate = qcow2_reopen_activate,
    .reopen_finish = qcow2_reopen_finish,
    .close = qcow2_close,
    .create = qcow2_create,
    .create_options = qcow2_create_options,
    .measure = qcow2_measure,
    .amend = qcow2_amend,
    .amend_options = qcow2_amend_options,
    .read = qcow2_read,
    .write = qcow2_write,
    .copy_file = qcow2_copy_file,
    .write_compressed = qcow2_write_compressed,
    .zero = qcow2_zero,
    .discard = qcow2_discard,
    .flush = qcow2_flush,
    .status = qcow2_status,
    .truncate = qcow2_truncate,
    .get_info = qcow2_get_info,
    .specific_info = qcow2_specific_info,
    .check = qcow2_check,
    .change_backing = qcow2_change_backing,
    .make_empty = qcow2_make_empty,
    .snapshot_list = qcow2_snapshot_list,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .snapshot_show = qcow2_snapshot_show,
    .state_ops = &qcow2_state_ops,
    .fill_ops = &qcow2_fill_ops,
    .vmstate_read = qcow2_vmstate_read,
    .vmstate_write = qcow2_vmstate_write,
    .bitmap_can_store = qcow2_bitmap_can_store,
    .bitmap_store = qcow2_bitmap_store,
    .bitmap_remove = qcow2_bitmap_remove,
    .bitmaps_store = qcow2_bitmaps_store,
    .bitmaps_intend = qcow2_bitmaps_intend,
};
