/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes while qcow2's header is written anew: names of backing files of all lengths come and go, so that the list of
 * extensions and the name move through the first cluster, within a sector and across. Whatever the crash, the image
 * opens, says what it said before or what it says now, and has its bitmap and its key.
 */
#include "replay.h"
#include "support.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/dirty.h"

#include <string.h>

struct kind {
    const char *name, *opts;
    bool bitmap, encrypted, unknown; /* unknown: extensions that we do not know, before and behind the others */
    unsigned names;                  /* longest name that finds room beside another */
};

#define LUKS                                                                                                           \
    ", 'encrypt': {'format': 'luks', 'key-secret': '" BENCH_SECRET                                                     \
    "', 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'hash-alg': 'sha1', 'iter-time': 1}"

static const struct kind kinds[] = {
    {"plain", "", false, false, false, 1000},
    {"bitmap", "", true, false, false, 1000},
    {"4 KiB clusters, bitmap", ", 'cluster-size': 4096", true, false, false, 900},
    {"1 KiB clusters, bitmap", ", 'cluster-size': 1024", true, false, false, 300},
    {"512-byte clusters, bitmap", ", 'cluster-size': 512", true, false, false, 300},
    {"version 2", ", 'version': 'v2'", false, false, false, 1000},
    {"LUKS, bitmap", LUKS, true, true, false, 1000},
    {"unknown extensions, LUKS, bitmap", LUKS, true, true, true, 1000},
    {"unknown extensions, 4 KiB clusters, bitmap", ", 'cluster-size': 4096", true, false, true, 900},
};

struct change {
    unsigned begin, end; /* entries of the log */
    char *file, *format;
};

struct run {
    struct bench *b;
    const struct kind *k;
    struct memdisk disk, start;
    GArray *changes; /* struct change */
    const char *key;
};

static struct node *open_on(struct run *r, const char *disk, bool read_only)
{
    return must_open(r->b, jsonf("{'driver': 'qcow2', 'file': '%s', 'backing': null, 'read-only': %s%s}", disk,
                                 read_only ? "true" : "false", r->key));
}

/* As a program might that knows more than we do: 300 bytes in front, 40 behind the first. */
static void add_unknown(struct memdisk *d)
{
    uint32_t at = load_be32(d->data + 100);
    uint8_t list[600];
    memcpy(list, d->data + at, sizeof(list));
    memset(d->data + at, 0xa5, 8 + 304 + 8 + 40);
    store_be32(d->data + at, 0x12345678);
    store_be32(d->data + at + 4, 300);
    store_be32(d->data + at + 312, 0x23456789);
    store_be32(d->data + at + 316, 40);
    memcpy(d->data + at + 360, list, sizeof(list));
}

static void make(struct run *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *file = memdisk_open(r->b->graph, &r->disk, "disk");
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': 65536%s}", r->k->opts);
    if (driver_find("qcow2")->create(r->b->graph, o, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    if (r->k->unknown) {
        add_unknown(&r->disk);
    }
    struct node *n = open_on(r, "disk", false);
    struct bitmap_spec spec = {.name = "b", .persistent = true};
    assert_int_equal(r->k->bitmap ? node_bitmap_add(n, &spec, NULL, &e) : 0, 0);
    node_unref(n);
    r->start = (struct memdisk){.data = g_memdup2(r->disk.data, r->disk.size + 1), .size = r->disk.size};
    memdisk_log_start(&r->disk);
    node_unref(file);
}

static void change(struct run *r, struct node *n, const char *file, const char *format)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct change c = {r->disk.log->len, 0, g_strdup(file), g_strdup(file ? format : NULL)};
    if (n->drv->change_backing(n, file, format, &e) < 0) {
        fail_msg("%s: %s", r->k->name, err_text(&e));
    }
    c.end = r->disk.log->len;
    g_array_append_val(r->changes, c);
}

static void session(struct run *r)
{
    static const unsigned lengths[] = {1, 380, 9, 0, 300, 299, 120, 1000, 40, 900, 400, 370, 0, 1000, 999, 8};
    static const char *const formats[] = {"qcow2", NULL, "raw", "a-format-with-a-long-name", "qed"};
    struct node *file = memdisk_open(r->b->graph, &r->disk, "disk"), *n = open_on(r, "disk", false);
    struct change before = {0, 0, NULL, NULL};
    g_array_append_val(r->changes, before);
    for (unsigned i = 0; i < 3 * G_N_ELEMENTS(lengths); i++) {
        unsigned len = MIN(lengths[i % G_N_ELEMENTS(lengths)], r->k->names);
        CLEANUP_FREE char *name = g_strnfill(len, 'a' + (char)(i % 26));
        change(r, n, len ? name : NULL, formats[i % G_N_ELEMENTS(formats)]);
    }
    node_unref(n);
    node_unref(file);
}

static bool says(const struct node *n, const struct change *c)
{
    return !g_strcmp0(n->backing_filename, c->file) && !g_strcmp0(n->backing_format, c->format);
}

static void judge(void *opaque, struct memdisk *images, unsigned at, const char *what)
{
    struct run *r = opaque;
    struct node *file = memdisk_open(r->b->graph, &images[0], "crashed"), *n = open_on(r, "crashed", true);
    const struct change *c = NULL, *next = NULL;
    for (unsigned i = 0; i < r->changes->len; i++) {
        const struct change *x = &g_array_index(r->changes, struct change, i);
        if (x->end <= at) {
            c = x;
        } else if (!next && x->begin < at) {
            next = x;
        }
    }
    if (!says(n, c) && !(next && says(n, next))) {
        fail_msg("%s: crash behind entry %u, outstanding writes %s: backing file '%s', format '%s', was '%s', '%s'",
                 r->k->name, at, what, n->backing_filename, n->backing_format, c->file, c->format);
    }
    if (r->k->bitmap && !dirty_bitmap_find(n, "b")) {
        fail_msg("%s: crash behind entry %u, outstanding writes %s: the bitmap is gone", r->k->name, at, what);
    }
    node_unref(n);
    node_unref(file);
}

static void one_kind(struct bench *b, const struct kind *k)
{
    struct run r = {b, k, .changes = g_array_new(FALSE, FALSE, sizeof(struct change))};
    r.key = k->encrypted ? ", 'encrypt': {'key-secret': '" BENCH_SECRET "'}" : "";
    make(&r);
    session(&r);
    struct replay x = {.start = &r.start, .disks = 1, .log = r.disk.log, .seed = 1};
    replay_run(&x, judge, &r);
    print_message("%s: %lu crashes\n", k->name, x.points);
    assert_true(x.points > 50);
    for (unsigned i = 0; i < r.changes->len; i++) {
        g_free(g_array_index(r.changes, struct change, i).file);
        g_free(g_array_index(r.changes, struct change, i).format);
    }
    g_array_free(r.changes, TRUE);
    memdisk_finish(&r.disk);
    memdisk_finish(&r.start);
}

static void all(struct bench *b)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        one_kind(b, &kinds[i]);
    }
}

static void test_header(void **state)
{
    bench_run(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_header)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
