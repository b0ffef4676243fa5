/* SPDX-License-Identifier: BSD-2-Clause */
/* From guest offsets to the file: L1, L2, and what their entries mean. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>

bool entry_has_host(const struct qcow2 *s, struct q_entry e)
{
    if (e.e & E_COMPRESSED) {
        return false;
    }
    return (e.e & L2E_OFFSET) != 0 || (s->has_data_file && (e.e & E_COPIED)); /* there, offset 0 is a place */
}

bool entry_has_data(const struct qcow2 *s, struct q_entry e)
{
    if (e.e & E_COMPRESSED) {
        return true;
    }
    return entry_has_host(s, e) && (s->extl2 ? (uint32_t)e.bitmap != 0 : !(e.e & E_ZERO));
}

int entry_type(const struct qcow2 *s, struct q_entry e, unsigned sc)
{
    if (e.e & E_COMPRESSED) {
        return s->has_data_file ? Q_INVALID : Q_COMPRESSED;
    }
    bool host = entry_has_host(s, e);
    if (host && (e.e & L2E_OFFSET & (s->cluster_size - 1))) {
        return Q_INVALID;
    }
    if (s->extl2) {
        bool data = e.bitmap >> sc & 1, zero = e.bitmap >> (32 + sc) & 1;
        if (data) {
            return zero || !host ? Q_INVALID : Q_NORMAL;
        }
        return zero ? (host ? Q_ZERO_HOST : Q_ZERO) : (host ? Q_UNALLOC_HOST : Q_UNALLOC);
    }
    if (e.e & E_ZERO) {
        return s->h.version < 3 ? Q_INVALID : host ? Q_ZERO_HOST : Q_ZERO;
    }
    return host ? Q_NORMAL : Q_UNALLOC;
}

void compressed_range(const struct qcow2 *s, uint64_t e, uint64_t *off, uint64_t *len)
{
    unsigned x = 62 - (s->cluster_bits - 8);
    *off = e & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = (e >> x & ((UINT64_C(1) << (s->cluster_bits - 8)) - 1)) + 1;
    *len = sectors * 512 - (*off & 511);
}

static unsigned l1_shift(const struct qcow2 *s)
{
    return s->cluster_bits + s->l2_bits;
}

int qcow2_corrupt_entry(struct qcow2 *s, uint64_t guest, struct q_entry e)
{
    uint64_t l1 = guest >> (s->cluster_bits + s->l2_bits), mask = s->cluster_size - 1;
    CLEANUP_FREE char *what = NULL;
    int64_t off = -1;
    if (e.e & E_COMPRESSED) {
        what = g_strdup("Compressed cluster entry found in image with external data file");
    } else if (entry_has_host(s, e) && (e.e & L2E_OFFSET & mask)) {
        off = e.e & L2E_OFFSET;
        what = g_strdup_printf("Cluster allocation offset %#" PRIx64 " unaligned", off);
    } else {
        what = g_strdup(s->extl2 ? "Invalid cluster entry found " : "Zero cluster entry found in pre-v3 image");
    }
    return qcow2_corrupt(s, true, off, off < 0 ? -1 : (int64_t)s->cluster_size,
                         "%s (L2 offset: %#" PRIx64 ", L2 index: %#" PRIx64 ")", what,
                         l1 < s->h.l1_size ? s->l1[l1] & L1E_OFFSET : 0,
                         guest >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1));
}

int qcow2_corrupt_target(struct qcow2 *s, uint64_t guest, struct q_entry e)
{
    if (s->extl2 && !(e.e & (E_COMPRESSED | (L2E_OFFSET & (s->cluster_size - 1))))) {
        return qcow2_corrupt(
            s, true, -1, -1, "Invalid cluster entry found (L2 offset: %#" PRIx64 ", L2 index: %#" PRIx64 ")",
            s->l1[guest >> l1_shift(s)] & L1E_OFFSET, guest >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1));
    }
    if ((e.e & E_COMPRESSED) || !entry_has_host(s, e) || !(e.e & L2E_OFFSET & (s->cluster_size - 1))) {
        return qcow2_corrupt_entry(s, guest, e);
    }
    return qcow2_corrupt(s, true, -1, -1, "%s cluster offset %#" PRIx64 " unaligned (guest offset: %#" PRIx64 ")",
                         !s->extl2 && (e.e & E_ZERO) ? "Preallocated zero" : "Data", (uint64_t)(e.e & L2E_OFFSET),
                         guest);
}

