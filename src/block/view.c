/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/view.h"

#include "base/checked.h"
#include "block/driver.h"

#include <sys/mman.h>

static struct node *own_file(struct node *n)
{
    return n->drv->is_filter || !n->file ? NULL : n->file->child;
}

bool node_view_open(struct node *n, uint64_t off, uint64_t len, struct node_view *v)
{
    struct node *file = own_file(n);
    struct extent ext;
    if (!file || !file->drv->view || node_status(n, true, off, len, &ext) < 0) {
        return false;
    }
    unsigned need = EXT_DATA | EXT_OFFSET;
    if ((ext.flags & (need | EXT_ZERO | EXT_COMPRESSED)) != need || ext.file != file) {
        return false;
    }
    v->len = min_u64(len, ext.len);
    return file->drv->view(file, ext.offset, v);
}

void node_start_writeback(struct node *n, uint64_t off, uint64_t len)
{
    struct node *file = own_file(n);
    for (struct extent ext; len && file && file->drv->start_writeback && !file->no_flush;
         off += ext.len, len -= ext.len) {
        if (node_status(n, true, off, len, &ext) < 0) {
            return;
        }
        ext.len = min_u64(ext.len, len);
        if ((ext.flags & EXT_OFFSET) && ext.file == file) {
            file->drv->start_writeback(file, ext.offset, ext.len);
        }
    }
}

void node_view_close(struct node_view *v)
{
    munmap(v->map, v->map_len);
}

bool node_passes_views(struct node *n)
{
    struct node *file = own_file(n);
    return file && file->drv->view && !n->detect_zeroes && !file->detect_zeroes;
}
