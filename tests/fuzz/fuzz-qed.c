/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as a qed image: opened, mapped, read, written to, checked, repaired and emptied. The input is flags, a
 * length, a header, L1 entries, then for one L2 table after the other the beginning of it. Unless it says otherwise the
 * header's fields are brought into their limits, as most images would otherwise not open.
 */
#include "image.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/qed/qed.h"

#include <string.h>

enum { RAW_HEADER = 1, READ_ONLY = 2, BACKED = 4, FOR_CHECK = 8, REPAIR = 16, EMPTY = 32 };
enum { HEAD = 2, L1_BYTES = 64, L2_BYTES = 256, FILE_MAX = 16 << 20, IMAGE_MAX = 64 << 20, BELOW = 100000 };

static void put(struct memdisk *d, uint64_t at, const uint8_t **p, size_t *left, size_t n)
{
    n = MIN(n, *left);
    if (at < d->size) {
        memcpy(d->data + at, *p, MIN(n, d->size - at));
    }
    *p += n;
    *left -= n;
}

static void tame(uint8_t *h, uint64_t file_size)
{
    uint32_t cluster = QED_MIN_CLUSTER << (h[4] & 1), table = (uint32_t[]){1, 1, 2, 16}[h[8] & 3];
    store_le32(h, QED_MAGIC);
    store_le32(h + 4, cluster);
    store_le32(h + 8, table);
    store_le32(h + 12, load_le32(h + 12) % 3);
    store_le64(h + 16, load_le64(h + 16) & QED_KNOWN);
    uint64_t at = load_le64(h + 40) / cluster * cluster;
    store_le64(h + 40, at < file_size ? at : cluster);
    store_le64(h + 48, load_le64(h + 48) % IMAGE_MAX / 512 * 512);
}

static void make_file(struct input *in, struct memdisk *d)
{
    const uint8_t *p = in->data + HEAD;
    size_t left = in->size - HEAD;
    uint8_t b = in->data[1];
    d->size = (uint64_t)b * QED_MIN_CLUSTER + (b & 1 ? 777 : 0) + QED_HEADER_BYTES;
    d->max = FILE_MAX;
    d->data = g_malloc0(d->size + 1);
    put(d, 0, &p, &left, QED_HEADER_BYTES);
    if (!(in->data[0] & RAW_HEADER)) {
        tame(d->data, d->size);
    }
    uint64_t at = load_le64(d->data + 40), table = (uint64_t)load_le32(d->data + 4) * load_le32(d->data + 8);
    put(d, at, &p, &left, L1_BYTES);
    for (at += table; left; at += table) {
        put(d, at, &p, &left, L2_BYTES);
    }
}

static void more(struct input *in, struct node *n)
{
    CLEANUP_JSON struct json_object *hint = fuzz_options(in->size & 1 ? "{'copy-on-read': true}" : "{}");
    bool repair = in->data[0] & REPAIR && !n->read_only;
    fuzz_check(n, repair ? CHECK_FIX_ERRORS | CHECK_FIX_LEAKS : 0);
    fuzz_check(n, repair ? CHECK_FIX_LEAKS : 0); /* now that there is no fault left, perhaps */
    in->sound = repair && fuzz_check(n, 0);
    if (n->read_only) {
        return;
    }
    n->drv->amend(n, hint, false, NULL, NULL);
    n->drv->change_backing(n, fuzz_byte(in, 3) & 1 ? "below" : NULL, fuzz_byte(in, 3) & 2 ? "raw" : NULL, NULL);
    if (in->data[0] & EMPTY) {
        n->drv->make_empty(n);
        edge_write_buf(in->ed, 0, MIN(edge_size(in->ed), 5000), in->buf, 0);
    }
}

static void run(struct input *in)
{
    unsigned flags = in->data[0];
    struct memdisk d = {0}, below = {.size = BELOW, .data = g_malloc(BELOW + 1)};
    memset(below.data, 'b', BELOW);
    make_file(in, &d);
    struct node *file = memdisk_open(in->graph, &d, "disk"), *base = memdisk_open(in->graph, &below, "below");
    for (int i = 0; i < 2; i++) { /* what it writes it must be able to read */
        struct node *n = fuzz_open(in,
                                   "{'driver': 'qed', 'file': 'disk', 'backing': %s, 'discard': 'unmap', "
                                   "'read-only': %s, 'for-check': %s}",
                                   flags & BACKED ? "'below'" : "null", flags & READ_ONLY ? "true" : "false",
                                   flags & FOR_CHECK ? "true" : "false");
        if (!n) {
            break;
        }
        if (in->sound) {
            fuzz_still_sound(n);
        }
        fuzz_use(in, n, more);
        node_unref(n);
    }
    node_unref(file);
    node_unref(base);
    memdisk_finish(&d);
    memdisk_finish(&below);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .size = size};
    if (size > HEAD) {
        fuzz_run(&in, run);
    }
    return 0;
}
