/* SPDX-License-Identifier: BSD-2-Clause */
/* Files on whatever file systems there are: zeroes and holes, what is opened and what is not, copies by the host. */
#include "support.h"

#include "block/dirty.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MB = 1 << 20, BLOCK = 65536 };

/* --- zeroes and holes --------------------------------------------------------------------------------------------- */

static uint64_t used_bytes(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void assert_all(struct edge *ed, uint64_t off, uint64_t len, int byte)
{
    g_autofree uint8_t *buf = g_malloc(len);
    memset(buf, ~byte, len);
    assert_int_equal(edge_read_buf(ed, off, len, buf), 0);
    for (uint64_t i = 0; i < len; i++) {
        assert_int_equal(buf[i], byte);
    }
}

static void fill(struct edge *ed, uint64_t off, uint64_t len, int byte)
{
    g_autofree uint8_t *buf = g_malloc(len);
    memset(buf, byte, len);
    assert_int_equal(edge_write_buf(ed, off, len, buf, 0), 0);
}

static unsigned kind_at(struct node *n, uint64_t off, uint64_t *len)
{
    struct extent x;
    assert_int_equal(node_status(n, true, off, n->size - off, &x), 0);
    assert_true(x.flags & EXT_ALLOCATED);
    assert_int_equal(x.offset, off);
    *len = x.len;
    return x.flags & (EXT_DATA | EXT_ZERO);
}

static void zeroes_in(struct bench *b, const char *path)
{
    uint64_t len;
    struct node *n = must_open(b, jsonf("{'driver':'file','filename':'%s','discard':'unmap'}", path));
    struct edge *ed = rw_edge(n);
    fill(ed, 0, MB, 7);
    assert_int_equal(edge_flush(ed), 0);
    uint64_t full = used_bytes(path);
    assert_int_equal(kind_at(n, 0, &len), EXT_DATA); /* remembered from now on */
    assert_int_equal(len, MB);
    assert_int_equal(edge_zero(ed, 2 * BLOCK, BLOCK, 0), 0); /* keeps its space */
    assert_all(ed, 2 * BLOCK, BLOCK, 0);
    assert_true(used_bytes(path) + 4096 >= full);
    assert_int_equal(edge_zero(ed, 4 * BLOCK, BLOCK, REQ_MAY_UNMAP), 0);
    assert_int_equal(kind_at(n, 4 * BLOCK, &len), EXT_ZERO);
    assert_int_equal(len, BLOCK);
    assert_int_equal(edge_discard(ed, 6 * BLOCK, BLOCK), 0);
    assert_int_equal(kind_at(n, 6 * BLOCK, &len), EXT_ZERO);
    assert_true(used_bytes(path) <= full - 2 * BLOCK + 4096);
    assert_int_equal(edge_zero(ed, 8 * BLOCK + 100, 1000, REQ_MAY_UNMAP), 0); /* a part of a block */
    assert_all(ed, 8 * BLOCK + 100, 1000, 0);
    assert_all(ed, 8 * BLOCK, 100, 7);
    assert_all(ed, 8 * BLOCK + 1100, 1000, 7);
    fill(ed, 4 * BLOCK, BLOCK, 8);
    assert_int_equal(kind_at(n, 4 * BLOCK, &len), EXT_DATA);
    edge_close(ed);
    node_unref(n);
}

static void zeroes(struct bench *b)
{
    zeroes_in(b, bench_file(b, "disk", MB, 0));
    g_autofree char *tmpfs = g_strdup_printf("/dev/shm/sterna-file-test-%d", getpid());
    int fd = open(tmpfs, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        print_message("skipped: no /dev/shm here\n");
        return;
    }
    assert_int_equal(ftruncate(fd, MB), 0);
    close(fd);
    zeroes_in(b, tmpfs);
    unlink(tmpfs);
}

static void test_zeroes(void **state)
{
    bench_run(zeroes);
}

static void makes_files(struct bench *b)
{
    static const char *const prealloc[] = {"off", "falloc", "full"};
    static const uint64_t used[] = {4096, MB, MB};
    struct err e = ERR_INIT;
    const char *path = bench_path(b, "new");
    for (int i = 0; i < 3; i++) {
        struct json_object *o =
            jsonf("{'filename':'%s','size':%d,'preallocation':'%s','nocow':true}", path, MB, prealloc[i]);
        assert_int_equal(driver_find("file")->create(b->graph, o, &e), 0);
        json_object_put(o);
        assert_true(used_bytes(path) <= used[i]); /* the first block tells what O_DIRECT needs */
        assert_true(used_bytes(path) > used[i] - 4096);
    }
    struct json_object *o = jsonf("{'filename':'%s','size':%d,'extent-size-hint':'4G'}", path, MB);
    assert_true(driver_find("file")->create(b->graph, o, &e) < 0);
    assert_string_equal(err_text(&e), "Extent size hint is too large");
    err_clear(&e);
    json_object_put(o);
}

static void test_create(void **state)
{
    bench_run(makes_files);
}

/* --- what is opened ----------------------------------------------------------------------------------------------- */

static void knows_types(struct bench *b)
{
    const char *fifo = bench_path(b, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    g_autofree char *file_text = g_strdup_printf("'file' driver requires '%s' to be a regular file", fifo);
    g_autofree char *device_text =
        g_strdup_printf("'host_device' driver requires '%s' to be either a character or block device", fifo);
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'%s','read-only':true}", fifo)), file_text);
    assert_string_equal(must_fail(b, jsonf("{'driver':'host_device','filename':'%s'}", fifo)), device_text);
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'/dev/zero'}")),
                        "'file' driver requires '/dev/zero' to be a regular file");
    struct node *n = must_open(b, jsonf("{'driver':'host_device','filename':'/dev/zero'}"));
    assert_int_equal(n->size, 0);
    node_unref(n);
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':''}")),
                        "The 'file' block driver requires a file name");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'%s','aio':'native'}", fifo)),
                        "aio=native was specified, but it requires cache.direct=on, which was not specified.");
}

