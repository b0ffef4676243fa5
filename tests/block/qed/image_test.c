/* SPDX-License-Identifier: BSD-2-Clause */
/* Headers, features, the need-check bit, repairs, sizes and backing links of QED images. */
#include "qed_support.h"

#include "base/cleanup.h"
#include "base/endian.h"

enum { MIB = 1 << 20, SMALL = 4096 };
#define SMALL_OPTS ", 'cluster-size': 4096, 'table-size': 2"

/* --- header ------------------------------------------------------------------------------------------------------- */

struct bad {
    unsigned off, bytes;
    uint64_t value;
    const char *text;
};

static const struct bad bads[] = {
    {0, 4, 0x12345, "Image not in QED format"},
    {4, 4, 0, "QED cluster size is invalid"},
    {4, 4, 2048, "QED cluster size is invalid"},
    {4, 4, 1 << 27, "QED cluster size is invalid"},
    {4, 4, 65537, "QED cluster size is invalid"},
    {8, 4, 0, "QED table size is invalid"},
    {8, 4, 3, "QED table size is invalid"},
    {8, 4, 32, "QED table size is invalid"},
    {12, 4, 2, "QED table offset is invalid"},
    {12, 4, 0x80000000, "QED table offset is invalid"},
    {16, 8, 8, "Unsupported QED features: 8"},
    {16, 8, UINT64_C(1) << 40, "Unsupported QED features: 10000000000"},
    {40, 8, 0, "QED table offset is invalid"},
    {40, 8, 65536 + 512, "QED table offset is invalid"},
    {40, 8, UINT64_C(1) << 40, "QED table offset is invalid"},
    {40, 8, -(UINT64_C(1) << 16), "QED table offset is invalid"},
    {48, 8, 1000, "QED image size is invalid"},
    {48, 8, (UINT64_C(1) << 46) + 512, "QED image size is invalid"},
    {48, 8, UINT64_C(1) << 63, "QED image size is invalid"},
};

static void put(struct memdisk *d, unsigned off, unsigned bytes, uint64_t value)
{
    if (bytes == 4) {
        store_le32(d->data + off, (uint32_t)value);
    } else {
        store_le64(d->data + off, value);
    }
}

static void bad_headers(struct bench *b)
{
    struct sample s = {.b = b};
    uint8_t good[64];
    sample_create(&s, "", 10 * MIB, 0);
    memcpy(good, s.disk.data, sizeof(good));
    for (size_t i = 0; i < G_N_ELEMENTS(bads); i++) {
        put(&s.disk, bads[i].off, bads[i].bytes, bads[i].value);
        const char *text = must_fail(b, jsonf("{'driver': 'qed', 'file': 'disk', 'read-only': true}"));
        assert_non_null(strstr(text, bads[i].text));
        memcpy(s.disk.data, good, sizeof(good));
    }
    put(&s.disk, 16, 8, QED_BACKING);
    put(&s.disk, 56, 4, 60000);
    put(&s.disk, 60, 4, 10000);
    assert_non_null(strstr(must_fail(b, jsonf("{'driver': 'qed', 'file': 'disk'}")), "backing filename offset"));
    put(&s.disk, 56, 4, 64);
    assert_non_null(strstr(must_fail(b, jsonf("{'driver': 'qed', 'file': 'disk'}")), "too long: 10000 bytes"));
    memcpy(s.disk.data, good, sizeof(good));
    s.disk.size = 65536 + 1000; /* too short for the L1 table */
    node_set_size(s.file, s.disk.size);
    assert_non_null(strstr(must_fail(b, jsonf("{'driver': 'qed', 'file': 'disk'}")), "table offset"));
    sample_finish(&s);
}

static void test_bad_headers(void **state)
{
    bench_run(bad_headers);
}

static const char *create_text(struct bench *b, const char *opts)
{
    static char text[256];
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk'%s}", opts);
    int rc = driver_find("qed")->create(b->graph, o, &e);
    g_strlcpy(text, rc < 0 ? err_text(&e) : "", sizeof(text));
    return text;
}

