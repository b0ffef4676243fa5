/* SPDX-License-Identifier: BSD-2-Clause */
/* Which clusters hold metadata, so that no write destroys them, however broken the refcounts of an image are. */
#include "block/qcow2/snapshots.h"

#include "base/cleanup.h"

#include <inttypes.h>
#include <stdarg.h>

static const char *kind_name(unsigned kinds)
{
    static const char *const names[] = {"qcow2_header",      "active L1 table",   "active L2 table",
                                        "refcount table",    "refcount block",    "snapshot table",
                                        "inactive L1 table", "inactive L2 table", "bitmap directory"};
    return kinds ? names[__builtin_ctz(kinds)] : "nothing";
}

void meta_add(struct qcow2 *s, uint64_t off, uint64_t len, unsigned kind)
{
    uint64_t end = q_clusters(s, off + len);
    for (uint64_t c = off >> s->cluster_bits; s->meta && c < end; c++) {
        gpointer key = GSIZE_TO_POINTER(c + 1);
        unsigned old = GPOINTER_TO_UINT(g_hash_table_lookup(s->meta, key));
        g_hash_table_insert(s->meta, key, GUINT_TO_POINTER(old | kind));
    }
}

void meta_remove(struct qcow2 *s, uint64_t off, uint64_t len, unsigned kind)
{
    uint64_t end = q_clusters(s, off + len);
    for (uint64_t c = off >> s->cluster_bits; s->meta && c < end; c++) {
        gpointer key = GSIZE_TO_POINTER(c + 1);
        unsigned left = GPOINTER_TO_UINT(g_hash_table_lookup(s->meta, key)) & ~kind;
        if (left) {
            g_hash_table_insert(s->meta, key, GUINT_TO_POINTER(left));
        } else {
            g_hash_table_remove(s->meta, key);
        }
    }
}

/* A table that cannot be where the snapshot says is left to the check. */
static int meta_add_snapshot(struct qcow2 *s, const struct q_snap *x)
{
    if (snap_l1_check(s, x, NULL) < 0) {
        return 0;
    }
    meta_add(s, x->l1_offset, (uint64_t)x->l1_size * 8, META_INACTIVE_L1);
    uint64_t *l1 = NULL;
    int rc = s->overlap & META_INACTIVE_L2 ? snap_l1_load(s, x, &l1, NULL) : 0;
    for (uint32_t i = 0; l1 && i < x->l1_size; i++) {
        if (l1[i] & L1E_OFFSET) {
            meta_add(s, l1[i] & L1E_OFFSET, s->cluster_size, META_INACTIVE_L2);
        }
    }
    g_free(l1);
    return rc;
}

int meta_build(struct qcow2 *s)
{
    if (s->meta) {
        g_hash_table_destroy(s->meta);
    }
    s->meta = g_hash_table_new(g_direct_hash, g_direct_equal);
    meta_add(s, 0, s->cluster_size, META_HEADER);
    meta_add(s, s->crypt_off, s->crypt_len, META_HEADER);
    meta_add(s, s->h.l1_offset, (uint64_t)s->h.l1_size * 8, META_L1);
    for (uint32_t i = 0; i < s->h.l1_size; i++) {
        if (s->l1[i] & L1E_OFFSET) {
            meta_add(s, s->l1[i] & L1E_OFFSET, s->cluster_size, META_L2);
        }
    }
    meta_add(s, s->rt_offset, (uint64_t)s->rt_size * 8, META_REFTABLE);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        if (s->reftable[i] & RT_OFFSET) {
            meta_add(s, s->reftable[i] & RT_OFFSET, s->cluster_size, META_REFBLOCK);
        }
    }
    if (s->h.nb_snapshots) {
        meta_add(s, s->h.snapshots_offset, s->snapshots_len, META_SNAPSHOTS);
    }
    bitmaps_meta(s);
    int rc = 0;
    for (guint i = 0; i < s->snapshots->len && rc == 0; i++) {
        rc = meta_add_snapshot(s, g_ptr_array_index(s->snapshots, i));
    }
    for (GList *l = s->states.head; l && rc == 0; l = l->next) {
        const struct q_snap *x = state_snapshot(l->data);
        rc = x ? meta_add_snapshot(s, x) : 0;
    }
    return rc;
}

int meta_check(struct qcow2 *s, uint64_t off, uint64_t len, unsigned mine)
{
    uint64_t end = q_clusters(s, off + len);
    for (uint64_t c = off >> s->cluster_bits; s->meta && c < end; c++) {
        unsigned kinds = GPOINTER_TO_UINT(g_hash_table_lookup(s->meta, GSIZE_TO_POINTER(c + 1))) & ~mine & s->overlap;
        if (kinds) {
            return qcow2_corrupt(s, true, off, len, "Preventing invalid write on metadata (overlaps with %s)",
                                 kind_name(kinds));
        }
    }
    return 0;
}

/* A check has what is found in the order in which it is found. */
static void tell(struct qcow2 *s, const char *fmt, const char *text)
{
    CLEANUP_FREE char *line = g_strdup_printf(fmt, text);
    if (s->check_text) {
        g_string_append_printf(s->check_text, "%s\n", line);
    } else {
        log_bare(graph_log(s->n->graph), "%s", line);
    }
}

int qcow2_corrupt(struct qcow2 *s, bool fatal, int64_t off, int64_t len, const char *fmt, ...)
{
    fatal = fatal && !s->n->read_only;
    if (s->corrupt) {
        return -EIO;
    }
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (fatal || !s->corrupt_reported) {
        tell(s,
             fatal ? "qcow2: Marking image as corrupt: %s; further corruption events will be suppressed"
                   : "qcow2: Image is corrupt: %s; further non-fatal corruption events will be suppressed",
             text);
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "device", json_object_new_string(""));
        json_object_object_add(d, "node-name", json_object_new_string(s->n->name));
        json_object_object_add(d, "msg", json_object_new_string(text));
        if (off >= 0) {
            json_object_object_add(d, "offset", json_object_new_int64(off));
        }
        if (len >= 0) {
            json_object_object_add(d, "size", json_object_new_int64(len));
        }
        json_object_object_add(d, "fatal", json_object_new_boolean(fatal));
        if (graph_bus(s->n->graph)) {
            event_emit(graph_bus(s->n->graph), "BLOCK_IMAGE_CORRUPTED", d);
        } else {
            json_object_put(d);
        }
    }
    s->corrupt_reported = true;
    if (fatal) {
        s->corrupt = s->n->no_medium = true;
        header_set_incompat(s, s->h.incompat | INC_CORRUPT);
    }
    return -EIO;
}