static void opens_descriptors(struct bench *b)
{
    int fd = open(bench_file(b, "disk", 4096, 3), O_RDWR | O_CLOEXEC);
    unlink(bench_path(b, "disk")); /* nothing but the descriptor leads there now */
    struct node *n = must_open(b, jsonf("{'driver':'file','filename':'/dev/fd/%d','aio':'io_uring','aio-max-batch':8,"
                                        "'drop-cache':false,'x-check-cache-dropped':true}",
                                        fd));
    struct edge *ed = rw_edge(n);
    close(fd);
    assert_all(ed, 0, 4096, 3);
    edge_close(ed);
    node_unref(n);
}

static void locks_as_told(struct bench *b)
{
    bench_file(b, "disk", 4096, 3);
    struct err e = ERR_INIT;
    struct edge *none;
    struct node *on = must_open(b, jsonf("{'driver':'file','filename':'%s','locking':'on'}", bench_path(b, "disk")));
    struct node *off = must_open(b, jsonf("{'driver':'file','filename':'%s','locking':'off'}", bench_path(b, "disk")));
    struct node *dflt = must_open(b, jsonf("{'driver':'file','filename':'%s'}", bench_path(b, "disk")));
    struct node *shared = must_open(
        b, jsonf("{'driver':'file','filename':'%s','read-only':true,'force-share':true}", bench_path(b, "disk")));
    struct edge *a = must_edge(on, PERM_READ | PERM_WRITE, PERM_READ), *c = must_edge(off, PERM_WRITE, 0);
    struct edge *d = must_edge(shared, PERM_READ, PERM_READ); /* shares everything whatever it says */
    assert_true(edge_open(dflt, &(struct edge_spec){"root", PERM_READ | PERM_WRITE, PERM_READ}, &none, &e) < 0);
    /* all that it wants to do is asked for before all that it wants to keep others from */
    assert_true(g_str_has_prefix(err_text(&e), "Failed to get \"write\" lock\n"));
    err_clear(&e);
    edge_close(a);
    edge_close(c);
    edge_close(d);
    node_unref(on);
    node_unref(off);
    node_unref(dflt);
    node_unref(shared);
}

