/* SPDX-License-Identifier: BSD-2-Clause */
/* Copying by the host: the source's extents in host files, one after the other. */
#include "base/checked.h"
#include "block/driver.h"

static int copy_extent(struct edge *ed, uint64_t off, const struct extent *x)
{
    const unsigned wanted = EXT_DATA | EXT_OFFSET;
    if (x->flags & EXT_ZERO) {
        return edge_zero(ed, off, x->len, REQ_MAY_UNMAP);
    }
    if ((x->flags & (wanted | EXT_COMPRESSED)) != wanted || !x->file) {
        return -ENOTSUP;
    }
    return edge_copy_file(ed, off, x->len, x->file, x->offset);
}

int edge_copy_range(struct edge *ed, uint64_t off, uint64_t len, struct node *from, uint64_t soff)
{
    int rc = 0;
    while (len && !rc) {
        struct extent x;
        rc = node_status_above(from, NULL, soff, len, &x, NULL);
        if (!rc && !x.len) {
            rc = -ENOTSUP;
        }
        if (!rc) {
            x.len = min_u64(x.len, len);
            rc = copy_extent(ed, off, &x);
            off += x.len;
            soff += x.len;
            len -= x.len;
        }
    }
    return rc;
}
