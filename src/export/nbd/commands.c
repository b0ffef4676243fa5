/* SPDX-License-Identifier: BSD-2-Clause */
/* What each request does. Ranges, flags and permissions were checked when it was parsed (session.c). */
#include "export/nbd/int.h"

#include "base/checked.h"
#include "block/view.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum {
    MIN_FILE = 16 << 10, /* shorter reads are faster copied, many in one call */
    MAX_PIECES = 4096,   /* of one read: chunks of data and holes */
};

/* The node may end before the export does, which is a multiple of 512: what lies between reads as zeroes. */
static uint64_t in_node(const struct nbs_request *r, uint64_t off, uint64_t len)
{
    uint64_t size = edge_size(r->client->exp->edge);
    return off >= size ? 0 : min_u64(len, size - off);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct piece {
    uint64_t off, len;
    bool hole;
};

static int read_into(struct nbs_request *r, uint64_t off, uint8_t *buf, size_t len)
{
    uint64_t part = in_node(r, off, len);
    int rc = part ? edge_read_buf(r->client->exp->edge, off, part, buf) : 0;
    if (!rc && part < len) {
        memset(buf + part, 0, len - part);
    }
    return rc;
}

static bool get_buffer(struct nbs_request *r)
{
    r->buf_len = r->len;
    r->buf = nbs_pool_get(&r->client->server->pool, r->buf_len);
    return r->buf != NULL;
}

/* The whole of it from the host's page cache, without a copy. */
static bool reply_cached(struct nbs_request *r)
{
    struct nbd_export *exp = r->client->exp;
    uint64_t fd_off;
    if (r->len < MIN_FILE || r->client->server->files >= NBS_MAX_FILES || r->client->ch.tls ||
        in_node(r, r->off, r->len) < r->len || exp->edge->gate || !nbs_export_stands_still(exp)) {
        return false;
    }
    int fd = node_cached_fd(exp->edge->child, r->off, r->len, &fd_off);
    fd = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    exp->edge->child->stats.rd_ops++;
    exp->edge->child->stats.rd_bytes += r->len;
    nbs_reply_file(r, r->off, r->len, fd, fd_off);
    return true;
}

static void read_whole(struct nbs_request *r)
{
    if (reply_cached(r)) {
        return;
    }
    if (!get_buffer(r)) {
        nbs_reply_error(r, NBD_ENOMEM, "No memory");
        return;
    }
    int rc = read_into(r, r->off, r->buf, r->len);
    if (rc < 0) {
        nbs_reply_error(r, nbs_error(rc, false), "reading from file failed");
    } else {
        nbs_reply_data(r, r->off, r->buf, r->len, true);
    }
}

/* Where holes are; NULL when an extent cannot be told. */
static GArray *find_pieces(struct nbs_request *r, int *rc)
{
    GArray *pieces = g_array_new(false, false, sizeof(struct piece));
    uint64_t off = r->off, end = r->off + r->len;
    while (off < end) {
        struct extent x = {.len = end - off, .flags = EXT_ZERO};
        if (in_node(r, off, 1)) {
            *rc = edge_status(r->client->exp->edge, off, end - off, &x, NULL);
        }
        if (*rc < 0) {
            g_array_free(pieces, true);
            return NULL;
        }
        bool hole = x.flags & EXT_ZERO;
        struct piece *last = pieces->len ? &g_array_index(pieces, struct piece, pieces->len - 1) : NULL;
        if (pieces->len == MAX_PIECES && last->hole != hole) {
            x.len = end - off; /* enough: the rest as data */
            hole = false;
        }
        if (last && last->hole == hole) {
            last->len += x.len;
        } else {
            struct piece p = {off, x.len, hole};
            g_array_append_val(pieces, p);
        }
        off += x.len;
    }
    return pieces;
}

static int reply_pieces(struct nbs_request *r, const GArray *pieces)
{
    for (guint i = 0; i < pieces->len; i++) {
        const struct piece *p = &g_array_index(pieces, struct piece, i);
        bool done = i + 1 == pieces->len;
        if (p->hole) {
            nbs_reply_hole(r, p->off, (uint32_t)p->len, done);
            continue;
        }
        uint8_t *buf = r->buf + (p->off - r->off);
        int rc = read_into(r, p->off, buf, p->len);
        if (rc < 0) {
            return rc;
        }
        nbs_reply_data(r, p->off, buf, p->len, done);
    }
    return 0;
}

static void read_sparse(struct nbs_request *r)
{
    int rc = 0;
    GArray *pieces = find_pieces(r, &rc);
    if (!pieces) {
        nbs_reply_error(r, nbs_error(rc, false), "unable to check for holes");
        return;
    }
    const struct piece *first = &g_array_index(pieces, struct piece, 0);
    if (pieces->len == 1 && !first->hole) {
        read_whole(r);
    } else if (pieces->len > 1 && !get_buffer(r)) {
        nbs_reply_error(r, NBD_ENOMEM, "No memory");
    } else {
        rc = reply_pieces(r, pieces);
        if (rc < 0) {
            nbs_reply_error(r, nbs_error(rc, false), "reading from file failed");
        }
    }
    g_array_free(pieces, true);
}

static void cmd_read(struct nbs_request *r)
{
    if (!r->len && r->client->mode != NBS_SIMPLE) {
        nbs_reply_done(r);
    } else if (r->client->mode != NBS_SIMPLE && !(r->flags & NBD_CMD_FLAG_DF)) {
        read_sparse(r);
    } else {
        read_whole(r);
    }
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static unsigned fua(const struct nbs_request *r)
{
    return r->flags & NBD_CMD_FLAG_FUA || r->client->exp->writethrough ? REQ_FUA : 0;
}

static int do_write(struct nbs_request *r)
{
    uint64_t part = in_node(r, r->off, r->len);
    int rc = part ? edge_write_buf(r->client->exp->edge, r->off, part, r->payload, fua(r)) : 0;
    /* Behind the node's end zeroes are there already, and nothing else can be. */
    return rc || part == r->len || buf_is_zero(r->payload + part, r->len - part) ? rc : -ENOSPC;
}

static int do_zero(struct nbs_request *r)
{
    unsigned flags = fua(r) | (r->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : REQ_MAY_UNMAP) |
                     (r->flags & NBD_CMD_FLAG_FAST_ZERO ? REQ_NO_FALLBACK : 0);
    uint64_t part = in_node(r, r->off, r->len);
    return part ? edge_zero(r->client->exp->edge, r->off, part, flags) : 0;
}

static int do_trim(struct nbs_request *r)
{
    struct edge *ed = r->client->exp->edge;
    uint64_t part = in_node(r, r->off, r->len);
    int rc = part ? edge_discard(ed, r->off, part) : 0;
    rc = rc == -ENOTSUP ? 0 : rc; /* a hint */
    return rc || !fua(r) ? rc : edge_flush(ed);
}

static int do_cache(struct nbs_request *r)
{
    uint64_t part = in_node(r, r->off, r->len);
    return part ? edge_read(r->client->exp->edge, r->off, part, NULL, 0, REQ_PREFETCH) : 0;
}

static void finish(struct nbs_request *r, int rc, const char *why)
{
    if (rc < 0) {
        nbs_reply_error(r, nbs_error(rc, r->flags & NBD_CMD_FLAG_FAST_ZERO), why);
    } else {
        nbs_reply_done(r);
    }
}

void nbs_request_run(void *request)
{
    struct nbs_request *r = request;
    if (r->error) {
        nbs_reply_error(r, r->error, r->why);
        nbs_request_unref(r);
        return;
    }
    switch (r->type) {
    case NBD_CMD_READ:
        cmd_read(r);
        break;
    case NBD_CMD_WRITE:
        finish(r, do_write(r), "writing to file failed");
        break;
    case NBD_CMD_FLUSH:
        finish(r, edge_flush(r->client->exp->edge), "flush failed");
        break;
    case NBD_CMD_TRIM:
        finish(r, do_trim(r), "discard failed");
        break;
    case NBD_CMD_CACHE:
        finish(r, do_cache(r), "caching data failed");
        break;
    case NBD_CMD_WRITE_ZEROES:
        finish(r, do_zero(r), "writing to file failed");
        break;
    case NBD_CMD_BLOCK_STATUS:
        nbs_block_status(r);
        break;
    }
    nbs_request_unref(r);
}
