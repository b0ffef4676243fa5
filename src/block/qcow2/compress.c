/* SPDX-License-Identifier: BSD-2-Clause */
/* Compressed clusters: raw deflate with a 4 KiB window, or one zstd frame; on worker threads. */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/debug.h"

#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* Of clusters of 64 KiB it makes about 1 % more than level 3, the library's default, in two thirds of the time. */
enum { ZSTD_LEVEL = 2 };

struct codec {
    int type;
    const uint8_t *in;
    uint8_t *out;
    size_t in_len, out_len; /* out_len: room, then what was produced */
    ZSTD_CCtx *zstd;        /* to compress with; NULL: to be made */
};

static int inflate_work(struct codec *c)
{
    z_stream z = {.next_in = (uint8_t *)c->in, .avail_in = c->in_len, .next_out = c->out, .avail_out = c->out_len};
    if (inflateInit2(&z, -12) != Z_OK) {
        return -ENOMEM;
    }
    int rc = inflate(&z, Z_FINISH);
    bool full = z.avail_out == 0; /* what follows in the last sector may be anything */
    inflateEnd(&z);
    return rc == Z_STREAM_END || (rc == Z_BUF_ERROR && full) ? (full ? 0 : -EIO) : -EIO;
}

static int unzstd_work(struct codec *c)
{
    ZSTD_DCtx *d = ZSTD_createDCtx();
    ZSTD_inBuffer in = {c->in, c->in_len, 0};
    ZSTD_outBuffer out = {c->out, c->out_len, 0};
    int rc = d ? 0 : -ENOMEM;
    while (rc == 0 && out.pos < out.size) { /* the sectors may hold more than the frame */
        size_t before = in.pos + out.pos, left = ZSTD_decompressStream(d, &out, &in);
        if (ZSTD_isError(left) || (out.pos < out.size && (left == 0 || in.pos + out.pos == before))) {
            rc = -EIO;
        }
    }
    ZSTD_freeDCtx(d);
    return rc;
}

static int decompress_work(void *arg)
{
    struct codec *c = arg;
    return c->type == COMPRESS_ZSTD ? unzstd_work(c) : inflate_work(c);
}

static int deflate_work(struct codec *c)
{
    z_stream z = {.next_in = (uint8_t *)c->in, .avail_in = c->in_len, .next_out = c->out, .avail_out = c->out_len};
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK) {
        return -ENOMEM;
    }
    int rc = deflate(&z, Z_FINISH);
    c->out_len -= z.avail_out;
    deflateEnd(&z);
    return rc == Z_STREAM_END ? 0 : -ENOSPC;
}

static int compress_work(void *arg)
{
    struct codec *c = arg;
    if (c->type == COMPRESS_ZLIB) {
        return deflate_work(c);
    }
    c->zstd = c->zstd ? c->zstd : ZSTD_createCCtx();
    if (!c->zstd) {
        return -ENOMEM;
    }
    size_t n = ZSTD_compressCCtx(c->zstd, c->out, c->out_len, c->in, c->in_len, ZSTD_LEVEL);
    c->out_len = n;
    return ZSTD_isError(n) ? -ENOSPC : 0;
}

