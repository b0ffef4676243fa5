/* SPDX-License-Identifier: BSD-2-Clause */
/* Creating, resizing, checking, repairing; what broken images and wrong options are told. */
#include "qsupport.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "memdisk.h"

#include <fcntl.h>
#include <unistd.h>

static void poke(const char *path, uint64_t off, const void *data, size_t len)
{
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, off), len);
    close(fd);
}

static uint64_t peek64(const char *path, uint64_t off)
{
    uint8_t b[8];
    int fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, b, 8, off), 8);
    close(fd);
    return load_be64(b);
}

static void poke64(const char *path, uint64_t off, uint64_t v)
{
    uint8_t b[8];
    store_be64(b, v);
    poke(path, off, b, 8);
}

static const char *fresh(struct bench *b, const char *opts)
{
    const char *path = bench_path(b, "image");
    CLEANUP_ERR struct err e = ERR_INIT;
    if (try_create(b, path, opts, &e) < 0) {
        fail_msg("create: %s", err_text(&e));
    }
    return path;
}

static const char *open_fails(struct bench *b, const char *path, const char *more)
{
    return must_fail(b, jsonf("{'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '%s'}%s}", path, more));
}

static void said(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("\"%s\" should say \"%s\"", text, part);
    }
}

static void create_errors(struct bench *b)
{
    static const char *const wrong[][2] = {
        {"'size': 1024, 'cluster_size': 1000", "Cluster size must be a power of two between 512 and 2048k"},
        {"'size': 1024, 'cluster-size': 4194304", "Cluster size must be a power of two between 512 and 2048k"},
        {"'size': 1024, 'refcount_bits': 3", "Refcount width must be a power of two and may not exceed 64 bits"},
        {"'size': 1024, 'compat': '0.10', 'refcount_bits': 8", "Different refcount widths than 16 bits require"},
        {"'size': 1024, 'version': 'v2', 'lazy-refcounts': true",
         "Lazy refcounts only supported with compatibility level 1.1"},
        {"'size': 1024, 'compat': '0.42'", "0.42"},
        {"'size': 1024, 'backing_fmt': 'raw'", "Backing format cannot be used without backing file"},
        {"'size': 1024, 'extended_l2': 'on', 'cluster_size': 4096", "cluster sizes of at least 16384"},
        {"'size': 1024, 'encryption': 'on'", "'encrypt.key-secret' is required"},
        {"'size': 1024, 'backing_file': 'x', 'preallocation': 'full'", "Backing file and preallocation"},
        {"'size': 1152921504606846976, 'cluster_size': 512",
         "The image size is too large (try using a larger cluster size)"},
        {"'size': 1024, 'shape': 'round'", "shape"},
        {"'cluster_size': 512", "'size' is missing"},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        assert_true(try_create(b, bench_path(b, "image"), wrong[i][0], &e) < 0);
        said(err_text(&e), wrong[i][1]);
    }
}

static void broken_headers(struct bench *b)
{
    const struct {
        unsigned at;
        uint64_t value;
        const char *text;
    } wrong[] = {
        {0, 0x514649fb00000004, "Unsupported qcow2 version 4"},
        {16, 0x0000000000000008, "Unsupported cluster size"},
        {16, 0x0000000000000020, "Unsupported cluster size"},
        {32, 0x0000000100000001, "'encrypt.key-secret' is required"},
        {36, 0x7fffffff00000000, "Active L1 table too large"},
        {40, 0x0000000000000100, "Active L1 table offset invalid"},
        {48, 0x0000000000000300, "Reference count table offset invalid"},
        {56, 0x0000000000000000, "does not contain a reference count table"},
        {56, 0x0fffffff00000000, "Reference count table too large"},
        {56, 0x0000000100ffffff, "Snapshot table too large"},
        {24, UINT64_MAX / 4, "too big"},
        {96, 0x0000000700000068, "Reference count entry width too large"},
        {96, 0x0000000400000010, "header too short"},
        {72, 0x8000000000000000, "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000"},
        {72, 0x0000000000000002, "is corrupt; cannot be opened read/write"},
        {72, 0x0000000000000008, "Compression type"},
        {72, 0x0000000000000004, "'data-file' is required"},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        const char *path = fresh(b, "'size': 1048576, 'cluster_size': 4096");
        poke64(path, wrong[i].at, wrong[i].value);
        const char *text = open_fails(b, path, "");
        said(text, wrong[i].text);
    }
}