static void creating(struct bench *b)
{
    struct memdisk d = {0};
    struct node *n = memdisk_open(b->graph, &d, "disk");
    const char *size = "QED image size must be a non-zero multiple of cluster size and less than ";
    assert_non_null(strstr(create_text(b, ", 'size': 1048576, 'cluster-size': 2048"), "within range [4096, 67108864]"));
    assert_non_null(strstr(create_text(b, ", 'size': 1048576, 'cluster-size': 5000"), "power of 2"));
    assert_non_null(strstr(create_text(b, ", 'size': 1048576, 'table-size': 32"), "within range [1, 16]"));
    assert_non_null(strstr(create_text(b, ", 'size': 9007199254740992"), size));
    assert_string_equal(create_text(b, ", 'size': 1073741824, 'cluster-size': 4096, 'table-size': 1"), "");
    assert_non_null(
        strstr(create_text(b, ", 'size': 1073742336, 'cluster-size': 4096, 'table-size': 1"), "1073741824 bytes"));
    assert_non_null(strstr(create_text(b, ", 'size': 512, 'cluster': 1"), "unexpected"));
    assert_non_null(strstr(create_text(b, ""), "'size' is missing"));
    assert_string_equal(create_text(b, ", 'size': 1000"), "");
    assert_int_equal(disk_le64(&d, 48), 1024);
    assert_string_equal(create_text(b, ", 'size': 1048576, 'backing-file': 'b.img', 'backing-fmt': 'raw'"), "");
    assert_int_equal(disk_features(&d), QED_BACKING | QED_BACKING_RAW);
    assert_string_equal(create_text(b, ", 'size': 1048576, 'backing-file': 'b.img', 'backing-fmt': 'qed'"), "");
    assert_int_equal(disk_features(&d), QED_BACKING);
    assert_int_equal(d.size, 65536 * 5);
    node_unref(n);
    memdisk_finish(&d);
}

static void test_create(void **state)
{
    bench_run(creating);
}

/* --- features ----------------------------------------------------------------------------------------------------- */

static void features(struct bench *b)
{
    struct sample s = {.b = b};
    sample_create(&s, "", MIB, 0);
    put(&s.disk, 24, 8, 5); /* compatible bits are kept, autoclear bits cleared by who may write */
    put(&s.disk, 32, 8, 7);
    sample_open(&s, true);
    sample_close(&s);
    assert_int_equal(disk_le64(&s.disk, 32), 7);
    sample_open(&s, false);
    sample_write(&s, 0, 1000);
    sample_close(&s);
    assert_int_equal(disk_le64(&s.disk, 24), 5);
    assert_int_equal(disk_le64(&s.disk, 32), 0);
    sample_finish(&s);
}

static void test_features(void **state)
{
    bench_run(features);
}

static bool hinted(struct node *n)
{
    struct driver_info info = {0};
    assert_int_equal(n->drv->get_info(n, &info), 0);
    CLEANUP_JSON struct json_object *o = n->drv->specific_info(n);
    assert_int_equal(info.copy_on_read, o != NULL);
    return info.copy_on_read;
}

static void hint(struct bench *b)
{
    struct sample s = {.b = b};
    CLEANUP_JSON struct json_object *on = jsonf("{'copy-on-read': true}"), *off = jsonf("{'copy-on-read': false}");
    CLEANUP_JSON struct json_object *wrong = jsonf("{'cluster-size': 4096}");
    sample_create(&s, ", 'copy-on-read': true", MIB, 0);
    sample_open(&s, false);
    assert_true(hinted(s.n));
    assert_int_equal(s.n->drv->amend(s.n, off, false, NULL, NULL), 0);
    assert_false(hinted(s.n));
    assert_int_equal(disk_le64(&s.disk, 24), 0);
    assert_int_equal(s.n->drv->amend(s.n, on, false, NULL, NULL), 0);
    assert_true(s.n->drv->amend(s.n, wrong, false, NULL, NULL) < 0);
    sample_close(&s);
    assert_int_equal(disk_le64(&s.disk, 24), QED_COMPAT_COPY_ON_READ);
    sample_open(&s, true);
    assert_true(hinted(s.n));
    sample_close(&s);
    sample_finish(&s);
}

static void test_hint(void **state)
{
    bench_run(hint);
}

/* --- the need-check bit ------------------------------------------------------------------------------------------- */

