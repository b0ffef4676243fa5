/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/copy.h"

#include <stdlib.h>
#include <string.h>

#define SECTOR 512

enum { REFUSED_MAX = 8 };

enum { KIND_DATA, KIND_ZERO, KIND_BACKING };

struct chunk {
    uint64_t off, len;
    unsigned src;
    int kind;
};

uint64_t copy_size(const struct copy *c)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < c->nsrc; i++) {
        sum += img_disk_size(&c->src[i]);
    }
    return sum;
}

/* --- what to copy ----------------------------------------------------------------------------------------------- */

/* A sector whose status cannot be found out counts as data: so much less is asked for until it is known where that is.
 */
static int salvage_status(struct copy *c, unsigned src, uint64_t off, struct extent *x, int *depth)
{
    uint64_t at = off - c->start[src], len = c->start[src + 1] - off;
    int rc = img_disk_status(&c->src[src], at, len, x, depth);
    while (rc && c->salvage && len > SECTOR) {
        len = round_up(len / 4, SECTOR);
        rc = img_disk_status(&c->src[src], at, len, x, depth);
    }
    if (rc && c->salvage) {
        tool_warn(c->img, "error while reading block status at offset %" PRIu64 ": %s", off, g_strerror(-rc));
        *x = (struct extent){.len = len, .flags = EXT_DATA | EXT_ALLOCATED};
        *depth = rc = 0;
    }
    return rc;
}

/* What the range at `off` of the whole is; *len: how far. Never across two sources. */
static int extent_at(struct copy *c, unsigned src, uint64_t off, uint64_t *len, int *kind)
{
    struct extent x;
    int depth = 0;
    int rc = salvage_status(c, src, off, &x, &depth);
    if (rc) {
        return rc;
    }
    *len = min_u64(x.len, c->start[src + 1] - off);
    *kind = x.flags & EXT_ZERO ? KIND_ZERO : KIND_DATA;
    bool undecided = !(x.flags & EXT_ALLOCATED) && depth == c->backing_depth - 1; /* none above has it */
    if (c->backing_depth && off < c->backing_size && (depth >= c->backing_depth || undecided)) {
        *kind = KIND_BACKING;
    } else if (c->backing_depth && off >= c->backing_size && *kind == KIND_ZERO) {
        *kind = KIND_BACKING; /* the target's ends here too: nothing reads as zeroes already */
    }
    if (c->backing_depth && off < c->backing_size) {
        *len = min_u64(*len, c->backing_size - off);
    }
    return 0;
}

/* Looks the extent at c->next up unless the last one reaches so far. */
static int update_extent(struct copy *c)
{
    while (c->next >= c->start[c->cur + 1]) {
        c->cur++;
    }
    if (c->next < c->ext_end) {
        return 0;
    }
    uint64_t len;
    int rc = extent_at(c, c->cur, c->next, &len, &c->ext_kind);
    c->ext_end = rc ? c->ext_end : c->next + len;
    return rc;
}

/* A compressed target takes whole clusters: what fills none is data. */
static int whole_clusters(struct copy *c, struct chunk *k)
{
    uint64_t end = min_u64(c->next + c->cluster, c->size);
    int rc = update_extent(c);
    k->src = c->cur;
    k->kind = c->ext_kind;
    if (rc) {
        return rc;
    }
    if (c->ext_end >= end && (k->kind == KIND_BACKING || (k->kind == KIND_ZERO && c->sparse))) {
        end = c->ext_end == c->size ? c->size : round_down(c->ext_end, c->cluster);
    } else {
        k->kind = KIND_DATA;
    }
    k->off = c->next;
    k->len = end - c->next;
    return 0;
}

static int plain_range(struct copy *c, struct chunk *k)
{
    int rc = update_extent(c);
    if (rc) {
        return rc;
    }
    *k = (struct chunk){.off = c->next, .len = c->ext_end - c->next, .src = c->cur, .kind = c->ext_kind};
    if (k->kind == KIND_DATA || (k->kind == KIND_ZERO && !c->sparse)) {
        k->len = min_u64(k->len, COPY_BUF_SIZE - c->next % c->cluster);
    }
    return 0;
}

static void fail(struct copy *c, int rc, const char *what, uint64_t off)
{
    if (!c->rc) {
        c->rc = rc;
        if (c->is_commit) {
            tool_fail(c->img, "Block job failed: %s", g_strerror(-rc));
        } else {
            tool_fail(c->img, "error while %s %" PRIu64 ": %s", what, off, g_strerror(-rc));
        }
    }
    co_queue_wake_all(&c->turns);
}

static void keep_rate(struct copy *c, uint64_t len)
{
    if (!c->rate) {
        return;
    }
    c->passed += len;
    uint64_t due = c->began_ns + (uint64_t)((double)c->passed * 1e9 / (double)c->rate), now = loop_now_ns();
    if (due > now) {
        co_sleep(due - now);
    }
}