static void feature_names(struct bench *b)
{
    const char *path = fresh(b, "'size': 1048576, 'cluster_size': 4096");
    uint8_t entry[48] = {0, 40, 't', 'i', 'm', 'e'};
    poke(path, 112 + 8, entry, sizeof(entry)); /* the first entry of the feature name table */
    poke64(path, 72, UINT64_C(1) << 40);
    said(open_fails(b, path, ""), "Unsupported qcow2 feature(s): time");
}

static void resizing(struct bench *b)
{
    for (int i = 0; i < 4; i++) {
        const char *path =
            fresh(b, (const char *[]){"'size': 1000448, 'cluster_size': 512", "'size': 1000448, 'compat': 'v2'",
                                      "'size': 1000448, 'extended_l2': 'on'",
                                      "'size': 1000448, 'preallocation': 'metadata'"}[i]);
        struct node *n = open_image(b, path, "");
        struct edge *ed = rw_edge(n);
        CLEANUP_FREE uint8_t *buf = g_malloc(1000448), *got = g_malloc(4000000);
        memset(buf, 0xaa, 1000448);
        assert_int_equal(edge_write_buf(ed, 0, 1000448, buf, 0), 0);
        assert_int_equal(edge_truncate(ed, 700416 + 512, true, PREALLOC_OFF, NULL), 0);
        assert_int_equal(edge_truncate(ed, 4000256, true, i == 2 ? PREALLOC_FALLOC : PREALLOC_OFF, NULL), 0);
        assert_int_equal(edge_read_buf(ed, 0, 4000000, got), 0);
        assert_memory_equal(got, buf, 700416 + 512);
        assert_true(buf_is_zero(got + 700416 + 512, 4000000 - 700416 - 512));
        assert_true(edge_truncate(ed, 1000, true, PREALLOC_OFF, NULL) < 0);
        invariants_hold(n);
        edge_close(ed);
        node_unref(n);
        outside_check(path, false);
    }
}

static void backing_link(struct bench *b)
{
    CLEANUP_FREE char *base = g_strdup(bench_file(b, "base", 1 << 20, 0x11));
    const char *path = fresh(b, "'size': 1048576");
    struct node *n = open_image(b, path, "");
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(n->drv->change_backing(n, base, "raw", &e), 0);
    node_unref(n);
    n = open_image(b, path, "");
    assert_string_equal(n->backing_filename, base);
    assert_string_equal(n->backing_format, "raw");
    struct edge *ed = rw_edge(n);
    uint8_t one;
    assert_int_equal(edge_read_buf(ed, 12345, 1, &one), 0);
    assert_int_equal(one, 0x11);
    /* Zeroes finer than a cluster over zeroes allocate nothing. */
    assert_int_equal(edge_zero(ed, 0, 65536, 0), 0);
    assert_int_equal(edge_zero(ed, 100, 200, 0), 0);
    struct extent x;
    assert_int_equal(node_status(n, true, 0, 65536, &x), 0);
    assert_int_equal(x.flags & (EXT_ZERO | EXT_DATA), EXT_ZERO);
    edge_close(ed);
    node_unref(n);
    outside_check(path, false);
}

