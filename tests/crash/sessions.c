/* SPDX-License-Identifier: BSD-2-Clause */
#include "world.h"

#include "base/cleanup.h"

enum { KIB = 1024 };

static void allocate(struct world *w)
{
    for (int i = 0; i < 6; i++) {
        step_writes(w, 1 + i % 4, i % 2 ? 3 * KIB : 24 * KIB);
        if (i % 2) {
            step_flush(w);
        }
    }
    step_writes(w, 6, 2 * KIB);
}

static void overwrite(struct world *w)
{
    step_write(w, 0, WORLD_SIZE);
    step_flush(w);
    for (int i = 0; i < 5; i++) {
        step_writes(w, 3, 10 * KIB);
        step_flush(w);
    }
}

static void zeroes(struct world *w)
{
    step_write(w, 5 * KIB, 150 * KIB);
    step_flush(w);
    step_zero(w, 10 * KIB, 40 * KIB, 0);
    step_write(w, 20 * KIB + 100, 5 * KIB);
    step_flush(w);
    step_zero(w, 64 * KIB, 64 * KIB, REQ_MAY_UNMAP);
    step_zero(w, 3333, 7777, 0);
    step_writes(w, 4, 8 * KIB);
    step_flush(w);
    step_zero(w, 0, WORLD_SIZE, REQ_MAY_UNMAP);
    step_write(w, 100 * KIB, 20 * KIB);
}

static void discards(struct world *w)
{
    step_write(w, 0, 180 * KIB);
    step_flush(w);
    step_discard(w, 16 * KIB, 64 * KIB);
    step_writes(w, 4, 12 * KIB);
    step_flush(w);
    step_discard(w, 0, 100 * KIB);
    step_write(w, 40 * KIB, 50 * KIB); /* may get the clusters that were given up */
    step_flush(w);
    step_discard(w, 100 * KIB, 80 * KIB);
    step_writes(w, 3, 20 * KIB);
}

static void resizes(struct world *w)
{
    step_writes(w, 4, 20 * KIB);
    step_resize(w, WORLD_SIZE + 100 * KIB);
    step_write(w, WORLD_SIZE - 10 * KIB, 60 * KIB);
    step_resize(w, WORLD_SIZE + 100 * KIB + 4 * KIB);
    step_writes(w, 4, 20 * KIB);
    step_flush(w);
    if (w->g->shrinking) {
        step_resize(w, 100 * KIB);
        step_writes(w, 2, 20 * KIB);
        step_resize(w, 160 * KIB);
        step_write(w, 90 * KIB, 40 * KIB);
    }
}

static void compress(struct world *w)
{
    for (unsigned i = 0; i < 12; i++) {
        step_compressed(w, i * 5);
        if (i % 4 == 3) {
            step_flush(w);
            step_writes(w, 2, 6 * KIB);
        }
    }
    step_flush(w);
    step_discard(w, 0, 64 * KIB);
    step_compressed(w, 3);
    step_compressed(w, 4);
}

static void snapshots(struct world *w)
{
    step_writes(w, 4, 20 * KIB);
    step_snapshot(w, "one");
    step_writes(w, 3, 30 * KIB);
    step_snapshot_vm(w, "two");
    step_replace(w, "two");
    step_discard(w, 0, 50 * KIB);
    step_writes(w, 2, 10 * KIB);
    step_apply(w, "one");
    step_writes(w, 3, 10 * KIB);
    step_apply(w, "two"); /* the image has the state as well */
    step_replace(w, "two");
    step_writes(w, 3, 10 * KIB);
    step_delete(w, "two");
    step_writes(w, 2, 10 * KIB);
    step_snapshot(w, "three");
    step_delete(w, "one");
    step_writes(w, 4, 30 * KIB);
    step_delete(w, "three");
    step_writes(w, 2, 10 * KIB);
}

