/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/view.h"

#include "base/checked.h"
#include "block/driver.h"

#include <sys/mman.h>

static struct node *own_file(struct node *n)
{
    return !n || n->drv->is_filter || !n->file ? NULL : n->file->child;
}

static bool is_plain(const struct extent *ext, const struct node *file)
{
    const unsigned need = EXT_DATA | EXT_OFFSET;
    return ext->file == file && (ext->flags & (need | EXT_ZERO | EXT_COMPRESSED)) == need;
}

/* The beginning of the range lies as it is in `file`. */
static bool lies_in_file(struct node *n, const struct node *file, uint64_t off, uint64_t len, struct extent *ext)
{
    return node_status(n, true, off, len, ext) == 0 && is_plain(ext, file);
}

bool node_view_open(struct node *n, uint64_t off, uint64_t len, struct node_view *v)
{
    struct extent ext;
    struct node *file;
    while ((file = own_file(n)) && file->drv->view && node_status(n, true, off, len, &ext) == 0) {
        len = min_u64(len, ext.len);
        if (ext.flags & EXT_ALLOCATED) {
            v->len = len;
            return is_plain(&ext, file) && file->drv->view(file, ext.offset, v);
        }
        n = n->backing ? n->backing->child : NULL; /* a filter there has no file of its own */
        if (!n || off + len > n->size) {
            break;
        }
    }
    return false;
}

int node_cached_fd(struct node *n, uint64_t off, uint64_t len, uint64_t *fd_off)
{
    struct node *file = own_file(n);
    struct extent ext;
    if (!file || !file->drv->cached_fd || !lies_in_file(n, file, off, len, &ext) || ext.len < len) {
        return -1;
    }
    *fd_off = ext.offset;
    return file->drv->cached_fd(file, ext.offset, len);
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
    struct driver_info info = {0};
    if (n->drv->get_info && (n->drv->get_info(n, &info) < 0 || info.encrypted)) {
        return false;
    }
    return file && file->drv->view && !n->detect_zeroes && !file->detect_zeroes;
}