static void repair(struct bench *b, const char *path, const char *part, bool leak)
{
    struct node *n = open_image(b, path, ", 'for-check': true");
    struct check_result r = {.text = g_string_new(NULL)};
    assert_int_equal(n->drv->check(n, &r, 0, NULL), 0);
    said(r.text->str, part);
    assert_int_equal(leak ? r.leaks : r.corruptions, 1);
    r = (struct check_result){.text = r.text};
    assert_int_equal(n->drv->check(n, &r, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, NULL), 0);
    assert_int_equal(r.corruptions + r.leaks, 0);
    assert_true(r.corruptions_fixed + r.leaks_fixed > 0);
    g_string_free(r.text, TRUE);
    check_clean(n, false);
    node_unref(n);
    outside_check(path, false);
}

/* Default layout: header, refcount table, refcount block, L1 table, L2 table, data. */
static void repairs(struct bench *b)
{
    const char *opts = "'size': 1048576, 'cluster_size': 4096";
    uint8_t zero[2] = {0, 0}, two[2] = {0, 2};
    for (int i = 0; i < 5; i++) {
        const char *path = fresh(b, opts);
        struct node *n = open_image(b, path, "");
        struct edge *ed = rw_edge(n);
        assert_int_equal(edge_write_buf(ed, 0, 8192, (uint8_t[8192]){1}, 0), 0);
        edge_close(ed);
        node_unref(n);
        uint64_t l2 = peek64(path, peek64(path, 40)) & L1E_OFFSET, data = peek64(path, l2) & L2E_OFFSET;
        uint64_t block = peek64(path, peek64(path, 48));
        switch (i) {
        case 0:
            poke(path, block + data / 4096 * 2, zero, 2);
            poke64(path, l2, data); /* else the COPIED flag is a second error */
            repair(b, path, "ERROR cluster", false);
            break;
        case 1:
            assert_int_equal(truncate(path, 1 << 20), 0); /* what lies beyond the end is not looked at */
            poke(path, block + 200, two, 2);
            repair(b, path, "Leaked cluster 100 refcount=2 reference=0", true);
            break;
        case 2:
            poke64(path, l2, data);
            repair(b, path, "ERROR OFLAG_COPIED data cluster", false);
            break;
        case 3:
            poke64(path, peek64(path, 48), block + 512);
            open_fails(b, path, ", 'overlap-check': 'often'");
            n = open_image(b, path, ", 'for-check': true");
            struct check_result r = {0};
            assert_int_equal(n->drv->check(n, &r, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, NULL), 0);
            assert_int_equal(r.corruptions + r.check_errors, 0);
            check_clean(n, false);
            node_unref(n);
            outside_check(path, false);
            break;
        default: /* free clusters that are in use: the next allocation must not overwrite the L1 table */
            poke(path, block, (uint8_t[64]){0}, 64);
            n = open_image(b, path, "");
            ed = rw_edge(n);
            assert_true(edge_write_buf(ed, 500000, 4096, (uint8_t[4096]){1}, 0) < 0);
            edge_close(ed);
            node_unref(n);
            assert_int_equal(peek64(path, 72), INC_CORRUPT);
            said(open_fails(b, path, ""), "is corrupt");
            break;
        }
    }
}

static void huge_and_empty(struct bench *b)
{
    const char *path = fresh(b, "'size': 1099511627776");
    struct node *n = open_image(b, path, "");
    struct extent x;
    uint64_t t0 = cpu_ns();
    assert_int_equal(node_status(n, true, 0, n->size, &x), 0);
    assert_true(x.len == n->size && !(x.flags & EXT_ALLOCATED));
    assert_true(cpu_ns() - t0 < UINT64_C(100000000));
    node_unref(n);
}

static void unknown_is_kept(struct bench *b)
{
    const char *path = fresh(b, "'size': 1048576, 'cluster_size': 4096");
    uint8_t name[8] = {0x12, 0x34, 0x56, 0x78, 0, 0, 0, 4};
    poke(path, 112 + 8 + 8 * 48, name, 8); /* behind the feature names */
    poke(path, 112 + 8 + 8 * 48 + 8, "keep\0\0\0\0\0\0\0\0\0\0\0\0", 16);
    struct node *n = open_image(b, path, "");
    assert_int_equal(n->drv->change_backing(n, "nothing", "raw", NULL), 0);
    node_unref(n);
    CLEANUP_FREE char *head = NULL;
    assert_true(g_file_get_contents(path, &head, NULL, NULL));
    assert_non_null(memmem(head, 4096, "\x12\x34\x56\x78\0\0\0\4keep", 12));
}

