/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands about the medium's data. */
#include "base/checked.h"
#include "base/endian.h"
#include "device/scsi_disk.h"

#include <stdlib.h>
#include <string.h>

enum { FUA = 8, PIECE = 1 << 20 };

struct range {
    uint64_t lba, blocks;
    uint64_t off, len; /* in bytes */
};

/* Where a command's logical blocks are, by the size of its CDB. */
static struct range cdb_range(const struct scsi_disk *s, const uint8_t *c)
{
    struct range g = {0};
    switch (c[0] >> 5) {
    case 0:
        g.lba = load_be32(c) & 0x1fffff;
        g.blocks = c[4] ? c[4] : 256;
        break;
    case 4:
        g.lba = load_be64(c + 2);
        g.blocks = load_be32(c + 10);
        break;
    case 5:
        g.lba = load_be32(c + 2);
        g.blocks = load_be32(c + 6);
        break;
    default:
        g.lba = load_be32(c + 2);
        g.blocks = load_be16(c + 7);
        break;
    }
    g.off = g.lba * s->block_size;
    g.len = g.blocks * s->block_size;
    return g;
}

static int outside(struct scsi_disk *s, struct scsi_req *r, enum acct_type t)
{
    acct_invalid(&s->disk.backend->stats, t);
    return scsi_fail(r, SENSE_LBA_OUT_OF_RANGE);
}

/* Counts it, and gives its result on. */
static int counted(struct scsi_disk *s, const struct scsi_req *r, enum acct_type t, uint64_t bytes, int rc)
{
    acct_done(&s->disk.backend->stats, t, bytes, r->start_ns, rc == 0);
    return rc;
}

static bool writes_through(const struct scsi_disk *s, const struct scsi_req *r)
{
    return !s->disk.backend->write_cache || (r->cdb[0] != SCSI_WRITE_6 && (r->cdb[1] & FUA)) ||
           r->cdb[0] == SCSI_WRITE_VERIFY_10 || r->cdb[0] == SCSI_WRITE_VERIFY_12 || r->cdb[0] == SCSI_WRITE_VERIFY_16;
}

/* --- read and write ----------------------------------------------------------------------------------------------- */

int scsi_cmd_read(struct scsi_disk *s, struct scsi_req *r)
{
    struct range g = cdb_range(s, r->cdb);
    if (!range_ok(g.lba, g.blocks, s->blocks)) {
        return outside(s, r, ACCT_READ);
    }
    r->overrun = g.len > r->in.size;
    if (r->overrun || !g.len) {
        return 0;
    }
    struct backend *b = s->disk.backend;
    backend_wait_turn(b, false, g.len);
    int rc = b->root ? edge_read(b->root, g.off, g.len, &r->in, 0, 0) : -ENOMEDIUM;
    r->moved = rc == 0 ? g.len : 0;
    return counted(s, r, ACCT_READ, g.len, rc);
}

int scsi_cmd_write(struct scsi_disk *s, struct scsi_req *r)
{
    struct range g = cdb_range(s, r->cdb);
    if (!range_ok(g.lba, g.blocks, s->blocks)) {
        return outside(s, r, ACCT_WRITE);
    }
    r->overrun = g.len > r->out.size;
    if (r->overrun || !g.len) {
        return 0;
    }
    struct backend *b = s->disk.backend;
    backend_wait_turn(b, true, g.len);
    unsigned flags = writes_through(s, r) ? REQ_FUA : 0;
    int rc = b->root ? edge_write(b->root, g.off, g.len, &r->out, 0, flags) : -ENOMEDIUM;
    r->moved = rc == 0 ? g.len : 0;
    return counted(s, r, ACCT_WRITE, g.len, rc);
}

int scsi_cmd_synchronize(struct scsi_disk *s, struct scsi_req *r)
{
    struct edge *root = s->disk.backend->root;
    return counted(s, r, ACCT_FLUSH, 0, root ? edge_flush(root) : -ENOMEDIUM);
}

/* Reads the piece at `at`, and with `compare` looks whether it is what the command sent. */
static int verify_piece(struct scsi_disk *s, struct scsi_req *r, struct range g, uint64_t at, void *buf, bool compare)
{
    struct edge *root = s->disk.backend->root;
    size_t n = min_u64(PIECE, g.len - at);
    int rc = root ? edge_read_buf(root, g.off + at, n, buf) : -ENOMEDIUM;
    if (rc < 0 || !compare) {
        return rc;
    }
    uint8_t *sent = (uint8_t *)buf + PIECE;
    iovs_to_buf(&r->out, at, sent, n);
    return memcmp(buf, sent, n) != 0 ? scsi_fail(r, SENSE_MISCOMPARE) : 0;
}

int scsi_cmd_verify(struct scsi_disk *s, struct scsi_req *r)
{
    struct range g = cdb_range(s, r->cdb);
    unsigned check = r->cdb[1] >> 1 & 3;
    bool compare = check == 1;
    if (check > 1) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!range_ok(g.lba, g.blocks, s->blocks)) {
        return outside(s, r, ACCT_READ);
    }
    r->overrun = compare && g.len > r->out.size;
    if (r->overrun || !g.len) {
        return 0;
    }
    void *buf = s->disk.backend->root ? block_buf_alloc(s->disk.backend->root->child, 2 * PIECE) : NULL;
    int rc = buf ? 0 : -ENOMEM;
    for (uint64_t at = 0; rc == 0 && at < g.len; at += PIECE) {
        rc = verify_piece(s, r, g, at, buf, compare);
    }
    free(buf);
    r->moved = rc == 0 && compare ? g.len : 0;
    return rc;
}

/* --- unmap and write same ----------------------------------------------------------------------------------------- */