static void bitmaps(struct world *w)
{
    step_writes(w, 3, 20 * KIB);
    step_bitmap_add(w, "changes");
    step_writes(w, 2, 4 * KIB);
    step_flush(w);
    step_writes(w, 3, 9 * KIB);
    step_zero(w, 120 * KIB, 9 * KIB, 0);
    step_reopen(w);
    step_discard(w, 0, 30 * KIB);
    step_writes(w, 2, 9 * KIB);
    step_flush(w);
    step_bitmap_clear(w);
    step_writes(w, 3, 9 * KIB);
    step_flush(w);
    step_resize(w, WORLD_SIZE + 40 * KIB);
    step_write(w, WORLD_SIZE - 10 * KIB, 30 * KIB);
    step_flush(w);
    step_resize(w, 150 * KIB);
    step_writes(w, 1, 9 * KIB);
    step_bitmap_remove(w);
    step_writes(w, 2, 9 * KIB);
    step_bitmap_add(w, "again");
    step_writes(w, 2, 9 * KIB);
}

static void widths(struct world *w)
{
    step_writes(w, 4, 20 * KIB);
    step_amend(w, "'refcount-bits': 64", false);
    step_writes(w, 3, 9 * KIB);
    step_zero(w, 20 * KIB, 60 * KIB, REQ_MAY_UNMAP);
    step_amend(w, "'refcount-bits': 1", false);
    step_discard(w, 100 * KIB, 20 * KIB);
    step_writes(w, 3, 9 * KIB);
    step_amend(w, "'refcount-bits': 4, 'lazy-refcounts': false", false);
    if (w->g->snapshots) {
        step_snapshot(w, "one");
        step_writes(w, 3, 20 * KIB);
        step_amend(w, "'refcount-bits': 8", false);
        step_delete(w, "one");
    }
    step_writes(w, 2, 9 * KIB);
    step_amend(w, "'refcount-bits': 16", false);
    step_writes(w, 2, 9 * KIB);
}

static void versions(struct world *w)
{
    const char *up = w->g->lazy ? "'compat': '1.1', 'lazy-refcounts': true" : "'compat': '1.1'";
    step_amend(w, up, false);
    step_write(w, 0, 150 * KIB);
    step_bitmap_add(w, "changes");
    step_zero(w, 8 * KIB, 40 * KIB, 0);
    step_zero(w, 64 * KIB, 20 * KIB, REQ_MAY_UNMAP);
    step_snapshot(w, "one");
    step_zero(w, 96 * KIB, 70 * KIB, 0); /* what the snapshot has as well */
    step_snapshot(w, "two");
    step_writes(w, 3, 20 * KIB);
    step_zero(w, 16 * KIB, 30 * KIB, 0);
    step_amend(w, "'compat': '0.10', 'refcount-bits': 16", true);
    step_writes(w, 3, 10 * KIB);
    step_delete(w, "one");
    step_amend(w, up, false);
    step_zero(w, 0, 30 * KIB, 0);
    step_apply(w, "two");
    step_zero(w, 120 * KIB, 30 * KIB, REQ_MAY_UNMAP);
    step_amend(w, "'compat': 'v2'", true);
    step_writes(w, 2, 10 * KIB);
}

static void wholes(struct world *w)
{
    step_write(w, 0, 150 * KIB);
    step_discard(w, 16 * KIB, 64 * KIB);
    step_repair(w);
    step_writes(w, 3, 20 * KIB);
    step_empty(w);
    step_repair(w);
    step_writes(w, 4, 20 * KIB);
    if (!w->g->fixed_with_snapshots) { /* as version 2 is, which has no room for it */
        step_amend(w, "'copy-on-read': true", false);
    }
    if (w->faulty) {
        step_relink(w, "another");
        step_write(w, 100 * KIB, 20 * KIB);
        step_relink(w, NULL);
    }
    step_zero(w, 10 * KIB, 40 * KIB, REQ_MAY_UNMAP);
    step_empty(w);
    step_writes(w, 2, 20 * KIB);
    step_repair(w);
}

