/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshot table: read to know what it occupies; kept as it is. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>

static int check_snapshot_l1(struct qcow2 *s, uint32_t i, uint64_t off, uint32_t entries, struct err *e)
{
    if (entries > QCOW2_MAX_L1 / 8) {
        return err_set(e, EFBIG, "Image '%s': Snapshot L1 table of snapshot %" PRIu32 " too large", s->n->filename, i);
    }
    if ((off & (s->cluster_size - 1)) || !range_ok(off, (uint64_t)entries * 8, INT64_MAX)) {
        return err_set(e, EINVAL, "Image '%s': L1 table offset of snapshot %" PRIu32 " invalid", s->n->filename, i);
    }
    return 0;
}

static int load_snapshots(struct qcow2 *s, struct err *e)
{
    uint64_t at = s->h.snapshots_offset;
    s->inactive_l1 = g_new0(uint64_t, 2 * (size_t)s->h.nb_snapshots);
    for (uint32_t i = 0; i < s->h.nb_snapshots; i++) {
        uint8_t b[40];
        at = round_up(at, 8);
        int rc = file_read_buf(s->file, at, sizeof(b), b);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Image '%s': Could not read snapshot table", s->n->filename);
        }
        uint64_t l1 = load_be64(b);
        uint32_t entries = load_be32(b + 8), extra = load_be32(b + 36);
        uint64_t names = (uint64_t)load_be16(b + 12) + load_be16(b + 14);
        if (extra > QCOW2_MAX_SNAPSHOT_EXTRA) {
            return err_set(e, EFBIG, "Image '%s': Too much extra metadata in snapshot table entry %" PRIu32,
                           s->n->filename, i);
        }
        rc = check_snapshot_l1(s, i, l1, entries, e);
        if (rc < 0) {
            return rc;
        }
        s->inactive_l1[2 * i] = l1;
        s->inactive_l1[2 * i + 1] = entries;
        s->n_inactive = i + 1;
        at += sizeof(b) + extra + names;
        if (at - s->h.snapshots_offset > QCOW2_MAX_SNAPSHOT_TABLE) {
            return err_set(e, EFBIG, "Image '%s': Snapshot table too large", s->n->filename);
        }
    }
    s->snapshots_len = at - s->h.snapshots_offset;
    return 0;
}

int tables_load(struct qcow2 *s, struct err *e)
{
    return s->h.nb_snapshots ? load_snapshots(s, e) : 0;
}