/* The next chunk with something to do; false: none left or failed. */
static bool next_chunk(struct copy *c, struct chunk *k)
{
    co_lock(&c->cursor);
    bool found = false;
    while (!found && !c->rc && c->next < c->size) {
        int rc = c->compressed ? whole_clusters(c, k) : plain_range(c, k);
        if (rc) {
            fail(c, rc, "reading block status at offset", c->next);
            break;
        }
        c->next += k->len;
        found = true;
        if (k->kind == KIND_DATA) {
            keep_rate(c, k->len);
        }
    }
    co_unlock(&c->cursor);
    return found && !c->rc;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

static void read_salvaging(struct copy *c, struct img_disk *d, uint64_t off, uint64_t len, char *buf)
{
    for (uint64_t i = 0; i < len; i += SECTOR) {
        uint64_t n = min_u64(SECTOR, len - i);
        int rc = img_disk_read(d, off + i, n, buf + i);
        if (rc) {
            tool_warn(c->img, "error while reading offset %" PRIu64 ": %s", off + i, g_strerror(-rc));
            memset(buf + i, 0, n);
        }
    }
}

/* A cluster of a compressed target may span sources, hence the loop. */
static bool read_chunk(struct copy *c, const struct chunk *k, char *buf)
{
    uint64_t end = k->off + k->len;
    unsigned src = k->src;
    for (uint64_t off = k->off; off < end;) {
        while (off >= c->start[src + 1]) {
            src++;
        }
        uint64_t n = min_u64(end, c->start[src + 1]) - off, at = off - c->start[src];
        int rc = img_disk_read(&c->src[src], at, n, buf + (off - k->off));
        if (rc && c->salvage) {
            read_salvaging(c, &c->src[src], at, n, buf + (off - k->off));
        } else if (rc) {
            fail(c, rc, "reading at byte", off);
            return false;
        }
        off += n;
    }
    return true;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

/* Writes start in the order of offsets, so that the target is laid out in order; several are under way at a time. */
static bool wait_turn(struct copy *c, const struct chunk *k)
{
    while (!c->any_order && c->turn != k->off && !c->rc) {
        co_queue_wait(&c->turns);
    }
    c->turn = k->off + k->len;
    co_queue_wake_all(&c->turns);
    return !c->rc;
}

static int write_zero(struct copy *c, uint64_t off, uint64_t len)
{
    if (c->reads_zero) {
        return 0;
    }
    return img_disk_zero(c->dst, off, len, c->sparse ? REQ_MAY_UNMAP : 0);
}

/* Length of the run at `pos` whose granules are all zero (or none is). They lie on multiples of
 * their size, which is that of the smallest hole, rounded down to a power of two. */
static uint64_t run_length(const struct copy *c, const struct chunk *k, const char *buf, uint64_t pos, bool *zero)
{
    uint64_t unit = UINT64_C(1) << log2_floor(c->sparse), i = pos;
    while (i < k->len) {
        uint64_t n = min_u64(unit - (k->off + i) % unit, k->len - i);
        bool z = buf_is_zero(buf + i, n);
        if (i == pos) {
            *zero = z;
        } else if (z != *zero) {
            break;
        }
        i += n;
    }
    return i - pos;
}

static int write_sparse(struct copy *c, const struct chunk *k, const char *buf)
{
    uint64_t from = 0; /* data from here to pos has not been written yet */
    int rc = 0;
    for (uint64_t pos = 0, n; pos < k->len && rc == 0; pos += n) {
        bool zero = false;
        n = run_length(c, k, buf, pos, &zero);
        if (!zero || (n < c->sparse && pos + n < k->len)) {
            continue;
        }
        if (pos > from) {
            rc = img_disk_write(c->dst, k->off + from, pos - from, buf + from, 0);
        }
        rc = rc ? rc : write_zero(c, k->off + pos, n);
        from = pos + n;
    }
    if (rc == 0 && from < k->len) {
        rc = img_disk_write(c->dst, k->off + from, k->len - from, buf + from, 0);
    }
    return rc;
}

static int write_data(struct copy *c, const struct chunk *k, const char *buf)
{
    if (c->compressed) {
        if (c->sparse && buf_is_zero(buf, k->len)) {
            return write_zero(c, k->off, k->len);
        }
        return img_disk_write(c->dst, k->off, k->len, buf, REQ_COMPRESSED);
    }
    if (!c->sparse) {
        return img_disk_write(c->dst, k->off, k->len, buf, 0);
    }
    return write_sparse(c, k, buf);
}

static bool write_chunk(struct copy *c, const struct chunk *k, const char *buf, bool as_data)
{
    int rc = as_data ? write_data(c, k, buf) : k->kind == KIND_ZERO ? write_zero(c, k->off, k->len) : 0;
    if (rc) {
        fail(c, rc, "writing at byte", k->off);
    }
    return rc == 0;
}

static bool move_data(struct copy *c, const struct chunk *k, char *buf)
{
    return !k->len || (read_chunk(c, k, buf) && write_chunk(c, k, buf, true));
}

/* False: not this way, for whatever reason; reading and writing will do, or tell. */
static bool host_copies(struct copy *c, const struct chunk *k)
{
    struct node *from = c->src[k->src].node;
    int rc = edge_copy_range(c->dst->edge, k->off, k->len, from, k->off - c->start[k->src]);
    if (rc == 0 && c->dst->writethrough) {
        rc = edge_flush(c->dst->edge);
    }
    c->refused = rc ? c->refused + 1 : 0;
    c->offload = c->refused < REFUSED_MAX;
    return rc == 0;
}

/* Whole units of the target by the host, what is around them as always. */
static bool offload(struct copy *c, const struct chunk *k, char *buf)
{
    uint64_t end = k->off + k->len, lo = round_up(k->off, c->unit), hi = round_down(end, c->unit);
    struct chunk head = *k, mid = *k, tail = *k;
    mid.off = lo;
    mid.len = lo < hi ? hi - lo : 0;
    head.len = lo - k->off;
    tail.off = hi;
    tail.len = end - hi;
    if (!mid.len || !host_copies(c, &mid)) {
        return move_data(c, k, buf);
    }
    return move_data(c, &head, buf) && move_data(c, &tail, buf);
}

static bool copy_chunk(struct copy *c, const struct chunk *k, char *buf)
{
    bool as_data = k->kind == KIND_DATA || (k->kind == KIND_ZERO && !c->sparse);
    bool by_host = k->kind == KIND_DATA && c->offload, ok = true;
    if (k->kind == KIND_ZERO && !c->sparse) {
        memset(buf, 0, k->len);
    } else if (as_data && !by_host) {
        ok = read_chunk(c, k, buf);
    }
    ok = ok && wait_turn(c, k);
    ok = ok && (by_host ? offload(c, k, buf) : write_chunk(c, k, buf, as_data));
    if (ok && k->kind == KIND_DATA) {
        c->done_data += k->len;
        img_progress_set(c->progress, c->total_data ? (double)c->done_data * 100 / (double)c->total_data
                                                    : (double)c->next * 100 / (double)c->size);
    }
    return ok;
}

static void worker(void *arg)
{
    struct copy *c = arg;
    char *buf = block_buf_alloc(c->dst->node, COPY_BUF_SIZE);
    struct chunk k;
    if (!buf) {
        fail(c, -ENOMEM, "allocating memory at byte", c->next);
    }
    while (buf && next_chunk(c, &k) && copy_chunk(c, &k, buf)) {
    }
    free(buf);
    if (--c->running == 0) {
        co_wake(c->waiter);
    }
}

/* --- all of it -------------------------------------------------------------------------------------------------- */

/* How much data there is: for the progress, and as scripts know it where something is to be salvaged, told twice. */
static void count_data(struct copy *c)
{
    for (unsigned i = 0; i < c->nsrc && (c->progress->on || c->salvage); i++) {
        uint64_t len;
        for (uint64_t off = c->start[i]; off < c->start[i + 1]; off += len) {
            int kind;
            if (extent_at(c, i, off, &len, &kind)) {
                len = c->start[i + 1] - off; /* the copy will find it again and say so */
                kind = KIND_DATA;
            }
            c->total_data += kind == KIND_DATA ? len : 0;
        }
    }
}

static void find_units(struct copy *c)
{
    struct driver_info info = {0};
    const struct block_driver *drv = c->dst->node->drv;
    uint32_t size = drv->get_info && drv->get_info(c->dst->node, &info) == 0 ? info.cluster_size : 0;
    c->cluster = size && size <= COPY_BUF_SIZE ? size : 65536;
    c->unit = size ? size : 1;
}

int copy_run(struct copy *c)
{
    CLEANUP_FREE uint64_t *start = g_new0(uint64_t, c->nsrc + 1);
    for (unsigned i = 0; i < c->nsrc; i++) {
        start[i + 1] = start[i] + img_disk_size(&c->src[i]);
    }
    c->start = start;
    c->size = start[c->nsrc];
    find_units(c);
    count_data(c);
    c->began_ns = loop_now_ns();
    c->waiter = co_self();
    c->running = c->workers;
    for (unsigned i = 0; i < c->workers; i++) {
        co_start_later(c->img->loop, worker, c);
    }
    while (c->running) {
        co_wait();
    }
    if (c->rc == 0) {
        img_progress_set(c->progress, 100);
    }
    c->start = NULL;
    return c->rc;
}
