/* SPDX-License-Identifier: BSD-2-Clause */
/* "compress": whole clusters are written compressed; what a request does not fill the core reads and adds. */
#include "base/checked.h"
#include "block/drivers.h"

static bool can_compress(struct node *n)
{
    struct edge *ed;
    while (!n->drv->write_compressed && (ed = node_filter_edge(n))) {
        n = ed->child;
    }
    return n->drv->write_compressed;
}

static int compress_open(struct node *n, struct json_object *options, struct err *e)
{
    struct edge *ed;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, e);
    if (rc < 0) {
        return rc;
    }
    if (!can_compress(ed->child)) {
        return err_set(e, ENOTSUP, "Compression is not supported for underlying format: %s", ed->child->drv->name);
    }
    struct driver_info info = {0};
    struct node *image = node_skip_filters(ed->child);
    if (image->drv->get_info) {
        image->drv->get_info(image, &info);
    }
    if (info.cluster_size > 1u << 20) {
        return err_set(e, ENOTSUP,
                       "Compression of clusters of %u bytes is not possible through a filter: at most 1 MiB",
                       info.cluster_size);
    }
    n->limits.request_align = info.cluster_size;
    n->size = edge_size(ed);
    return 0;
}

/* The last cluster may reach past the child's end. */
static uint64_t clip(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t size = edge_size(n->file);
    return off >= size ? 0 : min_u64(len, size - off);
}

static int compress_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    uint64_t part = clip(n, off, len);
    if (part < len) {
        iovs_fill(v, voff + part, 0, len - part);
    }
    return edge_read(n->file, off, part, v, voff, flags);
}

static int compress_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    return edge_write(n->file, off, clip(n, off, len), v, voff, flags | REQ_COMPRESSED);
}

static int compress_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return edge_zero(n->file, off, clip(n, off, len), flags);
}

static int compress_discard(struct node *n, uint64_t off, uint64_t len)
{
    return edge_discard(n->file, off, clip(n, off, len));
}

static bool compress_supports_fua(struct node *n)
{
    return true;
}

const struct block_driver compress_driver = {
    .name = "compress",
    .is_filter = true,
    .open = compress_open,
    .reopen_names = (const char *const[]){NULL},
    .read = compress_read,
    .write = compress_write,
    .zero = compress_zero,
    .discard = compress_discard,
    .supports_fua = compress_supports_fua,
};