static void random_snapshot(struct world *w)
{
    unsigned n = w->now->snaps->len;
    struct snap *s = n ? g_ptr_array_index(w->now->snaps, rnd(&w->seed) % n) : NULL;
    CLEANUP_FREE char *name = g_strdup(s ? s->name : NULL);
    unsigned what = rnd(&w->seed) % 3;
    if (!n || (what == 0 && n < 5)) {
        g_free(name);
        name = g_strdup_printf("s%u", w->made++);
        (rnd(&w->seed) % 3 ? step_snapshot : step_snapshot_vm)(w, name);
    } else {
        bool again = s->vm && rnd(&w->seed) % 4 == 0;
        (again ? step_replace : what == 1 ? step_apply : step_delete)(w, name);
    }
}

static void random_bitmap(struct world *w)
{
    if (!w->now->bitmap) {
        CLEANUP_FREE char *name = g_strdup_printf("b%u", w->made++);
        step_bitmap_add(w, name);
    } else {
        (rnd(&w->seed) % 2 ? step_bitmap_clear : step_bitmap_remove)(w);
    }
}

static void random_resize(struct world *w)
{
    uint64_t size = WORLD_SIZE / 2 + rnd(&w->seed) % (2 * WORLD_SIZE / 512) * 512;
    bool may = (w->g->shrinking || size >= w->now->size) && !(w->now->snaps->len && w->g->fixed_with_snapshots);
    if (may) {
        step_resize(w, size);
    }
}

void random_step(struct world *w)
{
    uint64_t off = rnd(&w->seed) % w->now->size, len = 1 + rnd(&w->seed) % (40 * KIB);
    len = MIN(len, w->now->size - off);
    unsigned what = rnd(&w->seed) % 20;
    if (what < 2) {
        step_zero(w, off, len, what ? REQ_MAY_UNMAP : 0);
    } else if (what < 4) {
        step_discard(w, off, len);
    } else if (what < 6 && w->g->compression) {
        step_compressed(w, rnd(&w->seed) % 48);
    } else if (what < 8 && w->g->snapshots) {
        random_snapshot(w);
    } else if (what < 10) {
        step_flush(w);
    } else if (what < 11) {
        step_reopen(w);
    } else if (what < 12) {
        random_resize(w);
    } else if (what < 13 && w->g->bitmaps) {
        random_bitmap(w);
    } else {
        step_writes(w, 1 + rnd(&w->seed) % 6, 12 * KIB);
    }
}

/* All of it, by chance. */
static void mixture(struct world *w)
{
    for (int i = 0; i < 40; i++) {
        random_step(w);
    }
}

const struct session sessions[] = {
    {"allocate", allocate},
    {"overwrite", overwrite},
    {"zeroes", zeroes},
    {"discard", discards},
    {"resize", resizes},
    {"compress", compress, .compression = true},
    {"snapshots", snapshots, .snapshots = true},
    {"bitmaps", bitmaps, .bitmaps = true},
    {"mixture", mixture},
    {"widths", widths, .widths = true},
    {"versions", versions, .versions = true},
    {"wholes", wholes, .emptying = true},
    {NULL, NULL},
};

bool session_fits(const struct session *s, const struct geometry *g)
{
    return (!s->snapshots || g->snapshots) && (!s->compression || g->compression) && (!s->bitmaps || g->bitmaps) &&
           (!s->widths || g->widths) && (!s->versions || g->versions) &&
           (!s->emptying || (driver_find(g->format)->make_empty && !g->raw_data_file));
}

#define QCOW2_ALL .snapshots = true, .compression = true, .shrinking = true, .bitmaps = true
#define QCOW2_MAY .widths = true, .versions = true
#define QCOW2_KEY .encrypted = true, .need = ", 'encrypt': {'key-secret': '" BENCH_SECRET "'}"
#define LUKS_SMALL                                                                                                     \
    ", 'encrypt': {'format': 'luks', 'key-secret': '" BENCH_SECRET                                                     \
    "', 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'hash-alg': 'sha1', 'iter-time': 1}"
#define SMALL ", 'l2-cache-entry-size': 512, 'l2-cache-size': 4096, 'pass-discard-other': true"

