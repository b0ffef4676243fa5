/* SPDX-License-Identifier: BSD-2-Clause */
/* Images that qemu-img wrote, read by us; ours are judged by qemu-img in the random test. Skipped where it is absent.
 */
#include "qsupport.h"

#include "base/cleanup.h"

#include <unistd.h>

enum { SIZE = 4 * 1024 * 1024 };

/* Data, zeroes, repetitive data, and the end at an odd sector. */
static void make_raw(const char *path, uint64_t size, unsigned salt)
{
    CLEANUP_FREE uint8_t *d = g_malloc0(size);
    uint64_t x = salt;
    for (uint64_t i = 0; i < size; i++) {
        unsigned part = i / 100000 % 4;
        d[i] = part == 0 ? rnd(&x) : part == 1 ? 0 : part == 2 ? i / 977 : salt;
    }
    assert_true(g_file_set_contents(path, (char *)d, size, NULL));
}

static void same_as_raw(struct bench *b, const char *image, const char *raw)
{
    CLEANUP_FREE char *want = NULL;
    gsize size;
    assert_true(g_file_get_contents(raw, &want, &size, NULL));
    struct node *n = open_image(b, image, ", 'read-only': true");
    struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
    CLEANUP_FREE uint8_t *got = g_malloc(size);
    assert_int_equal(n->size, size);
    assert_int_equal(edge_read_buf(ed, 0, size, got), 0);
    assert_memory_equal(got, want, size);
    check_clean(n, false);
    edge_close(ed);
    node_unref(n);
}

/* Writes into an image, over whatever is there, and lets qemu-img compare. */
static void write_over(struct bench *b, const char *image, const char *raw, uint64_t seed, bool compress)
{
    CLEANUP_FREE char *want = NULL;
    gsize size;
    assert_true(g_file_get_contents(raw, &want, &size, NULL));
    struct model m = {.size = size, .seed = seed, .want = (uint8_t *)want, .no_compression = !compress};
    model_open(&m, b, image, "");
    for (int i = 0; i < 60; i++) {
        model_step(&m);
    }
    model_verify(&m);
    model_close(&m);
    outside_check(image, false);
    assert_true(g_file_set_contents(raw, want, size, NULL));
    assert_int_equal(shell("qemu-img compare -f qcow2 -F raw %s %s >/dev/null", image, raw), 0);
}

static void conversions(struct bench *b)
{
    static const char *const ways[] = {
        "",
        "-c",
        "-c -o compression_type=zstd",
        "-o cluster_size=512",
        "-o cluster_size=512,refcount_bits=1",
        "-o cluster_size=2M,refcount_bits=64",
        "-o compat=0.10",
        "-c -o compat=0.10,cluster_size=4k",
        "-o lazy_refcounts=on,refcount_bits=8",
        "-o extended_l2=on",
        "-o extended_l2=on,cluster_size=16k",
        "-o preallocation=metadata",
        "-o preallocation=falloc,cluster_size=4k",
        "-o preallocation=full",
    };
    CLEANUP_FREE char *raw = g_strdup(bench_path(b, "raw")), *image = g_strdup(bench_path(b, "image"));
    for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
        print_message("convert %s\n", ways[i]);
        make_raw(raw, SIZE + 512, i + 1);
        assert_int_equal(shell("qemu-img convert -f raw -O qcow2 %s %s %s", ways[i], raw, image), 0);
        same_as_raw(b, image, raw);
        write_over(b, image, raw, i + 1, true);
        unlink(image);
    }
}

static void chains(struct bench *b)
{
    CLEANUP_FREE char *raw = g_strdup(bench_path(b, "raw")), *top = g_strdup(bench_path(b, "top"));
    make_raw(raw, SIZE, 9);
    assert_int_equal(
        shell("cd %s && qemu-img convert -f raw -O qcow2 -o cluster_size=4k raw base && "
              "qemu-img create -q -f qcow2 -b base -F qcow2 -o cluster_size=128k mid && "
              "qemu-img create -q -f qcow2 -b mid -F qcow2 top 5M && qemu-io -c 'write -P 7 1000k 300k' mid "
              ">/dev/null && qemu-io -c 'write -P 9 4M 100k' -c 'write -z 64k 64k' top >/dev/null && "
              "qemu-img convert -f qcow2 -O raw top raw",
              b->dir),
        0);
    same_as_raw(b, top, raw);
    write_over(b, top, raw, 3, true);
}