static uint64_t slice_offset(const struct qcow2 *s, uint64_t table, uint64_t guest, unsigned *index)
{
    uint64_t i = guest >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1);
    *index = i & ((UINT64_C(1) << s->slice_bits) - 1);
    return table + ((i >> s->slice_bits) * s->l2.table_size);
}

int slice_get(struct qcow2 *s, uint64_t guest, struct q_table **out, unsigned *index)
{
    uint64_t i = guest >> l1_shift(s);
    for (;;) {
        uint64_t table = i < s->h.l1_size ? s->l1[i] & L1E_OFFSET : 0;
        *out = NULL;
        uint64_t at = slice_offset(s, table, guest, index);
        if (!table) {
            return 0;
        }
        if (table & (s->cluster_size - 1)) {
            return qcow2_corrupt(s, true, -1, -1, "L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx64 ")",
                                 table, i);
        }
        int rc = cache_get(&s->l2, at, out);
        if (rc < 0) {
            return rc;
        }
        if (i < s->h.l1_size && (s->l1[i] & L1E_OFFSET) == table) { /* it may have moved while we waited */
            (*out)->l1_index = i;
            return 0;
        }
    }
}

static uint64_t host_of(const struct qcow2 *s, struct q_entry e, int type, uint64_t guest)
{
    if (type == Q_COMPRESSED) {
        return e.e;
    }
    return (e.e & L2E_OFFSET) + (guest & (s->cluster_size - 1));
}

/* Extends the run over the rest of one slice. False: it ends there. */
static bool run_extend(struct qcow2 *s, const uint8_t *slice, unsigned i, uint64_t off, uint64_t len, struct q_run *r)
{
    uint64_t sc_size = UINT64_C(1) << s->sc_bits, mask = s->cluster_size - 1;
    for (; i < 1u << s->slice_bits && r->len < len; i++) {
        struct q_entry e = entry_load(s, slice, i);
        do {
            uint64_t at = off + r->len;
            int type = entry_type(s, e, (at & mask) >> s->sc_bits);
            uint64_t host = host_of(s, e, type, at);
            if (r->len == 0) {
                r->type = type;
                r->host = host;
                if (type == Q_COMPRESSED) { /* each cluster by itself */
                    r->len = s->cluster_size - (at & mask);
                    return false;
                }
            } else if (type != r->type || ((type == Q_NORMAL || type == Q_ZERO_HOST) && host != r->host + r->len)) {
                return false;
            }
            r->len += sc_size - (at & (sc_size - 1));
        } while ((off + r->len) & mask && r->len < len);
    }
    return r->len < len;
}

int qcow2_look(struct qcow2 *s, uint64_t off, uint64_t len, struct q_run *r)
{
    unsigned loads = 0;
    *r = (struct q_run){0};
    while (r->len < len) {
        uint64_t at = off + r->len;
        struct q_table *t;
        unsigned i;
        if (r->len && ++loads > 64) { /* enough for one answer */
            break;
        }
        int rc = slice_get(s, at, &t, &i);
        if (rc < 0) {
            return rc;
        }
        if (!t) { /* skips what the L1 entry stands for */
            if (r->len && r->type != Q_UNALLOC) {
                break;
            }
            loads -= r->len ? 1 : 0;
            r->type = Q_UNALLOC;
            r->len += (UINT64_C(1) << l1_shift(s)) - (at & ((UINT64_C(1) << l1_shift(s)) - 1));
        } else if (!run_extend(s, t->buf->data, i, off, len, r)) {
            break;
        }
    }
    r->len = min_u64(r->len, len);
    return 0;
}

