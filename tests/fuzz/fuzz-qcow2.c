/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as a qcow2 image: opened, mapped, read, checked, repaired and written to; with snapshots made, applied,
 * shown, filled and deleted, bitmaps made, changed, stored and removed, and its options amended. Nothing of it may
 * crash. A LUKS header that the image names gets keys (luks_file.c).
 */
#include "image.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/dirty.h"
#include "block/qcow2/qcow2.h"
#include "block/snapshot.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 16 << 20, KEYS_MAX = 600 << 10, EXTS = 8, ANY = 8, HASH_MAX = 64 << 20, BELOW = 100000 };

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

/* The one that the input's last byte says. */
static char *some_snapshot(const struct input *in, struct node *n)
{
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    if (!list || !list->len) {
        return g_strdup("1");
    }
    const struct snapshot *s = g_ptr_array_index(list, fuzz_byte(in, 0) % list->len);
    return g_strdup(s->id);
}

static void fill_snapshots(struct input *in, struct node *n)
{
    struct driver_info info = {0};
    struct snapshot_fill *f;
    if (node_get_info(n, &info) || snapshot_fill_create(n, n->size, &f, NULL)) {
        return;
    }
    CLEANUP_FREE uint8_t *buf = g_malloc0(info.cluster_size);
    uint64_t off = 0, len;
    for (int k = 0; k < ANY && snapshot_fill_next(f, &off, &len); k++) {
        snapshot_fill_write(f, off, info.cluster_size, buf);
        off += info.cluster_size;
        if (k == fuzz_byte(in, 2) % ANY) {
            CLEANUP_FREE char *id = some_snapshot(in, n);
            node_snapshot_delete(n, id, NULL);
        }
    }
    if (fuzz_byte(in, 2) & 0x40) {
        snapshot_fill_commit(f, NULL);
    }
    snapshot_fill_destroy(f);
}

static void change_snapshots(struct input *in, struct node *n)
{
    for (int i = 0; i < 6; i++) {
        CLEANUP_FREE char *id = some_snapshot(in, n);
        struct snapshot made = {.id = g_strdup(""), .name = (char *)"fuzz", .vm_state_size = i};
        switch ((fuzz_byte(in, 1) + i) % 6) {
        case 0:
            node_vmstate_write(n, (uint64_t)in->data[in->size / 3] << in->data[in->size / 4] % 40, 5000, in->buf);
            break;
        case 1:
            node_snapshot_apply(n, id, NULL);
            break;
        case 2:
            node_snapshot_delete(n, id, NULL);
            break;
        case 3:
            fill_snapshots(in, n);
            break;
        case 4:
            edge_write_buf(in->ed, 0, MIN(edge_size(in->ed), 70000), in->buf, 0);
            break;
        default:
            node_snapshot_create(n, &made, NULL);
            break;
        }
        g_free(made.id);
        node_vmstate_read(n, 100, 3000, in->buf);
    }
}

static void show_snapshot(const struct input *in, struct node *n)
{
    CLEANUP_FREE char *id = some_snapshot(in, n);
    json_object_put(node_snapshots_info(n));
    if (n->read_only && (in->size & 1)) {
        node_snapshot_show(n, id, NULL);
    }
}

/* --- bitmaps ------------------------------------------------------------------------------------------------------ */

static struct dirty_bitmap *some_bitmap(struct node *n, uint8_t b)
{
    return n->bitmaps->len ? g_ptr_array_index(n->bitmaps, b % n->bitmaps->len) : NULL;
}

static void read_bitmaps(struct node *n)
{
    for (guint i = 0; i < n->bitmaps->len && i < ANY; i++) {
        struct dirty_bitmap *b = g_ptr_array_index(n->bitmaps, i);
        uint64_t off = 0, len;
        for (int k = 0; k < ANY && !b->inconsistent && dirty_bitmap_next(b, &off, &len, n->size, UINT64_MAX); k++) {
            off += len;
        }
        if (!b->inconsistent && n->size < HASH_MAX) {
            g_free(dirty_bitmap_sha256(b));
        }
    }
}

static void add_bitmap(struct node *n, uint8_t b)
{
    CLEANUP_FREE char *name = g_strdup_printf("b%u", b >> 4 & 3);
    struct bitmap_spec spec = {name, true, b & 8, b & 16, 512u << (b >> 3 & 15)};
    node_bitmap_add(n, &spec, NULL, NULL);
}

static void change_bitmap(struct input *in, struct node *n, uint8_t what)
{
    struct dirty_bitmap *b = some_bitmap(n, what >> 4);
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!b || what % 7 == 0) {
        add_bitmap(n, what);
    } else if (what % 7 == 1) {
        node_bitmap_remove(b, NULL);
    } else if (dirty_bitmap_check(b, BITMAP_CHANGE, &e) < 0) {
        return; /* whoever calls the rest asks before */
    } else if (what % 7 == 2) {
        dirty_bitmap_enable(b, what & 8, NULL);
    } else if (what % 7 == 3) {
        dirty_bitmap_reset(b, NULL);
    } else if (what % 7 == 4) {
        struct dirty_bitmap *src = some_bitmap(n, what >> 6);
        int rc = dirty_bitmap_check(src, BITMAP_READ, &e);
        rc = rc < 0 ? rc : dirty_bitmap_merge(b, src, NULL);
    } else {
        edge_write_buf(in->ed, 0, MIN(edge_size(in->ed), 9000), in->buf, 0);
        n->drv->bitmaps_store(n, NULL);
    }
}