int compressed_read(struct qcow2 *s, uint64_t entry, uint64_t in_cluster, uint64_t len, const struct iovs *v,
                    size_t voff)
{
    uint64_t off, n;
    compressed_range(s, entry, &off, &n);
    uint8_t *buf = g_try_malloc(n + s->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    struct codec c = {s->h.compression, buf, buf + n, n, s->cluster_size};
    block_debug_event_at(s->file->child, "read_compressed");
    int rc = file_read_buf(s->file, off, n, buf);
    if (rc == 0) {
        rc = co_work(decompress_work, &c);
    }
    if (rc == 0) {
        iovs_from_buf(v, voff, buf + n + in_cluster, len);
    }
    g_free(buf);
    return rc;
}

static unsigned offset_bits(const struct qcow2 *s)
{
    return 62 - (s->cluster_bits - 8);
}

static uint64_t compressed_entry(const struct qcow2 *s, uint64_t off, uint32_t len)
{
    uint64_t sectors = (off + len - 1) / 512 - off / 512;
    return off | E_COMPRESSED | sectors << offset_bits(s);
}

/* Room whose place an entry can tell: with clusters of 2 MiB files may be longer than that. */
static int alloc_room(struct qcow2 *s, uint32_t len, uint64_t *at)
{
    int rc = bytes_alloc(s, len, at);
    if (rc == 0 && *at >> offset_bits(s)) {
        rc = clusters_free_now(s, *at, len);
        rc = rc < 0 ? rc : -EFBIG;
    }
    return rc < 0 ? rc : meta_check(s, *at, len, 0);
}

static int link_compressed(struct qcow2 *s, uint64_t guest, uint64_t entry)
{
    uint8_t *data;
    unsigned i;
    int rc = slice_modify(s, guest, &data, &i);
    if (rc == 0) {
        entry_free(s, entry_load(s, data, i), FREE_OTHER);
        entry_store(s, data, i, (struct q_entry){.e = entry});
        s->unstable = true;
    }
    return rc;
}

static int store_compressed(struct qcow2 *s, uint64_t guest, const uint8_t *out, uint32_t len)
{
    uint64_t cluster = guest >> s->cluster_bits, at = 0;
    struct q_flight f;
    co_lock(&s->lock);
    flights_wait(s, cluster, 1);
    int rc = l2_own(s, guest, 1);
    rc = rc < 0 ? rc : alloc_room(s, len, &at);
    if (rc < 0) {
        co_unlock(&s->lock);
        return rc;
    }
    s->file_high = max_u64(s->file_high, at + len);
    flight_begin(s, &f, cluster, 1);
    co_unlock(&s->lock);
    block_debug_event_at(s->file->child, "write_compressed");
    rc = file_write_buf(s, at, len, out);
    if (rc == 0) {
        rc = link_compressed(s, guest, compressed_entry(s, at, len));
    } else {
        clusters_free_now(s, at, len);
    }
    flight_end(s, &f);
    return rc;
}

static int write_cluster(struct qcow2 *s, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    uint8_t *buf = g_try_malloc(2 * s->cluster_size);
    if (!buf) {
        return -ENOMEM;
    }
    iovs_to_buf(v, voff, buf, len);
    memset(buf + len, 0, s->cluster_size - len);
    struct codec c = {s->h.compression, buf, buf + s->cluster_size, s->cluster_size, s->cluster_size - 1};
    c.zstd = g_queue_pop_head(&s->zstd_idle);
    int rc = co_work(compress_work, &c);
    if (c.zstd) {
        g_queue_push_head(&s->zstd_idle, c.zstd);
    }
    if (rc == -ENOSPC) { /* does not get smaller */
        rc = qcow2_write(s->n, off, len, v, voff, 0);
    } else if (rc == 0) {
        rc = store_compressed(s, off, c.out, c.out_len);
    }
    g_free(buf);
    return rc;
}

void compress_finish(struct qcow2 *s)
{
    for (ZSTD_CCtx *z; (z = g_queue_pop_head(&s->zstd_idle));) {
        ZSTD_freeCCtx(z);
    }
}

int qcow2_write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    struct qcow2 *s = n->priv;
    if (s->has_data_file || s->crypt) { /* what is compressed would lie there in the clear */
        return -ENOTSUP;
    }
    if ((off & (s->cluster_size - 1)) || ((len & (s->cluster_size - 1)) && off + len != n->size)) {
        return -EINVAL;
    }
    for (uint64_t done = 0; done < len; done += s->cluster_size) {
        int rc = qcow2_make_room(s);
        if (rc == 0) {
            rc = write_cluster(s, off + done, min_u64(s->cluster_size, len - done), v, voff + done);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}
