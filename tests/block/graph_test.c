/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening and closing nodes, names, errors, permissions. */
#include "support.h"

#include <unistd.h>

static struct json_object *file_opts(const char *node, const char *path)
{
    return jsonf("{'driver':'file','node-name':'%s','filename':'%s'}", node, path);
}

static void opens_and_reads(struct bench *b)
{
    const char *path = bench_file(b, "a.img", 65536, 0x5a);
    struct node *n =
        must_open(b, jsonf("{'driver':'raw','node-name':'d','file':{'driver':'file','filename':'%s'}}", path));
    assert_int_equal(n->size, 65536);
    assert_string_equal(n->filename, path);
    assert_ptr_equal(node_find(b->graph, "d"), n);
    assert_true(n->file->child->generated_name);
    assert_true(g_str_has_prefix(n->file->child->name, "#block"));
    struct edge *ed = rw_edge(n);
    char buf[4096];
    assert_int_equal(edge_read_buf(ed, 1000, 4096, buf), 0);
    for (size_t i = 0; i < sizeof(buf); i++) {
        assert_int_equal(buf[i], 0x5a);
    }
    memset(buf, 0x33, sizeof(buf));
    assert_int_equal(edge_write_buf(ed, 777, 4096, buf, 0), 0);
    char back[4096 + 2];
    assert_int_equal(edge_read_buf(ed, 776, sizeof(back), back), 0);
    assert_int_equal(back[0], 0x5a);
    assert_memory_equal(back + 1, buf, 4096);
    assert_int_equal(back[4097], 0x5a);
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(edge_read_buf(ed, 65536 - 10, 11, buf), -EIO);
    assert_int_equal(edge_read_buf(ed, UINT64_MAX - 10, 11, buf), -EIO);
    assert_int_equal(edge_write_buf(ed, 65536, 1, buf, 0), -EIO);
    edge_close(ed);
    node_unref(n);
}

static void test_open_and_read(void **state)
{
    bench_run(opens_and_reads);
}

static void says_what_is_wrong(struct bench *b)
{
    const char *path = bench_file(b, "a.img", 4096, 0);
    struct node *n = must_open(b, file_opts("x", path));
    assert_string_equal(must_fail(b, file_opts("x", path)), "Duplicate nodes with node-name='x'");
    assert_string_equal(must_fail(b, file_opts("1x", path)), "Invalid node-name: '1x'");
    assert_string_equal(must_fail(b, file_opts("x2345678901234567890123456789012", path)), "Node name too long");
    assert_string_equal(must_fail(b, jsonf("{'driver':'fiel','filename':'x'}")),
                        "Unknown driver 'fiel'; did you mean 'file'?");
    assert_string_equal(must_fail(b, jsonf("{'driver':'qqqqqq'}")), "Unknown driver 'qqqqqq'");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'%s','foo':1}", path)),
                        "Block protocol 'file' doesn't support the option 'foo'");
    assert_string_equal(must_fail(b, jsonf("{'driver':'raw','file':'x','foo':1}")),
                        "Block format 'raw' does not support the option 'foo'");
    assert_string_equal(must_fail(b, jsonf("{'driver':'raw'}")), "A block device must be specified for \"file\"");
    assert_string_equal(must_fail(b, jsonf("{'filename':'x'}")), "Parameter 'driver' is missing");
    assert_string_equal(must_fail(b, jsonf("{'driver':'raw','file':'nope'}")),
                        "Cannot find device='nope' nor node-name='nope'");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'/nonexistent/x'}")),
                        "Could not open '/nonexistent/x': No such file or directory");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'/tmp'}")),
                        "Could not open '/tmp': Is a directory");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'/tmp','read-only':true}")),
                        "'file' driver requires '/tmp' to be a regular file");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'%s','detect-zeroes':'unmap'}", path)),
                        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'%s','aio':'native'}", path)),
                        "aio=native was specified, but it requires cache.direct=on, which was not specified.");
    assert_string_equal(must_fail(b, jsonf("{'driver':'file','filename':'%s','force-share':true}", path)),
                        "force-share=on can only be used with read-only images");
    node_unref(n);
}

static void test_errors(void **state)
{
    bench_run(says_what_is_wrong);
}

static char *describe_as(void *user)
{
    return g_strdup(user);
}

static const struct edge_user_ops named_user = {.describe = describe_as};

