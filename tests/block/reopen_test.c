/* SPDX-License-Identifier: BSD-2-Clause */
/* Reopening: together or not at all, for raw files and qcow2 images. */
#include "block/reopen.h"

#include "support.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <unistd.h>

static int reopen(struct node *n, bool keep, struct json_object *opts, struct err *e)
{
    int rc = node_reopen(&(struct reopen_request){n, opts, keep}, 1, e);
    json_object_put(opts);
    return rc;
}

static void must_reopen(struct node *n, struct json_object *opts)
{
    struct err e = ERR_INIT;
    int rc = reopen(n, true, opts, &e);
    if (rc) {
        fail_msg("%s", err_text(&e));
    }
}

static void must_refuse(struct node *n, bool keep, struct json_object *opts, const char *text)
{
    struct err e = ERR_INIT;
    assert_true(reopen(n, keep, opts, &e) < 0);
    if (!strstr(err_text(&e), text)) {
        fail_msg("\"%s\" lacks \"%s\"", err_text(&e), text);
    }
    err_clear(&e);
}

static struct node *open_raw(struct bench *b, const char *name, const char *more)
{
    return must_open(
        b, jsonf("{'driver': 'raw', 'node-name': 'r', 'file': {'driver': 'file', 'filename': '%s'}%s}", name, more));
}

static void write_byte(struct edge *ed, uint64_t off, int byte)
{
    uint8_t buf[512];
    memset(buf, byte, sizeof(buf));
    assert_int_equal(edge_write_buf(ed, off, sizeof(buf), buf, 0), 0);
}

static int read_byte(struct edge *ed, uint64_t off)
{
    uint8_t c;
    assert_int_equal(edge_read_buf(ed, off, 1, &c), 0);
    return c;
}

static bool byte_is_locked(const char *path, int byte)
{
    int fd = open(path, O_RDWR);
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    assert_int_equal(fcntl(fd, F_OFD_GETLK, &fl), 0);
    close(fd);
    return fl.l_type != F_UNLCK;
}

/* --- raw -------------------------------------------------------------------------------------------------------- */

static void read_only_and_back(struct bench *b)
{
    const char *path = bench_file(b, "a", 65536, 1);
    struct node *n = open_raw(b, path, "");
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_ALL);
    struct node *file = n->file->child;
    write_byte(ed, 0, 2);
    assert_true(byte_is_locked(path, 101));
    must_refuse(n, true, jsonf("{'read-only': true}"), "cannot support read-write users");
    write_byte(ed, 512, 3);
    assert_int_equal(edge_set_perm(ed, PERM_READ, PERM_ALL, NULL), 0);
    must_reopen(n, jsonf("{'read-only': true}"));
    assert_true(n->read_only && file->read_only && !byte_is_locked(path, 101) && byte_is_locked(path, 100));
    assert_int_equal(read_byte(ed, 512), 3);
    assert_true(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_ALL, NULL) < 0);
    must_reopen(n, jsonf("{'read-only': false, 'cache': {'no-flush': true}}"));
    assert_true(!n->read_only && !file->read_only && n->no_flush && file->no_flush);
    assert_int_equal(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_ALL, NULL), 0);
    assert_true(byte_is_locked(path, 101));
    write_byte(ed, 1024, 4);
    assert_int_equal(read_byte(ed, 1024), 4);
    edge_close(ed);
    node_unref(n);
}

static void window(struct bench *b)
{
    struct node *n = open_raw(b, bench_file(b, "a", 65536, 0), "");
    struct edge *ed = rw_edge(n);
    write_byte(ed, 4096, 7);
    must_reopen(n, jsonf("{'offset': 4096, 'size': 512}"));
    assert_int_equal(edge_size(ed), 512);
    assert_int_equal(read_byte(ed, 0), 7);
    must_refuse(n, true, jsonf("{'offset': 100000}"), "cannot be greater than size");
    must_refuse(n, true, jsonf("{'size': 513}"), "not multiple of 512");
    assert_int_equal(edge_size(ed), 512);
    assert_int_equal(reopen(n, false, jsonf("{'driver': 'raw'}"), NULL), 0); /* the name need not be said */
    assert_string_equal(n->name, "r");
    assert_int_equal(edge_size(ed), 65536);
    edge_close(ed);
    node_unref(n);
}

