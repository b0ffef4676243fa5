/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as the file of a live copy: opened, described, checked, repaired, read, written to and copied to the end.
 * Its sides are memory, whatever the file calls them. Checksums are made right unless the input says otherwise.
 */
#include "image.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "block/live_copy/lc.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD_BYTES = 128, DISK_MAX = 256 << 10, STEPS = 24 };
enum { KEEP_SUMS = 1, READ_ONLY = 2, BARE = 4, NO_SOURCE = 8, NO_DESTINATION = 16, BIG = 32 };

static void put(struct memdisk *d, uint64_t at, const uint8_t *from, size_t n)
{
    if (at < d->size) {
        memcpy(d->data + at, from, MIN(n, d->size - at));
    }
}

static void make_sums(struct memdisk *d)
{
    uint8_t *p = d->data;
    memcpy(p, LC_MAGIC, 8);
    store_be32(p + 12, 0);
    store_be32(p + 12, crc32c(0, p, LC_HEAD_SIZE));
    for (int i = 0; i < 2; i++) {
        uint8_t *st = p + LC_STATE_AT + i * LC_STATE_STRIDE;
        memcpy(st, "LCST", 4);
        store_be32(st + 4, crc32c(0, st + 8, LC_STATE_SIZE - 8));
    }
    for (uint64_t at = LC_BITMAP_AT, i = 0; at + LC_BLOCK <= d->size; at += LC_BLOCK, i++) {
        store_be32(p + at + 4, (uint32_t)i);
        store_be32(p + at, crc32c(0, p + at + 4, LC_BLOCK - 4));
    }
}

/* The file; returns the size of the disk that it is about. */
static uint64_t make_file(struct input *in, struct memdisk *d)
{
    const uint8_t *p = in->data + 1;
    size_t left = in->size - 1, head = MIN(left, HEAD_BYTES);
    *d = (struct memdisk){.size = LC_BITMAP_AT + LC_PAGE, .max = 1 << 20};
    d->data = g_malloc0(d->size + 1);
    put(d, 0, p, head);
    put(d, LC_STATE_AT, p + head, MIN(left - head, LC_STATE_SIZE));
    size_t used = MIN(left, head + LC_STATE_SIZE);
    put(d, LC_STATE_AT + LC_STATE_STRIDE, p + used, MIN(left - used, LC_STATE_SIZE));
    used = MIN(left, used + LC_STATE_SIZE);
    put(d, LC_BITMAP_AT, p + used, left - used);
    uint64_t size = load_be64(d->data + 16);
    if (!(in->data[0] & BIG)) {
        size %= DISK_MAX;
        store_be64(d->data + 16, size);
    }
    if (!(in->data[0] & KEEP_SUMS)) {
        make_sums(d);
    }
    return MIN(size, DISK_MAX);
}

static struct node *open_one(struct input *in)
{
    return fuzz_open(in,
                     "{'driver': 'live-copy', 'file': 'meta', 'source': {'driver': 'raw', 'file': 'src'}, "
                     "'destination': {'driver': 'raw', 'file': 'dst'}, 'discard': 'unmap', 'read-only': %s, "
                     "'record-ms': 1, 'retry-ms': 1%s}",
                     in->data[0] & READ_ONLY ? "true" : "false", in->data[0] & BARE ? ", 'backing': null" : "");
}

static void step(struct input *in, struct edge *ed, uint8_t *buf, unsigned i)
{
    uint64_t size = edge_size(ed), b = fuzz_byte(in, i);
    uint64_t off = size ? b * UINT64_C(0x9e3779b97f4a7c15) % size : 0, len = MIN(size - off, 1 + b * 53);
    switch (b % 7) {
    case 0:
        edge_zero(ed, off, len, b & 8 ? REQ_MAY_UNMAP : 0);
        break;
    case 1:
        edge_discard(ed, off, len);
        break;
    case 2:
        edge_flush(ed);
        break;
    case 3:
        edge_read_buf(ed, off, len, buf);
        break;
    case 4:
        live_copy_switch(ed->child, NULL);
        break;
    default:
        edge_write_buf(ed, off, len, buf, b & 16 ? REQ_FUA : 0);
        break;
    }
}

static void use(struct input *in, struct node *n)
{
    CLEANUP_FREE uint8_t *buf = g_malloc0(256 * 53 + 1);
    struct edge *ed;
    struct extent x;
    struct live_copy_status st;
    json_object_put(n->drv->specific_info(n));
    node_status(n, true, 0, n->size, &x);
    unsigned perm = n->read_only ? PERM_READ : PERM_READ | PERM_WRITE;
    if (!(in->data[0] & BARE) && edge_open(n, &(struct edge_spec){"fuzz", perm, PERM_ALL}, &ed, NULL) == 0) {
        for (unsigned i = 0; i < STEPS; i++) {
            step(in, ed, buf, i);
        }
        live_copy_get_status(n, &st);
        for (int i = 0; i < 20 && st.remaining && !st.rc && !n->read_only; i++) { /* some way towards the end */
            live_copy_wait(n, 200000);
            live_copy_get_status(n, &st);
        }
        edge_close(ed);
    }
    fuzz_check(n, in->data[0] & (NO_SOURCE | NO_DESTINATION | READ_ONLY) ? 0 : CHECK_FIX_LEAKS);
}

static void run(struct input *in)
{
    struct memdisk meta, d[2];
    uint64_t size = make_file(in, &meta);
    struct node *file = memdisk_open(in->graph, &meta, "meta"), *sides[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++) {
        d[i] = (struct memdisk){.size = size, .data = g_malloc0(size + 1)};
        if (!(in->data[0] & (i ? NO_DESTINATION : NO_SOURCE))) {
            sides[i] = memdisk_open(in->graph, &d[i], i ? "dst" : "src");
        }
    }
    for (int i = 0; i < 2; i++) { /* what it writes it must be able to read */
        struct node *n = open_one(in);
        if (n) {
            use(in, n);
            node_unref(n);
        } else if (i) {
            break;
        }
    }
    node_unref(file);
    node_unref(sides[0]);
    node_unref(sides[1]);
    memdisk_finish(&meta);
    memdisk_finish(&d[0]);
    memdisk_finish(&d[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .size = size};
    if (size >= 2) {
        fuzz_run(&in, run);
    }
    return 0;
}