/* --- options ------------------------------------------------------------------------------------------------------ */

static void amend(struct input *in, struct node *n, uint8_t b)
{
    static const char *const options[] = {
        "{'compat': 'v2'}",
        "{'compat': 'v3'}",
        "{'refcount-bits': 1}",
        "{'refcount-bits': 64}",
        "{'lazy-refcounts': true}",
        "{'size': 200704}",
        "{'refcount-bits': 16}",
        "{'copy-on-read': true}",
        "{'data-file-raw': false}",
        "{'data-file': 'new'}",
        "{'compat': 'v3', 'lazy-refcounts': false}",
    };
    struct qcow2 *s = n->priv;
    CLEANUP_JSON struct json_object *o = fuzz_options(options[b % G_N_ELEMENTS(options)]);
    if (s->h.crypt_method == CRYPT_LUKS && b & 64) {
        json_object_object_add(o, "encrypt", luks_file_change(fuzz_byte(in, 4)));
    }
    n->drv->amend(n, o, false, NULL, NULL);
}

static void relink(struct input *in, struct node *n, uint8_t b)
{
    if (b & 1) {
        n->drv->change_backing(n, b & 2 ? "below" : NULL, b & 4 ? "raw" : NULL, NULL);
    }
    if (b & 8) {
        n->drv->make_empty(n);
        edge_write_buf(in->ed, 0, MIN(edge_size(in->ed), 5000), in->buf, 0);
    }
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static void more(struct input *in, struct node *n)
{
    show_snapshot(in, n);
    read_bitmaps(n);
    for (unsigned i = 0; i < 3 && !n->read_only; i++) {
        change_bitmap(in, n, fuzz_byte(in, 5 + i));
    }
    if (!n->read_only) {
        change_snapshots(in, n);
        amend(in, n, fuzz_byte(in, 9));
        change_bitmap(in, n, fuzz_byte(in, 10));
        amend(in, n, fuzz_byte(in, 11));
        fuzz_read(in);
        relink(in, n, fuzz_byte(in, 12));
    }
    fuzz_check(n, 0);
}

/* Where the image says that its LUKS header is, keys are put. */
static void put_keys(struct memdisk *d)
{
    uint64_t at =
        load_be32(d->data + 4) == 3 && d->size >= QCOW2_V3_HEADER ? load_be32(d->data + 100) : QCOW2_V2_HEADER;
    for (unsigned i = 0; i < EXTS && at + 24 <= d->size && load_be32(d->data + 32) == CRYPT_LUKS; i++) {
        const uint8_t *x = d->data + at;
        uint64_t off = load_be64(x + 8), len = load_be64(x + 16);
        if (load_be32(x) == EXT_CRYPTO && off < FILE_MAX - KEYS_MAX && len <= KEYS_MAX) {
            memdisk_resize(d, MAX(d->size, off + len));
            luks_file_keys(d->data + off, len);
            return;
        }
        at += 8 + (load_be32(x + 4) + UINT64_C(7)) / 8 * 8;
    }
}

static struct node *open_one(struct input *in, bool writable, bool for_check)
{
    bool data_file = in->size > 80 && (in->data[79] & INC_DATA_FILE) && in->data[7] == 3;
    return fuzz_open(in,
                     "{'driver': 'qcow2', 'file': 'disk', 'backing': %s, 'discard': 'unmap', "
                     "'encrypt': {'key-secret': '" FUZZ_SECRET "'}, 'read-only': %s, 'for-check': %s%s}",
                     fuzz_byte(in, 13) & 1 ? "'below'" : "null", writable ? "false" : "true",
                     for_check ? "true" : "false", data_file ? ", 'data-file': 'data'" : "");
}

static void use(struct input *in)
{
    int pass = in->data[in->size / 2] % 3; /* read-only, writable, to be repaired */
    struct node *n = open_one(in, pass > 0, pass == 2);
    in->sound = n && pass == 2 && fuzz_check(n, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS) && fuzz_check(n, 0);
    if (n) {
        fuzz_use(in, n, more);
        node_unref(n);
    }
    n = in->sound ? open_one(in, true, false) : NULL;
    if (n) {
        fuzz_still_sound(n);
        node_unref(n);
    }
}

static void run(struct input *in)
{
    struct memdisk d[3] = {{.data = g_memdup2(in->data, in->size), .size = in->size, .max = FILE_MAX},
                           {.max = FILE_MAX},
                           {.data = g_malloc(BELOW), .size = BELOW}};
    static const char *const names[] = {"disk", "data", "below"};
    struct node *nodes[3];
    memset(d[2].data, 'b', BELOW);
    put_keys(&d[0]);
    for (int i = 0; i < 3; i++) {
        nodes[i] = memdisk_open(in->graph, &d[i], names[i]);
    }
    use(in);
    for (int i = 0; i < 3; i++) {
        node_unref(nodes[i]);
        memdisk_finish(&d[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .size = size};
    if (size >= QCOW2_V2_HEADER) {
        fuzz_run(&in, run);
    }
    return 0;
}