static void test_opening(void **state)
{
    bench_run(knows_types);
    bench_run(opens_descriptors);
    bench_run(locks_as_told);
}

/* --- O_DIRECT ----------------------------------------------------------------------------------------------------- */

static void goes_direct(struct bench *b)
{
    const char *path = bench_file(b, "disk", 100000, 1); /* ends within a block */
    struct err e = ERR_INIT;
    struct json_object *o = jsonf("{'driver':'file','filename':'%s','cache':{'direct':true},'aio':'native'}", path);
    struct node *n;
    if (node_open(b->graph, o, &n, &e) < 0) {
        print_message("skipped: %s\n", err_text(&e));
        err_clear(&e);
    } else {
        struct edge *ed = rw_edge(n);
        assert_true(n->limits.request_align >= 512);
        fill(ed, 99990, 10, 2);
        fill(ed, 1, 5000, 3);
        assert_all(ed, 99990, 10, 2);
        assert_all(ed, 99000, 990, 1);
        assert_all(ed, 1, 5000, 3);
        assert_all(ed, 5001, 1000, 1);
        assert_int_equal(edge_zero(ed, 50000, 100, 0), 0);
        assert_all(ed, 50000, 100, 0);
        assert_int_equal(edge_truncate(ed, 200001, true, PREALLOC_FULL, &e), 0);
        assert_all(ed, 100000, 100001, 0);
        edge_close(ed);
        node_unref(n);
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, 200001);
    }
    json_object_put(o);
}

static void test_direct(void **state)
{
    bench_run(goes_direct);
}

/* --- copies by the host ------------------------------------------------------------------------------------------- */

static struct node *raw_on(struct bench *b, const char *name, const char *extra)
{
    return must_open(b, jsonf("{'driver':'raw','discard':'unmap','file':{'driver':'file','filename':'%s'}%s}",
                              bench_path(b, name), extra));
}

static struct node *qcow2_on(struct bench *b, const char *name)
{
    struct err e = ERR_INIT;
    const char *path = bench_path(b, name);
    struct json_object *o = jsonf("{'filename':'%s','size':0}", path);
    assert_int_equal(driver_find("file")->create(b->graph, o, &e), 0);
    json_object_put(o);
    o = jsonf("{'file':{'driver':'file','filename':'%s'},'size':%d}", path, MB);
    assert_int_equal(driver_find("qcow2")->create(b->graph, o, &e), 0);
    json_object_put(o);
    return must_open(b, jsonf("{'driver':'qcow2','discard':'unmap','file':{'driver':'file','filename':'%s'}}", path));
}

/* Data, a hole, data; not all of it in whole clusters. */
static void make_source(struct edge *ed)
{
    fill(ed, 0, 2 * BLOCK, 1);
    fill(ed, 2 * BLOCK, 4096, 2);
    fill(ed, 8 * BLOCK, BLOCK, 3);
}

static void check_copy(struct edge *ed)
{
    assert_all(ed, 0, 2 * BLOCK, 1);
    assert_all(ed, 2 * BLOCK, 4096, 2);
    assert_all(ed, 2 * BLOCK + 4096, 6 * BLOCK - 4096, 0);
    assert_all(ed, 8 * BLOCK, BLOCK, 3);
    assert_all(ed, 9 * BLOCK, MB - 9 * BLOCK, 0);
}