/* Internal snapshots stay as they were whatever is written above them. */
static void snapshots(struct bench *b)
{
    CLEANUP_FREE char *raw = g_strdup(bench_path(b, "raw")), *image = g_strdup(bench_path(b, "image"));
    for (int v2 = 0; v2 < 2; v2++) {
        make_raw(raw, SIZE, 11);
        assert_int_equal(shell("cd %s && qemu-img convert -f raw -O qcow2 -c -o cluster_size=4k,compat=%s raw image && "
                               "qemu-io -c 'write -P 5 500k 1M' image >/dev/null && qemu-img snapshot -c one image && "
                               "qemu-img convert -f qcow2 -O raw image raw && cp raw one.raw",
                               b->dir, v2 ? "0.10" : "1.1"),
                         0);
        same_as_raw(b, image, raw);
        write_over(b, image, raw, 5, true);
        assert_int_equal(shell("cd %s && qemu-img snapshot -c two image && cp raw two.raw", b->dir), 0);
        write_over(b, image, raw, 6, true);
        for (int i = 0; i < 2; i++) {
            const char *name = i ? "one" : "two";
            assert_int_equal(shell("cd %s && qemu-img convert -l snapshot.name=%s -O raw image back && "
                                   "cmp back %s.raw && qemu-img check -q image",
                                   b->dir, name, name),
                             0);
        }
        assert_int_equal(shell("cd %s && qemu-img snapshot -a one image && cp one.raw raw", b->dir), 0);
        same_as_raw(b, image, raw);
        write_over(b, image, raw, 7, true);
    }
}

static void bitmaps(struct bench *b)
{
    CLEANUP_FREE char *raw = g_strdup(bench_path(b, "raw")), *image = g_strdup(bench_path(b, "image"));
    make_raw(raw, SIZE, 13);
    assert_int_equal(shell("cd %s && qemu-img convert -f raw -O qcow2 raw image && qemu-img bitmap --add image auto && "
                           "qemu-img bitmap --add --disable image off",
                           b->dir),
                     0);
    same_as_raw(b, image, raw);
    write_over(b, image, raw, 8, true);
    /* Both are usable still; their bits are looked at by the tests of bitmaps. */
    assert_int_equal(shell("cd %s && qemu-img info image | tr -d ' \\n' | grep -q "
                           "'flags:\\[0\\]:autoname:auto.*flags:name:off' && "
                           "qemu-img bitmap --add --merge auto --merge off image sum && qemu-img check -q image",
                           b->dir),
                     0);
}

static void data_files(struct bench *b)
{
    static const char *const ways[] = {"", ",data_file_raw=on", ",extended_l2=on"};
    CLEANUP_FREE char *raw = g_strdup(bench_path(b, "raw")), *image = g_strdup(bench_path(b, "image"));
    for (unsigned i = 0; i < G_N_ELEMENTS(ways); i++) {
        print_message("data file %s\n", ways[i]);
        make_raw(raw, SIZE, 15);
        assert_int_equal(
            shell("cd %s && rm -f image data && qemu-img convert -f raw -O qcow2 -o data_file=%s/data%s raw image",
                  b->dir, b->dir, ways[i]),
            0);
        same_as_raw(b, image, raw);
        write_over(b, image, raw, 20 + i, false);
    }
}

static void test_conversions(void **state)
{
    have_qemu_img() ? bench_run(conversions) : skip();
}
static void test_chains(void **state)
{
    have_qemu_img() ? bench_run(chains) : skip();
}
static void test_snapshots(void **state)
{
    have_qemu_img() ? bench_run(snapshots) : skip();
}
static void test_bitmaps(void **state)
{
    have_qemu_img() ? bench_run(bitmaps) : skip();
}
static void test_data_files(void **state)
{
    have_qemu_img() ? bench_run(data_files) : skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversions), cmocka_unit_test(test_chains),     cmocka_unit_test(test_snapshots),
        cmocka_unit_test(test_bitmaps),     cmocka_unit_test(test_data_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