struct user {
    struct edge *ed;
    uint64_t off;
    int rc;
    bool *grown;
};

static void grow_by_much(void *arg)
{
    struct user *u = arg;
    u->rc = edge_truncate(u->ed, 64 << 20, true, PREALLOC_OFF, NULL);
    *u->grown = true;
}

static void write_much(void *arg)
{
    struct user *u = arg;
    for (uint64_t i = 0; (i < 40 || !*u->grown) && u->rc == 0; i = i == 40 ? 0 : i + 1) {
        uint8_t buf[1000];
        memset(buf, (int)(u->off + i), sizeof(buf));
        u->rc = edge_write_buf(u->ed, u->off + i * sizeof(buf), sizeof(buf), buf, 0);
        u->rc = u->rc < 0 ? u->rc : edge_flush(u->ed);
    }
}

/* The header names the new L1 table and the new size although others flush meanwhile. */
static void grown_while_written(struct bench *b)
{
    struct memdisk disk = {.delay = 2, .slow_flush = 7};
    struct node *file = memdisk_open(b->graph, &disk, "disk");
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': 1048576, 'cluster-size': 512}");
    assert_int_equal(driver_find("qcow2")->create(b->graph, o, NULL), 0);
    struct node *n = must_open(b, jsonf("{'driver': 'qcow2', 'file': 'disk'}"));
    struct edge *ed = rw_edge(n);
    bool grown = false;
    struct user grower = {ed, 0, 0, &grown}, writers[4];
    int running = 0;
    spawn(b, grow_by_much, &grower, &running);
    for (unsigned i = 0; i < G_N_ELEMENTS(writers); i++) {
        writers[i] = (struct user){ed, i * 50000, 0, &grown};
        spawn(b, write_much, &writers[i], &running);
    }
    wait_for(&running);
    assert_int_equal(grower.rc, 0);
    edge_close(ed);
    node_unref(n);
    n = must_open(b, jsonf("{'driver': 'qcow2', 'file': 'disk'}"));
    assert_int_equal(n->size, 64 << 20);
    struct check_result r = {0};
    assert_int_equal(n->drv->check(n, &r, 0, NULL), 0);
    assert_int_equal(r.corruptions, 0);
    ed = rw_edge(n);
    for (unsigned i = 0; i < G_N_ELEMENTS(writers); i++) {
        uint8_t buf[40000];
        assert_int_equal(writers[i].rc, 0);
        assert_int_equal(edge_read_buf(ed, writers[i].off, sizeof(buf), buf), 0);
        for (unsigned k = 0; k < sizeof(buf); k++) {
            assert_int_equal(buf[k], (uint8_t)(writers[i].off + k / 1000));
        }
    }
    edge_close(ed);
    node_unref(n);
    node_unref(file);
    memdisk_finish(&disk);
}

#define IN_BENCH(fn)                                                                                                   \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        bench_run(fn);                                                                                                 \
    }
IN_BENCH(create_errors)
IN_BENCH(broken_headers)
IN_BENCH(feature_names)
IN_BENCH(resizing)
IN_BENCH(backing_link)
IN_BENCH(repairs)
IN_BENCH(huge_and_empty)
IN_BENCH(unknown_is_kept)
IN_BENCH(grown_while_written)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_errors),       cmocka_unit_test(test_broken_headers),
        cmocka_unit_test(test_feature_names),       cmocka_unit_test(test_resizing),
        cmocka_unit_test(test_backing_link),        cmocka_unit_test(test_repairs),
        cmocka_unit_test(test_huge_and_empty),      cmocka_unit_test(test_unknown_is_kept),
        cmocka_unit_test(test_grown_while_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