static void what_cannot_change(struct bench *b)
{
    struct node *n = open_raw(b, bench_file(b, "a", 65536, 0), ", 'discard': 'unmap'");
    must_refuse(n, true, jsonf("{'driver': 'qcow2'}"), "Cannot change the option 'driver'");
    must_refuse(n, true, jsonf("{'nonsense': 1}"), "Cannot change the option 'nonsense'");
    must_refuse(n, true, jsonf("{'file.filename': 'b'}"), "Cannot change the option 'filename'");
    must_refuse(n, true, jsonf("{'file': 'nobody'}"), "Cannot find device='' nor node-name='nobody'");
    must_refuse(n, true, jsonf("{'file': 'r'}"), "Making 'r' a file child of 'r' would create a cycle");
    must_refuse(n, true, jsonf("{'backing': {'driver': 'raw'}}"), "Cannot change the option 'backing.driver'");
    must_refuse(n, true, jsonf("{'cache': {'writeback': true}}"), "Cannot change the option 'cache.writeback'");
    must_refuse(n, true, jsonf("{'discard': 'maybe'}"), "discard");
    must_refuse(n, true, jsonf("{'file': {'locking': 'off'}}"), "Cannot change the option 'locking'");
    assert_true(n->discard_unmap);
    must_reopen(n, jsonf("{'file': '%s', 'driver': 'raw', 'node-name': 'r'}", n->file->child->name));
    must_reopen(n, jsonf("{'discard': 'ignore', 'detect-zeroes': 'on', 'file.driver': 'file'}"));
    assert_true(!n->discard_unmap && n->detect_zeroes == 1);
    node_unref(n);
}

/* A child that was named and not opened for the node stays as it is. */
static void a_named_child_does_not_follow(struct bench *b)
{
    const char *path = bench_file(b, "a", 65536, 0);
    struct node *f = must_open(b, jsonf("{'driver': 'file', 'node-name': 'f', 'filename': '%s'}", path));
    struct node *n = must_open(b, jsonf("{'driver': 'raw', 'file': 'f'}"));
    must_reopen(n, jsonf("{'read-only': true}"));
    assert_true(n->read_only && !f->read_only);
    must_refuse(n, true, jsonf("{'file': {'read-only': true}}"), "Cannot change the option 'file.read-only'");
    node_unref(n);
    node_unref(f);
}

/* What was said of the file itself holds, until nothing is said of it. */
static void a_child_that_was_told_itself(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *n = must_open(b, jsonf("{'driver': 'raw', 'node-name': 'r', 'read-only': true, 'file': {'driver': "
                                        "'file', 'filename': '%s', 'read-only': true}}",
                                        bench_file(b, "a", 65536, 1)));
    struct node *file = n->file->child;
    struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
    must_reopen(n, jsonf("{'read-only': false}"));
    assert_true(!n->read_only && file->read_only);
    assert_true(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_ALL, &e) < 0);
    assert_string_equal(err_text(&e), "Block node is read-only");
    err_clear(&e);
    must_reopen(n, jsonf("{'read-only': true, 'file': {'read-only': false}}"));
    must_reopen(n, jsonf("{'read-only': false}"));
    assert_true(!n->read_only && !file->read_only);
    must_reopen(n, jsonf("{'read-only': true, 'file': {'read-only': true}}"));
    assert_int_equal(reopen(n, false, jsonf("{'driver': 'raw', 'node-name': 'r'}"), NULL), 0);
    assert_true(!n->read_only && !file->read_only);
    assert_int_equal(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_ALL, NULL), 0);
    edge_close(ed);
    node_unref(n);
}

static void a_file_that_was_replaced(struct bench *b)
{
    const char *path = bench_file(b, "a", 65536, 1);
    struct node *n = open_raw(b, path, "");
    assert_int_equal(unlink(path), 0);
    must_refuse(n, true, jsonf("{'read-only': true}"), "No such file");
    bench_file(b, "a", 65536, 2);
    must_refuse(n, true, jsonf("{'read-only': true}"), "another file");
    struct edge *ed = rw_edge(n);
    assert_int_equal(read_byte(ed, 0), 1);
    edge_close(ed);
    node_unref(n);
}

