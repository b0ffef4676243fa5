/* SPDX-License-Identifier: BSD-2-Clause */
/* Views of cached file data: what is seen is what is read, and nothing is seen where bytes are made on the way. */
#include "support.h"

#include "block/view.h"

#include <unistd.h>

static struct node *raw_on(struct bench *b, const char *file_options)
{
    return must_open(
        b, jsonf("{'driver':'raw','file':{%s,'filename':'%s'}}", file_options, bench_file(b, "disk", 1 << 20, 7)));
}

static void shows_what_is_written(struct bench *b)
{
    struct node *n = raw_on(b, "'driver':'file'");
    struct edge *ed = rw_edge(n);
    char word[] = "a tern";
    struct node_view v;
    assert_int_equal(edge_write_buf(ed, 70000, sizeof(word), word, 0), 0);
    assert_true(node_passes_views(n));
    assert_true(node_view_open(n, 70000, 100000, &v));
    assert_int_equal(v.len, 100000);
    assert_memory_equal(v.data, word, sizeof(word));
    assert_int_equal(((char *)v.data)[sizeof(word)], 7);
    node_view_close(&v);
    assert_true(node_view_open(n, (1 << 20) - 10, 4096, &v)); /* clipped at the end */
    assert_int_equal(v.len, 10);
    node_view_close(&v);
    edge_close(ed);
    node_unref(n);
}

static void sees_qcow2_data_only_where_it_is(struct bench *b)
{
    struct err e = ERR_INIT;
    const struct block_driver *d = driver_find("qcow2");
    bench_file(b, "q", 0, 0);
    json_object *o = jsonf("{'file':'%s','size':1048576}", bench_path(b, "q"));
    assert_int_equal(d->create(b->graph, o, &e), 0);
    json_object_put(o);
    struct node *n =
        must_open(b, jsonf("{'driver':'qcow2','file':{'driver':'file','filename':'%s'}}", bench_path(b, "q")));
    struct edge *ed = rw_edge(n);
    char cluster[65536];
    memset(cluster, 5, sizeof(cluster));
    struct node_view v;
    assert_false(node_view_open(n, 0, 65536, &v));
    assert_int_equal(edge_write_buf(ed, 65536, sizeof(cluster), cluster, 0), 0);
    assert_true(node_view_open(n, 65536, 500000, &v));
    assert_int_equal(v.len, 65536);
    assert_memory_equal(v.data, cluster, sizeof(cluster));
    node_view_close(&v);
    edge_close(ed);
    node_unref(n);
}

static void is_blind_through_filters_and_without_cache(struct bench *b)
{
    struct node_view v;
    struct node *n =
        must_open(b, jsonf("{'driver':'raw','file':{'driver':'blkdebug','image':{'driver':'file','filename':'%s'}}}",
                           bench_file(b, "disk", 1 << 20, 7)));
    assert_false(node_view_open(n, 0, 4096, &v));
    assert_false(node_passes_views(n));
    node_unref(n);
    n = must_open(b, jsonf("{'driver':'raw','detect-zeroes':'on','file':{'driver':'file','filename':'%s'}}",
                           bench_file(b, "disk", 1 << 20, 7)));
    assert_false(node_passes_views(n));
    node_unref(n);
    n = raw_on(b, "'driver':'file','cache':{'direct':true}");
    assert_false(node_view_open(n, 0, 4096, &v));
    node_unref(n);
}

static void test_shows(void **state)
{
    bench_run(shows_what_is_written);
}

static void test_qcow2(void **state)
{
    bench_run(sees_qcow2_data_only_where_it_is);
}

static void test_blind(void **state)
{
    bench_run(is_blind_through_filters_and_without_cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shows),
        cmocka_unit_test(test_qcow2),
        cmocka_unit_test(test_blind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
