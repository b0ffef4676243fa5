/* SPDX-License-Identifier: BSD-2-Clause */
/* New clusters, behind all others. */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "block/debug.h"

enum { AHEAD_MIN = 1 << 20, AHEAD_MAX = 64 << 20, LOST_MAX = 4096 };

/* By more than is needed, so that a growing image does not change the file's size with each cluster. */
int qed_file_reach(struct qed *s, uint64_t end)
{
    uint64_t size = edge_size(s->file);
    if (end <= size) {
        return 0;
    }
    uint64_t to = round_up(end + min_u64(max_u64(size / 8, AHEAD_MIN), AHEAD_MAX), s->cluster_size);
    int rc = edge_truncate(s->file, to, false, PREALLOC_OFF, NULL);
    if (rc < 0) {
        rc = edge_truncate(s->file, end, false, PREALLOC_OFF, NULL);
    }
    s->unstable = true;
    return rc == -ENOTSUP || rc == -EFBIG || rc == -EINVAL ? -ENOSPC : rc; /* a device is as long as it is */
}

int qed_alloc(struct qed *s, uint64_t clusters, uint64_t *off)
{
    uint64_t len = clusters << s->cluster_bits;
    block_debug_event_at(s->file->child, "cluster_alloc");
    if (!range_ok(s->end, len, INT64_MAX / 2)) {
        return -EFBIG;
    }
    int rc = qed_need_check(s);
    rc = rc < 0 ? rc : qed_file_reach(s, s->end + len);
    if (rc == 0) {
        *off = s->end;
        s->end += len;
    }
    return rc;
}

/* The file is cut, not just the mark put back: what is handed out next must read as zeroes. */
void qed_give_back(struct qed *s, uint64_t off, uint64_t len)
{
    struct qed_run_of r = {off, len};
    uint64_t end = s->end;
    if (s->lost->len >= LOST_MAX) {
        return; /* leaked */
    }
    g_array_append_val(s->lost, r);
    for (guint i = s->lost->len; i-- > 0;) {
        r = g_array_index(s->lost, struct qed_run_of, i);
        if (r.off + r.len == end) {
            end = r.off;
            i = s->lost->len;
        }
    }
    if (end == s->end) {
        return;
    }
    if (edge_size(s->file) > end && edge_truncate(s->file, end, false, PREALLOC_OFF, NULL) < 0) {
        return;
    }
    s->end = end;
    for (guint i = s->lost->len; i-- > 0;) {
        if (g_array_index(s->lost, struct qed_run_of, i).off >= end) {
            g_array_remove_index_fast(s->lost, i);
        }
    }
}

int qed_table_own(struct qed *s, uint64_t guest)
{
    uint64_t index = guest >> s->cluster_bits >> s->entry_bits, off;
    if (s->l1[index]) {
        return qed_table_ok(s, s->l1[index]) ? 0 : -EINVAL;
    }
    int rc = qed_alloc(s, s->h.table_size, &off);
    if (rc == 0) { /* reads as zeroes: all unallocated */
        s->l1[index] = off;
        bitmap_set(s->l1_dirty, index, 1);
    }
    return rc;
}

int qed_trim(struct qed *s)
{
    return edge_size(s->file) > s->end ? edge_truncate(s->file, s->end, false, PREALLOC_OFF, NULL) : 0;
}