/* The second of two is refused: the first is as it was. */
static void two_together(struct bench *b)
{
    struct node *x =
        must_open(b, jsonf("{'driver': 'file', 'node-name': 'x', 'filename': '%s'}", bench_file(b, "x", 4096, 0)));
    struct node *y =
        must_open(b, jsonf("{'driver': 'file', 'node-name': 'y', 'filename': '%s'}", bench_file(b, "y", 4096, 0)));
    struct edge *ed = rw_edge(y);
    struct json_object *ro = jsonf("{'read-only': true}");
    struct reopen_request both[] = {{x, ro, true}, {y, ro, true}};
    struct err e = ERR_INIT;
    assert_true(node_reopen(both, 2, &e) < 0);
    assert_true(strstr(err_text(&e), "Read-only block node 'y'") && !x->read_only && !y->read_only);
    err_clear(&e);
    edge_close(ed);
    assert_int_equal(node_reopen(both, 2, NULL), 0);
    assert_true(x->read_only && y->read_only);
    assert_int_equal(node_reopen(NULL, 0, NULL), 0);
    json_object_put(ro);
    node_unref(x);
    node_unref(y);
}

/* Somebody else writes to the file: we may read it, but not write to it too. */
static void a_lock_that_cannot_be_had(struct bench *b)
{
    const char *path = bench_file(b, "a", 4096, 9);
    struct node *n = open_raw(b, path, ", 'read-only': true");
    struct edge *ed = must_edge(n, PERM_READ, PERM_READ | PERM_WRITE_SAME);
    int fd = open(path, O_RDWR);
    struct flock fl = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 201, .l_len = 1}; /* lets nobody write */
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
    must_reopen(n, jsonf("{'read-only': false}"));
    assert_true(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_READ, NULL) < 0);
    must_reopen(n, jsonf("{'read-only': true}"));
    close(fd);
    must_reopen(n, jsonf("{'read-only': false}"));
    assert_int_equal(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_READ, NULL), 0);
    write_byte(ed, 0, 8);
    edge_close(ed);
    node_unref(n);
}

/* --- requests under way ----------------------------------------------------------------------------------------- */

struct traffic {
    struct edge *ed;
    bool stop;
    unsigned done;
};

static void keep_reading(void *arg)
{
    struct traffic *t = arg;
    uint8_t buf[4096];
    while (!t->stop) {
        assert_int_equal(edge_read_buf(t->ed, t->done % 8 * 4096, sizeof(buf), buf), 0);
        t->done++;
        co_yield ();
    }
}

static void under_load(struct bench *b)
{
    struct node *n = open_raw(b, bench_file(b, "a", 65536, 5), "");
    struct traffic t = {.ed = must_edge(n, PERM_READ, PERM_ALL)};
    int running = 0;
    for (int i = 0; i < 4; i++) {
        spawn(b, keep_reading, &t, &running);
    }
    for (int i = 0; i < 50 || t.done <= 50; i++) {
        assert_true(i < 100000);
        must_reopen(n, i % 2 ? jsonf("{'read-only': false}") : jsonf("{'read-only': true}"));
        co_sleep(100000);
    }
    t.stop = true;
    wait_for(&running);
    edge_close(t.ed);
    node_unref(n);
}

/* --- qcow2 ------------------------------------------------------------------------------------------------------ */

static struct node *open_qcow2(struct bench *b, const char *more)
{
    const char *path = bench_path(b, "q");
    unlink(path);
    struct json_object *o =
        jsonf("{'file': '%s', 'size': 10485760, 'cluster-size': 4096, 'lazy-refcounts': true}", path);
    struct err e = ERR_INIT;
    if (driver_find("qcow2")->create(b->graph, o, &e)) {
        fail_msg("%s", err_text(&e));
    }
    json_object_put(o);
    return must_open(b, jsonf("{'driver': 'qcow2', 'file': {'driver': 'file', 'filename': '%s'}%s}", path, more));
}

static void check_is_clean(struct node *n)
{
    struct check_result r = {0};
    assert_int_equal(n->drv->check(n, &r, 0, NULL), 0);
    assert_true(!r.corruptions && !r.leaks && !r.check_errors);
}

static void qcow2_settings(struct bench *b)
{
    struct node *n = open_qcow2(b, "");
    struct edge *ed = rw_edge(n);
    static const char *const changes[] = {
        "{'lazy-refcounts': true}",    "{'l2-cache-entry-size': 512}",  "{'lazy-refcounts': false}",
        "{'cache-size': 65536}",       "{'overlap-check': 'none'}",     "{'cache-clean-interval': 0}",
        "{'cache-clean-interval': 5}", "{'cache': {'no-flush': true}}", "{'pass-discard-request': true}"};
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        write_byte(ed, i * UINT64_C(1000000), (int)i + 1);
        must_reopen(n, jsonf("%s", changes[i]));
    }
    must_refuse(n, true, jsonf("{'l2-cache-entry-size': 1000}"), "power of two");
    must_refuse(n, true, jsonf("{'lazy-refcounts': true, 'cache-clean-interval': -1}"), "too big");
    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        assert_int_equal(read_byte(ed, i * UINT64_C(1000000)), (int)i + 1);
    }
    assert_int_equal(edge_flush(ed), 0);
    check_is_clean(n);
    edge_close(ed);
    node_unref(n);
}