static void bit_comes_and_goes(struct bench *b)
{
    struct sample s = {.b = b};
    sample_create(&s, SMALL_OPTS, MIB, 0);
    sample_open(&s, false);
    assert_int_equal(disk_features(&s.disk), 0);
    sample_write(&s, 0, 5000);
    assert_int_equal(disk_features(&s.disk), QED_NEED_CHECK);
    WAIT_UNTIL(!disk_features(&s.disk));
    assert_int_equal(s.disk.size, 4096 * (1 + 2 + 2 + 2)); /* nothing is left that was grown ahead of need */
    sample_write(&s, 100, 300);                            /* in place: changes no table */
    assert_int_equal(disk_features(&s.disk), 0);
    sample_write(&s, 50000, 300);
    assert_int_equal(disk_features(&s.disk), QED_NEED_CHECK);
    sample_close(&s);
    assert_int_equal(disk_features(&s.disk), 0);
    sample_open(&s, true);
    sample_verify(&s);
    sample_check_clean(&s);
    sample_close(&s);
    sample_finish(&s);
}

static void test_need_check(void **state)
{
    bench_run(bit_comes_and_goes);
}

/* As another program's crash may leave it: entries without clusters, clusters without entries. */
static void recovering(struct bench *b)
{
    struct sample s = {.b = b, .seed = 3};
    sample_create(&s, SMALL_OPTS, MIB, 0);
    sample_open(&s, false);
    sample_write(&s, 0, 5 * SMALL);
    sample_close(&s);
    uint64_t l2 = disk_le64(&s.disk, SMALL), end = s.disk.size;
    disk_put_le64(&s.disk, l2 + 8 * 9, end + 2 * SMALL); /* beyond the file */
    disk_put_le64(&s.disk, l2 + 8 * 8, end + 100);       /* and not even a cluster */
    s.open = "";
    sample_open(&s, true);
    uint8_t byte;
    assert_int_equal(edge_read_buf(s.ed, 8 * SMALL, 1, &byte), -EINVAL); /* a plain error while nobody calls it dirty */
    assert_int_equal(sample_check(&s, 0).corruptions, 2);
    sample_close(&s);
    put(&s.disk, 16, 8, QED_NEED_CHECK);
    sample_open(&s, true);
    sample_verify(&s); /* what the repair will drop is not there */
    sample_close(&s);
    assert_int_equal(disk_features(&s.disk), QED_NEED_CHECK);
    memdisk_resize(&s.disk, end + 5 * SMALL);
    memset(s.disk.data + end, 0xee, 5 * SMALL);
    disk_put_le64(&s.disk, l2 + 8 * 9, end + 70 * SMALL);
    node_set_size(s.file, s.disk.size);
    sample_open(&s, false);
    assert_int_equal(disk_features(&s.disk), 0);
    assert_int_equal(s.disk.size, end);
    sample_verify(&s);
    sample_check_clean(&s);
    sample_write(&s, 7 * SMALL + 5, 3 * SMALL);
    sample_verify(&s);
    sample_close(&s);
    sample_finish(&s);
}

static void test_recover(void **state)
{
    bench_run(recovering);
}

static void named_twice(struct bench *b)
{
    struct sample s = {.b = b};
    sample_create(&s, SMALL_OPTS, MIB, 0);
    sample_open(&s, false);
    sample_write(&s, 0, 5 * SMALL);
    sample_close(&s);
    uint64_t l2 = disk_le64(&s.disk, SMALL);
    disk_put_le64(&s.disk, l2 + 8 * 9, disk_le64(&s.disk, l2));
    sample_open(&s, true);
    assert_int_equal(sample_check(&s, 0).corruptions, 1);
    sample_close(&s);
    put(&s.disk, 16, 8, QED_NEED_CHECK);
    assert_non_null(strstr(must_fail(b, jsonf("{'driver': 'qed', 'file': 'disk'}")), "Could not repair dirty image"));
    s.open = ", 'for-check': true";
    sample_open(&s, false);
    struct check_result r = sample_check(&s, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS);
    assert_int_equal(r.corruptions, 1);
    assert_int_equal(r.corruptions_fixed, 0);
    sample_close(&s);
    assert_int_equal(disk_features(&s.disk), QED_NEED_CHECK);
    sample_finish(&s);
}

static void test_twice(void **state)
{
    bench_run(named_twice);
}

/* --- leaks -------------------------------------------------------------------------------------------------------- */

/* Opens holes: entries [first, first + count) are forgotten. */
static void punch(struct sample *s, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++) {
        uint64_t table = disk_le64(&s->disk, SMALL + 8 * (i / 1024));
        disk_put_le64(&s->disk, table + 8 * (i % 1024), 0);
        memset(s->want + i * SMALL, 0, SMALL);
    }
}