static void copies_between(struct node *from, struct node *to, bool *works)
{
    struct edge *src = rw_edge(from), *dst = rw_edge(to);
    make_source(src);
    fill(dst, 6 * BLOCK, BLOCK, 9); /* what the source does not have goes away */
    assert_int_equal(edge_flush(src), 0);
    int rc = edge_copy_range(dst, 0, 2 * BLOCK, from, 0);
    *works &= rc != -ENOTSUP;
    if (*works) {
        assert_int_equal(rc, 0);
        bool clusters = !strcmp(to->drv->name, "qcow2"); /* the cluster that is not data throughout must be written */
        assert_int_equal(edge_copy_range(dst, 2 * BLOCK, 4096, from, 2 * BLOCK), clusters ? -ENOTSUP : 0);
        if (clusters) {
            fill(dst, 2 * BLOCK, 4096, 2);
        }
        assert_int_equal(edge_copy_range(dst, 2 * BLOCK + 4096, MB - 2 * BLOCK - 4096, from, 2 * BLOCK + 4096), 0);
        check_copy(dst);
        fill(src, 0, BLOCK, 5); /* what is shared is shared until it is written */
        check_copy(dst);
    }
    edge_close(src);
    edge_close(dst);
}

static void copies(struct bench *b)
{
    bool works = true;
    bench_file(b, "a", MB, 0);
    bench_file(b, "c", MB, 0);
    struct node *a = raw_on(b, "a", ""), *c = raw_on(b, "c", ""), *q = qcow2_on(b, "q"), *q2 = qcow2_on(b, "q2");
    copies_between(a, c, &works);
    if (works) {
        copies_between(c, q, &works);
        copies_between(q, q2, &works);
        struct check_result r = {0};
        assert_int_equal(q2->drv->check(q2, &r, 0, NULL), 0);
        assert_int_equal(r.corruptions + r.leaks, 0);
    } else {
        print_message("skipped: this file system cannot copy ranges\n");
    }
    node_unref(a);
    node_unref(c);
    node_unref(q);
    node_unref(q2);
}

static void copies_with_care(struct bench *b)
{
    struct err e = ERR_INIT;
    struct dirty_bitmap *bitmap;
    bench_file(b, "a", MB, 6);
    bench_file(b, "c", MB, 0);
    struct node *a = raw_on(b, "a", ",'read-only':true"), *c = raw_on(b, "c", "");
    struct edge *dst = rw_edge(c);
    assert_int_equal(dirty_bitmap_create(c, "bits", BLOCK, &bitmap, &e), 0);
    if (edge_copy_range(dst, BLOCK, BLOCK, a, BLOCK) == 0) {
        assert_int_equal(dirty_bitmap_bytes(bitmap), BLOCK);
    }
    assert_int_equal(edge_copy_range(dst, MB - BLOCK, 2 * BLOCK, a, 0), -EIO); /* past the end */
    edge_close(dst);
    struct edge *reader = must_edge(c, PERM_READ, PERM_ALL);
    assert_int_equal(edge_copy_range(reader, 0, BLOCK, a, 0), -EPERM);
    edge_close(reader);
    node_unref(c);
    c = raw_on(b, "c", ",'detect-zeroes':'on'"); /* somebody wants to see the bytes */
    dst = rw_edge(c);
    assert_int_equal(edge_copy_range(dst, 0, BLOCK, a, 0), -ENOTSUP);
    edge_close(dst);
    node_unref(c);
    c = must_open(b, jsonf("{'driver':'blkdebug','image':{'driver':'file','filename':'%s'}}", bench_path(b, "c")));
    dst = rw_edge(c);
    assert_int_equal(edge_copy_range(dst, 0, BLOCK, a, 0), -ENOTSUP); /* a filter that knows nothing of it */
    edge_close(dst);
    node_unref(c);
    node_unref(a);
}

static void test_copies(void **state)
{
    bench_run(copies);
    bench_run(copies_with_care);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroes), cmocka_unit_test(test_create), cmocka_unit_test(test_opening),
        cmocka_unit_test(test_direct), cmocka_unit_test(test_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
