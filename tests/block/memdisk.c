/* SPDX-License-Identifier: BSD-2-Clause */
#include "memdisk.h"

#include "base/checked.h"
#include "block/internal.h"

#include <stdlib.h>
#include <string.h>

struct mem_priv {
    struct memdisk *d;
};

static struct memdisk *disk_of(struct node *n)
{
    return ((struct mem_priv *)n->priv)->d;
}

static void maybe_wait(struct memdisk *d)
{
    if (d->delay && ++d->requests % d->delay == 0) {
        co_yield ();
    }
}

/* 0, or what the request fails with. */
static int fails(struct memdisk *disk, unsigned kind)
{
    struct memdisk *d = disk->fails_with ? disk->fails_with : disk;
    unsigned kinds = d->fail_kinds ? d->fail_kinds : FAIL_WRITE | FAIL_FLUSH;
    if (!d->fail_in || !(kinds & kind)) {
        return 0;
    }
    if (--d->fail_in) {
        return 0;
    }
    d->fail_in = d->fail_on;
    d->failed++;
    return d->fail_rc ? d->fail_rc : -EIO;
}

static void keep(struct memdisk *d, enum mem_kind kind, uint64_t off, uint64_t len, const uint8_t *data)
{
    if (!d->log) {
        return;
    }
    struct mem_op op = {kind, d->number, off, len, data ? g_memdup2(data, len) : NULL};
    g_array_append_val(d->log, op);
}

/* Grows in steps: a file that is appended to would be moved at each write. */
static void have_room(struct memdisk *d, uint64_t size)
{
    if (!d->data || size > MAX(d->room, d->size)) {
        d->room = d->size ? size + size / 2 : size;
        d->data = g_realloc(d->data, d->room + 1);
    }
}

void memdisk_resize(struct memdisk *d, uint64_t size)
{
    have_room(d, size);
    if (size > d->size) {
        memset(d->data + d->size, 0, size - d->size);
    }
    d->size = size;
}

void memdisk_copy(struct memdisk *to, const struct memdisk *from)
{
    have_room(to, from->size);
    memcpy(to->data, from->data, from->size);
    to->size = from->size;
}

static int mem_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct memdisk *d = disk_of(n);
    maybe_wait(d);
    int rc = fails(d, FAIL_READ);
    if (rc == 0) {
        iovs_from_buf(v, voff, d->data + off, len);
    }
    return rc;
}

static int mem_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct memdisk *d = disk_of(n);
    maybe_wait(d);
    int rc = fails(d, FAIL_WRITE);
    if (rc < 0) {
        return rc;
    }
    iovs_to_buf(v, voff, d->data + off, len);
    keep(d, MEM_WRITE, off, len, d->data + off);
    maybe_wait(d);
    return 0;
}

/* What is discarded may be lost at once. */
static int mem_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct memdisk *d = disk_of(n);
    memset(d->data + off, 0xdd, len);
    keep(d, MEM_WRITE, off, len, d->data + off);
    return 0;
}

/* What came while it waited is not promised. */
static int mem_flush(struct node *n)
{
    struct memdisk *d = disk_of(n);
    unsigned began = d->log ? d->log->len : 0;
    int rc = fails(d, FAIL_FLUSH);
    if (rc < 0) {
        return rc;
    }
    maybe_wait(d);
    for (unsigned i = 0; i < d->slow_flush; i++) {
        co_yield ();
    }
    keep(d, MEM_FLUSHED, began, 0, NULL);
    return 0;
}

static int mem_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct memdisk *d = disk_of(n);
    int rc = size > d->size ? fails(d, FAIL_GROW) : 0;
    if (size > d->max || rc < 0) {
        return err_set(e, rc ? -rc : ENOSPC, "the memory disk cannot grow");
    }
    memdisk_resize(d, size);
    keep(d, MEM_SIZE, 0, size, NULL);
    node_set_size(n, size);
    return 0;
}

static const struct block_driver mem_driver = {
    .name = "memory",
    .priv_size = sizeof(struct mem_priv),
    .is_protocol = true,
    .read = mem_read,
    .write = mem_write,
    .discard = mem_discard,
    .flush = mem_flush,
    .truncate = mem_truncate,
};

struct node *memdisk_open(struct block_graph *g, struct memdisk *d, const char *name)
{
    struct node *n;
    if (node_create(g, &mem_driver, name, &n, NULL) < 0) {
        return NULL;
    }
    ((struct mem_priv *)n->priv)->d = d;
    n->options = json_object_new_object();
    g_free(n->filename);
    n->filename = g_strdup(name);
    d->max = d->max ? d->max : 1 << 30;
    d->data = d->data ? d->data : g_malloc0(1);
    n->limits.request_align = 1;
    n->discard_unmap = true;
    n->opened = true;
    node_set_size(n, d->size);
    return n;
}

static void op_clear(void *p)
{
    g_free(((struct mem_op *)p)->data);
}

void memdisk_finish(struct memdisk *d)
{
    g_free(d->data);
    if (d->log) {
        g_array_unref(d->log);
    }
    *d = (struct memdisk){0};
}

void memdisk_log_start(struct memdisk *d)
{
    if (d->log) {
        g_array_unref(d->log);
    }
    d->log = g_array_new(FALSE, FALSE, sizeof(struct mem_op));
    g_array_set_clear_func(d->log, op_clear);
    d->number = 0;
}

void memdisk_log_share(struct memdisk *d, const struct memdisk *with, unsigned number)
{
    if (d->log) {
        g_array_unref(d->log);
    }
    d->log = g_array_ref(with->log);
    d->number = number;
}

/* --- crashes ------------------------------------------------------------------------------------------------------ */

static uint64_t number(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return *seed >> 33;
}

/* Some of a write's sectors. */
static void apply(struct memdisk *d, const struct mem_op *op, unsigned percent, uint64_t *seed)
{
    if (op->kind == MEM_SIZE && number(seed) % 100 < percent) {
        memdisk_resize(d, op->len);
    }
    for (uint64_t at = op->off, end = op->off + op->len; op->kind == MEM_WRITE && at < end;) {
        uint64_t stop = min_u64(end, (at | 511) + 1);
        if (number(seed) % 100 < percent) {
            if (d->size < stop) {
                memdisk_resize(d, stop);
            }
            memcpy(d->data + at, op->data + (at - op->off), stop - at);
        }
        at = stop;
    }
}

void memdisk_crash(struct memdisk *to, const struct memdisk *from, const GArray *log, unsigned n, uint64_t *seed)
{
    unsigned stable = 0;
    for (unsigned i = 0; i < n; i++) {
        const struct mem_op *op = &g_array_index(log, struct mem_op, i);
        if (op->kind == MEM_FLUSHED) {
            stable = MAX(stable, (unsigned)op->off);
        }
    }
    memdisk_copy(to, from);
    unsigned mood = number(seed) % 4; /* nothing, everything, whole writes, or sectors of what was not flushed */
    for (unsigned i = 0; i < n; i++) {
        const struct mem_op *op = &g_array_index(log, struct mem_op, i);
        unsigned percent = (unsigned[]){0, 100, number(seed) % 2 * 100, 50}[mood];
        apply(to, op, i < stable ? 100 : percent, seed);
    }
}