static void fix_leaks(struct sample *s, uint64_t expected)
{
    sample_open(s, false);
    sample_check(s, 0);
    struct check_result r = sample_check(s, CHECK_FIX_LEAKS);
    assert_int_equal(r.leaks_fixed, expected);
    assert_int_equal(r.leaks, 0);
    sample_check_clean(s);
    sample_verify(s);
    sample_write(s, 5 * MIB, 10000); /* and it lives on */
    sample_verify(s);
    sample_check_clean(s);
    sample_close(s);
}

static void leaks(struct bench *b)
{
    struct sample s = {.b = b, .seed = 9};
    sample_create(&s, SMALL_OPTS, 16 * MIB, 0);
    sample_open(&s, false);
    for (unsigned i = 0; i < 4; i++) { /* a table, data, a table, data … */
        sample_write(&s, i * 4 * MIB + i * 12345, 50000);
    }
    sample_close(&s);
    punch(&s, 2, 1);
    fix_leaks(&s, 1);
    punch(&s, 1, 3);
    punch(&s, 1024 + 8, 2);
    fix_leaks(&s, 4); /* one was one before */
    sample_open(&s,
                false); /* the last thing in the file is a table with one cluster before it: it must move onto itself */
    sample_write(&s, 13 * MIB, 100);
    sample_close(&s);
    punch(&s, 13 * 256, 1);
    uint64_t table = disk_le64(&s.disk, SMALL + 8 * 3);
    assert_true(table);
    fix_leaks(&s, 1);
    for (unsigned i = 0; i < 4; i++) {
        punch(&s, i * 1024, 1000);
    }
    sample_open(&s, false);
    uint64_t all = sample_check(&s, 0).leaks;
    sample_close(&s);
    assert_true(all > 10);
    fix_leaks(&s, all);
    sample_finish(&s);
}

static void test_leaks(void **state)
{
    bench_run(leaks);
}

/* The L1 table may lie anywhere: it moves like the others. */
static void moving_l1(struct bench *b)
{
    struct sample s = {.b = b, .seed = 4};
    sample_create(&s, SMALL_OPTS, 16 * MIB, 0);
    sample_open(&s, false);
    sample_write(&s, 100, 9 * SMALL);
    sample_write(&s, 9 * MIB, 3 * SMALL);
    sample_close(&s);
    uint64_t end = s.disk.size;
    memdisk_resize(&s.disk, end + 2 * SMALL);
    memcpy(s.disk.data + end, s.disk.data + SMALL, 2 * SMALL);
    memset(s.disk.data + SMALL, 0xaa, 2 * SMALL);
    put(&s.disk, 40, 8, end);
    node_set_size(s.file, s.disk.size);
    fix_leaks(&s, 2);
    assert_true(disk_le64(&s.disk, 40) < end);
    sample_finish(&s);
}

static void test_moving_l1(void **state)
{
    bench_run(moving_l1);
}

/* --- size, backing link ------------------------------------------------------------------------------------------- */

static void growing(struct bench *b)
{
    struct sample s = {.b = b, .seed = 1};
    CLEANUP_ERR struct err e = ERR_INIT;
    sample_create(&s, SMALL_OPTS, MIB + 512, 3 * MIB); /* the base is longer than the image */
    sample_open(&s, false);
    sample_write(&s, MIB - 100, 50);
    assert_true(edge_truncate(s.ed, MIB, true, PREALLOC_OFF, &e) < 0);
    assert_string_equal(err_text(&e), "Shrinking images is currently not supported");
    assert_true(edge_truncate(s.ed, 2 * MIB + 100, true, PREALLOC_OFF, &e) < 0);
    assert_string_equal(err_text(&e), "Invalid image size specified");
    assert_true(edge_truncate(s.ed, 4 * MIB, true, PREALLOC_FULL, &e) < 0);
    assert_string_equal(err_text(&e), "Unsupported preallocation mode 'full'");
    s.size = 5 * MIB;
    s.want = g_realloc(s.want, s.size + 1);
    memset(s.want + MIB + 512, 0, s.size - MIB - 512);
    assert_int_equal(edge_truncate(s.ed, s.size, true, PREALLOC_OFF, &e), 0);
    sample_verify(&s); /* what was gained reads as zeroes, not as the base */
    sample_write(&s, 4 * MIB, MIB);
    sample_check_clean(&s);
    sample_close(&s);
    sample_open(&s, true);
    sample_verify(&s);
    sample_close(&s);
    sample_finish(&s);
}

static void test_grow(void **state)
{
    bench_run(growing);
}