static void qcow2_read_only_and_back(struct bench *b)
{
    struct node *n = open_qcow2(b, "");
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_ALL);
    for (int i = 1; i < 10; i++) {
        write_byte(ed, (uint64_t)i * 100000, i);
        assert_int_equal(edge_set_perm(ed, PERM_READ, PERM_ALL, NULL), 0);
        must_reopen(n, jsonf("{'read-only': true}"));
        assert_true(n->file->child->read_only);
        assert_int_equal(read_byte(ed, (uint64_t)i * 100000), i);
        check_is_clean(n); /* nothing is only in memory */
        must_reopen(n, jsonf("{'read-only': false}"));
        assert_int_equal(edge_set_perm(ed, PERM_READ | PERM_WRITE, PERM_ALL, NULL), 0);
    }
    edge_close(ed);
    node_unref(n);
}

/* The image cannot be made ready for writing: it goes on as it was. */
static void qcow2_that_cannot_be_written(struct bench *b)
{
    uint8_t unknown[8] = {[7] = 0x80}; /* an autoclear bit: who writes must clear it */
    node_unref(open_qcow2(b, ""));
    int fd = open(bench_path(b, "q"), O_RDWR);
    assert_int_equal(pwrite(fd, unknown, 8, 88), 8);
    close(fd);
    struct node *n = must_open(b, jsonf("{'driver': 'qcow2', 'read-only': true, 'file': {'driver': 'blkdebug', "
                                        "'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': 28}], "
                                        "'image': {'driver': 'file', 'filename': '%s'}}}",
                                        bench_path(b, "q")));
    struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
    must_refuse(n, true, jsonf("{'read-only': false, 'l2-cache-entry-size': 512}"), "Could not update qcow2 header");
    assert_true(n->read_only && n->file->child->read_only && n->file->child->file->child->read_only);
    assert_false(byte_is_locked(bench_path(b, "q"), 101));
    assert_int_equal(read_byte(ed, 0), 0);
    edge_close(ed);
    node_unref(n);
}

/* --- other children ----------------------------------------------------------------------------------------------- */

static struct node *open_file(struct bench *b, const char *name, int fill)
{
    return must_open(
        b, jsonf("{'driver': 'file', 'node-name': '%s', 'filename': '%s'}", name, bench_file(b, name, 65536, fill)));
}

static void another_file(struct bench *b)
{
    struct node *x = open_file(b, "x", 1), *y = open_file(b, "y", 2);
    struct node *n = must_open(b, jsonf("{'driver': 'raw', 'node-name': 'r', 'file': 'x'}"));
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_READ);
    assert_int_equal(read_byte(ed, 0), 1);
    must_reopen(n, jsonf("{'file': 'y'}"));
    assert_ptr_equal(n->file->child, y);
    assert_int_equal(read_byte(ed, 0), 2);
    assert_true((y->perm & PERM_WRITE) && !x->perm);
    struct edge *other = must_edge(x, PERM_READ, PERM_READ); /* lets nobody write */
    must_refuse(n, true, jsonf("{'file': 'x', 'offset': 512}"), "Permission conflict on node 'x'");
    assert_ptr_equal(n->file->child, y);
    edge_close(other);
    must_refuse(n, true, jsonf("{'file': 'x', 'offset': 100000}"), "cannot be greater than size");
    assert_ptr_equal(n->file->child, y);
    assert_int_equal(read_byte(ed, 0), 2);
    must_refuse(n, true, jsonf("{'file': null}"), "Cannot change the option 'file'");
    must_refuse(n, true, jsonf("{'backing': 'x'}"), "Driver 'raw' of node 'r' does not support backing files");
    must_reopen(n, jsonf("{'file': 'x', 'offset': 512}"));
    assert_int_equal(edge_size(ed), 65536 - 512);
    edge_close(ed);
    node_unref(n);
    node_unref(x);
    node_unref(y);
}