int qcow2_map(struct qcow2 *s, uint64_t off, uint64_t len, struct q_run *r)
{
    int looked = qcow2_look(s, off, len, r);
    if (looked < 0) {
        return looked;
    }
    if (r->type == Q_INVALID) {
        struct q_table *t;
        unsigned i;
        int rc = slice_get(s, off, &t, &i);
        return rc < 0 || !t ? -EIO : qcow2_corrupt_entry(s, off, entry_load(s, t->buf->data, i));
    }
    if (s->has_data_file && (r->type == Q_NORMAL || r->type == Q_ZERO_HOST) && r->host != off) {
        return qcow2_corrupt(s, true, r->host, r->len,
                             "External data file host cluster offset %#" PRIx64
                             " does not match guest cluster offset: %#" PRIx64 ", L2 index: %#" PRIx64
                             ")", /* as everybody has it */
                             r->host, off, off >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1));
    }
    return 0;
}

/* A new L2 table, empty or a copy of `old`; everything stays in the cache until it is written back. */
static int l2_create(struct qcow2 *s, uint64_t index, uint64_t old)
{
    uint64_t off;
    int rc = clusters_alloc(s, 1, &off);
    for (uint64_t at = 0; rc == 0 && at < s->cluster_size; at += s->l2.table_size) {
        struct q_table *from = NULL, *t;
        if (old) {
            rc = cache_get(&s->l2, old + at, &from);
        }
        struct q_buf *copy = rc == 0 && from ? buf_ref(from->buf) : NULL;
        if (rc == 0) {
            rc = cache_new(&s->l2, off + at, &t);
        }
        if (rc == 0) {
            t->l1_index = index;
            if (copy) {
                memcpy(t->buf->data, copy->data, s->l2.table_size);
            }
        }
        buf_unref(copy);
    }
    if (rc < 0) {
        return rc;
    }
    s->l1[index] = off | E_COPIED;
    bitmap_set(s->l1_dirty, index, 1);
    meta_add(s, off, s->cluster_size, META_L2);
    if (old) {
        cache_drop(&s->l2, old, s->cluster_size);
        meta_remove(s, old, s->cluster_size, META_L2);
        clusters_free_later(s, old, s->cluster_size, FREE_OTHER);
    }
    return 0;
}

int l2_own(struct qcow2 *s, uint64_t off, uint64_t len)
{
    for (uint64_t i = off >> l1_shift(s); i <= (off + len - 1) >> l1_shift(s); i++) {
        if (i >= s->h.l1_size) {
            return -EIO;
        }
        uint64_t old = s->l1[i] & L1E_OFFSET;
        if (old & (s->cluster_size - 1)) {
            return qcow2_corrupt(s, true, -1, -1, "L2 table offset %#" PRIx64 " unaligned (L1 index: %#" PRIx64 ")",
                                 old, i);
        }
        if (!old || !(s->l1[i] & E_COPIED)) {
            int rc = l2_create(s, i, old);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

int slice_modify(struct qcow2 *s, uint64_t guest, uint8_t **data, unsigned *index)
{
    struct q_table *t;
    int rc = slice_get(s, guest, &t, index);
    if (rc < 0) {
        return rc;
    }
    if (!t || !(s->l1[t->l1_index] & E_COPIED)) {
        return -EIO;
    }
    *data = table_modify(&s->l2, t);
    return *data ? 0 : -ENOMEM;
}

void entry_free(struct qcow2 *s, struct q_entry e, int kind)
{
    if (s->has_data_file) { /* nothing is counted there */
        return;
    }
    if (e.e & E_COMPRESSED) {
        uint64_t off, len;
        compressed_range(s, e.e, &off, &len);
        clusters_free_later(s, off, len, FREE_NEVER);
    } else if (e.e & L2E_OFFSET & (s->cluster_size - 1)) {
        qcow2_corrupt(s, false, -1, -1, "Cannot free unaligned cluster %#" PRIx64, e.e & L2E_OFFSET);
    } else if (entry_has_host(s, e)) {
        clusters_free_later(s, e.e & L2E_OFFSET, s->cluster_size, kind);
    }
}