static void relinking(struct bench *b)
{
    struct sample s = {.b = b};
    CLEANUP_ERR struct err e = ERR_INIT;
    sample_create(&s, SMALL_OPTS, MIB, 0);
    sample_open(&s, false);
    for (int i = 1; i < 1100; i += 73) {
        CLEANUP_FREE char *name = g_strnfill(i, 'a' + i % 26);
        int rc = s.n->drv->change_backing(s.n, name, i % 2 ? "raw" : "qed", &e);
        assert_int_equal(rc<0, i> 1023);
        if (rc == 0) {
            assert_string_equal(s.n->backing_filename, name);
            assert_int_equal(disk_features(&s.disk), QED_BACKING | (i % 2 ? QED_BACKING_RAW : 0));
            assert_memory_equal(s.disk.data + load_le32(s.disk.data + 56), name, i);
        }
    }
    assert_int_equal(s.n->drv->change_backing(s.n, NULL, NULL, &e), 0);
    assert_null(s.n->backing_filename);
    assert_int_equal(disk_features(&s.disk), 0);
    sample_close(&s);
    sample_finish(&s);
}

static void test_relink(void **state)
{
    bench_run(relinking);
}

static void emptying(struct bench *b)
{
    struct sample s = {.b = b, .seed = 2};
    sample_create(&s, SMALL_OPTS, MIB, MIB);
    sample_open(&s, false);
    sample_write(&s, 1234, 300000);
    assert_int_equal(s.n->drv->make_empty(s.n), 0);
    memcpy(s.want, s.base.data, MIB);
    sample_verify(&s);
    assert_int_equal(s.disk.size, 3 * SMALL);
    sample_write(&s, 4321, 30000);
    sample_verify(&s);
    sample_check_clean(&s);
    sample_close(&s);
    sample_finish(&s);
}

static void test_empty(void **state)
{
    bench_run(emptying);
}

/* What measuring promises is what writing needs. */
static void measuring(struct bench *b)
{
    struct sample s = {.b = b, .seed = 2};
    struct measure_result r;
    sample_create(&s, SMALL_OPTS, 16 * MIB, 0);
    sample_open(&s, false);
    CLEANUP_JSON struct json_object *empty = jsonf("{'size': 16777216, 'cluster-size': 4096, 'table-size': 2}");
    assert_int_equal(driver_find("qed")->measure(b->graph, empty, NULL, &r, NULL), 0);
    assert_int_equal(r.required, s.disk.size);
    sample_write(&s, 777, 100000);
    sample_write(&s, 7 * MIB, 5);
    assert_int_equal(driver_find("qed")->measure(b->graph, empty, s.n, &r, NULL), 0);
    sample_close(&s);
    assert_int_equal(r.required, s.disk.size);
    sample_open(&s, false);
    sample_write(&s, 0, 16 * MIB);
    sample_close(&s);
    assert_int_equal(r.fully_allocated, s.disk.size);
    sample_finish(&s);
}

static void test_measure(void **state)
{
    bench_run(measuring);
}

/* A full disk leaks nothing: what could not be used is given back. */
static void full_disk(struct bench *b)
{
    struct sample s = {.b = b};
    sample_create(&s, SMALL_OPTS, MIB, 0);
    sample_open(&s, false);
    sample_write(&s, 0, 8 * SMALL);
    s.disk.fail_kinds = FAIL_WRITE;
    s.disk.fail_rc = -ENOSPC;
    for (int i = 0; i < 20; i++) {
        s.disk.fail_in = 1;
        assert_int_equal(edge_write_buf(s.ed, 20 * SMALL, 3 * SMALL, s.want, 0), -ENOSPC);
    }
    s.disk.fail_in = 0;
    sample_verify(&s);
    sample_check_clean(&s);
    sample_write(&s, 20 * SMALL, 100);
    sample_verify(&s);
    sample_close(&s);
    assert_int_equal(s.disk.size, (1 + 2 + 2 + 8 + 1) * SMALL);
    sample_finish(&s);
}

static void test_full_disk(void **state)
{
    bench_run(full_disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_create),     cmocka_unit_test(test_features),
        cmocka_unit_test(test_hint),        cmocka_unit_test(test_need_check), cmocka_unit_test(test_recover),
        cmocka_unit_test(test_twice),       cmocka_unit_test(test_leaks),      cmocka_unit_test(test_moving_l1),
        cmocka_unit_test(test_grow),        cmocka_unit_test(test_relink),     cmocka_unit_test(test_empty),
        cmocka_unit_test(test_measure),     cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