/* What was written or discarded behind the cache's back is as durable as a write would be. */
static int as_durable(struct scsi_disk *s, int rc)
{
    struct edge *root = s->disk.backend->root;
    return rc == 0 && root && !s->disk.backend->write_cache ? edge_flush(root) : rc;
}

static int unmap_list(struct scsi_disk *s, struct scsi_req *r, const uint8_t *d, size_t n)
{
    uint64_t most = (uint64_t)device_int(&s->dev, "max_unmap_size") / s->block_size, bytes = 0;
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t lba = load_be64(d + 16 * i), blocks = load_be32(d + 16 * i + 8);
        if (!range_ok(lba, blocks, s->blocks)) {
            return outside(s, r, ACCT_DISCARD);
        }
        if (blocks > most) {
            return scsi_fail(r, SENSE_INVALID_PARAM);
        }
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint64_t lba = load_be64(d + 16 * i), len = (uint64_t)load_be32(d + 16 * i + 8) * s->block_size;
        struct edge *root = s->disk.backend->root;
        rc = !root ? -ENOMEDIUM : len ? edge_discard(root, lba * s->block_size, len) : 0;
        bytes += len;
    }
    return counted(s, r, ACCT_DISCARD, bytes, as_durable(s, rc));
}

int scsi_cmd_unmap(struct scsi_disk *s, struct scsi_req *r)
{
    enum { HEAD = 8, ENTRY = 16, MOST = 255 };
    uint8_t d[HEAD + ENTRY * MOST];
    size_t len = load_be16(r->cdb + 7);
    if (r->cdb[1] & 1) { /* anchored blocks */
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!len) {
        return 0;
    }
    if (len < HEAD) {
        return scsi_fail(r, SENSE_LIST_LENGTH);
    }
    if (len > sizeof(d)) {
        return scsi_fail(r, SENSE_INVALID_PARAM);
    }
    if (!scsi_fetch(r, d, len)) {
        return 0;
    }
    size_t listed = load_be16(d + 2), n = listed / ENTRY;
    if ((size_t)load_be16(d) < listed + HEAD - 2 || listed > len - HEAD || listed % ENTRY) {
        return scsi_fail(r, SENSE_INVALID_PARAM);
    }
    return unmap_list(s, r, d + HEAD, n);
}

/* The same block over and over. */
static int write_pattern(struct scsi_disk *s, struct range g, const uint8_t *block, unsigned flags)
{
    struct edge *root = s->disk.backend->root;
    size_t size = min_u64(round_down(PIECE, s->block_size), g.len);
    uint8_t *buf = root ? block_buf_alloc(root->child, size) : NULL;
    int rc = buf ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < size; i += s->block_size) {
        memcpy(buf + i, block, s->block_size);
    }
    for (uint64_t at = 0; rc == 0 && at < g.len; at += size) {
        root = s->disk.backend->root;
        rc = root ? edge_write_buf(root, g.off + at, min_u64(size, g.len - at), buf, flags) : -ENOMEDIUM;
    }
    free(buf);
    return rc;
}

int scsi_cmd_write_same(struct scsi_disk *s, struct scsi_req *r)
{
    enum { NDOB = 1, UNMAP = 8, NOT_THERE = 0x16 }; /* anchor, and marks that are long obsolete */
    struct range g = cdb_range(s, r->cdb);
    bool no_data = r->cdb[0] == SCSI_WRITE_SAME_16 && (r->cdb[1] & NDOB);
    if (!g.blocks || (r->cdb[1] & NOT_THERE)) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!range_ok(g.lba, g.blocks, s->blocks)) {
        return outside(s, r, ACCT_WRITE);
    }
    g_autofree uint8_t *block = g_malloc0(s->block_size);
    if (!no_data && !scsi_fetch(r, block, s->block_size)) {
        return 0;
    }
    backend_wait_turn(s->disk.backend, true, 0);
    struct edge *root = s->disk.backend->root; /* it may have gone meanwhile */
    unsigned through = s->disk.backend->write_cache ? 0 : REQ_FUA;
    int rc = -ENOMEDIUM;
    if (root) {
        rc = buf_is_zero(block, s->block_size) ? edge_zero(root, g.off, g.len, r->cdb[1] & UNMAP ? REQ_MAY_UNMAP : 0)
                                               : write_pattern(s, g, block, through);
    }
    return counted(s, r, ACCT_WRITE, g.len, as_durable(s, rc));
}

/* --- capacity ----------------------------------------------------------------------------------------------------- */

int scsi_cmd_read_capacity(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[8];
    if (!(r->cdb[8] & 1) && load_be32(r->cdb + 2)) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!s->blocks) {
        return scsi_fail(r, scsi_disk_not_ready(s));
    }
    store_be32(d, (uint32_t)min_u64(s->blocks - 1, UINT32_MAX));
    store_be32(d + 4, s->block_size);
    return scsi_reply(r, d, sizeof(d), sizeof(d));
}

/* READ CAPACITY (16) */
int scsi_cmd_service_action_in(struct scsi_disk *s, struct scsi_req *r)
{
    uint8_t d[32] = {0};
    uint32_t phys = (uint32_t)device_int(&s->dev, "physical_block_size");
    if ((r->cdb[1] & 0x1f) != 0x10) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!s->blocks) {
        return scsi_fail(r, scsi_disk_not_ready(s));
    }
    store_be64(d, s->blocks - 1);
    store_be32(d + 8, s->block_size);
    d[13] = phys > s->block_size ? (uint8_t)log2_floor(phys / s->block_size) : 0;
    d[14] = device_int(&s->dev, "discard_granularity") ? 0x80 : 0; /* blocks can be unmapped */
    return scsi_reply(r, d, sizeof(d), load_be32(r->cdb + 10));
}