const struct geometry geometries[] = {
    {"qcow2, 4 KiB clusters", "qcow2", ", 'cluster-size': 4096", SMALL, QCOW2_ALL, QCOW2_MAY},
    {"qcow2, 512-byte clusters", "qcow2", ", 'cluster-size': 512", SMALL, QCOW2_ALL, QCOW2_MAY},
    {"qcow2, 64 KiB clusters", "qcow2", "", SMALL, QCOW2_ALL, QCOW2_MAY},
    {"qcow2, subclusters", "qcow2", ", 'cluster-size': 16384, 'extended-l2': true", SMALL, QCOW2_ALL, .widths = true},
    {"qcow2, version 2", "qcow2", ", 'cluster-size': 4096, 'version': 'v2'", SMALL, .snapshots = true,
     .compression = true, .shrinking = true, .fixed_with_snapshots = true, .versions = true},
    {"qcow2, lazy refcounts", "qcow2", ", 'cluster-size': 4096, 'lazy-refcounts': true", SMALL, QCOW2_ALL, .lazy = true,
     .versions = true},
    {"qcow2, 64-bit refcounts", "qcow2", ", 'cluster-size': 1024, 'refcount-bits': 64", SMALL, QCOW2_ALL,
     .widths = true},
    {"qcow2, 2-bit refcounts, zstd", "qcow2", ", 'cluster-size': 4096, 'refcount-bits': 2, 'compression-type': 'zstd'",
     SMALL, .compression = true, .shrinking = true, .bitmaps = true},
    {"encrypted by LUKS, 4 KiB clusters", "qcow2", ", 'cluster-size': 4096" LUKS_SMALL, SMALL, QCOW2_KEY,
     .snapshots = true, .shrinking = true, .bitmaps = true, .versions = true},
    {"encrypted by LUKS, subclusters", "qcow2", ", 'cluster-size': 16384, 'extended-l2': true" LUKS_SMALL, SMALL,
     QCOW2_KEY, .snapshots = true, .shrinking = true, .bitmaps = true},
    {"encrypted by AES, version 2", "qcow2",
     ", 'cluster-size': 1024, 'version': 'v2', 'encrypt': {'format': 'aes', 'key-secret': '" BENCH_SECRET "'}", SMALL,
     QCOW2_KEY, .snapshots = true, .shrinking = true, .fixed_with_snapshots = true},
    {"qcow2, above another", "qcow2", ", 'cluster-size': 4096", SMALL, QCOW2_ALL, QCOW2_MAY, .backed = true},
    {"qcow2, subclusters, above another", "qcow2", ", 'cluster-size': 32768, 'extended-l2': true", SMALL, QCOW2_ALL,
     .backed = true},
    {"qcow2, preallocated", "qcow2", ", 'cluster-size': 4096, 'preallocation': 'metadata'", SMALL, QCOW2_ALL},
    {"qcow2, data file", "qcow2", ", 'cluster-size': 4096", SMALL, .widths = true, .shrinking = true, .bitmaps = true,
     .data_file = true},
    {"qcow2, raw data file", "qcow2", ", 'cluster-size': 4096, 'data-file-raw': true", SMALL, .shrinking = true,
     .bitmaps = true, .data_file = true, .raw_data_file = true},
    {"qed, 64 KiB clusters", "qed", "", ""},
    {"qed, 4 KiB clusters, tables of two", "qed", ", 'cluster-size': 4096, 'table-size': 2", ""},
    {"qed, 8 KiB clusters, tables of 16", "qed", ", 'cluster-size': 8192, 'table-size': 16", ""},
    {"qed, above another", "qed", ", 'cluster-size': 4096, 'table-size': 2", "", .backed = true},
    {"luks", "luks",
     ", 'key-secret': '" BENCH_SECRET
     "', 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'hash-alg': 'sha1', 'iter-time': 1",
     "", .encrypted = true, .need = ", 'key-secret': '" BENCH_SECRET "'", .shrinking = true, .grows_by_anything = true},
    {"raw", "raw", "", "", .shrinking = true},
    {"raw, from an offset on", "raw", "", "", .need = ", 'offset': 8192", .shrinking = true, .ours = true},
    {NULL},
};