static void guards_permissions(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *n = must_open(b, file_opts("x", bench_file(b, "a.img", 4096, 0)));
    struct edge *one, *two;
    char vd0[] = "block device 'vd0'", vd1[] = "block device 'vd1'";
    assert_int_equal(
        edge_open(n, &(struct edge_spec){"root", PERM_READ | PERM_WRITE, PERM_READ, &named_user, vd0}, &one, &e), 0);
    assert_true(edge_open(n, &(struct edge_spec){"root", PERM_WRITE, PERM_ALL, &named_user, vd1}, &two, &e) < 0);
    assert_null(two);
    assert_string_equal(
        err_text(&e),
        "Permission conflict on node 'x': permissions 'write' are both required by block device 'vd1' "
        "(uses node 'x' as 'root' child) and unshared by block device 'vd0' (uses node 'x' as 'root' child).");
    err_clear(&e);
    assert_int_equal(edge_open(n, &(struct edge_spec){"root", PERM_READ, PERM_ALL, &named_user, vd1}, &two, &e), 0);
    char byte = 1;
    assert_int_equal(edge_write_buf(two, 0, 1, &byte, 0), -EPERM);
    assert_int_equal(edge_zero(two, 0, 1, 0), -EPERM);
    assert_int_equal(edge_truncate(two, 8192, true, PREALLOC_OFF, &e), -EPERM);
    err_clear(&e);
    assert_true(edge_set_perm(two, PERM_WRITE, PERM_ALL, &e) < 0);
    err_clear(&e);
    assert_int_equal(two->perm, PERM_READ);
    edge_close(one);
    assert_int_equal(edge_set_perm(two, PERM_READ | PERM_WRITE, PERM_ALL, &e), 0);
    assert_int_equal(edge_write_buf(two, 0, 1, &byte, 0), 0);
    edge_close(two);
    node_unref(n);

    n = must_open(b,
                  jsonf("{'driver':'file','node-name':'ro','read-only':'on','filename':'%s'}", bench_path(b, "a.img")));
    assert_true(edge_open(n, &(struct edge_spec){"root", PERM_WRITE, PERM_ALL, &named_user, vd0}, &one, &e) < 0);
    assert_string_equal(err_text(&e), "Block node is read-only");
    err_clear(&e);
    node_unref(n);
}

static void test_permissions(void **state)
{
    bench_run(guards_permissions);
}

static void opens_by_name(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *n;
    const char *path = bench_file(b, "a.img", 4096, 7);
    assert_int_equal(node_open_filename(b->graph, path, NULL, &n, &e), 0);
    assert_string_equal(n->drv->name, "raw");
    assert_true(n->probed);
    struct edge *ed = rw_edge(n);
    char sector[512] = {1};
    assert_int_equal(edge_write_buf(ed, 0, 512, sector, 0), 0);
    edge_close(ed);
    node_unref(n);

    g_autofree char *json =
        g_strdup_printf("json:{\"driver\":\"raw\",\"file.driver\":\"file\",\"file.filename\":\"%s\"}", path);
    assert_int_equal(node_open_filename(b->graph, json, NULL, &n, &e), 0);
    assert_false(n->probed);
    node_unref(n);

    struct json_object *o = jsonf("{'driver':'raw','read-only':true}");
    assert_int_equal(node_open_filename(b->graph, path, o, &n, &e), 0);
    json_object_put(o);
    assert_true(n->read_only && n->file->child->read_only);
    node_unref(n);

    assert_true(node_open_filename(b->graph, "foo:bar", NULL, &n, &e) < 0);
    assert_string_equal(err_text(&e), "Unknown protocol 'foo'");
    err_clear(&e);
    assert_true(node_open_filename(b->graph, bench_path(b, "none"), NULL, &n, &e) < 0);
    assert_non_null(strstr(err_text(&e), "No such file or directory"));
    err_clear(&e);
    char *p = path_combine("/a/b.qcow2", "c.raw");
    assert_string_equal(p, "/a/c.raw");
    g_free(p);
    p = path_combine("b.qcow2", "c.raw");
    assert_string_equal(p, "c.raw");
    g_free(p);
}

static void test_filenames(void **state)
{
    bench_run(opens_by_name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_and_read),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_permissions),
        cmocka_unit_test(test_filenames),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
