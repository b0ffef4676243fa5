/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/endian.h"

#define NO_TABLE UINT64_MAX /* an L1 entry that no table is at: every use of it fails */

static uint64_t first_usable(const struct qed *s)
{
    return max_u64(s->h.header_size, 1) << s->cluster_bits;
}

bool qed_data_ok(const struct qed *s, uint64_t offset)
{
    return !(offset & (s->cluster_size - 1)) && offset >= first_usable(s) && offset < edge_size(s->file);
}

bool qed_table_ok(const struct qed *s, uint64_t offset)
{
    return qed_data_ok(s, offset) && range_ok(offset, s->table_bytes, edge_size(s->file));
}

uint64_t qed_l1_entries(const struct qed *s, uint64_t image_size)
{
    return div_round_up(qed_clusters(s, image_size), UINT64_C(1) << s->entry_bits);
}

static int read_l1(struct qed *s, uint64_t from, uint64_t to)
{
    if (to <= from) {
        return 0;
    }
    int rc = qed_file_read_buf(s->file, s->h.l1_offset + from * 8, (to - from) * 8, s->l1 + from);
    for (uint64_t i = from; i < to && rc == 0; i++) {
        s->l1[i] = load_le64(&s->l1[i]);
    }
    return rc;
}

int qed_load_l1(struct qed *s, uint64_t to)
{
    uint64_t from = s->l1_used;
    if (to <= from) {
        return 0;
    }
    uint64_t *l1 = g_try_realloc_n(s->l1, to, sizeof(*l1));
    if (!l1) {
        return -ENOMEM;
    }
    s->l1 = l1;
    struct bitmap *dirty = s->l1_dirty;
    if (dirty ? !bitmap_resize(dirty, to) : !(s->l1_dirty = bitmap_create(to))) {
        return -ENOMEM;
    }
    int rc = read_l1(s, from, to);
    s->l1_used = rc == 0 ? to : s->l1_used;
    return rc;
}

int qed_reload_l1(struct qed *s)
{
    int rc = read_l1(s, 0, s->l1_used);
    for (uint64_t i = 0; i < s->l1_used && rc < 0; i++) {
        s->l1[i] = NO_TABLE;
    }
    return rc;
}

/* What opening the image for writing will find to be lost (invariant 2) is not there. */
static bool forgive(const struct qed *s)
{
    return s->h.features & QED_NEED_CHECK && s->n->read_only;
}

int qed_slice_get(struct qed *s, uint64_t guest, struct qed_slice **out, unsigned *index)
{
    uint64_t cluster = guest >> s->cluster_bits, at = cluster & ((UINT64_C(1) << s->entry_bits) - 1);
    uint64_t table = s->l1[cluster >> s->entry_bits];
    *out = NULL;
    *index = at & ((1u << s->slice_bits) - 1);
    if (!table) {
        return 0;
    }
    if (!qed_table_ok(s, table)) {
        return forgive(s) ? 0 : -EINVAL;
    }
    return qed_cache_get(&s->cache, table + (at >> s->slice_bits << (s->slice_bits + 3)), out);
}

int qed_map_far(struct qed *s, uint64_t off, uint64_t len, struct qed_run *out)
{
    uint64_t span = UINT64_C(1) << (s->cluster_bits + s->entry_bits);
    if (s->l1[off / span]) {
        return qed_map(s, off, len, out);
    }
    *out = (struct qed_run){QED_RUN_NONE, min_u64(len, span - off % span), 0};
    return 0;
}

static int type_of(const struct qed *s, uint64_t e)
{
    if (e <= QED_ZERO) {
        return e ? QED_RUN_ZERO : QED_RUN_NONE;
    }
    return qed_data_ok(s, e) ? QED_RUN_DATA : forgive(s) ? QED_RUN_NONE : -EINVAL;
}

int qed_map(struct qed *s, uint64_t off, uint64_t len, struct qed_run *out)
{
    struct qed_slice *sl;
    unsigned i;
    int rc = qed_slice_get(s, off, &sl, &i);
    if (rc < 0) {
        return rc;
    }
    uint64_t in = off & (s->cluster_size - 1), count = min_u64((1u << s->slice_bits) - i, qed_clusters(s, in + len));
    uint64_t e = sl ? load_le64(sl->e + 8 * i) : 0, k = sl ? 1 : count;
    int type = type_of(s, e);
    if (type < 0) {
        return type;
    }
    for (; k < count; k++) {
        uint64_t next = load_le64(sl->e + 8 * (i + k));
        if (type_of(s, next) != type || (type == QED_RUN_DATA && next != e + (k << s->cluster_bits))) {
            break;
        }
    }
    *out = (struct qed_run){type, min_u64(len, (k << s->cluster_bits) - in), type == QED_RUN_DATA ? e + in : 0};
    return 0;
}