static void another_backing(struct bench *b)
{
    struct node *x = open_file(b, "x", 1), *y = open_file(b, "y", 2);
    struct node *n = open_qcow2(b, ", 'node-name': 'q', 'backing': 'x'");
    struct edge *ed = rw_edge(n);
    assert_int_equal(read_byte(ed, 0), 1);
    write_byte(ed, 4096, 9);
    must_reopen(n, jsonf("{'backing': 'y'}"));
    assert_int_equal(read_byte(ed, 0), 2);
    must_reopen(n, jsonf("{'backing': null}"));
    assert_null(n->backing);
    assert_int_equal(read_byte(ed, 0), 0);
    must_reopen(n, jsonf("{'backing': 'x', 'lazy-refcounts': false}"));
    assert_int_equal(read_byte(ed, 0), 1);
    assert_int_equal(read_byte(ed, 4096), 9);
    must_refuse(n, true, jsonf("{'backing': 'q'}"), "Making 'q' a backing child of 'q' would create a cycle");
    must_refuse(n, true, jsonf("{'backing': 'nobody'}"), "Cannot find device='' nor node-name='nobody'");
    must_refuse(n, true, jsonf("{'backing': 'y', 'l2-cache-entry-size': 1000}"), "power of two");
    must_refuse(n, true, jsonf("{'backing': null, 'l2-cache-entry-size': 1000}"), "power of two");
    assert_ptr_equal(n->backing->child, x);
    CLEANUP_JSON struct json_object *o =
        jsonf("{'driver': 'qcow2', 'node-name': 'q', 'file': '%s'}", n->file->child->name);
    must_refuse(n, false, json_object_get(o), "backing is missing for 'q'");
    json_object_object_add(o, "backing", json_object_new_string("x"));
    assert_int_equal(reopen(n, false, json_object_get(o), NULL), 0);
    edge_close(ed);
    node_unref(n);
    node_unref(x);
    node_unref(y);
}

/* A filter goes in below a format, and comes out again; the one that was opened for it is gone then. */
static void a_filter_between(struct bench *b)
{
    struct node *n = open_qcow2(b, ", 'node-name': 'q'");
    struct edge *ed = rw_edge(n);
    write_byte(ed, 0, 3);
    g_autofree char *file = g_strdup(n->file->child->name);
    struct node *f = must_open(b, jsonf("{'driver': 'blkdebug', 'node-name': 'f', 'image': '%s'}", file));
    must_reopen(n, jsonf("{'file': 'f'}"));
    assert_ptr_equal(n->file->child, f);
    write_byte(ed, 100000, 4);
    must_reopen(n, jsonf("{'file': '%s'}", file));
    node_unref(f);
    assert_int_equal(read_byte(ed, 0), 3);
    assert_int_equal(read_byte(ed, 100000), 4);
    assert_int_equal(edge_flush(ed), 0);
    check_is_clean(n);
    edge_close(ed);
    node_unref(n);
    assert_null(node_find(b->graph, file));
}

#define TEST(fn)                                                                                                       \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        bench_run(fn);                                                                                                 \
    }
TEST(another_file)
TEST(another_backing)
TEST(a_filter_between)
TEST(read_only_and_back)
TEST(window)
TEST(what_cannot_change)
TEST(a_named_child_does_not_follow)
TEST(a_child_that_was_told_itself)
TEST(a_file_that_was_replaced)
TEST(two_together)
TEST(a_lock_that_cannot_be_had)
TEST(under_load)
TEST(qcow2_settings)
TEST(qcow2_read_only_and_back)
TEST(qcow2_that_cannot_be_written)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_another_file),
        cmocka_unit_test(test_another_backing),
        cmocka_unit_test(test_a_filter_between),
        cmocka_unit_test(test_read_only_and_back),
        cmocka_unit_test(test_window),
        cmocka_unit_test(test_what_cannot_change),
        cmocka_unit_test(test_a_named_child_does_not_follow),
        cmocka_unit_test(test_a_child_that_was_told_itself),
        cmocka_unit_test(test_a_file_that_was_replaced),
        cmocka_unit_test(test_two_together),
        cmocka_unit_test(test_a_lock_that_cannot_be_had),
        cmocka_unit_test(test_under_load),
        cmocka_unit_test(test_qcow2_settings),
        cmocka_unit_test(test_qcow2_read_only_and_back),
        cmocka_unit_test(test_qcow2_that_cannot_be_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
